"""Commands that tests start, and their environment."""

from __future__ import annotations

import atexit
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path

# the plugins of the test tools take longer to import than everything of ours, and no case needs them
WITHOUT_TEST_TOOLS = "-p no:hypothesispytest -p no:anyio"
START_SECONDS, RUN_SECONDS = 120.0, 300.0


def child_environment(*without: str, **more: str) -> dict[str, str]:
    """Return this process's environment, as a command has it that no test has started.

    Args:
        without: prefixes of further variables that are left out.
        more: variables that are added or replaced.
    """
    prefixes = ("PYTEST", *without)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}
    return {**kept, "PYTEST_ADDOPTS": WITHOUT_TEST_TOOLS, **more}


def run_command(arguments: Sequence[str], cwd: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command to its end and return its exit code and output.

    pytest and quantgate run in a fork of a process that has imported them (``command_server.py``), any other command in
    a process of its own.
    """
    program, rest = _program(list(arguments))
    if not program or sys.platform != "linux":
        return subprocess.run(
            arguments, cwd=cwd, env=environment, capture_output=True, text=True, timeout=RUN_SECONDS, check=False
        )
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        request = {
            "program": program, "arguments": rest, "cwd": str(cwd), "environment": environment,
            "out": str(out), "err": str(err),
        }  # fmt: skip
        server = _server()
        server.sendall(json.dumps(request).encode() + b"\n")
        code = int(server.makefile("r").readline())
        return subprocess.CompletedProcess(list(arguments), code, out.read_text("utf-8"), err.read_text("utf-8"))


def _program(arguments: list[str]) -> tuple[str, list[str]]:
    """Return the program that the server knows, and its arguments."""
    if arguments[:3] == [sys.executable, "-m", "pytest"]:
        return "pytest", arguments[3:]
    if arguments[:1] in (["quantgate"], ["pytest"]):
        return arguments[0], arguments[1:]
    return "", []


@cache
def _server() -> socket.socket:
    """Start the server of this process once; it ends with the connection."""
    folder = tempfile.mkdtemp()
    address = str(Path(folder, "s"))
    script = str(Path(__file__).with_name("command_server.py"))
    process = subprocess.Popen([sys.executable, script, address], env=child_environment(), stdin=subprocess.DEVNULL)
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(RUN_SECONDS)
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            connection.connect(address)
            break
        except (FileNotFoundError, ConnectionRefusedError):
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
    Path(address).unlink()
    Path(folder).rmdir()

    def end() -> None:
        connection.close()
        process.wait(10)

    atexit.register(end)
    return connection
