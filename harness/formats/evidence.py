"""Numbers that compare decoded rows with the base's rows: cosine, relative error, gain, row by row and over all."""

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
    def of(cls, decoded: F32, base: F32) -> Sums:
        """Row sums of [R, K] against [R, K]; values that are not finite count as zero."""
        finite = decoded if np.isfinite(decoded).all() else np.nan_to_num(decoded, nan=0.0, posinf=0.0, neginf=0.0)
        return cls(_dot(finite, finite), _dot(finite, base), _dot(base, base))

    def score(self, scale: float = 1.0) -> Score:
        """Over all rows, with the global scale applied."""
        return _score(float(self.qq.sum()), float(self.qb.sum()), float(self.bb.sum()), scale)

    def row_cosine(self) -> F64:
        """[R]; 0 where either row is all zero."""
        norm = np.sqrt(self.qq * self.bb)
        return np.divide(self.qb, norm, out=np.zeros_like(norm), where=norm > 0)

    def row_gain(self, scale: float = 1.0) -> F64:
        """[R]; 1 where the base row is all zero."""
        return np.divide(self.qb * scale, self.bb, out=np.ones_like(self.qb), where=self.bb > 0)


@dataclass(frozen=True, slots=True)
class Score:
    """One reading of one tensor."""

    cosine: float
    relative_error: float
    gain: float


@dataclass(frozen=True)
class Fit:
    """All readings of the sampled rows of one quantized tensor, against the base."""

    sums: Mapping[str, Sums]
    scores: Mapping[str, Score]
    scale: float
    """The factor that stands outside the codes and block scales, as the dialect defines it."""
    other: float | None = None
    """Cosine of the best reading with the same rows of the OTHER expert's base."""
    exact: Exact | None = None
    rows: int = 0
    ranking: tuple[str, ...] = field(default=())

    @property
    def best(self) -> str:
        """The reading with the highest cosine."""
        return self.ranking[0]

    @property
    def runner_up(self) -> str:
        """The next reading that differs; empty where only one could be tried."""
        return self.ranking[1] if len(self.ranking) > 1 else ""

    @property
    def gap(self) -> float | None:
        """Cosine of the best minus the runner-up's."""
        if not self.runner_up:
            return None
        return self.scores[self.best].cosine - self.scores[self.runner_up].cosine


@dataclass(frozen=True, slots=True)
class Exact:
    """The base quantized again, held against what is stored. Shares of values that agree, in [0, 1]."""

    codes: float
    """Codes recomputed with the STORED scales."""
    scales: float
    """Block scales recomputed from the base and the stored global scale; 1 where the format has none."""
    near: float
    """Block scales within one E4M3 step: true of any max-calibrated export of nearly these weights."""
    unrounded: float
    """Codes recomputed with the scale before it was rounded to E4M3."""
    full_blocks: float
    """Blocks whose largest code is the format's largest: true of all of them after max calibration."""
    blocks: int
    lost: int = 0
    """Blocks whose stored scale is zero, and whose weights are not so small that a zero is what they round to."""


def fit(decoded: Mapping[str, F32], base: F32, scale: float) -> Fit:
    """Score every reading ``decoded[name]`` [R, K] against ``base`` [R, K]."""
    sums = {name: Sums.of(values, base) for name, values in decoded.items()}
    scores = {name: item.score(scale) for name, item in sums.items()}
    ranking = tuple(sorted(scores, key=lambda name: -scores[name].cosine))
    return Fit(sums, scores, scale, rows=len(base), ranking=ranking)


def _dot(left: F32, right: F32) -> F64:
    return np.asarray(np.einsum("rk,rk->r", left, right, dtype=np.float64))


def _score(qq: float, qb: float, bb: float, scale: float) -> Score:
    if bb <= 0:
        return Score(0.0, float("inf"), 1.0)
    cosine = qb / np.sqrt(qq * bb) if qq > 0 else 0.0
    if not np.isfinite(scale):  # the codes may still be right: only size is lost
        return Score(float(cosine), float("inf"), float("inf"))
    error = max(scale * scale * qq - 2 * scale * qb + bb, 0.0)
    return Score(float(cosine), float(np.sqrt(error / bb)), float(scale * qb / bb))


def layout_correlation(log_scale: F32, magnitude: F32) -> tuple[float, int]:
    """How far block scales explain their own codes; proves a scale layout without the base.

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
    if left.size < 16 or left.std() == 0 or right.std() == 0:
        return 0.0, int(left.size)
    correlation = float(np.clip(np.corrcoef(left, right)[0, 1], -0.999999, 0.999999))
    return float(np.arctanh(correlation) * np.sqrt(left.size - 3)), int(left.size)
