"""Clips in memory and on disk, the comparison of a candidate with its golden, and checks of a clip alone.

- ``clip`` reads and writes clips.
- ``compare`` measures a candidate against its golden. ``metric`` defines a metric, ``metrics`` holds the
  package's own, ``registry`` finds them by name together with those of installed plugins.
- ``statistics`` makes one pass over the pixels of both clips (``kernel``); every metric is a short formula over it.
- ``sanity`` checks a clip without a golden. ``hypotheses`` names simple changes of finished frames.

This file imports nothing: the loader of case files reads metric names from ``registry`` and must not pay for numpy.
"""
