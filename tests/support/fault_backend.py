"""A backend for tests: it does what the prompt says, also what a broken runtime would do."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from harness.definitions.case import Case
from harness.engine.backend import Emit, Method
from harness.errors import CheckpointFaultError, InvalidCaseError
from harness.frames.clip import Clip, write_clip
from harness.records.base import Json
from harness.records.generation import FloatStats, Generation, Receipts, Trace

SLEEPER = "import time; time.sleep(600)"


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


def _spawn(out_dir: Path) -> None:
    children = [subprocess.Popen([sys.executable, "-c", SLEEPER], start_new_session=escape) for escape in (False, True)]
    grandchild = (
        "import subprocess, sys; "
        f"child = subprocess.Popen([sys.executable, '-c', {SLEEPER!r}], stdout=-3, stderr=-3, start_new_session=True); "
        "print(child.pid)"
    )
    orphan = subprocess.run([sys.executable, "-c", grandchild], capture_output=True, text=True, check=True)
    pids = [str(child.pid) for child in children] + [orphan.stdout.strip()]
    (out_dir / "pids").write_text("\n".join(pids))


def _spawn_all_kinds(out_dir: Path) -> None:
    """Children, grandchildren of every way to get away, and one that forks for ever in sessions of its own."""
    _spawn(out_dir)
    daemon = (
        "import os, sys, time\n"
        "if os.fork(): os._exit(0)\n"
        "os.setsid()\n"
        "if os.fork(): os._exit(0)\n"
        "open(sys.argv[1], 'a').write(f'\\n{os.getpid()}')\n"
        "time.sleep(600)\n"
    )
    deaf = (
        "import os, signal, sys, time\n"
        "for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT): signal.signal(number, signal.SIG_IGN)\n"
        "open(sys.argv[1], 'a').write(f'\\n{os.getpid()}')\n"
        "time.sleep(600)\n"
    )
    for program in (daemon, deaf):
        subprocess.Popen([sys.executable, "-c", program, str(out_dir / "pids")], start_new_session=program == deaf)
    deadline = time.monotonic() + 20
    while len((out_dir / "pids").read_text().split()) < 5 and time.monotonic() < deadline:
        time.sleep(0.02)


def _fork_bomb() -> None:
    while True:
        os.fork()
        time.sleep(0.05)


def _raise(error: Exception) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


def _print(out: int) -> None:
    for _ in range(2000):
        os.write(out, b'{"id": 1, "event": "result", "data": null}\n')
    print("library chatter, secret=" + os.environ.get("FAULT_SECRET", "none"), flush=True)


class FaultBackend:
    """Loads nothing; the prompt of a case is the fault that it injects."""

    def load(self, case: Case, paths: Mapping[str, Path], device: str, emit: Emit) -> None:
        self._paths = dict(paths)
        emit({"stage": "load", "step": 1, "steps": 1})
        fault = case.env.get("FAULT_AT_LOAD")
        if fault == "checkpoint":
            raise CheckpointFaultError(
                "no weight_scale", place="transformer", remedy="export again", code="scale_missing"
            )
        if fault == "exit":
            os._exit(3)

    def generate(self, case: Case, out_dir: Path, emit: Emit) -> Generation:
        fault = case.sampling.prompt
        acts: dict[str, Callable[[], object]] = {
            "segfault": lambda: ctypes.string_at(0),
            "exit": lambda: os._exit(7),
            "hang": lambda: time.sleep(600),
            "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
            "sigkill": lambda: os.kill(os.getpid(), signal.SIGKILL),
            "exception": _raise(ValueError("something odd")),
            "oom": _raise(OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")),
            "memory_error": lambda: np.ones((1 << 50,)),
            "device": _raise(RuntimeError("CUDA error: an illegal memory access was encountered")),
            "secret": _raise(ValueError("token " + os.environ.get("FAULT_SECRET", "none"))),
            "refuse": _raise(InvalidCaseError("no such size")),
            "noise": lambda: (_print(1), _print(2)),
            "noise_then_hang": lambda: (_print(1), emit({"stage": "said", "step": 1, "steps": 1}), time.sleep(600)),
            "children_then_hang": lambda: (_spawn(out_dir), time.sleep(600)),
            "children_then_crash": lambda: (_spawn(out_dir), os._exit(9)),
            "children": lambda: _spawn(out_dir),
            "all_kinds": lambda: (
                _spawn_all_kinds(out_dir),
                emit({"stage": "spawned", "step": 1, "steps": 1}),
                time.sleep(600),
            ),
            "fork_bomb": _fork_bomb,
            "nonsense": lambda: self._write_to_protocol(b"this is no JSON\n"),
        }
        for step in range(case.sampling.num_inference_steps):
            emit({"stage": "denoise", "step": step + 1, "steps": case.sampling.num_inference_steps, "seconds": 0.0})
        if fault in acts:
            acts[fault]()
        if fault == "wrong_record":
            return Trace(steps=())  # type: ignore[return-value]
        frames = np.full((2, 8, 8, 3), case.sampling.seed % 256, dtype=np.uint8)
        clip = Clip(frames)
        path = write_clip(out_dir / "clip.safetensors", clip, "raw")
        name = path.name
        if fault == "clip_elsewhere":
            name = f"../{path.rename(out_dir.parent / 'stray.safetensors').name}"
        if fault == "clip_absolute":
            name = str(path)
        if fault == "clip_link":
            name = path.rename(out_dir / "moved.safetensors").name
            path.symlink_to(out_dir / name)
            name = path.name
        return Generation(
            clip=name,
            clip_sha256=clip.digest,
            shape=clip.shape,
            float_stats=FloatStats(nan=0, inf=0, minimum=0.0, maximum=1.0),
            trace=Trace(steps=()),
            receipts=Receipts(modules=()),
        )

    @staticmethod
    def _write_to_protocol(data: bytes) -> None:
        os.write(int(sys.argv[sys.argv.index("--events") + 1]), data)
        time.sleep(600)

    def close(self) -> None:
        """Nothing to let go of."""

    def quantized_modules(self) -> dict[str, dict[str, str]]:
        return {"transformer": {"blocks.0.ffn.net.2": "nvfp4"}}

    def methods(self) -> Mapping[str, Method]:
        return {"environment": self._environment, "echo": lambda params, _emit: dict(params)}

    @staticmethod
    def _environment(_params: dict[str, Json], _emit: Emit) -> Json:
        return dict(os.environ)
