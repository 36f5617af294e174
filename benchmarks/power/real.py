"""``python -m benchmarks.power.real``: the same rules on real frames of published Wan goldens, where they are.

Needs the folder that ``QUANTGATE_REAL_FRAMES`` names: first, middle and last frame of two generations of one golden,
and of one request to two checkpoints. Three frames are too few for the statistics in time: faults in time are left out.

- One golden generated twice, both accepted by its maintainers: must pass. Limits come from one of the generations and
  mild changes of it (``benchmarks.faults.benign``), or from both; both are shown.
- Two checkpoints, one request: the identity rule has to answer, since no pixel can.
- Faults of finished frames on all of them: found or not.

Exit code 1: one of the first two is answered wrongly. 2: there are no frames.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.faults.benign import MILD
from benchmarks.faults.output import GROSS, apply
from benchmarks.faults.scenes import REAL_FRAMES
from benchmarks.power.rules import apply_peers
from harness.calibrate.faults.spoiling import SPOILS, STRENGTHS, spoiled
from harness.calibrate.samples import rounding_samples
from harness.frames.clip import Clip
from harness.frames.compare import compare
from harness.goldens.matching import MatchKind, kind_of
from harness.limits.file import place_limits
from harness.records.frames import ComparisonEvidence, MetricResult
from harness.records.identity import Identity, differences
from harness.records.limits import Limit, Sample

IN_TIME = frozenset(
    [
        "two_swapped",
        "backwards",
        "frozen",
        "stutter",
        "off_by_one",
        "flicker_2",
        "flicker_6",
        "broken_tail",
        "melting_object",
        "ghosting",
        "slow_motion",
        "swapped_frames",
        "frozen_stretch",
        "flicker",
    ]
)
METRICS = ("ssim", "psnr", "mad", "tile_ssim", "channel_shift", "contrast_ratio", "sharpness_ratio")
SETS = ("fastwan22_5b_generation1", "fastwan22_5b_generation2", "wan22_nvfp4_b200", "wan22_fp8_h100")


def read(folder: Path, name: str) -> Clip:
    """First, middle and last frame, as a clip of three."""
    frames = []
    for place in ("0", "mid", "last"):
        with Image.open(folder / f"{name}_frame_{place}.png") as picture:
            frames.append(np.asarray(picture.convert("RGB")))
    return Clip(np.stack(frames))


def limits_from(golden: Clip, healthy: dict[str, Clip]) -> tuple[Limit, ...]:
    """Limits of one clip from healthy changes of it, with the controls that three frames allow."""
    compared = {name: compare(golden, clip, METRICS) for name, clip in healthy.items()}
    drawn = {name: compare(golden, Clip(moved), METRICS) for name, moved in rounding_samples(golden.frames).items()}
    faulty = {
        (name, strength): compare(golden, Clip(spoiled(spoil, golden.frames, strength)), METRICS)
        for name, spoil in SPOILS.items()
        if name not in IN_TIME
        for strength in STRENGTHS
    }
    metrics = next(iter(compared.values())).metrics
    samples = {metric.name: _samples(metric, compared, drawn, faulty) for metric in metrics}
    return place_limits(metrics, samples)


def _samples(
    metric: MetricResult,
    healthy: dict[str, ComparisonEvidence],
    drawn: dict[str, ComparisonEvidence],
    faulty: dict[tuple[str, float], ComparisonEvidence],
) -> list[Sample]:
    def value(evidence: ComparisonEvidence) -> float:
        value = evidence.get(metric.name)
        if value is None or value.gating_value is None:
            raise SystemExit(f"{metric.name}: not computed")
        return value.gating_value

    rows = [Sample(value=value(e), run=n, side="benign", clip=e.candidate_sha256) for n, e in healthy.items()]
    rows += [Sample(value=value(e), run=n, side="benign", drawn=True) for n, e in drawn.items()]
    rows += [Sample(value=value(e), run=f"{n}@{s}", side="faulty", fault=n, strength=s) for (n, s), e in faulty.items()]
    return rows


def broken(limits: tuple[Limit, ...], golden: Clip, candidate: Clip) -> list[str]:
    """Metrics outside their limit."""
    values = {m.name: m.gating_value for m in compare(golden, candidate, METRICS).metrics}
    return [
        f"{limit.metric} {value:.4g} ({limit.limit:.4g})"
        for limit in limits
        if (value := values[limit.metric]) is not None and limit.limit is not None and not limit.admits(value)
    ]


def identity(checkpoint: str, hardware: str, request: str) -> Identity:
    """What is known of a published golden."""
    return Identity(
        request={"sampling.prompt": request},
        hardware={"device": hardware},
        weights={"model": checkpoint},
        env={},
        subject={},
    )


def main() -> int:
    """Entry point."""
    if not all((REAL_FRAMES / f"{name}_frame_mid.png").is_file() for name in SETS):
        print(f"no real frames in {REAL_FRAMES}: set QUANTGATE_REAL_FRAMES")
        return 2
    clips = {name: read(REAL_FRAMES, name) for name in SETS}
    first, second = clips[SETS[0]], clips[SETS[1]]
    mild = {name: apply(change, first) for name, change in MILD.items()}
    from_one, from_both = limits_from(first, mild), limits_from(first, {**mild, "generation2": second})
    print(f"golden generated twice, {first.shape}: {'bit-exact' if first == second else 'not bit-exact'}")
    for text, limits in (("limits without the second generation", from_one), ("limits with it", from_both)):
        print(f"  {text}: {', '.join(broken(limits, first, second)) or 'passes'}")
    for name, answer in apply_peers(first, second).items():
        print(f"  {name}: {'passes' if answer.passed else 'fails'} ({answer.measured})")
    nvfp4, fp8 = clips[SETS[2]], clips[SETS[3]]
    same_device = kind_of(differences(identity("fp8", "B200", "a raccoon"), identity("nvfp4", "B200", "a raccoon")))
    as_published = kind_of(differences(identity("fp8", "H100", "a raccoon"), identity("nvfp4", "B200", "a raccoon")))
    print(
        f"\ntwo checkpoints, one request: identity says {same_device.value}; with their devices, {as_published.value}"
    )
    print("  (weights: frames are compared, and the verdict names the weights; hardware: environment_mismatch)")
    for name, answer in apply_peers(fp8, nvfp4).items():
        print(f"  {name}: {'passes' if answer.passed else 'fails'} ({answer.measured})")
    _faults(clips)
    passed = not broken(from_both, first, second)
    return 0 if passed and same_device is MatchKind.WEIGHTS and as_published is MatchKind.HARDWARE else 1


def _faults(clips: dict[str, Clip]) -> None:
    """Faults that three frames can carry, on each clip, held against itself."""
    missed: dict[str, list[str]] = {}
    total = 0
    for name, clip in clips.items():
        limits = limits_from(clip, {label: apply(change, clip) for label, change in MILD.items()})
        for fault, change in GROSS.items():
            if fault in IN_TIME:
                continue
            bad, total = apply(change, clip), total + 1
            if not broken(limits, clip, bad):
                missed.setdefault("quantgate, frames alone", []).append(f"{fault} on {name}")
            for rule, answer in apply_peers(clip, bad).items():
                if answer.passed:
                    missed.setdefault(rule, []).append(f"{fault} on {name}")
    print(f"\nfaults of finished frames, {total} outputs: found")
    rules = ["quantgate, frames alone", *apply_peers(clips[SETS[0]], clips[SETS[1]])]
    for rule in rules:
        lost = missed.get(rule, [])
        names = sorted({entry.partition(" on ")[0] for entry in lost})
        print(f"  {rule:30} {total - len(lost)}/{total}; missed: {', '.join(names) or 'none'}")


if __name__ == "__main__":
    sys.exit(main())
