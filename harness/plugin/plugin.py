"""The pytest plugin: collects case YAML files as tests and runs them through the session.

Registered as the ``pytest11`` entry point ``quantgate``, so this module is imported in every pytest run of the
environment: heavy modules are imported inside the hooks that need them, so that a run without cases is not slowed.
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
    from harness.plugin.ending import refuse_idle_settings
    from harness.plugin.judged import CollectedHooks, JudgedHooks
    from harness.plugin.options import marker_line
    from harness.plugin.state import PluginState

    if not hasattr(config, "workerinput"):
        refuse_idle_settings(config)
    options.check(config)
    options.check_plan(config)
    options.check_folders(config)
    state = PluginState.of(config)
    for name in state.runner_names():
        config.addinivalue_line("markers", marker_line(name))
    config.pluginmanager.register(CollectedHooks(state), "quantgate-collected")
    if not state.is_worker:
        # A worker does not end the run: it sends its records to the controller.
        config.pluginmanager.register(JudgedHooks(state), "quantgate-judged")
    if config.pluginmanager.hasplugin("xdist"):
        from harness.plugin.scheduling import XdistHooks

        config.pluginmanager.register(XdistHooks(), "quantgate-xdist")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> Generator[None, int | None, int | None]:
    """End red if pytest would end green although a verdict is red or no selected case was run."""
    code = yield
    if code is None or int(code) != 0:
        return code
    from harness.plugin.ending import true_code

    return true_code(config, int(code))


@pytest.hookimpl(tryfirst=True, optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int | None:
    """Return the number of workers for ``-n auto``: one per GPU."""
    from harness.plugin.terminal import workers

    return workers(config)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Close the engines, also after an interrupt."""
    from harness.plugin.state import PluginState

    PluginState.of(config).close()


@pytest.hookimpl(tryfirst=True)
def pytest_sessionstart(session: pytest.Session) -> None:
    """Refuse, before a case is collected, a project in which pytest would see other cases than the commands.

    Runs in the controller of xdist as well: a refusal in a worker would be an internal error.
    """
    from harness.plugin.terminal import pass_no_command_on, runs_cases

    if runs_cases(session.config):
        pass_no_command_on(session.config)  # before the first line that names a file
        from harness.plugin.refusals import refuse_links, refuse_taken_names

        refuse_links(session.config)
        refuse_taken_names(session.config)


@pytest.hookimpl(tryfirst=True)
def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Keep the case files that ``quantgate cases`` and ``plan`` see: in hidden folders and in ``build/`` too.

    With ``--ignore`` or ``--ignore-glob`` pytest decides alone: a person typed them.
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
    """Choose the runner after ``-k`` and ``-m``, drop cases of other runners, group the rest by engine."""
    from harness.plugin.selection import select

    select(config, items)


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    """Treat SIGTERM as an interrupt if there are cases (a scheduler sends it): engines close and JUnit is written."""
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
    """Report a case by its verdict, even if a mark or another plugin changed its outcome.

    A verdict that JUnit calls an error is raised in setup, where pytest would print quantgate's own stack above it. A
    case that was skipped before it was judged is an error, and a failed case stays failed under an ``xfail`` mark.
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
    """Return header lines: the runner if it was named, and an option that is ignored."""
    from harness.plugin.options import skipping_is_asked

    runner = config.getoption("runner")
    lines = [f"quantgate runner: {runner}"] if runner else []
    if config.getoption("allow_missing_runner") and not skipping_is_asked(config):
        lines.append("--allow-missing-runner is refused in CI: a lane without its device is not green")
    return lines


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> Generator[None, object, object]:
    """Set the exit code of the run to that of its worst case, also if pytest cannot write its JUnit file.

    Runs inside the terminal's own wrapper, which prints the verdicts afterwards.
    """
    from harness.outcomes import RULES, Outcome
    from harness.plugin.state import PluginState
    from harness.plugin.terminal import note_times
    from harness.plugin.unwritable import note, warn_if_unwritable

    state, result, lost = PluginState.of(session.config), None, False
    try:
        result = yield
    except OSError as error:
        if not state.records:
            raise
        note(state, "what pytest writes at the end of a run, such as JUnit,", error)
        lost = True
    with warn_if_unwritable(state, "the times of this run"):
        note_times(session.config)
    code = state.exit_code(int(exitstatus), session)
    if code is not None:
        session.exitstatus = code
    if lost and int(session.exitstatus) == 0:  # a reader of JUnit would take the missing file for "no failures"
        session.exitstatus = RULES[Outcome.INFRA].exit_code
    return result


def pytest_terminal_summary(terminalreporter: Any, exitstatus: int, config: pytest.Config) -> None:
    """Print the verdict table, or the reason why there is none."""
    from harness.plugin.nothing import why_no_case
    from harness.plugin.state import PluginState
    from harness.plugin.terminal import print_verdicts

    print_verdicts(terminalreporter, PluginState.of(config))
    if exitstatus and (why := why_no_case(config, exitstatus)):
        terminalreporter.write_line(f"quantgate: {why}", yellow=True)
