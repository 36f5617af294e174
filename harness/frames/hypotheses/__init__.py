"""Cheap explanations of finished frames: which change of the golden's frames gives the candidate's?"""

from harness.frames.hypotheses.explain import explain
from harness.frames.hypotheses.pair import Explanation

__all__ = ["Explanation", "explain"]
