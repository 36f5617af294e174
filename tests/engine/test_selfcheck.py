"""The selfcheck passes where products are right, and fails where one is not."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch

from benchmarks import selfcheck
from harness.engine.quantized import emulated, native


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.setattr(sys, "argv", ["selfcheck", "--device", "cpu"])


def test_a_cpu_dequantizes(capsys: pytest.CaptureFixture[str]) -> None:
    assert selfcheck.main() == 0
    printed = capsys.readouterr().out
    assert "this device has no native product" in printed
    assert "'fp8/dequantize+linear': 30" in printed
    assert "relative difference 0.00e+00" in printed


def _with(monkeypatch: pytest.MonkeyPatch, native_form: str, product: native.ScaledMM) -> None:
    def choose(form: str, _device: torch.device, policy: str) -> native.Choice:
        return native.Choice(product if policy == "auto" and form == native_form else None)

    monkeypatch.setattr(native, "choose", choose)


@pytest.mark.parametrize("form", ["fp8", "nvfp4"])
def test_a_native_product_runs_a_whole_transformer(
    form: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _with(monkeypatch, form, emulated.scaled_mm)
    assert selfcheck.main() == 0
    printed = capsys.readouterr().out
    assert "native, relative error" in printed
    assert f"'{form}/torch._scaled_mm': 30" in printed
    assert f"'{form}/dequantize+linear': 30" in printed


@pytest.mark.parametrize("form", ["fp8", "nvfp4"])
def test_a_wrong_product_fails(form: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def wrong(a: torch.Tensor, b: torch.Tensor, **options: Any) -> torch.Tensor:
        return emulated.scaled_mm(a, b, **options) * 1.5

    _with(monkeypatch, form, wrong)
    assert selfcheck.main() == 1
    assert "FAILED" in capsys.readouterr().out
