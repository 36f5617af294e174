"""Any program in its own environment: the door through which other runtimes come.

The contract. The argument list in ``command`` is run, never through a shell, with these placeholders replaced anywhere
in an argument:

``{case_json}``
    a JSON file: ``{"case": <resolved case>, "paths": {"model": "/folder", ...}, "device": "cpu" | "cuda" | "auto"}``.
``{out}``
    where the program writes its result, a safetensors file with one tensor ``frames``: [T, H, W, 3], RGB, with exactly
    ``sampling.num_frames`` frames of ``sampling.height`` x ``sampling.width``; uint8, or float32 in [0, 1], not rounded
    and not clipped, so that NaN and overshoot are seen.
``{receipts}``
    where it writes which Linear ran in which format and on which kernel, the JSON of
    ``harness.records.generation.Receipts``. Needed where the case asks for a quantized format.

``{usage}``
    where it may write what the generation cost, the JSON of ``harness.records.perf.Usage``: seconds of each step at
    least, on the clock that it names. Without it only the whole duration is known.

The program runs with the engine's environment, which is exactly what the case states over a small base. Its standard
streams go to the engine's log. Exit status 0 means that ``{out}`` is complete; any other status is a crash. It is
killed, with all of its children, at ``timeouts.generate``. No trace comes back from such a program.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from harness.definitions.case import RECEIPTS, Case
from harness.engine.backend import Emit, Method
from harness.engine.backends.wan_recorder import round_video, stats_of
from harness.engine.process import describe_exit
from harness.errors import InfraError, InvalidCaseError
from harness.frames.clip import Clip, write_clip
from harness.records.base import write_text_atomic
from harness.records.generation import FloatStats, Generation, Receipts, Trace
from harness.records.perf import Usage
from harness.records.run_folder import CLIP_FILE

USAGE = "{usage}"
"""Placeholder in ``command``: the file that the program writes its times and memory to."""


class CommandBackend:
    """Runs the case's program once a generation."""

    def __init__(self) -> None:
        self._paths: dict[str, Path] = {}
        self._device = "auto"

    def load(self, case: Case, paths: Mapping[str, Path], device: str, emit: Emit) -> None:
        """Find the program.

        Raises:
            InvalidCaseError: there is no command, it lacks a placeholder, or its program is not there.
        """
        if not case.command:
            raise InvalidCaseError(
                "the backend `command` needs `command`", where=case.id, remedy="add `command: [...]`"
            )
        for placeholder in ("{case_json}", "{out}"):
            if not any(placeholder in argument for argument in case.command):
                raise InvalidCaseError(f"`command` does not hold {placeholder}", where=case.id, remedy="add it")
        if shutil.which(case.command[0]) is None:
            raise InvalidCaseError(f"there is no program {case.command[0]!r}", where=case.id, remedy="install it")
        self._paths, self._device = dict(paths), device
        emit({"stage": "load", "step": 1, "steps": 1})

    def generate(self, case: Case, out_dir: Path, emit: Emit) -> Generation:
        """Run the program and take its frames.

        Raises:
            InfraError: kind ``crash``: another exit status than 0, or frames that are not what was asked for.
        """
        request, result, said = out_dir / "case.json", out_dir / "frames.safetensors", out_dir / "receipts.json"
        result.unlink(missing_ok=True)
        said.unlink(missing_ok=True)
        cost = out_dir / "usage.json"
        cost.unlink(missing_ok=True)
        data = {
            "case": case.model_dump(mode="json"),
            "paths": {role: str(path) for role, path in self._paths.items()},
            "device": self._device,
        }
        write_text_atomic(request, json.dumps(data, indent=2))
        places = {"{case_json}": request, "{out}": result, RECEIPTS: said, USAGE: cost}
        arguments = [_filled(part, places) for part in case.command]
        emit({"stage": "command", "step": 0, "steps": 1})
        began = time.perf_counter()
        code = subprocess.run(arguments, stdin=subprocess.DEVNULL, check=False).returncode
        seconds = time.perf_counter() - began
        if code != 0:
            raise InfraError(f"{case.command[0]} ended with {describe_exit(code)}", where=case.id, kind="crash")
        emit({"stage": "command", "step": 1, "steps": 1, "seconds": seconds})
        clip, stats = read_result(result, case)
        asked = any(RECEIPTS in part for part in case.command)
        measured = any(USAGE in part for part in case.command)
        write_clip(out_dir / CLIP_FILE, clip, "raw")
        result.unlink()
        return Generation(
            clip=CLIP_FILE,
            clip_sha256=clip.digest,
            shape=clip.shape,
            float_stats=stats,
            trace=Trace(steps=()),
            receipts=read_receipts(said) if asked else Receipts(modules=()),
            generate_seconds=seconds,
            usage=_usage(cost, seconds) if measured else None,
        )

    def close(self) -> None:
        """Nothing is held between two generations."""

    def quantized_modules(self) -> dict[str, dict[str, str]]:
        """Unknown for a foreign program."""
        return {}

    def methods(self) -> Mapping[str, Method]:
        """None."""
        return {}


def _filled(argument: str, places: Mapping[str, Path]) -> str:
    for placeholder, path in places.items():
        argument = argument.replace(placeholder, str(path))
    return argument


def read_receipts(path: Path) -> Receipts:
    """The receipts that a program wrote.

    Raises:
        InfraError: kind ``protocol``: there is no file, or it is no receipts.
    """
    try:
        return Receipts.read(path)
    except (OSError, ValueError) as error:
        raise InfraError(f"the program's receipts cannot be read: {error}", where=str(path), kind="protocol") from error


def _usage(path: Path, seconds: float) -> Usage:
    """What the program says that the generation cost; only its duration, if it wrote nothing.

    Raises:
        InfraError: kind ``protocol``: there is a file, and it is no usage.
    """
    try:
        return Usage.read(path).model_copy(update={"ordinal": 1})  # every generation is a process of its own
    except FileNotFoundError:
        return Usage(clock="host", total=seconds)
    except (OSError, ValueError) as error:
        raise InfraError(f"the program's usage cannot be read: {error}", where=str(path), kind="protocol") from error


def read_result(path: Path, case: Case) -> tuple[Clip, FloatStats]:
    """The frames that a program wrote, held against what the case asked for.

    Raises:
        InfraError: kind ``protocol``: no file, no such tensor, another dtype, shape or count.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        tensors: dict[str, npt.NDArray[np.generic]] = load_file(path)
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise InfraError(f"the program's result cannot be read: {error}", where=str(path), kind="protocol") from error
    frames = tensors.get("frames")
    if frames is None or len(tensors) != 1:
        raise InfraError(
            f"the result holds {sorted(tensors) or 'nothing'}, not one tensor `frames`",
            where=str(path),
            kind="protocol",
        )
    wanted = (case.sampling.num_frames, case.sampling.height, case.sampling.width, 3)
    if frames.shape != wanted or frames.dtype not in (np.uint8, np.float32):
        raise InfraError(
            f"frames are {frames.dtype} {list(frames.shape)}, asked for uint8 or float32 {list(wanted)}",
            where=str(path),
            kind="protocol",
        )
    if frames.dtype == np.uint8:
        low, high = int(frames.min()), int(frames.max())
        return Clip(frames.astype(np.uint8)), FloatStats(nan=0, inf=0, minimum=low / 255, maximum=high / 255)
    video = frames.astype(np.float32)
    return round_video(video), stats_of(video)
