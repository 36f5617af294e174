"""Everything around the GPU: packages, disk, the cache of models."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.specifiers import SpecifierSet

from harness.definitions.case import UNRESOLVED, CheckpointRef
from harness.lane.preflight import Check

GIB = 2**30
LEAST_DISK_GIB = 2.0
LOW_DISK_GIB = 20.0
_YES = {"1", "ON", "YES", "TRUE"}


def check_packages(wanted: Mapping[str, str]) -> Iterator[Check]:
    """Installed versions against the specifiers of the runner's profile."""
    for name, specifier in sorted(wanted.items()):
        try:
            found = version(name)
        except PackageNotFoundError:
            found = ""
        if found and SpecifierSet(specifier).contains(found, prereleases=True):
            yield Check(name="package", state="fit", found=f"{name} {found}", wanted=specifier)
            continue
        message = f"{name} is {found or 'not installed'}, and the runner's profile wants {specifier}"
        remedy = f"pip install '{name}{specifier}'"
        yield Check(name="package", state="unfit", found=found, wanted=specifier, message=message, remedy=remedy)


def check_disk(root: Path, environ: Mapping[str, str]) -> Iterator[Check]:
    """Free space where runs are written and where models lie."""
    for label, path in (("runs", root), ("models", hub_cache(environ))):
        there = next((one for one in (path, *path.parents) if one.exists()), Path("/"))
        free = shutil.disk_usage(there).free / GIB
        found = f"{free:.1f} GiB free at {there} ({label})"
        if free < LEAST_DISK_GIB:
            remedy = "make room: rm -r runs/<old run>, hf cache prune"
            yield Check(name="disk", state="unfit", found=found, message=f"only {found}", remedy=remedy)
        elif free < LOW_DISK_GIB:
            yield Check(name="disk", state="warning", found=found, message=f"only {found}")
        else:
            yield Check(name="disk", state="fit", found=found)


def check_cache(checkpoints: Sequence[CheckpointRef], environ: Mapping[str, str]) -> Iterator[Check]:
    """The model cache: its folder, and every pinned revision in it where the hub is offline."""
    cache = hub_cache(environ)
    named = environ.get("HF_HOME") or environ.get("HF_HUB_CACHE")
    if named and not Path(named).is_dir():
        message = f"HF_HOME is {named}, and there is no such folder"
        yield Check(name="hf_home", state="unfit", found=named, message=message, remedy="mount the model cache there")
    else:
        yield Check(name="hf_home", state="fit", found=named or f"not set: {cache}")
    if environ.get("HF_HUB_OFFLINE", "").upper() not in _YES:
        return
    pinned = {(ref.path, ref.revision) for ref in checkpoints if not ref.is_local}
    for path, revision in sorted(pinned, key=str):
        if revision in (None, UNRESOLVED):
            continue  # such a case is refused by itself, with its own advice
        snapshot = cache / f"models--{path.replace('/', '--')}" / "snapshots" / str(revision)
        found = f"{path}@{str(revision)[:12]}"
        if snapshot.is_dir():
            yield Check(name="model_cache", state="fit", found=found)
            continue
        message = f"{found} is not in the cache {cache}, and the hub is offline"
        remedy = f"HF_HUB_OFFLINE=0 hf download {path} --revision {revision}"
        yield Check(name="model_cache", state="unfit", found="absent", wanted=found, message=message, remedy=remedy)


def hub_cache(environ: Mapping[str, str]) -> Path:
    """Folder of the hub's cache, by the rules of huggingface_hub."""
    if environ.get("HF_HUB_CACHE"):
        return Path(environ["HF_HUB_CACHE"])
    home = environ.get("HF_HOME") or str(Path(environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    return Path(home).expanduser() / "hub"
