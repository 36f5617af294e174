"""One inspection for all cases that share a checkpoint, and a new one as soon as a file of it changed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from builders import make_case

from harness.definitions.case import Case
from harness.session import inspecting
from harness.session.inspecting import Inspector
from tiny.export import WEIGHTS

REPOSITORY = Path(__file__).parents[2]


def case(name: str, **more: Any) -> Case:
    return make_case(**{"id": name, "model": {"path": "./weights"}, "sampling": {"prompt": name}, **more})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    shutil.copytree(WEIGHTS, tmp_path / "weights")
    return tmp_path


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    asked: list[str] = []
    real = inspecting.inspect

    def counted(case: Case, root: Path, paths: Any) -> Any:
        asked.append(case.id)
        return real(case, root, paths)

    monkeypatch.setattr(inspecting, "inspect", counted)
    return asked


def test_cases_of_one_checkpoint_share_an_inspection(root: Path, count: list[str]) -> None:
    inspector, paths = Inspector(root), {"model": root / "weights"}
    first = inspector.look(case("one"), paths)
    assert inspector.look(case("two"), paths) is first
    assert count == ["one"]
    assert {"transformer/diffusion_pytorch_model.safetensors", "model_index.json"} <= set(first.digests)


@pytest.mark.parametrize(
    "more",
    [
        {"contracts": ["sglang==0.5.23"]},
        {"loader": {"nibble_order": "high_first"}},
        {"env": {"DIFFUSERS_ATTN_BACKEND": "native"}},
        {"quantization": {"transformer": "fp8"}},
        {"base": {"path": "./weights"}},
    ],
)
def test_another_question_is_asked_anew(root: Path, count: list[str], more: dict[str, Any]) -> None:
    inspector, paths = Inspector(root), {"model": root / "weights"}
    inspector.look(case("one"), paths)
    inspector.look(case("two", **more), paths)
    assert count == ["one", "two"]


def test_a_changed_file_is_looked_at_again(root: Path, count: list[str]) -> None:
    """Also one of the same size: a byte of a weight is turned round."""
    inspector, paths = Inspector(root), {"model": root / "weights"}
    before = inspector.look(case("one"), paths)
    weights = root / "weights" / "transformer" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    state = weights.stat()
    os.utime(weights, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    after = inspector.look(case("one"), paths)
    assert count == ["one", "one"]
    name = "transformer/diffusion_pytorch_model.safetensors"
    assert before.digests[name] != after.digests[name]


def test_a_file_behind_a_linked_component_is_looked_at_again(root: Path, count: list[str]) -> None:
    """The hub's cache and `hf download --local-dir` both link; a folder may be a link as well as a file."""
    (root / "weights" / "vae").rename(root / "vae")
    (root / "weights" / "vae").symlink_to(root / "vae")
    inspector, paths = Inspector(root), {"model": root / "weights"}
    before = inspector.look(case("one"), paths)
    config = root / "vae" / "config.json"
    config.write_text(config.read_text() + " ")
    after = inspector.look(case("one"), paths)
    assert count == ["one", "one"]
    assert before.digests["vae/config.json"] != after.digests["vae/config.json"]


def test_a_replacement_of_the_same_size_and_time_is_looked_at_again(root: Path, count: list[str]) -> None:
    inspector, paths = Inspector(root), {"model": root / "weights"}
    inspector.look(case("one"), paths)
    config = root / "weights" / "vae" / "config.json"
    state = config.stat()
    with config.open("r+b") as out:
        out.write(config.read_bytes())
    os.utime(config, ns=(state.st_atime_ns, state.st_mtime_ns))
    inspector.look(case("one"), paths)
    assert count == ["one", "one"]
