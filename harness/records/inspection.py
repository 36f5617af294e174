"""The report of the checkpoint inspector: findings, numbers, and the list of checks that were and were not made."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import StringConstraints

from harness.records.base import Json, Record

Severity = Literal["fault", "inconclusive", "warning", "info"]
"""``fault`` and ``inconclusive`` decide the outcome; ``warning`` and ``info`` never do."""
InspectionOutcome = Literal["clean", "fault", "inconclusive", "infra"]
StoredFormat = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]{1,32}$")]
"""``bf16``, ``fp16``, ``fp32``, a name of `harness.formats.registry.known_formats`, or ``mixed``."""


class InspectionFinding(Record):
    """One finding, as a sentence and as numbers."""

    code: str
    """Stable machine name, such as ``nibble_order`` or ``shard_missing``."""
    severity: Severity
    message: str
    """One sentence: the fact, its evidence, and the runtime that will read the bytes otherwise."""
    expert: str = ""
    """``transformer``, ``transformer_2``, or empty if the finding is about the whole repository."""
    module: str = ""
    tensor: str = ""
    contract: str = ""
    """The runtime whose assumption the bytes contradict, such as ``sglang==0.5.12``; empty: the bytes alone."""
    evidence: dict[str, Json] = {}
    next_command: str = ""


class LayerEvidence(Record):
    """Evidence from the sampled rows of one tensor, compared with the BF16 base."""

    expert: str
    block: int | None
    """N of ``blocks.N``; ``None`` outside the blocks."""
    module: str
    format: StoredFormat
    hypothesis: str
    """The reading that fits best, such as ``low_first/linear``; for an excluded tensor ``equal`` or ``differs``."""
    declared: str
    """The reading that the checkpoint's metadata declares."""
    cosine: float | None = None
    """Cosine of the decoded rows with the base's rows, in [-1, 1]."""
    relative_error: float | None = None
    """L2 norm of the difference over the L2 norm of the base's rows."""
    gain: float | None = None
    """Least-squares factor: decoded = gain * base. 1 if the scales are right."""
    gap: float | None = None
    """Cosine of the best reading minus the cosine of the runner-up."""
    runner_up: str = ""
    rows: int = 0
    state: Literal["proven", "inconclusive", "contradicted", "not_provable"] = "proven"


class ExpertSummary(Record):
    """One transformer of the checkpoint."""

    expert: str
    source: str
    """Folder or ``owner/name@commit``, and the folder inside it."""
    role: Literal["model", "override"] = "model"
    format: StoredFormat = "unknown"
    dialect: str = ""
    """Tool that writes such tensors: ``modelopt``, ``compressed-tensors``, ``comfy``, ``lightx2v``, ``bitsandbytes``,
    ``torchao``, ``quanto``, ``deepseek``, ``gguf`` or ``plain``."""
    recipe: str = ""
    """``max``, ``awq``, ``svdquant``, ``other`` or empty: the recipe whose codes could be recomputed from the base."""
    encoding: str = ""
    """The reading that the bytes prove, such as ``low_first/linear``; empty if no reading could be proven."""
    quantized_modules: int = 0
    unquantized_linears: int = 0
    tensors: int = 0
    parameters: int = 0
    bytes_on_disk: int = 0
    excluded: tuple[str, ...] = ()
    """Linears that are stored unquantized, patterns collapsed (``blocks.{0,1,2}.*``)."""


class ContractAssumption(Record):
    """One assumption of a runtime, and the rule that causes it."""

    field: str
    """``nibble_order``, ``scale_layout``, ``missing_scales``, ``boundary_ratio``, ``registered`` ..."""
    value: Json
    rule: str
    """Reason: ``default``, ``config: swap_weight_nibbles``, ``inferred: packed QKV keys`` ..."""
    source: str = ""
    """Source of the rule."""


class ContractReport(Record):
    """The assumptions of a runtime, compared with the proven bytes."""

    contract: str
    """The contract as requested, such as ``sglang==0.5.23``."""
    expert: str
    assumptions: tuple[ContractAssumption, ...]
    agrees: bool | None
    """``None`` if the bytes could not prove enough for a comparison."""


class FileDigest(Record):
    """Identity of one weight or configuration file."""

    path: str
    size: int
    sha256: str
    origin: Literal["hub", "cache", "computed", "etag"]
    """Source of the digest: hub metadata, a cache by size, mtime and inode, hashed now, or a git blob id of the hub."""


class InspectionReport(Record):
    """Stage 1 of a case, and the answer of ``quantgate inspect``."""

    schema_version: Literal[1] = 1
    reference: str
    base: str | None
    outcome: InspectionOutcome
    cause: str = "none"
    """Code of the leading finding that decided the outcome."""
    summary: str
    findings: tuple[InspectionFinding, ...] = ()
    experts: tuple[ExpertSummary, ...] = ()
    layers: tuple[LayerEvidence, ...] = ()
    contracts: tuple[ContractReport, ...] = ()
    digests: dict[str, str] = {}
    """``role/path`` to digest of every weight and configuration file that was inspected."""
    done: tuple[str, ...] = ()
    """The checks that were made, as sentences."""
    not_done: tuple[str, ...] = ()
    """The checks that were not made, and why. Empty only if every possible check was made."""
    bytes_read: int = 0
    requests: int = 0
    seconds: float = 0.0

    def with_code(self, code: str) -> tuple[InspectionFinding, ...]:
        """Return all findings with this code."""
        return tuple(finding for finding in self.findings if finding.code == code)

    @property
    def faults(self) -> tuple[InspectionFinding, ...]:
        """Findings that make this a ``checkpoint_fault``."""
        return tuple(finding for finding in self.findings if finding.severity == "fault")


class CheckpointChange(Record):
    """One difference between the checkpoints A and B."""

    expert: str
    """Empty: the whole repository."""
    field: str
    new: Json
    """Value in A."""
    old: Json
    """Value in B."""


class CheckpointComparison(Record):
    """``quantgate inspect A --against B``."""

    schema_version: Literal[1] = 1
    reference: str
    against: str
    changes: tuple[CheckpointChange, ...]
    identical_files: tuple[str, ...] = ()
    bytes_read: int = 0
    requests: int = 0


class LockedCheckpoint(Record):
    """Identity of one checkpoint role of one case."""

    source: str
    """``owner/name@commit``, or the folder as the case names it."""
    digests: dict[str, str]
    """``expert/file`` to sha256 (``git:`` and a blob id for small hub files)."""
    contents: dict[str, str] = {}
    """Content digest per expert (``harness.records.contents``): different files with equal content are no difference.
    Empty if it was locked without the files on this machine."""


class CheckpointLock(Record):
    """``cases/checkpoints.lock.json``: case to role to identity."""

    schema_version: Literal[1] = 1
    cases: dict[str, dict[str, LockedCheckpoint]]
