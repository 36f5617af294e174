"""Names that other rooms and libraries know, told without importing them: loading cases must not cost torch."""

from __future__ import annotations

import re
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from packaging.specifiers import InvalidSpecifier, SpecifierSet

from harness.definitions.contract import Contract
from harness.definitions.suggest import did_you_mean
from harness.definitions.text import read_text
from harness.definitions.yaml_tree import YamlError, parse

METRICS: Final = (
    "ssim", "psnr", "mad", "tile_ssim", "flicker", "channel_shift", "contrast_ratio", "sharpness_ratio",
    "motion_ratio", "frame_order", "new_duplicates", "lpips_alex", "lpips_vgg", "lpips_squeeze",
)  # fmt: skip
"""The package's own metrics, as `harness.frames.registry` builds them."""
CONTRACTS: Final = Path(__file__).parents[1] / "checkpoint" / "contracts"


@cache
def metrics() -> tuple[str, ...]:
    """Names of the metrics that a case may ask for, those of plugins included."""
    return (*METRICS, *sorted({point.name for point in entry_points(group="quantgate.metrics")}))


@cache
def attention_backends() -> tuple[str, ...]:
    """Names of the attention backends of the diffusers that is installed, read from its source; empty: unknown."""
    try:
        found = find_spec("diffusers")
    except ImportError:
        return ()
    if found is None or found.origin is None:
        return ()
    source = Path(found.origin).parent / "models" / "attention_dispatch.py"
    try:
        text = source.read_text(encoding="utf-8")
    except OSError:
        return ()
    body = re.search(r"^class AttentionBackendName\b.*?(?=^\S)", text, re.MULTILINE | re.DOTALL)
    return tuple(re.findall(r'^    \w+ = "(\w+)"', body[0], re.MULTILINE)) if body else ()


def check_contract(contract: Contract) -> str | None:
    """What is wrong with a contract that is well formed: no rules of that runtime, or none of that version."""
    ranges = _rules(contract.runtime)
    if ranges is None:
        known = [path.stem for path in CONTRACTS.glob("*.yaml")]
        return f"no contract of the runtime {contract.runtime!r} is known; {did_you_mean(contract.runtime, known)}"
    if any(SpecifierSet(one).contains(contract.version, prereleases=True) for one in ranges):
        return None
    return f"no rules of {contract.runtime} cover version {contract.version}; known ranges: {'; '.join(ranges)}"


@cache
def _rules(runtime: str) -> tuple[str, ...] | None:
    """Version ranges of a contract file; ``None`` where there is none. One that is malformed is told by its reader."""
    path = CONTRACTS / f"{runtime}.yaml"
    if not path.is_file():
        return None
    try:
        ranges = tuple(str(rule["versions"]) for rule in parse(read_text(path)).plain()["rules"])
        for one in ranges:
            SpecifierSet(one)
    except (YamlError, KeyError, TypeError, InvalidSpecifier):
        return (">=0",)
    return ranges
