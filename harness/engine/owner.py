"""The parent's handle on one engine, and the pool of engines. Imports no torch: a broken device cannot break it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from harness.definitions.case import Case
from harness.engine import pictures
from harness.engine.environment import engine_environment, engine_key, secrets_of
from harness.engine.failures import rebuild
from harness.engine.process import DEADLINE_PASSED, WorkerProcess
from harness.engine.secrets import redact, redact_answer, redact_error, tail
from harness.engine.stamps import Stamps, require_unchanged, stamps_of
from harness.engine.starter import SHARED, Starter
from harness.engine.supervisor import kernel_kills
from harness.errors import GoldenError, InfraError, InvalidCaseError, QuantgateError
from harness.inside import require_inside
from harness.reading import sentence
from harness.records.base import Json, Record
from harness.records.generation import EngineStart, Generation, Progress
from harness.records.identity import Fingerprint
from harness.redaction import register

R = TypeVar("R", bound=Record)
OnProgress = Callable[[Progress], None]
SILENCE_LIMIT_SECONDS = 300.0
"""A worker sends a heartbeat per second. A library that holds the interpreter lock delays it, so the limit is wide."""
CLOSE_SECONDS = 20.0
WARM_BACKENDS = frozenset({"diffusers"})
"""Backends whose imports take longer than a fork of a process that has imported them."""


class EngineOwner:
    """One engine: a subprocess with exactly the case's environment and one loaded model.

    Every error except a refused request (``InvalidCaseError``) leaves the engine dead, with all its processes killed
    and reaped. Take a fresh engine from the pool then.

    Args:
        case: any case of the engine.
        workdir: folder for the log and scratch files; created if absent.
        device_env: variables that select the device, from the lease.
        resolved_paths: folder by role, ``model`` at least, see ``harness.engine.resolve``.
        device: ``cpu``, ``cuda``, or ``auto``: cuda if the engine sees a device.
        runner: name that goes into the fingerprint.
        allow_python_backend: accept ``module:Class`` as the backend (Python callers only, never a case file).
        silence_limit: seconds without heartbeat after which the worker counts as frozen.
        root: the repository's root, for backends that run programs there; ``None``: they run in ``workdir``.
        starter: a warm process to fork the engine from; default: this process's own, for backends that it serves.
    """

    def __init__(
        self,
        case: Case,
        workdir: Path,
        device_env: Mapping[str, str],
        resolved_paths: Mapping[str, Path],
        *,
        device: str = "auto",
        runner: str = "",
        allow_python_backend: bool = False,
        silence_limit: float = SILENCE_LIMIT_SECONDS,
        root: Path | None = None,
        starter: Starter | None = None,
    ) -> None:
        self.case = case
        self.key = engine_key(case)
        self.log_path = workdir.resolve() / f"engine-{self.key[:12]}.log"
        self._workdir = workdir.resolve()
        # a case of the CPU must see no GPU: it holds no lease of it
        self._device_env = {**device_env, **({"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {})}
        self._take(resolved_paths)
        self._device = device
        self._runner = runner
        self._allow_python = allow_python_backend
        self._silence_limit = silence_limit
        self._root = (root or workdir).resolve()
        self._starter = starter
        self._secrets = secrets_of(case)
        register(self._secrets)
        self._process: WorkerProcess | None = None
        self._request = 0
        self._kills_before = 0
        self._fingerprint: Fingerprint | None = None
        self.start_record: EngineStart | None = None
        self.stamps: Stamps = {}
        """Stamps of the checkpoint files, taken just before the engine began to load them."""

    @property
    def alive(self) -> bool:
        """Return whether the engine runs, has loaded its model and takes requests."""
        return self._process is not None and self.start_record is not None and self._process.exit_code is None

    @property
    def pid(self) -> int | None:
        """Process id of the engine's session leader, while it runs."""
        return None if self._process is None else self._process.pid

    def start(self, on_progress: OnProgress | None = None) -> EngineStart:
        """Start the process and load the model, within ``timeouts.load``.

        Raises:
            InfraError: hang, crash, oom, device, protocol. The engine is dead.
            CheckpointFaultError: the checkpoint cannot be loaded as its configuration declares it.
            InvalidCaseError: the case requests a feature that the backend does not have.
        """
        if self._process is not None:
            raise RuntimeError("an engine is started once; take a fresh one")
        environment = engine_environment(self.case, self._device_env)
        # counted before the start: only a kill after it can have hit this engine
        self._kills_before = kernel_kills()
        self.hand_over(self.case, self._pictures)
        # stamps before the load: a file that changes while the engine reads it is noticed afterwards
        self.stamps = stamps_of(self._paths)
        starter = self._starter
        if starter is None and self.case.backend in WARM_BACKENDS:
            starter = SHARED.get(environment)
        self._process = WorkerProcess(environment, self.log_path, self._workdir, self._secrets, starter)
        return self._load(on_progress)

    def reload(self, resolved_paths: Mapping[str, Path]) -> EngineStart:
        """Load the model of other folders into the same process, replacing the present model.

        Raises:
            QuantgateError: as ``start``.
        """
        self._take(resolved_paths)
        self.hand_over(self.case, self._pictures)
        self.stamps = stamps_of(self._paths)
        return self._load(None)

    def _take(self, resolved_paths: Mapping[str, Path]) -> None:
        folders, self._pictures = pictures.split(resolved_paths)
        self._paths = {role: path.resolve() for role, path in folders.items()}

    def hand_over(self, case: Case, files: Mapping[str, Path]) -> None:
        """Copy the pictures of ``case`` into the engine's working folder.

        Args:
            case: a case of this engine.
            files: file by role, ``image`` and ``last_image``.

        Raises:
            InvalidCaseError: a picture changed since the case was loaded.
        """
        pictures.hand_over(case, files, self._workdir)

    def _load(self, on_progress: OnProgress | None) -> EngineStart:
        params: dict[str, Json] = {
            "case": self.case.model_dump(mode="json"),
            "paths": {role: str(path) for role, path in self._paths.items()},
            "engine": self.key,
            "device": self._device,
            "allow_python": self._allow_python,
            "root": str(self._root),
        }
        try:
            data = self._ask("start", params, self.case.timeouts.load, on_progress)
        except QuantgateError:
            self._end()
            raise
        start = self._parse(EngineStart, data)
        why = self._process.not_forked if self._process is not None else ""
        self.start_record = start.model_copy(update={"not_forked": why})
        return self.start_record

    def generate(self, case: Case, out_dir: Path, on_progress: OnProgress | None = None) -> Generation:
        """Run one case of this engine within its ``timeouts.generate``; the clip is written below ``out_dir``.

        Raises:
            InvalidCaseError: the case belongs to another engine, or requests a feature that the model lacks. The
                engine lives.
            InfraError: hang, crash, oom, device, protocol; ``disk`` if files of the checkpoint changed meanwhile. The
                engine is dead.
        """
        # the loaded model is that of other files or settings: its frames would be judged as this case's
        if engine_key(case) != self.key:
            raise InvalidCaseError(
                "this case belongs to another engine", place=case.id, remedy="take its engine from the pool"
            )
        params: dict[str, Json] = {"case": case.model_dump(mode="json"), "out_dir": str(out_dir.resolve())}
        data = self._ask("generate", params, case.timeouts.generate, on_progress, place=case.id)
        self._require_unchanged(case.id)
        generation = self._parse(Generation, data)
        self._require_own_clip(out_dir, generation.clip)
        return generation

    def fingerprint(self) -> Fingerprint:
        """Return the versions and device that the engine runs on. Requested once, then cached."""
        if self._fingerprint is None:
            params: dict[str, Json] = {"runner": self._runner, "device": self._device}
            self._fingerprint = self._parse(Fingerprint, self._ask("fingerprint", params, 120.0, None))
        return self._fingerprint

    def call(
        self, method: str, params: dict[str, Json], deadline: float, on_progress: OnProgress | None = None
    ) -> Json:
        """Call another method of the backend, such as ``probe``.

        Args:
            method: its name in ``Backend.methods``.
            params: JSON; tensors travel as paths of safetensors files.
            deadline: seconds from now.
            on_progress: called for every progress event.

        Raises:
            InvalidCaseError: the backend has no such method, or refuses the parameters. The engine lives.
            InfraError: as ``generate``.
        """
        data = self._ask(method, params, deadline, on_progress)
        self._require_unchanged(self.case.id)
        return data

    def _require_unchanged(self, place: str) -> None:
        """Raise if the checkpoint files changed since the engine loaded them: its results describe other bytes."""
        try:
            require_unchanged(self.stamps, stamps_of(self._paths), place)
        except InfraError:
            self._end()
            raise

    def _require_own_clip(self, out_dir: Path, name: str) -> None:
        """Refuse a clip that is not a plain file in the engine's output folder. Through a link, or a path that leaves
        the folder, a golden or any other file would be judged in place of the generated clip.
        """
        path = out_dir / name
        try:
            require_inside(out_dir, path)
            inside = path.is_file()
        except GoldenError:
            inside = False
        if not inside:
            self._end()
            raise InfraError(
                f"the engine names {name!r} as its clip, and that is no file in its folder {out_dir}",
                place=self.case.id,
                remedy=self._remedy(),
                kind="protocol",
            )

    def log_tail(self, lines: int = 40) -> tuple[str, ...]:
        """Return the last lines that the engine and its libraries printed, with passed-through values redacted."""
        if self._process is not None:
            self._process.settle_log()
        return tail(self.log_path, lines, self._secrets)

    def close(self) -> None:
        """Let the backend close, then end every process of the engine and reap it. Safe to call twice."""
        if self.alive:
            # an error here does not matter: the process is ended next
            with contextlib.suppress(QuantgateError):
                self._ask("close", {}, CLOSE_SECONDS, None)
        self._end()

    def __enter__(self) -> EngineOwner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _end(self) -> None:
        if self._process is not None:
            self._process.end()

    def _ask(
        self, method: str, params: dict[str, Json], seconds: float, on_progress: OnProgress | None, place: str = ""
    ) -> Json:
        place = place or self.case.id
        process = self._process
        if process is None or process.exit_code is not None or (self.start_record is None and method != "start"):
            raise InfraError(
                f"the engine is not running, so it cannot {method}",
                place=place,
                remedy="take a fresh engine",
                kind="crash",
            )
        self._request += 1
        number = self._request
        deadline = time.monotonic() + seconds
        try:
            process.send({"id": number, "method": method, "params": params})
            while True:
                message = process.receive(deadline, self._silence_limit)
                kind, data = message.get("event"), message.get("data")
                if message.get("id") != number:
                    # an answer to another request means that the two sides are out of step: end the engine
                    raise InfraError(
                        f"an answer to request {message.get('id')} while {number} is open", kind="protocol"
                    )
                if kind == "result":
                    return redact_answer(data, self._secrets)
                if kind == "error" and isinstance(data, dict):
                    raise rebuild(self._clean(data), place=place, remedy=self._remedy())
                if kind != "progress" or not isinstance(data, dict):
                    raise InfraError(f"an unknown event {kind!r}", kind="protocol")
                if on_progress is not None:
                    on_progress(Progress.model_validate(data))
        # a refused request has changed nothing in the engine, so it lives on
        except InvalidCaseError:
            raise
        except InfraError as error:
            self._end()
            raise self._explain(error, method, seconds, place) from error
        # Ctrl-C too: an interrupted engine would go on computing and hold the device
        except BaseException:
            self._end()
            raise

    def _parse(self, kind: type[R], data: Json) -> R:
        """Return a record from the worker's data. Invalid data ends the engine."""
        try:
            return kind.model_validate(data)
        except ValidationError as error:
            self._end()
            raise InfraError(
                f"the engine's answer is no {kind.__name__}: {sentence(error)}",
                place=self.case.id,
                remedy=self._remedy(),
                kind="protocol",
            ) from error

    def _explain(self, error: InfraError, method: str, seconds: float, place: str) -> InfraError:
        """Return the error with facts that only the parent has: method, deadline, kill for memory by the kernel."""
        kind, message = error.kind, redact(error.message, self._secrets)
        if kind == "hang":
            late = message == DEADLINE_PASSED
            message = f"{method} took longer than {seconds:g} s; {message}" if late else f"{method}: {message}"
            message += ", and the engine was killed"
        # a signal alone proves nothing: a person or a scheduler may have sent it
        if kind == "crash" and "SIGKILL" in message and kernel_kills() > self._kills_before:
            kind, message = "oom", f"the kernel killed the engine for memory during {method} ({message})"
        return InfraError(
            message,
            place=error.place or place,
            remedy=error.remedy or self._remedy(),
            kind=kind,
            output={name: redact(text, self._secrets) for name, text in error.output.items()},
        )

    def _clean(self, data: dict[str, Json]) -> dict[str, Json]:
        """Return a worker's error without secrets; append its traceback to the log."""
        cleaned = redact_error(data, self._secrets)
        traceback = str(cleaned.pop("traceback", ""))
        if self._process is not None:
            self._process.append_to_log(traceback)
        return cleaned

    def _remedy(self) -> str:
        return f"read the engine's log: tail -n 60 {self.log_path}"


# One engine at a time: reused while it lives and its case fits, else replaced.


Resolve = Callable[[Case], Mapping[str, Path]]
RuntimeEnvironment = Callable[[Case], Mapping[str, str]]
"""Returns the variables that give an engine the place of its case's runtime; empty if the case names no runtime."""


class EnginePool:
    """Starts engines, one at a time, and reuses the living one.

    A device that is full of one 14 B model has no room for another.

    Args:
        workdir: folder for the engines' logs.
        device_env: variables that select the device.
        resolve: returns the folder of every checkpoint of a case, by role.
        device: ``cpu``, ``cuda`` or ``auto``.
        runner: name that goes into fingerprints.
        allow_python_backend, root: see ``EngineOwner``.
        runtime_env: returns the variables that give an engine the place of its case's runtime.
    """

    def __init__(
        self,
        workdir: Path,
        device_env: Mapping[str, str],
        resolve: Resolve,
        *,
        device: str = "auto",
        runner: str = "",
        allow_python_backend: bool = False,
        root: Path | None = None,
        runtime_env: RuntimeEnvironment = lambda _case: {},
    ) -> None:
        self._workdir, self._device_env, self._resolve = workdir, device_env, resolve
        self._device, self._runner = device, runner
        self._allow_python, self._root, self._runtime_env = allow_python_backend, root, runtime_env
        self._engine: EngineOwner | None = None
        self.loads = 0
        """Number of started engines, that is of model loads."""

    def get(self, case: Case, on_progress: OnProgress | None = None) -> EngineOwner:
        """Return the started engine of ``case``: the living engine, or a fresh one.

        Close an engine whose checkpoint files changed on disk; otherwise stale weights would judge the new files.

        Raises:
            QuantgateError: as ``EngineOwner.start``; nothing is left running then.
        """
        engine, key = self._engine, engine_key(case)
        resolved = {role: path.resolve() for role, path in self._resolve(case).items()}
        paths, files = pictures.split(resolved)
        if engine is not None and not (engine.key == key and engine.alive and engine.stamps == stamps_of(paths)):
            # closed before the next load: two models at once may not fit on the device
            self.close_all()
            engine = None
        if engine is None:
            engine = EngineOwner(
                case,
                self._workdir,
                {**self._device_env, **self._runtime_env(case)},
                resolved,
                device=self._device,
                runner=self._runner,
                allow_python_backend=self._allow_python,
                root=self._root,
            )
            self.loads += 1
            engine.start(on_progress)
            self._engine = engine
        # the living engine may still hold the pictures of another case
        engine.hand_over(case, files)
        return engine

    def prepare(self, case: Case) -> None:
        """Start a warm process that makes the backend's imports while the case is inspected. Returns at once."""
        if case.backend in WARM_BACKENDS and (self._engine is None or self._engine.key != engine_key(case)):
            device_env = {**self._device_env, **({"CUDA_VISIBLE_DEVICES": ""} if self._device == "cpu" else {})}
            with contextlib.suppress(QuantgateError, OSError):  # the start of the engine reports the same error
                SHARED.get(engine_environment(case, device_env))

    def discard(self, case: Case) -> None:
        """Close the engine of ``case``, if it lives. The next ``get`` starts a fresh engine."""
        if self._engine is not None and self._engine.key == engine_key(case):
            self.close_all()

    def close_all(self) -> None:
        """End the engine, if one lives."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()

    def __enter__(self) -> EnginePool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close_all()
