"""One output, held against its golden: by the harness's own stages and by every peer's rule."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.faults.output import GROSS, apply
from benchmarks.power.design import HELD_OUT
from benchmarks.power.result import Result
from benchmarks.power.rules import apply_peers
from harness.calibrate.faults.spoiling import SPOILS, STRENGTHS, spoiled
from harness.calibrate.samples import rounding_samples
from harness.definitions.case import Case
from harness.frames.clip import Clip, read_clip
from harness.frames.compare import compare
from harness.frames.sanity import check_clip
from harness.judge.evidence import Evidence, GoldenEvidence
from harness.judge.observation import hold_against, read_observation
from harness.judge.verdict import observe
from harness.limits.probes import probe_values, trace_values
from harness.records.generation import Generation

if TYPE_CHECKING:
    from benchmarks.power.generate import Settings

Facts = Mapping[str, Any]


class Judge:
    """Judges outputs of one case."""

    def __init__(self, settings: Settings, case: Case, key: tuple[int, int]) -> None:
        self._case, self._key = case, key
        self._folder = settings.golden(key)
        generation = Generation.read(self._folder / "generation.json")
        self.golden = read_clip(self._folder / generation.clip)
        self._trace = generation.trace

    def probe(self, backend: Any, scratch: Path) -> dict[str, float]:
        """Probe measures of the engine that stands; empty where it cannot be probed with this recording."""
        inputs, out = self._folder / "probes.safetensors", scratch / "probe.safetensors"
        backend.methods()["probe"]({"inputs": str(inputs), "out": str(out)}, lambda _: None)
        anchor = read_observation(self._folder / "sketches.safetensors")
        return probe_values(hold_against(read_observation(out), read_observation(inputs), anchor))

    def judge(self, facts: Facts, clip: Clip, evidence: Facts, probes: Mapping[str, float]) -> Result:
        """Every rule's answer to one clip."""
        generation: Generation = evidence["generation"]
        sampling = self._case.sampling
        wanted = (sampling.num_frames, sampling.height, sampling.width, 3)
        whole_evidence = Evidence(
            case=self._case,
            node="",
            run_dir="",
            golden=GoldenEvidence("0" * 64, (), self._trace, None),
            sanity=check_clip(clip, wanted=wanted, float_stats=generation.float_stats),
            **evidence,
        )
        verdict, _ = observe(whole_evidence, "cpu")
        gating = [finding for finding in verdict.findings if finding.gating and finding.stage != "limits"]
        compared = compare(self.golden, clip, threads=1)
        return Result(
            prompt=self._key[0],
            seed=self._key[1],
            clip=clip.digest,
            bit_exact=compared.bit_exact,
            values={m.name: value for m in compared.metrics if (value := m.gating_value) is not None},
            probes={**probes, **trace_values(generation.trace, self._trace)},
            said=tuple(sorted({finding.code for finding in gating})),
            inspected=tuple(sorted({finding.code for finding in gating if finding.stage == "inspection"})),
            peers=apply_peers(self.golden, clip),
            **facts,
        )

    def refused(self, facts: Facts, inspected: tuple[str, ...], error: str) -> Result:
        """An engine that would not load or run: found by every user, and nothing for a rule of frames to look at."""
        said = (*inspected, "engine")
        return Result(
            prompt=self._key[0], seed=self._key[1], clip="", bit_exact=False, values={}, said=said,
            inspected=inspected, error=error[:300], **facts,
        )  # fmt: skip

    def spoiled(self, clip: Clip, evidence: Facts, probes: Mapping[str, float]) -> Iterator[Result]:
        """Faults of finished frames, on a healthy run that is not the golden."""
        for name, change in GROSS.items():
            plain: Facts = {"side": "fault", "name": name, "kind": "output"}
            yield self.judge(plain, apply(change, clip, seed=self._key[1]), evidence, probes)
        for name, spoil in SPOILS.items():
            for strength in HELD_OUT:
                frames = Clip(spoiled(spoil, clip.frames, strength, seed=1))
                facts: Facts = {"side": "fault", "name": f"{name}@{strength:g}", "kind": "output", "strength": strength}
                yield self.judge(facts, frames, evidence, probes)

    def controls(self, evidence: Facts) -> Iterator[Result]:
        """What calibration injects and draws, at its own strengths, into the golden itself."""
        for name, spoil in SPOILS.items():
            for strength in STRENGTHS:
                frames = Clip(spoiled(spoil, self.golden.frames, strength))
                facts: Facts = {"side": "control", "name": name, "kind": "output", "strength": strength}
                yield self.judge(facts, frames, evidence, {})
        for name, moved in rounding_samples(self.golden.frames).items():
            yield self.judge({"side": "drawn", "name": name, "kind": "rounding"}, Clip(moved), evidence, {})
