"""Runs commands in forks of a process that has imported what they import: python command_server.py SOCKET.

Importing pytest and this project takes a command longer than its work on a small project. A request is one line of JSON
with `program` ("pytest" or "quantgate"), `arguments`, `cwd`, `environment`, and `out` and `err`, the files that take
the output. The answer is a line with the exit code as `subprocess` counts it. A fork is a process of its own: nothing
that a command changes reaches the next one.
"""

from __future__ import annotations

import gc
import importlib
import io
import json
import os
import pkgutil
import socket
import sys
from typing import Any

from xdist import workermanage

WITH_TORCH = ("engine", "runtimes")
"""Rooms with modules that import torch."""


def serve(server: socket.socket) -> dict[str, Any]:
    """Answer requests. Returns in a fork, with its request; the server itself ends with the connection."""
    lines = server.makefile("r", encoding="utf-8")
    for line in lines:
        pid = os.fork()
        if pid == 0:
            server.close()
            return dict(json.loads(line))
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        server.sendall(f"{code}\n".encode())
    os._exit(0)


def become(request: dict[str, Any]) -> None:
    """Give this process the folder, environment, arguments and output of the request."""
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    for number, name in ((1, "out"), (2, "err")):
        file = os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    # as an interpreter does at its start
    sys.stdout = sys.__stdout__ = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), encoding="utf-8")
    sys.stderr = sys.__stderr__ = io.TextIOWrapper(
        io.FileIO(2, "w", closefd=False), encoding="utf-8", errors="backslashreplace", line_buffering=True
    )
    sys.argv = [request["program"], *request["arguments"]]
    paths = [path for path in request["environment"].get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:0] = [request["cwd"] if request["program"] == "pytest" else "", *paths]
    # xdist gives its workers the path that it found when it was imported, which was in the server
    workermanage._sys_path = list(sys.path)


def run(program: str) -> int:
    """Run the program of `sys.argv`, and return its exit code."""
    if program == "pytest":
        import pytest

        # a fresh interpreter would rewrite xdist, which holds no assertion of a test
        return int(pytest.main(["-W", "ignore:Module already imported so cannot be rewritten", *sys.argv[1:]]))
    from harness.cli.app import main

    main()
    return 0


def import_all() -> None:
    """Import what the commands import, but no test tool that pytest would rewrite and no torch."""
    import pytest  # noqa: F401
    import scipy.ndimage
    import scipy.stats  # noqa: F401

    import harness

    for module in pkgutil.walk_packages(harness.__path__, "harness."):
        if module.name.split(".")[1] not in WITH_TORCH and not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    warm_up()
    heavy = {"torch", "diffusers", "transformers"} & sys.modules.keys()
    assert not heavy, f"a command must import {sorted(heavy)} for itself"
    gc.freeze()


def warm_up() -> None:
    """Load the compiled kernel and templates, which would take each command half a second; no thread starts."""
    import numpy as np

    from harness.frames.clip import Clip
    from harness.frames.statistics import pair_statistics
    from harness.report.render import environment

    clip = Clip(np.zeros((1, 16, 16, 3), np.uint8))
    pair_statistics(clip, clip, threads=1)
    templates = environment()
    for name in templates.list_templates():
        templates.get_template(name)


if __name__ == "__main__":
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(sys.argv[1])
        listener.listen(1)
        sys.path.pop(0)  # this folder: no command has it
        import_all()
        connection, _ = listener.accept()
    wanted = serve(connection)
    become(wanted)
    sys.exit(run(wanted["program"]))
