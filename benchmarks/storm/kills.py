"""Kills: a process that dies while it writes leaves the old file or the new file, and the next command cleans up.

A trial forks a child that runs one writer. The child is killed (SIGKILL) at a chosen system call of the writer, or at a
random moment, or a call fails in it (no space, input/output error, Ctrl-C). Then the parent reads the state, runs the
writer again and looks for leftovers.
"""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.storm import samples
from benchmarks.storm.samples import CASE, RUNNER
from harness.errors import QuantgateError
from harness.frames.clip import read_clip
from harness.goldens.accept import accept
from harness.goldens.folder import FolderStore
from harness.goldens.journal import recover
from harness.goldens.pending import listed, part_files, read_candidate, reject
from harness.goldens.workspace import Workspace
from harness.inspector.identity import DigestCache
from harness.inspector.lock import read_lock
from harness.lane.durations import History, read_history
from harness.lane.merge import join_junit
from harness.reading import parse_xml
from harness.records.case_record import CaseRecord
from harness.records.inspection import CheckpointLock
from harness.records.limits import LimitFile
from harness.report.history import store
from harness.report.render import render_run

CALLS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.truncate", "os.chmod", "os.utime")
"""System calls that Python announces (`sys.audit`) and that a writer makes."""
WORK = (".quantgate/leaving", ".quantgate/transactions", "goldens/.work")
"""Folders in which commands prepare their files; each command leaves no folder in them."""
SLOWEST = 0.08
"""Longest time after which a kill at a random moment comes, in seconds."""


class Writer(NamedTuple):
    """A writer of one kind of file."""

    name: str
    prepare: Callable[[Path], object]
    """Make the state before, in an empty folder."""
    write: Callable[[Path], object]
    check: Callable[[Path], str]
    """Return ``old`` or ``new``; anything else, and any error, is a failure."""
    clean: Callable[[Path], object] | None = None
    """The next command; ``None``: the writer itself, again."""


def attack(rng: random.Random, folder: Path) -> tuple[str, str]:
    """Interrupt one writer once."""
    writer = rng.choice(WRITERS)
    writer.prepare(folder)
    way = rng.choice(("killed at a call", "killed at a call", "killed at a moment", "no space", "disk error", "ctrl-c"))
    message = f"{writer.name}: {way}"
    place = rng.randrange(1, 60)
    child = os.fork()
    if child == 0:
        _child(writer, folder, way, place)
    if way == "killed at a moment":
        time.sleep(rng.random() * SLOWEST)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) not in (0, 3):
        return message, f"the writer ended with {os.WEXITSTATUS(status)}, and not with one sentence"
    state = writer.check(folder)
    if state not in ("old", "new"):
        return message, f"torn: {state}"
    (writer.clean or writer.write)(folder)
    if writer.check(folder) not in ("old", "new"):
        return message, "torn after the next command"
    left = [path.name for path in folder.rglob("*") if path.name.endswith(".tmp")]
    left += [str(path.relative_to(folder)) for name in WORK for path in folder.glob(f"project/{name}/*/")]
    return message, f"left over after the next command: {left[0]}" if left else ""


def _child(writer: Writer, folder: Path, way: str, place: int) -> None:
    """Run the writer in the forked child and end the child: 0 finished, 3 refused in one sentence, 4 otherwise."""
    code = 4
    try:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        _watch(folder, way, place)
        try:
            writer.write(folder)
            code = 0
        except (QuantgateError, OSError, KeyboardInterrupt):
            code = 3
    finally:
        os._exit(code)


def _watch(folder: Path, way: str, place: int) -> None:
    """Let the ``place``-th system call below ``folder`` end the process, or fail in it."""
    if way == "killed at a moment":
        return
    count, root = 0, str(folder)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event not in CALLS and not event.startswith("sqlite3."):
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        if event != "open" or root in str(arguments[0]) or not str(arguments[0]).startswith("/"):
            count += 1
            if count != place:
                return
            if way == "killed at a call":
                os.kill(os.getpid(), signal.SIGKILL)
            if way == "ctrl-c":
                raise KeyboardInterrupt
            number = errno.ENOSPC if way == "no space" else errno.EIO
            raise OSError(number, os.strerror(number), str(arguments[0]))

    sys.addaudithook(hook)


def _record(number: int) -> CaseRecord:
    return samples.record().model_copy(update={"attempt": number})


def _which(value: object, old: object, new: object) -> str:
    return "old" if value == old else "new" if value == new else "neither the old nor the new content"


def _workspace(folder: Path) -> Workspace:
    return Workspace(folder / "project")


def _lock_path(folder: Path) -> Path:
    return folder / "project/cases/checkpoints.lock.json"


def _before_accept(folder: Path) -> None:
    workspace = _workspace(folder)
    samples.pending(workspace, 1, samples.limits())
    first = accept(workspace, CASE, reason="first", author="Ada").digest
    (folder / "first").write_text(first)
    _lock_path(folder).parent.mkdir()
    _lock_path(folder).write_bytes(b"old lock")
    samples.pending(workspace, 2, samples.limits(repeats=7), golden=first)


def _accept(folder: Path) -> None:
    accept(_workspace(folder), CASE, reason="r", author="Bob", extra={_lock_path(folder): b"new lock"})


def _accepted(folder: Path) -> str:
    """The state of the project once the next command has finished or undone the interrupted one."""
    workspace = _workspace(folder)
    with workspace.locked():
        recover(workspace)
    (golden,) = FolderStore(workspace.goldens).find(RUNNER, CASE)
    if golden.verify():
        return "the golden is damaged"
    limits = LimitFile.read(workspace.limits(RUNNER, CASE))
    fill = int(read_clip(golden.open_part("clip")).frames[0, 0, 0, 0])
    facts = (limits.golden_digest == golden.digest, limits.repeats, _lock_path(folder).read_bytes(), fill)
    return _which((*facts, len(listed(workspace))), (True, 1, b"old lock", 1, 1), (True, 7, b"new lock", 2, 0))


def _accept_again(folder: Path) -> None:
    if listed(_workspace(folder)):
        _accept(folder)


def _pending_state(folder: Path) -> str:
    workspace = _workspace(folder)
    path = workspace.pending(RUNNER, CASE)
    if not path.exists():
        return "old"  # between two renames there is no candidate, and the next run leaves it again
    candidate = read_candidate(path)
    fill = int(read_clip(part_files(path, candidate)["clip"]).frames[0, 0, 0, 0])
    return _which(fill, 1, 2)


def _reject(folder: Path) -> None:
    if listed(_workspace(folder)):
        reject(_workspace(folder), CASE)


def _rejected(folder: Path) -> str:
    waiting = listed(_workspace(folder))
    if waiting and waiting[0].fault:
        return f"a candidate with a fault: {waiting[0].fault}"
    return "old" if waiting else "new"


def _add_to_history(folder: Path) -> None:
    with store.open_history(folder / "h.sqlite") as history:
        history.add([_record(number) for number in range(2, 6)])


def _history_state(folder: Path) -> str:
    with store.open_history(folder / "h.sqlite") as history:
        count = len(history.records(CASE, RUNNER))
    return _which(count, 1, 5)


def _first_history(folder: Path) -> None:
    with store.open_history(folder / "h.sqlite") as history:
        history.add([_record(1)])


def _cache_state(folder: Path) -> str:
    text = (folder / "digests.json").read_text()
    return _which(len(json.loads(text)), 1, 2)


def _digest(folder: Path, name: str) -> None:
    if not (folder / name).exists():  # another time of change would be another entry
        (folder / name).write_bytes(name.encode())
    cache = DigestCache(folder / "digests.json")
    cache.digest(folder / name)
    cache.save()


def _junit_state(folder: Path) -> str:
    root = parse_xml((folder / "junit.xml").read_bytes(), "junit.xml")
    return _which(len(list(root.iter("testcase"))), 1, 3)


def _join(folder: Path, count: int) -> None:
    join_junit([], [(f"cases/a.yaml::c{number}", "no record") for number in range(count)], folder / "junit.xml")


def _report_state(folder: Path) -> str:
    index = folder / "run/report/index.html"
    if not index.is_file():
        # the folder is replaced by two renames: between them there is none, and it is rendered again
        return "old"
    text = index.read_text()
    return "old" if text.rstrip().endswith("</html>") else "a page is cut"


def _run(folder: Path) -> None:
    _record(1).write(folder / f"run/{CASE}/record.json")
    render_run(folder / "run")


def _write_lock(folder: Path, name: str) -> None:
    lock = CheckpointLock.model_validate({"cases": {CASE: {"model": {"source": name, "digests": {"a": "0" * 64}}}}})
    lock.write(folder / "lock.json")


WRITERS: tuple[Writer, ...] = (
    Writer(
        "record",
        lambda folder: _record(1).write(folder / "record.json"),
        lambda folder: _record(2).write(folder / "record.json"),
        lambda folder: _which(CaseRecord.read(folder / "record.json").attempt, 1, 2),
    ),
    Writer(
        "limits",
        lambda folder: samples.limits().write(folder / "limits.json"),
        lambda folder: samples.limits(repeats=7).write(folder / "limits.json"),
        lambda folder: _which(LimitFile.read(folder / "limits.json").repeats, 1, 7),
    ),
    Writer(
        "lock of the checkpoints",
        lambda folder: _write_lock(folder, "old"),
        lambda folder: _write_lock(folder, "new"),
        lambda folder: _which(read_lock(folder / "lock.json").cases[CASE]["model"].source, "old", "new"),
    ),
    Writer(
        "times of earlier runs",
        lambda folder: History().write(folder / "h.json"),
        lambda folder: History().with_records([_record(1)]).write(folder / "h.json"),
        lambda folder: _which(len(read_history([folder / "h.json"]).runners), 0, 1),
    ),
    Writer("accept", _before_accept, _accept, _accepted, _accept_again),
    Writer(
        "pending candidate",
        lambda folder: samples.pending(_workspace(folder), 1),
        lambda folder: samples.pending(_workspace(folder), 2),
        _pending_state,
    ),
    Writer(
        "reject",
        lambda folder: samples.pending(_workspace(folder), 1),
        _reject,
        _rejected,
        lambda folder: samples.pending(_workspace(folder), 2),
    ),
    Writer("history database", _first_history, _add_to_history, _history_state),
    Writer("digest cache", lambda folder: _digest(folder, "a"), lambda folder: _digest(folder, "b"), _cache_state),
    Writer("junit", lambda folder: _join(folder, 1), lambda folder: _join(folder, 3), _junit_state),
    Writer("report", _run, lambda folder: render_run(folder / "run"), _report_state),
)
