"""Names that other rooms and libraries know, told without importing them: loading cases must not cost torch."""

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


def check_contract(contract: Contract, root: Path | None = None) -> str | None:
    """What is wrong with a contract that is well formed: no rules of that runtime are shipped or in the project.

    A version that nobody read is not refused here: the inspection says so, and names the command that learns it.
    """
    known = _runtimes(root)
    if contract.runtime in known:
        return None
    return f"no contract of the runtime {contract.runtime!r} is known; {did_you_mean(contract.runtime, known)}"


def _runtimes(root: Path | None) -> list[str]:
    """Runtimes that have a contract, by the names of their files."""
    folders = [CONTRACTS, *([Project(root).contracts] if root is not None else [])]
    names = {path.stem for folder in folders for path in folder.glob("*.yaml")}
    names |= {path.stem.rsplit("-", 1)[0] for folder in folders for path in (folder / "learned").glob("*.yaml")}
    return sorted(names)
