"""Poisoned artifacts: what a lane uploads changes nothing outside of its place and makes nothing green."""

from __future__ import annotations

import hashlib
import io
import json
import random
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from benchmarks.storm import samples
from benchmarks.storm.inputs import made
from benchmarks.storm.mutate import CHANGES, flip, restructure, truncate
from benchmarks.storm.samples import CASE, RUNNER
from harness.definitions.case import Case
from harness.errors import QuantgateError
from harness.frames.clip import Clip
from harness.goldens.accept import accept
from harness.goldens.folder import FolderStore
from harness.goldens.refusing import Allow
from harness.goldens.workspace import Workspace
from harness.lane.merge import merge
from harness.lane.plan import request_digest
from harness.outcomes import Outcome
from harness.records.candidate import Candidate
from harness.records.case_record import CaseRecord
from harness.records.frames import ComparisonEvidence
from harness.records.golden import Part

Files = dict[str, bytes]
EVERYTHING = Allow(**dict.fromkeys(Allow.__dataclass_fields__, True))
"""A person who was not shown the clip is refused before: here every such question is answered with yes."""
NAMES = ("../x", "/etc/x", "a/../../x", "..\\..\\x", "C:\\x", "", "./", "a\0b", "goldens/x", ".git/hooks/pre-commit")


def attack(rng: random.Random, folder: Path) -> tuple[str, str]:
    """Poison a candidate that somebody accepts, or the shards that a merge joins."""
    return _candidate(rng, folder) if rng.random() < 0.6 else _shards(rng, folder)


def _candidate(rng: random.Random, folder: Path) -> tuple[str, str]:
    """Accept a poisoned zip or folder: it is refused, or the golden is the honest candidate's."""
    with zipfile.ZipFile(io.BytesIO(made("artifact"))) as archive:
        files = {name.rpartition("/")[2]: archive.read(name) for name in archive.namelist()}
    honest = Candidate.parse(files["candidate.json"], "honest")
    way = rng.choice((*FILES, "entries", "bytes of the zip"))
    if way in FILES:
        files = FILES[way](rng, dict(files))
    source = folder / "artifact"
    if way == "entries" or rng.random() < 0.5:
        source = folder / "artifact.zip"
        data = _zipped(files, rng if way == "entries" else None)
        if way == "bytes of the zip":
            data = rng.choice((flip, truncate))(rng, data)
        source.write_bytes(data)
    else:
        (source / "run" / CASE).mkdir(parents=True)
        for name, data in files.items():
            (source / "run" / CASE / name).write_bytes(data)
    (folder / "victim").mkdir()
    (folder / "victim" / "kept").write_text("kept")
    workspace = Workspace(folder / "project")
    message = f"candidate: {way}"
    try:
        done = accept(workspace, CASE, reason="r", author="Ada", source=source, allow=EVERYTHING)
    except (QuantgateError, OSError):
        done = None
    outside = {path.name for path in folder.iterdir()} - {"project", "victim", "artifact", "artifact.zip"}
    if outside or (folder / "victim" / "kept").read_text() != "kept" or len(list((folder / "victim").iterdir())) != 1:
        return message, f"something outside of the project changed: {sorted(outside)}"
    if done is None:
        return message, "something was accepted" if FolderStore(workspace.goldens).digests(RUNNER, CASE) else ""
    golden = FolderStore(workspace.goldens).get(RUNNER, CASE, done.digest)
    if golden.verify():
        return message, "the accepted golden is damaged"
    same = {name: part.sha256 for name, part in golden.manifest.parts.items() if name != "record"}
    wanted = {name: part.sha256 for name, part in honest.parts.items() if name in same}
    if way in LIES:
        return message, "a lie was accepted"
    return (
        message,
        "" if same == wanted and golden.manifest.identity == honest.identity else "another golden was accepted",
    )


def _zipped(files: Files, rng: random.Random | None) -> bytes:
    """Pack the files; with random numbers, add entries that lead elsewhere, lie about their size, or come twice."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(f"run/{CASE}/{name}", data)
        if rng is not None:
            _add_entries(rng, archive, files)
    return out.getvalue()


def _add_entries(rng: random.Random, archive: zipfile.ZipFile, files: Files) -> None:
    kind = rng.choice(("name", "twice", "link", "bomb", "many", "case"))
    if kind == "name":
        info = zipfile.ZipInfo("placeholder")
        info.filename = rng.choice(NAMES)
        archive.writestr(info, b"owned")
    elif kind == "twice":
        name = rng.choice(tuple(files))
        archive.writestr(f"run/{CASE}/{name}", b"{}")
    elif kind == "link":
        info = zipfile.ZipInfo(f"run/{CASE}/link")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, b"../../../victim")
    elif kind == "bomb":
        for number in range(12):
            archive.writestr(f"b{number}/candidate.json", b" " * (20 << 20))
    elif kind == "many":
        for number in range(2000):
            archive.writestr(f"m{number}/candidate.json", b"{}")
    else:
        archive.writestr(f"RUN/{CASE}/candidate.json", files["candidate.json"])


def _changed(rng: random.Random, files: Files) -> Files:
    name = rng.choice(tuple(files))
    files[name] = rng.choice(CHANGES)(rng, files[name])
    return files


def _dropped(rng: random.Random, files: Files) -> Files:
    files.pop(rng.choice(tuple(files)))
    return files


def _resealed(rng: random.Random, files: Files) -> Files:
    """Change the candidate and compute its seal anew, as everybody may: parts and identity must still hold."""
    for _ in range(20):
        try:
            body = json.loads(restructure(rng, files["candidate.json"]))
        except (ValueError, RecursionError):  # the damage is no JSON, so it has no seal either
            continue
        if not isinstance(body, dict):
            continue
        body.pop("seal", None)
        if body.get("parts") != json.loads(files["candidate.json"])["parts"]:
            try:
                files["candidate.json"] = Candidate.sealed(**body).to_json().encode()
            except (ValueError, TypeError):
                continue
            break
    return files


def _with_clip(files: Files, clip: bytes, **changes: Any) -> Files:
    """Replace the clip, and state its true size and sha256 in a candidate with a valid seal."""
    old = Candidate.parse(files["candidate.json"], "honest")
    part = old.parts["clip"]
    new = Part.model_validate({**part.model_dump(), "sha256": hashlib.sha256(clip).hexdigest(), "bytes": len(clip)})
    fields = {name: getattr(old, name) for name in type(old).model_fields if name != "seal"}
    limits = old.limits.model_copy(update={"golden_digest": new.sha256}) if old.limits is not None else None
    sealed = Candidate.sealed(**{**fields, "parts": {**old.parts, "clip": new}, "limits": limits, **changes})
    return {**files, "clip.safetensors": clip, "candidate.json": sealed.to_json().encode()}


def _other_digest(rng: random.Random, files: Files) -> Files:
    """The header of the clip states the digest of other frames."""
    frames = np.full((5, 8, 8, 3), rng.randrange(2, 200), np.uint8)
    stated = Clip(np.full((5, 8, 8, 3), 1, np.uint8)).digest
    clip = save(
        {"frames": frames},
        metadata={"quantgate.clip": "1", "codec": "raw", "shape": "[5, 8, 8, 3]", "sha256": stated},
    )
    return _with_clip(files, clip)


def _no_frames(rng: random.Random, files: Files) -> Files:
    """A clip without frames, or of another shape than the candidate states."""
    shape = rng.choice(((0, 8, 8, 3), (5, 0, 8, 3), (5, 8, 0, 3), (5, 8, 8, 1), (4, 8, 8, 3)))
    frames = np.zeros(shape, np.uint8)
    clip = save({"frames": frames}, metadata={"quantgate.clip": "1", "codec": "raw", "shape": json.dumps(shape)})
    return _with_clip(files, clip)


def _huge(rng: random.Random, files: Files) -> Files:
    """A header that states more frames than there is memory."""
    shape = [rng.choice((1 << 20, 1 << 40)), 1 << 14, 1 << 14, 3]
    clip = save(
        {"frame.0": np.zeros(10, np.uint8)},
        metadata={"quantgate.clip": "1", "codec": "webp", "shape": json.dumps(shape), "sha256": "0" * 64},
    )
    return _with_clip(files, clip)


def _not_a_clip(rng: random.Random, files: Files) -> Files:
    return _with_clip(files, rng.randbytes(rng.randrange(1, 400)))


FILES: dict[str, Callable[[random.Random, Files], Files]] = {
    "a file changed": _changed,
    "a file missing": _dropped,
    "sealed anew": _resealed,
    "digest of other frames": _other_digest,
    "another shape": _no_frames,
    "a huge shape": _huge,
    "no clip": _not_a_clip,
}
LIES = frozenset({"digest of other frames", "another shape", "a huge shape", "no clip"})
"""Ways after which nothing may be accepted, whatever a person allows."""


def _case() -> Case:
    return Case.model_validate(
        {
            "id": CASE,
            "runners": [RUNNER],
            "model": {"path": "./m1"},
            "sampling": {
                "prompt": "p", "width": 16, "height": 16, "num_frames": 1, "num_inference_steps": 1,
                "guidance_scale": 1.0,
            },
            "timeouts": {"load": 60, "generate": 60},
        }
    )  # fmt: skip


def _passed(case: Case, plan: str) -> CaseRecord:
    """The record of a case that passed, with its evidence."""
    old = samples.record()
    verdict = old.verdict.model_copy(
        update={"outcome": Outcome.PASS, "cause": "none", "summary": "inside its limits", "findings": ()}
    )
    check = old.limits[0].model_copy(update={"passed": True, "value": 0.99})
    comparison = ComparisonEvidence(
        bit_exact=False, golden_sha256="0" * 64, candidate_sha256="1" * 64, shape=(5, 8, 8, 3), device="cpu", metrics=()
    )
    fields = {
        "plan": plan, "node": f"cases/a.yaml::{CASE}", "request": case.model_dump(mode="json"), "verdict": verdict,
        "limits": (check,), "comparison": comparison, "inspection": None,
    }  # fmt: skip
    return old.model_copy(update=fields)


def _shards(rng: random.Random, folder: Path) -> tuple[str, str]:
    """Poison one shard of a green lane: the merged lane is red."""
    case = _case()
    plan = samples.plan(request_digest(case))
    shard = folder / "shards/shard-1" / CASE
    record = _passed(case, plan.id)
    record.write(shard / "record.json")
    way = rng.choice(SHARDS)
    message = f"shard: {way}"
    body = json.loads((shard / "record.json").read_text())
    if way == "nothing":
        pass
    elif way == "no record":
        (shard / "record.json").unlink()
    elif way == "damaged":
        data = truncate(rng, (shard / "record.json").read_bytes()[:-3])
        (shard / "record.json").write_bytes(data)
    elif way == "twice, once red":
        shutil.copytree(shard, folder / "shards/shard-2" / CASE)
        body["verdict"] |= {"outcome": "regression", "cause": "x"}
        (folder / "shards/shard-2" / CASE / "record.json").write_text(json.dumps(body))
    else:
        name, value = POISON[way]
        target: Any = body
        *steps, last = name.split(".")
        for step in steps:
            target = target[int(step) if step.isdigit() else step]
        target[last] = value
        (shard / "record.json").write_text(json.dumps(body))
    merged = merge([folder / "shards"], plan, folder / "out")
    if way == "nothing":
        return message, "" if merged.exit_code == 0 else f"an honest shard is red: {merged.cases[0].summary}"
    return message, "" if merged.exit_code else "green"


POISON: dict[str, tuple[str, Any]] = {
    "another plan": ("plan", "f" * 64),
    "no plan": ("plan", ""),
    "another case": ("case", "other"),
    "another node": ("node", "cases/a.yaml::other"),
    "another runner": ("runner", "cpu"),
    "another request": ("request.sampling.seed", 7),
    "no generation": ("generation", None),
    "no comparison": ("comparison", None),
    "no golden": ("golden", None),
    "no limits": ("limits", []),
    "limits that do not gate": ("limits.0.gates", False),
    "a failed limit": ("limits.0.passed", False),
    "another outcome was observed": ("verdict.observed", "regression"),
    "a gating finding": (
        "verdict.findings",
        [{"stage": "frames", "code": "ssim_limit", "gating": True, "message": "m"}],
    ),
    "waived without a waiver": ("verdict.outcome", "waived"),
    "an outcome that is none": ("verdict.outcome", "fine"),
    "an unknown field": ("green", True),
}
SHARDS = (*POISON, "nothing", "no record", "damaged", "twice, once red")
