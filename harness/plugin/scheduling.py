"""xdist: cases of one engine stay on one worker; a case whose worker died is infra and runs once more.

``--dist loadgroup`` scatters groups under pytest 9.2 and xdist 3.8 (xdist #1386), so the scheduler hook is used: it
groups by engine key, which the controller computes from the case files, whichever mode of ``--dist`` is given.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from harness.definitions.loading import check_unique
from harness.errors import InvalidCaseError
from harness.outcomes import RULES, Outcome
from harness.plugin.collect import CasesById
from harness.plugin.judged import expect, keep, note_dropped, on_disk
from harness.plugin.printing import printable
from harness.plugin.sharding import refuse_missing
from harness.plugin.state import PluginState
from harness.records.case_record import CaseRecord


class EngineScheduling(LoadScopeScheduling):  # type: ignore[misc]
    """Schedule by scope: the engine for a case, the id itself for every other test.

    Scopes are assigned in the order of the collection, which is longest engine first (``selection.by_engine``).
    """

    def __init__(self, config: pytest.Config, log: Any) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False  # xdist would order by the number of tests
        self.workqueue: OrderedDict[str, dict[str, bool]] = OrderedDict()
        self.cases = CasesById(config)
        self._scopes: dict[str, str] = {}

    def mark_test_pending(self, item: str) -> None:
        """Run ``item`` again, before all pending tests."""
        scope = self._split_scope(item)
        rest = self.workqueue.pop(scope, {})
        self._to_the_front({scope: {item: False, **rest}})
        for node in self.nodes:
            self._reschedule(node)

    def remove_node(self, node: Any) -> str | None:
        """As xdist, but do not reschedule the test during which the worker died: ``pytest_handlecrashitem`` decides."""
        workload = self.assigned_work.pop(node)
        remaining = {
            scope: [test for test, finished in unit.items() if not finished] for scope, unit in workload.items()
        }
        # xdist runs the tests of a worker in order, so the first one that is not done is the one that crashed.
        crashed = next((tests.pop(0) for tests in remaining.values() if tests), None)
        if crashed is not None:
            self._to_the_front({scope: dict.fromkeys(tests, False) for scope, tests in remaining.items() if tests})
            for other in self.nodes:
                self._reschedule(other)
        return crashed

    def _split_scope(self, nodeid: str) -> str:
        if nodeid not in self._scopes:
            from harness.engine.environment import engine_key

            located = self.cases.find(nodeid)
            self._scopes[nodeid] = engine_key(located.case) if located else nodeid
        return self._scopes[nodeid]

    def _reschedule(self, node: Any) -> None:
        """As xdist, but assign the next engine to a worker as late as possible.

        A worker begins a test when it has received the next one, so one test must wait in its queue; xdist keeps two,
        which binds an engine to a worker while another may be free sooner. This method is called only once for a
        worker that replaces a dead one, so it assigns as many engines as the worker needs to begin, or shuts it down.
        """
        if node.shutting_down:
            return
        while self.workqueue and self._pending_of(self.assigned_work[node]) <= 1:
            self._assign_work_unit(node)
        if self._pending_of(self.assigned_work[node]) <= 1:
            node.shutdown()

    def _to_the_front(self, units: dict[str, dict[str, bool]]) -> None:
        self.workqueue = OrderedDict([*units.items(), *self.workqueue.items()])


class XdistHooks:
    """Hooks that are registered only if xdist is installed."""

    @pytest.hookimpl
    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> EngineScheduling | None:
        """Group by engine whenever tests are distributed by load."""
        return EngineScheduling(config, log) if config.getvalue("dist") in ("load", "loadscope", "loadgroup") else None

    @pytest.hookimpl
    def pytest_configure_node(self, node: Any) -> None:
        """Send each worker the id and runner of the run, and the measured times."""
        state = PluginState.of(node.config)
        node.workerinput["quantgate_run_id"] = state.run_id()
        node.workerinput["quantgate_runner"] = node.config.getoption("runner") or ""
        # The history is read once: the file may change while workers start, and all must order alike.
        if not hasattr(node.config, "_quantgate_history"):
            node.config._quantgate_history = state.history().model_dump_json()
        node.workerinput["quantgate_history"] = node.config._quantgate_history

    @pytest.hookimpl
    def pytest_xdist_node_collection_finished(self, node: Any, ids: list[str]) -> None:
        """Refuse an invalid case file, a shard that lacks a planned case, an undetermined runner; note the cases.

        A worker refuses too, but xdist would report that as an internal error: the controller refuses first.
        """
        state = PluginState.of(node.config)
        if state.invalid_files and not node.config.option.continue_on_collection_errors:
            problems = "\n".join(text for _, text in sorted(state.invalid_texts.items()))
            pytest.exit(f"nothing was run:\n{printable(problems)}", returncode=RULES[Outcome.INVALID_CASE].exit_code)
        shard = state.shard()
        if shard is not None:
            refuse_missing(shard.missing(set(ids)), shard)
        cases = CasesById(node.config)
        located_cases = [(node, located) for node in ids if (located := cases.find(node)) is not None]
        if located_cases:
            try:
                check_unique([located for _, located in located_cases])
            except InvalidCaseError as error:
                pytest.exit(printable(str(error)), returncode=error.exit_code)
            state.profile()
        expect(state, located_cases)

    @pytest.hookimpl
    def pytest_handlecrashitem(self, crashitem: str, report: pytest.TestReport, sched: Any) -> None:
        """Record a case during which its worker died as infra; run it once more on a fresh worker and engine."""
        located = sched.cases.find(crashitem) if isinstance(sched, EngineScheduling) else None
        if located is None:
            return
        from harness.session.attempts import attempt_number, next_attempt, put_aside

        state = PluginState.of(sched.config)
        folder = state.case_folder(located.case.id)
        attempt = attempt_number(folder)
        record = state.lost(located, crashitem, attempt, f"{report.longrepr}; its engine was ended with it")
        try:
            if next_attempt(record) is None:
                raise FileNotFoundError
            put_aside(folder, attempt)
        except OSError:
            keep(state, [record])
            return
        state.crashed[crashitem] = report.node
        sched.mark_test_pending(crashitem)
        report.outcome = "rerun"  # type: ignore[assignment]

    @pytest.hookimpl
    def pytest_report_teststatus(
        self, report: pytest.TestReport
    ) -> tuple[str, str, tuple[str, dict[str, bool]]] | None:
        """Show a case that runs once more."""
        return ("rerun", "R", ("RERUN", {"yellow": True})) if str(report.outcome) == "rerun" else None

    @pytest.hookimpl
    def pytest_testnodedown(self, node: Any, error: object | None) -> None:
        """Collect the records of a worker that ended: those it sent, or those on the disk if it died before."""
        state = PluginState.of(node.config)
        output = getattr(node, "workeroutput", {})
        cases = CasesById(node.config)
        dropped = output.get("quantgate_dropped", ())
        note_dropped(state, [(node, located) for node in dropped if (located := cases.find(node)) is not None])
        sent = output.get("quantgate_records")
        if sent is not None:
            keep(state, (CaseRecord.model_validate_json(text) for text in sent))
        elif error is not None:
            keep(state, on_disk(state))
