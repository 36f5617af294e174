"""Map the runtime's module names to the checkpoint's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from safetensors import safe_open

WEIGHT = ".weight"


def stored_modules(folder: Path) -> list[str]:
    """Return the names of modules whose ``weight`` the safetensors files of a folder hold, sorted."""
    names: set[str] = set()
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            names |= {name[: -len(WEIGHT)] for name in file.keys() if name.endswith(WEIGHT)}  # noqa: SIM118
    return sorted(names)


def by_runtime_name(
    stored: Iterable[str], mapping: Callable[[str], Any], modules: Iterable[str]
) -> dict[str, list[str]]:
    """Return checkpoint names by the name of the runtime module that holds their weights.

    Args:
        stored: names in the checkpoint.
        mapping: the runtime's function from a tensor's stored name to its own (a tuple whose first item is the name).
        modules: names of the runtime's modules.

    Returns:
        Runtime name to checkpoint names: several if the runtime fuses them (q, k and v).
    """
    present = set(modules)
    named: dict[str, list[str]] = {}
    for name in stored:
        target = mapping(f"{name}{WEIGHT}")
        target = target[0] if isinstance(target, tuple) else target
        runtime = str(target).removesuffix(WEIGHT)
        if runtime in present:
            named.setdefault(runtime, []).append(name)
    return named
