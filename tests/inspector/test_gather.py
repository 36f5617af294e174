"""A gain that a few rows suggest is measured again on more rows before it counts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from harness.inspector import gates, inspect, sampling
from harness.inspector.gates import DOUBT, is_doubtful
from harness.inspector.gather import MOST_DOUBTFUL
from harness.inspector.inspect import examine
from harness.inspector.measure import Measured
from harness.inspector.sampling import STRIP, Budget


def measured_with(monkeypatch: pytest.MonkeyPatch, exports: Path, limit: float) -> Mapping[str, Measured]:
    """Measure four rows of each Linear; a gain that is further than ``limit`` from 1 is in doubt."""
    monkeypatch.setattr(sampling, "LEAST", 1)
    monkeypatch.setattr(inspect, "LOCAL", Budget(rows=4))
    monkeypatch.setattr(gates, "gain_limit", lambda _measured: limit)
    return examine(exports / "nvfp4", base=exports / "base").gathered.measured["transformer"]


def off(item: Measured) -> float:
    assert item.fit is not None
    return abs(item.fit.scores[item.fit.best].gain - 1)


def test_few_doubtful_linears_are_measured_on_a_whole_strip(monkeypatch: pytest.MonkeyPatch, exports: Path) -> None:
    four = measured_with(monkeypatch, exports, 1.0)
    assert {len(item.rows) for item in four.values()} == {4}
    limit = sorted(off(item) for item in four.values())[-4]  # three Linears are further off
    again = measured_with(monkeypatch, exports, limit)
    wide = {name for name, item in again.items() if len(item.rows) == STRIP}
    assert wide == {name for name, item in four.items() if limit < off(item) < DOUBT}
    assert len(wide) == 3
    assert all(off(again[name]) < off(four[name]) for name in wide), "the four rows had misled"
    assert not any(is_doubtful(again[name]) for name in wide)


def test_a_gain_of_many_linears_is_no_chance(monkeypatch: pytest.MonkeyPatch, exports: Path) -> None:
    again = measured_with(monkeypatch, exports, 0.0)
    assert sum(off(item) < DOUBT for item in again.values()) > MOST_DOUBTFUL
    assert {len(item.rows) for item in again.values()} == {4}
