"""A golden with probes, limits and an engine that can be broken, for ``benchmarks.attribution``."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.faults.engine import FAULT_FILE
from benchmarks.power.checkpoints import prepare as break_export
from benchmarks.power.design import GENERATED
from harness.calibrate.apply import apply
from harness.calibrate.regenerate import Plan, measure
from harness.definitions.case import Case, Located
from harness.definitions.checks import with_digests
from harness.definitions.runner import load_runners, match_runner
from harness.goldens.folder import FolderStore
from harness.goldens.golden import Golden
from harness.goldens.workspace import Workspace
from harness.machine.devices import cpu_device, gpu_devices
from harness.machine.leases import device_environment
from harness.records.base import write_text_atomic
from harness.session.context import SessionContext
from harness.session.perturbation import Perturbation, by_name, cpu_flags, plan

ROOT = Path(__file__).parents[1]
CASE_ID = "attribution"
PICTURE = "red_circle_on_blue.png"


class FaultFile:
    """The file that tells the engine what to break."""

    def __init__(self) -> None:
        self.path: Path | None = None

    def at(self, path: Path) -> None:
        """Use this file; healthy at first."""
        self.path = path
        os.environ[FAULT_FILE] = str(path)
        self.set([])

    def set(self, specs: list[dict[str, Any]]) -> None:
        """Break this, from the next call on."""
        if self.path is None:
            raise RuntimeError("no fault file yet")
        write_text_atomic(self.path, json.dumps(specs))


FAULTS = FaultFile()


@dataclass(frozen=True)
class Bench:
    """Everything that a fault is run against."""

    context: SessionContext
    located: Located
    golden: Golden
    quantized: dict[str, tuple[str, ...]]
    """Quantized Linears by expert, from the receipts of the golden's run."""
    code: str

    @property
    def golden_clip(self) -> Path:
        """The golden's frames."""
        return self.golden.open_part("clip")


def prepare(folder: Path, device: str, form: str, matmul: str = "auto", model: str = "t2v") -> Bench:
    """Snapshot weights, export, measure golden and limits, all below ``folder``; what is there is used again.

    ``model``: the embedded ``t2v``, ``i2v`` or ``ti2v``.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    FAULTS.at(folder / "fault.json")
    (folder / "tiny" / "broken").mkdir(parents=True, exist_ok=True)
    _checkpoints(folder, form, model)
    profiles = load_runners(ROOT / "runners")
    print_ = (gpu_devices() or (None,))[0] if device == "cuda" else cpu_device()
    if print_ is None:
        raise SystemExit("there is no GPU here")
    profile = match_runner(print_, profiles)
    context = SessionContext(
        root=folder,
        run="faults",
        runs_dir=folder / "runs",
        runner=profile,
        device=print_,
        store=FolderStore(folder / "goldens"),
        thresholds=folder / "thresholds",
        device_env=device_environment(print_),
        leave_candidates=False,
        allow_python_backend=True,
    )
    located = Located(case=_case(form, profile.name, matmul, model, folder), path=folder / "case.yaml", line=1)
    if not context.store.find(profile.name, CASE_ID):
        _measure(context, located, device)
    golden = context.store.find(profile.name, CASE_ID)[0]
    from harness.judge.observation import read_observation

    formats = read_observation(golden.open_part("sketches")).index.formats
    quantized = {
        str(expert): tuple(name for name, kind in names.items() if kind in ("fp8", "nvfp4"))
        for expert, names in formats.items()
    }
    return Bench(context, located, golden, quantized, golden.manifest.provenance.code)


def _checkpoints(folder: Path, form: str, model: str) -> None:
    from tiny.export import CALIBRATION, WEIGHTS, export

    if model != "t2v":
        _image_checkpoints(folder, form, model)
        return
    if not (folder / "tiny" / "weights").exists():
        shutil.copytree(WEIGHTS, folder / "tiny" / "weights")
        shutil.copy(CALIBRATION, folder / "tiny" / "calibration.json")
    if not (folder / "tiny" / "exports" / form).exists():
        export(form, folder / "tiny" / "exports", folder / "tiny" / "weights", folder / "tiny" / "calibration.json")


def _image_checkpoints(folder: Path, form: str, model: str) -> None:
    from tiny.export_variants import export

    tiny = folder / "tiny"
    if not (tiny / "weights").exists():
        export(model, tiny).rename(tiny / "weights")
        shutil.copy(ROOT / "cases" / "images" / PICTURE, folder / PICTURE)
    if not (tiny / "exports" / form).exists():
        (tiny / "exports").mkdir(exist_ok=True)
        export(f"{model}-{form}", tiny / "made").rename(tiny / "exports" / form)


def broken_checkpoint(bench: Bench, kind: str) -> Located:
    """Return the case with an export that is broken on disk.

    ``kind``: ``stale`` (quantized from another base), ``nibbles`` (packed the other way), or the name of a broken
    export of ``benchmarks.power``. An export that an earlier call has broken is used again.
    """
    from dataclasses import replace as changed

    import numpy as np

    from tiny.export import EXPORTS, export
    from tiny.tensorfile import of, read, write

    tiny = bench.context.root / "tiny"
    name, target = "nvfp4", tiny / "broken" / kind
    listed = {task.name: task for task in GENERATED if task.kind == "checkpoint"}
    if kind in listed:
        if not target.exists():
            engine = listed[kind].engine
            made = tiny / "breaking"
            shutil.rmtree(made, ignore_errors=True)
            break_export(engine, tiny / "exports" / name, made, tiny / "weights").rename(target)
    elif not target.exists() and kind == "stale":
        weights = tiny / "weights-stale"
        shutil.copytree(tiny / "weights", weights, dirs_exist_ok=True)
        random = np.random.default_rng(3)
        for expert in ("transformer", "transformer_2"):
            path = weights / expert / "diffusion_pytorch_model.safetensors"
            tensors = read(path)
            for key, tensor in tensors.items():
                if key.startswith("blocks.") and key.endswith(".weight") and tensor.array.ndim == 2:
                    values = tensor.float32()
                    noise = random.normal(size=values.shape).astype(np.float32) * values.std() * np.float32(0.05)
                    tensors[key] = of(tensor.dtype, values + noise)
            write(path, tensors)
        export(name, tiny / "broken-by", weights, tiny / "calibration.json").rename(target)
    elif not target.exists():
        EXPORTS["nvfp4-nibbles"] = changed(EXPORTS[name], nibbles="high_first")
        export("nvfp4-nibbles", tiny / "broken-by", tiny / "weights", tiny / "calibration.json").rename(target)
    model = bench.located.case.model.model_copy(update={"path": f"./tiny/broken/{kind}"})
    return bench.located.model_copy(update={"case": bench.located.case.model_copy(update={"model": model})})


def _case(form: str, runner: str, matmul: str, model: str = "t2v", folder: Path = ROOT) -> Case:
    data: dict[str, Any] = {
        "id": CASE_ID,
        "runners": [runner],
        "backend": "benchmarks.faults.engine:FaultBackend",
        "model": {"path": f"./tiny/exports/{form}"},
        "base": {"path": "./tiny/weights"},
        "quantization": {"transformer": form, "transformer_2": form},
        "pass_env": [FAULT_FILE],
        "execution": {"matmul": matmul},
        "sampling": {
            "prompt": "a red circle moving right on a blue background",
            "width": 96,
            "height": 64,
            "num_frames": 17,
            "num_inference_steps": 8,
            "guidance_scale": 3.0,
            "guidance_scale_2": 3.0,
            "max_sequence_length": 64,
        },
        "timeouts": {"load": 1800, "generate": 1800},
    }
    if model != "t2v":
        data["sampling"]["image"] = {"path": f"./{PICTURE}"}
        data["scheduler"] = {"flow_shift": 5.0, "boundary_ratio": 0.9}
    if model == "ti2v":
        data["quantization"] = {"transformer": form}
    return with_digests(Case.model_validate(data), folder)


def _measure(context: SessionContext, located: Located, device: str) -> None:
    perturbations: tuple[Perturbation, ...] = plan(context.runner, cpu_flags())
    if device == "cpu":
        perturbations = (by_name("isa-default"), *(item for item in perturbations if item.name == "threads-2"))
    wanted = Plan(perturbations=perturbations, repeats=12, controls="frames", reason="benchmark", report_line=print)
    (proposal,) = measure(context, (located,), wanted, lambda _event: None)
    apply(Workspace(context.root), proposal, reason="benchmark", author="benchmark")
