"""Delta debugging finds what is needed and nothing more."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.trial.bisecting import Answer, ddmin


@settings(deadline=None, max_examples=200)
@given(count=st.integers(1, 16), data=st.data())
def test_a_monotone_culprit_is_found_exactly(count: int, data: st.DataObject) -> None:
    culprits = data.draw(st.sets(st.integers(0, count - 1), min_size=1, max_size=4))
    asked: list[tuple[int, ...]] = []

    def test(chosen: tuple[int, ...]) -> Answer:
        asked.append(chosen)
        return "red" if culprits <= set(chosen) else "green"

    assert set(ddmin(range(count), test)) == culprits
    assert len(asked) <= count * count + 3 * count


def test_unresolved_runs_are_not_red() -> None:
    def test(chosen: tuple[str, ...]) -> Answer:
        if set(chosen) == {"a", "b", "c"}:
            return "red"
        return "unresolved"

    assert ddmin(("a", "b", "c"), test) == ("a", "b", "c")


def test_nothing_red_is_said() -> None:
    with pytest.raises(ValueError, match="not red"):
        ddmin((1, 2), lambda _chosen: "green")
