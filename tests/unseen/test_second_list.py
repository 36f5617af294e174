"""The second unseen list is apart from the first, and its changes of files and frames do what they say."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from benchmarks.unseen.faults import faults
from benchmarks.unseen.files import EDITS
from benchmarks.unseen.finished import CHANGES
from benchmarks.unseen.healthy import healthy
from benchmarks.unseen.running import INJECTIONS
from benchmarks.unseen.second import second_faults, second_healthy
from benchmarks.unseen.second_files import SECOND_EDITS
from benchmarks.unseen.second_finished import SECOND_CHANGES
from benchmarks.unseen.second_running import SECOND_INJECTIONS

EXPORT = Path(__file__).resolve().parents[2] / "tiny" / "exports" / "fp8"
HEALTHY_FILES = sorted({entry.files for entry in second_healthy() if entry.files and not entry.value_changes})


def test_the_second_list_is_large_and_repeats_nothing_of_the_first() -> None:
    wrong, harmless = second_faults(), second_healthy()
    assert len(wrong) >= 60
    assert len(harmless) >= 40
    first = {entry.id for entry in (*faults(), *healthy())}
    assert not first & {entry.id for entry in (*wrong, *harmless)}
    assert not set(INJECTIONS) & set(SECOND_INJECTIONS)
    assert not set(EDITS) & set(SECOND_EDITS)
    assert not set(CHANGES) & set(SECOND_CHANGES)
    assert {entry.kind for entry in wrong} >= {
        "precision in one place",
        "attention, RoPE, norm, softmax",
        "scheduler and timesteps",
        "VAE at runtime",
        "finished frames",
        "loader",
        "checkpoint bytes",
    }
    for entry in (*wrong, *harmless):
        assert not entry.running or entry.running in INJECTIONS | SECOND_INJECTIONS, entry.id
        assert not entry.files or entry.files in SECOND_EDITS, entry.id
        assert not entry.frames or entry.frames in SECOND_CHANGES, entry.id
        assert entry.healthy == (entry in harmless), entry.id


@pytest.mark.parametrize("name", sorted(SECOND_CHANGES))
def test_a_change_of_frames_keeps_the_kind_of_array_and_changes_it(name: str) -> None:
    random = np.random.default_rng(0)
    smooth = np.cumsum(random.integers(0, 3, (17, 64, 96, 3)), axis=2)
    frames = np.clip(20 + smooth + 3 * np.arange(17)[:, None, None, None], 0, 255).astype(np.uint8)
    changed = SECOND_CHANGES[name](frames.copy())
    assert changed.dtype == np.uint8
    assert changed.shape == frames.shape
    assert not np.array_equal(changed, frames)
    small = np.abs(changed.astype(np.int64) - frames).max() <= 1
    assert small == ("nudged" in name)


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {
        f"{path.parent.name}/{name}": tensor
        for path in folder.glob("*/*.safetensors")
        if ".fp16." not in path.name
        for name, tensor in load_file(path).items()
    }


@pytest.fixture(scope="module")
def before() -> dict[str, torch.Tensor]:
    return _tensors(EXPORT)


@pytest.mark.parametrize("name", HEALTHY_FILES)
def test_a_healthy_rewrite_keeps_every_tensor(tmp_path: Path, before: dict[str, torch.Tensor], name: str) -> None:
    folder = tmp_path / "x" / "export"
    shutil.copytree(EXPORT, folder)
    SECOND_EDITS[name](folder)
    after = _tensors(folder)
    assert after.keys() == before.keys()
    assert all(
        torch.equal(after[key].view(torch.uint8), before[key].view(torch.uint8)) for key in before if before[key].ndim
    )
    assert all(torch.equal(after[key], before[key]) for key in before if not before[key].ndim)


@pytest.mark.parametrize(
    ("name", "touched"),
    [
        ("query_is_key", "transformer_2/blocks.2.attn1.to_"),
        ("signs_flipped", "transformer/blocks.4.attn2.to_out.0.weight"),
        ("block_of_other_expert", "transformer_2/blocks.4."),
        ("te_gates_exchanged", "text_encoder/encoder.block.1.layer.1.DenseReluDense.wi_"),
        ("vae_qkv_reordered", "vae/decoder.mid_block.attentions.0.to_qkv."),
    ],
)
def test_a_fault_of_files_changes_the_tensors_that_it_names(
    tmp_path: Path, before: dict[str, torch.Tensor], name: str, touched: str
) -> None:
    folder = tmp_path / "export"
    shutil.copytree(EXPORT, folder)
    SECOND_EDITS[name](folder)
    after = _tensors(folder)
    changed = {key for key in before if not torch.equal(after[key].float(), before[key].float())}
    assert changed
    assert all(key.startswith(touched) for key in changed)
