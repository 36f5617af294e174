"""Metrics by name: the package's own and those of installed plugins.

The table below registers the package's own metrics in the form of an entry point. Reading names therefore costs no
import of numpy: the loader of case files checks ``metrics:`` and ``expect: regression:ssim_below_limit`` against
`metric_names` at every start of pytest. The classes are imported when a metric is first measured.

To add a metric to the package: write its class in ``harness/frames/metrics.py`` (or a file of its own) and add one line
to `BUILT_IN`. To add a metric from another package: list its class in the entry point group ``quantgate.metrics``. A
metric whose class has ``gates = True`` gates every case that names no metrics, third-party metrics included.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Final

from harness.frames.errors import FramesError, UnknownMetricError

if TYPE_CHECKING:
    from harness.frames.metric import Metric

GROUP: Final = "quantgate.metrics"
"""Entry point group: ``name = "package.module:Class"``; the class is called without arguments."""

BUILT_IN: Final = {
    "ssim": "harness.frames.metrics:Ssim",
    "psnr": "harness.frames.metrics:Psnr",
    "mad": "harness.frames.metrics:MeanAbsoluteDifference",
    "tile_ssim": "harness.frames.metrics:TileSsim",
    "flicker": "harness.frames.metrics:Flicker",
    "channel_shift": "harness.frames.metrics:ChannelShift",
    "contrast_ratio": "harness.frames.metrics:ContrastRatio",
    "sharpness_ratio": "harness.frames.metrics:SharpnessRatio",
    "motion_ratio": "harness.frames.metrics:MotionRatio",
    "frame_order": "harness.frames.metrics:FrameOrder",
    "new_duplicates": "harness.frames.metrics:NewDuplicates",
}
"""Name and class of each metric of the package, in the order of reports. `metrics` verifies the names."""


@cache
def _points() -> tuple[EntryPoint, ...]:
    """Return all registrations, the package's own first, plugins by name so that reports do not depend on pip."""
    built_in = tuple(EntryPoint(name, value, GROUP) for name, value in BUILT_IN.items())
    return built_in + tuple(sorted(entry_points(group=GROUP), key=lambda point: point.name))


@cache
def metric_names() -> tuple[str, ...]:
    """Return the names of all metrics without importing one."""
    return tuple(point.name for point in _points())


@cache
def metrics() -> dict[str, Metric]:
    """Load all metrics, by name.

    Raises:
        FramesError: a class cannot be loaded, lacks a member of `Metric`, or its name is taken or not the registered.
    """
    from harness.frames.metric import Metric

    loaded: dict[str, Metric] = {}
    for point in _points():
        package = point.dist.name if point.dist else "quantgate"
        label = f"metric {point.name} of {package} ({point.value})"
        try:
            metric = point.load()()
        except Exception as error:  # any fault of a plugin's module or constructor, named with its package
            raise FramesError(f"{label} cannot be loaded: {error!r}; repair or uninstall {package}") from error
        if not isinstance(metric, Metric):
            members = (name for name in vars(Metric) if not name.startswith("_"))
            absent = ", ".join(name for name in members if not hasattr(metric, name))
            raise FramesError(f"{label} lacks {absent}; see harness.frames.metric.Metric")
        if metric.name in loaded:
            raise FramesError(f"{label} has a name that is taken: {metric.name!r}; rename it")
        if metric.name != point.name:
            raise FramesError(f"{label} calls itself {metric.name!r}; register it under that name")
        loaded[metric.name] = metric
    return loaded


def gating_names() -> tuple[str, ...]:
    """Return the names of the metrics that gate a case whose ``metrics`` field names none.

    Raises:
        FramesError: see `metrics`.
    """
    return tuple(name for name, metric in metrics().items() if metric.gates)


def find_metric(name: str) -> Metric:
    """Return the metric called ``name``.

    Raises:
        UnknownMetricError: no package provides it.
        FramesError: see `metrics`.
    """
    if name not in metrics():
        raise UnknownMetricError(f"no metric is called {name!r}; known: {', '.join(sorted(metrics()))}")
    return metrics()[name]
