"""Which cases were selected: what pytest collected, less what the person who typed the command left out.

Plugins and ``conftest.py`` may drop items, refuse to collect a file, or reorder. They do not decide which cases are
judged: a case that they drop stays selected, ends ``not_run``, and makes the run red.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from _pytest.mark import KeywordMatcher, MarkMatcher
from _pytest.mark.expression import Expression

from harness.errors import InvalidCaseError

if TYPE_CHECKING:
    from harness.plugin.collect import CaseItem
    from harness.plugin.state import PluginState

_OWN_CHOICE = ("lf", "stepwise")
"""Options by which pytest itself runs a part of the collected tests only."""


def dropped_cases(state: PluginState, session: pytest.Session) -> list[CaseItem]:
    """Cases of this run's runner that were collected, or should have been, and are not among the session's items.

    A case is not listed if the command line leaves it out: by its paths, ``-k``, ``-m``, ``--deselect``, ``--ignore``,
    ``--lf`` or ``--sw``. With ``--plan`` nothing is listed: a shard refuses to start without each of its cases.
    """
    config = session.config
    if state.shard() is not None or any(getattr(config.option, name, False) for name in _OWN_CHOICE):
        return []
    kept = {item.nodeid for item in session.items}
    candidates = {item.nodeid: item for item in (*state.collected, *_uncollected(state, session))}
    if candidates.keys() <= kept:
        return []
    runner = state.profile().name
    left = [item for node, item in candidates.items() if node not in kept and runner in item.case.runners]
    return [item for item in left if _asked_for(config, item)]


def _asked_for(config: pytest.Config, item: CaseItem) -> bool:
    """Whether ``-k``, ``-m`` and ``--deselect`` of the command leave this case in."""
    if any(item.nodeid.startswith(prefix) for prefix in config.option.deselect or ()):
        return False
    keyword, marks = str(config.option.keyword or "").strip(), str(config.option.markexpr or "")
    if keyword and not Expression.compile(keyword).evaluate(KeywordMatcher.from_item(item)):
        return False
    return not marks or Expression.compile(marks).evaluate(MarkMatcher.from_markers(item.iter_markers()))


def _uncollected(state: PluginState, session: pytest.Session) -> Iterator[CaseItem]:
    """Cases of files that the command names, or that lie below a folder that it names, and that nobody collected."""
    from harness.plugin.collect import CaseFile

    config = session.config
    ignored = [Path(config.invocation_params.dir, path) for path in config.option.ignore or ()]
    if config.option.ignore_glob:
        return
    for path in state.case_files.files:
        asked = any(path.is_relative_to(place) for place in _named_places(config))
        if not asked or path in state.collected_files or any(path.is_relative_to(place) for place in ignored):
            continue
        try:
            yield from CaseFile.from_parent(session, path=path).collect()
        except (InvalidCaseError, pytest.Collector.CollectError):
            continue  # noted in `invalid_files`: the run ends with the code of an invalid case


def _named_places(config: pytest.Config) -> Iterable[Path]:
    """Files and folders that the command names. ``file::id`` names one case, which is collected or an error."""
    return [Path(config.invocation_params.dir, argument) for argument in config.args if "::" not in argument]
