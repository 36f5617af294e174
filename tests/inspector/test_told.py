"""What is right and still has to be told to a runtime: a cast without scales, a prefix in front of the names."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.corpus.dialects import DIALECTS, make
from harness.inspector import inspect_checkpoint

NAMED = {"FP8 cast E4M3": {"fp8_cast"}, "_orig_mod. in front": {"names_prefixed"}, "modelopt FP8 per tensor": set()}


@pytest.mark.parametrize("name", NAMED)
def test_a_right_file_of_which_a_runtime_must_be_told_is_clean_with_a_warning(
    name: str, exports: Path, tmp_path: Path
) -> None:
    dialect = next(item for item in DIALECTS if item.name == name)
    report = inspect_checkpoint(make(dialect, exports, tmp_path / "made"), base=exports / "base", digests=False)
    assert report.outcome == "clean"
    printed = {item.code for item in report.findings if item.severity == "warning"}
    assert printed & {"fp8_cast", "names_prefixed"} == NAMED[name]
