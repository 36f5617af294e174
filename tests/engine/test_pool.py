"""N cases on one engine load the model once; a dead engine is replaced."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.definitions.case import Case
from harness.engine.environment import engine_key
from harness.engine.owner import EnginePool
from harness.errors import InfraError

Make = Callable[..., Case]


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[EnginePool]:
    model = tmp_path / "model"
    model.mkdir()
    (model / "weights").write_bytes(b"aaaa")
    with EnginePool(tmp_path, {}, lambda _: {"model": model}, allow_python_backend=True) as made:
        yield made


def test_many_cases_load_once(pool: EnginePool, make_case: Make, tmp_path: Path) -> None:
    starts = set()
    for number in range(5):
        case = make_case(id=f"case{number}", expect="regression:noise", metrics=["ssim"])
        engine = pool.get(case)
        engine.generate(case, tmp_path / case.id)
        assert engine.start_record is not None
        starts.add((engine.start_record.process, engine.start_record.loads))
    assert pool.loads == 1
    assert len(starts) == 1
    assert starts.pop()[1] == 1


def test_a_dead_engine_is_replaced_and_the_next_case_runs(pool: EnginePool, make_case: Make, tmp_path: Path) -> None:
    first = pool.get(make_case())
    with pytest.raises(InfraError):
        first.generate(make_case("segfault"), tmp_path)
    second = pool.get(make_case())
    assert second is not first
    second.generate(make_case(), tmp_path)
    assert pool.loads == 2


def test_another_engine_makes_room(pool: EnginePool, make_case: Make) -> None:
    first = pool.get(make_case())
    second = pool.get(make_case(env={"A": "1"}))
    assert not first.alive
    assert second.alive
    pool.close_all()
    assert not second.alive


def test_discard_gives_a_fresh_process(pool: EnginePool, make_case: Make) -> None:
    first = pool.get(make_case())
    pool.discard(make_case())
    assert pool.get(make_case()) is not first
    assert not first.alive


def _replace(weights: Path) -> None:
    """By rename, with the size and the modification time that were there."""
    state, other = weights.stat(), weights.with_name("other")
    other.write_bytes(b"bbbb")
    os.utime(other, ns=(state.st_atime_ns, state.st_mtime_ns))
    other.replace(weights)


def test_an_engine_whose_files_were_replaced_is_not_handed_out(
    pool: EnginePool, make_case: Make, tmp_path: Path
) -> None:
    first = pool.get(make_case())
    assert pool.get(make_case()) is first
    _replace(tmp_path / "model" / "weights")
    second = pool.get(make_case())
    assert second is not first
    assert not first.alive
    assert pool.get(make_case()) is second


def test_files_that_change_during_a_run_are_infra(pool: EnginePool, make_case: Make, tmp_path: Path) -> None:
    engine, weights = pool.get(make_case()), tmp_path / "model" / "weights"
    with pytest.raises(InfraError, match=f"files of the checkpoint changed during the run: {weights}"):
        engine.generate(make_case(), tmp_path / "out", lambda _: _replace(weights))
    assert not engine.alive
    engine = pool.get(make_case())
    _replace(weights)
    with pytest.raises(InfraError, match="changed during the run"):
        engine.call("echo", {}, 10)


def test_a_failed_start_leaves_nothing(pool: EnginePool, make_case: Make) -> None:
    with pytest.raises(InfraError):
        pool.get(make_case(env={"FAULT_AT_LOAD": "exit"}))
    assert pool.get(make_case()).alive


SAME_ENGINE = [
    {"id": "other"},
    {"scheduler": {"flow_shift": 5.0}},
    {"timeouts": {"load": 1, "generate": 1}},
    {"model": {"path": "./model", "made_by": "make it"}},
]
OTHER_ENGINE = [
    {"env": {"A": "1"}},
    {"pass_env": ["HOME"]},
    {"model": {"path": "./another"}},
    {"model": {"path": "./model", "revision": "0" * 40}},
    {"transformer": {"path": "./override"}},
    {"transformer_2": {"path": "./override"}},
    {"loader": {"nibble_order": "high_first"}},
    {"execution": {"threads": 2}},
    {"precision": {"vae": "bf16"}},
    {"quantization": {"transformer": "fp8"}},
    {"backend": "diffusers"},
    {"command": ["program"]},
]


@pytest.mark.parametrize("change", SAME_ENGINE, ids=str)
def test_what_does_not_make_an_engine(make_case: Make, change: dict[str, object]) -> None:
    assert engine_key(make_case("another prompt", **change)) == engine_key(make_case())


@pytest.mark.parametrize("change", OTHER_ENGINE, ids=str)
def test_what_makes_an_engine(make_case: Make, change: dict[str, object]) -> None:
    assert engine_key(make_case(**change)) != engine_key(make_case())
