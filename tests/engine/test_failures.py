"""Errors keep their kind on the way from the worker to the parent."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from harness.engine.failures import describe, kind_of, rebuild, shortage
from harness.engine.secrets import redact
from harness.engine.supervisor import kernel_kills
from harness.errors import CheckpointFaultError, InfraError, InvalidCaseError, QuantgateError
from harness.frames.errors import ClipError


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."), "oom"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
            "oom",
        ),
        (MemoryError(), "oom"),
        (RuntimeError("CUDA error: out of memory"), "oom"),
        (RuntimeError("CUDA error: device-side assert triggered"), "device"),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered", 700), "device"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling cublasGemmEx"), "device"),
        (OSError(28, "No space left on device"), "disk"),
        (ValueError("odd"), "crash"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "oom"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"), "oom"),
        (RuntimeError("CUDA error: CUDA_ERROR_OUT_OF_MEMORY"), "oom"),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 64 bytes."), "oom"),
        (RuntimeError("Unable to allocate 5.00 GiB for an array with shape (5, 2)"), "oom"),
        (RuntimeError("Unable to allocate 8 bytes for an array"), "oom"),
        (RuntimeError("std::bad_alloc"), "oom"),
        (RuntimeError("I/O error: Cannot map (os error 12)"), "oom"),
        (RuntimeError("I/O error: written in part (os error 122)"), "disk"),
        (RuntimeError("unable to allocate port 8000"), "crash"),
        (ImportError("libgomp.so.1: cannot allocate memory in static TLS block"), "crash"),
        (RuntimeError("could not create a primitive"), "crash"),
    ],
)
def test_the_kind_of_an_exception(error: Exception, kind: str) -> None:
    assert kind_of(error) == kind


def test_torchs_real_out_of_memory_is_known() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert kind_of(caught.value) == "oom"


@pytest.mark.parametrize(
    "error",
    [
        InvalidCaseError("what", place="here", remedy="do"),
        CheckpointFaultError("what", place="here", remedy="do", code="scale_missing"),
        InfraError("what", place="here", remedy="do", kind="disk"),
        ClipError("what", place="here", remedy="do"),
    ],
)
def test_our_own_errors_arrive_whole(error: QuantgateError) -> None:
    arrived = rebuild(describe(error), place="case", remedy="read the log")
    assert type(arrived) is type(error)
    assert (arrived.message, arrived.place, arrived.remedy) == ("what", "here", "do")
    assert getattr(arrived, "code", None) == getattr(error, "code", None)
    assert getattr(arrived, "kind", None) == getattr(error, "kind", None)


def test_a_foreign_error_gets_the_case_and_the_log() -> None:
    arrived = rebuild(describe(KeyError("x")), place="case", remedy="read the log")
    assert isinstance(arrived, InfraError)
    assert (arrived.message, arrived.place, arrived.remedy, arrived.kind) == (
        "KeyError: 'x'",
        "case",
        "read the log",
        "crash",
    )


def test_the_kernels_counter_is_read(tmp_path) -> None:  # type: ignore[no-untyped-def]
    events = tmp_path / "memory.events"
    events.write_text("low 0\nhigh 3\noom 2\noom_kill 5\noom_group_kill 0\n")
    assert kernel_kills((tmp_path / "absent", events)) == 5
    assert kernel_kills((tmp_path / "absent",)) == 0


def test_a_secret_inside_a_longer_one_does_not_leave_a_rest() -> None:
    assert redact("abc abcdef", {"SHORT": "abc", "LONG": "abcdef"}) == "<SHORT> <LONG>"


def _raised(cause: Exception | None) -> ValueError:
    error = ValueError("cannot be loaded")
    error.__context__, error.__cause__ = MemoryError(), cause
    return error


def test_the_kind_is_that_of_what_an_exception_was_raised_from() -> None:
    for cause in (MemoryError(), OSError(12, "short")):
        error = _raised(cause)
        assert kind_of(error) == "oom"
        assert isinstance(shortage(error, "vae could not be loaded", "here"), InfraError)


def test_a_suppressed_context_does_not_count() -> None:
    error = _raised(None)
    assert kind_of(error) == "crash"
    assert shortage(error, "x", "here") is None
    error.__suppress_context__ = False
    assert kind_of(error) == "oom"


@pytest.mark.parametrize(("limited", "kind"), [(True, "oom"), (False, "crash")])
def test_an_error_that_does_not_name_memory_is_a_shortage_if_there_is_none_left(limited: bool, kind: str) -> None:
    """oneDNN says the same of a shape that it does not support, and of memory that it did not get."""
    program = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from harness.engine.failures import describe\n"
        "from harness.engine.inside.main import describe as inside\n"
        "from harness.engine.room import has_room\n"
        "error = RuntimeError('could not create a primitive')\n"
        "if sys.argv[1] == 'True':\n"
        "    size = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize() + (8 << 20)\n"
        "    resource.setrlimit(resource.RLIMIT_AS, (size, size))\n"
        "print(describe(error)['kind'], inside(error, room=has_room())['room'])\n"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(limited)], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == [kind, str(not limited)]
