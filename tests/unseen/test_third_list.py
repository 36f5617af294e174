"""The third unseen list is apart from the first two, and its healthy changes leave results and tensors as they are."""

from __future__ import annotations

import importlib
import json
import shutil
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from benchmarks.unseen.design import FORMS, Entry
from benchmarks.unseen.edits import COMPONENTS, EXPERTS
from benchmarks.unseen.faults import faults
from benchmarks.unseen.files import EDITS
from benchmarks.unseen.finished import CHANGES
from benchmarks.unseen.healthy import healthy
from benchmarks.unseen.patch import Patch
from benchmarks.unseen.running import INJECTIONS
from benchmarks.unseen.second import second_faults, second_healthy
from benchmarks.unseen.second_files import SECOND_EDITS
from benchmarks.unseen.second_finished import SECOND_CHANGES
from benchmarks.unseen.second_running import SECOND_INJECTIONS
from benchmarks.unseen.tensors import path_of
from benchmarks.unseen.third import third_faults, third_healthy
from benchmarks.unseen.third_files import THIRD_EDITS
from benchmarks.unseen.third_finished import THIRD_CHANGES
from benchmarks.unseen.third_running import THIRD_INJECTIONS

diffusers: Any = importlib.import_module("diffusers")
"""Typed loosely: its classes have no annotations."""
EXPORTS = Path(__file__).resolve().parents[2] / "tiny" / "exports"
WRITTEN = [entry for entry in third_healthy() if entry.files]
ROUNDING = 2e-5
"""Relative, in float32."""
OF_THE_MODEL = (
    "attention_online", "attention_ring", "attention_padded_masked", "attention_powers_of_two",
    "attention_keys_smoothed", "attention_math_kernel", "rope_rotate_half", "rope_tables_anew",
    "norm_and_rope_one_kernel", "rows_parallel", "columns_parallel", "linears_addmm", "gelu_written_out",
    "modulation_fused", "blocks_offloaded", "time_embedding_kept",
)  # fmt: skip
FAULTS_OF_THE_MODEL = (
    "fp8_attention_outputs", "attention_top_quarter", "values_smoothed", "attention_frames_alone",
    "rope_height_reversed", "modulation_one_lost",
)  # fmt: skip
OF_THE_VAE = ("vae_own_padding", "vae_by_taps", "vae_pixel_shuffle", "vae_tiling_idle")


def test_the_third_list_is_complete_and_repeats_nothing_of_the_others() -> None:
    wrong, harmless = third_faults(), third_healthy()
    assert len(wrong) == 30
    assert len([entry for entry in harmless if entry.running]) == 30
    assert len(WRITTEN) == 30
    others = {entry.id for entry in (*faults(), *healthy(), *second_faults(), *second_healthy())}
    assert not others & {entry.id for entry in (*wrong, *harmless)}
    assert not (set(INJECTIONS) | set(SECOND_INJECTIONS)) & set(THIRD_INJECTIONS)
    assert not (set(EDITS) | set(SECOND_EDITS)) & set(THIRD_EDITS)
    assert not (set(CHANGES) | set(SECOND_CHANGES)) & set(THIRD_CHANGES)
    used = {entry.running or entry.files or entry.frames for entry in (*wrong, *harmless)}
    assert used == {*THIRD_INJECTIONS, *THIRD_EDITS, *THIRD_CHANGES}
    for entries in (wrong, harmless):
        forms = [entry.form for entry in entries]
        assert abs(forms.count("fp8") - forms.count("nvfp4")) <= 2
    assert all(entry.healthy == (entry in harmless) for entry in (*wrong, *harmless))


@cache
def _model() -> Any:
    torch.manual_seed(0)
    model = diffusers.WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=24,
        in_channels=4,
        out_channels=4,
        text_dim=8,
        freq_dim=16,
        ffn_dim=32,
        num_layers=4,
        rope_max_seq_len=16,
    )
    return model.requires_grad_(False)


@cache
def _vae() -> Any:
    torch.manual_seed(0)
    vae = diffusers.AutoencoderKLWan(
        base_dim=8,
        decoder_base_dim=8,
        z_dim=4,
        dim_mult=[1, 1],
        num_res_blocks=1,
        temperal_downsample=[True],
        latents_mean=[0.1] * 4,
        latents_std=[1.5] * 4,
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=4,
        scale_factor_temporal=2,
    )
    return vae.requires_grad_(False)


def _velocity() -> torch.Tensor:
    made = torch.Generator().manual_seed(1)
    states, text = torch.randn(1, 4, 3, 6, 8, generator=made), torch.randn(1, 5, 8, generator=made)
    with torch.no_grad():
        velocity: torch.Tensor = _model()(states, torch.tensor([500.0]), text, return_dict=False)[0]
    return velocity


def _frames() -> torch.Tensor:
    latents = torch.randn(1, 4, 3, 3, 4, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        frames: torch.Tensor = _vae().decode(latents, return_dict=False)[0]
    return frames


def _patch(stack: ExitStack) -> Patch:
    backend: Any = SimpleNamespace(pipe=SimpleNamespace(vae=_vae()), experts={"transformer": _model()})
    return Patch(backend, stack)


def _difference(made: torch.Tensor, plain: torch.Tensor) -> float:
    return float((made - plain).norm() / plain.norm())


@pytest.mark.parametrize("name", [*OF_THE_MODEL, *FAULTS_OF_THE_MODEL])
def test_the_experts_compute_the_same_in_another_healthy_way_and_not_with_a_fault(name: str) -> None:
    plain = _velocity()
    with ExitStack() as stack:
        THIRD_INJECTIONS[name](_patch(stack))
        difference = _difference(_velocity(), plain)
    assert (difference < ROUNDING) == (name in OF_THE_MODEL), difference
    assert torch.equal(_velocity(), plain)


@pytest.mark.parametrize("name", [*OF_THE_VAE, "vae_relu"])
def test_the_vae_decodes_the_same_in_another_healthy_way_and_not_with_a_fault(name: str) -> None:
    plain = _frames()
    with ExitStack() as stack:
        THIRD_INJECTIONS[name](_patch(stack))
        difference = _difference(_frames(), plain)
    assert (difference < ROUNDING) == (name in OF_THE_VAE), difference
    assert torch.equal(_frames(), plain)


def test_the_solver_steps_flat_latents_to_the_same_values() -> None:
    random = torch.Generator().manual_seed(3)
    start = torch.randn(1, 4, 3, 6, 8, generator=random)
    velocities = torch.randn(4, *start.shape, generator=random)

    def last(change: Any) -> torch.Tensor:
        made = diffusers.UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        )
        made.set_timesteps(4)
        made, latents = change(made), start
        for velocity, moment in zip(velocities, made.timesteps, strict=True):
            latents = made.step(velocity, moment, latents, return_dict=False)[0]
        return latents

    changes: list[Any] = []
    with ExitStack() as stack:
        backend: Any = SimpleNamespace(reschedule=changes)
        THIRD_INJECTIONS["solver_flattened"](Patch(backend, stack))
        torch.testing.assert_close(last(changes[0]), last(lambda made: made))


@pytest.mark.parametrize("name", sorted(THIRD_CHANGES))
def test_a_change_of_frames_keeps_the_kind_of_array_and_changes_it(name: str) -> None:
    frames = np.random.default_rng(0).integers(20, 220, (5, 16, 24, 3)).astype(np.uint8)
    changed = THIRD_CHANGES[name](frames.copy())
    assert changed.dtype == np.uint8
    assert changed.shape == frames.shape
    assert np.abs(changed.astype(np.int64) - frames).max() > 5


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Tensors by component and name, read as libraries do: by the index, else from the file with the usual name."""
    tensors: dict[str, torch.Tensor] = {}
    for component in COMPONENTS:
        path = path_of(folder, component)
        index = path.parent / f"{path.name}.index.json"
        files = {path.name}
        if index.exists():
            files = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        for file in files:
            tensors |= {f"{component}/{name}": tensor for name, tensor in load_file(path.parent / file).items()}
    return tensors


KEPT = (
    "blocks.1.ffn.net.2.",
    "blocks.2.attn2.to_out.",
    "blocks.3.attn1.to_out.",
    "shared.",
    "encoder.block.1.layer.1.",
    "decoder.conv_in.",
)
"""Tensors of the small exports, which are enough for each edit and fast to copy."""


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copies of both exports with a few tensors of each component."""
    root = tmp_path_factory.mktemp("exports")
    for form in FORMS:
        shutil.copytree(EXPORTS / form, root / form, ignore=shutil.ignore_patterns("*.safetensors"))
        for component in COMPONENTS:
            with safe_open(path_of(EXPORTS / form, component), "pt") as opened:
                kept = {name: opened.get_tensor(name) for name in opened.keys() if name.startswith(KEPT)}  # noqa: SIM118
                save_file(kept, path_of(root / form, component), opened.metadata())
    return root


def _edited(tmp_path: Path, export: Path, name: str) -> Path:
    folder = tmp_path / "x" / "export"
    shutil.copytree(export, folder)
    THIRD_EDITS[name](folder)
    return folder


def _raw(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(-1).view(torch.uint8)


@pytest.mark.parametrize(
    "entry", [entry for entry in WRITTEN if not entry.value_changes], ids=lambda entry: entry.files
)
def test_a_healthy_rewrite_keeps_every_tensor(tmp_path: Path, exports: Path, entry: Entry) -> None:
    before, after = _tensors(exports / entry.form), _tensors(_edited(tmp_path, exports / entry.form, entry.files))
    assert before
    assert after.keys() == before.keys()
    assert all(torch.equal(_raw(after[key]), _raw(before[key])) for key in before)


def test_zeros_of_another_sign_and_other_levels_of_scales_are_the_same_weights(tmp_path: Path, exports: Path) -> None:
    after, before = _tensors(_edited(tmp_path / "z", exports / "fp8", "zeros_signed")), _tensors(exports / "fp8")
    assert all(torch.equal(after[key].float(), before[key].float()) for key in before)
    assert any(not torch.equal(_raw(after[key]), _raw(before[key])) for key in before)
    after, before = (
        _tensors(_edited(tmp_path / "s", exports / "nvfp4", "scales_rebalanced")),
        _tensors(exports / "nvfp4"),
    )
    second = [key for key in before if key.endswith("weight_scale_2")]
    assert second
    for key in second:
        blocks = key.removesuffix("_2")
        assert torch.equal(after[key] * after[blocks].float(), before[key] * before[blocks].float())
    assert {key for key in before if not torch.equal(_raw(after[key]), _raw(before[key]))} == {
        name for key in second for name in (key, key.removesuffix("_2"))
    }


@pytest.mark.parametrize("name", ["tokenizer_saved_after_use", "tokenizer_older_keys", "tokenizer_class_fast"])
def test_the_tokenizer_gives_the_same_tokens_after_a_rewrite(tmp_path: Path, exports: Path, name: str) -> None:
    from transformers import AutoTokenizer

    def tokens(folder: Path) -> Any:
        read = AutoTokenizer.from_pretrained(folder / "tokenizer")
        texts = ["a red circle moving right on a blue background", ""]
        return read(texts, padding="max_length", max_length=64, truncation=True)["input_ids"]

    assert tokens(_edited(tmp_path, exports / "fp8", name)) == tokens(exports / "fp8")


def test_what_is_left_out_of_the_configuration_of_the_vae_is_its_default(tmp_path: Path, exports: Path) -> None:
    before = diffusers.AutoencoderKLWan.load_config(EXPORTS / "fp8" / "vae")
    after = diffusers.AutoencoderKLWan.load_config(_edited(tmp_path, exports / "fp8", "vae_defaults_left_out") / "vae")
    made = [dict(diffusers.AutoencoderKLWan.from_config(config).config) for config in (before, after)]
    assert {key: value for key, value in made[0].items() if key != "_use_default_values"} == {
        key: value for key, value in made[1].items() if key != "_use_default_values"
    }


@pytest.mark.parametrize(
    ("form", "name", "touched"),
    [
        ("nvfp4", "scales_of_other_expert", "transformer/blocks.1.ffn.net.2.weight_scale"),
        ("nvfp4", "bytes_in_other_order", "transformer/blocks.3.attn1.to_out.0.weight"),
        ("fp8", "weight_transposed", "transformer_2/blocks.2.attn2.to_out.0.weight"),
        ("fp8", "input_scales_alike", "transformer/blocks."),
        ("fp8", "te_ffn_zero", "text_encoder/encoder.block.1.layer.1.DenseReluDense.wo.weight"),
        ("fp8", "vae_conv_in_rolled", "vae/decoder.conv_in.weight"),
    ],
)
def test_a_fault_of_files_changes_the_tensors_that_it_names(
    tmp_path: Path, exports: Path, form: str, name: str, touched: str
) -> None:
    after, before = _tensors(_edited(tmp_path, exports / form, name)), _tensors(exports / form)
    changed = {key for key in before if not torch.equal(_raw(after[key]), _raw(before[key]))}
    assert changed
    assert all(key.startswith(touched) for key in changed)
    if name == "input_scales_alike":
        assert all(key.endswith("input_scale") for key in changed)


def test_an_indented_header_is_read(tmp_path: Path, exports: Path) -> None:
    folder = _edited(tmp_path, exports / "fp8", "header_indented")
    for expert in EXPERTS:
        with safe_open(path_of(folder, expert), "pt") as opened:
            assert opened.metadata() == {"format": "pt"}
