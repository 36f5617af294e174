"""Select the collected cases that run here, on which device, and in which order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from _pytest.mark import KeywordMatcher, MarkMatcher
from _pytest.mark.expression import Expression

from harness.definitions.loading import check_unique
from harness.engine.environment import engine_key
from harness.errors import InvalidCaseError
from harness.plugin.collect import CaseItem
from harness.plugin.printing import printable
from harness.plugin.sharding import refuse_missing
from harness.plugin.state import PluginState

if TYPE_CHECKING:
    from harness.lane.durations import Duration
    from harness.plugin.collect import CaseItem
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
        if state.is_worker:
            return  # with xdist the controller refuses, see scheduling.py
        pytest.exit(printable(str(error)), returncode=error.exit_code)
    profile = state.profile()
    other = [item for item in cases if profile.name not in item.case.runners]
    if other:
        config.hook.pytest_deselected(items=other)
        state.other_runners = sorted({name for item in other for name in item.case.runners})
    matching = [item for item in cases if profile.name in item.case.runners]
    shard = state.shard()
    if shard is not None:
        if not state.is_worker:  # with xdist the controller refuses, see scheduling.py
            refuse_missing(shard.missing({item.nodeid for item in matching}), shard)
        chosen = shard.pick(matching)
        config.hook.pytest_deselected(items=[item for item in matching if item not in chosen])
        matching = chosen
    if matching and not config.option.collectonly:
        skip_without_device(state, matching)
    items[:] = [
        *(item for item in items if not isinstance(item, CaseItem)),
        # With a plan its own order stays: no times are passed, so only cases of one engine are moved together.
        *by_engine(matching, {} if shard else state.expected_times([item.case for item in matching])),
    ]


def by_engine(items: list[CaseItem], expected: Mapping[str, Duration]) -> list[CaseItem]:
    """Return the cases grouped by engine; the engine that takes longest first, ties in the order of collection.

    Args:
        items: cases in the order of collection.
        expected: expected duration by case id; none for a case that is not listed. An engine loads once.
    """
    keys = [engine_key(item.case) for item in items]
    first: dict[str, int] = {}
    total: dict[str, float] = {}
    load: dict[str, float] = {}
    for index, (item, key) in enumerate(zip(items, keys, strict=True)):
        first.setdefault(key, index)
        seconds, of_load, _ = expected.get(item.case.id, (0.0, 0.0, False))
        total[key] = total.get(key, 0.0) + seconds
        load[key] = max(load.get(key, 0.0), of_load)
    order = sorted(
        range(len(items)),
        key=lambda index: (-total[keys[index]] - load[keys[index]], first[keys[index]], index),
    )
    return [items[index] for index in order]


def skip_without_device(state: PluginState, cases: Iterable[CaseItem]) -> None:
    """Skip ``cases`` if their runner is not in this machine and a person asked for skipping.

    Otherwise they run, and each ends as ``no_runner``: a verdict that the table, JUnit and the report show.
    """
    if state.skips_missing_runner():
        for item in cases:
            item.add_marker(pytest.mark.skip(reason=f"no runner {state.profile().name} in this machine"))


# Determine the selected cases: those that pytest collected, without those that the command line left out.


_OWN_CHOICE = ("lf", "stepwise")
"""Options with which pytest itself runs only a part of the collected tests."""


def dropped_cases(state: PluginState, session: pytest.Session) -> list[CaseItem]:
    """List this runner's cases that were collected, or should have been, and are not among the session's items.

    A case is not listed if the command line leaves it out: by its paths, ``-k``, ``-m``, ``--deselect``, ``--ignore``,
    ``--lf`` or ``--sw``. With ``--plan`` nothing is listed: a shard does not start unless it has all of its cases.
    """
    config = session.config
    if state.shard() is not None or any(getattr(config.option, name, False) for name in _OWN_CHOICE):
        return []
    nodes = {item.nodeid for item in session.items}
    candidates = {
        item.nodeid: item
        for item in (
            *(entry for entry in state.collected if isinstance(entry, CaseItem)),
            *_uncollected(state, session),
        )
    }
    if candidates.keys() <= nodes:
        return []
    runner = state.profile().name
    dropped = [item for node, item in candidates.items() if node not in nodes and runner in item.case.runners]
    return [item for item in dropped if _asked_for(config, item)]


def _asked_for(config: pytest.Config, item: CaseItem) -> bool:
    """Return whether ``-k``, ``-m`` and ``--deselect`` of the command line keep this case."""
    if any(item.nodeid.startswith(prefix) for prefix in config.option.deselect or ()):
        return False
    keyword, marks = str(config.option.keyword or "").strip(), str(config.option.markexpr or "")
    if keyword and not Expression.compile(keyword).evaluate(KeywordMatcher.from_item(item)):
        return False
    return not marks or Expression.compile(marks).evaluate(MarkMatcher.from_markers(item.iter_markers()))


def _uncollected(state: PluginState, session: pytest.Session) -> Iterator[CaseItem]:
    """Yield the cases of files that the command line names, directly or by a folder, and that were not collected."""
    from harness.plugin.collect import CaseFile

    config = session.config
    ignored = [Path(config.invocation_params.dir, path) for path in config.option.ignore or ()]
    if config.option.ignore_glob:
        return
    for path in state.case_files.files:
        requested = any(path.is_relative_to(place) for place in _named_places(config))
        if not requested or path in state.collected_files or any(path.is_relative_to(place) for place in ignored):
            continue
        try:
            yield from CaseFile.from_parent(session, path=path).collect()
        except (InvalidCaseError, pytest.Collector.CollectError):
            continue  # noted in `invalid_files`: the run ends with the code of an invalid case


def _named_places(config: pytest.Config) -> Iterable[Path]:
    """Return the files and folders of the command line. ``file::id`` is left out: pytest collects it or fails."""
    return [Path(config.invocation_params.dir, argument) for argument in config.args if "::" not in argument]
