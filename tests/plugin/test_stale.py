"""A checkpoint stored otherwise is green, other weights never hide the frames, another request leaves a candidate."""

from __future__ import annotations

import json
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from builders import make_limits
from safetensors.numpy import load_file, save_file

WEIGHTS = "model/transformer/diffusion_pytorch_model.safetensors"
EYE = np.eye(16, dtype=ml_dtypes.bfloat16)


def limits(project: Any, golden: str, identity: str) -> None:
    file = make_limits(0.9, golden_digest=golden, identity_digest=identity)
    file.write(project.root / "thresholds" / "cpu" / "one.json")


def ended(project: Any, run: str) -> tuple[str, str, str, str]:
    project.pytest("--run-id", run)
    verdict = project.records(run)["one"].verdict
    return verdict.outcome.value, verdict.cause, verdict.summary, verdict.next_command


@pytest.mark.slow
def test_what_a_changed_checkpoint_and_a_changed_request_end_in(project: Any) -> None:
    project.cases("  one: {metrics: [ssim]}\n")
    assert ended(project, "first")[0] == "golden_missing"
    assert project.quantgate("accept", "one", "--reason", "looked", "--author", "ann").returncode == 0
    (golden,) = (project.root / "goldens" / "cpu" / "one").glob("*/contents.json")
    assert "blocks.0.attn1.to_q.weight" in golden.read_text()
    record = project.records("first")["one"]
    (folder,) = (project.root / "goldens" / "cpu" / "one").glob("*/")
    digest = json.loads((folder.parent / "accepted.json").read_text())["goldens"][0]["digest"]
    limits(project, digest, record.identity.digest())

    # stored otherwise: nothing changed
    save_file(load_file(project.root / WEIGHTS), project.root / WEIGHTS, metadata={"note": "written again"})
    config = project.root / "model/transformer/config.json"
    config.write_text('{\n  "_diffusers_version": "9", "_class_name": "WanTransformer3DModel"\n}\n')
    assert ended(project, "stored")[:2] == ("pass", "none")
    changed = {(row.identity_class, row.field) for row in project.records("stored")["one"].changes}
    assert changed == {
        ("subject", f"file.{WEIGHTS.removeprefix('model/')}"),
        ("subject", "file.transformer/config.json"),
    }

    # another tensor, the same video
    save_file({"blocks.0.attn1.to_q.weight": 2 * EYE}, project.root / WEIGHTS)
    outcome, cause, summary, command = ended(project, "same")
    assert (outcome, cause) == ("golden_stale", "weights_changed")
    assert "transformer: 1 of 1 tensors changed (blocks.0.attn1.to_q.weight)" in summary
    assert "the frames agree" in summary
    assert command.startswith("quantgate report ")

    # another tensor, another video
    project.drift(120)
    outcome, cause, summary, command = ended(project, "other")
    assert (outcome, cause) == ("regression", "weights_changed")
    assert "transformer: 1 of 1 tensors changed" in summary
    assert "ssim is" in summary
    assert "accept" not in command
    assert (project.root / "runs/other/one/golden.safetensors").exists()
    project.drift(0)
    save_file({"blocks.0.attn1.to_q.weight": EYE}, project.root / WEIGHTS)

    # another request: a candidate, and something to look at
    project.cases("  one: {metrics: [ssim], sampling: {prompt: a big square}}\n")
    outcome, cause, summary, command = ended(project, "asked")
    assert (outcome, cause) == ("golden_stale", "request_differs")
    assert "the golden is of another request: sampling.prompt 'a square' -> 'a big square'" in summary
    assert command.startswith("quantgate report ")
    assert (project.root / "runs/asked/report/cases/one.html").exists()
    pending = project.quantgate("pending").stdout
    assert "of another request, so that its frames are not compared" in pending
    refused = project.quantgate("accept", "one", "--reason", "looked", "--author", "ann")
    assert (refused.returncode, "deletes thresholds/cpu/one.json" in refused.stderr) == (14, True)
