"""Nothing that is printed is a command to a CI service, however it is cut into pieces."""

from __future__ import annotations

import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.harmless import HarmlessStream, harmless

OBEYED = re.compile(r"^\s*::|##[a-zA-Z]*\[", re.MULTILINE)
"""What GitHub Actions, Azure Pipelines and TeamCity obey."""


@pytest.mark.parametrize(
    "text",
    ["::error::x", "a\n  ::add-mask::x", "a ##[group]x", "a\r::error::x", "##vso[task.setvariable variable=x]y",
     "##teamcity[buildStatus status='SUCCESS']"],
)  # fmt: skip
def test_a_command_of_any_service_is_text(text: str) -> None:
    assert OBEYED.search(text.replace("\r", "\n"))
    assert not OBEYED.search(harmless(text).replace("\r", "\n"))


@pytest.mark.parametrize("text", ["cases/a.yaml::a", "a: b", "## [x]", "# [x]", "C::D in a line"])
def test_other_text_stays(text: str) -> None:
    assert harmless(text) == text


@given(st.lists(st.text(alphabet=":#[]ax \n\r", max_size=6), max_size=8))
def test_a_command_in_pieces_is_text(pieces: list[str]) -> None:
    out = io.StringIO()
    stream = HarmlessStream(out)
    for piece in pieces:
        stream.write(piece)
    assert not OBEYED.search(out.getvalue().replace("\r", "\n"))


def test_a_long_line_stays_as_it_is() -> None:
    out = io.StringIO()
    stream = HarmlessStream(out)
    stream.writelines(["x" * 100 + "::" + "y" * 62, "z", "\n", "  ", "ok"])
    assert out.getvalue() == "x" * 100 + "::" + "y" * 62 + "z\n  ok"
