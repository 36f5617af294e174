"""The engine's process: ``python -m harness.engine.worker``. Started by the owner only; see ``protocol``.

Imports nothing heavy itself. The backend imports its packages when it is loaded, after the environment is fixed.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from harness.engine.supervisor import supervise

if TYPE_CHECKING:
    from harness.engine.backend import Backend
    from harness.engine.protocol import Writer
    from harness.records.base import Json

HEARTBEAT_SECONDS = 1.0
UNHEARD_SECONDS = 3.0
"""Seconds that a worker without a listening parent may take to end in an orderly way."""


class Server:
    """Executes requests, one at a time."""

    def __init__(self, writer: Writer, started: Literal["process", "fork"] = "process") -> None:
        self._writer = writer
        self._started = started
        self._backend: Backend | None = None
        self._loads = 0
        self._methods: dict[str, Callable[[dict[str, Json], Callable[[dict[str, Json]], None]], Json]] = {
            "start": self._start,
            "generate": self._generate,
            "fingerprint": self._fingerprint,
            "close": self._close,
        }

    def handle(self, request: dict[str, Json]) -> bool:
        """Execute one request and send its result. Return false after the last request (``close``)."""
        from harness.engine.failures import describe

        number, method = request.get("id"), str(request.get("method"))
        params = request.get("params")

        def emit(data: dict[str, Json]) -> None:
            self._writer.send({"id": number, "event": "progress", "data": data})

        try:
            result = self._find(method)(params if isinstance(params, dict) else {}, emit)
        except Exception as error:
            self._writer.send({"id": number, "event": "error", "data": describe(error)})
        else:
            self._writer.send({"id": number, "event": "result", "data": result})
        return method != "close"

    def _find(self, method: str) -> Callable[[dict[str, Json], Callable[[dict[str, Json]], None]], Json]:
        from harness.errors import InvalidCaseError

        if method in self._methods:
            return self._methods[method]
        offered = dict(self._backend.methods()) if self._backend is not None else {}
        if method not in offered:
            raise InvalidCaseError(
                f"the backend has no method {method!r}; it has: {', '.join(sorted(offered)) or 'none'}"
            )
        return offered[method]

    def _start(self, params: dict[str, Json], emit: Callable[[dict[str, Json]], None]) -> Json:
        from harness.definitions.case import Case
        from harness.engine.backend import Reloads, RunsInRoot, load_backend
        from harness.engine.load_meter import LoadMeter
        from harness.records.generation import EngineStart

        case = Case.model_validate(params["case"])
        paths = params["paths"]
        if not isinstance(paths, dict):
            raise TypeError("paths is no object")
        began = time.monotonic()
        # a load that fails must not leave the model of before to answer for the new case
        present, self._backend = self._backend, None
        if isinstance(present, Reloads):  # an engine has one class of backend, so the present one fits
            backend, load = present, present.reload
        else:
            if present is not None:
                present.close()  # its server would live on beside the new one
            backend = load_backend(case.backend, allow_python=bool(params.get("allow_python")))
            load = backend.load
        if isinstance(backend, RunsInRoot) and params.get("root"):
            backend.set_root(Path(str(params["root"])))
        folders = {role: Path(str(path)) for role, path in paths.items()}
        meter = LoadMeter(folders)
        # read the files into the page cache first, so that the load is timed without the disk
        meter.read()
        load(case, folders, str(params["device"]), emit)
        self._backend = backend
        self._loads += 1
        return EngineStart(
            engine=str(params["engine"]),
            process=os.getpid(),
            load_seconds=time.monotonic() - began,
            loads=self._loads,
            quantized_modules=backend.quantized_modules(),
            runtime=getattr(backend, "runtime_facts", dict)(),
            load=meter.usage(),
            started=self._started,
        ).model_dump(mode="json")

    def _generate(self, params: dict[str, Json], emit: Callable[[dict[str, Json]], None]) -> Json:
        from harness.definitions.case import Case

        if self._backend is None:
            raise RuntimeError("generate before start")
        out_dir = Path(str(params["out_dir"]))
        out_dir.mkdir(parents=True, exist_ok=True)
        case = Case.model_validate(params["case"])
        generated: Json = self._backend.generate(case, out_dir, emit).model_dump(mode="json")
        _return_free_memory()
        return generated

    def _fingerprint(self, params: dict[str, Json], _emit: Callable[[dict[str, Json]], None]) -> Json:
        from harness.engine.fingerprint import take_fingerprint

        of_backend = getattr(self._backend, "fingerprint", None)
        if of_backend is not None:  # a runtime in its own process reports its own packages and device
            answer: Json = of_backend(str(params["runner"])).model_dump(mode="json")
            return answer
        return take_fingerprint(str(params["runner"]), str(params["device"])).model_dump(mode="json")

    def _close(self, _params: dict[str, Json], _emit: Callable[[dict[str, Json]], None]) -> Json:
        if self._backend is not None:
            self._backend.close()
        return None


def _return_free_memory() -> None:
    """Give memory that malloc keeps for later back to the system, so that what stays allocated can be measured.

    How much glibc keeps after a generation is chance (20 to 90 MB here), which hid leaks of that size.
    Other C libraries have no such function.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def serve(requests: int, events: int, started: Literal["process", "fork"] = "process") -> int:
    """Execute requests until ``close`` or until the parent's end of the pipe is closed.

    Args:
        requests, events: descriptors of the two pipes.
        started: how this process was started, for the record of a load.
    """
    from harness.engine.protocol import LineBuffer, Writer

    # the backend's child processes must not inherit the pipes: they would keep them open after this process ended
    for descriptor in (requests, events):
        os.set_inheritable(descriptor, False)
    writer, lines = Writer(events), LineBuffer()
    threading.Thread(target=_beat, args=(writer,), daemon=True).start()
    server = Server(writer, started)
    while chunk := os.read(requests, 1 << 16):
        for request in lines.feed(chunk):
            if not server.handle(request):
                return 0
    return 0


def _beat(writer: Writer) -> None:
    """Send a heartbeat per second: it shows that the process is scheduled and the interpreter runs.

    If the pipe is closed, end this process and its group. Guard and supervisor do that too, unless they are stopped;
    then a stopped engine would keep a GPU that already belongs to the next run.
    """
    while True:
        time.sleep(HEARTBEAT_SECONDS)
        try:
            writer.send({"event": "heartbeat"})
        except OSError:
            time.sleep(UNHEARD_SECONDS)
            os.killpg(0, signal.SIGKILL)


def main() -> int:
    """Parse the descriptors and run the worker under its supervisor."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("requests", "events", "life"):
        parser.add_argument(f"--{name}", type=int, required=True)
    options = parser.parse_args()
    os.set_inheritable(options.life, False)
    return supervise(options.life, (options.requests, options.events), lambda: serve(options.requests, options.events))


if __name__ == "__main__":
    sys.exit(main())
