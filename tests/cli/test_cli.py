"""The command line door: what it imports, and how errors leave it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from children import child_environment, run_command
from typer.main import get_command

from harness.cli.app import app

REPOSITORY = Path(__file__).parents[2]
HEAVY = ("torch", "diffusers", "transformers", "pytest", "numba", "modelopt")


def quantgate(*arguments: str, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    return run_command(["quantgate", *arguments], cwd, child_environment())


def test_help_names_every_command_and_imports_nothing_heavy() -> None:
    code = f"import sys; import harness.cli.app; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == ""
    names = set(getattr(get_command(app), "commands", {}))
    assert {"inspect", "lock", "regenerate", "try", "bisect", "pending", "accept", "reject", "report", "plan"} <= names
    message = quantgate("--help")
    assert message.returncode == 0
    assert all(name in message.stdout for name in names)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("inspect", "./nowhere"), 17, "nowhere"),
        (("inspect",), 17, "nothing to inspect"),
        (("inspect", "--case", "nobody"), 17, "there is no case nobody"),
        (("regenerate", "--runner", "abacus", "--allow-dirty", "--in-ci"), 17, "there is no runner 'abacus'"),
        (("accept", "nobody", "--reason", "x", "--author", "y"), 14, "no candidate of 'nobody'"),
    ],
)
def test_an_error_is_a_sentence_and_an_exit_code(arguments: tuple[str, ...], code: int, message: str) -> None:
    done = quantgate(*arguments)
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
    assert message in done.stdout + done.stderr


def test_the_committed_cases_are_listed() -> None:
    done = quantgate("cases", "--runner", "b200")
    assert done.returncode == 0, done.stderr
    assert "wan22_modelopt_nvfp4_t2v" in done.stdout
    assert "nvfp4_override " not in done.stdout.replace("wan22_modelopt_nvfp4_override", "")


def test_the_lock_agrees_with_the_cases() -> None:
    done = quantgate("lock", "--check")
    assert done.returncode == 0, done.stdout + done.stderr


def test_an_error_of_the_disk_is_a_line_and_not_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "cases").mkdir()
    (tmp_path / ".quantgate").write_text("in the way of the folder")
    done = quantgate("pending", cwd=tmp_path)
    assert (done.returncode, "Traceback" in done.stderr) == (18, False), done.stderr
    assert f"{tmp_path / '.quantgate'}: File exists" in done.stderr
    assert "next: " in done.stderr
