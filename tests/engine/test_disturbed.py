"""One unit in the last place, and no more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from harness.engine.backends import wan_loading
from harness.engine.backends.diffusers_backend import DiffusersBackend
from harness.engine.noise import METHOD, Noise, disturbed
from harness.frames.clip import read_clip


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator("cpu").manual_seed(seed)


@given(
    st.lists(st.floats(-1e3, 1e3, width=32).filter(lambda x: abs(x) > 1e-30), min_size=1, max_size=64),
    st.integers(0, 99),
)
def test_float32_moves_by_at_most_numpys_spacing(values: list[float], seed: int) -> None:
    before = torch.tensor(values, dtype=torch.float32)
    after = disturbed(before, "float32", generator(seed))
    moved = np.abs(after.double().numpy() - before.double().numpy())
    assert (moved <= np.spacing(np.abs(before.numpy())).astype(np.float64)).all()


def test_bf16_moves_to_a_neighbour_of_bfloat16() -> None:
    before = torch.randn(4096, generator=generator(1)).to(torch.bfloat16).float()
    after = disturbed(before, "bf16", generator(2))
    exact = before.to(torch.bfloat16)
    up = torch.nextafter(exact, torch.full_like(exact, float("inf"))).float()
    down = torch.nextafter(exact, torch.full_like(exact, float("-inf"))).float()
    # below a power of two the next value is half a unit away; the disturbance takes the whole unit, two values on
    two = [torch.nextafter(one.to(torch.bfloat16), torch.zeros_like(exact)).float() for one in (up, down)]
    near = (after == before) | (after == up) | (after == down) | (after == two[0]) | (after == two[1])
    assert bool(near.all())
    shares = [float((after == before).float().mean()), float((after > before).float().mean())]
    assert shares == pytest.approx([1 / 3, 1 / 3], abs=0.03)


def test_zero_and_what_is_not_finite_stay() -> None:
    odd = torch.tensor([0.0, float("inf"), float("-inf")])
    assert torch.equal(disturbed(odd, "bf16", generator()), odd)
    assert bool(torch.isnan(disturbed(torch.tensor([float("nan")]), "bf16", generator())).all())


@pytest.mark.parametrize("options", [{}, {"initial": False, "between": True}])
def test_a_disturbed_generation_is_near_and_seeded(
    options: dict[str, Any], random_wan: Path, make_wan_case: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wan_loading, "apply", lambda _: torch.set_num_threads(1))
    backend = DiffusersBackend()
    backend.load(make_wan_case(), {"model": random_wan / "bf16"}, "cpu", lambda _: None)

    def run(name: str, seed: int) -> tuple[Any, dict[str, Any]]:
        noise = Noise(seed=seed, **options).model_dump(mode="json")
        out = tmp_path / name
        message = backend.methods()[METHOD](
            {"case": make_wan_case().model_dump(mode="json"), "out_dir": str(out), "noise": noise}, lambda _: None
        )
        assert isinstance(message, dict)
        return read_clip(out / str(message["clip"])).frames, message

    plain = backend.generate(make_wan_case(), tmp_path, lambda _: None)
    frames = read_clip(tmp_path / plain.clip).frames.astype(int)
    (one, message), (again, _), (other, _) = run("a", 1), run("b", 1), run("c", 2)
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    assert 0 < np.abs(one - frames).mean() < 8
    assert message["trace"]["initial_latents_sha256"] == plain.trace.initial_latents_sha256
    assert backend.generate(make_wan_case(), tmp_path, lambda _: None).clip_sha256 == plain.clip_sha256
