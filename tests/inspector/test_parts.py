"""What a pipeline loads beside its transformers: each thing that can be wrong, from a folder and from the hub."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.inspector import inspect_checkpoint
from harness.inspector.parts import MAX_HUB_JSON
from tiny.export import WEIGHTS

Damage = Callable[[Path], object]


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    """A whole pipeline that may be damaged."""
    return Path(shutil.copytree(WEIGHTS, tmp_path / "pipeline"))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def in_parts(folder: Path, index: dict[str, Any] | None) -> None:
    weights = folder / "model.safetensors"
    weights.rename(folder / "model-00001-of-00002.safetensors")
    if index is not None:
        (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


FILES = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
DAMAGES: dict[str, tuple[Damage, str, str]] = {
    "vae cut": (
        lambda root: cut(root / "vae" / "diffusion_pytorch_model.safetensors"),
        "component_broken",
        "vae/diffusion",
    ),
    "vae config": (lambda root: (root / "vae/config.json").write_text("{"), "component_broken", "vae/config.json"),
    "vae no config": (lambda root: (root / "vae/config.json").unlink(), "component_missing", "vae/config.json"),
    "vae no weights": (
        lambda root: (root / "vae/diffusion_pytorch_model.safetensors").unlink(),
        "component_missing",
        "vae",
    ),
    "no text encoder": (lambda root: shutil.rmtree(root / "text_encoder"), "component_missing", "text_encoder"),
    "no tokenizer": (lambda root: shutil.rmtree(root / "tokenizer"), "component_missing", "tokenizer"),
    "scheduler": (
        lambda root: (root / "scheduler/scheduler_config.json").write_text("{x"),
        "component_broken",
        "scheduler_conf",
    ),
    "scheduler empty": (
        lambda root: (root / "scheduler/scheduler_config.json").rename(root / "scheduler/config.json"),
        "component_missing",
        "scheduler_config.json",
    ),
    "tokenizer": (lambda root: cut(root / "tokenizer/tokenizer.json"), "component_broken", "tokenizer/tokenizer.json"),
    "shard": (
        lambda root: in_parts(root / "text_encoder", {"weight_map": FILES}),
        "component_missing",
        "model-00002-of-00002",
    ),
    "no index": (lambda root: in_parts(root / "text_encoder", None), "component_missing", "no index"),
    "index": (lambda root: in_parts(root / "text_encoder", {"weight_map": 3}), "component_broken", "weight_map"),
    "no model_index": (lambda root: (root / "model_index.json").unlink(), "component_missing", "model_index.json"),
}


@pytest.fixture(params=["folder", "hub"])
def place(request: pytest.FixtureRequest) -> Callable[[Path], str]:
    """Where a checkpoint is inspected."""
    return str if request.param == "folder" else request.getfixturevalue("upload")


@pytest.mark.parametrize("name", DAMAGES)
def test_a_broken_component_is_a_fault_that_names_it(name: str, pipeline: Path, place: Callable[[Path], str]) -> None:
    damage, code, message = DAMAGES[name]
    damage(pipeline)
    report = inspect_checkpoint(place(pipeline), digests=False)
    assert (report.outcome, report.cause) == ("fault", code)
    assert message in report.faults[0].message


def test_a_whole_pipeline_is_clean_and_says_what_was_not_read(pipeline: Path, place: Callable[[Path], str]) -> None:
    report = inspect_checkpoint(place(pipeline), digests=False)
    assert report.outcome == "clean"
    assert any(line.startswith("scheduler, text_encoder, tokenizer, vae: there") for line in report.done)
    assert "text_encoder, vae: headers and sizes only, no weight was read" in report.not_done


def test_what_is_too_large_or_no_json_is_not_called_looked_at(pipeline: Path, upload: Callable[[Path], str]) -> None:
    (pipeline / "tokenizer" / "spiece.model").write_bytes(b"\x00")
    (pipeline / "tokenizer" / "more.json").write_text(" " * MAX_HUB_JSON + "{}", encoding="utf-8")
    left = inspect_checkpoint(upload(pipeline), digests=False).not_done
    assert any("tokenizer/more.json" in line for line in left)
    assert any("tokenizer/spiece.model" in line for line in left)


def test_transformers_alone_raise_no_alarm(exports: Path) -> None:
    report = inspect_checkpoint(exports / "nvfp4", base=exports / "base", digests=False)
    assert report.outcome == "clean"
    assert any("only transformers are here" in line for line in report.not_done)
    assert inspect_checkpoint(WEIGHTS / "transformer", digests=False).outcome == "clean"


def test_only_the_model_is_looked_at_and_not_its_overrides(pipeline: Path) -> None:
    shutil.rmtree(pipeline / "vae")
    assert inspect_checkpoint(WEIGHTS, transformer=pipeline, digests=False).outcome == "clean"
    assert inspect_checkpoint(WEIGHTS, base=pipeline, digests=False).outcome == "clean"
