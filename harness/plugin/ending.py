"""Keep a pytest run from ending green without having judged the selected cases.

pytest ends with exit code 0 without running anything if its settings hold an option such as ``--collect-only``, or if a
``conftest.py`` calls ``pytest.exit("no GPU here", returncode=0)``. In CI such a run looks like a lane that passed.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence

import pytest

from harness.harmless import harmless
from harness.outcomes import RULES, Outcome
from harness.plugin.state import PluginState

_RUNS_NOTHING = {
    "help": ("-h", "--help"),
    "version": ("-V", "--version"),
    "collectonly": ("--collect-only", "--collectonly", "--co"),
    "markers": ("--markers",),
    "showfixtures": ("--fixtures", "--funcargs"),
    "show_fixtures_per_test": ("--fixtures-per-test",),
    "cacheshow": ("--cache-show",),
    "setuponly": ("--setup-only",),
    "setupplan": ("--setup-plan",),
}
"""Options of pytest after which no case runs, by the name under which ``config.option`` holds them."""


def refuse_idle_settings(config: pytest.Config) -> None:
    """Refuse an option that runs nothing if it comes from the settings and not from the command line.

    Raises:
        pytest.UsageError: ``addopts`` or ``PYTEST_ADDOPTS`` holds such an option.
    """
    # None: `--cache-show` takes a value and may be absent
    active = [name for name in _RUNS_NOTHING if getattr(config.option, name, None) not in (None, False, 0)]
    if not active or not PluginState.of(config).is_configured:
        return
    for name in active:
        if not _was_typed(_RUNS_NOTHING[name], [str(word) for word in config.invocation_params.args]):
            holder = "PYTEST_ADDOPTS" if _names(os.environ.get("PYTEST_ADDOPTS", ""), name) else "addopts"
            raise pytest.UsageError(
                f"{holder} holds {_RUNS_NOTHING[name][-1] if name == 'help' else _RUNS_NOTHING[name][0]}, after which "
                "no case runs and pytest still ends with exit code 0\n"
                f"  next: remove it from {holder}; a person may type it"
            )


def _was_typed(spellings: Sequence[str], words: Sequence[str]) -> bool:
    """Return whether one of ``words`` is the option; short options may be joined, as in ``-qh``."""
    short = "".join(spelling[1] for spelling in spellings if not spelling.startswith("--"))
    joined = re.compile(rf"-[A-Za-z]*[{short}]") if short else None
    # `--setup-plan` turns `--setup-only` on as well
    spellings = (*spellings, "--setup-plan") if "--setup-only" in spellings else spellings
    return any(word.partition("=")[0] in spellings or (joined and joined.fullmatch(word)) for word in words)


def _names(text: str, name: str) -> bool:
    return any(word.partition("=")[0] in _RUNS_NOTHING[name] for word in text.split())


def true_code(config: pytest.Config, code: int) -> int:
    """Return the exit code of a run that pytest, a plugin or a ``conftest.py`` wants to end with ``code``.

    Only 0 is looked at: it becomes that of the worst verdict if a verdict is red, and that of ``not_run`` if the
    command named cases and the run ended before pytest began to run its items.
    """
    from harness.plugin.terminal import runs_cases

    state = PluginState.of(config)
    if code != 0 or state.is_worker or any(getattr(config.option, name, None) for name in _RUNS_NOTHING):
        return code
    worst = state.worst_code()
    if worst:
        print("quantgate: a plugin or a conftest.py set exit code 0, and a verdict is red", file=sys.stderr)
        return worst
    if state.began or not runs_cases(config):
        return code
    files = ", ".join(sorted(path.name for path in state.case_files.files)[:3])
    if not files:
        return code
    message = (
        f"quantgate: no case was run: a plugin or a conftest.py ended pytest with exit code 0 before it began ({files})"
        "\n  next: find the call, such as pytest.exit(..., returncode=0)"
    )
    print(harmless(message), file=sys.stderr)
    return RULES[Outcome.NOT_RUN].exit_code
