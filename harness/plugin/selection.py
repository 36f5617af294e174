"""Which of the collected cases run here, on which device, and in which order."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

import pytest

from harness.definitions.loading import check_unique
from harness.errors import InvalidCaseError
from harness.harmless import harmless
from harness.in_ci import ci_variable
from harness.pipeline.engine_key import engine_key
from harness.plugin.collect import CaseItem
from harness.plugin.sharding import refuse_missing
from harness.plugin.state import PluginState


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
        skip_without_device(state, mine)
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


def skip_without_device(state: PluginState, cases: Iterable[CaseItem]) -> None:
    """Skip ``cases`` where their runner is not in this machine and a person asked for that.

    Otherwise they run, and each ends as ``no_runner``: a verdict that the table, JUnit and the report show.
    """
    if state.skips_missing_runner():
        for item in cases:
            item.add_marker(pytest.mark.skip(reason=f"no runner {state.profile().name} in this machine"))


def skipping_is_asked(config: pytest.Config) -> bool:
    """Whether ``--allow-missing-runner`` counts; never in a CI job, where a lane without its device is not green."""
    return bool(config.getoption("allow_missing_runner")) and not ci_variable(os.environ)
