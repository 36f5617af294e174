"""What the harness costs a case: ``python -m benchmarks.overhead [--shape 832x480x81] [--steps 40] [--layers 40]``.

The same pipeline on the same device twice, in turn: a bare loop in this process that calls ``WanPipeline`` and takes
its frames, and a session that does everything a case asks for: engine process and protocol, inspection, trace and
receipts, lossless clip on disk, identity, golden, metrics, verdict, record. Both are warm; the ratio is of medians.

A failing case looks for its cause, and generates again to find it. At sizes it was not trained on the embedded model
draws frames that sanity calls flat, which a healthy model does not: so no cause is looked for here, and no candidate
is left.

What a case costs does not grow with the length of a step. ``--layers 40`` gives the embedded model as many layers as
A14B has, 26 times narrower, and the same video: the ratio is an upper bound of what it is on A14B at that shape.
``--width`` makes it wider too (``python -m tiny.tile``); ``benchmarks.real_size`` does all of this at 14.8 B an expert.
"""

from __future__ import annotations

import argparse
import shutil
import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from harness.definitions.case import Case, Located
from harness.definitions.loading import load_cases
from harness.definitions.runner import RunnerProfile, load_runners, match_runner
from harness.engine.backends.diffusers_backend import DiffusersBackend
from harness.engine.resolve import resolve_case
from harness.goldens.accept import accept
from harness.goldens.refusing import Allow
from harness.goldens.store import open_store
from harness.goldens.workspace import Workspace
from harness.machine.devices import cpu_device, gpu_devices
from harness.machine.leases import Lease, acquire
from harness.records.case_record import CaseRecord
from harness.session.conductor import Session
from harness.session.context import SessionContext, devices_for
from tiny.tile import tile

ROOT = Path(__file__).parents[1]


def chosen_case(name: str, shape: str, steps: int, runner: str, model: Path | None) -> Located:
    """A case of ``cases/tiny.yaml``, at another shape where one is given as WIDTHxHEIGHTxFRAMES, with other steps."""
    located = {item.case.id: item for item in load_cases([ROOT / "cases/tiny.yaml"], ROOT)}[name]
    changes: dict[str, Any] = {"runners": (runner,)}
    update: dict[str, int] = {"num_inference_steps": steps} if steps else {}
    if shape:
        update |= dict(zip(("width", "height", "num_frames"), map(int, shape.split("x")), strict=True))
    if model is not None:
        changes["model"] = located.case.model.model_copy(update={"path": str(model)})
    changes["sampling"] = located.case.sampling.model_copy(update=update)
    return located.model_copy(update={"case": located.case.model_copy(update=changes)})


class BareLoop:
    """The pipeline as a script would call it."""

    def __init__(self, case: Case, device: str, root: Path = ROOT) -> None:
        self.case = case
        self._backend = DiffusersBackend()
        self._backend.load(case, resolve_case(case, root), device, lambda _: None)

    def seconds(self) -> float:
        """Wall time of one generation, frames in host memory."""
        case, pipe = self.case, self._backend.pipe
        sampling, (device, _) = case.sampling, self._backend.compute
        begin = time.perf_counter()
        pipe.scheduler = self._backend.scheduler(case)
        frames = pipe(
            prompt=sampling.prompt,
            negative_prompt=sampling.negative_prompt,
            height=sampling.height,
            width=sampling.width,
            num_frames=sampling.num_frames,
            num_inference_steps=sampling.num_inference_steps,
            guidance_scale=sampling.guidance_scale,
            guidance_scale_2=sampling.guidance_scale_2,
            latents=self._backend.initial_latents(case).to(device),
            output_type="np",
            max_sequence_length=sampling.max_sequence_length,
        ).frames[0]
        if frames.shape[0] != sampling.num_frames:
            raise SystemExit(f"{frames.shape[0]} frames came out, not {sampling.num_frames}")
        return time.perf_counter() - begin


class Harness:
    """The same case through a session, against a golden of its own."""

    def __init__(self, located: Located, profile: RunnerProfile, lease: Lease, root: Path) -> None:
        shutil.copytree(ROOT / "runners", root / "runners")
        (root / "tiny").symlink_to(ROOT / "tiny")
        self._located = located
        self.session = Session(
            SessionContext(
                root=root,
                run="overhead",
                runs_dir=root / "runs",
                runner=profile,
                device=lease.device,
                store=open_store(root / "goldens"),
                thresholds=root / "thresholds",
                device_env=lease.env,
                attribution_seconds=0,
            )
        )
        self._run()
        accept(
            Workspace(root),
            located.case.id,
            reason="benchmark",
            author="benchmark",
            runner=profile.name,
            allow=Allow(unseen=True),  # nobody looks at it, and it is used for a minute
        )
        self.session.context = replace(self.session.context, leave_candidates=False)

    def _run(self) -> CaseRecord:
        return self.session.run_case(self._located, f"{self._located.path}::overhead", lambda _: None).record

    def seconds(self) -> tuple[float, CaseRecord]:
        """Wall time of one case, and its record."""
        begin = time.perf_counter()
        record = self._run()
        spent = time.perf_counter() - begin
        if record.generation is None or record.comparison is None or record.attribution is not None:
            raise SystemExit(
                f"this is not what a healthy case costs: {record.verdict.outcome}: {record.verdict.summary}"
            )
        return spent, record


def main() -> None:
    """Print both times, where the difference goes, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", default="bf16", help="a case of cases/tiny.yaml")
    parser.add_argument("--shape", default="", help="WIDTHxHEIGHTxFRAMES; default: the case's own")
    parser.add_argument("--steps", type=int, default=0, help="denoising steps; default: the case's own")
    parser.add_argument("--layers", type=int, default=0, help="of a deeper model; default: the case's own model")
    parser.add_argument("--width", type=int, default=0, help="of a wider model, 192 times a power of two")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--runner", default="", help="default: what this machine is")
    options = parser.parse_args()
    profiles = load_runners(ROOT / "runners")
    gpus = gpu_devices()
    profile = profiles[options.runner] if options.runner else match_runner((*gpus, cpu_device())[0], profiles)
    with TemporaryDirectory() as folder, acquire(devices_for(profile), 60) as lease:
        larger = options.layers or options.width
        model = tile(Path(folder), "base", options.width or 192, options.layers or 6) if larger else None
        located = chosen_case(options.case, options.shape, options.steps, profile.name, model)
        harness = Harness(located, profile, lease, Path(folder))
        try:
            bare = BareLoop(located.case, lease.device.kind)
            bare.seconds()
            harness.seconds()
            alone, with_quantgate, records = [], [], []
            for _ in range(options.repeats):
                alone.append(bare.seconds())
                spent, record = harness.seconds()
                with_quantgate.append(spent)
                records.append(record)
        finally:
            harness.session.close()
    sampling = located.case.sampling
    shape = f"{sampling.width}x{sampling.height}x{sampling.num_frames}, {sampling.num_inference_steps} steps"
    layers = f" of width {options.width or 192} and {options.layers or 6} layers" if larger else ""
    print(f"{options.case}{layers} at {shape} on {profile.name} ({lease.device.name}), median of {options.repeats}")
    print(f"bare loop   {median(alone):8.3f} s")
    print(f"harness     {median(with_quantgate):8.3f} s")
    for stage in ("inspect", "load", "generate", "compare"):
        print(f"  {stage:9} {median(getattr(record.timing, stage) for record in records):8.3f} s")
    print(f"ratio       {median(with_quantgate) / median(alone):8.3f}")


if __name__ == "__main__":
    main()
