"""The models that take an image: they start as the text-to-video model does and are trained on what pipelines give."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tiny import train_variants
from tiny.draw import draw_from_centre, sample_labels
from tiny.finish_variants import finish, repository
from tiny.measure import measure
from tiny.spec import DIRECTIONS, FRAMES, HEIGHT, LATENT_SHAPE, WIDTH
from tiny.train_variants import Data, draw_batch, first_frame_mask, initial_experts
from tiny.variants import I2V, TEXT_TO_VIDEO, TI2V, VARIANTS, Variant

pytestmark = pytest.mark.filterwarnings("ignore")


def load_expert(name: str) -> Any:
    from diffusers import WanTransformer3DModel

    kind: Any = WanTransformer3DModel
    return kind.from_pretrained(str(TEXT_TO_VIDEO), subfolder=name, torch_dtype=torch.float32, local_files_only=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What three small steps of training leave for both models."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("trained")
    for name in VARIANTS:
        train_variants.main(["--only", name, "--smoke", "--device", "cpu", "--out", str(out)])
    return out


@pytest.fixture(scope="module")
def pipeline_of(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Variant], Any]:
    from diffusers import DiffusionPipeline

    loaded: dict[str, Any] = {}

    def load(variant: Variant) -> Any:
        if variant.name not in loaded:
            folder = tmp_path_factory.mktemp(variant.name)
            finish(variant, trained, 0.3, folder / "committed")
            whole = repository(variant, folder / "whole", folder / "committed")
            kind: Any = DiffusionPipeline
            loaded[variant.name] = kind.from_pretrained(str(whole), local_files_only=True)
            loaded[variant.name].set_progress_bar_config(disable=True)
        return loaded[variant.name]

    return load


def test_a_widened_expert_says_what_the_text_to_video_expert_says() -> None:
    whole = dataclasses.replace(I2V, kept_blocks=(0, 1, 2, 3, 4, 5), ffn_dim=768)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(1, I2V.in_channels, 2, 8, 12, generator=generator)
    text = torch.randn(1, 16, 128, generator=generator)
    for name, expert in initial_experts(whole).items():
        with torch.no_grad():
            message = expert(hidden, torch.tensor([700.0]), text).sample
            expected = load_expert(name)(hidden[:, :16], torch.tensor([700.0]), text).sample
        torch.testing.assert_close(message, expected)


def test_smaller_experts_keep_the_strongest_channels_and_the_blocks_in_order() -> None:
    expert, source = initial_experts(I2V)["transformer"], load_expert("transformer")
    assert len(expert.blocks) == 5
    torch.testing.assert_close(expert.blocks[3].attn1.to_q.weight, source.blocks[4].attn1.to_q.weight)
    into, out = source.blocks[4].ffn.net[0].proj.weight, source.blocks[4].ffn.net[2].weight
    strongest = (into.norm(dim=1) * out.norm(dim=0)).argmax()
    kept = expert.blocks[3].ffn.net[2].weight
    assert kept.shape == (192, 512)
    assert any(torch.equal(out[:, strongest], column) for column in kept.T)


def test_one_expert_is_the_mean_of_two() -> None:
    expert = initial_experts(TI2V)["transformer"]
    both = [load_expert(name).proj_out.weight for name in ("transformer", "transformer_2")]
    torch.testing.assert_close(expert.proj_out.weight, (both[0] + both[1]) / 2)


def test_the_first_frame_does_not_tell_the_direction_and_the_sentence_does() -> None:
    generator = torch.Generator().manual_seed(3)
    labels = sample_labels(24, generator)
    videos = draw_from_centre(labels, generator)
    for video, direction in zip(videos, labels.direction.tolist(), strict=True):
        seen = measure(((video + 1) / 2).permute(1, 2, 3, 0).numpy())
        assert seen.direction == list(DIRECTIONS)[direction]
    first_frames = []
    for direction in range(4):
        labels.direction[:] = direction
        first_frames.append(draw_from_centre(labels, torch.Generator().manual_seed(8))[:, :, 0])
    for frames in first_frames[1:]:
        torch.testing.assert_close(frames, first_frames[0])


@pytest.mark.parametrize("last", [False, True])
def test_i2v_is_trained_on_the_condition_that_the_pipeline_makes(
    pipeline_of: Callable[[Variant], Any], last: bool
) -> None:
    pipeline = pipeline_of(I2V)
    data = Data(I2V, pipeline.vae, 1, 5, torch.device("cpu"))
    generator = torch.Generator().manual_seed(5)
    labels = sample_labels(1, generator)
    video = draw_from_centre(labels, generator)
    _, expected = pipeline.prepare_latents(
        video[:, :, 0], 1, 16, HEIGHT, WIDTH, FRAMES, torch.float32, torch.device("cpu"),
        torch.Generator(), None, video[:, :, -1] if last else None,
    )  # fmt: skip
    torch.testing.assert_close(first_frame_mask(last), expected[:, :4])
    torch.testing.assert_close(data.given[last].float(), expected[:, 4:], rtol=0.05, atol=0.08)
    batch = draw_batch(I2V, data, torch.zeros(4, dtype=torch.int64), 0.0, 1.0)
    assert batch.noisy.shape == (4, I2V.in_channels, *LATENT_SHAPE[1:])


@pytest.mark.parametrize("image", [True, False], ids=["image", "text alone"])
def test_ti2v_is_trained_on_the_timesteps_that_the_pipeline_gives(
    pipeline_of: Callable[[Variant], Any], image: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers import WanImageToVideoPipeline
    from PIL import Image

    pipeline: Any = pipeline_of(TI2V)
    if image:
        kind: Any = WanImageToVideoPipeline
        pipeline = kind(**pipeline.components, expand_timesteps=True)
        pipeline.set_progress_bar_config(disable=True)
    given: list[dict[str, Any]] = []
    hook = pipeline.transformer.register_forward_pre_hook(lambda _m, _a, kw: given.append(kw), with_kwargs=True)
    extra = {"image": Image.new("RGB", (WIDTH, HEIGHT), (200, 30, 30))} if image else {}
    pipeline(
        prompt="a red circle moving up on a blue background", height=HEIGHT, width=WIDTH, num_frames=FRAMES,
        num_inference_steps=2, max_sequence_length=64, output_type="latent", **extra,
    )  # fmt: skip
    hook.remove()
    timestep = given[0]["timestep"].float()
    data = Data(TI2V, pipeline.vae, 1, 5, torch.device("cpu"))
    monkeypatch.setattr(train_variants, "_FIRST_FRAME_SHARE", float(image))
    batch = draw_batch(TI2V, data, torch.zeros(1, dtype=torch.int64), 0.999, 0.999)
    assert batch.timestep.shape == timestep.shape
    torch.testing.assert_close(batch.timestep / batch.timestep.max(), timestep / timestep.max())
    assert bool((batch.noisy[0, :, 0] == data.latents[0, :, 0].float()).all()) is image
    assert batch.weight.mean() == pytest.approx(1.0)


@pytest.mark.slow
def test_training_goes_on_where_it_stopped(trained: Path, capfd: pytest.CaptureFixture[str]) -> None:
    # the budget is time: a busy machine does fewer steps
    done = train_variants.progress(trained / "ti2v-robust.safetensors")["done"]
    train_variants.main(["--only", "ti2v", "--smoke", "--device", "cpu", "--out", str(trained), "--resume"])
    assert f"ti2v-robust: resumed at step {done}" in capfd.readouterr().err
    assert train_variants.progress(trained / "ti2v-robust.safetensors")["done"] >= done >= 1
