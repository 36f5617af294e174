"""What a golden store can do, and which one a project uses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from harness.goldens.golden import Golden
from harness.records.golden import AcceptedIndex, GoldenManifest


class GoldenStore(Protocol):
    """A place for goldens. Reading never changes it; a golden in it never changes."""

    @property
    def origin(self) -> str:
        """Where this store is, for messages."""

    def cases(self) -> tuple[tuple[str, str], ...]:
        """Every ``(runner, case)`` with goldens, sorted."""

    def index(self, runner: str, case: str) -> AcceptedIndex:
        """Which goldens a case accepts; empty where it has none."""

    def find(self, runner: str, case: str) -> tuple[Golden, ...]:
        """The accepted goldens of a case; empty where it has none."""

    def get(self, runner: str, case: str, digest: str, *, reason: str = "") -> Golden:
        """One golden by digest, accepted or not."""

    def digests(self, runner: str, case: str) -> tuple[str, ...]:
        """First 16 digits of every golden of a case, accepted or not, sorted."""

    def add(self, manifest: GoldenManifest, files: Mapping[str, Path]) -> Golden:
        """Put a golden in; adding the same one again changes nothing."""
