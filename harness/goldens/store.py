"""Define the interface of a golden store, and open the store that a project uses per runner."""

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
    """A store of goldens. Reading never changes it; a golden in it never changes."""

    @property
    def origin(self) -> str:
        """Address of this store, for messages."""

    def cases(self) -> tuple[tuple[str, str], ...]:
        """Return every ``(runner, case)`` with goldens, sorted."""

    def index(self, runner: str, case: str) -> AcceptedIndex:
        """Return the list of goldens that a case accepts; empty if it has none."""

    def find(self, runner: str, case: str) -> tuple[Golden, ...]:
        """Return the accepted goldens of a case; empty if it has none."""

    def get(self, runner: str, case: str, digest: str, *, reason: str = "") -> Golden:
        """Return one golden by digest, accepted or not."""

    def digests(self, runner: str, case: str) -> tuple[str, ...]:
        """Return the first 16 digits of every golden of a case, accepted or not, sorted."""

    def add(self, manifest: GoldenManifest, files: Mapping[str, Path]) -> Golden:
        """Add a golden; adding the same golden again changes nothing."""


class HubPin(Record):
    """A Hugging Face dataset at a commit."""

    repo_id: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")
    revision: str = Field(pattern=r"^[0-9a-f]{40}$")
    branch: str = "main"
    endpoint: str | None = None
    """Only ``null`` is allowed: this file is data, and its author must not choose the server that gets the token."""

    @field_validator("endpoint")
    @classmethod
    def _chosen_by_the_environment(cls, value: str | None) -> None:
        if value is not None:
            raise ValueError("a data file does not choose where the token goes; take it out, and export HF_ENDPOINT")


class StoreConfig(Record):
    """Content of ``goldens/store.json``, committed: the pin makes a run's references reproducible.

    If there is no file, all goldens are in the folder.
    """

    schema_version: Literal[1] = 1
    hub: HubPin | None = None
    runners: tuple[SafeName, ...] = ()
    """Runners whose goldens are in the dataset; the goldens of all others are in the folder."""


@dataclass(frozen=True)
class RoutedStore:
    """Goldens of some runners in one store, of all others in another store."""

    default: GoldenStore
    special: GoldenStore
    runners: frozenset[str]

    @property
    def origin(self) -> str:
        """Addresses of both stores."""
        return f"{self.default.origin} and {self.special.origin}"

    def route(self, runner: str) -> GoldenStore:
        """Return the store that holds the goldens of ``runner``."""
        return self.special if runner in self.runners else self.default

    def cases(self) -> tuple[tuple[str, str], ...]:
        """Return every ``(runner, case)`` with goldens, sorted."""
        # A store may also hold goldens of runners that are routed to the other one: those do not count.
        default_cases = [key for key in self.default.cases() if key[0] not in self.runners]
        special_cases = [key for key in self.special.cases() if key[0] in self.runners]
        return tuple(sorted(default_cases + special_cases))

    def index(self, runner: str, case: str) -> AcceptedIndex:
        """Return the list of goldens that a case accepts."""
        return self.route(runner).index(runner, case)

    def find(self, runner: str, case: str) -> tuple[Golden, ...]:
        """Return the accepted goldens of a case."""
        return self.route(runner).find(runner, case)

    def get(self, runner: str, case: str, digest: str, *, reason: str = "") -> Golden:
        """Return one golden by digest."""
        return self.route(runner).get(runner, case, digest, reason=reason)

    def digests(self, runner: str, case: str) -> tuple[str, ...]:
        """Return the first 16 digits of every golden of a case."""
        return self.route(runner).digests(runner, case)

    def add(self, manifest: GoldenManifest, files: Mapping[str, Path]) -> Golden:
        """Add a golden to the store of its runner."""
        return self.route(manifest.runner).add(manifest, files)


def read_config(folder: Path) -> StoreConfig:
    """Read ``store.json`` of a goldens folder; return the default if there is no file.

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
            place=str(path),
            remedy="correct it, or delete it to use the folder",
        ) from error


def hub_store(pin: HubPin, *, offline: bool = False) -> HubStore:
    """Return the dataset that a pin names, at the hub that the environment names (``HF_ENDPOINT``)."""
    endpoint = os.environ.get("HF_ENDPOINT") or None
    return HubStore(pin.repo_id, pin.revision, branch=pin.branch, offline=offline, endpoint=endpoint)


def open_store(folder: Path, *, offline: bool = False) -> GoldenStore:
    """Return the golden store of a project.

    Args:
        folder: the goldens folder, with or without a ``store.json``.
        offline: never use the network, even if ``HF_HUB_OFFLINE`` is 0.

    Raises:
        GoldenError: ``store.json`` cannot be read.
    """
    config = read_config(folder)
    if config.hub is None or not config.runners:
        return FolderStore(folder)
    return RoutedStore(FolderStore(folder), hub_store(config.hub, offline=offline), frozenset(config.runners))
