"""What is kept of one run: numbers only, no frames."""

from __future__ import annotations

from harness.records.base import Record


class PeerSaid(Record):
    """One rule's answer."""

    passed: bool
    measured: dict[str, float]


class Result(Record):
    """One output, held against the golden of its case by every rule."""

    prompt: int
    seed: int
    side: str
    name: str
    kind: str
    strength: float | None = None
    clip: str
    """sha256 of the frames."""
    bit_exact: bool
    values: dict[str, float]
    """Gating value by metric."""
    probes: dict[str, float] = {}
    """Probe and trace measures."""
    said: tuple[str, ...] = ()
    """Codes of gating findings that need no limit: inspection, receipts, sanity, trace."""
    inspected: tuple[str, ...] = ()
    """Those of them that the inspector gave, before anything ran."""
    peers: dict[str, PeerSaid] = {}
    seconds: float = 0.0
    error: str = ""
    """What the engine refused, where it refused to load or to run: found, and nothing was generated."""

    @property
    def case(self) -> tuple[int, int]:
        """Prompt and seed: the cluster."""
        return self.prompt, self.seed
