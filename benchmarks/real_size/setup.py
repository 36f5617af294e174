"""Where the models of real size lie, the project that tests them, and caches that are emptied on purpose."""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.definitions.case import Case, Located
from harness.definitions.runner import RunnerProfile
from harness.goldens.folder import FolderStore
from harness.machine.devices import cpu_device, gpu_devices
from harness.machine.leases import device_environment
from harness.records.identity import Device
from harness.session.context import SessionContext
from tiny.tile import FORMATS, TileFormat, is_made, model_bytes

SOURCE = Path(__file__).parents[2]
RUNNER = "bench"
PROMPT = "a red circle moving right on a blue background"
SPARE_BYTES = 2 << 30
"""What stays free beside the models: clips, goldens, logs."""


class NoRoomError(Exception):
    """No folder that was named has room for a model."""


@dataclass(frozen=True)
class Shape:
    """Size of a clip and number of denoising steps."""

    width: int
    height: int
    frames: int
    steps: int

    @classmethod
    def parse(cls, text: str) -> Shape:
        """``640x384x17@12``: width, height, frames, steps.

        Raises:
            ValueError: it is not of that form.
        """
        match = re.fullmatch(r"(\d+)x(\d+)x(\d+)@(\d+)", text)
        if match is None:
            raise ValueError(f"{text!r} is not WIDTHxHEIGHTxFRAMES@STEPS, such as 640x384x17@12")
        width, height, frames, steps = map(int, match.groups())
        return cls(width, height, frames, steps)

    def __str__(self) -> str:
        return f"{self.width}x{self.height}x{self.frames}@{self.steps}"


@dataclass(frozen=True)
class Setup:
    """What the steps of the benchmark share; nothing in it changes while they run."""

    work: Path
    """Project, runs, goldens and caches."""
    places: tuple[Path, ...]
    """Folders that may take models, best first."""
    width: int
    layers: int
    shapes: tuple[Shape, ...]
    device: str
    """``cpu`` or ``cuda``."""

    @property
    def project(self) -> Path:
        """A repository of its own: runner, models (as links), goldens, limits."""
        return self.work / "project"

    def model(self, form: TileFormat) -> Path:
        """Folder of one model, as it is written in the cases."""
        return self.project / "models" / form

    def present(self, form: TileFormat) -> bool:
        """Whether a model is there, whole and of this size."""
        return is_made(self.model(form), form, self.width, self.layers)

    def place_for(self, form: TileFormat) -> Path:
        """The first folder with room for a model.

        Raises:
            NoRoomError: none has it.
        """
        needed = model_bytes(form, self.width, self.layers) + SPARE_BYTES
        lines = []
        for place in self.places:
            place.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(place).free
            if free >= needed or (place / form).is_dir():
                return place
            lines.append(f"{place} has {free / 1e9:.1f} GB free")
        raise NoRoomError(f"the {form} model needs {needed / 1e9:.1f} GB: {'; '.join(lines)}; name more with --at")

    def link(self, form: TileFormat, folder: Path) -> None:
        """Make a model part of the project."""
        link = self.model(form)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(folder, target_is_directory=True)

    def this_device(self) -> Device:
        """The device that is measured.

        Raises:
            SystemExit: there is no GPU.
        """
        if self.device == "cpu":
            return cpu_device()
        gpus = gpu_devices()
        if not gpus:
            raise SystemExit("there is no GPU in this machine; --device cpu measures the CPU")
        return gpus[0]

    def profile(self) -> RunnerProfile:
        """A runner profile of exactly this machine, whatever card it has."""
        device = self.this_device()
        fields: dict[str, Any] = {
            "name": RUNNER,
            "device_kind": device.kind,
            "marker": RUNNER,
            "labels": ["self-hosted"],
        }
        if device.kind == "cpu":
            return RunnerProfile(**fields, architectures=(platform.machine(),))
        major = int((device.compute_capability or "0").partition(".")[0])
        native = ("bf16", "fp8", "nvfp4") if major >= 10 else ("bf16", "fp8") if major >= 9 else ("bf16",)
        capability = device.compute_capability
        return RunnerProfile(
            **fields, device_names=(device.name,), compute_capability=capability, native_formats=native
        )

    def context(self, run: str, **more: Any) -> SessionContext:
        """A session's context in the project."""
        device, root = self.this_device(), self.project
        return SessionContext(
            root=root,
            run=run,
            runs_dir=root / "runs",
            runner=self.profile(),
            device=device,
            store=FolderStore(root / "goldens"),
            thresholds=root / "thresholds",
            device_env=device_environment(device),
            **more,
        )

    def located(self, form: TileFormat, shape: Shape, **more: Any) -> Located:
        """A case of one format and shape."""
        name = f"{form}_{shape.width}x{shape.height}x{shape.frames}"
        data: dict[str, Any] = {
            "id": name,
            "runners": [RUNNER],
            "model": {"path": f"./models/{form}"},
            "sampling": {
                "prompt": PROMPT,
                "width": shape.width,
                "height": shape.height,
                "num_frames": shape.frames,
                "num_inference_steps": shape.steps,
                "guidance_scale": 3.0,
                "guidance_scale_2": 3.0,
                "max_sequence_length": 64,
            },
            "timeouts": {"load": 400, "generate": 400},
        }
        if form != "base":
            data["quantization"] = {"transformer": form, "transformer_2": form}
            data["base"] = {"path": "./models/base"}
        return Located(case=Case.model_validate(data | more), path=self.project / "case.yaml", line=1)


def drop_from_cache(folder: Path) -> str:
    """Take the files of a folder out of the page cache, so that the next read comes from the disk.

    Returns:
        ``cold``; or ``in memory`` where the folder lies in memory itself.
    """
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)
    return "in memory" if _filesystem(folder.resolve()) in ("tmpfs", "ramfs") else "cold"


def _filesystem(folder: Path) -> str:
    best, kind = "", ""
    for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines():
        _, mount, name, *_ = line.split()
        if (folder == Path(mount) or str(folder).startswith(mount.rstrip("/") + "/")) and len(mount) >= len(best):
            best, kind = mount, name
    return kind


@contextmanager
def fresh_cache() -> Iterator[Path]:
    """An empty cache of digests and proofs, for this process and for those that it starts."""
    before = os.environ.get("QUANTGATE_CACHE")
    with tempfile.TemporaryDirectory(prefix="real-size-cache-") as folder:
        os.environ["QUANTGATE_CACHE"] = folder
        try:
            yield Path(folder)
        finally:
            if before is None:
                os.environ.pop("QUANTGATE_CACHE", None)
            else:
                os.environ["QUANTGATE_CACHE"] = before


__all__ = ["FORMATS", "NoRoomError", "Setup", "Shape", "drop_from_cache", "fresh_cache"]
