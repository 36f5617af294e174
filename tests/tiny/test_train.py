"""Sixty seconds of training, on one thread: every stage runs, learns, writes a real pipeline and resumes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tiny import train
from tiny.build import build_text_encoder, build_tokenizer, build_vae
from tiny.draw import draw, sample_labels
from tiny.spec import caption
from tiny.train_dit import embed
from tiny.train_vae import decode, encode
from tiny.training.optimizer import MuonAdamW, orthogonalise

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.slow
def test_smoke_training_learns_and_writes_a_pipeline(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from tiny.evaluate import load

    torch.set_num_threads(1)
    train.main(["--smoke", "--out", str(tmp_path), "--device", "cpu"])
    log = capfd.readouterr().err
    first, last = (float(v) for v in log.rpartition("dit: loss ")[2].split("\n")[0].split(" -> "))
    assert last < first
    pipeline = load(tmp_path)
    assert pipeline.config.boundary_ratio == 0.875
    assert type(pipeline.transformer_2).__name__ == "WanTransformer3DModel"
    assert pipeline.transformer.proj_out.weight.dtype == torch.bfloat16
    assert pipeline.vae.dtype == torch.float32
    assert "_name_or_path" not in json.loads((tmp_path / "vae" / "config.json").read_text())
    train.main(["--smoke", "--stage", "dit", "--resume", "--out", str(tmp_path), "--device", "cpu"])
    assert "joint: resumed at step 8" in capfd.readouterr().err


@torch.no_grad()
def test_two_chunks_are_the_same_function_as_diffusers_five() -> None:
    torch.manual_seed(0)
    vae = build_vae()
    for parameter in vae.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.02)
    generator = torch.Generator().manual_seed(0)
    video = draw(sample_labels(1, generator), generator)
    mean, _ = encode(vae, video)
    torch.testing.assert_close(mean, vae.encode(video).latent_dist.mode(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(decode(vae, mean).clamp(-1, 1), vae.decode(mean).sample, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_training_sees_the_embeddings_that_the_pipeline_computes() -> None:
    encoder, tokenizer = build_text_encoder().eval(), build_tokenizer()
    sentence = caption("red", "cross", "up", "cyan")
    padded = tokenizer([sentence], return_tensors="pt", padding="max_length", max_length=64)
    expected = encoder(padded.input_ids, padded.attention_mask).last_hidden_state * padded.attention_mask[..., None]
    ours = embed(encoder, torch.tensor(tokenizer([sentence]).input_ids))
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_orthogonalise_flattens_the_spectrum() -> None:
    matrices = torch.randn(3, 20, 50, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalise(matrices))
    assert values.min() > 0.5
    assert values.max() < 1.3
    assert torch.linalg.svdvals(matrices).max() > 5


def test_optimizer_minimises_and_its_state_round_trips() -> None:
    torch.manual_seed(0)
    layer = torch.nn.Linear(6, 4)
    goal, inputs = torch.randn(32, 4), torch.randn(32, 6)
    optimizer = MuonAdamW(layer.named_parameters())
    optimizer.lr.fill_(0.05)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = (layer(inputs) - goal).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    other = MuonAdamW(torch.nn.Linear(6, 4).named_parameters())
    other.load_state(optimizer.state())
    assert all(torch.equal(a, b) for a, b in zip(other.state().values(), optimizer.state().values(), strict=True))
    with pytest.raises(KeyError, match="first"):
        other.load_state({"count": torch.zeros(())})
