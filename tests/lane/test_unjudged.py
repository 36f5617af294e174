"""A case that was selected and never judged is named, whoever lost it: it is never green, and nothing else is said."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from harness.outcomes import Outcome

if TYPE_CHECKING:
    from conftest import Project

FOUR = {"a": ("m1", "pass"), "k": ("m2", "kill_once"), "b": ("m3", "pass"), "c": ("m4", "pass")}


def outcomes(project: Project) -> dict[str, str]:
    """Outcome by case."""
    return {name: record.verdict.outcome.value for name, record in project.records().items()}


def junit(project: Project) -> dict[str, str]:
    """Outcome by test, of a file that names each test once."""
    found = {}
    for case in ET.parse(project.root / "junit.xml").iter("testcase"):  # noqa: S314 - written by the test itself
        name = str(case.get("name"))
        assert name not in found
        found[name] = next((child.tag for child in case if child.tag in ("error", "failure", "skipped")), "passed")
    return found


def table(text: str) -> dict[str, str]:
    """Outcome by case, of the printed table."""
    return {case: outcome for outcome, case in re.findall(r"^([a-z_]+) +([a-z0-9]+) +[0-9.]+ s", text, re.M)}


def test_a_worker_that_is_not_replaced_leaves_no_green_run(project: Project) -> None:
    project.write_cases(FOUR)
    done = project.pytest("-n", "2", "--max-worker-restart=0", "--junitxml", "junit.xml")
    message = outcomes(project)
    assert sorted(message) == sorted(FOUR)
    assert message["k"] == "infra"
    assert set(message.values()) <= {"pass", "infra", "not_run"}
    assert done.returncode == 18, done.stdout
    assert project.records()["k"].attempt == 1
    assert "before it was tried once more" in project.records()["k"].verdict.summary
    assert table(done.stdout) == message
    assert junit(project) == {name: "passed" if one == "pass" else "error" for name, one in message.items()}


def test_more_dead_workers_than_xdist_replaces(project: Project) -> None:
    """xdist replaces four a worker; the fifth death ends the run, and the case behind it never ran."""
    project.write_cases({**{f"k{index}": ("m1", "kill_once") for index in range(5)}, "last": ("m2", "pass")})
    done = project.pytest("-n", "1", "--junitxml", "junit.xml")
    message = outcomes(project)
    assert done.returncode == 18, done.stdout
    assert sorted(message.values()) == ["infra", "not_run", "pass", "pass", "pass", "pass"]
    assert message["last"] == "not_run"
    assert table(done.stdout) == message
    again = project.pytest("--collect-only", "-q", "--lf")
    assert {line.partition("::")[2] for line in again.stdout.splitlines() if "::" in line} == {
        name for name, one in message.items() if one != "pass"
    }


def test_a_run_that_stops_at_its_first_failure_says_what_it_left_out(project: Project) -> None:
    project.write_cases({"a": ("m1", "pass"), "b": ("m1", "fail"), "c": ("m1", "pass"), "d": ("m1", "pass")})
    done = project.pytest("-x", "--junitxml", "junit.xml")
    assert done.returncode == 10, done.stdout  # the worst of them
    assert outcomes(project) == {"a": "pass", "b": "regression", "c": "not_run", "d": "not_run"}
    assert table(done.stdout) == outcomes(project)
    assert "1 failed, 1 passed, 2 not_run" in done.stdout
    assert "ERROR" not in done.stdout
    assert junit(project) == {"a": "passed", "b": "failure", "c": "error", "d": "error"}
    again = project.pytest("--collect-only", "-q", "--lf")  # as pytest has it: what failed
    assert [line.partition("::")[2] for line in again.stdout.splitlines() if "::" in line] == ["b"]


def test_workers_stop_at_the_first_failure_too(project: Project) -> None:
    names = dict.fromkeys(("one", "three", "four", "five"), ("m1", "pass"))
    project.write_cases({"bad": ("m1", "fail"), **names})
    done = project.pytest("-x", "-n", "1", "--junitxml", "junit.xml")
    assert done.returncode == 2, done.stdout  # pytest's own, as without cases
    message = outcomes(project)
    assert sorted(message) == sorted(["bad", *names])
    assert "not_run" in message.values()
    assert table(done.stdout) == message


def test_what_was_not_selected_is_not_missed(project: Project) -> None:
    project.write_cases({"one": ("m1", "pass"), "two": ("m1", "fail"), "three": ("m1", "pass")})
    assert project.pytest("-k", "one or two").returncode == 10
    assert outcomes(project) == {"one": "pass", "two": "regression"}
    failed = project.pytest("--lf", "-n", "1")
    assert failed.returncode == 10
    assert "1 case on runner b200: 1 regression" in failed.stdout
    assert "not_run" not in failed.stdout
    project.write_cases({"one": ("m1", "pass"), "two": ("m1", "pass"), "three": ("m1", "pass")})
    assert project.pytest("--lf").returncode == 0
    assert project.pytest("--collect-only").returncode == 0


@pytest.mark.parametrize("workers", [(), ("-n", "1")])
def test_an_interrupted_run_keeps_what_it_has(project: Project, workers: tuple[str, ...]) -> None:
    project.write_cases({"a": ("m1", "pass"), "h": ("m1", "wait"), "c": ("m1", "pass")})
    run = subprocess.Popen(
        [sys.executable, "-m", "pytest", "--runner", "b200", "--run-id", "r", *workers],
        cwd=project.root,
        env=project.environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    while not (project.root / "runs/r/h/pids").exists():
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    text, _ = run.communicate(timeout=60)
    assert run.returncode == 2, text
    assert "INTERNALERROR" not in text
    assert outcomes(project) == {"a": "pass", "h": "not_run", "c": "not_run"}
    assert table(text) == outcomes(project)


TAMPERING = """
import pytest

def pytest_collection_modifyitems(items):
    for item in items:
        if item.name == "marked":
            item.add_marker(pytest.mark.skip(reason="by hand"))
        if item.name == "excused":
            item.add_marker(pytest.mark.xfail(reason="some day"))
    items[:] = [item for item in items if item.name != "dropped"]

def pytest_runtest_setup(item):
    if item.name == "stopped":
        pytest.skip("not today")

def pytest_runtest_protocol(item):
    return True if item.name == "swallowed" else None
"""


@pytest.mark.parametrize("workers", [(), ("-n", "2")])
def test_a_case_that_a_plugin_or_a_conftest_switches_off_is_red(project: Project, workers: tuple[str, ...]) -> None:
    (project.root / "conftest.py").write_text(TAMPERING)
    names = ("marked", "dropped", "stopped", "swallowed", "healthy")
    project.write_cases({**dict.fromkeys(names, ("m1", "pass")), "excused": ("m1", "fail")})
    project.write_cases({"nested": ("m1", "pass")}, file="x.yaml")
    (project.root / "cases/build/.hidden").mkdir(parents=True)
    (project.root / "cases/x.yaml").rename(project.root / "cases/build/.hidden/X.YAML")
    done = project.pytest("--junitxml", "junit.xml", *workers)
    assert done.returncode == 10, done.stdout
    off = dict.fromkeys(("marked", "dropped", "stopped", "swallowed"), "not_run")
    message = {**off, "healthy": "pass", "nested": "pass", "excused": "regression"}
    assert outcomes(project) == message
    assert table(done.stdout) == message
    assert "by hand" in project.records()["marked"].verdict.summary
    assert "took it out" in project.records()["dropped"].verdict.summary
    assert {name for name, one in junit(project).items() if one == "passed"} == {"healthy", "nested"}
    if not workers:
        left_in = project.pytest("-k", "healthy or nested", "--deselect", "cases/build")
        assert left_in.returncode == 0, left_in.stdout  # what the command itself leaves out is not missed
        assert "1 case on runner b200: 1 pass" in left_in.stdout


def test_a_file_that_a_conftest_hides_is_missed(project: Project) -> None:
    hide = "import pytest\n\n@pytest.hookimpl(tryfirst=True)\ndef pytest_ignore_collect(collection_path):\n"
    (project.root / "conftest.py").write_text(f"{hide}    return collection_path.name == 'b.yaml' or None\n")
    project.write_cases({"seen": ("m1", "pass")})
    project.write_cases({"unseen": ("m1", "pass")}, file="b.yaml")
    done = project.pytest()
    assert (done.returncode, outcomes(project)) == (20, {"seen": "pass", "unseen": "not_run"}), done.stdout
    assert project.pytest("--ignore", "cases/b.yaml").returncode == 0


def test_a_runner_with_the_name_of_a_mark_is_refused(project: Project) -> None:
    (project.root / "conftest.py").write_text(
        "def pytest_configure(config):\n    config.addinivalue_line('markers', 'b200(reason): needs a big GPU')\n"
    )
    project.write_cases({"a": ("m1", "pass")})
    for workers in ((), ("-n", "1")):
        done = project.pytest(*workers)
        assert done.returncode == 17, done.stdout
        assert "runners/b200.yaml: runner 'b200' has the name of a pytest mark" in done.stdout + done.stderr
        assert not project.records()
    (project.root / "test_other.py").write_text("def test_it():\n    pass\n")
    assert project.pytest("test_other.py").returncode == 0  # no cases, no complaint


def test_a_linked_case_file_is_refused_by_pytest_and_by_the_commands(project: Project) -> None:
    project.write_cases({"a": ("m1", "pass")})
    (project.root / "elsewhere").mkdir()
    (project.root / "cases/more").symlink_to(project.root / "elsewhere")
    done = project.pytest()
    assert done.returncode == 17, done.stdout
    assert "cases/more: a link to a folder" in done.stdout + done.stderr
    listed = project.run("quantgate", "cases")
    assert (listed.returncode, "cases/more: a link to a folder" in listed.stderr) == (17, True), listed.stderr


def test_a_link_in_the_place_of_the_folder_of_cases_is_refused(project: Project) -> None:
    """A commit holds the link alone: the next plan would find no case in its base, and nothing to give a reason for."""
    project.write_cases({"a": ("m1", "pass")})
    (project.root / "cases").rename(project.root / "moved")
    (project.root / "cases").symlink_to(project.root / "moved")
    done = project.pytest()
    assert done.returncode == 17, done.stdout
    listed = project.run("quantgate", "cases")
    assert (listed.returncode, "cases: a link to a folder" in listed.stderr) == (17, True), listed.stderr


def test_a_failure_that_is_not_a_verdict_stays_pytests_own(project: Project) -> None:
    (project.root / "conftest.py").write_text(
        "def pytest_runtest_setup(item):\n    if item.name == 'b':\n        raise RuntimeError('mine')\n"
    )
    project.write_cases({"a": ("m1", "pass"), "b": ("m1", "pass")})
    done = project.pytest("--junitxml", "junit.xml")
    assert done.returncode == 1, done.stdout
    assert outcomes(project)["b"] == Outcome.NOT_RUN
    assert junit(project) == {"a": "passed", "b": "error"}


@pytest.mark.parametrize("workers", [(), ("-n", "2")])
def test_a_bad_case_file_ends_alike_with_and_without_workers(project: Project, workers: tuple[str, ...]) -> None:
    project.write_cases({"a": ("m1", "pass")})
    (project.root / "cases/b.yaml").write_text("cases: {x: {widht: 1}}\n")
    done = project.pytest(*workers)
    assert done.returncode == 17, done.stdout
    assert "widht" in done.stdout
    assert "INTERNALERROR" not in done.stdout
    assert not project.records()


def test_junit_that_cannot_be_written_makes_a_green_run_red(project: Project) -> None:
    project.write_cases({"a": ("m1", "pass")})
    done = project.pytest("--junitxml", "/dev/full")
    assert (done.returncode, outcomes(project)) == (18, {"a": "pass"}), done.stdout
    assert "such as JUnit, could not be written" in done.stdout
