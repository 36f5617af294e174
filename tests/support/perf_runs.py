"""Records of runs made up of seconds and bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from builders import bare_generation, make_case, make_record

from harness.definitions.case import Case
from harness.outcomes import Outcome
from harness.records.case_record import CaseRecord
from harness.records.generation import EngineStart, Generation, ModuleReceipt, Receipts
from harness.records.identity import Device, Fingerprint
from harness.records.perf import Conditions, LoadUsage, StageMemory, Usage
from harness.records.verdict import Verdict

MIB = 2**20
GIB = 2**30
STEPS = 13


def case(**perf: Any) -> Case:
    """Return a case of one frame in thirteen steps."""
    sampling = {"height": 16, "width": 16, "num_frames": 1, "num_inference_steps": STEPS}
    return make_case(id="wan", runners=["h200"], perf=perf, sampling=sampling)


class Machine:
    """Makes runs of one machine, whose speed scatters by 1 % from run to run and by 2 % from step to step."""

    def __init__(self, seed: int = 0, name: str = "GPU-a", speed: float = 1.0, pool: str = "") -> None:
        self.random, self.name, self.speed, self.pool = np.random.default_rng(seed), name, speed, pool

    def generation(
        self,
        slower: float = 1.0,
        *,
        ordinal: int = 1,
        peak: int = 20 * GIB,
        before: int = 10 * GIB,
        grows: int = 0,
        kernel: str = "torch._scaled_mm",
        steps: int = STEPS,
        by_step: Callable[[int], float] = lambda _: 1.0,
        **more: Any,
    ) -> Generation:
        """One generation, ``slower`` times as long as usual."""
        speed = self.speed * slower * float(np.exp(self.random.normal(0, 0.01)))
        noise = np.exp(self.random.normal(0, 0.02, steps + 2))
        seconds = tuple(float(0.5 * speed * noise[place] * by_step(place)) for place in range(steps))
        usage = Usage(
            clock="device",
            steps=(seconds[0] * 3 if ordinal == 1 else seconds[0], *seconds[1:]),
            experts=tuple("transformer" if place < steps // 2 else "transformer_2" for place in range(steps)),
            text_encoder=float(0.1 * noise[-1]),
            vae=float(0.8 * noise[-2]),
            total=sum(seconds) + 2,
            memory=(StageMemory(stage="denoise", allocated=peak, reserved=peak + 512 * MIB),),
            allocated_before=before,
            allocated_after=before + 4 * MIB + grows,
            ordinal=ordinal,
            attention="native",
        )
        receipts = Receipts(
            modules=tuple(
                ModuleReceipt(expert=expert, module="blocks.0.to_q", format="fp8", kernel=kernel, calls=26)
                for expert in ("transformer", "transformer_2")
            )
        )
        return bare_generation(
            clip_sha256="0" * 64,
            shape=(1, 16, 16, 3),
            receipts=receipts,
            generate_seconds=usage.total,
            usage=usage.model_copy(update=more),
        )

    def conditions(self, **changes: Any) -> Conditions:
        """A quiet machine."""
        quiet = Conditions(
            machine=self.name, pool=self.pool, samples=20, sm_clock=1755, waiting=0.001, host_before=2 * GIB,
            host_peak=3 * GIB, host_after=2 * GIB + 8 * MIB,
        )  # fmt: skip
        return quiet.model_copy(update=changes)

    def engine(self, **load: Any) -> EngineStart:
        """An engine that loaded once, from a warm cache."""
        usage = LoadUsage(checkpoint_bytes=14 * GIB, cache_resident=1.0, read_seconds=0.01, place_seconds=20.0)
        return EngineStart(engine="e", process=7, load_seconds=20, loads=1, load=usage.model_copy(update=load))

    def record(self, number: int, generation: Generation | None = None, /, **changes: Any) -> CaseRecord:
        """The record of a run on day ``number``."""
        whole = make_record(
            run=f"run-{number:03}",
            case="wan",
            node="cases/wan.yaml::wan",
            source="cases/wan.yaml:1",
            golden=None,
            runner="h200",
            started=f"2026-{1 + number // 28:02}-{1 + number % 28:02}T03:00:00+00:00",
            request=case().model_dump(mode="json"),
            verdict=Verdict(outcome=Outcome.PASS, cause="none", summary="passed"),
            fingerprint=Fingerprint(
                runner="h200",
                device=Device(kind="cuda", name="NVIDIA H200", uuid=self.name),
                driver="580.1",
                packages={"torch": "2.11.0", "diffusers": "0.42.1"},
                code=f"{number:040x}",
            ),
            engine=self.engine(),
            generation=generation or self.generation(),
            conditions=self.conditions(),
        )
        return whole.model_copy(update=changes)

    def history(self, runs: int = 12, start: int = 0) -> list[CaseRecord]:
        """Records of healthy runs, one a day."""
        return [self.record(start + number) for number in range(runs)]
