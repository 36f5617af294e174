"""What pytest owes the lane: one worker a GPU by default, and the times of this run for the next plan."""

from __future__ import annotations

from pathlib import Path

import pytest
from filelock import FileLock

from harness.errors import QuantgateError
from harness.plugin import options
from harness.plugin.state import PluginState


def workers(config: pytest.Config) -> int | None:
    """How many workers ``-n auto`` starts: one a GPU of the runner. ``None`` where xdist's own rule is right."""
    if not runs_cases(config):
        return None
    from harness.session.devices import devices_for

    try:
        profile = PluginState.of(config).profile()
        return len(devices_for(profile)) if profile.device_kind == "cuda" else None
    except (QuantgateError, pytest.UsageError):
        return 1  # no device, or an option that is wrong: said once, by the run itself


def note_times(config: pytest.Config) -> None:
    """Add the times of this run to ``runs/history.json``, by which the next run and the next plan are ordered."""
    state = PluginState.of(config)
    if state.is_worker or not any(record.generation for record in state.records):
        return
    with FileLock(state.history_file.with_suffix(".lock")):
        state.read_history().with_records(state.records).write(state.history_file)


def runs_cases(config: pytest.Config) -> bool:
    """Whether a path of the command lies below the folder of the case files, or holds it."""
    cases = options.folder(config, "quantgate_cases")
    places = (Path(config.invocation_params.dir, argument.partition("::")[0]) for argument in config.args)
    return any(place.is_relative_to(cases) or cases.is_relative_to(place) for place in places)
