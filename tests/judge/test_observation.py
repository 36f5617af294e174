"""The three numbers that probes are held by, where there is no number to give."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.judge.observation import cosine, gain
from harness.limits.probes import relative_error
from harness.records.probe import BROKEN

ONE, ZERO = (3.0, 4.0), (0.0, 0.0)
NAN, INFINITE = (3.0, math.nan), (3.0, math.inf)
Row = tuple[float, ...]


def array(row: Row) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.asarray(row, np.float32)


@pytest.mark.parametrize(
    ("run", "anchor", "error"),
    [
        (ONE, ONE, 0.0),
        ((3.0, 4.5), ONE, 0.1),
        ((6.0, 8.0), ONE, 1.0),
        (ONE, (6.0, 8.0), 0.5),
        (ZERO, ONE, 1.0),
        (ZERO, ZERO, 0.0),
        (ONE, ZERO, BROKEN),
        ((1e-30, 0.0), ZERO, BROKEN),
        ((1e30, 0.0), (1e-8, 0.0), BROKEN),
        (NAN, ONE, BROKEN),
        (ONE, NAN, BROKEN),
        (INFINITE, ONE, BROKEN),
        (ONE, INFINITE, BROKEN),
        (NAN, NAN, BROKEN),
        ((3.0,), ONE, BROKEN),
    ],
)
def test_relative_error(run: Row, anchor: Row, error: float) -> None:
    assert relative_error(array(run), array(anchor)) == pytest.approx(error, rel=1e-6)


def test_one_number_against_many_is_no_comparison() -> None:
    """numpy would stretch it."""
    assert relative_error(array((3.0,)), array((3.0, 3.0))) == BROKEN
    assert cosine(array((3.0,)), array((3.0, 3.0))) == 0.0


@pytest.mark.parametrize(
    ("run", "anchor", "wanted"),
    [
        (ONE, ONE, 1.0),
        ((6.0, 8.0), ONE, 1.0),
        ((-3.0, -4.0), ONE, -1.0),
        ((4.0, -3.0), ONE, 0.0),
        ((3.0, 0.0), ONE, 0.6),
        (ZERO, ONE, 0.0),
        (ONE, ZERO, 0.0),
        (NAN, ONE, 0.0),
        (ONE, NAN, 0.0),
        (ONE, INFINITE, 0.0),
    ],
)
def test_cosine(run: Row, anchor: Row, wanted: float) -> None:
    assert cosine(array(run), array(anchor)) == pytest.approx(wanted)


@pytest.mark.parametrize(("run", "anchor"), [((0.1,) * 3, (0.1,) * 3), ((-0.1,) * 3, (0.1,) * 3)])
def test_a_cosine_never_leaves_its_range(run: Row, anchor: Row) -> None:
    assert -1.0 <= cosine(array(run), array(anchor)) <= 1.0


@pytest.mark.parametrize(
    ("run", "anchor", "wanted"),
    [
        (ONE, ONE, 1.0),
        ((6.0, 8.0), ONE, 2.0),
        ((-3.0, -4.0), ONE, -1.0),
        ((3.0, 0.0), ONE, 0.36),
        (ZERO, ONE, 0.0),
        ((1e30, 0.0), (1e-8, 0.0), BROKEN),
        ((-1e30, 0.0), (1e-8, 0.0), -BROKEN),
        (ONE, ZERO, None),
        (NAN, ONE, None),
        (ONE, NAN, None),
        (ONE, INFINITE, None),
    ],
)
def test_gain(run: Row, anchor: Row, wanted: float | None) -> None:
    assert gain(array(run), array(anchor)) == (None if wanted is None else pytest.approx(wanted, rel=1e-6))
