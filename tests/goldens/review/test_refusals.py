"""Each thing that accept refuses, its own flag, and that the flag of another does not help."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from harness.cli import review
from harness.cli.review import accept as accept_command
from harness.errors import GoldenError, QuantgateError
from harness.frames.clip import Clip, write_clip
from harness.goldens.accept import Acceptance, accept
from harness.goldens.folder import FolderStore
from harness.goldens.pending import leave, read_candidate
from harness.goldens.refusing import ALL, Allow
from harness.goldens.workspace import Workspace
from harness.records.candidate import SHOWN_FILE
from harness.records.frames import ComparisonEvidence, MetricResult, SanityCheck, SanityEvidence
from harness.records.identity import FieldChange
from harness.session.similarity import similarity

app = typer.Typer()
app.command()(review.pending)
app.command("accept")(accept_command)

FLAGS = ("other_request", "failed_sanity", "unseen", "another_video", "drop_limits")


def accepted(workspace: Workspace, **options: Any) -> Acceptance:
    return accept(workspace, "nvfp4", **{"reason": "looks right", "author": "Bob", **options})


def all_but(flag: str) -> Allow:
    """Everything is allowed but one."""
    return Allow(**{name: name != flag for name in FLAGS})


def only(flag: str) -> Allow:
    return Allow(**{flag: True})


def sick() -> SanityEvidence:
    check = SanityCheck(
        name="nan", value=4.0, limit=0.0, direction="lower_is_better", unit="", ok=False, message="4 values are NaN"
    )
    return SanityEvidence(checks=(check,))


NOTHING_CHANGED = SimpleNamespace(
    changed=(), recovered=(), replaced=(), changes=(), limits="none", digest="0" * 64,
    manifest=SimpleNamespace(runner="b200", case="nvfp4"),
)  # fmt: skip


def refused(workspace: Workspace, flag: str, match: str, **options: Any) -> None:
    """Refused without the flag whatever else is allowed, in words that name it; taken with the flag alone."""
    before = FolderStore(workspace.goldens).index("b200", "nvfp4")
    with pytest.raises(GoldenError, match=match) as error:
        accepted(workspace, allow=all_but(flag), **options)
    assert f"--{flag.replace('_', '-')}" in str(error.value)
    assert FolderStore(workspace.goldens).index("b200", "nvfp4") == before
    accepted(workspace, allow=only(flag), **options)


def test_a_candidate_of_another_request(workspace: Workspace, left: Callable) -> None:
    left()
    refused(workspace, "other_request", r"sampling\.seed: 0 -> 7", request={"sampling.seed": 7})


def test_sick_frames(workspace: Workspace, left: Callable) -> None:
    left(sanity=sick())
    refused(workspace, "failed_sanity", "its frames are sick: nan: 4 values are NaN")


def test_frames_that_nobody_checked(workspace: Workspace, left: Callable) -> None:
    left(sanity=None)
    refused(workspace, "failed_sanity", "no record proves that its frames passed")


def test_a_candidate_that_no_report_shows(workspace: Workspace, left: Callable) -> None:
    left()
    (workspace.state / "report" / SHOWN_FILE).write_text('{"another seal": "cases/nvfp4.html"}')
    refused(workspace, "unseen", "no report shows this candidate")


def test_a_damaged_list_shows_nothing(workspace: Workspace, left: Callable) -> None:
    left()
    (workspace.state / "report" / SHOWN_FILE).write_text("{")
    refused(workspace, "unseen", "no report shows this candidate")


def test_the_report_of_a_run_shows_it(workspace: Workspace, left: Callable) -> None:
    seal = read_candidate(left()).seal
    (workspace.state / "report" / SHOWN_FILE).unlink()
    place = workspace.root / "runs" / "run-1" / "report"
    place.mkdir(parents=True)
    (place / SHOWN_FILE).write_text(json.dumps({seal: "cases/nvfp4.html"}))
    assert accepted(workspace).digest


@pytest.mark.parametrize("form", ["folder", "zip"])
def test_a_report_in_the_artifact_shows_it(workspace: Workspace, left: Callable, tmp_path: Path, form: str) -> None:
    folder = left()
    seal = read_candidate(folder).seal
    (workspace.state / "report" / SHOWN_FILE).unlink()
    source = tmp_path / "artifact"
    folder.rename(source)
    (source / "report").mkdir()
    (source / "report" / SHOWN_FILE).write_text(json.dumps({seal: "cases/nvfp4.html"}))
    if form == "zip":
        packed = tmp_path / "artifact.zip"
        with zipfile.ZipFile(packed, "w") as archive:
            for path in source.rglob("*"):
                archive.write(path, path.relative_to(source))
        source = packed
    assert accepted(workspace, source=source).digest


def video(seed: int) -> np.ndarray:
    """Smooth noise: another seed is another video."""
    coarse = np.random.default_rng(seed).integers(0, 256, (3, 4, 6, 3), dtype=np.uint8)
    return np.kron(coarse, np.ones((1, 16, 16, 1), np.uint8))


@pytest.fixture
def shown(workspace: Workspace, record: Callable, output: Callable) -> Callable[..., str]:
    """Leave a candidate whose frames are a video, looked at; gives its seal."""

    def build(frames: np.ndarray, **fields: Any) -> str:
        made = record(**fields)
        made = made.model_copy(update={"generation": made.generation.model_copy(update={"shape": frames.shape})})
        files = output(made)
        write_clip(files["clip"], Clip(frames), codec="raw")
        files["record"] = made.write(files["record"])
        seal = read_candidate(leave(workspace, made, files)).seal
        path = workspace.state / "report" / SHOWN_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({seal: "x"}))
        return seal

    return build


def test_another_video_in_place_of_the_golden(workspace: Workspace, shown: Callable) -> None:
    shown(video(0))
    first = accepted(workspace, similarity=similarity).digest
    shown(video(1), golden=first)
    refused(workspace, "another_video", r"another video than golden .* \(mean ssim 0\.", similarity=similarity)


def test_nearly_the_same_video_is_taken(workspace: Workspace, shown: Callable) -> None:
    shown(video(0))
    first = accepted(workspace, similarity=similarity).digest
    shown(np.clip(video(0).astype(int) + 3, 0, 255).astype(np.uint8), golden=first)
    assert accepted(workspace, similarity=similarity).replaced == (first,)


def test_another_video_beside_a_golden_has_no_flag(workspace: Workspace, shown: Callable) -> None:
    shown(video(0))
    accepted(workspace, similarity=similarity)
    shown(video(1))
    with pytest.raises(GoldenError, match="which stays accepted: limits that hold for both would see neither"):
        accepted(workspace, similarity=similarity, also=True, allow=ALL)
    shown(np.clip(video(0).astype(int) + 3, 0, 255).astype(np.uint8))
    assert accepted(workspace, similarity=similarity, also=True).digest


def test_a_video_of_another_request_is_not_compared(workspace: Workspace, shown: Callable, identity: Any) -> None:
    shown(video(0))
    first = accepted(workspace, similarity=similarity).digest
    other = identity.model_copy(update={"request": {"sampling.seed": 9}})
    shown(video(1), golden=first, identity=other)
    assert accepted(workspace, similarity=similarity).replaced == (first,)


def run(workspace: Workspace, *arguments: str) -> str:
    (workspace.root / "cases").mkdir(parents=True, exist_ok=True)
    result = CliRunner().invoke(app, [*arguments, "--root", str(workspace.root)])
    if isinstance(result.exception, QuantgateError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_every_flag_of_the_command_is_one_permission(
    workspace: Workspace, left: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    left()
    seen: list[Allow] = []
    monkeypatch.setattr(
        "harness.cli.review.accept_candidate", lambda *_a, **k: seen.append(k["allow"]) or NOTHING_CHANGED
    )
    for flag in FLAGS:
        run(workspace, "accept", "nvfp4", "--reason", "r", f"--{flag.replace('_', '-')}")
    assert seen == [only(flag) for flag in FLAGS]


def test_pending_says_against_what(workspace: Workspace, left: Callable) -> None:
    metrics = [("ssim", 0.26, ""), ("psnr", 4.8, "dB")]
    comparison = ComparisonEvidence(
        bit_exact=False,
        golden_sha256="1" * 64,
        candidate_sha256="2" * 64,
        shape=(5, 8, 8, 3),
        device="cpu",
        metrics=tuple(
            MetricResult(name=name, direction="higher_is_better", unit=unit, ideal=1.0, worst=value, mean=value)
            for name, value, unit in metrics
        ),
    )
    left(golden="a" * 64, comparison=comparison, sanity=sick())
    (workspace.state / "report" / SHOWN_FILE).unlink()
    text = run(workspace, "pending")
    assert "instead of golden aaaaaaaaaaaaaaaa: ssim 0.26, psnr 4.8 dB" in text
    assert "its frames are sick: 4 values are NaN" in text
    assert "no report shows it yet: quantgate review" in text


def test_pending_says_that_the_request_is_another(
    workspace: Workspace, left: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = FieldChange(identity_class="request", field="sampling.seed", golden=5, run=0)
    left(golden="a" * 64, changes=(change,))
    monkeypatch.setattr("harness.cli.review.present_requests", lambda _root: {"nvfp4": {"sampling.seed": 2}})
    text = run(workspace, "pending")
    assert "instead of golden aaaaaaaaaaaaaaaa: of another request, so that its frames are not compared" in text
    assert "request.sampling.seed: 5 -> 0" in text
    assert "the case file asks for something else now: sampling.seed: 0 -> 2" in text
    assert "no report" not in text
