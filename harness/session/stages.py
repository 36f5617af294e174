"""The stages that need no engine: inspection, golden, sanity, comparison, candidate."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.definitions.case import Case, CheckpointRef
from harness.definitions.limits import load_limits
from harness.frames.clip import Clip, read_clip
from harness.goldens.golden import Golden
from harness.goldens.matching import Match, select
from harness.judge.evidence import GoldenEvidence
from harness.pipeline.resolve import hub_is_offline, resolve_cached, resolve_checkpoint
from harness.records.frames import ComparisonEvidence, SanityEvidence
from harness.records.generation import Generation, Trace
from harness.records.identity import Identity
from harness.records.inspection import InspectionReport
from harness.records.limits import LimitFile
from harness.session.context import SessionContext

OTHER_PARTS = ("vae/", "text_encoder/", "tokenizer/", "scheduler/", "model_index.json")
"""What the pipeline loads beside the experts; the inspector digests the experts themselves."""

TRACE = "trace"
"""Name of the golden's part that holds its trace."""


@dataclass(frozen=True)
class Found:
    """The goldens of a case, and what the judge is told of the first."""

    match: Match
    evidence: tuple[GoldenEvidence, ...]

    @property
    def first(self) -> GoldenEvidence | None:
        """The golden that the what-changed table speaks of."""
        return self.evidence[0] if self.evidence else None


def golden_name(case: Case) -> str:
    """Whose golden and limits a case is held against: its own, or those that a negative control names."""
    return case.golden_of or case.id


def inspect(case: Case, root: Path, paths: Mapping[str, Path]) -> InspectionReport:
    """Stage 1: the checkpoints that the engine will load, as they lie on this machine.

    Args:
        case: the resolved case.
        root: the repository's root.
        paths: folder by role, as the engine gets them.

    Raises:
        QuantgateError: there is nothing to inspect, or a source failed.
    """
    from harness.checkpoint.inspect import inspect_checkpoint

    report = inspect_checkpoint(
        paths["model"],
        base=_base(case, root),
        transformer=paths.get("transformer"),
        transformer_2=paths.get("transformer_2"),
        contracts=case.contracts,
        loader=case.loader,
        env=case.env,
        expected=case.quantization.model_dump(),
        root=root,
    )
    return _without_root(report, root)


def _without_root(report: InspectionReport, root: Path) -> InspectionReport:
    """The report with paths as the case writes them: where a checkout lies is nobody's business but its owner's."""
    text = report.to_json().replace(json.dumps(f"{root}/")[1:-1], "./")
    return InspectionReport.model_validate_json(text)


def _base(case: Case, root: Path) -> Path | CheckpointRef | None:
    """The BF16 anchor: on disk where it is, else read by ranges from the hub; ``None`` where the hub is offline too."""
    if case.base is None or case.base.is_local:
        return None if case.base is None else resolve_checkpoint(case.base, root, where=case.id)
    try:
        return resolve_cached(case.base)
    except FileNotFoundError:
        return None if hub_is_offline() else case.base


def weight_digests(report: InspectionReport, model: Path) -> dict[str, str]:
    """Digest of every file that the engine loads, by ``component/file``."""
    from harness.checkpoint.identity import DigestCache, digest_files
    from harness.checkpoint.sources import Meter, open_source

    source, cache = open_source(model, Meter()), DigestCache()
    other = [path for path in source.files if path.startswith(OTHER_PARTS)]
    digests = {item.path: item.sha256 for item in digest_files(source, other, cache)}
    cache.save()
    return {**report.digests, **digests}


def find_golden(context: SessionContext, case: Case, identity: Identity) -> Found:
    """The accepted goldens that a run with ``identity`` may be compared with.

    Raises:
        GoldenError: a golden is damaged.
        InvalidCaseError: the limit file cannot be read.
    """
    name = golden_name(case)
    match = select(context.store.find(context.runner.name, name), identity)
    limits = load_limits(context.thresholds, context.runner.name, name)
    return Found(match, tuple(_evidence(golden, match, limits) for golden in match.goldens))


def _evidence(golden: Golden, match: Match, limits: LimitFile | None) -> GoldenEvidence:
    trace = None
    if TRACE in golden.manifest.parts:
        trace = Trace.read(golden.open_part(TRACE))
    return GoldenEvidence(golden.digest, match.changes, trace, limits)


def look_at_frames(case: Case, generation: Generation, clip: Clip) -> SanityEvidence:
    """Checks that need no golden."""
    from harness.frames.sanity import check_clip

    sampling = case.sampling
    wanted = (sampling.num_frames, sampling.height, sampling.width, 3)
    return check_clip(clip, wanted=wanted, float_stats=generation.float_stats)


def place_golden(golden: Golden, folder: Path) -> None:
    """Put a golden beside the candidate, so that the run's folder can be looked at without the store."""
    _place(golden.open_part("clip"), folder / "golden.safetensors")
    if TRACE in golden.manifest.parts:
        _place(golden.open_part(TRACE), folder / "golden-trace.json")


def compare_with(golden: Golden, case: Case, candidate: Clip) -> ComparisonEvidence | None:
    """Every frame against the golden's. ``None`` where the shapes differ, which sanity names."""
    from harness.frames.compare import compare

    reference = read_clip(golden.open_part("clip"))
    if reference.shape != candidate.shape:
        return None
    return compare(reference, candidate, case.metrics or None)


def _place(source: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
