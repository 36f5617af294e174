"""Digest everything that determines a run before it starts, to decide if an existing run can be reused."""

from __future__ import annotations

import hashlib
import platform
import posixpath
from collections.abc import Iterable
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import harness
from harness.definitions.case import Case
from harness.engine.fingerprint import PACKAGES
from harness.engine.resolve import resolve_case
from harness.engine.stamps import stamps_of
from harness.git import dirty_files, tracked_files
from harness.machine.devices import driver_version
from harness.project import Project
from harness.records.base import Json, Record
from harness.session.context import SessionContext
from harness.session.identity import identity_of
from harness.session.inspecting import Inspector
from harness.session.perturbation import NONE, Perturbation
from harness.session.programs import program_digests
from harness.session.stages import known_identities

MOVES_NOTHING = frozenset({"description", "runners", "timeouts", "metrics", "waiver"})
"""Fields of a case that change neither the output of a run nor whether it is healthy."""


class Origin(Record):
    """Everything that determines a run. Two runs of one origin are repeats of each other."""

    identity: str
    """Digest: request, hardware, content of the checkpoint, environment."""
    request: dict[str, Json]
    """The case as it runs (perturbation applied), without the fields of ``MOVES_NOTHING``."""
    perturbation: dict[str, Json]
    code: str
    """sha256 over this package's sources, the tracked files of the repository, and its changed or untracked files."""
    programs: dict[str, str]
    """sha256 of every file of the case's program (``harness.session.programs``)."""
    packages: dict[str, str]
    probes: str = ""
    """sha256 of the recording that is fed in; for the origin of a recording: sha256 of the base's file stamps."""

    def digest(self) -> str:
        """Return the sha256 (hex) of the origin; it names the folder of the run."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def differs(self, other: Origin) -> str:
        """Return the names of the fields in which two origins differ, separated by commas."""
        return ", ".join(name for name in type(self).model_fields if getattr(self, name) != getattr(other, name))


class Origins:
    """Computes the origin of runs. Code and packages are digested once: this process has imported them already.

    Args:
        context: folders, runner and device of the session.
        inspector: inspects checkpoints.
    """

    def __init__(self, context: SessionContext, inspector: Inspector) -> None:
        self._context, self._inspector = context, inspector

    def of(self, case: Case, perturbation: Perturbation = NONE, probes: Path | None = None) -> Origin:
        """Return the origin of a run.

        Args:
            case: the case as written, before the perturbation.
            perturbation: the healthy change that is forced on the run.
            probes: the recording that is fed in.

        Raises:
            QuantgateError: the checkpoint cannot be inspected, or git fails.
        """
        inspected = self._inspector.look(case, resolve_case(case, self._context.root))
        fed = "" if probes is None else _sha256(probes)
        return self._origin(case, perturbation, inspected.contents.weights(known_identities(self._context, case)), fed)

    def of_recording(self, base: Case) -> Origin:
        """Return the origin of a recording of ``base``. The base's files count by their stamps, not by content: reading
        them all costs more than recording again.

        Raises:
            QuantgateError: a checkpoint is missing, or git fails.
        """
        stamps = stamps_of(resolve_case(base, self._context.root))
        return self._origin(base, NONE, {}, hashlib.sha256(repr(stamps).encode()).hexdigest())

    def _origin(self, case: Case, perturbation: Perturbation, weights: dict[str, str], probes: str) -> Origin:
        runs, harmless = perturbation.apply(case), self._context.runner.harmless_env
        identity = identity_of(runs, self._context.device, weights, harmless_env=harmless, perturbation=perturbation)
        forced: dict[str, Json] = {"name": perturbation.name, **perturbation.env}
        return Origin(
            identity=identity.digest(),
            request=runs.model_dump(mode="json", exclude=set(MOVES_NOTHING)),
            perturbation=forced,
            code=self._code,
            programs=program_digests(runs, self._context.root),
            packages=self._packages,
            probes=probes,
        )

    @cached_property
    def _code(self) -> str:
        return code_digest(self._context.root)

    @cached_property
    def _packages(self) -> dict[str, str]:
        versions = {"python": platform.python_version(), "driver": driver_version() or ""}
        for name in PACKAGES:
            try:
                versions[name] = version(name)
            # not every package is on every machine: triton comes with a GPU's torch only
            except PackageNotFoundError:
                continue
        return versions


WEIGHT_FILES = (".safetensors", ".gguf", ".bin", ".pt", ".pth", ".ckpt", ".onnx", ".npz", ".msgpack", ".h5")
"""Endings of files that hold weights. The run's identity covers the loaded weights by content."""
BESIDE_WEIGHTS = (".json", ".txt", ".model", ".md", ".jinja", ".vocab")
"""Endings of the other files in a checkpoint's folders: configurations, tokenizers, model cards."""
LARGEST_CODE = 8 << 20
"""Bytes above which a changed file counts by size and times, not by content: no program is that long."""


def code_digest(root: Path) -> str:
    """Return the sha256 over a run's code: this package and, if ``root`` is a git work tree, all files in it except
    cases, goldens and limits, committed or not.

    Checkpoints in the work tree are not read: the run's identity covers the weights that it loads. A changed or
    untracked file of more than ``LARGEST_CODE`` bytes counts by size and times.

    Raises:
        InvalidCaseError: git is needed and absent, or fails.
    """
    digest = hashlib.sha256()
    package = Path(harness.__file__).resolve().parent
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package)}\0{_sha256(path)}\0".encode())
    for row in tracked_files(root):
        digest.update(f"{row}\0".encode())
    for name in without_checkpoints(dirty_files(root)):
        if not name.startswith(f"{Project(root).cases.name}/"):
            digest.update(f"{name}\0{_small_sha256(root / name)}\0".encode())
    return digest.hexdigest()


def without_checkpoints(names: Iterable[str]) -> tuple[str, ...]:
    """Return the files that are no part of a checkpoint, sorted.

    A folder belongs to a checkpoint if it holds weights, if it holds ``model_index.json``, or if its parent holds
    ``model_index.json``. From such a folder weights, documents and tables are removed; programs are kept.
    """
    every = sorted(names)
    homes = {posixpath.dirname(name) for name in every if name.endswith(WEIGHT_FILES)}
    pipelines = {posixpath.dirname(name) for name in every if posixpath.basename(name) == "model_index.json"}

    def of_a_checkpoint(name: str) -> bool:
        folder = posixpath.dirname(name)
        inside = folder in homes or folder in pipelines or posixpath.dirname(folder) in pipelines
        # never treat the repository's top folder as a checkpoint: it holds other documents, even beside weights
        return name.endswith(WEIGHT_FILES) or (bool(folder) and inside and name.endswith(BESIDE_WEIGHTS))

    return tuple(name for name in every if not of_a_checkpoint(name))


def _small_sha256(path: Path) -> str:
    """Return the sha256 of a file; of a large file size and times, without reading; empty if it is missing."""
    try:
        state = path.stat()
    except OSError:
        return ""
    if state.st_size > LARGEST_CODE:
        return f"{state.st_size} {state.st_mtime_ns} {state.st_ctime_ns}"
    return _sha256(path)


def _sha256(path: Path) -> str:
    """Return the sha256 of a file; an empty string if it is missing."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
