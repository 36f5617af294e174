"""What an entry of the unseen list is: a fault with the causes that a reader would accept, or a healthy change."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

Form = Literal["nvfp4", "fp8"]
FORMS: tuple[Form, ...] = ("nvfp4", "fp8")


@dataclass(frozen=True)
class Entry:
    """One change of a healthy case.

    Exactly one run is made of it. Everything that is not named stays as it is in the golden's run.
    """

    id: str
    kind: str
    """Group of the list, such as ``component files`` or ``guidance``."""
    form: Form
    """Format of the embedded case that is changed."""
    files: str = ""
    """Name of an edit of the export's copy, in ``benchmarks.unseen.files``."""
    running: str = ""
    """Name of an injection into the running pipeline, in ``benchmarks.unseen.running``."""
    frames: str = ""
    """Name of a change of the finished frames, in ``benchmarks.unseen.finished``."""
    case: dict[str, Any] = field(default_factory=dict, hash=False)
    """Sections of the case with other values."""
    fresh: bool = False
    """Whether the run needs an engine of its own."""
    warm: bool = False
    """Whether the engine makes a healthy video first."""
    accept: tuple[str, ...] = ()
    """Regular expressions, all of which a right cause matches (in code, place or sentence); empty: healthy."""
    value_changes: bool = False
    """Of a healthy change: whether bytes of weights or variables really differ, so that ``golden_stale`` is right."""

    @property
    def healthy(self) -> bool:
        """Whether nothing is wrong with the run."""
        return not self.accept

    def names(self, cause: str) -> bool:
        """Whether ``cause`` (code, place and sentence in one text) is what a reader would call right.

        A pattern matches at the beginning of a word only (``gain`` is not in ``again``); underscores part words too.
        """
        text = f"{cause} {cause.replace('_', ' ')}"
        return all(re.search(rf"\b(?:{pattern})", text, re.IGNORECASE) for pattern in self.accept)


def numbered(entries: list[Entry]) -> list[Entry]:
    """The entries, checked.

    Raises:
        ValueError: an id is used twice, or an entry changes nothing.
    """
    seen: set[str] = set()
    for entry in entries:
        if entry.id in seen:
            raise ValueError(f"{entry.id} is listed twice")
        seen.add(entry.id)
        if not (entry.files or entry.running or entry.frames or entry.case or entry.fresh):
            raise ValueError(f"{entry.id} changes nothing")
    return entries
