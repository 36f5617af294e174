"""The page of verdicts says what the code does."""

from __future__ import annotations

import pytest

from benchmarks.pages.verdicts import PAGE, table, written
from harness.outcomes import RULES, SEVERITY, Outcome
from harness.records.verdict import worst


def test_the_page_is_current() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert written(page) == page, "run python -m benchmarks.pages.verdicts"


def test_a_page_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="lacks"):
        written("# Verdicts")


def test_every_outcome_has_a_rule_a_place_and_a_row() -> None:
    assert set(RULES) == set(SEVERITY) == set(Outcome)
    assert len(SEVERITY) == len(set(SEVERITY))
    assert all(f"`{outcome.value}`" in table() for outcome in Outcome)


def test_exit_codes_are_distinct_and_leave_pytest_its_own() -> None:
    codes = [rule.exit_code for outcome, rule in RULES.items() if outcome not in (Outcome.PASS, Outcome.WAIVED)]
    assert len(codes) == len(set(codes))
    assert min(codes) > 5


def test_only_infra_is_retried() -> None:
    assert [outcome for outcome, rule in RULES.items() if rule.retry] == [Outcome.INFRA]


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ([], Outcome.NOT_RUN),
        ([Outcome.PASS], Outcome.PASS),
        ([Outcome.PASS, Outcome.INFRA, Outcome.REGRESSION], Outcome.REGRESSION),
        ([Outcome.WAIVED, Outcome.PASS], Outcome.WAIVED),
    ],
)
def test_worst(outcomes: list[Outcome], expected: Outcome) -> None:
    assert worst(outcomes) is expected
