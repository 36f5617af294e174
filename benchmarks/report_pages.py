"""How long a report of many cases takes to write, and to open: ``python -m benchmarks.report_pages --cases 300``."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from harness.frames.clip import Clip, write_clip
from harness.outcomes import Outcome
from harness.records.case_record import CaseRecord
from harness.records.verdict import Verdict
from harness.report.render import render_run


def write_run(folder: Path, cases: int) -> None:
    """Half of the cases pass, half regress; each has two clips of 9 frames, 64 x 96."""
    rng = np.random.default_rng(0)
    golden = Clip(rng.integers(0, 255, size=(9, 64, 96, 3), dtype=np.uint8))
    candidate = Clip(rng.integers(0, 255, size=(9, 64, 96, 3), dtype=np.uint8))
    for index in range(cases):
        bad = index % 2 == 1
        record = CaseRecord(
            run="benchmark",
            case=f"case_{index:04d}",
            node=f"cases/many.yaml::case_{index:04d}",
            source=f"cases/many.yaml:{index}",
            runner="cpu",
            started="2026-01-01T00:00:00+00:00",
            request={"sampling": {"prompt": "a red circle moving right on a blue background"}},
            verdict=Verdict(
                outcome=Outcome.REGRESSION if bad else Outcome.PASS,
                cause="ssim_below_limit" if bad else "none",
                summary="ssim is 0.41 at frame 3, below its limit of 0.97" if bad else "inside its limits",
            ),
        )
        record.write(folder / record.case / "record.json")
        write_clip(folder / record.case / "golden.safetensors", golden)
        write_clip(folder / record.case / "clip.safetensors", candidate if bad else golden)


def milliseconds_to_open(index: Path) -> float:
    """``performance.now()`` in the page, two frames after its load event; median of five fresh contexts."""
    from playwright.sync_api import sync_playwright

    from benchmarks.pages.screenshots import chromium

    script = (
        "() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(performance.now()))))"
    )
    problems = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
        for _ in range(5):
            page = browser.new_context().new_page()
            page.goto(index.as_uri(), wait_until="load")
            problems.append(float(page.evaluate(script)))
            page.context.close()
        browser.close()
    return sorted(problems)[2]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=300)
    cases = parser.parse_args().cases
    with tempfile.TemporaryDirectory() as scratch:
        write_run(Path(scratch) / "run", cases)
        began = time.perf_counter()
        index = render_run(Path(scratch) / "run")
        took = time.perf_counter() - began
        files = [path for path in index.parent.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files)
        print(f"cases                {cases}")
        print(f"written in           {took:.1f} s")
        print(f"overview             {index.stat().st_size / 1024:.0f} KiB")
        print(f"whole report         {size / 1024 / 1024:.1f} MiB in {len(files)} files")
        print(f"overview opens in    {milliseconds_to_open(index):.0f} ms")


if __name__ == "__main__":
    main()
