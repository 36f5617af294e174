"""All error classes. Each message names the fault, its place, and the next command."""

from __future__ import annotations

from collections.abc import Mapping

from harness.outcomes import RULES, Outcome


class QuantgateError(Exception):
    """Base of all errors that quantgate raises on purpose.

    Args:
        message: one sentence that names the fault.
        place: ``file:line``, a path, or a case id; empty if the error has no place.
        remedy: the next command to type, or the setting to change.
    """

    outcome: Outcome = Outcome.INFRA

    def __init__(self, message: str, *, place: str = "", remedy: str = "") -> None:
        self.message, self.place, self.remedy = message, place, remedy
        super().__init__(str(self))

    @property
    def exit_code(self) -> int:
        """Return the process exit code of this class of error."""
        return RULES[self.outcome].exit_code

    def __str__(self) -> str:
        text = f"{self.place}: {self.message}" if self.place else self.message
        return f"{text}\n  next: {self.remedy}" if self.remedy else text

    def __reduce__(self) -> tuple[object, ...]:
        # default pickling would pass `str(self)` as `message` and lose place and remedy
        return (_rebuild, (type(self), self.message, self.place, self.remedy))


def _rebuild(kind: type[QuantgateError], message: str, place: str, remedy: str) -> QuantgateError:
    return kind(message, place=place, remedy=remedy)


class InvalidCaseError(QuantgateError):
    """A case, runner or threshold file cannot be used as written."""

    outcome = Outcome.INVALID_CASE


class NoRunnerError(QuantgateError):
    """This machine has no device of the requested runner, or no runner profile names its device."""

    outcome = Outcome.NO_RUNNER


KINDS = ("oom", "hang", "crash", "device", "download", "disk", "protocol")
"""Kinds of an ``InfraError``."""


class InfraError(QuantgateError):
    """A failure of the surroundings (download, memory, device, hang). It is no evidence about the checkpoint.

    Args:
        kind: an entry of ``KINDS``.
        output: the last lines that a program wrote, per stream (``stdout``, ``stderr``).
    """

    def __init__(
        self,
        message: str,
        *,
        place: str = "",
        remedy: str = "",
        kind: str = "crash",
        output: Mapping[str, str] | None = None,
    ) -> None:
        self.kind, self.output = kind, dict(output or {})
        super().__init__(message, place=place, remedy=remedy)


def disk_error(error: OSError, then: str = "", *, place: str = "") -> InfraError:
    """Convert an ``OSError`` of a file or a disk to an ``InfraError`` of one line.

    Args:
        error: its ``strerror`` becomes the message.
        then: consequence for the running command, appended to the message.
        place: path to show instead of the file name of ``error``.
    """
    reason = error.strerror or str(error) or type(error).__name__
    return InfraError(
        f"{reason}; {then}" if then else reason,
        place=place or str(error.filename or ""),
        remedy="see that it can be written and that the disk has room (df -h), then type the command again",
        kind="disk",
    )


class CheckpointFaultError(QuantgateError):
    """The files of a checkpoint are damaged, incomplete, or contradict their own metadata.

    Args:
        code: stable machine name of the fault, the inspector's (`harness.definitions.causes`): ``scale_missing``,
            ``tensor_missing``, ``shard_missing``, ``header_invalid``, ``component_broken``, ...
    """

    outcome = Outcome.CHECKPOINT_FAULT

    def __init__(self, message: str, *, place: str = "", remedy: str = "", code: str = "") -> None:
        self.code = code
        super().__init__(message, place=place, remedy=remedy)


class GoldenError(QuantgateError):
    """A golden is absent, truncated, or differs from its manifest."""

    outcome = Outcome.GOLDEN_MISSING
