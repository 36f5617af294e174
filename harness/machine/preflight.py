"""The doctor's result, as a record."""

from __future__ import annotations

from typing import Literal

from harness.outcomes import RULES, Outcome
from harness.records.base import Record

State = Literal["fit", "warning", "unknown", "unfit"]
"""``warning``: the lane runs, times may be off. ``unknown``: the machine has no value. ``unfit`` stops the lane."""


class Check(Record):
    """The result of one check."""

    name: str
    """Stable machine name, such as ``memory`` or ``processes``."""
    state: State
    device: str = ""
    """UUID of the GPU that was checked; empty for a check of the machine."""
    actual: str = ""
    wanted: str = ""
    message: str = ""
    """A sentence, if the state is not ``fit``."""
    remedy: str = ""
    missing_device: bool = False
    """The machine has no such device at all: the outcome is ``no_runner`` and not ``infra``."""


class Preflight(Record):
    """The results of all checks of one machine."""

    schema_version: Literal[1] = 1
    runner: str
    checks: tuple[Check, ...]

    def unfit(self) -> tuple[Check, ...]:
        """Return the checks that stop the lane."""
        return tuple(check for check in self.checks if check.state == "unfit")

    @property
    def fit(self) -> bool:
        """Whether the lane may run."""
        return not self.unfit()

    @property
    def exit_code(self) -> int:
        """0 if fit, otherwise the exit code of ``no_runner`` or ``infra``."""
        if self.fit:
            return 0
        missing = any(check.missing_device for check in self.unfit())
        return RULES[Outcome.NO_RUNNER if missing else Outcome.INFRA].exit_code

    def lines(self) -> list[str]:
        """Return the record as lines for a terminal, worst last."""
        order = ("fit", "unknown", "warning", "unfit")
        lines = []
        for check in sorted(self.checks, key=lambda item: order.index(item.state)):
            text = check.message or check.actual
            device = f" [{check.device}]" if check.device else ""
            lines.append(f"{check.state:<8} {check.name:<12} {text}{device}")
            if check.remedy and check.state != "fit":
                lines.append(f"{'':21} next: {check.remedy}")
        return lines
