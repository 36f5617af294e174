"""The embedded model of ``quantgate init --demo``: where it lies, and how a project gets its own copy."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from harness.errors import InfraError

CASE: Final = "nvfp4"
"""Id of the demo case whose golden and limits travel along."""
EXPORT: Final = "nvfp4"
"""Name of the quantized checkpoint, as `tiny.export` calls it."""
MODEL: Final = "demo/model"
QUANTIZED: Final = "demo/nvfp4"
_NOT_MODEL: Final = ("manifest.json",)


def embedded_root() -> Path:
    """Return the folder that holds ``tiny/``, ``goldens/cpu/nvfp4`` and ``thresholds/cpu/nvfp4.json``.

    In an installed package that is a folder beside this file, in a checkout the root of the repository.

    Raises:
        InfraError: kind ``disk``: neither is there, so that the package is not whole.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "embedded", package.parents[1]):
        if (folder / "tiny" / "weights" / "model_index.json").is_file():
            return folder
    raise InfraError(
        "this installation of quantgate lacks the embedded model",
        place=str(package / "embedded"),
        remedy="pip install --force-reinstall --no-deps quantgate",
        kind="disk",
    )


def constraints_file() -> Path | None:
    """Return the list of the versions that quantgate is tested with; ``None`` where the package lacks it."""
    package = Path(__file__).resolve().parent
    places = (package / "embedded" / "constraints.txt", package.parents[1] / "constraints.txt")
    return next((path for path in places if path.is_file()), None)


def copy_model(root: Path) -> bool:
    """Put the BF16 model below ``root/demo/model``, unless it is there.

    Returns:
        Whether it was written.
    """
    target = root / MODEL
    if target.exists():
        return False
    part = _part(target)
    shutil.copytree(embedded_root() / "tiny" / "weights", part, ignore=shutil.ignore_patterns(*_NOT_MODEL))
    part.replace(target)
    return True


def export_quantized(root: Path) -> bool:
    """Quantize the model to NVFP4, as ModelOpt writes it, into ``root/demo/nvfp4``, unless that is there.

    The exporter needs numpy and safetensors, takes about a second, and writes the same bytes on every machine.

    Returns:
        Whether it was written.

    Raises:
        InfraError: the exporter failed.
    """
    target = root / QUANTIZED
    if target.exists():
        return False
    source = embedded_root()
    folder = _part(target)
    path = os.pathsep.join([str(source), *filter(None, [os.environ.get("PYTHONPATH")])])
    # a process of its own: `tiny` is a top-level name that is nobody's business in the process of a user
    export = subprocess.run(
        [sys.executable, "-m", "tiny.export", "--out", str(folder), EXPORT],
        env={**os.environ, "PYTHONPATH": path},
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
    )
    if export.returncode:
        shutil.rmtree(folder, ignore_errors=True)
        last = (export.stderr.strip().splitlines() or ["no message"])[-1]
        raise InfraError(
            f"the embedded model could not be quantized: {last}",
            place=str(target),
            remedy="see that the disk has room (df -h), then type it again: quantgate init --demo",
            kind="crash",
        )
    (folder / EXPORT).replace(target)
    shutil.rmtree(folder)
    return True


def _part(target: Path) -> Path:
    """An empty place beside ``target``, of which one rename makes it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    return part
