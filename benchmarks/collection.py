"""How long case files take to load and to collect: ``python -m benchmarks.collection [--cases N]``.

Two files of N cases each: N entries written out, and one ``matrix`` after the other that expands to N. Beside them the
time that ruamel.yaml alone needs to parse the first file, which is the price of the obvious implementation.
Then whole ``pytest --collect-only`` processes: without this plugin on one plain test, and with it on the N cases; what
lies between them is what N cases cost over pytest's own start. CPU time says the same on a machine that is busy.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import subprocess
import sys
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


def project(root: Path, count: int) -> None:
    """A repository with ``count`` cases and one plain test."""
    (root / "cases").mkdir(parents=True)
    (root / "cases/many.yaml").write_text(written_out(count), encoding="utf-8")
    (root / "plain").mkdir()
    (root / "plain/test_plain.py").write_text("def test_plain():\n    pass\n", encoding="utf-8")
    (root / "pytest.ini").write_text(
        "[pytest]\naddopts = --import-mode=importlib -p no:cacheprovider\n", encoding="utf-8"
    )
    shutil.copytree(Path(__file__).parents[1] / "runners", root / "runners")


def collect(root: Path, *arguments: str) -> int:
    """Collect in a fresh pytest process; the number of tests it found."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *arguments]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    return sum("::" in line for line in done.stdout.splitlines())


def pytest_table(root: Path, count: int, repeats: int) -> None:
    """Print what collecting ``count`` cases costs over pytest's own start."""
    project(root, count)
    runs: dict[str, Callable[[], object]] = {
        "pytest alone": lambda: collect(root, "-p", "no:quantgate", "plain"),
        "with plugin": lambda: collect(root, "plain"),
        "with cases": lambda: collect(root, "--runner", "cpu", "cases"),
    }
    if (collected := runs["with cases"]()) != count:
        raise SystemExit(f"{collected} cases were collected, not {count}")
    # In turn, so that whatever else this machine does falls on all of them.
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            before = cpu_seconds()
            wall = seconds(run, 1)
            times[name].append((wall, cpu_seconds() - before))
    best = {name: [min(column) for column in zip(*values, strict=True)] for name, values in times.items()}
    print(f"{'best of ' + str(repeats):12} {'wall':>8} {'over':>8} {'CPU':>8} {'over':>8}  (s; over: pytest alone)")
    for name, (wall, cpu) in best.items():
        over_wall, over_cpu = wall - best["pytest alone"][0], cpu - best["pytest alone"][1]
        print(f"{name:12} {wall:8.3f} {over_wall:8.3f} {cpu:8.3f} {over_cpu:8.3f}")


def cpu_seconds() -> float:
    """CPU time of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5, help="pytest processes of each kind")
    options = parser.parse_args()
    count = options.cases
    with TemporaryDirectory() as folder:
        for name, text in (("written out", written_out(count)), ("by matrix", expanded(count))):
            path = Path(folder) / f"{name.replace(' ', '_')}.yaml"
            path.write_text(text, encoding="utf-8")
            loaded = load_cases([path], Path(folder), runners=["cpu", "h200"])

            def load(path: Path = path, root: Path = Path(folder)) -> object:
                return load_cases([path], root, runners=["cpu", "h200"])

            print(f"{name:12} {len(loaded):6} cases  {len(text) / 1024:7.0f} KiB  {seconds(load):7.3f} s")
        text = written_out(count)
        pytest_table(Path(folder) / "repo", count, options.repeats)
        print(f"{'ruamel alone':12} {count:6} cases  {'':11} {seconds(lambda: YAML(typ='rt').load(text), 1):7.3f} s")


if __name__ == "__main__":
    main()
