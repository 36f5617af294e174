"""From a red case to a named cause: pure rules over what lies in the run's folder."""

from harness.judge.attribution.rules import attribute, next_experiments

__all__ = ["attribute", "next_experiments"]
