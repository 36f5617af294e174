"""The same machine gives the same bits, in another process too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from harness.definitions.case import Case
from harness.engine.owner import EngineOwner, EnginePool


def test_two_processes_give_the_same_bits_and_trace(
    random_wan: Path, make_wan_case: Callable[..., Case], tmp_path: Path
) -> None:
    case = make_wan_case(transformer={"path": "./nvfp4"})
    paths = {"model": random_wan / "bf16", "transformer": random_wan / "nvfp4"}
    runs = []
    for name in ("first", "second"):
        with EngineOwner(case, tmp_path / name, {}, paths, device="cpu") as owner:
            start = owner.start()
            assert set(start.quantized_modules) == {"transformer"}
            runs.append(owner.generate(case, tmp_path / name))
    first, second = runs
    assert first.clip_sha256 == second.clip_sha256
    assert first.trace.initial_latents_sha256 == second.trace.initial_latents_sha256
    for one, other in zip(first.trace.steps, second.trace.steps, strict=True):
        assert one.model_copy(update={"seconds": 0.0}) == other.model_copy(update={"seconds": 0.0})
    assert first.receipts == second.receipts


def test_many_cases_on_one_engine_load_the_model_once_and_do_not_touch_each_other(
    random_wan: Path, make_wan_case: Callable[..., Case], tmp_path: Path
) -> None:
    cases = [
        make_wan_case(id="a"),
        make_wan_case(id="b", sampling={"prompt": "cc", "guidance_scale": 5.0, "num_frames": 9}),
        make_wan_case(id="c", scheduler={"flow_shift": 1.0, "boundary_ratio": 0.3}),
        make_wan_case(id="d", scheduler={"name": "FlowMatchEulerDiscreteScheduler"}),
        make_wan_case(id="again"),
    ]
    with EnginePool(tmp_path, {}, lambda _: {"model": random_wan / "bf16"}, device="cpu") as pool:
        digests = []
        for case in cases:
            engine = pool.get(case)
            digests.append(engine.generate(case, tmp_path / case.id).clip_sha256)
            assert engine.start_record is not None
            assert engine.start_record.loads == 1
        assert pool.loads == 1
    assert digests[0] == digests[-1]
    assert len(set(digests)) == 4
