"""The GPU's kernels where there is no GPU: run by Triton's interpreter, compiled for Hopper, and asked for in vain."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from harness.frames.clip import Clip
from harness.frames.errors import MetricUnavailableError
from harness.frames.kernels import triton_path
from harness.frames.metric import Pair
from harness.frames.statistics import default_implementation, pair_statistics

needs_triton = pytest.mark.skipif(
    find_spec("triton") is None, reason="triton is not installed: CUDA builds of torch bring it, pip install triton too"
)


@pytest.fixture(autouse=True)
def _asked_anew() -> Iterator[None]:
    triton_path.why_not.cache_clear()
    yield
    triton_path.why_not.cache_clear()


def interpret(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(Path(__file__).with_name("interpreted.py")), *arguments],
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@needs_triton
def test_interpreted_kernels_equal_scikit_image() -> None:
    done = interpret()
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["triton"]


@needs_triton
def test_a_lost_rest_is_seen() -> None:
    done = interpret("rest")
    assert done.returncode == 1
    assert "AssertionError" in done.stderr


@needs_triton
def test_kernels_compile_for_hopper(tmp_path: Path) -> None:
    script = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from harness.frames.kernels import triton_path, triton_rows
for kernel, key, out, fixed in (
    (triton_rows.ssim_rows, "ssim", "*fp32", {"tile": 32}),
    (triton_rows.point_rows, "point", "*i64", {"rows": 32}),
    (triton_rows.block_rows, "block", "*i32", {"side": 8}),
):
    constants = fixed | {"block": triton_path.LANES[key]}
    types = {"golden": "*u8", "candidate": "*u8", "frames": "*u8", "out": out} | dict.fromkeys(constants, "constexpr")
    signature = {name: types.get(name, "i32") for name in kernel.arg_names}
    places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=places)
    built = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": triton_path.WARPS[key]})
    assert built.asm["cubin"]
    print(key)
"""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environment | {"TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["ssim", "point", "block"]


def test_without_triton_torch_runs_and_the_receipt_says_so(make_clip: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_path, "find_spec", lambda _: None)
    clip: Clip = make_clip(1, 8, 8)  # type: ignore[operator]
    assert default_implementation("cuda") == "torch"
    assert Pair(clip, clip, "cuda").implementation_used == "torch"
    with pytest.raises(MetricUnavailableError, match=r"not installed.*choose implementation='torch'"):
        pair_statistics(clip, clip, "triton")


def test_triton_is_the_default_of_a_cuda_device_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(triton_path, "find_spec", lambda _: object())
    monkeypatch.setenv("CC", "cc")
    assert [default_implementation(device) for device in ("cpu", "cuda", "cuda:1", "mps")] == [
        "numba",
        "triton",
        "triton",
        "torch",
    ]


def test_without_a_c_compiler_triton_cannot_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(triton_path, "find_spec", lambda _: object())
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "C compiler" in triton_path.why_not("cuda")
    assert default_implementation("cuda") == "torch"
