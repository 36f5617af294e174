"""The names of all files of a run, in one place.

``runs/<run>/<case>/`` holds one case of one run; `RunFolder` finds the cases, and the constants name the files in each.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

RECORD_FILE: Final = "record.json"
"""The record of a case, or of a calibration run: `harness.records.case_record.CaseRecord`."""
CLIP_FILE: Final = "clip.safetensors"
"""The frames that the case generated, as 8-bit RGB."""
GOLDEN_CLIP_FILE: Final = "golden.safetensors"
"""A copy of the golden that the frames were compared with, so that a report needs no store."""
LATENTS_FILE: Final = "latents.safetensors"
"""The last latents of the generation, which the VAE decoded: tensor ``latents`` [1, C, T, H, W] in float32."""
GOLDEN_LATENTS_FILE: Final = "golden-latents.safetensors"
TRACE_FILE: Final = "trace.json"
GOLDEN_TRACE_FILE: Final = "golden-trace.json"
PROBES_FILE: Final = "probes.safetensors"
"""Recorded inputs of the Linears."""
SKETCHES_FILE: Final = "sketches.safetensors"
"""Sketches of the Linears' outputs for these inputs."""
EXPERIMENTS_FILE: Final = "experiments.json"
"""Results of the experiments that attribution made after a failure."""
PICTURE_FILES: Final = ("image.png", "last_image.png")
"""Pictures of the request, decoded and resized as the model gets them."""
ORIGIN_FILE: Final = "origin.json"
"""Inputs of a calibration run. It is written last, so a folder that has it holds a finished run."""
HISTORY_FILE: Final = "history.json"
"""Durations of earlier runs, beside the runs. Planning balances shards by them."""
REPORT_FOLDER: Final = "report"
ENGINES_FOLDER: Final = "engines"
"""Logs of the engines of a run."""

TAKEN: Final = frozenset({REPORT_FOLDER, ENGINES_FOLDER})
"""Folders of a run beside those of its cases: no case may have such an id."""
FILE_ENDINGS: Final = (".json", ".jsonl", ".xml", ".html", ".md", ".sqlite", ".lock", ".log", ".zip")
"""Endings of the files that runs, merges and reports write beside the folders of cases."""

_ATTEMPT = "record-attempt-{}.json"


def attempt_file(attempt: int) -> str:
    """Return the file name of the record of an earlier attempt.

    Args:
        attempt: counted from 1.
    """
    return _ATTEMPT.format(attempt)


def attempt_files(folder: Path) -> list[Path]:
    """Return the records of earlier attempts in the folder of a case, in no particular order."""
    return list(folder.glob(_ATTEMPT.format("*")))


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run."""

    path: Path

    def case(self, case: str) -> Path:
        """Return the folder of one case.

        Args:
            case: id of the case; characters that a file name cannot hold become ``_``.
        """
        return self.path / re.sub(r"[^A-Za-z0-9_.-]", "_", case)

    @property
    def engines(self) -> Path:
        """Folder of the engines' logs."""
        return self.path / ENGINES_FOLDER

    @property
    def report(self) -> Path:
        """Folder of the HTML report."""
        return self.path / REPORT_FOLDER

    def records(self) -> Iterator[Path]:
        """Yield the path of every case's record, sorted, without earlier attempts."""
        yield from sorted(self.path.rglob(RECORD_FILE))
