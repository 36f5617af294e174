"""Errors of this room. Each message says what is wrong, where, and what to do."""

from __future__ import annotations


class FramesError(Exception):
    """Base of everything this room raises on purpose."""


class ClipError(FramesError):
    """A clip file, or an array, that is not a clip."""


class ClipMismatchError(FramesError):
    """Two clips of different frame count or size: they are never cut to the shorter or resized to fit."""


class UnknownMetricError(FramesError):
    """A metric that neither the package nor an installed plugin knows."""


class MetricUnavailableError(FramesError):
    """A known metric that cannot be computed here. ``compare`` turns it into a ``not_computed`` result."""
