"""What probes see of an expert that was broken in one place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.engine.probes import run
from harness.engine.probes.points import InputWatch, Recorded
from harness.engine.quantized import nvfp4
from harness.errors import GoldenError
from harness.judge.observation import Observation, hold_against, hold_against_nearest, read_observation
from harness.records.probe import ProbeEvidence

CPU, BF16 = torch.device("cpu"), torch.bfloat16
Make = Callable[[], tuple[Any, Any]]


@torch.no_grad()
def observed(model: Any, inputs: tuple[Recorded, ...], path: Path, sizes: Any = None) -> Observation:
    index, tensors = run.observe({"transformer": model}, inputs, CPU, BF16, sizes)
    return read_observation(run.write(path, index, tensors))


@pytest.fixture
def look(
    expert: Make, inputs: tuple[Recorded, ...], tmp_path: Path
) -> Callable[[Callable[[Any], None]], ProbeEvidence]:
    """Breaks a quantized expert and holds it against base and healthy golden."""
    base, quantized = expert()
    anchor = observed(base, inputs, tmp_path / "base")
    sizes = dict(anchor.index.amplitudes)
    golden = observed(quantized, inputs, tmp_path / "golden", sizes)

    def broken(change: Callable[[Any], None]) -> ProbeEvidence:
        change(quantized)
        return hold_against(observed(quantized, inputs, tmp_path / "run", sizes), anchor, golden)

    return broken


def test_a_healthy_expert_is_the_goldens_and_near_the_base(look: Any) -> None:
    found = look(lambda model: None)
    assert all(step.golden_error == 0.0 for step in found.steps)
    assert len(found.steps) == 2
    assert all(module.golden_error == 0.0 and module.golden_gain == pytest.approx(1.0) for module in found.modules)
    packed = [module.base_error for module in found.modules if module.format == "nvfp4"]
    assert len(packed) == 20
    assert all(0.04 < error < 0.2 for error in packed if error is not None)


def test_every_swapped_linear_is_off_alone_and_no_other(look: Any, expert: Make) -> None:
    names = [name for name, module in expert()[1].named_modules() if hasattr(module, "weight_scale_2")]
    assert len(names) == 20
    for name in names:

        def swap(model: Any, name: str = name) -> None:
            weight = model.get_submodule(name).weight
            weight.copy_(nvfp4.swap_nibbles(weight))

        found = look(swap)
        # the activation around a projection answers otherwise with it
        off = {module.module for module in found.modules if (module.golden_error or 0) > 0.01}
        assert off - {name.removesuffix(".proj")} == ({name} if name.endswith(".proj") else set())
        swap_back = swap
        look(swap_back)


def test_an_activation_with_another_approximation_is_off_and_its_projection_is_not(look: Any) -> None:
    found = look(lambda model: setattr(model.blocks[1].ffn.net[0], "approximate", "none"))
    assert [(one.module, one.format) for one in found.modules if one.golden_error] == [
        ("blocks.1.ffn.net.0", "activation")
    ]


def test_a_value_that_is_kept_from_the_first_call_shows_at_the_second(look: Any) -> None:
    def change(model: Any) -> None:
        kept: list[Any] = []

        def stale(_module: Any, _inputs: Any, output: Any) -> Any:
            kept.append(output)
            return kept[0]

        model.blocks[0].register_forward_hook(stale)

    found = look(change)
    first, second = ({p.name: p.golden_error for p in step.points} for step in found.steps)
    assert not first["blocks.0"]
    assert (second["blocks.0"] or 0) > 0.01


def test_a_gain_of_a_percent_is_seen_and_measured(look: Any) -> None:
    found = look(lambda model: model.get_submodule("blocks.1.ffn.net.2").weight_scale_2.mul_(1.01))
    (one,) = [module for module in found.modules if (module.golden_error or 0) > 0.006]
    assert one.module == "blocks.1.ffn.net.2"


def test_a_norm_with_another_epsilon_is_where_the_expert_first_diverges(look: Any) -> None:
    def change(model: Any) -> None:
        model.blocks[1].attn1.norm_k.eps = 10.0

    found = look(change)
    off = [(module.module, module.format) for module in found.modules if module.golden_error]
    assert off == [("blocks.1.attn1.norm_k", "norm")]
    first = next(point for point in found.steps[0].points if (point.golden_error or 0) > 0.01)
    assert (first.name, first.kind) == ("blocks.1.attn1.norm_k", "norm")


@pytest.mark.parametrize("name", ["blocks.0.norm1", "blocks.1.attn2.norm_q", "norm_out"])
def test_an_epsilon_of_1e_5_is_seen_in_the_norm_alone(look: Any, name: str) -> None:
    found = look(lambda model: setattr(model.get_submodule(name), "eps", 1e-5))
    assert [module.module for module in found.modules if (module.golden_error or 0) > 0.006] == [name]


def test_points_come_in_order_of_execution(look: Any) -> None:
    names = [point.name for point in look(lambda model: None).steps[0].points]
    order = [names.index(name) for name in ("patch_embedding", "blocks.0.attn1.to_q", "blocks.0.attn1.attention")]
    order += [names.index(name) for name in ("blocks.0.attn1.to_out.0", "blocks.0.ffn.net.2", "blocks.0", "blocks.1")]
    assert order == sorted(order)


def test_nan_is_an_error_and_no_number(look: Any) -> None:
    found = look(lambda model: model.get_submodule("blocks.0.attn1.to_q").weight_scale_2.fill_(float("nan")))
    assert max(module.golden_error or 0 for module in found.modules) == 1e9
    assert ProbeEvidence.model_validate_json(found.to_json()) == found


def test_equal_observations_are_equal_bytes(expert: Make, inputs: tuple[Recorded, ...], tmp_path: Path) -> None:
    base, _ = expert()
    for name in ("one", "two"):
        observed(base, inputs, tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_something_else_is_no_observation(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"nothing")
    with pytest.raises(GoldenError, match="no observation"):
        read_observation(tmp_path / "x")


@torch.no_grad()
def test_recorded_inputs_are_the_conditional_ones_at_both_ends(expert: Make) -> None:
    high, _ = expert()
    low, _ = expert()
    watch = InputWatch()
    with watch.watching({"transformer": high, "transformer_2": low}):
        for step, (model, timestep) in enumerate(
            ((high, 999.0), (high, 900.0), (low, 800.0), (low, 500.0), (low, 100.0))
        ):
            for negative in (False, True):
                latents = torch.full((1, 4, 2, 4, 4), float(step), dtype=BF16)
                text = torch.zeros((1, 6, 16), dtype=BF16)
                text[:, :2] = -1.0 if negative else 1.0
                model(hidden_states=latents, timestep=torch.tensor([timestep]), encoder_hidden_states=text)
    kept = watch.chosen()
    assert [(item.probe.expert, item.probe.step) for item in kept] == [
        ("transformer", 0),
        ("transformer", 1),
        ("transformer_2", 2),
        ("transformer_2", 4),
    ]
    assert all(bool((item.text == 1.0).all()) and item.text.shape[1] == 2 and item.probe.tokens == 6 for item in kept)
    assert [float(item.latents.mean()) for item in kept] == [0.0, 1.0, 2.0, 4.0]


def test_a_module_that_the_recording_has_is_missed(look: Any) -> None:
    def change(model: Any) -> None:
        model.blocks[0].attn2.to_k = torch.nn.Sequential(model.blocks[0].attn2.to_k)

    assert look(change).missing == ("transformer/blocks.0.attn2.to_k",)


@pytest.fixture
def observations(
    expert: Make, inputs: tuple[Recorded, ...], tmp_path: Path
) -> tuple[Observation, Observation, Observation]:
    """Base, golden and a run that is its equal."""
    base, quantized = expert()
    anchor = observed(base, inputs, tmp_path / "base")
    sizes = dict(anchor.index.amplitudes)
    return anchor, *(observed(quantized, inputs, tmp_path / name, sizes) for name in ("golden", "run"))


def without(seen: Observation, *names: str) -> Observation:
    return Observation(seen.index, {name: rows for name, rows in seen.tensors.items() if name not in names})


def test_a_golden_of_an_older_version_may_know_fewer_places(observations: Any) -> None:
    anchor, golden, run = observations
    assert hold_against(run, anchor, without(golden, "points.0", "modules.transformer")).unanchored == ()


def without_point(seen: Observation, name: str) -> Observation:
    """As from an engine in which this point is called otherwise."""
    points = tuple(
        tuple(one.model_copy(update={"name": "other"}) if one.name == name else one for one in row)
        for row in seen.index.points
    )
    return Observation(seen.index.model_copy(update={"points": points}), seen.tensors)


def test_a_step_that_the_run_lacks_is_missed(observations: Any) -> None:
    anchor, golden, run = observations
    found = hold_against(without(run, "velocity.1"), anchor, golden)
    assert (found.missing_steps, len(found.steps)) == (("transformer at step 3",), 1)
    only = hold_against(without(run, "velocity.1"), without(anchor, "velocity.1"), golden)
    assert only.missing_steps == ("transformer at step 3",), "the golden has it"
    assert hold_against(run, anchor, golden).missing_steps == ()


def test_what_cannot_be_compared_with_the_golden_is_told(observations: Any) -> None:
    anchor, golden, run = observations
    assert hold_against(run, anchor, golden).unanchored == ()
    assert hold_against(run, anchor, without(golden, "velocity.1")).unanchored == ("transformer at step 3",)
    renamed = hold_against(without_point(run, "blocks.0.norm1"), anchor, golden)
    assert (renamed.unanchored, renamed.not_passed) == ((), ("transformer/blocks.0.norm1",))
    alone = hold_against(without(run, "modules.transformer"), anchor, golden).unanchored
    assert "transformer/blocks.0.ffn.net.2 alone" in alone


def test_of_two_goldens_the_nearest_is_the_anchor(observations: Any) -> None:
    anchor, golden, run = observations
    far = Observation(golden.index, {name: 2 * rows for name, rows in golden.tensors.items()})
    for order in ((golden, far), (far, golden)):
        assert all(step.golden_error == 0.0 for step in hold_against_nearest(run, anchor, order).steps)
    assert not hold_against_nearest(run, anchor, ()).golden_anchor
