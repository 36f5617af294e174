"""Which metrics there are: the built-in ones, and those of installed plugins."""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points

from harness.frames.errors import FramesError, UnknownMetricError
from harness.frames.metric import Metric
from harness.frames.metrics.drift import ChannelShift, ContrastRatio, Flicker, SharpnessRatio
from harness.frames.metrics.fidelity import MeanAbsoluteDifference, Psnr, Ssim, TileSsim
from harness.frames.metrics.lpips import Lpips
from harness.frames.metrics.time import FrameOrder, MotionRatio, NewDuplicates

GROUP = "quantgate.metrics"
"""Entry point group: ``name = "package.module:Class"``, called without arguments."""

GATING: tuple[str, ...] = (
    "ssim",
    "psnr",
    "mad",
    "tile_ssim",
    "flicker",
    "channel_shift",
    "contrast_ratio",
    "sharpness_ratio",
    "motion_ratio",
    "frame_order",
    "new_duplicates",
)
"""The set that gates unless a case says otherwise."""


def builtin_metrics() -> tuple[Metric, ...]:
    """The package's own metrics, the gating set first."""
    return (
        Ssim(),
        Psnr(),
        MeanAbsoluteDifference(),
        TileSsim(),
        Flicker(),
        ChannelShift(),
        ContrastRatio(),
        SharpnessRatio(),
        MotionRatio(),
        FrameOrder(),
        NewDuplicates(),
        Lpips("alex"),
        Lpips("vgg"),
        Lpips("squeeze"),
    )


@cache
def known_metrics() -> dict[str, Metric]:
    """All metrics by name.

    Raises:
        FramesError: a plugin cannot be loaded, is no metric, or takes a name that is taken.
    """
    known: dict[str, Metric] = {metric.name: metric for metric in builtin_metrics()}
    for point in entry_points(group=GROUP):
        package = point.dist.name if point.dist else "an unknown package"
        try:
            metric = point.load()()
        except Exception as error:
            raise FramesError(
                f"metric {point.name} of {package} ({point.value}) cannot be loaded: {error!r}"
            ) from error
        if not isinstance(metric, Metric):
            raise FramesError(f"metric {point.name} of {package} lacks a member of harness.frames.metric.Metric")
        if metric.name in known or metric.name != point.name:
            raise FramesError(f"metric {point.name} of {package} calls itself {metric.name!r}: taken, or another name")
        known[metric.name] = metric
    return known


def find_metric(name: str) -> Metric:
    """The metric called ``name``.

    Raises:
        UnknownMetricError: there is none.
    """
    known = known_metrics()
    if name not in known:
        raise UnknownMetricError(f"no metric is called {name!r}; known: {', '.join(sorted(known))}")
    return known[name]
