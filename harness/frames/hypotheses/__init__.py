"""Explains a failed comparison by a simple change of the golden's frames, such as exchanged channels or a shift.

Each file fits one kind of change and scores it by the share of the error that it explains: ``colour`` (the same for
every pixel), ``space`` (inside a frame), ``timing`` (order and brightness of frames), ``local`` (replaced content and
overlays). ``sums`` finds the affected frames, ``explain`` ranks the explanations.
"""

from harness.frames.hypotheses.explain import explain
from harness.frames.hypotheses.pair import Explanation

__all__ = ["Explanation", "explain"]
