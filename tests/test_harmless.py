"""No line of a job's log commands GitHub Actions because an engine, a program or a case file wrote it."""

from __future__ import annotations

import re
from io import StringIO
from pathlib import Path

import pytest
from children import child_environment, run_command
from hypothesis import given
from hypothesis import strategies as st

from harness.harmless import HarmlessStream, harmless
from harness.in_ci import VARIABLES


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("::error::no", ": :error::no"),
        ("fine\n  ::add-mask::a", "fine\n  : :add-mask::a"),
        ("fine\r::stop-commands::x", "fine\r: :stop-commands::x"),
        ("\n\n\t::debug::x", "\n\n\t: :debug::x"),
        ("1 ##[error]no", "1 ## [error]no"),
        ("cases/a.yaml::one a::b ## [x]", "cases/a.yaml::one a::b ## [x]"),
        ("", ""),
    ],
)
def test_what_actions_would_obey(text: str, shown: str) -> None:
    assert harmless(text) == shown


def test_a_stream_stays_a_stream() -> None:
    inner = StringIO()
    stream = HarmlessStream(inner)
    print("a", "\n::b", file=stream)  # type: ignore[type-var]
    assert inner.getvalue() == "a \n: :b\n"
    assert not stream.isatty()


@pytest.mark.parametrize("service", [{"GITHUB_ACTIONS": "true"}, {"TF_BUILD": "True"}, {}])
def test_the_command_obeys_nobody_in_ci(tmp_path: Path, service: dict[str, str]) -> None:
    environment = {name: value for name, value in child_environment().items() if name not in VARIABLES}
    done = run_command(["quantgate", "report", "a\n::error::gone"], tmp_path, environment | service)
    assert done.returncode != 0
    assert "error::gone" in done.stderr
    assert any(line.startswith("::") for line in done.stderr.splitlines()) != bool(service)


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
    out = StringIO()
    stream = HarmlessStream(out)
    for piece in pieces:
        stream.write(piece)
    assert not OBEYED.search(out.getvalue().replace("\r", "\n"))


def test_a_long_line_stays_as_it_is() -> None:
    out = StringIO()
    stream = HarmlessStream(out)
    stream.writelines(["x" * 100 + "::" + "y" * 62, "z", "\n", "  ", "ok"])
    assert out.getvalue() == "x" * 100 + "::" + "y" * 62 + "z\n  ok"
