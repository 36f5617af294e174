"""A scheduler that ends the job: engines go, and what they were given in secret is on no disk."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from children import child_environment

VALUE = "hunter2-value"


def _hanging(project: Any) -> None:
    text = project.program.read_text()
    message = "print('token', os.environ['QUANTGATE_TOKEN'], flush=True); open('said', 'w').close(); time.sleep(600)"
    project.program.write_text(text.replace("time.sleep(600)", message))
    project.cases("  one: {pass_env: [QUANTGATE_TOKEN], sampling: {prompt: hang}, timeouts: {generate: 100}}\n")


def _started(project: Any, *more: str) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--run-id", "r", *more]
    environment = child_environment("CI", QUANTGATE_TOKEN=VALUE)
    return subprocess.Popen(arguments, cwd=project.root, env=environment, stdout=subprocess.PIPE, text=True)


def _wait(condition: Any, seconds: float = 60.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return bool(condition())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_run_leaves_no_secret_and_no_engine(project: Any, number: signal.Signals) -> None:
    _hanging(project)
    process = _started(project, "--junitxml", "junit.xml")
    engines = project.root / "runs" / "r" / "engines"
    assert _wait(lambda: (project.root / "said").exists()), process.poll()
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert _wait(lambda: not any(child.is_running() for child in children), 20)
    log = next(engines.glob("engine-*.log")).read_text()
    assert "token <QUANTGATE_TOKEN>" in log
    found = [
        path for path in (project.root / "runs").rglob("*") if path.is_file() and VALUE.encode() in path.read_bytes()
    ]
    assert found == []
    if number is signal.SIGTERM:
        assert process.returncode == int(pytest.ExitCode.INTERRUPTED), output
        assert (project.root / "junit.xml").exists()


def test_a_run_without_cases_keeps_what_sigterm_does(tmp_path: Path) -> None:
    (tmp_path / "test_a.py").write_text(
        "import signal\ndef test(): assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout
