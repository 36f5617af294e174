"""Declare and check every option and ini setting of the pytest plugin."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable
from itertools import pairwise, product
from pathlib import Path

import pytest
from _pytest.mark.expression import Expression

from harness.errors import QuantgateError
from harness.in_ci import ci_variable
from harness.project import Project, is_declared
from harness.reading import UnreadableError, read_bytes

FOLDERS = ("cases", "runners", "thresholds", "goldens", "runs")
"""Folders of a project. ``quantgate_<folder>`` in pytest's settings may confirm one of these names, never change it."""


_PROJECT: pytest.StashKey[Project] = pytest.StashKey()


def declare(parser: pytest.Parser) -> None:
    """Add options and ini settings to pytest's parser."""
    group = parser.getgroup("quantgate", "quantized video-diffusion cases")
    group.addoption("--runner", default=None, metavar="NAME", help="runner profile; default: detected from the device")
    group.addoption(
        "--allow-missing-runner",
        action="store_true",
        help="skip cases whose runner is not in this machine instead of failing; refused in CI",
    )
    group.addoption(
        "--perturbation",
        default="none",
        metavar="NAME",
        help="force a healthy change on every engine, such as isa-avx2",
    )
    group.addoption(
        "--attribution",
        type=float,
        default=120.0,
        metavar="SECONDS",
        help="how long to look for the cause of a failure; 0: not at all (default: 120)",
    )
    group.addoption("--no-report", action="store_true", help="do not render the HTML report at the end of the run")
    group.addoption(
        "--run-id", default=None, metavar="ID", help="name of this run below the runs folder; default: the time"
    )
    group.addoption("--plan", default=None, metavar="FILE", help="the plan to run, from `quantgate plan --runner NAME`")
    group.addoption(
        "--plan-id", default=None, metavar="DIGEST", help="digest that --plan must have, from the job that made it"
    )
    group.addoption("--shard", default=None, metavar="I/N", help="run one shard of --plan, such as 2/4")
    group.addoption(
        "--gpu-wait",
        type=float,
        default=1800.0,
        metavar="SECONDS",
        help="how long to wait for a GPU that another run holds (default: 1800)",
    )
    for name in FOLDERS:
        parser.addini(
            f"quantgate_{name}", f"{name}, which marks this project as one with cases of quantgate", default=""
        )
    group.addoption("--runs", default=None, metavar="DIR", help="folder of the runs (default: runs/ of the project)")


def check(config: pytest.Config) -> None:
    """Refuse a run id that leads to another folder: files that an earlier run left below it are removed.

    Raises:
        pytest.UsageError: the run id is no plain name.
    """
    name = config.option.run_id
    if name is not None and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise pytest.UsageError(f"--run-id {name!r} is no plain name: letters, digits, and _ . - inside, as in shard-1")


def check_plan(config: pytest.Config) -> None:
    """Refuse ``--plan FILE`` if the space misled pytest, which looks for its root before it parses this option.

    Pytest takes the file for a test to run: a file outside the start folder moves the root, and other tests are
    collected.
    Raises:
        pytest.UsageError: the file lies outside the folder in which pytest was started.
    """
    arguments, start = config.invocation_params.args, config.invocation_params.dir
    for option, file in pairwise(map(str, arguments)):
        if option == "--plan" and not Path(os.path.normpath(start / file)).is_relative_to(start):
            raise pytest.UsageError(
                f"--plan {file}: pytest takes a file outside {start} for a test, and its folder for the project\n"
                f"  next: write it with an equals sign, --plan={file}"
            )


def project(config: pytest.Config) -> Project:
    """Return the project of this pytest run: the same project that every command uses from the same folder.

    Raises:
        pytest.UsageError: ``[tool.quantgate]`` in ``pyproject.toml`` cannot be used.
    """
    # pytest asks for every path that it collects, so the settings are read once per run
    cached = config.stash.get(_PROJECT, None)
    if cached is None:
        try:
            cached = config.stash[_PROJECT] = Project.of_repository(config.rootpath)
        except QuantgateError as error:
            raise pytest.UsageError(str(error)) from error
    return cached


def runs_folder(config: pytest.Config) -> Path:
    """Return the folder below which this pytest run writes its run."""
    named = config.getoption("runs")
    # A relative ``--runs`` is resolved from the folder in which the person typed it, not from pytest's root.
    return project(config).runs if named is None else Path(config.invocation_params.dir, named)


def check_folders(config: pytest.Config) -> None:
    """Refuse folders that only pytest would use: ``quantgate accept`` would write to another store.

    Raises:
        pytest.UsageError: an ini setting names such a folder.
    """
    named = [name for name in FOLDERS if config.getini(f"quantgate_{name}") not in ("", name)]
    if named:
        raise pytest.UsageError(
            f"quantgate_{named[0]}: folders of a project have fixed names, "
            "so that pytest and every command use the same ones\n"
            '  next: name the folder that holds cases/ in pyproject.toml, [tool.quantgate] root = "...", '
            "or give --runs DIR"
        )


_PROFILE = re.compile(r"^(device_kind|device_names|architectures|compute_capability|native_formats|marker)\s*:", re.M)
"""Fields that only a runner profile has."""
_MAX_PROFILE = 4 << 20
"""Most bytes of a runner profile that are looked at."""
_ASKED = ("runner", "plan", "shard")


def is_configured(config: pytest.Config) -> bool:
    """Return whether the project declares that its folder of YAML files holds cases of quantgate.

    quantgate may be installed in the environment of another project that has a ``cases/`` folder too. A project
    declares it by ``quantgate_cases`` in pytest's settings, by ``[tool.quantgate]`` in ``pyproject.toml`` or by a
    runner profile; a command line declares it by an option such as ``--runner``.
    """
    if (
        config.getini("quantgate_cases")
        or is_declared(config.rootpath)
        or any(config.getoption(name) for name in _ASKED)
    ):
        return True
    for path in sorted(project(config).runners.glob("*.yaml")):
        try:
            data = read_bytes(path, limit=_MAX_PROFILE)
        except (OSError, UnreadableError):
            continue
        if _PROFILE.search(data.decode("utf-8", "replace")):
            return True
    return False


# Infer the runner from ``-m``: the one runner marker that every match of the expression requires.


_NAME = re.compile(r"[\w:+\-.\[\]\\/]+")
_MOST_NAMES = 12


def marked_runner(expression: str, runners: Collection[str]) -> str:
    """Return the runner that ``expression`` requires; empty if it names none.

    Args:
        expression: the argument of ``-m``.
        runners: names of the profiles, each a marker.

    Raises:
        pytest.UsageError: the expression names runners, and requires none or several of them.
    """
    names: list[str] = sorted(set(_NAME.findall(expression)) - {"and", "or", "not"})
    named = [name for name in names if name in runners]
    if not named:
        return ""
    try:
        compiled = Expression.compile(expression)
    except SyntaxError:
        return ""  # pytest itself reports the syntax error
    # All 2^n combinations of marks are tried, so the number of names is bounded; above it the run is refused.
    required = set(named) if len(names) <= _MOST_NAMES else set()
    for values in product((False, True), repeat=len(names)) if required else ():
        marks = {name for name, value in zip(names, values, strict=True) if value}
        if compiled.evaluate(_Marks(marks)):
            required &= marks
    if len(required) != 1:
        # `not cpu` is true of no case that is for cpu alone, so a runner whose own cases match is proposed
        matching = [name for name in sorted(runners) if compiled.evaluate(_Marks({name}))]
        raise pytest.UsageError(
            f"-m {expression!r} names {_listed(named)}, and a run is on one runner; it does not say which\n"
            f"  next: pytest --runner {(matching or named)[0]} -m {expression!r}"
        )
    return required.pop()


def marker_line(name: str) -> str:
    """Return the line that registers runner ``name`` as a marker."""
    return f"{name}: a case for the runner profile runners/{name}.yaml"


def taken_by(name: str, lines: Iterable[str]) -> str:
    """Return the line of ``lines`` with which a plugin, a ``conftest.py`` or the project also registers ``name``.

    Args:
        name: name of a runner.
        lines: pytest's ini setting ``markers`` after all plugins added theirs, such as ``skip(reason=None): ...``.

    Returns:
        The line; an empty string if only quantgate registers the marker.
    """
    return next(
        (
            line
            for line in lines
            if re.split(r"[:(\s]", line.strip(), maxsplit=1)[0] == name and line != marker_line(name)
        ),
        "",
    )


class _Marks(frozenset[str]):
    def __call__(self, name: str, /, **_: str | int | bool | None) -> bool:
        return name in self


def _listed(names: list[str]) -> str:
    return f"{'runners' if len(names) > 1 else 'runner'} {', '.join(names)}"


def skipping_is_asked(config: pytest.Config) -> bool:
    """Return whether ``--allow-missing-runner`` applies: never in CI, where a lane without its device must not pass."""
    return bool(config.getoption("allow_missing_runner")) and not ci_variable(os.environ)
