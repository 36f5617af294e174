"""Name the cause of a red case: pure rules over the record and the experiments in the run's folder."""

from harness.judge.attribution.rules import attribute, next_experiments

__all__ = ["attribute", "next_experiments"]
