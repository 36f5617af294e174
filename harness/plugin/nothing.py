"""Explain in one sentence why a run collected no case: "no tests ran" alone sends people to the wrong place."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection
from pathlib import Path

import pytest

from harness.definitions.loading import check_cases
from harness.definitions.runner import load_runners
from harness.definitions.validation import did_you_mean
from harness.errors import InvalidCaseError
from harness.plugin import options
from harness.plugin.state import PluginState
from harness.project import case_files_below, is_project
from harness.text import listed


def why_no_case(config: pytest.Config, exitstatus: int) -> str:
    """Return the reason why pytest collected no case of quantgate.

    Args:
        config: pytest's configuration of the run.
        exitstatus: exit status of the run; only "no tests" and "usage error" need an explanation.

    Returns:
        One sentence and the next command; empty if the run has nothing to do with quantgate, or if pytest's own message
        is enough (cases were collected, and all of them were deselected).
    """
    if exitstatus not in (pytest.ExitCode.NO_TESTS_COLLECTED, pytest.ExitCode.USAGE_ERROR):
        return ""
    state, cases = PluginState.of(config), options.project(config).cases
    # The controller of xdist collects nothing itself, so an empty collection has no meaning there.
    if state.is_worker or config.pluginmanager.hasplugin("dsession"):
        return ""
    if state.collected:
        return _unknown_marks(config, state) or _unmatched_keyword(config, state)
    places = [Path(config.invocation_params.dir, argument.partition("::")[0]).resolve() for argument in config.args]
    nested = next((top for place in places if (top := _project_of(place)) and top != config.rootpath), None)
    if nested is not None and not any(_meets(place, cases) for place in places):
        return (
            f"{nested} is a project of its own, and pytest took {config.rootpath} for the root\n"
            f"  next: cd {nested} && pytest, or quantgate init there, which writes its pytest settings"
        )
    files = case_files_below(cases).files if cases.is_dir() else ()
    if not state.is_configured:
        if not files or not any(_meets(place, cases) for place in places):
            return ""
        settings = config.inipath.name if config.inipath is not None else "pytest.ini"
        return (
            f"{cases} holds {len(files)} YAML file{'s' if len(files) > 1 else ''}, and nothing says that these are "
            f"cases of quantgate\n  next: quantgate init, or write quantgate_cases = {cases.name} into {settings}"
        )
    if exitstatus == pytest.ExitCode.USAGE_ERROR:  # pytest itself names the path that it did not find
        return _unknown_case(config, files)
    if not files:
        expects_cases = bool(config.getini("quantgate_cases")) or cases.is_dir()
        return f"there is no case file in {cases}\n  next: quantgate init, or write one" if expects_cases else ""
    if not any(_meets(place, cases) for place in places):
        return f"the cases lie in {cases}, and this command does not look there\n  next: pytest {cases}"
    return ""


_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def _unknown_case(config: pytest.Config, files: Collection[Path]) -> str:
    """Name a case of the command line that its file does not hold, with the most similar case of that file."""
    for argument in config.args:
        name, _, case_id = argument.partition("::")
        path = Path(config.invocation_params.dir, name).resolve()
        if not case_id or path not in files:
            continue
        try:
            located, _ = check_cases([path], options.project(config).root)
        except InvalidCaseError:  # a profile that cannot be read is told at collection
            return ""
        ids = [item.case.id for item in located]
        if ids and case_id not in ids:
            return f"{name} has no case {case_id}; {did_you_mean(case_id, ids)}\n  next: quantgate cases"
    return ""


def _unknown_marks(config: pytest.Config, state: PluginState) -> str:
    """Name a word of ``-m`` that is neither a runner nor a registered mark, or a runner that no collected case names.

    The first is most often a misspelt runner; the second a project whose cases are all for another machine.
    """
    words = set(_WORD.findall(str(config.getoption("markexpr", "") or ""))) - {"and", "or", "not"}
    marks = {str(line).partition(":")[0].partition("(")[0].strip() for line in config.getini("markers")}
    try:
        profiles = load_runners(options.project(config).runners)
    except InvalidCaseError:
        return ""
    runners = sorted(profile.marker for profile in profiles.values())
    unknown = sorted(words - marks - set(runners))
    if not unknown:
        requested = sorted(words & set(runners))
        named = sorted({mark.name for item in state.collected for mark in item.iter_markers()} & set(runners))
        if requested and named and not set(requested) & set(named):
            return (
                f"-m {requested[0]}: no case that pytest collected names runner {requested[0]} (their runners: "
                f"{', '.join(named)})\n  next: add {requested[0]} to the `runners` of a case, or pytest -m {named[0]}"
            )
        return ""
    advice = did_you_mean(unknown[0], runners)
    return (
        f"-m {unknown[0]}: no runner is called that; {advice} (runners: {', '.join(runners)})\n  next: quantgate cases"
    )


def _unmatched_keyword(config: pytest.Config, state: PluginState) -> str:
    """Name the cases if ``-k`` matches none of them: most often a misspelt id."""
    keyword = str(config.getoption("keyword", "") or "")
    if not keyword or state.other_runners:  # the end of the table names other runners
        return ""
    ids = list(dict.fromkeys(item.name for item in state.collected))
    close = difflib.get_close_matches(keyword, ids, n=1, cutoff=0.6)
    advice = f"did you mean {close[0]}?" if close else f"there are {listed(ids)}"
    return f"-k {keyword!r} matches no case; {advice}\n  next: quantgate cases"


def _project_of(place: Path) -> Path | None:
    """Return the project with runner profiles that contains ``place`` or is it; ``None`` if there is none."""
    return next((top for top in (place, *place.parents) if is_project(top) and (top / "runners").is_dir()), None)


def _meets(place: Path, cases: Path) -> bool:
    """Return whether ``place`` lies below the folder of the cases, or contains it."""
    return place.is_relative_to(cases) or cases.is_relative_to(place)
