"""Run the real SGLang-Diffusion: its ``GPUWorker`` and stages, in a process with their own interpreter.

The engine's worker starts ``harness/engine/inside/main.py`` with the interpreter of the case's ``runtime`` and
exchanges JSON lines with it; tensors travel in safetensors files. That process sees none of the harness's packages. It
is a child of the worker: it ends with the engine, and its death is a crash of the engine.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt

from harness.definitions.case import Case
from harness.engine import pictures
from harness.engine.backend import Emit, Method
from harness.engine.backends.checkpoint_view import CheckpointView
from harness.engine.backends.delivery import round_video
from harness.engine.environment import RUNTIME_PYTHON
from harness.engine.failures import kind_of
from harness.engine.process import describe_exit
from harness.engine.quantized.headers import formats_promised, override_folder, read_config, read_headers
from harness.errors import CheckpointFaultError, InfraError, InvalidCaseError, QuantgateError
from harness.frames.clip import write_clip
from harness.reading import parse_object
from harness.records.base import Json
from harness.records.generation import FloatStats, Generation, Receipts, Trace
from harness.records.identity import Fingerprint
from harness.records.perf import Usage
from harness.records.run_folder import CLIP_FILE

MAIN = Path(__file__).resolve().parents[1] / "inside" / "main.py"

EXPERTS = ("transformer", "transformer_2")
CLOSE_SECONDS = 5.0
FOREIGN = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYTHONSTARTUP")
"""Environment variables that would mix the packages of two interpreters."""
LATENT_DEFAULTS = {"z_dim": 16, "scale_factor_temporal": 4, "scale_factor_spatial": 8}
"""Values of Wan 2.1's VAE, whose configuration does not state them."""


class RuntimeProcess:
    """A process under another interpreter that executes requests in JSON lines. Not thread-safe.

    Args:
        python: the interpreter.
        script: the script to run; its arguments are the numbers of two pipes.
        name: name of the process in messages.
    """

    def __init__(self, python: Path, script: Path, name: str) -> None:
        self._name = name
        self._ids = itertools.count(1)
        request_read, request_write = os.pipe()
        event_read, event_write = os.pipe()
        # the harness's own packages must not be importable in the runtime's interpreter
        environment = {key: value for key, value in os.environ.items() if key not in FOREIGN}
        try:
            self._process = subprocess.Popen(
                [str(python), str(script), str(request_read), str(event_write)],
                stdin=subprocess.DEVNULL,
                pass_fds=(request_read, event_write),
                env=environment,
            )
        except OSError as error:
            for descriptor in (request_write, event_read):
                os.close(descriptor)
            raise InfraError(f"{python} cannot be started for {name}: {error.strerror}", kind="download") from error
        finally:
            # the child holds its own copies; an open copy here would hide the end of the stream
            os.close(request_read)
            os.close(event_write)
        self._requests: IO[str] = os.fdopen(request_write, "w", encoding="utf-8")
        self._events: IO[str] = os.fdopen(event_read, encoding="utf-8")

    def ask(self, method: str, params: Mapping[str, Any], emit: Emit) -> Any:
        """Send one request and return its result; progress goes to ``emit``.

        Raises:
            RuntimeAnswerError: the process returned an error.
            InfraError: kind ``crash``: the process is gone. Kind ``protocol``: it sent an invalid message.
        """
        number = next(self._ids)
        try:
            self._requests.write(json.dumps({"id": number, "method": method, "params": dict(params)}) + "\n")
            self._requests.flush()
            for line in self._events:
                message = parse_object(line, self._name, finite=False)
                kind = message.get("event")
                data: Any = message.get("data")
                if message.get("id") != number or kind not in ("progress", "result", "error"):
                    raise InfraError(f"{self._name} answered another question", kind="protocol")
                if kind == "progress":
                    emit(data)
                elif kind == "result":
                    return data
                else:
                    raise RuntimeAnswerError(data)
        except BrokenPipeError:
            pass
        except ValueError as error:
            raise InfraError(f"{self._name} answered what is no JSON", kind="protocol") from error
        code = self._process.wait()
        raise InfraError(f"the process of {self._name} ended during {method} ({describe_exit(code)})", kind="crash")

    def close(self) -> None:
        """Request an orderly end, then end the process."""
        with contextlib.suppress(OSError, QuantgateError, RuntimeAnswerError):
            self.ask("close", {}, lambda _: None)
        for stream in (self._requests, self._events):
            with contextlib.suppress(OSError):
                stream.close()
        try:
            self._process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class RuntimeAnswerError(Exception):
    """An exception of the process under the other interpreter, as data."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        super().__init__(f"{data.get('type')}: {data.get('text')}")
        self.data = data

    def to_error(self, runtime: str, place: str, *, loading: bool) -> QuantgateError:
        """Return the typed error: a refused request, no memory, a checkpoint that the runtime refuses, or a crash."""
        data, text = self.data, f"{self.data.get('type')}: {str(self.data.get('text'))[:600]}"
        # the traceback goes to the engine's log; the error itself keeps one sentence
        print(data.get("traceback", ""), file=sys.stderr, flush=True)
        if data.get("refused"):
            return InvalidCaseError(str(data["text"]), place=place, remedy=str(data.get("remedy", "")))
        bases = set(data.get("bases", ()))
        memory = bases & {"MemoryError", "OutOfMemoryError"} or not data.get("room", True)
        kind = "oom" if memory else kind_of(RuntimeError(str(data.get("text"))))
        # these base classes mean a broken environment, disk or network and not a broken checkpoint
        if loading and kind == "crash" and not bases & {"ImportError", "OSError", "ConnectionError"}:
            return CheckpointFaultError(
                f"{runtime} refuses the checkpoint: {text}",
                place=place,
                remedy=f"quantgate inspect --case {shlex.quote(place)}",
                code="runtime_refuses",
            )
        return InfraError(f"{runtime}: {text}", place=place, kind=kind)


class SglangBackend:
    """Loads a repository into one SGLang process, then generates cases with it."""

    def __init__(self) -> None:
        self._process: RuntimeProcess | None = None
        self._runtime = ""
        self._promised: dict[str, dict[str, str]] = {}
        self._latent_shape: dict[str, int] = {}
        self._pictures: dict[str, Path] = {}
        self._facts: dict[str, Json] = {}
        self._device = "auto"
        self._generations = 0
        self._view = CheckpointView()

    def load(self, case: Case, paths: Mapping[str, Path], device: str, emit: Emit) -> None:
        """Start SGLang and load the model. A process of an earlier load is ended.

        Raises:
            InvalidCaseError, CheckpointFaultError, InfraError: as ``reload``.
        """
        self.close()
        self.reload(case, paths, device, emit)

    def reload(self, case: Case, paths: Mapping[str, Path], device: str, emit: Emit) -> None:
        """Load the model into the running SGLang process, replacing its present model; start the process if it is gone.

        The import of SGLang costs half a minute of CPU time and the load of a small model a second, so the broken
        copies of a checkpoint that ``regenerate`` measures are loaded into one process.

        Raises:
            InvalidCaseError: the case states a setting that this runtime ignores or changes.
            CheckpointFaultError: the runtime refuses the checkpoint.
            InfraError: no environment of this runtime, no memory, a crash.
        """
        self._require_plain(case)
        self._runtime, self._device = case.runtime, device
        named = os.environ.get(RUNTIME_PYTHON)
        if not named:
            raise InfraError(
                f"the engine was not told where {case.runtime} is",
                place=case.id,
                remedy=f"quantgate runtime install {case.runtime}",
                kind="download",
            )
        python = Path(named)
        folders, self._pictures = pictures.split(paths)
        self._promised = promised_formats(folders)
        self._latent_shape = _vae_numbers(folders["model"])
        if self._process is None:
            self._process = RuntimeProcess(python, MAIN, case.runtime)
        self._generations = 0
        params = {
            "case": case.model_dump(mode="json"),
            "paths": {role: str(path) for role, path in self._view.open(folders).items()},
            "device": device,
            "threads": case.execution.threads,
            "options": dict(case.runtime_args),
        }
        try:
            self._facts = self._ask("load", params, emit, case.id, loading=True)
        except QuantgateError:
            self.close()  # a process in which a load failed is not used again
            raise
        # the interpreter may hold another version than its environment's name states
        if self._facts.get("runtime") != case.runtime:
            raise InfraError(
                f"{python} holds {self._facts.get('runtime')}, and the case asks for {case.runtime}",
                place=case.id,
                remedy=f"quantgate runtime install {case.runtime}",
                kind="download",
            )

    def _require_plain(self, case: Case) -> None:
        """Refuse settings of the diffusers backend's loader that SGLang does not have."""
        stated, defaults = case.execution, type(case.execution)()
        for name in ("attention_backend", "matmul", "tf32", "offload"):
            # `matmul: emulate` is accepted on any device, because SGLang's products are emulated without a GPU anyway
            taken = name == "matmul" and stated.matmul == "emulate"
            if getattr(stated, name) != getattr(defaults, name) and not taken:
                raise InvalidCaseError(
                    f"execution.{name} is read by backend diffusers only, and SGLang would ignore it",
                    place=case.id,
                    remedy="give SGLang's own arguments in runtime_args",
                )
        if case.loader != type(case.loader)():
            raise InvalidCaseError(
                "`loader` is read by backend diffusers only: SGLang reads the bytes as its own rules say",
                place=case.id,
                remedy="take `loader` out of the case",
            )

    def _ask(self, method: str, params: Mapping[str, Any], emit: Emit, place: str, *, loading: bool = False) -> Any:
        if self._process is None:
            raise InfraError("the runtime is not running", place=place, kind="crash")
        try:
            return self._process.ask(method, params, emit)
        except RuntimeAnswerError as error:
            raise error.to_error(self._runtime, place, loading=loading) from None

    def generate(self, case: Case, out_dir: Path, emit: Emit) -> Generation:
        """Run one case and write the clip below ``out_dir``.

        Raises:
            InvalidCaseError: SGLang would ignore or change a setting of the case.
            InfraError: no memory, a crash.
        """
        return self.generate_with(case, out_dir, emit, None)

    def generate_with(self, case: Case, out_dir: Path, emit: Emit, noise: Any) -> Generation:
        """Generate with disturbed latents if ``noise`` is given. The trace names the undisturbed latents."""
        from safetensors.numpy import load_file

        latents, digest, disturbance = self._inputs(case, out_dir, noise)
        given = self._write_pictures(case, out_dir)
        frames_file = out_dir / "frames.safetensors"
        params: dict[str, Any] = {
            "case": case.model_dump(mode="json"),
            "latents": str(latents),
            "pictures": {role: str(path) for role, path in given.items()},
            "out": str(frames_file),
        }
        if disturbance is not None:
            params |= {"disturb": str(disturbance), "disturb_dtype": noise.dtype}
        try:
            answer = self._ask("generate", params, emit, case.id)
            video: npt.NDArray[np.float32] = load_file(frames_file)["frames"]
        finally:
            for path in (frames_file, latents, disturbance, *given.values()):
                if path is not None:
                    path.unlink(missing_ok=True)
        clip = round_video(video)
        write_clip(out_dir / CLIP_FILE, clip, "raw")
        emit({"stage": "decode", "step": 1, "steps": 1})
        trace = {**answer["trace"], "initial_latents_sha256": digest}
        return Generation(
            clip=CLIP_FILE,
            clip_sha256=clip.digest,
            shape=clip.shape,
            float_stats=FloatStats.model_validate(answer["float_stats"]),
            trace=Trace.model_validate(trace),
            receipts=Receipts.model_validate({"modules": answer["receipts"]}),
            peak_memory_bytes=answer["peak_memory_bytes"],
            generate_seconds=answer["seconds"],
            usage=self._usage(answer),
        )

    def _usage(self, answer: Mapping[str, Any]) -> Usage:
        """Return the costs of the generation, by the host's clock: each step's sketches wait for the device."""
        self._generations += 1
        steps = answer["trace"]["steps"]
        return Usage(
            clock="host",
            steps=tuple(step.get("seconds", 0.0) for step in steps),
            experts=tuple(step["expert"] for step in steps),
            total=answer["seconds"],
            ordinal=self._generations,
            attention=str(self._facts.get("attention", "")),
            emulated=any("product" in str(line) for line in cast("list[str]", self._facts.get("emulated") or [])),
        )

    def _inputs(self, case: Case, out_dir: Path, noise: Any) -> tuple[Path, str, Path | None]:
        """Write the initial latents and the disturbance of each step. The digest covers the undisturbed latents."""
        import torch
        from safetensors.torch import save_file

        from harness.engine.noise import disturbed, initial_noise

        sampling, numbers = case.sampling, self._latent_shape
        shape = (
            1,
            numbers["z_dim"],
            (sampling.num_frames - 1) // numbers["scale_factor_temporal"] + 1,
            sampling.height // numbers["scale_factor_spatial"],
            sampling.width // numbers["scale_factor_spatial"],
        )
        latents = initial_noise(shape, sampling.seed)
        digest = hashlib.sha256(latents.numpy().tobytes()).hexdigest()
        disturbance: Path | None = None
        if noise is not None:
            generator = torch.Generator("cpu").manual_seed(noise.seed)
            if noise.initial:
                latents = disturbed(latents, noise.dtype, generator)
            if noise.between:
                steps = {
                    f"step.{number}": torch.randint(-1, 2, shape, generator=generator, dtype=torch.int8)
                    for number in range(sampling.num_inference_steps - 1)
                }
                disturbance = out_dir / "disturbance.safetensors"
                save_file(steps, disturbance)
        out_dir.mkdir(parents=True, exist_ok=True)
        path = out_dir / "latents.safetensors"
        save_file({"latents": latents}, path)
        return path, digest, disturbance

    def _write_pictures(self, case: Case, out_dir: Path) -> dict[str, Path]:
        """Write the case's pictures as PNG in the size of the video. Return the file by role.

        SGLang resizes by a rule of its own (bicubic, to a size that it computes from area and aspect ratio). That rule
        leaves a picture of the video's size unchanged, so only the rule of the case takes effect.

        Raises:
            InvalidCaseError: a picture is missing, was changed, or cannot be decoded.
        """
        out_dir.mkdir(parents=True, exist_ok=True)
        files: dict[str, Path] = {}
        for role, picture in pictures.pictures_of(case, self._pictures).items():
            files[role] = out_dir / f"{role}.png"
            picture.save(files[role], "PNG")
        return files

    def close(self) -> None:
        """End the runtime's process, and remove its view of the checkpoint."""
        if self._process is not None:
            self._process.close()
            self._process = None
        self._view.close()

    def quantized_modules(self) -> dict[str, dict[str, str]]:
        """Return the formats that the checkpoints declare, read from headers."""
        return self._promised

    def runtime_facts(self) -> dict[str, Json]:
        """Return the runtime's settings after loading: configuration, shift, boundary, precision, emulations."""
        return self._facts

    def fingerprint(self, runner: str) -> Fingerprint:
        """Return packages and device of the runtime's interpreter."""
        from harness.engine.fingerprint import take_fingerprint

        fingerprint = take_fingerprint(runner, "cpu")
        answer = self._ask("fingerprint", {}, lambda _: None, "")
        packages = {**answer["packages"], "quantgate": fingerprint.packages.get("quantgate", "")}
        update: dict[str, Any] = {
            "packages": {name: version for name, version in packages.items() if version},
            "python": answer["python"],
            "threads": answer["threads"],
            "cpu_capability": answer["cpu_capability"],
            "cuda": answer["cuda"],
        }
        if answer["device"] is not None:
            from harness.machine.devices import driver_version
            from harness.records.identity import Device

            update |= {"device": Device.model_validate(answer["device"]), "driver": driver_version()}
        return fingerprint.model_copy(update=update)

    def methods(self) -> Mapping[str, Method]:
        """Return ``generate_perturbed``, ``record_probes`` and ``probe``."""
        from harness.engine.noise import noise_methods

        def record(params: dict[str, Json], emit: Emit) -> Json:
            case, out = Case.model_validate(params["case"]), Path(str(params["out"]))
            latents, _, _ = self._inputs(case, out.parent, None)
            given = self._write_pictures(case, out.parent)
            arguments = {
                "case": case.model_dump(mode="json"),
                "latents": str(latents),
                "pictures": {role: str(path) for role, path in given.items()},
                "out": str(out),
            }
            try:
                answer: Json = self._ask("record_probes", arguments, emit, case.id)
            finally:
                for path in (latents, *given.values()):
                    path.unlink(missing_ok=True)
            return answer

        def probe(params: dict[str, Json], emit: Emit) -> Json:
            answer: Json = self._ask("probe", {key: str(params[key]) for key in ("inputs", "out")}, emit, "")
            return answer

        return {**noise_methods(self), "record_probes": record, "probe": probe}


def promised_formats(paths: Mapping[str, Path]) -> dict[str, dict[str, str]]:
    """Return expert to module to format, by the stored weight's dtype, without unquantized experts."""
    promised: dict[str, dict[str, str]] = {}
    for role in EXPERTS:
        folder = paths["model"] / role
        if role in paths:
            with contextlib.suppress(CheckpointFaultError):
                folder = override_folder(paths[role], role)
        try:
            headers = read_headers(folder)
        except CheckpointFaultError:
            continue  # the runtime reads the same files, and its own error is more precise
        declaration = None
        with contextlib.suppress(CheckpointFaultError):
            declaration = read_config(folder).get("quantization_config")
        formats = formats_promised(headers, declaration if isinstance(declaration, dict) else {})
        if formats:
            promised[role] = formats
    return promised


def _vae_numbers(model: Path) -> dict[str, int]:
    """Return the VAE's channels and strides, which determine the shape of the latents."""
    config = read_config(model / "vae", remedy=f"quantgate inspect {shlex.quote(str(model))}")
    return {name: int(config.get(name) or default) for name, default in LATENT_DEFAULTS.items()}
