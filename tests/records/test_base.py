"""Records: strict, and written whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from harness.records.base import write_bytes_atomic
from harness.records.identity import Identity, differences
from harness.records.limits import Limit, Sample
from harness.records.verdict import Finding

JSON = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
MAPS = st.dictionaries(st.text(min_size=1), JSON, max_size=4)
SAMPLE = (Sample(value=1.0, run="r", side="benign"),)


@given(MAPS, MAPS)
def test_an_identity_survives_the_disk(request: dict[str, object], subject: dict[str, object]) -> None:
    identity = Identity(request=request, hardware={}, weights={}, env={}, subject=subject)  # type: ignore[arg-type]
    assert Identity.model_validate_json(identity.to_json()) == identity


@given(MAPS, MAPS)
def test_the_subject_is_not_in_the_digest_and_the_request_is(one: dict[str, object], two: dict[str, object]) -> None:
    base = Identity(request={}, hardware={}, weights={}, env={}, subject={})
    assert base.model_copy(update={"subject": one}).digest() == base.digest()
    same = base.model_copy(update={"request": one}).digest() == base.model_copy(update={"request": two}).digest()
    assert same == (json.dumps(one, sort_keys=True) == json.dumps(two, sort_keys=True))


def test_differences_name_class_field_and_both_values() -> None:
    golden = Identity(request={"seed": 0}, hardware={}, weights={"a": "x"}, env={}, subject={})
    run = Identity(request={"seed": 1}, hardware={}, weights={}, env={"B": "1"}, subject={})
    rows = [(row.identity_class, row.field, row.golden, row.run) for row in differences(golden, run)]
    assert rows == [("request", "seed", 0, 1), ("weights", "a", "x", None), ("env", "B", None, "1")]


def test_an_unknown_field_is_refused() -> None:
    with pytest.raises(ValidationError):
        Finding.model_validate({"stage": "frames", "code": "x", "gating": True, "message": "m", "extra": 1})


def test_nan_is_refused() -> None:
    with pytest.raises(ValidationError):
        Sample(value=float("nan"), run="r", side="benign")


@pytest.mark.parametrize(("gates", "limit", "why"), [(True, None, ""), (False, 1.0, "x"), (False, None, "")])
def test_a_limit_is_there_exactly_where_it_gates(gates: bool, limit: float | None, why: str) -> None:
    with pytest.raises(ValidationError):
        Limit(
            metric="m", direction="lower_is_better", gates=gates, limit=limit, samples=SAMPLE, method="repeats", why=why
        )


def test_a_limit_without_samples_is_refused() -> None:
    with pytest.raises(ValidationError):
        Limit(metric="m", direction="lower_is_better", gates=True, limit=1.0, samples=(), method="repeats")


def test_a_failed_write_leaves_the_old_file_and_no_scraps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "record.json"
    target.write_bytes(b"old")

    def full(_descriptor: int) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_bytes_atomic(target, b"new")
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]
