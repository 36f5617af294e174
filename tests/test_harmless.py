"""No line of a job's log commands GitHub Actions because an engine, a program or a case file wrote it."""

from __future__ import annotations

import os
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest

from harness.harmless import HarmlessStream, harmless


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


@pytest.mark.parametrize("actions", [True, False])
def test_the_command_obeys_nobody_in_actions(tmp_path: Path, actions: bool) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "GITHUB_ACTIONS"}
    done = subprocess.run(
        [sys.executable, "-c", "from harness.cli.app import main; main()", "report", "a\n::error::gone"],
        cwd=tmp_path,
        env=environment | ({"GITHUB_ACTIONS": "true"} if actions else {}),
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "error::gone" in done.stderr
    assert any(line.startswith("::") for line in done.stderr.splitlines()) != actions
