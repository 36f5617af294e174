"""How long case files take to load: ``python -m benchmarks.collection [--cases N]``.

Two files of N cases each: N entries written out, and one ``matrix`` after the other that expands to N. Beside them the
time that ruamel.yaml alone needs to parse the first file, which is the price of the obvious implementation.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from ruamel.yaml import YAML

from harness.definitions.loading import load_cases

DEFAULTS = """\
defaults:
  runners: [cpu]
  model: {path: ./tiny/weights}
  sampling: {prompt: p, width: 96, height: 64, num_frames: 17, num_inference_steps: 8, guidance_scale: 3.0}
cases:
"""
ENTRY = """\
  case_{index}:
    description: one of many
    runners: [cpu, h200]
    model: {{path: ./tiny/exports/fp8, made_by: python -m tiny.export --out tiny/exports fp8}}
    env: {{ATEN_CPU_CAPABILITY: avx2, OMP_NUM_THREADS: "1"}}
    contracts: [sglang==0.5.23]
    quantization: {{transformer: fp8, transformer_2: fp8}}
    sampling:
      prompt: "a red circle moving right on a blue background, take {index}"
      seed: {index}
      width: 128
"""


def written_out(count: int) -> str:
    """A file of ``count`` entries."""
    return DEFAULTS + "".join(ENTRY.format(index=index) for index in range(count))


def expanded(count: int) -> str:
    """A file whose matrices of 100 expand to ``count`` cases."""
    matrix = f"    matrix: {{sampling.seed: [{', '.join(map(str, range(100)))}]}}\n"
    return DEFAULTS + "".join(ENTRY.format(index=index) + matrix for index in range(count // 100))


def seconds(run: Callable[[], object], repeats: int = 5) -> float:
    """Median wall time of ``run``."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return median(times)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=1000)
    count = parser.parse_args().cases
    with TemporaryDirectory() as folder:
        for name, text in (("written out", written_out(count)), ("by matrix", expanded(count))):
            path = Path(folder) / f"{name.replace(' ', '_')}.yaml"
            path.write_text(text, encoding="utf-8")
            loaded = load_cases([path], Path(folder), runners=["cpu", "h200"])

            def load(path: Path = path, root: Path = Path(folder)) -> object:
                return load_cases([path], root, runners=["cpu", "h200"])

            print(f"{name:12} {len(loaded):6} cases  {len(text) / 1024:7.0f} KiB  {seconds(load):7.3f} s")
        text = written_out(count)
        print(f"{'ruamel alone':12} {count:6} cases  {'':11} {seconds(lambda: YAML(typ='rt').load(text), 1):7.3f} s")


if __name__ == "__main__":
    main()
