"""Accepting knows the case as it is written now: a stale candidate is refused, and the lock changes with the golden."""

from __future__ import annotations

import json
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

LOCK = "cases/checkpoints.lock.json"


def accept(project: Any) -> Any:
    return project.quantgate("accept", "one", "--reason", "looked at it", "--author", "ann")


def test_a_candidate_of_another_request_is_refused(project: Any) -> None:
    project.cases("  one: {}\n")
    project.pytest()
    project.cases("  one: {sampling: {seed: 1}}\n")
    done = accept(project)
    assert done.returncode != 0
    assert "sampling.seed" in done.stderr
    assert not (project.root / "goldens" / "cpu").exists()


def test_the_lock_changes_with_the_golden(project: Any) -> None:
    project.cases("  one: {}\n")
    assert project.quantgate("lock").returncode == 0
    weights = project.root / "model" / "transformer" / "diffusion_pytorch_model.safetensors"
    save_file({"blocks.0.attn1.to_q.weight": 2 * np.eye(16, dtype=ml_dtypes.bfloat16)}, weights)
    before = (project.root / LOCK).read_text()
    assert project.quantgate("lock", "--check").returncode == 17
    project.pytest()
    done = accept(project)
    assert done.returncode == 0, done.stdout + done.stderr
    assert LOCK in done.stdout
    assert (project.root / LOCK).read_text() != before
    assert project.quantgate("lock", "--check").returncode == 0


def test_without_a_lock_none_is_made(project: Any) -> None:
    project.cases("  one: {}\n")
    project.pytest()
    assert accept(project).returncode == 0
    assert not (project.root / LOCK).exists()


def test_a_damaged_lock_is_named_and_nothing_changes(project: Any) -> None:
    project.cases("  one: {}\n")
    project.pytest()
    (project.root / LOCK).write_text(json.dumps({"cases": 1}))
    done = accept(project)
    assert (done.returncode, "not a checkpoint lock" in done.stderr) == (17, True)
    assert not (project.root / "goldens" / "cpu").exists()
