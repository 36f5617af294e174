"""Writes the models that take an image as whole repositories: `python -m tiny.export_variants --out DIR [NAME ...]`.

`i2v` and `ti2v` are the BF16 models (`weights_i2v/`, `weights_ti2v/` and what they share with `weights/`); with
`-fp8` or `-nvfp4` behind the name every expert is quantized, as `tiny.export` does it for the text-to-video model.
Needs numpy and safetensors only, no torch, and takes about a second. The bytes do not depend on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path
from typing import Final

from tiny.export import Export, write_expert
from tiny.finish_variants import repository
from tiny.quantize import Format
from tiny.variants import VARIANTS, Variant

FORMATS: Final[tuple[Format, ...]] = ("fp8", "nvfp4")
#: Every name that can be exported: the model and the format of its experts (None: BF16, as committed).
EXPORTS: Final[dict[str, tuple[Variant, Format | None]]] = {
    name + (f"-{fmt}" if fmt else ""): (variant, fmt) for name, variant in VARIANTS.items() for fmt in (None, *FORMATS)
}


def export(name: str, out: Path, weights: Path | None = None) -> Path:
    """Writes the export called `name` (a key of `EXPORTS`) to `out/name`, replacing it; returns that folder.

    `weights` is a folder as `tiny.finish_variants` writes it, with `calibration.json` (default: the committed one).
    The folder appears whole or not at all. ValueError lists the known names.
    """
    if name not in EXPORTS:
        raise ValueError(f"no export is called {name!r}; known: {', '.join(EXPORTS)}")
    variant, fmt = EXPORTS[name]
    source = weights or variant.weights
    out.mkdir(parents=True, exist_ok=True)
    if fmt is None:
        return repository(variant, out / name, source)
    part = repository(variant, out / f".{name}.{os.getpid()}.quantized", source)
    amax = json.loads((source / "calibration.json").read_text())["activation_amax"]
    for expert in variant.experts:
        shutil.rmtree(part / expert)
        write_expert(source / expert, part / expert, amax[expert], Export(fmt))
    target = out / name
    shutil.rmtree(target, ignore_errors=True)
    part.replace(target)
    return target


def main(arguments: list[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m tiny.export_variants", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which (default all): {', '.join(EXPORTS)}")
    options = parser.parse_args(arguments)
    for name in options.names or EXPORTS:
        folder = export(name, options.out)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        print(f"{folder}  {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
