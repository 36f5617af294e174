"""Mutated inputs: whatever a file holds, reading it ends in a value or in one sentence, and changes nothing."""

from __future__ import annotations

import os
import random
import stat
import struct
import tempfile
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from safetensors.numpy import save

from benchmarks.storm import samples
from benchmarks.storm.mutate import CHANGES, misplace
from benchmarks.storm.samples import CASE, ROOT, RUNNER
from benchmarks.storm.trial import NEEDLE, TimeIsUpError, unexpected
from harness.calibrate.renewing import _renamed
from harness.definitions.image import PictureError, decode, read_picture
from harness.definitions.loading import load_cases
from harness.definitions.runner import load_runners
from harness.engine.quantized.headers import read_config, read_headers
from harness.errors import QuantgateError
from harness.formats.config import declaration, parse_json
from harness.formats.gguf_header import read_gguf_header
from harness.formats.header import read_header
from harness.frames.clip import read_clip
from harness.goldens.artifact import held_in
from harness.goldens.golden import read_index, read_manifest
from harness.goldens.journal import recover
from harness.goldens.limits import read_committed
from harness.goldens.pending import listed, read_candidate
from harness.goldens.refusing import _shown
from harness.goldens.store import read_config as read_store
from harness.goldens.workspace import Workspace
from harness.inspector.content import document_digest
from harness.inspector.contracts.model import read_contract_file
from harness.inspector.identity import DigestCache
from harness.inspector.lock import read_lock
from harness.judge.observation import read_observation
from harness.lane.durations import History, read_history
from harness.lane.github import _comments
from harness.lane.looser import pytest_settings
from harness.lane.merge import join_junit
from harness.lane.plan import read_plan
from harness.perf.baseline import load_baseline
from harness.project import Project
from harness.reading import read_foreign
from harness.records.attribution import Experiments
from harness.records.candidate import SHOWN_FILE
from harness.records.case_record import CaseRecord
from harness.records.contents import WeightContents
from harness.records.generation import Trace
from harness.records.golden import AcceptedIndex
from harness.records.inspection import InspectionReport
from harness.records.perf_file import PerfFile
from harness.report.history import store
from harness.report.load import load_run
from harness.session.programs import _imports
from harness.trial.bisecting import Tried, read_log
from harness.trial.trying import patch

LONGEST_SENTENCE = 4000
LONGEST_LIST = 60_000


class Reader(NamedTuple):
    """A reader of one kind of file."""

    name: str
    place: str
    """Path of the file below the trial's folder."""
    make: Callable[[], bytes]
    """A sound file."""
    read: Callable[[Path, Path], Any]
    """Read it; arguments: the trial's folder and the file."""
    errors: tuple[type[Exception], ...] = (QuantgateError, OSError)
    misplaced: bool = True
    """Whether pipes, folders and links are tried in its place."""
    keeps: bool = True
    """Whether reading must leave the file as it is. A torn last line of a log is cut off on purpose."""
    names: bool = False
    """Whether an error must quote names from the file: of files, or of the case and runner that it belongs to."""
    lists: bool = False
    """Whether the error lists several problems, a line each: files that a person writes by hand."""


def attack(rng: random.Random, folder: Path) -> tuple[str, str]:
    """Damage one file of one kind and read it."""
    reader = rng.choice(READERS)
    path = folder / reader.place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(reader.make())
    if reader.misplaced and rng.random() < 0.05:
        name = misplace(rng, path)
    else:
        change = rng.choice(CHANGES)
        name = change.__name__
        data = change(rng, path.read_bytes())
        if rng.random() < 0.3:
            data = rng.choice(CHANGES)(rng, data)
        path.write_bytes(data)
    before = _state(path)
    message = f"{reader.name}: {name}"
    try:
        reader.read(folder, path)
    except (Exception, TimeIsUpError) as error:
        if not isinstance(error, reader.errors):
            return message, unexpected(error)
        text = str(error)
        if NEEDLE in text and not reader.names:
            return message, f"the error quotes the file: {text[:200]}"
        if len(text) > (LONGEST_LIST if reader.lists else LONGEST_SENTENCE):
            return message, f"the error has {len(text)} characters"
        if isinstance(error, QuantgateError) and "\n" in error.message.strip() and not reader.lists:
            return message, f"the error is no single sentence: {error.message[:200]!r}"
    if reader.keeps and _state(path) != before:
        return message, "reading changed the file"
    return message, ""


def _state(path: Path) -> tuple[int, int, bytes]:
    state = path.lstat()
    content = path.read_bytes() if stat.S_ISREG(state.st_mode) and state.st_size < 1 << 24 else b""
    return stat.S_IFMT(state.st_mode), state.st_size, content


def _golden(name: str) -> bytes:
    (folder,) = (path.parent for path in (ROOT / "goldens/cpu/nvfp4").glob("*/manifest.json"))
    return (folder / name).read_bytes()


@cache
def made(kind: str) -> bytes:
    """Return the bytes of a file that needs a folder to be made."""
    with tempfile.TemporaryDirectory(prefix="storm-made-") as text:
        folder = Path(text)
        workspace = Workspace(folder / "project")
        if kind in ("candidate", "artifact"):
            pending = samples.pending(workspace, 1, samples.limits())
            if kind == "candidate":
                return (pending / "candidate.json").read_bytes()
            with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
                for path in sorted(pending.iterdir()):
                    archive.write(path, f"run/{CASE}/{path.name}")
            return (folder / "a.zip").read_bytes()
        if kind == "history database":
            with store.open_history(folder / "h.sqlite") as history:
                history.add([samples.record()])
            return (folder / "h.sqlite").read_bytes()
        if kind == "picture":
            Image.fromarray(np.arange(48 * 32 * 3, dtype=np.uint8).reshape(32, 48, 3)).save(folder / "p.png")
            return (folder / "p.png").read_bytes()
        if kind == "weights":
            return save({"a.weight": np.zeros((4, 4), np.float32)}, metadata={"format": "pt"})
    raise ValueError(kind)


@cache
def _gguf() -> bytes:
    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + text("general.architecture") + struct.pack("<I", 8) + text("wan")
    head += text("a.weight") + struct.pack("<IQQIQ", 2, 32, 4, 0, 0)
    return head + b"\0" * (-len(head) % 32) + b"\0" * (32 * 4 * 4)


def _database(_folder: Path, path: Path) -> None:
    with store.open_history(path) as history:
        for case, runner in history.cases():
            history.points(case, runner=runner)
            history.records(case, runner)


def _junit(folder: Path, path: Path) -> None:
    problems = join_junit([path], [("cases/a.yaml::b", "no record")], folder / "out.xml", plan="p")
    if any(NEEDLE in problem for problem in problems):
        raise ValueError("a problem quotes the file")


def _journal(folder: Path, path: Path) -> None:
    victim = folder / "victim"
    victim.mkdir()
    (victim / "kept").touch()
    workspace = Workspace(folder / "project")
    try:
        with workspace.locked():
            recover(workspace)
    finally:
        if not (victim / "kept").exists():
            raise ValueError("something outside of the project was deleted")
    del path


def _pending(folder: Path, path: Path) -> None:
    for item in listed(Workspace(folder / "project")):
        str(item.fault)
    read_candidate(path.parent)


def _shown_list(folder: Path, _path: Path) -> None:
    tuple(_shown(Workspace(folder / "project"), None))


def _of_file(read: Callable[..., Any]) -> Callable[[Path, Path], None]:
    """Adapt a reader of headers, which reads by offset."""

    def reads(_folder: Path, path: Path) -> None:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            read(path.name, os.fstat(handle).st_size, lambda start, size: os.pread(handle, size, start))
        finally:
            os.close(handle)

    return reads


def _settings(folder: Path, _path: Path) -> None:
    pytest_settings(folder)
    _ = Project.of_repository(folder).root


_LIMITS = f"project/thresholds/{RUNNER}/{CASE}.json"
_STATE = "project/.quantgate"
READERS: tuple[Reader, ...] = (
    Reader("record", "record.json", lambda: samples.record().to_json().encode(), lambda _, p: CaseRecord.read(p)),
    Reader(
        "run", f"run/{CASE}/record.json", lambda: samples.record().to_json().encode(), lambda f, _: load_run(f / "run")
    ),
    Reader("plan", "plan.json", lambda: samples.plan().to_json().encode(), lambda _, p: read_plan(p)),
    Reader(
        "history",
        "history.json",
        lambda: History().with_records([samples.record()]).to_json().encode(),
        lambda _, p: read_history([p]),
    ),
    Reader("history database", "h.sqlite", lambda: made("history database"), _database, keeps=False, misplaced=False),
    Reader("limits", _LIMITS, lambda: samples.limits().to_json().encode(), lambda _, p: read_committed(p)),
    Reader(
        "limits to carry over",
        "limits.json",
        lambda: samples.limits().to_json().encode(),
        lambda _, p: _renamed(p.read_bytes().decode("utf-8", "replace"), {"0" * 64: "1" * 64}),
        misplaced=False,
    ),
    Reader(
        "baseline",
        f"t/{RUNNER}/{CASE}.perf.json",
        lambda: samples.baseline().to_json().encode(),
        lambda f, _: load_baseline(f / "t", RUNNER, CASE),
        names=True,
    ),
    Reader("baseline record", "x.perf.json", lambda: samples.baseline().to_json().encode(),
           lambda _, p: PerfFile.read(p)),
    Reader("lock", "lock.json", lambda: (ROOT / "cases/checkpoints.lock.json").read_bytes(), lambda _, p: read_lock(p)),
    Reader(
        "manifest",
        "manifest.json",
        lambda: _golden("manifest.json"),
        lambda _, p: read_manifest(p, "cpu", CASE, "", remedy="r"),
        names=True,
    ),
    Reader(
        "accepted goldens",
        "accepted.json",
        lambda: AcceptedIndex(case=CASE, runner=RUNNER).to_json().encode(),
        lambda _, p: read_index(p, RUNNER, CASE, remedy="r"),
        names=True,
    ),
    Reader("store", "store.json", lambda: b'{"schema_version": 1}', lambda f, _: read_store(f)),
    Reader("candidate", f"{_STATE}/pending/{RUNNER}/{CASE}/candidate.json", lambda: made("candidate"), _pending),
    Reader("artifact", "a.zip", lambda: made("artifact"), lambda _, p: held_in(p)),
    Reader("shown candidates", f"{_STATE}/report/{SHOWN_FILE}", lambda: b'{"s": "cases/a.html"}', _shown_list),
    Reader(
        "journal",
        f"{_STATE}/transactions/t/journal.json",
        lambda: (
            b'{"message": "w", "operations": [{"kind": "discard", "folder": "../victim", "seal": "s"},'
            b' {"kind": "write", "target": "cases/x", "staged": "00", "before": null, "after": null}]}'
        ),
        _journal,
        keeps=False,
    ),
    Reader("clip", "clip.safetensors", lambda: _golden("clip.safetensors"), lambda _, p: read_clip(p)),
    Reader("probes", "probes.safetensors", lambda: _golden("probes.safetensors"), lambda _, p: read_observation(p)),
    Reader("trace", "trace.json", lambda: _golden("trace.json"), lambda _, p: Trace.read(p)),
    Reader("contents", "contents.json", lambda: _golden("contents.json"), lambda _, p: WeightContents.read(p)),
    Reader("experiments", "experiments.json",
           lambda: b'{"schema_version": 1, "results": [], "budget": 1.0, "seconds": 0.0}',
           lambda _, p: Experiments.read(p)),
    Reader("proof", "proof.json", lambda: samples.record().inspection.to_json().encode(),  # type: ignore[union-attr]
           lambda _, p: InspectionReport.read(p)),
    Reader("digest cache", "d.json", lambda: b'{"/a|1|2": "' + b"0" * 64 + b'"}', lambda _, p: DigestCache(p)),
    Reader("junit", "junit.xml",
           lambda: b"<testsuites><testsuite name='s'><testcase classname='a' name='b'/></testsuite></testsuites>",
           _junit),
    Reader("bisect log", "bisect.jsonl",
           lambda: Tried(key="k", fields=("a",), answer="green", why="w").model_dump_json().encode() + b"\n",
           lambda _, p: read_log(p), keeps=False),
    Reader("case file", "cases/a.yaml", lambda: (ROOT / "cases/tiny.yaml").read_bytes(),
           lambda f, p: load_cases([p], f), lists=True),
    Reader("runner", "runners/b200.yaml", lambda: (ROOT / "runners/b200.yaml").read_bytes(),
           lambda f, _: load_runners(f / "runners"), lists=True),
    Reader("contract", "c.yaml", lambda: (ROOT / "harness/inspector/contracts/sglang.yaml").read_bytes(),
           lambda _, p: read_contract_file(p)),
    Reader("pyproject", "pyproject.toml", lambda: b'[tool.quantgate]\nroot = "."\n[tool.pytest.ini_options]\na = 1\n',
           _settings),
    Reader("pytest.ini", "pytest.ini", lambda: b"[pytest]\naddopts = -q\n", _settings),
    Reader("picture", "p.png", lambda: made("picture"), lambda _, p: decode(read_picture(p), 48, 32),
           (QuantgateError, OSError, PictureError)),
    Reader("safetensors header", "w.safetensors", lambda: made("weights"), _of_file(read_header)),
    Reader("GGUF header", "w.gguf", _gguf, _of_file(read_gguf_header)),
    Reader("weights", "m/diffusion_pytorch_model.safetensors", lambda: made("weights"),
           lambda f, _: read_headers(f / "m")),
    Reader("weights index", "m/diffusion_pytorch_model.safetensors.index.json",
           lambda: b'{"metadata": {}, "weight_map": {"a.weight": "a.safetensors"}}',
           lambda f, _: read_headers(f / "m"), names=True),
    Reader("checkpoint config", "m/config.json", lambda: (ROOT / "tiny/weights/transformer/config.json").read_bytes(),
           lambda f, _: read_config(f / "m")),
    Reader("quantization config", "q.json", lambda: b'{"quant_method": "modelopt", "ignore": ["a"]}',
           lambda _, p: declaration(parse_json(p.read_bytes(), "q"), "config.json"), misplaced=False),
    Reader("document", "d.json", lambda: b'{"_class_name": "X", "a": [1, 2.0]}',
           lambda _, p: document_digest("config.json", p.read_bytes()), misplaced=False),
    Reader("configuration of others", "o.json", lambda: b'{"a": [1, 2.0]}', lambda _, p: read_foreign(p)),
    Reader("answer of gh", "gh.json", lambda: b'[[{"id": 1, "user": {"login": "a"}, "body": "b"}]]',
           lambda _, p: _comments(p.read_bytes().decode("utf-8", "replace")), misplaced=False),
    Reader("source of a program", "program.py", lambda: b"import os\nfrom lib import kernels\nfrom . import near\n",
           lambda f, p: list(_imports(p, f))),
    Reader("case file that gets a patch", "cases/a.yaml", lambda: (ROOT / "cases/tiny.yaml").read_bytes(),
           lambda f, p: patch(p, "nvfp4", {"model": {"path": "./b"}}, f)),
)  # fmt: skip
