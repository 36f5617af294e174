"""Send an exception of the worker to the parent as data, and rebuild an error of the same kind there."""

from __future__ import annotations

import errno
import re
import traceback
from collections.abc import Iterator

from harness import errors
from harness.engine.room import has_room
from harness.errors import CheckpointFaultError, InfraError, InvalidCaseError, QuantgateError
from harness.frames.errors import ClipError
from harness.records.base import Json

_CARRIED: dict[str, type[QuantgateError]] = {
    kind.__name__: kind
    for kind in (InvalidCaseError, CheckpointFaultError, ClipError, InfraError, errors.NoRunnerError)
}
STREAMS = ("stdout", "stderr")
# numbers end with their bracket: Rust's "os error 122" is a full disk quota, and not "os error 12", no memory
_OUT_OF_MEMORY = (
    "out of memory",
    "out_of_memory",  # CUDA's driver and oneDNN give the name of the status
    "not enough memory",
    "allocate memory",
    "failed to allocate",
    "bad_alloc",
    "os error 12)",
    "cudaerrormemoryallocation",
    "status_alloc_failed",  # cuBLAS, cuDNN, cuSOLVER, cuSPARSE: a cudaMalloc of theirs failed
    "allocation_failed",  # cuDNN 9: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED, and HOST
)
_NUMPY_OUT_OF_MEMORY = re.compile(r"unable to allocate [\d.]+ (?:bytes|[kmgtpe]ib)\b")
# glibc's loader says this if a library comes too late for a table of fixed size, however much memory there is
_NOT_OUT_OF_MEMORY = "cannot allocate memory in static tls block"
_DISK = (
    "no space left on device",
    "quota exceeded",
    "os error 28)",
    "os error 122)",
    "input/output error",
    "os error 5)",
)
_DISK_CODES = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS)
_DEVICE = ("cuda error", "device-side assert", "cublas_status", "cudnn_status", "nccl error", "no kernel image")


def kind_of(error: BaseException) -> str:
    """Return the ``InfraError`` kind of an exception: ``oom``, ``device``, ``disk`` or ``crash``.

    Class names and messages decide, so that torch's errors are recognized without importing torch. The whole chain of
    causes is searched, because libraries report "cannot be loaded" for a model that did not fit into memory.
    """
    return next((kind for kind in map(_own_kind, _chain(error)) if kind != "crash"), "crash")


def shortage(error: BaseException, doing: str, place: str) -> InfraError | None:
    """Return an infra error if loading failed for lack of memory, disk or device, which is no fault of the files."""
    kind = kind_of(error)
    return (
        None
        if kind == "crash"
        else InfraError(f"{doing}: {str(error) or type(error).__name__}", place=place, kind=kind)
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _own_kind(error: BaseException) -> str:
    text = str(error).lower()
    names = {kind.__name__ for kind in type(error).__mro__}
    out = isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    if out or "OutOfMemoryError" in names or _reports_no_memory(text):
        return "oom"
    if "AcceleratorError" in names or any(mark in text for mark in _DEVICE):
        return "device"
    if (isinstance(error, OSError) and error.errno in _DISK_CODES) or any(mark in text for mark in _DISK):
        return "disk"
    return "crash"


def _reports_no_memory(text: str) -> bool:
    """Return whether a message in lower case reports that memory could not be had, of the host or of a device."""
    text = text.replace(_NOT_OUT_OF_MEMORY, "")
    return any(mark in text for mark in _OUT_OF_MEMORY) or _NUMPY_OUT_OF_MEMORY.search(text) is not None


def describe(error: BaseException) -> dict[str, Json]:
    """Return an exception as data for the parent."""
    # the end of a traceback names the place, and a message must stay bounded
    data: dict[str, Json] = {"traceback": "".join(traceback.format_exception(error))[-20000:]}
    if isinstance(error, QuantgateError) and type(error).__name__ in _CARRIED:
        kind = error.kind if isinstance(error, InfraError) else ""
        output = error.output if isinstance(error, InfraError) else {}
        return (
            data
            | {name: output[name] for name in STREAMS if name in output}
            | {
                "type": type(error).__name__,
                "message": error.message,
                "place": error.place,
                "remedy": error.remedy,
                "kind": kind,
                "code": error.code if isinstance(error, CheckpointFaultError) else "",
            }
        )
    message = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    kind = kind_of(error)
    # a library that gets no memory may report another error (`harness.engine.room`)
    if kind == "crash" and not has_room():
        kind = "oom"
    return data | {
        "type": "InfraError",
        "message": message,
        "place": "",
        "remedy": "",
        "kind": kind,
        "code": "",
    }


def rebuild(data: dict[str, Json], *, place: str, remedy: str) -> QuantgateError:
    """Return the parent's error for a described exception; ``place`` and ``remedy`` replace empty fields."""
    kind = _CARRIED.get(str(data.get("type")), InfraError)
    message = str(data.get("message"))
    place, next_command = str(data.get("place") or place), str(data.get("remedy") or remedy)
    if kind is InfraError:
        output = {name: str(data[name]) for name in STREAMS if data.get(name)}
        return InfraError(
            message, place=place, remedy=next_command, kind=str(data.get("kind") or "crash"), output=output
        )
    if kind is CheckpointFaultError:
        return CheckpointFaultError(message, place=place, remedy=next_command, code=str(data.get("code") or ""))
    return kind(message, place=place, remedy=next_command)
