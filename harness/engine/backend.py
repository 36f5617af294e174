"""The interface of a runtime that quantgate can drive, and the lookup of a backend by name."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol, cast, runtime_checkable

from harness.definitions.case import Case
from harness.errors import InvalidCaseError
from harness.records.base import Json
from harness.records.generation import Generation

GROUP = "quantgate.backends"
Emit = Callable[[dict[str, Json]], None]
"""Sends one progress event: ``{"stage": "denoise", "step": 3, "steps": 8, "seconds": 0.12}``."""
Method = Callable[[dict[str, Json], Emit], Json]
"""An additional method, called through ``EngineOwner.call``: parameters in, JSON out."""


@runtime_checkable
class Backend(Protocol):
    """One runtime in the engine's process. All methods run in the main thread, one at a time."""

    def load(self, case: Case, paths: Mapping[str, Path], device: str, emit: Emit) -> None:
        """Load the model into memory.

        Args:
            case: any case of this engine.
            paths: folder by role: ``model``, and ``transformer`` and ``transformer_2`` if the case names them.
            device: ``cpu`` or ``cuda``.
            emit: progress.

        Raises:
            CheckpointFaultError: the files contradict their configuration.
        """

    def generate(self, case: Case, out_dir: Path, emit: Emit) -> Generation:
        """Run one case and write the clip below ``out_dir``."""

    def close(self) -> None:
        """Release all resources."""

    def quantized_modules(self) -> dict[str, dict[str, str]]:
        """Return the formats that the checkpoints declare: expert to module name to format."""

    def methods(self) -> Mapping[str, Method]:
        """Return additional methods by name, such as ``probe``."""


@runtime_checkable
class Reloads(Protocol):
    """A backend that can load a second model into the runtime that it already started."""

    def reload(self, case: Case, paths: Mapping[str, Path], device: str, emit: Emit) -> None:
        """Replace the loaded model by the one of ``paths``. Arguments and errors as ``Backend.load``."""


@runtime_checkable
class RunsInRoot(Protocol):
    """A backend that needs the repository's root. ``set_root`` is called before ``load``."""

    def set_root(self, root: Path) -> None:
        """Store the repository's root, an absolute path."""


def load_backend(name: str, *, allow_python: bool = False) -> Backend:
    """Return the backend called ``name``.

    Args:
        name: name of an entry point in the group ``quantgate.backends``; or, if a Python caller sets ``allow_python``
            (never from a case file), ``module:Class`` or ``/path/file.py:Class``.
        allow_python: whether names with a colon are accepted.

    Raises:
        InvalidCaseError: there is no such backend.
    """
    if ":" in name and allow_python:
        module_name, _, attribute = name.rpartition(":")
        return cast("Backend", getattr(_module(module_name), attribute)())
    entries = {entry.name: entry for entry in entry_points(group=GROUP)}
    if name not in entries:
        raise InvalidCaseError(
            f"there is no backend {name!r}; installed: {', '.join(sorted(entries)) or 'none'}",
            remedy="name an installed backend in `backend`, or install the package that brings it",
        )
    return cast("Backend", entries[name].load()())


def _module(name: str) -> object:
    if not name.endswith(".py"):
        return importlib.import_module(name)
    spec = importlib.util.spec_from_file_location(Path(name).stem, name)
    if spec is None or spec.loader is None:
        raise InvalidCaseError(f"{name} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
