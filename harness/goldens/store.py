"""What a golden store can do, and which one a project uses for which runner."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from pydantic import Field, field_validator

from harness.errors import GoldenError
from harness.goldens.folder import FolderStore
from harness.goldens.golden import Golden
from harness.goldens.hub import HubStore
from harness.reading import UnreadableError, reason
from harness.records.base import Record
from harness.records.golden import AcceptedIndex, GoldenManifest, SafeName

CONFIG_FILE = "store.json"


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


class HubPin(Record):
    """A Hugging Face dataset at a commit."""

    repo_id: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")
    revision: str = Field(pattern=r"^[0-9a-f]{40}$")
    branch: str = "main"
    endpoint: str | None = None
    """Only ``null`` is allowed: this file is data, and whoever writes it must not choose where the token goes."""

    @field_validator("endpoint")
    @classmethod
    def _chosen_by_the_environment(cls, value: str | None) -> None:
        if value is not None:
            raise ValueError("a data file does not choose where the token goes; take it out, and export HF_ENDPOINT")


class StoreConfig(Record):
    """``goldens/store.json``, committed: the pin is what makes a run's references reproducible.

    Where there is no file, all goldens are in the folder.
    """

    schema_version: Literal[1] = 1
    hub: HubPin | None = None
    runners: tuple[SafeName, ...] = ()
    """Runners whose goldens are in the dataset; those of all others are in the folder."""


@dataclass(frozen=True)
class RoutedStore:
    """Goldens of some runners in one store, of all others in another."""

    default: GoldenStore
    special: GoldenStore
    runners: frozenset[str]

    @property
    def origin(self) -> str:
        """Both places."""
        return f"{self.default.origin} and {self.special.origin}"

    def route(self, runner: str) -> GoldenStore:
        """The store that holds the goldens of ``runner``."""
        return self.special if runner in self.runners else self.default

    def cases(self) -> tuple[tuple[str, str], ...]:
        """Every ``(runner, case)`` with goldens, sorted."""
        here = [key for key in self.default.cases() if key[0] not in self.runners]
        there = [key for key in self.special.cases() if key[0] in self.runners]
        return tuple(sorted(here + there))

    def index(self, runner: str, case: str) -> AcceptedIndex:
        """Which goldens a case accepts."""
        return self.route(runner).index(runner, case)

    def find(self, runner: str, case: str) -> tuple[Golden, ...]:
        """The accepted goldens of a case."""
        return self.route(runner).find(runner, case)

    def get(self, runner: str, case: str, digest: str, *, reason: str = "") -> Golden:
        """One golden by digest."""
        return self.route(runner).get(runner, case, digest, reason=reason)

    def digests(self, runner: str, case: str) -> tuple[str, ...]:
        """First 16 digits of every golden of a case."""
        return self.route(runner).digests(runner, case)

    def add(self, manifest: GoldenManifest, files: Mapping[str, Path]) -> Golden:
        """Put a golden in."""
        return self.route(manifest.runner).add(manifest, files)


def read_config(folder: Path) -> StoreConfig:
    """``store.json`` of a goldens folder; the default where there is none.

    Raises:
        GoldenError: the file cannot be read.
    """
    path = folder / CONFIG_FILE
    if not path.exists():
        return StoreConfig()
    try:
        return StoreConfig.read(path)
    except (OSError, UnreadableError) as error:
        raise GoldenError(
            f"this is not a store configuration: {reason(error)}",
            where=str(path),
            remedy="correct it, or delete it to use the folder",
        ) from error


def hub_store(pin: HubPin, *, offline: bool = False) -> HubStore:
    """The dataset that a pin names, at the hub that the environment names (``HF_ENDPOINT``)."""
    endpoint = os.environ.get("HF_ENDPOINT") or None
    return HubStore(pin.repo_id, pin.revision, branch=pin.branch, offline=offline, endpoint=endpoint)


def open_store(folder: Path, *, offline: bool = False) -> GoldenStore:
    """The golden store of a project.

    Args:
        folder: the goldens folder, with or without a ``store.json``.
        offline: never ask the network, whatever ``HF_HUB_OFFLINE`` says.

    Raises:
        GoldenError: ``store.json`` cannot be read.
    """
    config = read_config(folder)
    if config.hub is None or not config.runners:
        return FolderStore(folder)
    return RoutedStore(FolderStore(folder), hub_store(config.hub, offline=offline), frozenset(config.runners))
