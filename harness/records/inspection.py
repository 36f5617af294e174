"""What the checkpoint inspector found: sentences, numbers, and what was and was not read."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import StringConstraints

from harness.records.base import Json, Record

Severity = Literal["fault", "inconclusive", "warning", "info"]
"""``fault`` and ``inconclusive`` decide the outcome; ``warning`` and ``info`` never do."""
InspectionOutcome = Literal["clean", "fault", "inconclusive", "infra"]
StoredFormat = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_]{1,32}$")]
"""``bf16``, ``fp16``, ``fp32``, a name of `harness.formats.spec.known_formats`, or ``mixed``."""


class InspectionFinding(Record):
    """One thing that was found, as a sentence and as numbers."""

    code: str
    """Stable machine name, such as ``nibble_order`` or ``shard_missing``."""
    severity: Severity
    message: str
    """One sentence: what is so, by which evidence, and who will read it otherwise."""
    expert: str = ""
    """``transformer``, ``transformer_2``, or empty where the finding is about the whole repository."""
    module: str = ""
    tensor: str = ""
    contract: str = ""
    """The runtime whose assumption the bytes contradict, such as ``sglang==0.5.12``; empty: the bytes alone."""
    evidence: dict[str, Json] = {}
    next_command: str = ""


class LayerEvidence(Record):
    """What the sampled rows of one tensor say, held against the BF16 base."""

    expert: str
    block: int | None
    """N of ``blocks.N``; ``None`` outside the blocks."""
    module: str
    format: StoredFormat
    hypothesis: str
    """The reading that fits best, such as ``low_first/linear``; for an excluded tensor ``equal`` or ``differs``."""
    declared: str
    """The reading that the checkpoint says of itself."""
    cosine: float | None = None
    """Of the decoded rows with the base's rows, in [-1, 1]."""
    relative_error: float | None = None
    """L2 norm of the difference over the L2 norm of the base's rows."""
    gain: float | None = None
    """Least-squares factor: decoded = gain * base. 1 where scales are right."""
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
    """Who writes such tensors: ``modelopt``, ``compressed-tensors``, ``comfy``, ``lightx2v``, ``bitsandbytes``,
    ``torchao``, ``quanto``, ``deepseek``, ``gguf`` or ``plain``."""
    recipe: str = ""
    """``max``, ``awq``, ``svdquant``, ``other`` or empty: which codes could be recomputed from the base."""
    encoding: str = ""
    """The reading that the bytes prove, such as ``low_first/linear``; empty where nothing could prove it."""
    quantized_modules: int = 0
    unquantized_linears: int = 0
    tensors: int = 0
    parameters: int = 0
    bytes_on_disk: int = 0
    excluded: tuple[str, ...] = ()
    """Linears that are stored unquantized, patterns collapsed (``blocks.{0,1,2}.*``)."""


class ContractAssumption(Record):
    """One thing a runtime will assume, and the rule that makes it so."""

    field: str
    """``nibble_order``, ``scale_layout``, ``missing_scales``, ``boundary_ratio``, ``registered`` ..."""
    value: Json
    rule: str
    """Why: ``default``, ``config: swap_weight_nibbles``, ``inferred: packed QKV keys`` ..."""
    source: str = ""
    """Where the rule was read."""


class ContractReport(Record):
    """A runtime held against the proven bytes."""

    contract: str
    """As asked for, such as ``sglang==0.5.23``."""
    expert: str
    assumptions: tuple[ContractAssumption, ...]
    agrees: bool | None
    """``None`` where the bytes could not prove enough to compare."""


class FileDigest(Record):
    """Identity of one weight or configuration file."""

    path: str
    size: int
    sha256: str
    origin: Literal["hub", "cache", "computed", "etag"]
    """Who says so: hub metadata, remembered by size, mtime and inode, hashed now, or a git blob id of the hub."""


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
    """What was checked, as sentences."""
    not_done: tuple[str, ...] = ()
    """What was not checked, and why. Empty only where everything that can be checked was."""
    bytes_read: int = 0
    requests: int = 0
    seconds: float = 0.0

    def with_code(self, code: str) -> tuple[InspectionFinding, ...]:
        """All findings of that code."""
        return tuple(finding for finding in self.findings if finding.code == code)

    @property
    def faults(self) -> tuple[InspectionFinding, ...]:
        """Findings that make this a ``checkpoint_fault``."""
        return tuple(finding for finding in self.findings if finding.severity == "fault")


class CheckpointChange(Record):
    """One thing that a switch from B to A changes."""

    expert: str
    """Empty: the whole repository."""
    field: str
    new: Json
    """In A."""
    old: Json
    """In B."""


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
    """Content digest by expert (``harness.records.contents``): files that differ and hold the same are no difference.
    Empty if it was locked by an older version, or without the files on this machine."""


class CheckpointLock(Record):
    """``cases/checkpoints.lock.json``: case to role to identity."""

    schema_version: Literal[1] = 1
    cases: dict[str, dict[str, LockedCheckpoint]]
