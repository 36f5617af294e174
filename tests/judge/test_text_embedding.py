"""The text embedding against the golden's: when it speaks, and when something more exact has spoken already."""

from __future__ import annotations

import pytest
from builders import GOLDEN, make_evidence, make_generation, make_limits, make_trace

from harness.judge.trace_rule import judge_trace
from harness.limits.probes import place_all, text_error
from harness.records.limits import Sample
from harness.records.verdict import Finding

SKETCH = (3.0, 4.0)
NEAR, FAR = (3.0, 4.05), (3.0, 4.5)
"""0.01 and 0.1 off; the least limit of the text embedding is 0.02."""


def findings(sketch: tuple[float, ...], *, limited: bool = True, **text: object) -> list[Finding]:
    """What the trace rule says of a run whose text embedding has this sketch."""
    limits = make_limits()
    placed = place_all({"trace_text_error": (Sample(value=0.0, run="isa", side="benign"),)}) if limited else ()
    reference = make_trace().model_copy(update={"text_embedding_sketch": SKETCH, "text": {"length": 64}})
    mine = reference.model_copy(update={"text_embedding_sketch": sketch, "text": {"length": 64, **text}})
    healthy = make_evidence(generation=make_generation(trace=mine))
    limits = limits.model_copy(update={"limits": (*limits.limits, *placed)})
    return list(judge_trace(healthy.plus(golden=type(healthy.golden)(GOLDEN, (), reference, limits))))


def test_within_its_limit_it_is_silent() -> None:
    assert findings(NEAR) == []


def test_beyond_its_limit_it_is_a_finding_with_both_numbers() -> None:
    (found,) = findings(FAR)
    assert (found.stage, found.code, found.gating) == ("trace", "text_embedding", True)
    assert found.data == {"error": pytest.approx(0.1), "limit": 0.02}


def test_of_other_tokens_the_embedding_says_nothing_more() -> None:
    assert [found.code for found in findings(FAR, length=512)] == ["sequence_length"]


def test_without_a_limit_or_a_sketch_to_compare_it_is_silent() -> None:
    assert findings(FAR, limited=False) == []
    assert findings(()) == []


@pytest.mark.parametrize(
    ("mine", "reference", "error"),
    [
        (SKETCH, SKETCH, 0.0),
        ((3.0, 4.5), SKETCH, 0.1),
        (SKETCH, (0.0, 4.0), 0.75),
        ((), (), None),
        ((), SKETCH, None),
        (SKETCH, (), None),
        (SKETCH, (3.0, 4.0, 0.0), None),
    ],
)
def test_the_error_is_relative_to_the_golden(
    mine: tuple[float, ...], reference: tuple[float, ...], error: float | None
) -> None:
    ours, theirs = (make_trace().model_copy(update={"text_embedding_sketch": one}) for one in (mine, reference))
    assert text_error(ours, theirs) == (None if error is None else pytest.approx(error))
