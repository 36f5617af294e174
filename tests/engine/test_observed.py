"""Facts of tensors that every backend observes, against values worked out by hand."""

from __future__ import annotations

import torch

from harness.engine.observed import FloatRange, repeated_frames, text_facts
from harness.engine.probes.watching import InputWatch


def test_frames_of_a_decoder_that_returns_a_tuple_are_counted() -> None:
    watch = FloatRange()
    bad = torch.zeros(1, 3, 2, 4, 4)
    bad[0, 0, 1, 0, 0] = float("inf")
    for part in ((torch.ones(1, 3, 3, 4, 4),), (bad,), "no tensor", torch.zeros(3)):
        watch(None, None, part)
    assert watch.frames == 5
    assert watch.facts() == {"nan": 0, "inf": 1, "minimum": 0.5, "maximum": 1.0, "first_bad_frame": 4}


def test_a_text_encoder_without_a_mask_has_facts_and_padding_moves_none() -> None:
    embeds = torch.zeros(1, 4, 2, dtype=torch.bfloat16)
    short, long = torch.tensor([[5, 7]]), torch.tensor([[5, 7, 0, 0]])
    facts = text_facts(embeds, [short], [None])
    assert (facts["length"], facts["dtype"]) == (4, "bfloat16")
    assert facts == text_facts(embeds, [long], [torch.zeros(1, 4)])
    assert facts["tokens"] != text_facts(embeds, [torch.tensor([[7, 5]])], [None])["tokens"]
    assert facts["mask"] != text_facts(embeds, [short], [torch.ones(1, 2)])["mask"]
    assert text_facts(None, [short], [None]) == {}


def test_frames_that_repeat_the_previous_frame_are_counted() -> None:
    latents = torch.arange(2 * 3 * 4 * 4, dtype=torch.float32).reshape(1, 2, 3, 4, 4)
    assert repeated_frames(latents) == 0
    latents[:, :, 2] = latents[:, :, 1]
    assert repeated_frames(latents) == 1
    assert repeated_frames(latents[:, :, :1]) == repeated_frames(latents[0]) == 0


def test_the_first_and_last_conditional_pass_of_each_expert_are_kept() -> None:
    class Expert(torch.nn.Module):
        def forward(self, **_: torch.Tensor) -> None:
            return None

    experts = {"transformer": Expert(), "transformer_2": Expert()}
    watch = InputWatch()
    with watch.watching(experts):
        for step, role in ((900, "transformer"), (700, "transformer"), (500, "transformer"), (300, "transformer_2")):
            text = torch.tensor([[[1.0], [2.0], [0.0]]])
            for row in (text, -text):  # conditional, then unconditional
                latents = torch.full((2, 1, 1, 1, 1), float(step))
                experts[role](hidden_states=latents, timestep=torch.tensor([step]), encoder_hidden_states=[row])
    ends = watch.ends()
    assert [(item.expert, item.step, item.value) for item in ends] == [
        ("transformer", 0, 900.0), ("transformer", 2, 500.0), ("transformer_2", 3, 300.0),
    ]  # fmt: skip
    assert ends[0].latents.shape[0] == 1
    assert ends[0].trimmed().flatten().tolist() == [1.0, 2.0]
    assert ends[0].facts()["tokens"] == 3
