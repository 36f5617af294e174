"""Real frames, where their folder is."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.faults.scenes import REAL_FRAMES
from benchmarks.power import real


def test_without_frames_nothing_is_claimed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(real, "REAL_FRAMES", tmp_path)
    assert real.main() == 2


@pytest.mark.slow
@pytest.mark.skipif(not (REAL_FRAMES / f"{real.SETS[0]}_frame_mid.png").is_file(), reason="no real frames here")
def test_one_golden_twice_passes_and_two_checkpoints_are_answered_by_identity(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert real.main() == 0
    message = capsys.readouterr().out
    assert "limits without the second generation: passes" in message
    assert "identity says weights" in message
