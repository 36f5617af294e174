"""Errors of this room. Each message says what is wrong, where, and what to do."""

from __future__ import annotations

from harness.errors import QuantgateError
from harness.outcomes import Outcome


class FramesError(QuantgateError):
    """Base of everything this room raises on purpose. What says nothing of the checkpoint is ``infra``."""


class ClipError(FramesError):
    """A clip file, or an array, that is not a clip."""


class ClipMismatchError(FramesError):
    """Two clips of different frame count or size: they are never cut to the shorter or resized to fit."""

    outcome = Outcome.REGRESSION


class UnknownMetricError(FramesError):
    """A metric that neither the package nor an installed plugin knows."""

    outcome = Outcome.INVALID_CASE


class MetricUnavailableError(FramesError):
    """A known metric that cannot be computed here. ``compare`` turns it into a ``not_computed`` result."""
