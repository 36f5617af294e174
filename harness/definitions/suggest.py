"""Turns a misspelt word into advice."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``did you mean X?`` where something is close, else the list of what is known."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if close:
        return f"did you mean {close[0]}?"
    return f"known: {', '.join(names)}" if names else "none is known"


def near_folder(path: Path) -> Path | None:
    """The folder that was probably meant by an absent one: each absent part put right; ``None`` where one cannot be."""
    parts = path.parts
    known = Path(parts[0]) if parts else Path()
    for index, part in enumerate(parts):
        step = known / part if index else known
        if step.is_dir():
            known = step
            continue
        beside = [one.name for one in known.iterdir() if one.is_dir()] if known.is_dir() else []
        close = difflib.get_close_matches(part, beside, n=1, cutoff=0.6)
        if not close:
            return None
        known = known / close[0]
    return known
