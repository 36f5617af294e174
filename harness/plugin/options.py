"""Every option and ini setting of the pytest door, declared once."""

from __future__ import annotations

import os
import re
from itertools import pairwise
from pathlib import Path

import pytest

FOLDERS = {
    "quantgate_cases": ("cases", "folder of the case files"),
    "quantgate_runners": ("runners", "folder of the runner profiles"),
    "quantgate_thresholds": ("thresholds", "folder of the limit files"),
    "quantgate_goldens": ("goldens", "folder of the goldens"),
    "quantgate_runs": ("runs", "folder that run records are written to"),
}


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
    for name, (default, text) in FOLDERS.items():
        parser.addini(name, f"{text}, relative to the root of the repository", default=default)


def check(config: pytest.Config) -> None:
    """Refuse a run id that leads elsewhere: what an earlier run left of a case below it is removed.

    Raises:
        pytest.UsageError: it is no plain name.
    """
    name = config.option.run_id
    if name is not None and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise pytest.UsageError(f"--run-id {name!r} is no plain name: letters, digits, and _ . - inside, as in shard-1")


def check_plan(config: pytest.Config) -> None:
    """Refuse ``--plan FILE`` where the space misled pytest: it looks for its root before it knows this option.

    Such a file counts there as a test to run, so one that lies elsewhere moves the root, and other tests are collected.

    Raises:
        pytest.UsageError: the file does not lie below the folder that pytest was started in.
    """
    arguments, start = config.invocation_params.args, config.invocation_params.dir
    for option, file in pairwise(map(str, arguments)):
        if option == "--plan" and not Path(os.path.normpath(start / file)).is_relative_to(start):
            raise pytest.UsageError(
                f"--plan {file}: pytest takes a file outside {start} for a test, and its folder for the project\n"
                f"  next: write it with an equals sign, --plan={file}"
            )


def folder(config: pytest.Config, name: str) -> Path:
    """An ini folder, resolved against the root of the repository."""
    return config.rootpath / str(config.getini(name))
