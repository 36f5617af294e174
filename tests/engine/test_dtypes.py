"""The dispatcher tells in which dtype operations computed."""

from __future__ import annotations

import contextlib

import torch

from harness.engine.dtypes import DtypeWatch, first_call


def test_a_norm_in_float32_and_one_in_bfloat16_are_told_apart() -> None:
    norm, x = torch.nn.LayerNorm(8), torch.randn(2, 8)
    with DtypeWatch() as wide, torch.no_grad():
        norm(x)
    with DtypeWatch() as narrow, torch.no_grad():
        norm.bfloat16()(x.bfloat16())
    assert wide.counts["native_layer_norm:float32"] == 1
    assert narrow.counts["native_layer_norm:bfloat16"] == 1


def test_a_cast_is_counted_by_what_it_makes_and_views_are_not_counted() -> None:
    with DtypeWatch() as watch:
        torch.randn(4).to(torch.float8_e4m3fn).view(2, 2)
    assert watch.counts["_to_copy:float8_e4m3fn"] == 1
    assert not any(name.startswith("view:") for name in watch.counts)


def test_what_a_hook_computes_is_left_out() -> None:
    busy = True
    with DtypeWatch(lambda: busy) as watch:
        torch.randn(4) + 1
        busy = False
        torch.randn(4) * 2
    assert "add:float32" not in watch.counts
    assert watch.counts["mul:float32"] == 1


def test_only_the_first_call_of_a_module_is_watched_and_an_error_ends_the_watch() -> None:
    linear = torch.nn.Linear(4, 4)
    with first_call(linear) as watch, torch.no_grad():
        linear(torch.randn(1, 4))
        linear(torch.randn(1, 4))
    assert watch.counts == {"addmm:float32": 1}
    with first_call(linear) as broken, torch.no_grad():
        with contextlib.suppress(RuntimeError):
            linear(torch.randn(1, 5))
        torch.randn(4) + 1
    assert "add:float32" not in broken.counts
