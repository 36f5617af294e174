"""One torch thread in every test, and no test changes the modes of torch for the next one."""

from __future__ import annotations

import gc
import os
import signal
import sys
import tempfile
from collections.abc import Iterator

import pytest

# two busy threads on a shared machine are far slower than one
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# a test starts hundreds of commands and engines, and each would compile this project anew
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
# a shell starts what it runs in the background with Ctrl-C ignored, and so would be the commands that tests interrupt
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# digests and proofs that an earlier session kept would hide a fault, and the user's own take long to read
if "PYTEST_XDIST_WORKER" not in os.environ:  # a worker has the folder of the process that started it
    CACHE = tempfile.TemporaryDirectory(prefix="quantgate-tests-")  # removed at the end of this process
    os.environ["QUANTGATE_CACHE"] = CACHE.name


def pytest_collection_finish() -> None:
    """Keep the collector away from the libraries that the collected files imported: each full pass walked all of them.

    pytest makes several such passes at the end of each session, and tests run sessions in this process.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _modes_of_torch() -> Iterator[None]:
    """Restore what ``wan_loading.apply`` sets for a whole process: an engine's process ends, the tests' goes on."""
    yield
    torch = sys.modules.get("torch")  # most tests need no torch, and its import takes seconds
    if torch is not None and hasattr(torch, "set_grad_enabled"):
        torch.set_grad_enabled(True)
        torch.use_deterministic_algorithms(False)
