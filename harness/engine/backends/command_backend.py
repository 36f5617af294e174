"""Run any program in its own environment, so that other runtimes can be tested (docs/bring-your-runtime.md).

The argument list in ``command`` is run in the repository's root, never through a shell. Placeholders are replaced
anywhere in an argument; ``harness.definitions.program`` lists them.

``{case_json}`` is ``{"case": <resolved case>, "paths": {"model": "/folder", ...}, "device": "cpu" | "cuda" | "auto",
"disturb": null | {"seed": 3, "dtype": "bf16", "initial": true, "between": false}}``. The pictures of a request are in
``paths`` too, as ``image`` and ``last_image``: the original files.

The program writes frames [T, H, W, 3], RGB, in exactly the number and size that the case requests: see
``harness.engine.backends.delivery`` for the containers. Receipts are the JSON of
``harness.records.generation.Receipts``. A program whose command has no ``{receipts}`` proves no kernel, and the record
reports that.

To ``{usage}`` it may write the costs of the generation, the JSON of ``harness.records.perf.Usage``: seconds of each
step at least, on the clock that it names. Without this file only the whole duration is known.

The program runs with the engine's environment: the settings of the case over a small base. Its standard streams go to
the engine's log. Exit status 0 means that its frames are complete; any other status is a crash, whose verdict shows the
end of both streams. It is killed, with all of its children, at ``timeouts.generate``. Such a program returns no trace.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from harness.definitions.case import Case
from harness.definitions.program import CASE_JSON, DISTURB, OUT, OUT_DIR, RECEIPTS, ROOT, USAGE, check_command, filled
from harness.engine.backend import Emit, Method
from harness.engine.backends.delivery import read_delivery
from harness.engine.environment import secrets_of
from harness.engine.failures import kind_of
from harness.engine.pictures import place_of
from harness.engine.process import describe_exit
from harness.engine.secrets import redact
from harness.errors import InfraError, InvalidCaseError
from harness.frames.clip import write_clip
from harness.records.base import Json, Record, write_text_atomic
from harness.records.generation import NO_RECEIPTS, Generation, Receipts, Trace
from harness.records.perf import Usage
from harness.records.run_folder import CLIP_FILE

DISTURBED = "generate_perturbed"
"""Name of the method for disturbed runs, the same as in the diffusers backend."""
TAIL_LINES = 20
LINE_BYTES = 1 << 16
LINE_CHARACTERS = 500
STREAM_SECONDS = 2.0
"""Seconds that a stream may stay open after the program ended: a daemon started by it may hold it open forever."""
_SENTENCE = 300


class CommandBackend:
    """Runs the case's program once per generation."""

    def __init__(self) -> None:
        self._paths: dict[str, Path] = {}
        self._device = "auto"
        self._root = Path.cwd()

    def set_root(self, root: Path) -> None:
        """Store the repository's root, the program's working directory."""
        self._root = root

    def load(self, case: Case, paths: Mapping[str, Path], device: str, emit: Emit) -> None:
        """Find the program.

        Raises:
            InvalidCaseError: there is no command, it lacks a placeholder, or its program does not exist.
        """
        if not case.command:
            raise InvalidCaseError(
                "the backend `command` needs `command`", place=case.id, remedy="add `command: [...]`"
            )
        for _, wrong in check_command(case.command):
            raise InvalidCaseError(wrong, place=case.id, remedy="correct `command` in the case file")
        self._find(case)
        self._paths, self._device = dict(paths), device
        emit({"stage": "load", "step": 1, "steps": 1})

    def _find(self, case: Case) -> None:
        name = filled(case.command[0], {ROOT: str(self._root)})
        if os.sep not in name:
            if shutil.which(name) is None:
                raise InvalidCaseError(f"there is no program {name!r} on PATH", place=case.id, remedy="install it")
            return
        path = self._root / name
        if not path.is_file():
            raise InvalidCaseError(
                f"there is no program {name}, seen from the repository's root {self._root}",
                place=case.id,
                remedy="correct the path in `command`: it is relative to the root, or begins with {root} or {case_dir}",
            )
        if not os.access(path, os.X_OK):
            raise InvalidCaseError(f"{name} is not executable", place=case.id, remedy=f"chmod +x {name}")

    def generate(self, case: Case, out_dir: Path, emit: Emit) -> Generation:
        """Run the program and read its frames.

        Raises:
            InfraError: kind ``crash``, ``oom`` or ``device``: the exit status is not 0. Kind ``protocol``: frames or
                receipts are not as requested.
        """
        return self._generate(case, out_dir, emit, None)

    def _generate(self, case: Case, out_dir: Path, emit: Emit, disturb: Json) -> Generation:
        request, result, receipts = out_dir / "case.json", out_dir / "frames.safetensors", out_dir / "receipts.json"
        folder, cost = out_dir / "program", out_dir / "usage.json"
        # files of an earlier run must not be read as results of this run
        _clear(out_dir, result, receipts, cost, folder)
        folder.mkdir(parents=True)
        data = {
            "case": case.model_dump(mode="json"),
            "paths": {role: str(path) for role, path in {**self._paths, **self._pictures(case)}.items()},
            "device": self._device,
            "disturb": disturb,
        }
        write_text_atomic(request, json.dumps(data, indent=2))
        places = {
            CASE_JSON: str(request),
            OUT: str(result),
            OUT_DIR: str(folder),
            RECEIPTS: str(receipts),
            USAGE: str(cost),
            DISTURB: str(disturb["seed"]) if isinstance(disturb, dict) else "0",
            ROOT: str(self._root),
        }
        emit({"stage": "command", "step": 0, "steps": 1})
        began = time.perf_counter()
        _run([filled(part, places) for part in case.command], self._root, case, out_dir)
        seconds = time.perf_counter() - began
        emit({"stage": "command", "step": 1, "steps": 1, "seconds": seconds})
        delivered = read_delivery(result, folder, case)
        measured = any(USAGE in part for part in case.command)
        promised = any(RECEIPTS in part for part in case.command)
        proof = read_receipts(receipts) if promised else Receipts(modules=())
        write_clip(out_dir / CLIP_FILE, delivered.clip, "raw")
        _clear(out_dir, result, folder)
        return Generation(
            clip=CLIP_FILE,
            clip_sha256=delivered.clip.digest,
            shape=delivered.clip.shape,
            float_stats=delivered.stats,
            trace=Trace(steps=()),
            receipts=proof,
            unproven="" if promised else NO_RECEIPTS,
            delivery=delivered.delivery,
            generate_seconds=seconds,
            usage=_usage(cost, seconds) if measured else None,
        )

    def _pictures(self, case: Case) -> dict[str, Path]:
        """Return the original files of the request's pictures, ``image`` and ``last_image``, not decoded or resized."""
        places = {role: place_of(case, role, self._paths) for role in case.sampling.images()}
        return {role: path.resolve() for role, path in places.items() if path is not None}

    def close(self) -> None:
        """Do nothing: no resource is held between two generations."""

    def quantized_modules(self) -> dict[str, dict[str, str]]:
        """Return an empty mapping: a foreign program does not report its modules."""
        return {}

    def methods(self) -> Mapping[str, Method]:
        """Return ``generate_perturbed``: ``{"case", "out_dir", "noise"}``, for commands that contain ``{disturb}``."""
        return {DISTURBED: self._disturbed}

    def _disturbed(self, params: dict[str, Json], emit: Emit) -> Json:
        case, out_dir, noise = Case.model_validate(params["case"]), Path(str(params["out_dir"])), params["noise"]
        if not any(DISTURB in part for part in case.command):
            raise InvalidCaseError(f"the program takes no {DISTURB}", place=case.id, remedy=f"hand it {DISTURB}")
        out_dir.mkdir(parents=True, exist_ok=True)
        return self._generate(case, out_dir, emit, noise).model_dump(mode="json")


def _clear(out_dir: Path, result: Path, *others: Path) -> None:
    """Delete a program's output files, so that files of an earlier run are not read as results of this one."""
    for path in [*out_dir.glob(f"{result.name}*"), *others]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _full_disk(folder: Path, case: Case) -> str:
    """Return a sentence if the disk of ``folder`` has no room for the case's frames in float32, else an empty text.

    Programs rarely name a full disk: numpy reports "313344 requested and 67552 written".
    """
    sampling = case.sampling
    needed = 4 * 3 * sampling.num_frames * sampling.height * sampling.width
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return ""
    return (
        f"; {free / 1e6:.1f} MB are free in {folder}, and its frames take {needed / 1e6:.1f}" if free < needed else ""
    )


def _run(arguments: list[str], root: Path, case: Case, folder: Path) -> None:
    """Run the program to its end. Both of its streams go to the engine's log, and their last lines into the error.

    Args:
        arguments: the program and its arguments, without placeholders.
        root: the working directory.
        case: names the program in an error.
        folder: the folder of its output files.

    Raises:
        InfraError: the program cannot be started, or its exit status is not 0.
    """
    name = case.command[0] if len(case.command) < 2 else f"{case.command[0]} {case.command[1]}"
    try:
        process = subprocess.Popen(
            arguments,
            cwd=root,
            env={**os.environ, "PWD": str(root)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    except OSError as error:
        raise InfraError(
            f"{name} cannot be started: {error.strerror}",
            place=case.id,
            remedy="begin `command` with a program for this machine, or with the interpreter of a script",
            kind="crash",
        ) from error
    sys.stdout.flush()
    tails = {"stdout": _Tail(process.stdout, 1), "stderr": _Tail(process.stderr, 2)}
    code = process.wait()
    # a daemon that the program started may hold a stream open, so the wait is limited
    deadline = time.monotonic() + STREAM_SECONDS
    for tail in tails.values():
        tail.join(deadline - time.monotonic())
    if code == 0:
        return
    secrets = secrets_of(case)  # redact before lines are cut: half a secret would not be recognized
    output = {stream: text for stream, tail in tails.items() if (text := _short(redact(tail.text(), secrets)))}
    last = _last_words(output)
    kind = kind_of(RuntimeError(output.get("stderr", "")))
    if kind == "crash" and "stdout" in output and not _raised(output.get("stderr", "")):
        # a program that logs to stdout reports its error there; of its end only, since it may have coped with others
        kind = kind_of(RuntimeError("\n".join(output["stdout"].splitlines()[-_LAST_WORDS:])))
    ending = f"; its {last[0]} ends: {last[1]}" if last is not None else "; it wrote nothing"
    if kind == "crash" and (full := _full_disk(folder, case)):
        kind, ending = "disk", ending + full
    raise InfraError(f"{name} ended with {describe_exit(code)}{ending}", place=case.id, kind=kind, output=output)


_RAISED = re.compile(r"(?:\[rank\d+\]: ?)?(?:\w+\.)*[A-Z]\w*(?:Error|Exception)(?::|$)")
"""The line of a Python traceback that names the exception, which torchrun puts the rank in front of."""
_LAST_WORDS = 5
"""Last lines of stdout in which the kind of an error is looked for."""


def _last_words(output: Mapping[str, str]) -> tuple[str, str] | None:
    """Return the stream and the line that tell best why a program ended, or ``None`` if it wrote nothing.

    A line that names a Python exception comes first, since its message may go on over further lines. Otherwise it is
    the last line: that of stderr, where programs usually write their errors.

    Args:
        output: text by stream, ``stdout`` and ``stderr``; a stream that is absent is empty.
    """
    for stream in ("stderr", "stdout"):
        if raised := _raised(output.get(stream, "")):
            return stream, raised[-1][:_SENTENCE]
    for stream in ("stderr", "stdout"):
        if lines := output.get(stream, "").strip().splitlines():
            return stream, lines[-1].strip()[:_SENTENCE]
    return None


def _raised(text: str) -> list[str]:
    """Return the lines of a program's output that name a Python exception."""
    return [line.strip() for line in text.splitlines() if _RAISED.match(line.strip())]


class _Tail(threading.Thread):
    """Copies one stream of a program to the engine's own, and keeps its last lines."""

    def __init__(self, stream: IO[bytes] | None, target: int) -> None:
        super().__init__(daemon=True)
        self._stream, self._target = stream, target
        self._lines: deque[bytes] = deque(maxlen=TAIL_LINES)
        self.start()

    def run(self) -> None:
        """Copy until the last process that holds the stream open closes it."""
        if self._stream is None:
            return
        with self._stream as stream:
            while line := stream.readline(LINE_BYTES):
                os.write(self._target, line)
                if line.strip():
                    self._lines.append(line)

    def text(self) -> str:
        """Return the last lines that are not blank."""
        return b"\n".join(line.rstrip() for line in tuple(self._lines)).decode(errors="replace")


def _short(text: str) -> str:
    return "\n".join(line[:LINE_CHARACTERS] for line in text.splitlines())


def read_receipts(path: Path) -> Receipts:
    """Read the receipts that a program wrote.

    Raises:
        InfraError: kind ``protocol``: there is no file, or it holds no receipts.
    """
    try:
        return Receipts.read(path)
    except (OSError, ValueError) as error:
        raise _unreadable(Receipts, RECEIPTS, path, error) from error


def _usage(path: Path, seconds: float) -> Usage:
    """Return the costs of the generation that the program reports; only the duration if it wrote no file.

    Raises:
        InfraError: kind ``protocol``: the file is no usage record.
    """
    try:
        return Usage.read(path).model_copy(update={"ordinal": 1})  # each generation is the first of its own process
    except FileNotFoundError:
        return Usage(clock="host", total=seconds)
    except (OSError, ValueError) as error:
        raise _unreadable(Usage, USAGE, path, error) from error


def _unreadable(record: type[Record], placeholder: str, path: Path, error: Exception) -> InfraError:
    """Return the error for a file that a program wrote and that does not hold ``record``."""
    name = record.__name__
    return InfraError(
        f"the program's {name.lower()} cannot be read: {error}",
        place=str(path),
        remedy=f"let it write the JSON of {record.__module__}.{name}, or take {placeholder} out of `command`",
        kind="protocol",
    )
