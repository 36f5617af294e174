"""The meter on a pipeline of stubs whose clock is set by hand: every second has one place."""

from __future__ import annotations

import types
from typing import Any

import pytest
import torch

from harness.engine import meter as under_test
from harness.engine.meter import Meter
from harness.engine.profile import timed_blocks
from harness.engine.yardstick import Yardstick

CPU = torch.device("cpu")


class Clock:
    """Seconds that pass only if somebody says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Takes(torch.nn.Module):
    """A module that takes some seconds, another number at each call."""

    def __init__(self, clock: Clock, *seconds: float) -> None:
        super().__init__()
        self.clock, self.seconds = clock, list(seconds)

    def forward(self) -> None:
        self.clock.now += self.seconds.pop(0)


class Scheduler:
    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def step(self) -> str:
        self.clock.now += 100.0  # what happens between two steps is no part of either
        return "stepped"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(under_test.time, "perf_counter", clock)
    return clock


def pipeline(clock: Clock) -> Any:
    vae = torch.nn.Module()
    vae.decoder = Takes(clock, 5.0, 6.0)
    return types.SimpleNamespace(
        text_encoder=Takes(clock, 1.0, 2.0),
        transformer=Takes(clock, 10.0, 11.0, 20.0, 21.0),
        transformer_2=Takes(clock, 30.0),
        vae=vae,
        scheduler=Scheduler(clock),
    )


def generate(pipe: Any) -> None:
    pipe.text_encoder()
    pipe.text_encoder()
    for _ in range(2):
        pipe.transformer()
        pipe.transformer()  # guidance: a second pass of the same step
        assert pipe.scheduler.step() == "stepped"
    pipe.transformer_2()
    pipe.scheduler.step()
    pipe.vae.decoder()
    pipe.vae.decoder()


def test_every_second_has_its_place(clock: Clock) -> None:
    pipe, meter = pipeline(clock), Meter(CPU, 3, "native")
    with meter.watching(pipe):
        generate(pipe)
    usage = meter.usage()
    assert usage.steps == (21.0, 41.0, 30.0)
    assert usage.warm == (41.0, 30.0)
    assert usage.experts == ("transformer", "transformer", "transformer_2")
    assert (usage.text_encoder, usage.vae) == (3.0, 11.0)
    assert usage.total == 3 + 92 + 300 + 11
    assert (usage.clock, usage.ordinal, usage.attention) == ("host", 3, "native")
    assert usage.memory == (), "no memory of a GPU on a CPU"
    assert meter.peak is None


def test_nothing_stays_on_the_pipeline(clock: Clock) -> None:
    pipe, meter = pipeline(clock), Meter(CPU, 1)
    with meter.watching(pipe):
        pass
    assert "step" not in vars(pipe.scheduler)
    assert not any(
        module._forward_hooks or module._forward_pre_hooks for module in (pipe.transformer, pipe.vae.decoder)
    )


def test_work_of_other_watchers_is_no_part_of_a_step(clock: Clock) -> None:
    pipe, meter = pipeline(clock), Meter(CPU, 1)

    def slow_watcher(*_: Any) -> None:
        clock.now += 1000.0

    pipe.transformer_2.register_forward_pre_hook(slow_watcher)
    pipe.transformer_2.register_forward_hook(slow_watcher)
    with meter.watching(pipe):
        generate(pipe)
    assert meter.usage().steps[-1] == 30.0


def test_a_pipeline_without_text_encoder_has_no_time_for_it(clock: Clock) -> None:
    pipe, meter = pipeline(clock), Meter(CPU, 1)
    pipe.text_encoder = None
    with meter.watching(pipe):
        pipe.transformer()
        pipe.scheduler.step()
    assert meter.usage().text_encoder is None
    assert meter.usage().vae is None


def test_blocks_are_timed_apart(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    model = torch.nn.Module()
    model.blocks = torch.nn.ModuleList([Takes(clock, 1.0, 1.0, 9.0), Takes(clock, 4.0, 4.0, 4.0)])
    with timed_blocks({"transformer": model}, cuda=False) as times:
        for _ in range(3):
            for block in model.blocks:
                block()
    assert times() == {"transformer.blocks.0": 1.0, "transformer.blocks.1": 4.0}


def test_the_speed_of_the_cpu_is_measured_beside_the_steps_and_is_no_part_of_them(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow:
        spent = 0.0

        def seconds(self) -> float:
            clock.now += 7.0
            self.spent += 7.0
            return self.spent

    monkeypatch.setattr(under_test, "Yardstick", Slow)
    pipe, meter = pipeline(clock), Meter(CPU, 1)
    with meter.watching(pipe):
        generate(pipe)
    usage = meter.usage()
    assert usage.steps == (21.0, 41.0, 30.0)
    assert (usage.text_encoder, usage.vae) == (3.0, 11.0)
    assert usage.total == 3 + 92 + 300 + 11
    assert usage.cpu is not None
    # the text encoder's two calls have four measurements, then three steps, then the decoder's two calls
    assert (usage.cpu.text_encoder, usage.cpu.steps, usage.cpu.vae) == (17.5, (35.0, 42.0, 49.0), 66.5)


def test_the_yardstick_does_the_same_work_each_time_and_draws_no_random_numbers() -> None:
    import numpy as np

    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[union-attr]
    yardstick = Yardstick()
    first = yardstick.seconds()
    assert 0 < first <= yardstick.spent
    before = yardstick.spent
    assert yardstick.seconds() <= yardstick.spent - before, "the untimed pass is spent too"
    expected = yardstick._square @ yardstick._square
    np.testing.assert_array_equal(yardstick._product, expected)
    np.testing.assert_array_equal(yardstick._scaled, yardstick._vector**2)
    np.testing.assert_array_equal(yardstick._copy, yardstick._stream)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert (np.random.get_state()[1] == numpy_state).all()  # type: ignore[index]
