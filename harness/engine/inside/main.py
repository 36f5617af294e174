"""Run SGLang for the sglang backend. Started by path, with the interpreter of the environment that holds SGLang.

    python main.py REQUESTS EVENTS

``REQUESTS`` and ``EVENTS`` are numbers of inherited pipes. They carry JSON lines, as between owner and worker
(``harness.engine.protocol``): ``{"id", "method", "params"}`` in, ``{"id", "event", "data"}`` out, with ``event``
one of ``progress``, ``result``, ``error``. Tensors travel in safetensors files.

This process imports the standard library, numpy, torch, safetensors and SGLang. Of the harness it may import only
modules that need no more than that; an import rule in pyproject.toml checks it. The harness is not on the path of the
interpreter, because its own packages must not mix with the runtime's: ``_place_packages`` makes its modules importable.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
import types
from pathlib import Path
from typing import Any

TAIL = 20000
"""Characters of a traceback that are sent to the parent, counted from its end."""


def _place_packages() -> None:
    """Make ``import harness.x.y`` find the file ``harness/x/y.py`` in this folder tree; no ``__init__`` runs."""
    root = Path(__file__).resolve().parents[2]
    for folder in (root, *(path.parent for path in sorted(root.rglob("__init__.py")))):
        name = ".".join((root.name, *folder.relative_to(root).parts))
        if name not in sys.modules:
            module = types.ModuleType(name)
            module.__path__ = [str(folder)]
            sys.modules[name] = module


class Channel:
    """Sends events of the current request."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.request: Any = None

    def send(self, event: str, data: Any) -> None:
        """Write one event."""
        message = {"id": self.request, "event": event, "data": data}
        line = memoryview(json.dumps(message, allow_nan=True).encode() + b"\n")
        while line:
            line = line[os.write(self._descriptor, line) :]

    def progress(self, stage: str, step: int, steps: int, seconds: float = 0.0) -> None:
        """Report how much of a stage is done."""
        self.send("progress", {"stage": stage, "step": step, "steps": steps, "seconds": seconds})


def describe(error: BaseException, *, room: bool = True) -> dict[str, Any]:
    """Return an exception as data: its class and base classes, its message, its traceback, and whether the process
    could still get memory (``room``).
    """
    return {
        "room": room,
        "type": type(error).__name__,
        "bases": [kind.__name__ for kind in type(error).__mro__],
        "text": str(error),
        "refused": getattr(error, "refused", ""),
        "remedy": getattr(error, "remedy", ""),
        "traceback": "".join(traceback.format_exception(error))[-TAIL:],
    }


def main(requests: int, events: int) -> None:
    """Execute requests until ``close``, or until the other end of the pipe is closed."""
    channel = Channel(events)
    for descriptor in (requests, events):
        os.set_inheritable(descriptor, False)
    engine: Any = None
    # before there is too little memory for an import
    from harness.engine.room import has_room

    with os.fdopen(requests, "rb") as lines:
        for line in lines:
            request = json.loads(line)
            channel.request = request["id"]
            if request["method"] == "close":
                channel.send("result", None)
                break
            try:
                if engine is None:
                    from harness.engine.inside.engine import Engine

                    engine = Engine(channel)
                answer = getattr(engine, f"do_{request['method']}")(request["params"])
            except Exception as error:
                channel.send("error", describe(error, room=has_room()))
            else:
                channel.send("result", answer)
    os._exit(0)  # an ordinary exit would wait for the runtime's background threads


if __name__ == "__main__":
    _place_packages()
    main(int(sys.argv[1]), int(sys.argv[2]))
