"""Names from other rooms and libraries, read without importing them: loading cases must not import torch."""

from __future__ import annotations

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from harness.definitions.contract import Contract
from harness.definitions.validation import did_you_mean
from harness.project import Project

CONTRACTS: Final = Path(__file__).parents[1] / "inspector" / "contracts"


@cache
def attention_backends() -> tuple[str, ...]:
    """Return the attention backends of the installed diffusers, read from its source; empty if unknown."""
    try:
        spec = find_spec("diffusers")
    except ImportError:
        return ()
    if spec is None or spec.origin is None:
        return ()
    source = Path(spec.origin).parent / "models" / "attention_dispatch.py"
    try:
        text = source.read_text(encoding="utf-8")
    except OSError:
        return ()
    body = re.search(r"^class AttentionBackendName\b.*?(?=^\S)", text, re.MULTILINE | re.DOTALL)
    return tuple(re.findall(r'^    \w+ = "(\w+)"', body[0], re.MULTILINE)) if body else ()


def check_contract(contract: Contract, root: Path | None = None) -> str | None:
    """Return the fault of a well-formed contract, or ``None``: no rules of its runtime are shipped or in the project.

    A version without rules is not refused here: the inspection reports it, with the command that learns its rules.
    """
    runtimes = _runtimes(root)
    if contract.runtime in runtimes:
        return None
    return f"no contract of the runtime {contract.runtime!r} is known; {did_you_mean(contract.runtime, runtimes)}"


def _runtimes(root: Path | None) -> list[str]:
    """Return the runtimes that have a contract, from the names of the contract files."""
    folders = [CONTRACTS, *([Project(root).contracts] if root is not None else [])]
    names = {path.stem for folder in folders for path in folder.glob("*.yaml")}
    names |= {path.stem.rsplit("-", 1)[0] for folder in folders for path in (folder / "learned").glob("*.yaml")}
    return sorted(names)
