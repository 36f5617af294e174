"""Prevent pytest from changing the result of a case by a mark, a skip, or another set of files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from harness import project
from harness.errors import InvalidCaseError
from harness.harmless import harmless
from harness.outcomes import RULES, Outcome
from harness.plugin.options import taken_by
from harness.plugin.state import PluginState

if TYPE_CHECKING:
    from harness.plugin.collect import CaseItem


def refuse_links(config: pytest.Config) -> None:
    """End the run if a link lies where a case file belongs: commands and pytest would see different cases.

    Raises:
        pytest.exit.Exception: with the exit code of ``invalid_case``.
    """
    try:
        project.refuse(PluginState.of(config).case_files)
    except InvalidCaseError as error:
        pytest.exit(harmless(str(error)), returncode=error.exit_code)


def refuse_taken_names(config: pytest.Config) -> None:
    """End the run if the name of a runner is a mark that a plugin or the project also defines.

    Each case carries the names of its runners as marks, so that ``-m b200`` selects it. A runner called ``slow``
    would subject its cases to the project's meaning of that mark.

    Raises:
        pytest.exit.Exception: with the exit code of ``invalid_case``.
    """
    lines = [str(line) for line in config.getini("markers")]
    for name in PluginState.of(config).runner_names():
        line = taken_by(name, lines)
        if line:
            error = InvalidCaseError(
                f"runner {name!r} has the name of a pytest mark, which could switch its cases off: {line}",
                place=f"runners/{name}.yaml",
                remedy="give the runner another name; or, if the mark means this runner, remove its registration",
            )
            pytest.exit(harmless(str(error)), returncode=error.exit_code)


def refuse_skip(item: CaseItem, report: pytest.TestReport) -> None:
    """Replace a skip or an expected failure of a case by its verdict. Changes ``report``.

    A skip is right in two situations: the waiver of the case covers its verdict, or a person passed
    ``--allow-missing-runner`` and the device is absent.
    """
    state = PluginState.of(item.config)
    record = item.finished.record if item.finished is not None else None
    if record is None and state.skips_missing_runner():
        return
    if record is not None and RULES[record.verdict.outcome].junit not in ("failure", "error"):
        return
    if record is None:
        from harness.plugin.judged import skip_reason

        record = state.not_judged(item.located, item.nodeid, skip_reason(report))
    verdict = record.verdict
    report.outcome = "failed"
    report.__dict__.pop("wasxfail", None)
    next_line = f"\n  next    {verdict.next_command}" if verdict.outcome is Outcome.NOT_RUN else ""
    report.longrepr = harmless(f"{verdict.label}: {verdict.summary}{next_line}")
