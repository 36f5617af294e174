"""Errors of this room. Each message names the fault, its place, and the command or setting that helps.

A file of its own because ``registry`` raises them and must not import numpy, which ``clip`` needs.
"""

from __future__ import annotations

from harness.errors import QuantgateError
from harness.outcomes import Outcome


class FramesError(QuantgateError):
    """Base of all errors that this room raises on purpose. Its outcome is ``infra``: the checkpoint is not to blame."""


class ClipError(FramesError):
    """A file or an array that is not a valid clip."""


class ClipMismatchError(FramesError):
    """Two clips differ in frame count or size. They are never cut to the shorter or resized to fit."""

    outcome = Outcome.REGRESSION  # the model produced a video of another shape: the checkpoint may be to blame


class UnknownMetricError(FramesError):
    """Neither the package nor an installed plugin provides a metric of this name."""

    outcome = Outcome.INVALID_CASE


class MetricUnavailableError(FramesError):
    """A metric exists but cannot be computed here. ``compare`` turns the error into a ``not_computed`` result."""
