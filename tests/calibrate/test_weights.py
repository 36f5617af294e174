"""Faults of checkpoints by bytes: what they change, and that the original is never written to."""

from __future__ import annotations

import hashlib
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file
from safetensors.torch import load_file as load_torch

from harness.calibrate.faults.weights import STRENGTHS, inject, spread, weight_faults
from harness.errors import CheckpointFaultError
from harness.formats.damage import GAIN

FILE = "diffusion_pytorch_model.safetensors"
BY_NAME = {fault.name: fault for fault in weight_faults()}
LINEARS = 8


def expert(form: str, seed: int) -> dict[str, np.ndarray]:
    """Eight Linears 32 x 32 in one format, one of them left alone, and a norm."""
    random = np.random.default_rng(seed)
    tensors: dict[str, np.ndarray] = {
        "blocks.9.attn1.to_q.weight": random.normal(size=(32, 32)).astype(ml_dtypes.bfloat16),
        "blocks.0.norm.weight": np.ones(32, np.float32),
    }
    for index in range(LINEARS):
        name = f"blocks.{index}.attn1.to_q"
        if form == "nvfp4":
            tensors[f"{name}.weight"] = random.integers(0, 256, (32, 16), dtype=np.uint8)
            tensors[f"{name}.weight_scale"] = random.uniform(1, 9, (32, 2)).astype(ml_dtypes.float8_e4m3fn)
            tensors[f"{name}.weight_scale_2"] = np.full(1, 0.5, np.float32)
        elif form == "fp8":
            tensors[f"{name}.weight"] = random.normal(size=(32, 32)).astype(ml_dtypes.float8_e4m3fn)
            tensors[f"{name}.weight_scale"] = np.full(1, 0.25, np.float32)
        else:
            tensors[f"{name}.weight"] = random.normal(size=(32, 32)).astype(ml_dtypes.bfloat16)
    return tensors


def load_file(path: Path) -> dict[str, np.ndarray]:
    """All tensors, those of 8 bits as their bytes."""
    tensors = load_torch(path)
    return {
        name: (value.view(torch.uint8) if value.element_size() == 1 else value.float()).numpy()
        for name, value in tensors.items()
    }


def repository(folder: Path, form: str) -> Path:
    folder.mkdir()
    (folder / "model_index.json").write_text("{}")
    (folder / "vae").mkdir()
    (folder / "vae" / "config.json").write_text("{}")
    for seed, role in enumerate(("transformer", "transformer_2")):
        (folder / role).mkdir()
        (folder / role / "config.json").write_text("{}")
        save_file(expert(form, seed), folder / role / FILE)
    return folder


def digests(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.rglob("*") if p.is_file()
    }


@pytest.mark.parametrize("form", ["nvfp4", "fp8", "bf16"])
@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_every_fault_changes_what_it_says_and_leaves_the_original(form: str, name: str, tmp_path: Path) -> None:
    source = repository(tmp_path / "source", form)
    before = digests(source)
    fault = BY_NAME[name]
    if form not in fault.formats:
        with pytest.raises(CheckpointFaultError, match="no Linear for"):
            inject(fault, 1.0, source, tmp_path / "copy")
        return
    broken = inject(fault, 0.5, source, tmp_path / "copy")
    assert digests(source) == before
    count = 9 if form == "bf16" else LINEARS
    assert len(broken) == 2 * round(0.5 * count)
    for role in ("transformer", "transformer_2"):
        old, new = (load_file(folder / role / FILE) for folder in (source, tmp_path / "copy"))
        changed = {key for key in old if old[key].tobytes() != new[key].tobytes()}
        modules = {line.removeprefix(f"{role}/") for line in broken if line.startswith(f"{role}/")}
        assert {key.rpartition(".weight")[0] for key in changed} == modules
    assert (tmp_path / "copy" / "vae").is_symlink()


def test_the_arithmetic_of_each(tmp_path: Path) -> None:
    source = repository(tmp_path / "source", "nvfp4")
    old = load_file(source / "transformer" / FILE)
    copies = {}
    for name in ("nibble_swap", "scale_roll", "gain"):
        inject(BY_NAME[name], 1.0, source, tmp_path / name)
        copies[name] = load_file(tmp_path / name / "transformer" / FILE)
    module = "blocks.3.attn1.to_q"
    codes = old[f"{module}.weight"]
    np.testing.assert_array_equal(copies["nibble_swap"][f"{module}.weight"], (codes % 16) * 16 + codes // 16)
    scales = old[f"{module}.weight_scale"]
    np.testing.assert_array_equal(copies["scale_roll"][f"{module}.weight_scale"], scales[:, ::-1])
    assert copies["gain"][f"{module}.weight_scale_2"].item() == 0.5 * GAIN
    bf16 = repository(tmp_path / "bf16", "bf16")
    inject(BY_NAME["row_roll"], 1.0, bf16, tmp_path / "rows")
    rows = [
        load_file(folder / "transformer" / FILE)[f"{module}.weight"].astype(float)
        for folder in (bf16, tmp_path / "rows")
    ]
    np.testing.assert_array_equal(rows[1], np.roll(rows[0], 1, axis=0))


def test_one_transformer_alone(tmp_path: Path) -> None:
    source = repository(tmp_path / "source", "nvfp4") / "transformer"
    before = digests(source)
    assert len(inject(BY_NAME["nibble_swap"], 1.0, source, tmp_path / "copy")) == LINEARS
    assert digests(source) == before
    assert digests(tmp_path / "copy")[FILE] != before[FILE]


@given(st.integers(1, 200), st.sampled_from([*STRENGTHS, 0.01]))
def test_a_share_is_a_share(count: int, strength: float) -> None:
    names = [f"{index:03d}" for index in range(count)]
    chosen = list(spread(names, strength))
    assert len(chosen) == len(set(chosen)) == max(1, round(strength * count))
    assert chosen == sorted(chosen)
    assert set(spread(names, 1.0)) == set(names)
