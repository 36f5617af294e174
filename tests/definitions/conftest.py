"""A case file in a throw-away repository."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest
from hypothesis import settings

from harness.definitions.case import Located
from harness.definitions.loading import load_cases
from harness.errors import InvalidCaseError

# Examples are judged by what they give, not by how long a busy machine takes for them.
settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")

DEFAULTS = """\
defaults:
  runners: [cpu]
  model: {path: ./weights}
  sampling: {prompt: p, width: 96, height: 64, num_frames: 17, num_inference_steps: 8, guidance_scale: 3.0}
"""
FIRST_LINE = DEFAULTS.count("\n") + 1
"""Line of ``cases:`` where a text is put after ``DEFAULTS``."""

Load = Callable[..., tuple[Located, ...]]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Loads ``cases:`` text after ``DEFAULTS`` (or whole texts, one a file) with the runners cpu, h200 and b200."""

    def loader(*texts: str, whole: bool = False) -> tuple[Located, ...]:
        paths = []
        for index, text in enumerate(texts):
            path = tmp_path / "cases" / f"{'abcdef'[index]}.yaml"
            path.parent.mkdir(exist_ok=True)
            path.write_text(("" if whole else DEFAULTS) + dedent(text), encoding="utf-8")
            paths.append(path)
        return load_cases(paths, tmp_path, runners=["cpu", "h200", "b200"])

    return loader


@pytest.fixture
def refused(load: Load) -> Callable[..., list[str]]:
    """The lines of the error that loading must raise, without the advice."""

    def loader(*texts: str, whole: bool = False) -> list[str]:
        with pytest.raises(InvalidCaseError) as caught:
            load(*texts, whole=whole)
        error = caught.value
        return [f"{error.place}: {error.message}"] if error.place else error.message.splitlines()

    return loader
