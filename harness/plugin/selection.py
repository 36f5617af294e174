"""Which of the collected cases run here, on which device, and in which order."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

import pytest

from harness.definitions.loading import check_unique
from harness.errors import InvalidCaseError, NoRunnerError
from harness.harmless import harmless
from harness.pipeline.engine_key import engine_key
from harness.plugin.collect import CaseItem
from harness.plugin.sharding import refuse_missing
from harness.plugin.state import PluginState
from harness.records.verdict import RULES, Outcome


def select(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Choose the runner, deselect cases of other runners, group the rest by engine. Changes ``items`` in place."""
    cases = [item for item in items if isinstance(item, CaseItem)]
    if not cases:
        return
    state = PluginState.of(config)
    try:
        check_unique([item.located for item in cases])
    except InvalidCaseError as error:
        pytest.exit(harmless(str(error)), returncode=error.exit_code)
    profile = state.profile()
    other = [item for item in cases if profile.name not in item.case.runners]
    if other:
        config.hook.pytest_deselected(items=other)
        state.other_runners = sorted({name for item in other for name in item.case.runners})
    mine = [item for item in cases if profile.name in item.case.runners]
    shard = state.shard()
    if shard is not None:
        if not state.is_worker:  # with xdist the controller refuses, see scheduling.py
            refuse_missing(shard.missing({item.nodeid for item in mine}), shard)
        chosen = shard.pick(mine)
        config.hook.pytest_deselected(items=[item for item in mine if item not in chosen])
        mine = chosen
    if mine and not config.option.collectonly:
        require_device(state, mine)
    items[:] = [
        *(item for item in items if not isinstance(item, CaseItem)),
        *by_engine(mine, {} if shard else state.expected_seconds(mine)),
    ]


def by_engine(items: list[CaseItem], seconds: Mapping[str, float]) -> list[CaseItem]:
    """Cases of one engine side by side; the engine that takes longest first, then in the order of their first case.

    Args:
        items: in the order collected.
        seconds: expected seconds by case id; 0 where nothing is said.
    """
    keys = [engine_key(item.case) for item in items]
    first: dict[str, int] = {}
    total: dict[str, float] = {}
    for index, (item, key) in enumerate(zip(items, keys, strict=True)):
        first.setdefault(key, index)
        total[key] = total.get(key, 0.0) + seconds.get(item.case.id, 0.0)
    order = sorted(range(len(items)), key=lambda index: (-total[keys[index]], first[keys[index]], index))
    return [items[index] for index in order]


def require_device(state: PluginState, cases: Iterable[CaseItem] = ()) -> None:
    """End the run where its runner is not in this machine, or skip ``cases`` where that was asked for by hand.

    Raises:
        pytest.UsageError: it cannot be told which runner is meant.
        pytest.exit.Exception: with the exit code of ``no_runner``.
    """
    config, profile = state.config, state.profile()
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
