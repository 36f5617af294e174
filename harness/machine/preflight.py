"""What the doctor found, as a record."""

from __future__ import annotations

from typing import Literal

from harness.outcomes import RULES, Outcome
from harness.records.base import Record

State = Literal["fit", "warning", "unknown", "unfit"]
"""``warning``: the lane runs, times may be off. ``unknown``: this machine does not say. ``unfit`` stops the lane."""


class Check(Record):
    """One thing that was looked at."""

    name: str
    """Stable machine name, such as ``memory`` or ``processes``."""
    state: State
    device: str = ""
    """UUID of the GPU it is about."""
    found: str = ""
    wanted: str = ""
    message: str = ""
    """A sentence, wherever the state is not ``fit``."""
    remedy: str = ""
    missing_device: bool = False
    """There is no such device here at all: ``no_runner`` and not ``infra``."""


class Preflight(Record):
    """Everything the doctor looked at."""

    schema_version: Literal[1] = 1
    runner: str
    checks: tuple[Check, ...]

    def unfit(self) -> tuple[Check, ...]:
        """The checks that stop the lane."""
        return tuple(check for check in self.checks if check.state == "unfit")

    @property
    def fit(self) -> bool:
        """Whether the lane may run."""
        return not self.unfit()

    @property
    def exit_code(self) -> int:
        """0, or the code of ``no_runner`` or ``infra``."""
        if self.fit:
            return 0
        missing = any(check.missing_device for check in self.unfit())
        return RULES[Outcome.NO_RUNNER if missing else Outcome.INFRA].exit_code

    def lines(self) -> list[str]:
        """The record for a terminal, worst last."""
        order = ("fit", "unknown", "warning", "unfit")
        lines = []
        for check in sorted(self.checks, key=lambda one: order.index(one.state)):
            said = check.message or check.found
            device = f" [{check.device}]" if check.device else ""
            lines.append(f"{check.state:<8} {check.name:<12} {said}{device}")
            if check.remedy and check.state != "fit":
                lines.append(f"{'':21} next: {check.remedy}")
        return lines
