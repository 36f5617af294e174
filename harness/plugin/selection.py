"""Which of the collected cases run here, on which device, and in which order."""

from __future__ import annotations

import os

import pytest

from harness.definitions.runner import RunnerProfile
from harness.errors import NoRunnerError
from harness.pipeline.engine_key import engine_key
from harness.plugin.collect import CaseItem
from harness.plugin.state import PluginState
from harness.records.verdict import RULES, Outcome


def select(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Choose the runner, deselect cases of other runners, group the rest by engine. Changes ``items`` in place."""
    cases = [item for item in items if isinstance(item, CaseItem)]
    if not cases:
        return
    state = PluginState.of(config)
    profile = state.profile()
    other = [item for item in cases if profile.name not in item.case.runners]
    if other:
        config.hook.pytest_deselected(items=other)
        state.other_runners = sorted({name for item in other for name in item.case.runners})
    mine = [item for item in cases if profile.name in item.case.runners]
    if mine and not config.option.collectonly:
        _require_device(config, state, profile, mine)
    items[:] = [*(item for item in items if not isinstance(item, CaseItem)), *by_engine(mine)]


def by_engine(items: list[CaseItem]) -> list[CaseItem]:
    """Cases of one engine side by side, engines in the order of their first case."""
    first: dict[str, int] = {}
    for index, item in enumerate(items):
        first.setdefault(engine_key(item.case), index)
    return sorted(items, key=lambda item: first[engine_key(item.case)])


def _require_device(config: pytest.Config, state: PluginState, profile: RunnerProfile, cases: list[CaseItem]) -> None:
    try:
        state.device()
    except NoRunnerError as error:
        if not config.getoption("allow_missing_runner"):
            pytest.exit(str(error), returncode=RULES[Outcome.NO_RUNNER].exit_code)
        if os.environ.get("CI"):
            pytest.exit(
                f"--allow-missing-runner is refused where CI is set: a lane without its device is not green\n{error}",
                returncode=RULES[Outcome.NO_RUNNER].exit_code,
            )
        for item in cases:
            item.add_marker(pytest.mark.skip(reason=f"no runner {profile.name} in this machine"))
