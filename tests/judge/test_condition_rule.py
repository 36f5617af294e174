"""What the judge makes of a record of a picture's conditioning."""

from __future__ import annotations

from typing import Any

import pytest

from harness.judge.attribution.rules import FOLLOWS
from harness.judge.condition_rule import CODE, judge_condition
from harness.records.generation import Condition, Trace

SKETCH = tuple(float(value) for value in range(1, 9))
HEALTHY = Condition(
    kind="channels", encoded=True, pixels_error={"image": 1e-7}, encoder=SKETCH, latents_error=0.0017, mask_error=0.0,
    given=SKETCH,
)  # fmt: skip


def trace(condition: Condition | None) -> Trace:
    return Trace(steps=(), condition=condition, vae={"dtype": "torch.float32"})


def moved(by: float) -> tuple[float, ...]:
    return tuple(value * (1 + by) for value in SKETCH)


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"pixels_error": {"image": 0.002}},  # a cast of the pixels to bfloat16
        {"encoder": moved(1e-4), "given": moved(1e-4)},
        {"drift": 0.0017},  # experts of two dtypes
        {"given": moved(0.0087)},  # a unit in the last place of bfloat16, on every value in one direction
    ],
)
def test_rounding_is_no_difference(changed: dict[str, Any]) -> None:
    assert not list(judge_condition(trace(HEALTHY.model_copy(update=changed)), trace(HEALTHY)))


FAULTS: dict[str, tuple[dict[str, Any], str, str]] = {
    "pixels": ({"pixels_error": {"image": 0.2}, "pixels_cause": {"image": "it is mirrored"}}, "pixels", "mirrored"),
    "last picture": ({"pixels_error": {"image": 0.0, "last_image": 0.2}}, "pixels", "last frame"),
    "never encoded": ({"encoded": False}, "lost", "never given"),
    "not grey": ({"other_frames": 0.5}, "pixels", "not grey"),
    "latents": ({"latents_error": 0.5, "latents_cause": "the VAE's mean is left out"}, "latents", "mean is left out"),
    "mask": ({"mask_error": 0.5, "mask_cause": "it is inverted"}, "mask", "inverted"),
    "drift": ({"drift": 1.0}, "between steps", "between steps"),
    "encoder": ({"encoder": moved(0.1)}, "encoder", "encodes the same image otherwise"),
    "given": ({"given": moved(0.1)}, "given", "another conditioning"),
    "given, just too far": ({"given": moved(0.0125)}, "given", "another conditioning"),
    "kind": ({"kind": "first_frame"}, "kind", "as first_frame"),
    "not finite": ({"latents_error": 1e300}, "latents", "not finite"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_difference_has_its_place(name: str) -> None:
    changed, place, words = FAULTS[name]
    (found,) = judge_condition(trace(HEALTHY.model_copy(update=changed)), trace(HEALTHY))
    assert (found.code, found.data["place"], found.gating) == (CODE, place, True)
    assert words in found.message


def test_a_run_without_a_picture_is_held_against_none() -> None:
    assert not list(judge_condition(trace(None), trace(None)))
    (found,) = judge_condition(trace(None), trace(HEALTHY))
    assert "lost" in found.message


def test_a_golden_of_an_older_version_allows_nothing() -> None:
    assert not list(judge_condition(trace(HEALTHY), trace(None)))
    broken = HEALTHY.model_copy(update={"mask_error": 0.5})
    assert list(judge_condition(trace(broken), trace(None)))


def test_what_follows_from_the_picture_is_no_cause_of_its_own() -> None:
    assert CODE in FOLLOWS["model_latents"]
    assert CODE in FOLLOWS["vae_input"]
