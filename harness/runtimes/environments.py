"""Make, find, list and remove environments of runtimes: one interpreter per version, from pinned dependencies.

CPU versions share one environment of dependencies (3 GB); each version is a folder with its own package and an
interpreter that imports from both. A runner may name existing environments instead.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal

from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import InvalidVersion, Version

from harness.errors import InfraError, InvalidCaseError

CACHE = "QUANTGATE_RUNTIMES"
"""Environment variable that names the folder of environments."""
READY = "ready.txt"
INSTALL_SECONDS = 3600.0
INSTALLABLE = {"sglang": "sglang"}
"""Runtime to the name of its distribution."""


Installer = Literal["pip", "uv"]


@dataclass(frozen=True)
class RuntimeVersion:
    """A runtime at one version, such as ``sglang==0.5.23``."""

    runtime: str
    version: Version

    def __str__(self) -> str:
        return f"{self.runtime}=={self.version}"


@dataclass(frozen=True)
class Environment:
    """An interpreter that can import one runtime at one version."""

    name: RuntimeVersion
    python: Path
    source: str
    """``installed`` by the command, or ``runner``: named by a runner's profile."""
    kind: str = "cpu"
    size: int = 0
    """Bytes of this environment, without shared dependencies."""


def parse_runtime(text: str) -> RuntimeVersion:
    """Read ``sglang==0.5.23``.

    Raises:
        InvalidCaseError: the text does not name exactly one version.
    """
    try:
        requirement = Requirement(text)
        specifiers = list(requirement.specifier)
        if len(specifiers) == 1 and specifiers[0].operator == "==":
            return RuntimeVersion(requirement.name.lower(), Version(specifiers[0].version))
    except (InvalidRequirement, InvalidVersion):
        pass
    raise InvalidCaseError(f"{text!r} is not runtime==version", remedy="write it like sglang==0.5.23")


def cache_folder() -> Path:
    """Return the folder of environments: ``$QUANTGATE_RUNTIMES``, or ``quantgate/runtimes`` in the user's cache."""
    named = os.environ.get(CACHE)
    if named:
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "quantgate" / "runtimes"


def pins(runtime: str, kind: str) -> str:
    """Return the pinned dependencies of a runtime on one kind of machine, as the text of a requirements file.

    Raises:
        InvalidCaseError: no pinned set is shipped for it.
    """
    file = resources.files("harness.runtimes.pins").joinpath(f"{runtime}-{kind}.txt")
    if not file.is_file():
        raise InvalidCaseError(
            f"no pinned dependencies of {runtime} for {kind} are shipped",
            remedy=f"name one of yours in runners/*.yaml: runtimes: {{{runtime}==VERSION: /path/to/python}}",
        )
    return file.read_text(encoding="utf-8")


def place_of(name: RuntimeVersion, kind: str) -> Path:
    """Return the folder of one version's environment."""
    return cache_folder() / f"{name.runtime}-{name.version}-{kind}"


def installed(kind: str | None = None) -> list[Environment]:
    """Return the environments that ``install`` finished, oldest version first."""
    versions = []
    for ready in sorted(cache_folder().glob(f"*/{READY}")):
        try:
            text, stated = ready.read_text(encoding="utf-8").split()[:2]
            name = parse_runtime(text)
        except (OSError, ValueError, InvalidCaseError):
            continue
        if kind in (None, stated):
            versions.append(
                Environment(name, ready.parent / "bin" / "python", "installed", stated, _size(ready.parent))
            )
    return sorted(versions, key=lambda item: (item.name.runtime, item.name.version))


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def find(name: RuntimeVersion, named: Mapping[str, str] | None = None) -> Environment:
    """Return the environment of a version: from the runner's profile, else an installed one.

    Args:
        name: runtime and version.
        named: ``runtimes`` of the runner's profile.

    Raises:
        InfraError: there is none (the remedy names the command that installs it), or the runner's path is no program.
    """
    for text, python in (named or {}).items():
        if parse_runtime(text) == name:
            path = Path(python).expanduser()
            if not os.access(path, os.X_OK):
                raise InfraError(f"the runner names {path} for {name}, and there is no program", kind="download")
            return Environment(name, path, "runner", "")
    for item in installed():
        if item.name == name:
            return item
    raise InfraError(
        f"{name} is not installed on this machine",
        remedy=f"quantgate runtime install {name}{'' if shutil.which('nvidia-smi') else ' --cpu'}",
        kind="download",
    )


def interpreter_of(runtime: str, named: Mapping[str, str]) -> Path | None:
    """Return the interpreter of a text such as ``sglang==0.5.23``; ``None`` for an empty text.

    Raises:
        InvalidCaseError, InfraError: as ``find``.
    """
    return find(parse_runtime(runtime), named).python if runtime else None


def install(
    name: RuntimeVersion, kind: str, report_line: Callable[[str], None], installer: Installer = "pip"
) -> Environment:
    """Make the environment of one version, or return it if it exists.

    An interrupted installation is made again: only a finished environment has ``ready.txt``.

    Args:
        name: runtime and version.
        kind: ``cpu`` or ``cuda``.
        report_line: called with a line per step.
        installer: the program that installs packages. ``uv`` reads its own settings of indexes, not those of pip.

    Raises:
        InvalidCaseError: the runtime is not in ``INSTALLABLE``, or no pinned dependencies are shipped.
        InfraError: the installer is absent, or failed; the message carries its last lines.
    """
    if name.runtime not in INSTALLABLE:
        raise InvalidCaseError(f"{name.runtime} cannot be installed by name", remedy=f"known: {', '.join(INSTALLABLE)}")
    place = place_of(name, kind)
    if (place / READY).exists():
        report_line(f"{name} is installed in {place}")
        return find(name)
    adding = _adding(installer)
    shutil.rmtree(place, ignore_errors=True)  # remains of an interrupted installation
    place.parent.mkdir(parents=True, exist_ok=True)
    shared = _shared(name.runtime, kind, report_line, adding) if kind == "cpu" else None
    report_line(f"2 of 3: the package {name}")
    # pip of the shared environment installs into this one
    _run([sys.executable, "-m", "venv", *([] if shared is None else ["--without-pip"]), str(place)])
    site = next((place / "lib").glob("python*")) / "site-packages"
    distribution = f"{INSTALLABLE[name.runtime]}=={name.version}"
    if shared is None:
        _run([*adding(place), f"{INSTALLABLE[name.runtime]}[diffusion]=={name.version}"])
    else:
        # --no-deps: the shared environment has the dependencies, and no version may add 3 GB of its own
        _run([*adding(shared), "--no-deps", "--target", str(site), distribution])
        (site / "shared.pth").write_text(
            f"{next((shared / 'lib').glob('python*')) / 'site-packages'}\n", encoding="utf-8"
        )
    report_line("3 of 3: importing it once")
    _run(
        [
            str(place / "bin" / "python"),
            "-c",
            f"import importlib.metadata as m; print(m.version({INSTALLABLE[name.runtime]!r}))",
        ]
    )
    (place / READY).write_text(f"{name} {kind}\n", encoding="utf-8")
    return Environment(name, place / "bin" / "python", "installed", kind, _size(place))


def _adding(installer: Installer) -> Callable[[Path], list[str]]:
    """Return a function from an environment's folder to the command that adds packages to it.

    Raises:
        InfraError: uv is asked for and is not on the PATH.
    """
    if installer == "pip":
        return lambda place: [str(place / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    program = shutil.which("uv")
    if program is None:
        raise InfraError("uv is not on the PATH", remedy="pip install uv, or --installer pip", kind="download")
    return lambda place: [program, "pip", "install", "--quiet", "--python", str(place / "bin" / "python")]


def _shared(runtime: str, kind: str, report_line: Callable[[str], None], adding: Callable[[Path], list[str]]) -> Path:
    """Make or return the environment of dependencies that all versions of a runtime share.

    Its folder is named by the digest of the pins, so that changed pins get a new environment.
    """
    text = pins(runtime, kind)
    place = cache_folder() / f"{runtime}-dependencies-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    if (place / READY).exists():
        report_line(f"1 of 3: the dependencies are there ({place})")
        return place
    report_line(f"1 of 3: {len(text.splitlines())} dependencies of {runtime}, once for all its versions (about 3 GB)")
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    _run([sys.executable, "-m", "venv", str(place)])
    requirements = place / "requirements.txt"
    requirements.write_text(text, encoding="utf-8")
    # torch with what it needs: the build that pip is set up for may keep its libraries in packages of their own
    built = [line for line in text.splitlines() if line.split("==")[0] in ("torch", "torchvision")]
    _run([*adding(place), *built])
    _run([*adding(place), "--no-deps", "--requirement", str(requirements)])
    (place / READY).write_text("dependencies\n", encoding="utf-8")
    return place


def remove(name: RuntimeVersion) -> Path | None:
    """Delete an installed environment and return its folder; ``None`` if it is not installed.

    Shared dependencies are deleted with the last version that uses them.
    """
    item = next((item for item in installed() if item.name == name), None)
    if item is None:
        return None
    place = item.python.parent.parent
    shutil.rmtree(place)
    if not any(other.name.runtime == name.runtime for other in installed()):
        for folder in cache_folder().glob(f"{name.runtime}-dependencies-*"):
            shutil.rmtree(folder)
    return place


def _run(command: list[str]) -> None:
    try:
        completed = subprocess.run(
            command, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False, env=own_environment()
        )
    except subprocess.TimeoutExpired as error:
        raise InfraError(
            f"{' '.join(command[:4])} did not end within {INSTALL_SECONDS:.0f} s", kind="download"
        ) from error
    if completed.returncode != 0:
        tail = " | ".join((completed.stderr or completed.stdout).strip().splitlines()[-3:])
        raise InfraError(
            f"{Path(command[0]).name} {' '.join(command[1:6])} failed: {tail}",
            kind="download",
        )


def own_environment() -> dict[str, str]:
    """Return the environment variables without those that would mix packages of two interpreters."""
    return {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
