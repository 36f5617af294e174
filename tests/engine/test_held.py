"""Digests of the weights in memory: equal for equal values in any dtype and layout, other for other values."""

from __future__ import annotations

import pytest
import torch

from harness.engine import held
from harness.engine.held import HeldWeights, held_weights


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = torch.nn.ModuleList(torch.nn.Conv3d(2, 2, 1) for _ in range(3))
        self.table = torch.nn.Parameter(torch.randn(5000))
        self.register_buffer("computed", torch.rand(3), persistent=False)


def test_tensors_of_one_kind_stand_in_one_line() -> None:
    digests = held_weights({"transformer": Model(), "transformer_2": None})
    assert set(digests) == {"transformer"}
    assert set(digests["transformer"]) == {"blocks.*.weight", "blocks.*.bias", "table"}
    assert len(digests["transformer"]["blocks.*.weight"].split()) == 3


def test_another_dtype_or_memory_layout_holds_the_same_values() -> None:
    assert held_weights({"vae": Model().double()}) == held_weights({"vae": Model()})
    other = Model()
    for block in other.blocks:
        block.to(memory_format=torch.channels_last_3d)
    assert held_weights({"vae": other}) == held_weights({"vae": Model()})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_a_cast_and_back_is_seen_and_one_to_bfloat16_is_named(dtype: torch.dtype) -> None:
    model = Model()
    model.blocks[1].weight.data = model.blocks[1].weight.data.to(dtype).float()
    before, after = (held_weights({"vae": one})["vae"] for one in (Model(), model))
    assert {kind for kind in before if before[kind] != after[kind]} == {"blocks.*.weight"}
    golden, run = (row["blocks.*.weight"].split()[1].split("/") for row in (before, after))
    assert (run[0] == golden[1]) == (dtype is torch.bfloat16)


def test_a_second_reading_hashes_only_what_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    model, reader = Model(), HeldWeights()
    hashed: list[torch.Tensor] = []
    digest = held._digest

    def counted(values: torch.Tensor) -> str:
        hashed.append(values)
        return digest(values)

    model.register_buffer("scale", torch.ones(4).to(torch.float8_e4m3fn))
    monkeypatch.setattr(held, "_digest", counted)
    before = reader.read({"vae": model})
    assert len(hashed) == 2 * 8
    assert reader.read({"vae": model}) == before
    assert len(hashed) == 2 * 8
    with torch.no_grad():
        model.table[0] += 1.0
    after = reader.read({"vae": model})
    assert len(hashed) == 2 * 9
    assert {kind for kind in before["vae"] if before["vae"][kind] != after["vae"][kind]} == {"table"}
    assert after == held_weights({"vae": model})
