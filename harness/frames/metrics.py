"""The package's own metrics, each a short formula over the sums of one pass over the pixels.

Three groups that see different faults:

- Pixel by pixel (SSIM, its worst tile, PSNR, mean absolute difference): see any change, but also the drift of a
  quantized model, whose edges move by a pixel.
- Statistics that hold under drift (brightness, colour, contrast, sharpness): move with gross faults and hardly with the
  position of an edge.
- Time (amount of motion, order of frames, new duplicates).

Each class is registered in `harness.frames.registry`. ``blind_to`` states the faults that a metric cannot see, which is
why they gate together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness.frames.errors import MetricUnavailableError
from harness.frames.metric import Measurement, Pair, per_frame
from harness.frames.statistics import LUMA, WINDOW, Floats, tile_edges
from harness.records.frames import MetricDirection, Tile

PSNR_CAP = 100.0
"""dB. Identical frames have no finite PSNR; one value off by one in a 4K frame has 122. JSON has no infinity."""
LEVEL = 1.0
"""Added to both sides of a ratio of standard deviations, in levels of 255: two flat frames are alike, not 0 / 0."""
STILL = 0.5
"""Levels of 255 added to both sides of the motion ratio: two stills are alike, not 0 / 0, and grain is no motion."""
REACH = 8
"""Frames before and after a frame among which its best match is searched."""
CLEARLY = 0.5
"""Another frame is the better match only if its squared distance is below this share of the distance to its own."""
NOTICEABLE = 0.05
"""Squared levels of 255. A frame nearer than this to its own golden frame is in its place, even if others are near."""


def folded(ratio: Floats) -> Floats:
    """Return the smaller of each ratio and its inverse: 0.9 means 0.9 or 1 / 0.9."""
    smaller: Floats = np.minimum(ratio, 1.0 / ratio)
    return smaller


def _ssim_tiles(pair: Pair) -> Floats:
    """Return the sums of SSIM by tile [T, rows, columns].

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
    gates: bool = True
    direction: MetricDirection = "higher_is_better"
    scope: Literal["frame", "clip"] = "frame"
    unit: str = ""
    ideal: float = 1.0
    valid_range: tuple[float, float] = (-1.0, 1.0)
    setting: str = "uniform 7x7, uint8, sample covariance, mean of RGB"
    blind_to: str = "small local damage in a large frame; constant shifts of brightness in bright, busy frames; time"
    source: str = "Wang et al. 2004, doi:10.1109/TIP.2003.819861, as skimage.metrics.structural_similarity"

    def measure(self, pair: Pair) -> Measurement:
        """Return the mean over all window centres of each frame."""
        _, height, width, channels = pair.statistics.shape
        centres = (height - WINDOW + 1) * (width - WINDOW + 1) * channels
        return per_frame(_ssim_tiles(pair).sum(axis=(1, 2)) / centres)


@dataclass(frozen=True)
class TileSsim:
    """SSIM of the worst 32-pixel tile of each frame: finds one melted object in an otherwise equal picture."""

    name: str = "tile_ssim"
    gates: bool = True
    direction: MetricDirection = "higher_is_better"
    scope: Literal["frame", "clip"] = "frame"
    unit: str = ""
    ideal: float = 1.0
    valid_range: tuple[float, float] = (-1.0, 1.0)
    setting: str = "worst tile of 32 px; a rest under 16 px joins its neighbour"
    blind_to: str = "faults that are small everywhere; it falls first where the picture drifts"
    source: str = "the mean of SSIM's map over each tile"

    def measure(self, pair: Pair) -> Measurement:
        """Return the smallest tile mean of each frame, and that tile."""
        tiles = _ssim_tiles(pair)
        _, height, width, channels = pair.statistics.shape
        rows, columns = tile_edges(height, width)
        means = tiles / (np.diff(rows)[:, None] * np.diff(columns)[None, :] * channels)
        flat = means.reshape(len(means), -1)
        inset = WINDOW // 2  # tile borders count window centres; the first centre is this many pixels from the edge
        places = []
        for worst in flat.argmin(axis=1):
            row, column = divmod(int(worst), len(columns) - 1)
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
    gates: bool = True
    direction: MetricDirection = "higher_is_better"
    scope: Literal["frame", "clip"] = "frame"
    unit: str = "dB"
    ideal: float = PSNR_CAP
    valid_range: tuple[float, float] = (0.0, PSNR_CAP)
    setting: str = f"peak 255, capped at {PSNR_CAP:g} dB"
    blind_to: str = "structure: a shift of one pixel and a melted face can cost the same"
    source: str = "10 log10(255^2 / MSE); skimage.metrics.peak_signal_noise_ratio"

    def measure(self, pair: Pair) -> Measurement:
        """Return PSNR over all values of each frame."""
        mse = pair.statistics.squared_error / pair.statistics.values
        with np.errstate(divide="ignore"):  # equal frames: infinity, which the cap replaces
            return per_frame(np.minimum(PSNR_CAP, 10.0 * np.log10(255.0**2 / mse)))


@dataclass(frozen=True)
class MeanAbsoluteDifference:
    """Mean absolute difference of each frame."""

    name: str = "mad"
    gates: bool = True
    direction: MetricDirection = "lower_is_better"
    scope: Literal["frame", "clip"] = "frame"
    unit: str = "levels of 255"
    ideal: float = 0.0
    valid_range: tuple[float, float] = (0.0, 255.0)
    setting: str = "0..255, all channels"
    blind_to: str = "structure, and local damage in a large frame"
    source: str = "mean |golden - candidate|"

    def measure(self, pair: Pair) -> Measurement:
        """Return the mean over all values of each frame."""
        return per_frame(pair.statistics.absolute_error / pair.statistics.values)


@dataclass(frozen=True)
class Flicker:
    """Jumps of brightness that the golden does not have: second difference in time of the difference of mean luma."""

    name: str = "flicker"
    gates: bool = True
    direction: MetricDirection = "lower_is_better"
    scope: Literal["frame", "clip"] = "frame"
    unit: str = "levels of 255"
    ideal: float = 0.0
    valid_range: tuple[float, float] = (0.0, 1020.0)
    setting: str = "BT.601 luma; 0 in the first and last frame, and in clips of fewer than 3 frames"
    blind_to: str = "brightness that drifts steadily; local flicker that cancels out over the frame"
    source: str = "|d[t-1] - 2 d[t] + d[t+1]| of d = mean luma of candidate - golden"

    def measure(self, pair: Pair) -> Measurement:
        """Return the second difference at each inner frame."""
        statistics = pair.statistics
        difference = (statistics.candidate.channel_means - statistics.golden.channel_means) @ LUMA
        jumps = np.zeros(len(difference))
        if len(difference) >= 3:
            jumps[1:-1] = np.abs(np.diff(difference, n=2))
        return per_frame(jumps)


@dataclass(frozen=True)
class ChannelShift:
    """Largest shift of a channel's mean: finds a colour cast, swapped channels, a changed exposure."""

    name: str = "channel_shift"
    gates: bool = True
    direction: MetricDirection = "lower_is_better"
    scope: Literal["frame", "clip"] = "frame"
    unit: str = "levels of 255"
    ideal: float = 0.0
    valid_range: tuple[float, float] = (0.0, 255.0)
    setting: str = "largest of R, G and B"
    blind_to: str = "everything that keeps each channel's mean"
    source: str = "max over channels of |mean(candidate) - mean(golden)|"

    def measure(self, pair: Pair) -> Measurement:
        """Return the shift of each frame."""
        shift = pair.statistics.candidate.channel_means - pair.statistics.golden.channel_means
        return per_frame(np.abs(shift).max(axis=1))


@dataclass(frozen=True)
class ContrastRatio:
    """Contrast kept: the smaller of the two standard deviations over the larger."""

    name: str = "contrast_ratio"
    gates: bool = True
    direction: MetricDirection = "higher_is_better"
    scope: Literal["frame", "clip"] = "frame"
    unit: str = ""
    ideal: float = 1.0
    valid_range: tuple[float, float] = (0.0, 1.0)
    setting: str = "folded: 0.9 is 10 % less, or 11 % more; one level is added to both sides"
    blind_to: str = "where the contrast lies"
    source: str = "(std + 1) of one over the other, pooled over channels, around each channel's mean"

    def measure(self, pair: Pair) -> Measurement:
        """Return the folded ratio of each frame."""
        candidate, golden = pair.statistics.candidate.deviation, pair.statistics.golden.deviation
        return per_frame(folded((candidate + LEVEL) / (golden + LEVEL)))


@dataclass(frozen=True)
class SharpnessRatio:
    """Fine detail kept: variance of the Laplacian, candidate over golden. Sharper than the golden counts as 1."""

    name: str = "sharpness_ratio"
    gates: bool = True
    direction: MetricDirection = "higher_is_better"
    scope: Literal["frame", "clip"] = "frame"
    unit: str = ""
    ideal: float = 1.0
    valid_range: tuple[float, float] = (0.0, 1.0)
    setting: str = "4-neighbour Laplacian, all channels; one squared level is added to both sides; at most 1"
    blind_to: str = "added noise, which looks like detail; frames under 3x3 pixels, which have no Laplacian"
    source: str = "Pech-Pacheco et al. 2000, doi:10.1109/ICPR.2000.903548"

    def measure(self, pair: Pair) -> Measurement:
        """Return the ratio of each frame."""
        candidate, golden = pair.statistics.candidate.laplacian, pair.statistics.golden.laplacian
        # Not folded: more detail than the golden is no loss, and noise has metrics of its own.
        return per_frame(np.minimum((candidate + LEVEL) / (golden + LEVEL), 1.0))


@dataclass(frozen=True)
class MotionRatio:
    """Amount of motion kept: change between neighbouring frames, smaller over larger.

    Computed on 8-pixel block means: pixel by pixel, grain of two levels counts for more than a shape that crosses a
    wall.
    """

    name: str = "motion_ratio"
    gates: bool = True
    direction: MetricDirection = "higher_is_better"
    scope: Literal["frame", "clip"] = "clip"
    unit: str = ""
    ideal: float = 1.0
    valid_range: tuple[float, float] = (0.0, 1.0)
    setting: str = "rms over 8-pixel block means, folded; half a level is added to both sides; 1 for a single frame"
    blind_to: str = "what moves, and where to"
    source: str = "rms of (frame - frame before) of one clip over the other's"

    def measure(self, pair: Pair) -> Measurement:
        """Return one ratio for the clip."""
        time = pair.statistics.time
        ratio = (time.candidate_change + STILL) / (time.golden_change + STILL)
        return Measurement(value=float(folded(np.array(ratio))))


@dataclass(frozen=True)
class FrameOrder:
    """Number of frames that match another moment of the golden clearly better than their own."""

    name: str = "frame_order"
    gates: bool = True
    direction: MetricDirection = "lower_is_better"
    scope: Literal["frame", "clip"] = "clip"
    unit: str = "frames"
    ideal: float = 0.0
    valid_range: tuple[float, float] = (0.0, float(2**31))
    setting: str = "8-pixel block means less each clip's mean over time; within 8 frames; half the squared distance"
    blind_to: str = "clips that hardly move; shifts of more than 8 frames, where the content does not repeat"
    source: str = "nearest neighbour in time"

    def measure(self, pair: Pair) -> Measurement:
        """Return the number of misplaced frames, and the first of them."""
        distance = pair.statistics.time.distance
        count = len(distance)
        diagonal = np.diagonal(distance).copy()
        offset = np.abs(np.arange(count)[:, None] - np.arange(count)[None, :])
        # Only near frames: motion that repeats, such as a walk, brings the same picture back later.
        others = np.where((offset > 0) & (offset <= REACH), distance, np.inf)
        misplaced = np.flatnonzero((diagonal > NOTICEABLE) & (others.min(axis=1) < CLEARLY * diagonal))
        return Measurement(value=float(len(misplaced)), frame=int(misplaced[0]) if len(misplaced) else None)


@dataclass(frozen=True)
class NewDuplicates:
    """Number of frames equal, bit by bit, to the previous frame, where the golden's frames differ."""

    name: str = "new_duplicates"
    gates: bool = True
    direction: MetricDirection = "lower_is_better"
    scope: Literal["frame", "clip"] = "clip"
    unit: str = "frames"
    ideal: float = 0.0
    valid_range: tuple[float, float] = (0.0, float(2**31))
    setting: str = "exact equality"
    blind_to: str = "a freeze with any noise on it, which motion_ratio sees"
    source: str = "sum |frame - frame before| = 0"

    def measure(self, pair: Pair) -> Measurement:
        """Return the number of new duplicates, and the first of them."""
        statistics = pair.statistics
        still = (statistics.candidate.motion[1:] == 0) & (statistics.golden.motion[1:] != 0)
        duplicates = 1 + np.flatnonzero(still)  # the first frame has no previous frame
        return Measurement(value=float(len(duplicates)), frame=int(duplicates[0]) if len(duplicates) else None)
