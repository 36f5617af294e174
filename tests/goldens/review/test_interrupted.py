"""An accept that dies at any step is finished or undone by the next command; two at once are safe."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.errors import GoldenError
from harness.frames.clip import read_clip
from harness.goldens.accept import accept
from harness.goldens.folder import FolderStore
from harness.goldens.journal import recover
from harness.goldens.pending import listed
from harness.goldens.workspace import Workspace
from harness.records.limits import LimitFile


class Killed(BaseException):
    """The process ended here, as far as the code under test can tell."""


def killer(step: int) -> Callable[[str], None]:
    """A hook that ends everything at the ``step``-th call."""
    calls = 0

    def hook(_name: str) -> None:
        nonlocal calls
        calls += 1
        if calls > step:
            raise Killed

    return hook


def take(workspace: Workspace, **options: Any) -> str:
    """Accept the pending candidate."""
    extra = {workspace.root / "cases/checkpoints.lock.json": b"new lock"}
    return accept(workspace, "nvfp4", reason="r", author="Bob", extra=extra, **options).digest


@pytest.fixture
def ready(workspace: Workspace, left: Callable, limit_file: Callable) -> tuple[Workspace, str]:
    """A project with a golden, limits and a lock, and a candidate with limits of its own; the golden's digest."""
    left(1, limits=limit_file())
    first = accept(workspace, "nvfp4", reason="first", author="Ada").digest
    (workspace.root / "cases").mkdir()
    (workspace.root / "cases/checkpoints.lock.json").write_bytes(b"old lock")
    left(2, golden=first, limits=limit_file(repeats=7))
    return workspace, first


def state(workspace: Workspace, first: str) -> str:
    """``before`` or ``after`` the accept; anything in between fails."""
    (golden,) = FolderStore(workspace.goldens).find("b200", "nvfp4")
    assert golden.verify() == ()
    limits = LimitFile.read(workspace.limits("b200", "nvfp4"))
    lock = (workspace.root / "cases/checkpoints.lock.json").read_bytes()
    waiting = len(listed(workspace))
    assert limits.golden_digest == golden.digest
    if golden.digest == first:
        assert (limits.repeats, lock, waiting) == (1, b"old lock", 1)
        assert FolderStore(workspace.goldens).digests("b200", "nvfp4") == (first[:16],), "nothing is left over"
        return "before"
    assert (read_clip(golden.open_part("clip")).frames == 2).all()
    assert (limits.repeats, lock, waiting) == (7, b"new lock", 0)
    return "after"


def steps_of(workspace: Workspace) -> list[str]:
    """The steps of an accept, from one that nobody stops, in a copy of the project."""
    names: list[str] = []
    copy = Workspace(workspace.root.with_name("copy"))
    shutil.copytree(workspace.root, copy.root)
    take(copy, hook=names.append)
    return names


def test_a_death_at_every_step_is_finished_or_undone(ready: tuple[Workspace, str], tmp_path: Path) -> None:
    workspace, first = ready
    steps = steps_of(workspace)
    assert len(steps) >= 10
    seen: dict[str, str] = {}
    for number, name in enumerate(steps):
        copy = Workspace(tmp_path / f"copy-{number}")
        shutil.copytree(workspace.root, copy.root)
        with pytest.raises(Killed):
            take(copy, hook=killer(number))
        with copy.locked():
            message = recover(copy)
        seen[name] = state(copy, first)
        assert len(message) == 1
        assert ("finished" in message[0]) == (seen[name] == "after") or name == "journal removed"
        assert list(copy.transactions.iterdir()) == []
        with copy.locked():
            assert recover(copy) == ()
    order = list(seen.values())
    turn = steps.index("journal written")
    assert order == ["before"] * turn + ["after"] * (len(steps) - turn)


def test_deaths_while_recovering_are_recovered_from(ready: tuple[Workspace, str], tmp_path: Path) -> None:
    workspace, first = ready
    turn = steps_of(workspace).index("journal written")
    with pytest.raises(Killed):
        take(workspace, hook=killer(turn))
    for number in range(50):
        try:
            with workspace.locked():
                recover(workspace, killer(number))
            break
        except Killed:
            continue
    assert 0 < number < 50
    assert state(workspace, first) == "after"


def test_next_accept_finishes_the_last_one_first(
    ready: tuple[Workspace, str], left: Callable, limit_file: Callable
) -> None:
    workspace, first = ready
    turn = steps_of(workspace).index("journal written")
    with pytest.raises(Killed):
        take(workspace, hook=killer(turn))
    left(3, case="other")
    done = accept(workspace, "other", reason="r", author="Bob")
    assert len(done.recovered) == 1
    assert "accept nvfp4" in done.recovered[0]
    (golden,) = FolderStore(workspace.goldens).find("b200", "nvfp4")
    assert golden.digest != first


def test_failure_before_the_journal_changes_nothing(ready: tuple[Workspace, str]) -> None:
    workspace, first = ready

    def full(name: str) -> None:
        if name == "before journal":
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        take(workspace, hook=full)
    assert list(workspace.transactions.iterdir()) == []
    assert state(workspace, first) == "before"


def test_file_that_somebody_changed_meanwhile_is_not_overwritten(ready: tuple[Workspace, str]) -> None:
    workspace, first = ready
    turn = steps_of(workspace).index("journal written")
    with pytest.raises(Killed):
        take(workspace, hook=killer(turn))
    path = workspace.limits("b200", "nvfp4")
    before = path.read_bytes()
    path.write_bytes(b"mine")
    with workspace.locked(), pytest.raises(GoldenError, match="somebody else changed it") as caught:
        recover(workspace)
    assert path.read_bytes() == b"mine"
    assert str(path) in str(caught.value)
    path.write_bytes(before)
    with workspace.locked():
        recover(workspace)
    assert state(workspace, first) == "after"


def test_list_that_somebody_changed_meanwhile_is_not_overwritten(ready: tuple[Workspace, str]) -> None:
    workspace, _ = ready
    turn = steps_of(workspace).index("journal written")
    with pytest.raises(Killed):
        take(workspace, hook=killer(turn))
    store = FolderStore(workspace.goldens)
    theirs = store.index("b200", "nvfp4").model_copy(update={"goldens": ()})
    store.set_index(theirs)
    with workspace.locked(), pytest.raises(GoldenError, match="somebody else changed it"):
        recover(workspace)
    assert store.index("b200", "nvfp4") == theirs


def test_damaged_journal_is_said(ready: tuple[Workspace, str]) -> None:
    workspace, _ = ready
    folder = workspace.transactions / "x"
    folder.mkdir(parents=True)
    (folder / "journal.json").write_text("{")
    with workspace.locked(), pytest.raises(GoldenError, match="cannot be finished"):
        recover(workspace)


def _die_for_real(root: str, step: str) -> None:
    def hook(name: str) -> None:
        if name == step:
            os._exit(9)

    take(Workspace(Path(root)), hook=hook)


@pytest.mark.parametrize(("step", "expected"), [("staged golden", "before"), ("after 0 install", "after")])
def test_process_that_is_killed_for_real(ready: tuple[Workspace, str], step: str, expected: str) -> None:
    workspace, first = ready
    job = multiprocessing.get_context("spawn").Process(target=_die_for_real, args=(str(workspace.root), step))
    job.start()
    job.join(60)
    assert job.exitcode == 9
    with workspace.locked():
        assert len(recover(workspace)) == 1
    assert state(workspace, first) == expected


def _accept_one(root: str, case: str, start: Any, message: Any) -> None:
    start.wait()
    try:
        accept(Workspace(Path(root)), case, reason="r", author="Bob")
        message.put("accepted")
    except GoldenError as error:
        message.put(error.message)


def test_two_accepts_of_one_candidate_are_one(workspace: Workspace, left: Callable) -> None:
    left()
    answers = _together(workspace, ["nvfp4", "nvfp4"])
    assert answers.count("accepted") == 1
    assert any("no candidate" in answer for answer in answers)
    assert len(FolderStore(workspace.goldens).find("b200", "nvfp4")) == 1


def test_accepts_of_several_cases_at_once_all_arrive(workspace: Workspace, left: Callable) -> None:
    cases = ["c0", "c1", "c2"]
    for case in cases:
        left(case=case)
    assert _together(workspace, cases) == ["accepted"] * 3
    store = FolderStore(workspace.goldens)
    for case in cases:
        assert store.find("b200", case)[0].verify() == ()
    assert listed(workspace) == ()


def _together(workspace: Workspace, cases: list[str]) -> list[str]:
    context = multiprocessing.get_context("spawn")
    start, message = context.Barrier(len(cases)), context.Queue()
    jobs = [context.Process(target=_accept_one, args=(str(workspace.root), case, start, message)) for case in cases]
    for job in jobs:
        job.start()
    answers = [message.get(timeout=60) for _ in jobs]
    for job in jobs:
        job.join(60)
    return sorted(answers)
