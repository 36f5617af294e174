"""Expressions over case ids, against pytest's own ``-k``."""

from __future__ import annotations

import pytest
from _pytest.mark.expression import Expression
from hypothesis import given
from hypothesis import strategies as st

from harness.definitions.choosing import matcher, no_such_case
from harness.errors import InvalidCaseError

IDS = ("nvfp4", "nvfp4_override", "fp8", "fp8_override", "bf16_env", "WAN.bf16-x")
WORDS = st.sampled_from(["nvfp4", "fp8", "over", "bf16", "_env", "x", "nothing"])
EXPRESSIONS = st.recursive(
    WORDS,
    lambda inner: st.one_of(
        inner.map(lambda one: f"not {one}"),
        inner.map(lambda one: f"({one})"),
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(" ".join),
    ),
    max_leaves=6,
)


@given(EXPRESSIONS)
def test_it_chooses_what_pytest_would(text: str) -> None:
    theirs = Expression.compile(text)
    ours = matcher(text)
    for name in IDS:

        def holds(word: str, /, name: str = name, **_: object) -> bool:
            return word.lower() in name.lower()

        assert ours(name) == theirs.evaluate(holds)


def test_nothing_asked_is_everything() -> None:
    assert all(matcher("  ")(name) for name in IDS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fp8 and", "a word is missing at the end"),
        ("or fp8", "a word is missing before 'or'"),
        ("(fp8", "a parenthesis stays open"),
        ("fp8 nvfp4", "'nvfp4' is one too many"),
        ("fp8)", "')' is one too many"),
        ("()", "a word is missing before ')'"),
    ],
)
def test_what_cannot_be_read_is_told(text: str, message: str) -> None:
    with pytest.raises(InvalidCaseError, match="and, or, not") as refused:
        matcher(text)
    assert message in str(refused.value)


def test_an_unknown_case_is_told_with_the_most_similar_one_and_a_command() -> None:
    assert str(no_such_case(["nvfp5"], IDS)).endswith("no case nvfp5; did you mean nvfp4?\n  next: quantgate cases")
    assert "; known: a, b\n" in str(no_such_case(["zzz"], ["b", "a"]))
    many = [f"case-{number}" for number in range(40)]
    assert "there is no case zzz\n" in str(no_such_case(["zzz"], many)), "no list that fills the screen"
    assert "did you mean case-7?" in str(no_such_case(["caze-7"], many))
