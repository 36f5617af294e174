"""The pytest door: collects case YAML natively and runs it through the session.

Registered as the ``pytest11`` entry point ``quantgate``, so this module is imported in every pytest run of the
environment: what is heavy is imported inside the hooks that need it, and a run without cases does not notice it.
"""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from harness.plugin import options
from harness.project import is_case_name

if TYPE_CHECKING:
    from harness.plugin.collect import CaseFile


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare options and ini settings."""
    options.declare(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Register the runner markers and the state that items share."""
    from harness.plugin.judged import CollectedHooks, JudgedHooks
    from harness.plugin.options import marker_line
    from harness.plugin.state import PluginState

    options.check(config)
    options.check_plan(config)
    options.check_folders(config)
    state = PluginState.of(config)
    for name in state.runner_names():
        config.addinivalue_line("markers", marker_line(name))
    config.pluginmanager.register(CollectedHooks(state), "quantgate-collected")
    if not state.is_worker:
        config.pluginmanager.register(JudgedHooks(state), "quantgate-judged")
    if config.pluginmanager.hasplugin("xdist"):
        from harness.plugin.scheduling import XdistHooks

        config.pluginmanager.register(XdistHooks(), "quantgate-xdist")


@pytest.hookimpl(tryfirst=True, optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """``-n auto``: one worker a GPU."""
    from harness.plugin.terminal import workers

    return workers(config)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Close the engines, also after an interrupt."""
    from harness.plugin.state import PluginState

    PluginState.of(config).close()


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Refuse, before a case is collected, what would let pytest see other cases than the commands do.

    In the controller of xdist as well: a worker that refuses would be an internal error.
    """
    from harness.plugin.terminal import runs_cases

    if runs_cases(session.config):
        from harness.plugin.refusals import refuse_links, refuse_taken_names

        refuse_links(session.config)
        refuse_taken_names(session.config)


@pytest.hookimpl(tryfirst=True)
def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """See the case files that ``quantgate cases`` and ``plan`` see: in hidden folders and in ``build/`` too.

    A path of ``--ignore`` and ``--ignore-glob`` stays ignored: a person typed it.
    """
    if config.option.ignore or config.option.ignore_glob:
        return None
    from harness.plugin.collect import holds_cases

    return False if holds_cases(config, collection_path) else None


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> CaseFile | None:
    """Collect the case files below the configured folder, at any depth."""
    if not is_case_name(file_path.name):
        return None
    from harness.plugin.collect import CaseFile, is_case_file

    return CaseFile.from_parent(parent, path=file_path) if is_case_file(parent.config, file_path) else None


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """After ``-k`` and ``-m``: choose the runner, drop cases of other runners, group cases by engine."""
    from harness.plugin.selection import select

    select(config, items)


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    """A scheduler ends a job by SIGTERM. With cases that is an interrupt: engines are closed and JUnit is written."""
    from harness.plugin.collect import CaseItem

    if not any(isinstance(item, CaseItem) for item in session.items):
        return (yield)
    from harness.plugin.terminal import as_interrupt, end_with_parent

    if hasattr(session.config, "workerinput"):
        end_with_parent()
    with as_interrupt():
        return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Report a case as its verdict says, whatever a mark or another plugin makes of it.

    A verdict that JUnit calls an error is raised in setup, where pytest would print our own stack above it. A case
    that was skipped before it was judged is an error, and one that failed stays failed under an ``xfail`` mark.
    """
    report = yield
    if call.excinfo is not None:
        from harness.plugin.collect import CaseFailedError, CaseItem
        from harness.plugin.refusals import refuse_skip

        if isinstance(item, CaseItem):
            if call.when == "setup" and isinstance(call.excinfo.value, CaseFailedError):
                report.longrepr = str(call.excinfo.value)
            if report.skipped:
                refuse_skip(item, report)
    return report


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Name the runner where it was named, and an option that does not count."""
    from harness.plugin.options import skipping_is_asked

    runner = config.getoption("runner")
    lines = [f"quantgate runner: {runner}"] if runner else []
    if config.getoption("allow_missing_runner") and not skipping_is_asked(config):
        lines.append("--allow-missing-runner is refused in CI: a lane without its device is not green")
    return lines


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> Generator[None, object, object]:
    """The exit code of a run is that of its worst case, also where pytest cannot write its JUnit file.

    Inside the terminal's own wrapper, which then prints the verdicts.
    """
    from harness.outcomes import RULES, Outcome
    from harness.plugin.state import PluginState
    from harness.plugin.terminal import note_times
    from harness.plugin.unwritable import note, or_said

    state, done, lost = PluginState.of(session.config), None, False
    try:
        done = yield
    except OSError as error:
        if not state.records:
            raise
        note(state, "what pytest writes at the end of a run, such as JUnit,", error)
        lost = True
    with or_said(state, "the times of this run"):
        note_times(session.config)
    code = state.exit_code(int(exitstatus), session)
    if code is not None:
        session.exitstatus = code
    if lost and int(session.exitstatus) == 0:  # whoever reads the file next would take its absence for no failures
        session.exitstatus = RULES[Outcome.INFRA].exit_code
    return done


def pytest_terminal_summary(terminalreporter: Any, exitstatus: int, config: pytest.Config) -> None:
    """Print the verdict table, or why there is none."""
    from harness.plugin.nothing import why_no_case
    from harness.plugin.state import PluginState
    from harness.plugin.terminal import print_verdicts

    print_verdicts(terminalreporter, PluginState.of(config))
    if exitstatus and (why := why_no_case(config, exitstatus)):
        terminalreporter.write_line(f"quantgate: {why}", yellow=True)
