"""Writes quantized checkpoints of the embedded Wan2.2 as ModelOpt would: `python -m tiny.export --out DIR`.

Needs numpy and safetensors only, no torch, and takes under a second. The bytes do not depend on the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from tiny.quantize import Format, NibbleOrder, ignored, quantize
from tiny.tensorfile import read, write

_HERE = Path(__file__).parent
WEIGHTS: Final = _HERE / "weights"
CALIBRATION: Final = _HERE / "calibration.json"
#: Component folders: high noise (`t >= 0.875 * T`), low noise.
EXPERTS: Final = ("transformer", "transformer_2")
MODELOPT: Final = "0.47.0"
_FILE = "diffusion_pytorch_model.safetensors"

ConfigStyle = Literal["config.json", "hf_quant_config.json"]


@dataclass(frozen=True)
class Export:
    """What one export is made of.

    `override`: only the primary expert, as a folder of its own that replaces `transformer/` of the BF16 repository;
    otherwise a whole Diffusers repository with both experts quantized. `nibbles="high_first"` is a checkpoint swapped
    beforehand for a runtime that swaps by default; as in the field, nothing in its config says so.
    `older_diffusers`: the scheduler's configuration as diffusers wrote it in May 2026; SGLang 0.5.12 takes no newer.
    """

    fmt: Format | Literal["bf16"]
    override: bool = False
    nibbles: NibbleOrder = "low_first"
    style: ConfigStyle = "config.json"
    older_diffusers: bool = False


EXPORTS: Final[dict[str, Export]] = {
    "fp8": Export("fp8"),
    "nvfp4": Export("nvfp4"),
    "fp8-override": Export("fp8", override=True),
    "nvfp4-override": Export("nvfp4", override=True),
    "nvfp4-preswapped-override": Export("nvfp4", override=True, nibbles="high_first"),
    "fp8-old-config": Export("fp8", style="hf_quant_config.json"),
    "nvfp4-old-config": Export("nvfp4", style="hf_quant_config.json"),
    "bf16-older-diffusers": Export("bf16", older_diffusers=True),
    "nvfp4-older-diffusers": Export("nvfp4", older_diffusers=True),
}
NEW_SCHEDULER_KEYS: Final = ("shift_terminal", "sigma_min", "sigma_max")
"""Keys of the scheduler's configuration that came with later versions of diffusers."""


def export(name: str, out: Path, weights: Path = WEIGHTS, calibration: Path = CALIBRATION) -> Path:
    """Writes the export called `name` (a key of `EXPORTS`) to `out/name`, replacing it; returns that folder.

    The folder appears whole or not at all. ValueError lists the known names.
    """
    if name not in EXPORTS:
        raise ValueError(f"no export is called {name!r}; known: {', '.join(EXPORTS)}")
    spec = EXPORTS[name]
    amax = json.loads(calibration.read_text())["activation_amax"]
    out.mkdir(parents=True, exist_ok=True)
    target, part = out / name, out / f".{name}.{os.getpid()}.part"
    shutil.rmtree(part, ignore_errors=True)
    if spec.override:
        write_expert(weights / EXPERTS[0], part, amax[EXPERTS[0]], spec)
    else:
        shutil.copytree(weights, part, ignore=shutil.ignore_patterns(*EXPERTS, "manifest.json"))
        for expert in EXPERTS:
            write_expert(weights / expert, part / expert, amax[expert], spec)
        if spec.older_diffusers:
            path = part / "scheduler" / "scheduler_config.json"
            config = json.loads(path.read_text())
            kept = {key: value for key, value in config.items() if key not in NEW_SCHEDULER_KEYS}
            path.write_text(json.dumps(kept, indent=2) + "\n")
    shutil.rmtree(target, ignore_errors=True)
    part.replace(target)
    return target


def quantization_config(fmt: Format, ignore: list[str], style: ConfigStyle) -> dict[str, Any]:
    """What ModelOpt writes about the quantization: inside `config.json`, or (older) in `hf_quant_config.json`."""
    producer = {"name": "modelopt", "version": MODELOPT}
    if style == "hf_quant_config.json":
        details: dict[str, Any] = {"quant_algo": fmt.upper(), "kv_cache_quant_algo": None}
        if fmt == "nvfp4":
            details["group_size"] = 16
        return {"producer": producer, "quantization": {**details, "exclude_modules": ignore}}
    number: dict[str, Any] = {"dynamic": False, "num_bits": 8 if fmt == "fp8" else 4, "type": "float"}
    if fmt == "nvfp4":
        number["group_size"] = 16
    return {
        "config_groups": {"group_0": {"input_activations": number, "weights": dict(number), "targets": ["Linear"]}},
        "ignore": ignore,
        "quant_algo": fmt.upper(),
        "producer": producer,
        "quant_method": "modelopt",
    }


def write_expert(source: Path, target: Path, amax: dict[str, float], spec: Export) -> None:
    """Writes the BF16 expert in the folder `source`, quantized as `spec` says, to the new folder `target`.

    `amax` holds the largest absolute input of each quantized Linear, by module name.
    """
    if spec.fmt == "bf16":
        shutil.copytree(source, target)
        return
    tensors = read(source / _FILE)
    target.mkdir(parents=True)
    write(target / _FILE, quantize(tensors, amax, spec.fmt, spec.nibbles))
    config = json.loads((source / "config.json").read_text())
    quantization = quantization_config(spec.fmt, ignored(tensors), spec.style)
    if spec.style == "config.json":
        config["quantization_config"] = quantization
    else:
        (target / "hf_quant_config.json").write_text(json.dumps(quantization, indent=4))
    (target / "config.json").write_text(json.dumps(config, indent=4))


def main(arguments: list[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m tiny.export", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which (default all): {', '.join(EXPORTS)}")
    options = parser.parse_args(arguments)
    for name in options.names or EXPORTS:
        folder = export(name, options.out)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        print(f"{folder}  {size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
