"""Limit files: how they are read, and that none in the repository was invented."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from harness.errors import InvalidCaseError
from harness.limits.edited import load_explained, odd_limits, placed_again
from harness.limits.stored import EditedLimitsError, limit_path, load_limits
from harness.records.limits import LimitFile

ROOT = Path(__file__).parents[2]
COMMITTED = sorted((ROOT / "thresholds").glob("*/*.json"))


def measured() -> dict[str, object]:
    sample = {"value": 0.99, "run": "repeat-1", "side": "benign", "fingerprint": {"device": "x86_64"}}
    limit = {
        "metric": "ssim", "direction": "higher_is_better", "gates": True, "limit": 0.98, "samples": [sample],
        "method": "repeats",
    }  # fmt: skip
    return {
        "case": "one", "runner": "cpu", "golden_digest": "a" * 64, "identity_digest": "b" * 64, "limits": [limit],
        "repeats": 1, "author": "me", "reason": "first", "created": "2026-05-20T00:00:00Z",
    }  # fmt: skip


def put(folder: Path, data: object) -> None:
    path = limit_path(folder, "cpu", "one")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(data if isinstance(data, str) else json.dumps(data))


def test_limits_are_read(tmp_path):
    LimitFile.model_validate(measured()).write(limit_path(tmp_path, "cpu", "one"))
    limits = load_limits(tmp_path, "cpu", "one")
    assert limits is not None
    assert limits.limits[0].admits(0.985)
    assert not limits.limits[0].admits(0.97)


def test_no_file_is_no_limits(tmp_path):
    assert load_limits(tmp_path, "cpu", "one") is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data["limits"][0].update(samples=[]), "/limits/0/samples: Tuple should have at least 1 item"),
        (lambda data: data["limits"][0].pop("samples"), "/limits/0/samples: Field required"),
        (
            lambda data: data["limits"][0].update(limit=None),
            "/limits/0: Value error, ssim: a gating metric has a limit",
        ),
        (lambda data: data["limits"][0]["samples"][0].update(side="good"), "/limits/0/samples/0/side: "),
        (lambda data: data.update(colour="red"), "/colour: Extra inputs"),
        (lambda data: data.update({"a/b": 1}), "/a~1b: Extra inputs"),
        (lambda data: data.update(case="two"), "/case: says 'two', and lies where 'one' is read"),
        (lambda data: data.update(runner="b200"), "/runner: says 'b200'"),
    ],
)
def test_a_wrong_file_is_an_error_with_a_pointer(tmp_path, change, message):
    data = measured()
    change(data)
    put(tmp_path, data)
    with pytest.raises(InvalidCaseError) as caught:
        load_limits(tmp_path, "cpu", "one")
    assert message in caught.value.message
    assert caught.value.place.endswith("cpu/one.json")


def test_half_a_file_is_an_error(tmp_path):
    put(tmp_path, json.dumps(measured())[:80])
    with pytest.raises(InvalidCaseError, match="not JSON"):
        load_limits(tmp_path, "cpu", "one")


def test_no_committed_limit_stands_on_nothing():
    """Every limit has the samples it was placed by, and each sample says on which device it was measured."""
    for path in COMMITTED:
        limits = load_limits(ROOT / "thresholds", path.parent.name, path.stem)
        assert limits is not None, path
        check_measured(limits)


def test_a_file_without_a_seal_is_refused_and_can_be_read_to_be_placed_again(tmp_path):
    put(tmp_path, measured())
    with pytest.raises(EditedLimitsError, match="carries no seal") as refused:
        load_limits(tmp_path, "cpu", "one")
    assert "quantgate regenerate --from-samples --case one --runner cpu" in refused.value.remedy
    assert pickle.loads(pickle.dumps(refused.value)).message == refused.value.message  # noqa: S301 - it crosses processes
    assert load_limits(tmp_path, "cpu", "one", allow_edited=True) == LimitFile.model_validate(measured())


def leaves(value: object, path: tuple[object, ...] = ()) -> Iterator[tuple[object, ...]]:
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, (*path, key))
    else:
        yield path


def changed(value: object) -> object:
    """Another value of the same type: a text is longer, a number larger, a truth turned round."""
    if isinstance(value, bool) or value is None:
        return not value if value is not None else "something"
    return f"{value}x" if isinstance(value, str) else value + 1


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_an_edit_of_anything_in_a_committed_file_breaks_its_seal(data):
    body = json.loads(COMMITTED[0].read_text())
    assert LimitFile.model_validate(body).is_sealed
    assert LimitFile.model_validate_json(json.dumps(body, sort_keys=True)).is_sealed  # the layout does not matter
    path = data.draw(st.sampled_from(sorted(leaves(body), key=str)))
    place = body
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = changed(place[path[-1]])
    with suppress(ValidationError):  # no limit file any more, which is told by name
        assert not LimitFile.model_validate(body).is_sealed


def test_the_committed_files_are_sealed_and_what_their_samples_give():
    for path in COMMITTED:
        limits = load_limits(ROOT / "thresholds", path.parent.name, path.stem)
        assert limits is not None
        assert odd_limits(limits) == "", path


def test_a_limit_that_was_loosened_by_hand_is_named_with_what_its_samples_give(tmp_path):
    body = json.loads((ROOT / "thresholds/cpu/nvfp4.json").read_text())
    limit = next(one for one in body["limits"] if one["metric"] == "ssim")
    right, limit["limit"] = limit["limit"], 0.2
    turned = next(one for one in body["limits"] if one["metric"] == "mad")
    turned["direction"] = "higher_is_better"
    path = limit_path(tmp_path, "cpu", "nvfp4")
    path.parent.mkdir()
    path.write_text(json.dumps(body))
    with pytest.raises(EditedLimitsError, match="its seal does not fit") as refused:
        load_explained(tmp_path, "cpu", "nvfp4")
    assert f"ssim 0.2 (higher is better), and its samples give {right:.4g}" in refused.value.message
    assert "mad" in refused.value.message
    again = placed_again(refused.value.limits, "me", "by the samples")
    assert again.get("ssim").limit == right
    again.write(path)
    assert load_explained(tmp_path, "cpu", "nvfp4").get("ssim").limit == right


def check_measured(limits: LimitFile) -> None:
    """A limit file speaks of its own runner's device, and of as many repeats as it has samples for."""
    wanted = {"b200": "NVIDIA B200", "h200": "NVIDIA H200"}.get(limits.runner)
    assert limits.limits, "no limits"
    for limit in limits.limits:
        benign = [sample for sample in limit.samples if sample.side == "benign"]
        assert len(benign) >= min(limits.repeats, 1), limit.metric
        if limit.limit is not None:
            assert all(limit.admits(sample.value) for sample in benign), f"{limit.metric} fails its own samples"
    if wanted is not None:
        fingerprints = [*limits.fingerprints, *(s.fingerprint for one in limits.limits for s in one.samples)]
        assert limits.fingerprints, "no fingerprint says where this was measured"
        assert all(wanted in json.dumps(one) for one in fingerprints if one), f"not measured on {wanted}"


def test_limits_for_a_b200_that_no_b200_measured_are_found():
    fake = LimitFile.model_validate({**measured(), "runner": "b200"})
    with pytest.raises(AssertionError, match="no fingerprint"):
        check_measured(fake)
    elsewhere = LimitFile.model_validate(
        {**measured(), "runner": "b200", "fingerprints": [{"device": {"name": "NVIDIA H200"}}]}
    )
    with pytest.raises(AssertionError, match="not measured on NVIDIA B200"):
        check_measured(elsewhere)


def test_every_committed_file_is_a_limit_file_of_a_known_runner():
    strays = [path for path in (ROOT / "thresholds").rglob("*") if path.is_file() and path not in COMMITTED]
    assert [path for path in strays if path.name not in ("README.md", ".gitkeep")] == []
    assert {path.parent.name for path in COMMITTED} <= {path.stem for path in (ROOT / "runners").glob("*.yaml")}
