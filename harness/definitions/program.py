"""The ``command`` of a case: its placeholders, and the checks before it runs."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

CASE_JSON: Final = "{case_json}"
OUT: Final = "{out}"
OUT_DIR: Final = "{out_dir}"
RECEIPTS: Final = "{receipts}"
USAGE: Final = "{usage}"
DISTURB: Final = "{disturb}"
ROOT: Final = "{root}"
CASE_DIR: Final = "{case_dir}"

PLACEHOLDERS: Final[dict[str, str]] = {
    CASE_JSON: "a JSON file with the resolved case, the folders of its checkpoints and the device",
    OUT: "the file that the program writes its frames to",
    OUT_DIR: "a folder, empty at the start, that the program writes its frames to instead of {out}",
    RECEIPTS: "the file that the program writes its receipts to, if it can prove which kernels ran",
    USAGE: "the file that the program may write its times and memory to",
    DISTURB: "0, or the seed of a run whose latents the program disturbs by one unit in the last place",
    ROOT: "the repository's root, absolute; the program's working directory too",
    CASE_DIR: "the folder of the case file, relative to the root",
}
"""Placeholder to meaning. Each is replaced anywhere in an argument."""

_LIKE_A_PLACEHOLDER: Final = re.compile(r"\{[A-Za-z_]{2,20}\}")
_CLOSE: Final = 0.75

Finding = tuple[tuple[str | int, ...], str]
"""Path of the field, and its fault as a sentence."""


def check_command(command: tuple[str, ...]) -> Iterator[Finding]:
    """Yield the faults of a ``command`` that no program can work with.

    Braces that resemble no placeholder are left to the program, which may take its own templates.
    """
    if not command:
        return
    if not any(CASE_JSON in part for part in command):
        yield ("command",), f"the program gets no request: add an argument with {CASE_JSON}"
    if not any(OUT in part or OUT_DIR in part for part in command):
        yield (
            ("command",),
            f"the program gets no place for its frames: add an argument with {OUT}, or {OUT_DIR} for a folder",
        )
    for index, part in enumerate(command):
        for text in _LIKE_A_PLACEHOLDER.findall(part):
            close = difflib.get_close_matches(text, PLACEHOLDERS, n=1, cutoff=_CLOSE)
            if text not in PLACEHOLDERS and close:
                yield ("command", index), f"there is no placeholder {text}; did you mean {close[0]}?"


def at_its_place(command: tuple[str, ...], case_file: Path) -> tuple[str, ...]:
    """Replace ``{case_dir}`` by the folder of the case file.

    The folder is relative to the root, where the program runs. So the resolved case, and the identity made of it,
    are the same in every checkout.

    Args:
        command: as written.
        case_file: relative to the root.
    """
    folder = case_file.parent.as_posix()
    return tuple(part.replace(CASE_DIR, folder) for part in command)


def filled(argument: str, places: dict[str, str]) -> str:
    """Replace placeholders in one pass, so that a placeholder inside a replacement stays as it is.

    Args:
        argument: one argument of ``command``.
        places: replacement by placeholder.
    """
    pattern = "|".join(re.escape(name) for name in sorted(places, key=len, reverse=True))
    return re.sub(pattern, lambda match: places[match.group()], argument)
