"""The engine of the unseen list: Wan2.2 through diffusers, changed as a file says, anew at every call."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from harness.definitions.case import Case
from harness.engine.backend import Emit, Method
from harness.engine.backends.diffusers_backend import DiffusersBackend
from harness.frames.clip import Clip, read_clip, write_clip
from harness.records.base import Json
from harness.records.generation import Generation
from harness.records.run_folder import CLIP_FILE

SWITCHES = "QUANTGATE_UNSEEN_FILE"
"""Environment variable: a JSON object with ``running`` and ``frames``, names of what is to be injected."""


class UnseenBackend(DiffusersBackend):
    """Wan2.2 with one change, which leaves no mark but its effect."""

    def __init__(self) -> None:
        super().__init__()
        self.reschedule: list[Callable[[Any], Any]] = []
        """Take the scheduler of a generation and give the one to use."""
        self.ask: list[Callable[[Case], Case]] = []
        """Take the case and give the one that the runtime understands."""
        self.calls = 0
        """Generations so far, in this process."""

    def generate(self, case: Case, out_dir: Path, emit: Emit) -> Generation:
        """See ``Backend``."""
        self.calls += 1
        with self._changed() as switches:
            for change in self.ask:
                case = change(case)
            made = super().generate(case, out_dir, emit)
        name = switches.get("frames", "")
        if not name:
            return made
        from benchmarks.unseen.finished import CHANGES
        from benchmarks.unseen.second_finished import SECOND_CHANGES
        from benchmarks.unseen.third_finished import THIRD_CHANGES

        frames = {**CHANGES, **SECOND_CHANGES, **THIRD_CHANGES}[name](read_clip(out_dir / CLIP_FILE).frames.copy())
        clip = Clip(frames)
        write_clip(out_dir / CLIP_FILE, clip, "raw")
        return made.model_copy(update={"clip_sha256": clip.digest, "shape": clip.shape})

    def scheduler(self, case: Case) -> Any:
        """See ``DiffusersBackend``."""
        made = super().scheduler(case)
        for change in self.reschedule:
            made = change(made)
        return made

    def methods(self) -> Mapping[str, Method]:
        """See ``Backend``: all of them run with the same change."""
        return {name: self._with_change(method) for name, method in super().methods().items()}

    def _with_change(self, method: Method) -> Method:
        def call(params: dict[str, Json], emit: Emit) -> Json:
            with self._changed():
                return method(params, emit)

        return call

    @contextmanager
    def _changed(self) -> Iterator[dict[str, str]]:
        text = Path(os.environ[SWITCHES]).read_text(encoding="utf-8")
        switches: dict[str, str] = json.loads(text)
        with ExitStack() as stack, torch.no_grad():
            if switches.get("running"):
                from benchmarks.unseen.patch import Patch
                from benchmarks.unseen.running import INJECTIONS
                from benchmarks.unseen.second_running import SECOND_INJECTIONS
                from benchmarks.unseen.third_running import THIRD_INJECTIONS

                injections = {**INJECTIONS, **SECOND_INJECTIONS, **THIRD_INJECTIONS}
                injections[switches["running"]](Patch(self, stack))
            yield switches
