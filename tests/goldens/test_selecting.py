"""Names, globs and --all: which candidates a command is for."""

from __future__ import annotations

import pytest

from harness.errors import GoldenError
from harness.goldens.selecting import is_plain, select

HELD = [("b200", "wan_a"), ("cpu", "wan_a"), ("cpu", "wan_b"), ("cpu", "tiny")]


@pytest.mark.parametrize(
    ("names", "runner", "chosen"),
    [
        (["wan_b"], "", ["cpu/wan_b"]),
        (["wan_*"], "", ["b200/wan_a", "cpu/wan_a", "cpu/wan_b"]),
        (["wan_*"], "cpu", ["cpu/wan_a", "cpu/wan_b"]),
        (["cpu/*"], "", ["cpu/tiny", "cpu/wan_a", "cpu/wan_b"]),
        (["b200/wan_a", "tiny", "t*"], "", ["b200/wan_a", "cpu/tiny"]),
        ([], "", ["b200/wan_a", "cpu/tiny", "cpu/wan_a", "cpu/wan_b"]),
        ([], "b200", ["b200/wan_a"]),
    ],
)
def test_what_is_chosen(names: list[str], runner: str, chosen: list[str]) -> None:
    assert [str(one) for one in select(names, not names, HELD, runner=runner)] == chosen


@pytest.mark.parametrize(
    ("names", "everything", "held", "words"),
    [
        ([], False, HELD, "no case is named"),
        (["a"], True, HELD, "both names and --all"),
        (["nothing*"], False, HELD, "no candidate matches 'nothing"),
        (["tiny", "nothing"], False, HELD, "no candidate matches 'nothing'"),
        ([], True, [], "no candidate is there"),
    ],
)
def test_what_is_refused(names: list[str], everything: bool, held: list[tuple[str, str]], words: str) -> None:
    with pytest.raises(GoldenError, match=words.replace("*", r"\*")):
        select(names, everything, held)


def test_one_name_as_it_is_written_is_plain() -> None:
    assert is_plain(["a"], False)
    assert not any(
        (is_plain(["a", "b"], False), is_plain(["a*"], False), is_plain(["cpu/a"], False), is_plain([], True))
    )
