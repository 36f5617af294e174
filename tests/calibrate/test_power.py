"""The benchmark itself: rules as scores, intervals against scipy, and a small run from generation to tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from benchmarks.faults.conditioning import CONDITIONING, alters
from benchmarks.peers import rules_without_weights
from benchmarks.power import design, generate
from benchmarks.power.design import GENERATED, Design, benign, calibration
from benchmarks.power.models import MODELS
from benchmarks.power.result import PeerSaid, Result
from benchmarks.power.rules import apply_peers, severity
from benchmarks.power.score import clustered, distinct_benign, gate_of, roc, scorers, threshold_at, upper_bound
from harness.frames.clip import Clip


def row(prompt: int = 0, seed: int = 0, side: str = "fault", name: str = "f", **more: Any) -> Result:
    fields: dict[str, Any] = {"kind": "output", "clip": name, "bit_exact": False, "values": {}}
    return Result(prompt=prompt, seed=seed, side=side, name=name, **{**fields, **more})


@pytest.mark.parametrize(
    ("rule", "measured", "expected"),
    [
        ("SGLang, video defaults", {"ssim": 0.96, "psnr": 30.0, "mad": 1.0}, 10 ** (-6 / 20)),
        ("SGLang, video defaults", {"ssim": 0.84, "psnr": 30.0, "mad": 1.0}, 2.0),
        ("SGLang, golden publishing", {"ssim": 0.1, "mad": 22.5}, 0.5),
        ("FastVideo, MS-SSIM", {"ms_ssim": 0.86}, 2.0),
        ("vLLM-Omni", {"ssim": 0.97, "psnr": 28.0}, 1.0),
        ("diffusers, 16 values", {"max_abs_difference": 0.002}, 2.0),
        ("Model-Connect, sanity", {}, float("inf")),
    ],
)
def test_rules_as_scores_by_hand(rule: str, measured: dict[str, float], expected: float) -> None:
    assert severity(rule, PeerSaid(passed=False, measured=measured)) == pytest.approx(expected)


def test_a_score_is_above_1_exactly_where_the_rule_fails() -> None:
    random = np.random.default_rng(0)
    golden = Clip(random.integers(0, 256, (5, 48, 64, 3), dtype=np.uint8))
    for level in (0, 1, 4, 20, 90):
        noise = random.integers(-level, level + 1, golden.shape)
        message = apply_peers(golden, Clip(np.clip(golden.frames + noise, 0, 255).astype(np.uint8)))
        assert set(message) == {rule.name for rule in rules_without_weights()}
        for name, answer in message.items():
            assert (severity(name, answer) > 1) is not answer.passed, (level, name, answer)


def test_upper_bounds_are_clopper_pearsons() -> None:
    assert upper_bound(0, 200) == pytest.approx(1 - 0.05 ** (1 / 200))
    exact = stats.binomtest(3, 50).proportion_ci(confidence_level=0.9, method="exact")
    assert upper_bound(3, 50) == pytest.approx(exact.high)
    assert upper_bound(5, 5) == 1.0


def test_runs_of_one_prompt_stay_together() -> None:
    """Two prompts, one all found and one all missed: 200 runs say no more than two do."""
    rows = [row(prompt, seed, name=str(prompt)) for prompt in (0, 1) for seed in (0, 1) for _ in range(50)]
    share, low, high = clustered(rows, lambda one: one.name == "0")
    assert (share, low, high) == (0.5, 0.0, 1.0)
    assert clustered(rows, lambda _: True) == (1.0, 1.0, 1.0)


def test_bit_identical_runs_count_once() -> None:
    rows = [row(side="benign", name=f"r{i}", clip="same") for i in range(5)]
    rows += [row(side="benign", name="other"), row(1, side="benign", clip="same", name="another case")]
    assert len(distinct_benign(rows)) == 3


def test_roc_by_hand() -> None:
    assert threshold_at([0.1, 0.5, 0.9], 0) == 0.9
    assert threshold_at([0.1, 0.5, 0.9], 1) == 0.5
    assert roc([0.1, 0.5], [0.3, 0.6, 0.05]) == [(0.0, 1 / 3), (0.5, 2 / 3), (1.0, 1.0)]


def test_the_design_holds_out_what_calibration_knows() -> None:
    known = {task.noise for task in calibration(30)}
    for device in ("cpu", "cuda"):
        scored = benign(device, 99)
        assert not known & {task.noise for task in scored if task.noise}
        assert len({task.name for task in scored}) == len(scored)
        assert 12 * len(scored) >= 200
        assert sum(task.carries for task in scored) == 1
    assert not set(design.HELD_OUT) & {0.1, 0.25, 0.5, 1.0}
    assert len({task.name for task in GENERATED}) == len(GENERATED)
    assert len(GENERATED) + 46 >= 60
    keys = {task.key(0, 0, "w", "cpu") for task in Design().tasks()}
    assert len(keys) == len(Design().tasks())


def test_a_fault_that_changes_nothing_in_its_picture_is_no_fault() -> None:
    picture = torch.zeros(1, 3, 64, 96)
    picture[:, 1, :, :48] = 1.0  # green on the left: red and blue are equal
    unaltered = {name for name, fault in CONDITIONING.items() if not alters(fault, picture)}
    assert unaltered == {"BGR"}
    assert alters(CONDITIONING["BGR"], picture.roll(1, 1))
    assert not alters(CONDITIONING["mirrored"], torch.ones(1, 3, 64, 96))
    [exchanged] = [task for task in MODELS["i2v"].faults() if task.name == "condition BGR"]
    colours = {prompt: design.PROMPTS[prompt].split()[1::6] for prompt in range(len(design.PROMPTS))}
    assert {prompt for prompt in colours if not MODELS["i2v"].alters(exchanged, prompt)} == {
        prompt for prompt, words in colours.items() if set(words) <= {"white", "black"}
    }
    assert all(MODELS["i2v"].alters(task, 0) for task in GENERATED)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["i2v", "ti2v"])
def test_a_small_run_with_pictures(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks.power import __main__ as command
    from harness.engine.backends import wan_loading

    chosen = tuple(
        task for task in MODELS[model].faults() if task.name in ("condition mirrored", "condition lost before the VAE")
    )
    assert len(chosen) == 2
    monkeypatch.setattr(wan_loading, "apply", lambda _: torch.set_num_threads(1))
    monkeypatch.setattr(generate, "_standing", [])  # the engine of another model
    monkeypatch.setattr(command, "Design", lambda *options: replace(Design(*options), faults=chosen))
    arguments = ["--model", model, "--out", str(tmp_path), "--workers", "0", "--prompts", "1", "--seeds", "1"]
    assert command.main([*arguments, "--calibration", "6", "--benign", "4"]) == 1, "four healthy runs are too few"
    assert "conditioning     2/2" in capsys.readouterr().out.split("Cause named rightly")[1]


@pytest.mark.slow
def test_a_small_run_from_generation_to_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks.power import __main__ as command
    from harness.engine.backends import wan_loading

    small = {**design.SAMPLING, "num_frames": 13, "num_inference_steps": 2, "width": 64}
    chosen = tuple(task for task in GENERATED if task.name in ("nibble_swap@1", "guidance-4", "loader-scales-swizzled"))
    monkeypatch.setattr(design, "SAMPLING", small)
    monkeypatch.setattr(generate, "SAMPLING", small)
    monkeypatch.setattr(wan_loading, "apply", lambda _: __import__("torch").set_num_threads(1))
    monkeypatch.setattr(command, "Design", lambda *options: replace(Design(*options), faults=chosen))
    arguments = ["--out", str(tmp_path), "--workers", "0", "--prompts", "1", "--seeds", "1"]
    arguments += ["--calibration", "6", "--benign", "4"]

    assert command.main([*arguments, "--budget-seconds", "5"]) == 2, "the budget ends first"
    partly = len(list((tmp_path / "results").glob("*.json"))) if (tmp_path / "results").exists() else 0
    assert command.main(arguments) == 1, "four healthy runs are fewer than 200"
    message = capsys.readouterr().out
    assert partly < len(list((tmp_path / "results").glob("*.json"))) == 13
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "results").glob("*.json")}
    assert command.main([*arguments, "--room", "1"]) == 1
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps, "nothing is generated twice"

    assert "49 faults in 49 outputs" in message
    assert "yes every checkpoint, loader, configuration and conditioning fault is found" in message
    assert (tmp_path / "power.png").stat().st_size > 1000
    from benchmarks.power.score import read_some

    rows = read_some(stamps)
    found, gates = scorers(rows)
    assert all(limit.method == "tolerance_bound" for limit in gates[len(design.DEVELOPMENT), 0].limits)
    assert {"nibble_order", "guidance"} <= {code for one in rows for code in one.said}
    assert found["quantgate, all stages"](next(one for one in rows if one.name == "nibble_swap@1")) == float("inf")
    without = gate_of([one for one in rows if one.side != "control"])
    assert all(limit.margin_faulty is None for limit in without.limits)
