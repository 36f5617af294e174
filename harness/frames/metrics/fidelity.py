"""Pixel by pixel: SSIM of a frame and of its worst tile, PSNR, mean absolute difference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness.frames.errors import MetricUnavailableError
from harness.frames.metric import Measurement, Pair, per_frame
from harness.frames.statistics import WINDOW, Floats, tile_edges
from harness.records.frames import MetricDirection, Tile

PSNR_CAP = 100.0
"""dB. Identical frames have no finite PSNR; one value off by one in a 4K frame has 122. JSON has no infinity."""


def ssim_tiles(pair: Pair) -> Floats:
    """Sums of SSIM by tile [T, rows, columns].

    Raises:
        MetricUnavailableError: the frame is smaller than the window.
    """
    tiles = pair.statistics.ssim_tiles
    if tiles is None:
        _, height, width, _ = pair.statistics.shape
        raise MetricUnavailableError(
            f"a {width}x{height} frame is smaller than SSIM's {WINDOW}x{WINDOW} window; gate on psnr and mad instead"
        )
    return tiles


@dataclass(frozen=True)
class Ssim:
    """Structural similarity of each frame, mean over the channels."""

    name: str = "ssim"
    direction: MetricDirection = "higher_is_better"
    scope: Literal["frame", "clip"] = "frame"
    unit: str = ""
    ideal: float = 1.0
    valid_range: tuple[float, float] = (-1.0, 1.0)
    setting: str = "uniform 7x7, uint8, sample covariance, mean of RGB"
    blind_to: str = "small local damage in a large frame; constant shifts of brightness in bright, busy frames; time"
    source: str = "Wang et al. 2004, doi:10.1109/TIP.2003.819861, as skimage.metrics.structural_similarity"

    def measure(self, pair: Pair) -> Measurement:
        """Mean over all window centres of a frame."""
        _, height, width, channels = pair.statistics.shape
        centres = (height - WINDOW + 1) * (width - WINDOW + 1) * channels
        return per_frame(ssim_tiles(pair).sum(axis=(1, 2)) / centres)


@dataclass(frozen=True)
class TileSsim:
    """SSIM of the worst 32-pixel tile of each frame: one melted object in an otherwise equal picture."""

    name: str = "tile_ssim"
    direction: MetricDirection = "higher_is_better"
    scope: Literal["frame", "clip"] = "frame"
    unit: str = ""
    ideal: float = 1.0
    valid_range: tuple[float, float] = (-1.0, 1.0)
    setting: str = "worst tile of 32 px; a rest under 16 px joins its neighbour"
    blind_to: str = "faults that are small everywhere; it falls first where the picture drifts"
    source: str = "the mean of SSIM's map over each tile"

    def measure(self, pair: Pair) -> Measurement:
        """Smallest tile mean of each frame, and where it is."""
        tiles = ssim_tiles(pair)
        _, height, width, channels = pair.statistics.shape
        rows, columns = tile_edges(height, width)
        means = tiles / (np.diff(rows)[:, None] * np.diff(columns)[None, :] * channels)
        flat = means.reshape(len(means), -1)
        where = flat.argmin(axis=1)
        inset = WINDOW // 2
        places = []
        for index in where:
            row, column = divmod(int(index), len(columns) - 1)
            places.append(
                Tile(
                    x=int(columns[column]) + inset,
                    y=int(rows[row]) + inset,
                    width=int(columns[column + 1] - columns[column]),
                    height=int(rows[row + 1] - rows[row]),
                )
            )
        return Measurement(per_frame=flat.min(axis=1), tiles=places)


@dataclass(frozen=True)
class Psnr:
    """Peak signal-to-noise ratio of each frame."""

    name: str = "psnr"
    direction: MetricDirection = "higher_is_better"
    scope: Literal["frame", "clip"] = "frame"
    unit: str = "dB"
    ideal: float = PSNR_CAP
    valid_range: tuple[float, float] = (0.0, PSNR_CAP)
    setting: str = f"peak 255, capped at {PSNR_CAP:g} dB"
    blind_to: str = "structure: a shift of one pixel and a melted face can cost the same"
    source: str = "10 log10(255^2 / MSE); skimage.metrics.peak_signal_noise_ratio"

    def measure(self, pair: Pair) -> Measurement:
        """PSNR over all values of a frame."""
        mse = pair.statistics.squared_error / pair.statistics.values
        with np.errstate(divide="ignore"):
            return per_frame(np.minimum(PSNR_CAP, 10.0 * np.log10(255.0**2 / mse)))


@dataclass(frozen=True)
class MeanAbsoluteDifference:
    """Mean absolute difference of each frame."""

    name: str = "mad"
    direction: MetricDirection = "lower_is_better"
    scope: Literal["frame", "clip"] = "frame"
    unit: str = "levels of 255"
    ideal: float = 0.0
    valid_range: tuple[float, float] = (0.0, 255.0)
    setting: str = "0..255, all channels"
    blind_to: str = "structure, and local damage in a large frame"
    source: str = "mean |golden - candidate|"

    def measure(self, pair: Pair) -> Measurement:
        """Mean over all values of a frame."""
        return per_frame(pair.statistics.absolute_error / pair.statistics.values)
