"""Compare decoded rows with the base's rows: cosine, relative error, gain, per row and over all rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from harness.formats.codecs import F32

F64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Sums:
    """Row sums from which every comparison follows: q is the decoded row without its global scale, b the base row."""

    qq: F64
    qb: F64
    bb: F64

    @classmethod
    def of(cls, decoded: F32, base: F32, bb: F64 | None = None) -> Sums:
        """Return the row sums of decoded and base rows, both [R, K]; decoded values that are not finite count as 0.

        ``bb``: the base's own sums, if the caller has them.
        """
        finite = decoded if np.isfinite(decoded).all() else np.nan_to_num(decoded, nan=0.0, posinf=0.0, neginf=0.0)
        return cls(_dot(finite, finite), _dot(finite, base), _dot(base, base) if bb is None else bb)

    def score(self, scale: float = 1.0) -> Score:
        """Return the score over all rows, with the global scale applied."""
        return _score(float(self.qq.sum()), float(self.qb.sum()), float(self.bb.sum()), scale)

    def row_cosine(self) -> F64:
        """Return the cosine per row, [R]; 0 if either row is all zero."""
        norm = np.sqrt(self.qq * self.bb)
        return np.divide(self.qb, norm, out=np.zeros_like(norm), where=norm > 0)

    def row_gain(self, scale: float = 1.0) -> F64:
        """Return the gain per row, [R]; 1 if the base row is all zero."""
        return np.divide(self.qb * scale, self.bb, out=np.ones_like(self.qb), where=self.bb > 0)


@dataclass(frozen=True, slots=True)
class Score:
    """Agreement of one reading of one tensor with the base."""

    cosine: float
    relative_error: float
    gain: float


@dataclass(frozen=True)
class Fit:
    """All readings of the sampled rows of one quantized tensor, compared with the base."""

    sums: Mapping[str, Sums]
    scores: Mapping[str, Score]
    scale: float
    """The factor that multiplies codes and block scales, as the dialect defines it."""
    other: float | None = None
    """Cosine of the best reading with the same rows of the OTHER expert's base."""
    exact: Exact | None = None
    rows: int = 0
    ranking: tuple[str, ...] = field(default=())
    local: float = 0.0
    """Mean cosine of the best reading over blocks of `LOCAL` columns: scales of blocks and rows do not change it."""

    @property
    def best(self) -> str:
        """Return the reading with the highest cosine."""
        return self.ranking[0]

    @property
    def runner_up(self) -> str:
        """Return the reading with the second highest cosine; empty if only one was tried."""
        return self.ranking[1] if len(self.ranking) > 1 else ""

    @property
    def gap(self) -> float | None:
        """Return the cosine of the best reading minus the runner-up's; ``None`` without a runner-up."""
        if not self.runner_up:
            return None
        return self.scores[self.best].cosine - self.scores[self.runner_up].cosine


@dataclass(frozen=True, slots=True)
class Exact:
    """The base quantized again, compared with the stored tensors. Shares of values that agree, in [0, 1]."""

    codes: float
    """Codes recomputed with the STORED scales."""
    scales: float
    """Block scales recomputed from the base and the stored global scale; 1 if the format has none."""
    near: float
    """Block scales within one E4M3 step: true of any max-calibrated export of nearly these weights."""
    unrounded: float
    """Codes recomputed with the scale before it was rounded to E4M3."""
    full_blocks: float
    """Blocks whose largest code is the format's largest: true of all of them after max calibration."""
    blocks: int
    lost: int = 0
    """Blocks whose stored scale is zero although their weights are too large for their scale to round to zero."""


def fit(decoded: Mapping[str, F32], base: F32, scale: float) -> Fit:
    """Score every reading ``decoded[name]`` [R, K] against ``base`` [R, K]."""
    bb = _dot(base, base)
    sums = {name: Sums.of(values, base, bb) for name, values in decoded.items()}
    scores = {name: item.score(scale) for name, item in sums.items()}
    ranking = tuple(sorted(scores, key=lambda name: -scores[name].cosine))
    return Fit(sums, scores, scale, rows=len(base), ranking=ranking, local=local_cosine(decoded[ranking[0]], base))


LOCAL = 16
"""Columns per block of `Fit.local`: the smallest group that shares a scale in any format."""


def local_cosine(decoded: F32, base: F32) -> float:
    """Return the mean cosine over blocks of `LOCAL` columns of two [R, K]; 0 if K is no multiple of it."""
    if decoded.shape[1] % LOCAL or not decoded.size:
        return 0.0
    finite = np.nan_to_num(decoded, nan=0.0, posinf=0.0, neginf=0.0).reshape(-1, LOCAL)
    blocks = base.reshape(-1, LOCAL)
    sums = Sums(_dot(finite, finite), _dot(finite, blocks), _dot(blocks, blocks))
    alive = sums.bb > 0
    return float(sums.row_cosine()[alive].mean()) if alive.any() else 0.0


def _dot(left: F32, right: F32) -> F64:
    return np.asarray(np.einsum("rk,rk->r", left, right, dtype=np.float64))


def _score(qq: float, qb: float, bb: float, scale: float) -> Score:
    if bb <= 0:
        return Score(0.0, float("inf"), 1.0)
    cosine = qb / np.sqrt(qq * bb) if qq > 0 else 0.0
    if not np.isfinite(scale):  # the codes may still be right: only size is lost
        return Score(float(cosine), float("inf"), float("inf"))
    # a difference of large sums can come out below zero
    error = max(scale * scale * qq - 2 * scale * qb + bb, 0.0)
    return Score(float(cosine), float(np.sqrt(error / bb)), float(scale * qb / bb))


def layout_correlation(log_scale: F32, magnitude: F32) -> tuple[float, int]:
    """Correlate block scales with their own codes: proves a scale layout without the base.

    A large block scale means an outlier, and its other codes are small: in the right layout log scale and the mean
    of the non-largest codes correlate negatively, in a wrong one they do not.

    Args:
        log_scale: [R, C] log of block scales.
        magnitude: [R, C] mean of a block's code magnitudes without the largest.

    Returns:
        Fisher z in standard deviations (strongly negative: this layout is right) and the number of blocks.
    """
    usable = np.isfinite(log_scale) & np.isfinite(magnitude)
    left, right = log_scale[usable].astype(np.float64), magnitude[usable].astype(np.float64)
    # fewer pairs or constant values have no meaningful correlation: 0 proves nothing either way
    if left.size < 16 or left.std() == 0 or right.std() == 0:
        return 0.0, int(left.size)
    correlation = float(np.clip(np.corrcoef(left, right)[0, 1], -0.999999, 0.999999))
    return float(np.arctanh(correlation) * np.sqrt(left.size - 3)), int(left.size)
