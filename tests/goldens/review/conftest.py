"""A project with runs, candidates and limits."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import bare_generation, make_limits, make_record

from harness.frames.clip import Clip, write_clip
from harness.goldens.pending import leave, read_candidate
from harness.goldens.workspace import Workspace
from harness.outcomes import Outcome
from harness.records.candidate import SHOWN_FILE
from harness.records.case_record import CaseRecord
from harness.records.frames import SanityCheck, SanityEvidence
from harness.records.identity import Device, Fingerprint, Identity
from harness.records.limits import LimitFile
from harness.records.verdict import Verdict


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """An empty project."""
    return Workspace(tmp_path / "project")


@pytest.fixture
def identity() -> Identity:
    """What the runs of these tests were asked for and ran on."""
    return Identity(
        request={"sampling.seed": 0},
        hardware={"device": "NVIDIA B200"},
        weights={"model": "a" * 40},
        env={},
        subject={"code": "c0"},
    )


@pytest.fixture
def record(identity: Identity) -> Callable[..., CaseRecord]:
    """Make a case's record; keywords replace fields."""

    def build(**fields: Any) -> CaseRecord:
        values: dict[str, Any] = {
            "run": "run-1",
            "case": "nvfp4",
            "node": "cases/tiny.yaml::nvfp4",
            "source": "cases/tiny.yaml:7",
            "runner": "b200",
            "request": {"id": "nvfp4"},
            "verdict": Verdict(outcome=Outcome.GOLDEN_MISSING, cause="none", summary="there is no golden"),
            "fingerprint": Fingerprint(runner="b200", device=Device(kind="cuda", name="NVIDIA B200"), code="c0"),
            "identity": identity,
            "generation": bare_generation(shape=(5, 8, 8, 3)),
            "sanity": SanityEvidence(checks=(check(),)),
        }
        return make_record(**{"golden": None, **values, **fields})

    return build


@pytest.fixture
def output(tmp_path: Path) -> Callable[..., dict[str, Path]]:
    """The files that a run leaves; ``fill`` moves the clip's bytes."""

    def build(record: CaseRecord, fill: int = 1) -> dict[str, Path]:
        folder = tmp_path / "runs" / record.run / record.runner / record.case
        folder.mkdir(parents=True, exist_ok=True)
        clip, trace = folder / "clip.safetensors", folder / "trace.json"
        write_clip(clip, Clip(np.full((5, 8, 8, 3), fill, np.uint8)), codec="raw")
        trace.write_text(f'{{"steps": [{fill}]}}')
        return {"clip": clip, "trace": trace, "record": record.write(folder / "record.json")}

    return build


@pytest.fixture
def left(workspace: Workspace, record: Callable, output: Callable) -> Callable[..., Path]:
    """Leave a pending candidate; keywords go to the record."""

    def build(fill: int = 1, limits: LimitFile | None = None, **fields: Any) -> Path:
        made = record(**fields)
        folder = leave(workspace, made, output(made, fill), limits=limits)
        show(workspace, folder)
        return folder

    return build


def show(workspace: Workspace, folder: Path) -> None:
    """Write what a report of the candidate in ``folder`` leaves."""
    path = workspace.state / "report" / SHOWN_FILE
    known = json.loads(path.read_text()) if path.exists() else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**known, read_candidate(folder).seal: "cases/nvfp4.html"}))


def check(ok: bool = True) -> SanityCheck:
    """A sanity check of the frames."""
    return SanityCheck(
        name="nan",
        value=0.0 if ok else 4.0,
        limit=0.0,
        direction="lower_is_better",
        unit="",
        ok=ok,
        message="4 values are NaN" if not ok else "no value is NaN",
    )


@pytest.fixture
def limit_file(identity: Identity) -> Callable[..., LimitFile]:
    """Make a limit file; keywords replace fields."""

    def build(**fields: Any) -> LimitFile:
        return make_limits(
            **{
                "case": "nvfp4",
                "runner": "b200",
                "golden_digest": "0" * 64,
                "identity_digest": identity.digest(),
                "author": "Ada",
            }
            | fields
        )

    return build
