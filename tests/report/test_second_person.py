"""A run fails in CI; a second person, without that machine, looks at its artifact and accepts; the same case passes."""

from __future__ import annotations

import re
import shlex
import shutil
import zipfile
from html import unescape
from pathlib import Path

from builders import make_limit, make_limits
from command_project import Project

from harness.goldens.store import open_store
from harness.outcomes import Outcome

CASE = "  one: {metrics: [mad]}\n"


def project_at(root: Path) -> Project:
    """The small project of the tests of the pytest door."""
    root.mkdir()
    project = Project(root)
    project.cases(CASE)
    return project


def commit(source: Path, target: Path) -> None:
    """What git carries from one checkout to the other: cases, goldens, limits."""
    for name in ("cases", "goldens", "thresholds"):
        shutil.rmtree(target / name, ignore_errors=True)
        if (source / name).exists():
            shutil.copytree(source / name, target / name)


def give_limits(root: Path) -> None:
    """A limit for mad that a change of six levels breaks."""
    golden = open_store(root / "goldens").find("cpu", "one")[0]
    limit = make_limit(0.5, "mad", direction="lower_is_better")
    file = make_limits(limits=(limit,), golden_digest=golden.digest, identity_digest=golden.manifest.identity.digest())
    file.write(root / "thresholds" / "cpu" / "one.json")


def test_artifact_report_accept_pass(tmp_path: Path) -> None:
    runner = project_at(tmp_path / "runner")
    assert runner.pytest("--run-id", "first").returncode != 0
    assert runner.quantgate("accept", "one", "--reason", "first", "--author", "ann").returncode == 0
    give_limits(runner.root)
    assert runner.pytest("--run-id", "second").returncode == 0

    # A change of the code under test moves every pixel. CI fails, and uploads the run.
    runner.drift(6)
    failed = runner.pytest("--run-id", "failed")
    assert runner.records("failed")["one"].verdict.outcome is Outcome.REGRESSION, failed.stdout
    artifact = Path(shutil.make_archive(str(tmp_path / "artifact"), "zip", runner.root / "runs" / "failed"))

    # The second person has the repository and the artifact. There is nothing here that could generate.
    desk = project_at(tmp_path / "desk")
    commit(runner.root, desk.root)
    desk.program.unlink()
    shutil.rmtree(desk.root / "model")
    with zipfile.ZipFile(artifact) as packed:
        packed.extractall(desk.root / "downloaded")
    done = desk.quantgate("report", "downloaded")
    assert done.returncode == 0, done.stderr
    index = desk.root / done.stdout.strip()
    page = unescape((index.parent / "cases" / "one.html").read_text(encoding="utf-8"))
    assert "mad is 6 at frame" in page
    assert (index.parent / "media" / "one" / "golden-0.webp").is_file()
    line = re.search(r"quantgate accept [^<]+? --reason '\.\.\.'", page)
    assert line is not None
    command = [part if part != "..." else "brighter on purpose" for part in shlex.split(line[0])[1:]]
    accepted = desk.quantgate(*command, "--author", "ben", "--from", str(artifact))
    assert accepted.returncode == 0, accepted.stdout + accepted.stderr

    # Back on the runner, with what the second person committed, the same case passes.
    commit(desk.root, runner.root)
    again = runner.pytest("--run-id", "again")
    assert again.returncode == 0, again.stdout
    assert runner.records("again")["one"].verdict.outcome is Outcome.PASS
