"""Inspect an A14B-shaped FP8 or NVFP4 checkpoint and its float32 base over HTTP: bytes, requests and seconds.

    python -m benchmarks.inspect_a14b [--repo corpus/nvfp4] [--contract NAME]
    python -m benchmarks.inspect_a14b --local [--repo corpus/fp8]

The bytes are computed by a loopback server in a process of its own (``benchmarks.corpus.a14b_server``) and read
through the unpatched ``huggingface_hub`` client; only ``HF_ENDPOINT`` is set. ``--local`` writes files of the same
size as holes, which hold zeros and take no space, and counts the bytes that are read of them; its verdict and its
time mean nothing.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BUDGET = 120 * 2**20
"""Bytes that an inspection of both experts and their base may read."""


def main() -> int:
    """Print one line of figures and the verdict; exit 1 where the verdict or the budget is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repo", default="corpus/nvfp4", help="corpus/nvfp4, corpus/nvfp4-swapped or corpus/fp8")
    parser.add_argument("--contract", action="append", default=[])
    parser.add_argument("--local", action="store_true", help="count the bytes read of local files of these shapes")
    options = parser.parse_args()
    if options.local:
        return local(options.repo.partition("/")[2])
    server = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.corpus.a14b_server"], stdout=subprocess.PIPE, text=True
    )
    try:
        port = server.stdout.readline().strip() if server.stdout else ""
        os.environ.update(
            HF_ENDPOINT=f"http://127.0.0.1:{port}",
            HF_HUB_DISABLE_XET="1",
            HF_HUB_OFFLINE="0",
            HF_HUB_DISABLE_TELEMETRY="1",
        )
        from harness.inspector import inspect_checkpoint

        started = time.perf_counter()
        cpu = time.process_time()
        report = inspect_checkpoint(options.repo, base="corpus/base", contracts=options.contract or ["sglang==0.5.23"])
        seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    finally:
        server.terminate()
        server.wait(timeout=10)
    total = sum(expert.bytes_on_disk for expert in report.experts)
    quantized = [layer for layer in report.layers if layer.format in ("nvfp4", "fp8")]
    proven = sum(layer.state == "proven" for layer in quantized)
    print(f"verdict       {report.outcome}: {report.summary}")
    for item in report.experts:
        print(
            f"{item.expert:13} {item.format} {item.encoding} {item.quantized_modules} Linears, {item.tensors} tensors"
        )
    print(f"proven        {proven} of {len(quantized)} quantized Linears")
    print(
        f"read          {report.bytes_read / 2**20:.1f} MiB of {total / 1e9:.1f} GB and the base, "
        f"{report.requests} requests"
    )
    print(f"time          {seconds:.1f} s wall, {cpu:.1f} s CPU of this process")
    for line in report.not_done:
        print(f"not done      {line}")
    within = report.bytes_read <= BUDGET
    return 0 if within and report.outcome in ("clean", "fault") else 1


def local(kind: str) -> int:
    """Print the bytes that an inspection reads of local files; return 1 if they exceed the budget."""
    from benchmarks.corpus.a14b_server import repository
    from harness.inspector import inspect_checkpoint

    with tempfile.TemporaryDirectory(prefix="quantgate-a14b-") as scratch:
        folders = {name: Path(scratch) / name for name in (kind, "base")}
        for name, folder in folders.items():
            for path, content in repository(name).items():
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                with (folder / path).open("wb") as file:
                    file.write(content if isinstance(content, bytes) else content.header)
                    file.truncate(len(content) if isinstance(content, bytes) else content.size)
        report = inspect_checkpoint(folders[kind], base=folders["base"], digests=False)
    total = sum(expert.bytes_on_disk for expert in report.experts)
    print(f"read          {report.bytes_read / 2**20:.1f} MiB of {total / 1e9:.1f} GB and the base, locally")
    for line in (*report.done, *report.not_done):
        print(f"              {line}")
    return 0 if report.bytes_read <= BUDGET else 1


if __name__ == "__main__":
    sys.exit(main())
