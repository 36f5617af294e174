"""Determine which selected cases were judged. A case that was not gets a record: it must not look green."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from _pytest.junitxml import xml_key

from harness.definitions.case import Located
from harness.lane.merge import PLAN_PROPERTY
from harness.outcomes import Outcome
from harness.plugin.collect import CaseItem, is_case_file
from harness.plugin.printing import printable
from harness.plugin.selection import dropped_cases
from harness.plugin.state import PluginState
from harness.plugin.unwritable import warn_if_unwritable
from harness.project import is_case_name
from harness.reading import UnreadableError
from harness.records.case_record import CaseRecord
from harness.records.run_folder import RECORD_FILE, attempt_file
from harness.session.attempts import NeverJudgedError, forget, last_attempt

_ENDED_BY_ITSELF = (int(pytest.ExitCode.OK), int(pytest.ExitCode.TESTS_FAILED))


def expect(state: PluginState, cases: Iterable[tuple[str, Located]]) -> None:
    """Expect a verdict of these pytest ids in this run; records that an earlier run left in the folder are removed."""
    for node, located in cases:
        if node not in state.expected:
            state.expected[node] = located
            try:
                forget(state.case_folder(located.case.id))
            except OSError:
                state.not_cleared.add(node)


def keep(state: PluginState, records: Iterable[CaseRecord]) -> None:
    """Add ``records`` to those of the run: one per case, that of its last attempt."""
    by_node = {record.node: record for record in state.records}
    for record in records:
        if record.node not in by_node or record.attempt >= by_node[record.node].attempt:
            by_node[record.node] = record
    state.records[:] = by_node.values()


def on_disk(state: PluginState) -> list[CaseRecord]:
    """Read the records of the expected cases from the disk, also those that a dead worker could not send."""
    records = []
    for node, located in state.expected.items():
        if node in state.not_cleared:
            continue
        try:
            record = CaseRecord.read(state.case_folder(located.case.id) / RECORD_FILE)
        except (OSError, UnreadableError):
            continue  # not written yet, or torn with its worker: the case is lost and will be named so
        if record.node == node:
            records.append(record)
    return records


class CollectedHooks:
    """Hooks of every process that collects: pytest itself, and each worker of xdist."""

    def __init__(self, state: PluginState) -> None:
        self._state = state

    @pytest.hookimpl
    def pytest_itemcollected(self, item: pytest.Item) -> None:
        """Remember each case before a plugin or a ``conftest.py`` can deselect it."""
        if isinstance(item, CaseItem):
            self._state.collected.append(item)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> None:
        """Find the selected cases that will not run; a worker reports them to the controller."""
        if session.config.option.collectonly or (session.testsfailed and not _goes_on(session)):
            return
        if not self._state.is_worker and session.config.pluginmanager.hasplugin("dsession"):
            return  # the controller of xdist collects nothing
        dropped = dropped_cases(self._state, session)
        if self._state.is_worker:
            session.config.workeroutput["quantgate_dropped"] = [item.nodeid for item in dropped]  # type: ignore[attr-defined]
        else:
            note_dropped(self._state, ((item.nodeid, item.located) for item in dropped))


def _goes_on(session: pytest.Session) -> bool:
    return bool(session.config.option.continue_on_collection_errors)


def note_dropped(state: PluginState, cases: Iterable[tuple[str, Located]]) -> None:
    """Expect ``cases``: selected cases that a plugin or a ``conftest.py`` removed before the run began."""
    cases = list(cases)
    state.dropped |= {node for node, _ in cases}
    expect(state, cases)


class JudgedHooks:
    """Hooks of the process that ends the run: pytest itself, or the controller of xdist."""

    def __init__(self, state: PluginState) -> None:
        self._state = state

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> None:
        """Note the cases to judge: those that remain after every plugin has deselected."""
        self._state.began = True
        if session.config.option.collectonly or (session.testsfailed and not _goes_on(session)):
            return
        expect(self._state, ((item.nodeid, item.located) for item in session.items if isinstance(item, CaseItem)))

    @pytest.hookimpl
    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Note a case file that cannot be read; the controller of xdist receives the report from its workers."""
        path = self._state.config.rootpath / report.nodeid
        if report.failed and is_case_name(report.nodeid) and is_case_file(self._state.config, path):
            self._state.invalid_files.append(str(path))
            self._state.invalid_texts.setdefault(str(path), report.longreprtext.strip())

    @pytest.hookimpl
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note pytest's own report: a case may be skipped, or fail before it is judged."""
        if report.skipped:
            self._state.skipped.setdefault(report.nodeid, skip_reason(report))
        elif report.failed:
            self._state.failed.add(report.nodeid)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        """Give every expected case a record before JUnit is written, and write the id of the plan to JUnit."""
        xml = session.config.stash.get(xml_key, None)
        if xml is not None and self._state.expected and self._state.plan_id():
            xml.add_global_property(PLAN_PROPERTY, self._state.plan_id())
        name_unjudged(self._state, session, int(exitstatus))

    @pytest.hookimpl(tryfirst=True)
    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        """Count the cases that a stopped run left out, instead of listing them as errors."""
        return ("not_run", "", "") if getattr(report, "quantgate_stopped", False) else None


def name_unjudged(state: PluginState, session: pytest.Session, exitstatus: int) -> None:
    """Give every expected case without a record one, and report it to pytest's summary and JUnit."""
    if not state.expected:
        return
    keep(state, on_disk(state))
    judged = {record.node for record in state.records}
    stopped = bool(session.shouldstop or session.shouldfail or exitstatus not in _ENDED_BY_ITSELF)
    for node, located in state.expected.items():
        if node in judged or (node in state.skipped and state.skips_missing_runner()):
            continue
        record = _unjudged(state, node, located)
        state.unjudged.add(node)
        state.records.append(record)
        if node not in state.failed:
            _report(state, session, located, record, stopped)


def _unjudged(state: PluginState, node: str, located: Located) -> CaseRecord:
    folder = state.case_folder(located.case.id)
    before = last_attempt(folder)
    # A first attempt was judged, and the run ended before the second: its verdict is the best there is.
    if before is not None:
        summary = f"{before.verdict.summary}; the run ended before it was tried once more"
        record = before.model_copy(update={"verdict": before.verdict.model_copy(update={"summary": summary})})
        with warn_if_unwritable(state, f"the record of {record.case}"):
            record.write(folder / RECORD_FILE)
            (folder / attempt_file(before.attempt)).unlink()
        return record
    runner = state.profile().name
    reason = "it was selected, and the run ended before it was judged"
    if node in state.skipped:
        reason = f"it was selected, and pytest skipped it: {state.skipped[node]}"
    elif node in state.dropped:
        reason = "it was selected, and a plugin or a conftest.py took it out of the run"
    return state.lost(located, node, 1, NeverJudgedError(reason, remedy=f"pytest {node} --runner {runner}"))


def skip_reason(report: pytest.TestReport) -> str:
    """Return pytest's reason of a skip and the place that requested it, in one line."""
    if hasattr(report, "wasxfail"):
        return f"xfail {report.wasxfail}".strip()
    if isinstance(report.longrepr, tuple):
        path, line, reason = report.longrepr
        return f"{' '.join(str(reason).split())} ({path}:{line})"
    return " ".join(str(report.longrepr or "no reason given").split())


def _report(state: PluginState, session: pytest.Session, located: Located, record: CaseRecord, stopped: bool) -> None:
    """Report one error per case. If a person stopped the run, ``--lf`` and the list of errors stay as pytest's."""
    verdict = record.verdict
    report: Any = pytest.TestReport(
        nodeid=record.node,
        location=(located.path.as_posix(), located.line - 1, located.case.id),
        keywords={},
        outcome="failed",
        longrepr=printable(f"{verdict.label}: {verdict.summary}\n  next    {verdict.next_command}"),
        when="setup",
    )
    plugins = session.config.pluginmanager
    report.quantgate_stopped = stopped and verdict.outcome is Outcome.NOT_RUN
    if record.node in state.crashed:
        report.node = state.crashed[record.node]  # JUnit finds the entry of the lost attempt by its worker
    deaf = [session, *([plugins.get_plugin(name) for name in ("lfplugin", "stepwiseplugin")] if stopped else [])]
    plugins.subset_hook_caller("pytest_runtest_logreport", deaf)(report=report)
