"""The machine while an engine works, and its page cache before a load."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from harness.engine.load_meter import LoadMeter, resident_share, weight_files
from harness.perf.conditions import GpuSample, Sampler, anonymous_bytes, sample_gpu

MIB = 2**20


def stopped(**samples: Any) -> Sampler:
    sampler = Sampler(os.getpid(), lambda: GpuSample(**samples), "here", "alike", period=0.01)
    with sampler.sampling():
        pass
    return sampler


def test_memory_of_the_whole_process_tree_is_seen() -> None:
    code = "import time; kept = b'x' * (96 << 20); print('there', flush=True); time.sleep(60)"
    before = stopped().conditions().host_peak  # other tests of this worker may have left processes
    assert before is not None
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        seen = stopped().conditions()
        theirs = anonymous_bytes(child.pid)
        child.kill()
    assert theirs >= 96 * MIB
    assert seen.host_peak is not None
    assert seen.host_peak >= theirs
    assert abs(seen.host_peak - before - theirs) < 32 * MIB


def test_anonymous_memory_is_what_the_kernel_says() -> None:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon:")]
    assert abs(anonymous_bytes(os.getpid()) - 1024 * int(line.split()[1])) < 16 * MIB
    assert anonymous_bytes(2**22 - 1) == 0


def test_a_process_of_somebody_else_on_the_gpu_is_named() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as mine:
        pids = (os.getpid(), mine.pid, 1)
        seen = stopped(processes=pids, sm_clock=1200, throttle=("hardware slowdown",)).conditions()
    assert len(seen.foreign) == 1
    assert "(pid 1)" in seen.foreign[0]
    assert (seen.machine, seen.pool, seen.sm_clock, seen.throttle) == ("here", "alike", 1200, ("hardware slowdown",))


def test_numbers_of_another_container_are_counted_not_named() -> None:
    beyond = 2**22
    assert stopped(processes=(beyond + 1,)).conditions().foreign == (), "one of them is the engine itself"
    assert len(stopped(processes=(beyond + 1, beyond + 2)).conditions().foreign) == 1


def test_without_a_gpu_nothing_is_said_of_one() -> None:
    sampler = Sampler(os.getpid(), None, "here")
    with sampler.sampling():
        time.sleep(0.01)
    seen = sampler.conditions()
    assert (seen.sm_clock, seen.power, seen.temperature, seen.throttle, seen.foreign) == (None, None, None, (), ())
    assert seen.samples >= 2


class Nvml:
    """What an H200 answers, as far as it is asked; it does not tell its power."""

    NVML_CLOCK_SM = 1

    class NVMLError(Exception):
        pass

    def nvmlDeviceGetCurrentClocksEventReasons(self, _: object) -> int:
        return 0x40 | 0x4 | 0x1

    def nvmlDeviceGetPowerUsage(self, _: object) -> int:
        raise self.NVMLError

    def nvmlDeviceGetClockInfo(self, _: object, kind: int) -> int:
        return 1410 if kind == self.NVML_CLOCK_SM else 0

    def nvmlDeviceGetMaxClockInfo(self, _: object, kind: int) -> int:
        return 1980 if kind == self.NVML_CLOCK_SM else 0

    def nvmlDeviceGetTemperature(self, _: object) -> int:
        return 71

    NVML_TEMPERATURE_GPU = 0

    def nvmlDeviceGetComputeRunningProcesses(self, _: object) -> list[SimpleNamespace]:
        return [SimpleNamespace(pid=7)]


def test_a_sample_of_the_gpu() -> None:
    nvml = Nvml()
    nvml.nvmlDeviceGetTemperature = lambda *_: 71  # type: ignore[method-assign]
    sample = sample_gpu(nvml, object())
    assert (sample.sm_clock, sample.sm_clock_max, sample.power, sample.temperature) == (1410, 1980, None, 71)
    assert sample.throttle == ("software power cap", "hardware thermal slowdown")
    assert sample.processes == (7,)


@pytest.mark.skipif(shutil.which("fincore") is None, reason="fincore (util-linux) is the oracle")
def test_the_page_cache_is_what_fincore_says(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(os.urandom(4 * MIB + 17))
    assert resident_share((path,)) == 1.0
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 2 * MIB, os.POSIX_FADV_DONTNEED)
    message = subprocess.run(
        ["fincore", "--bytes", "--noheadings", "--output", "RES", str(path)], capture_output=True, text=True, check=True
    )
    assert resident_share((path,)) == pytest.approx(min(1, int(message.stdout) / path.stat().st_size), abs=1e-3)


def test_weights_that_another_folder_overrides_are_not_counted(tmp_path: Path) -> None:
    for name in ("model/transformer/w", "model/vae/w", "model/text_encoder/w", "other/w", "base/w"):
        path = tmp_path / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 100)
    (tmp_path / "model" / "model_index.json").write_text("{}")
    paths = {"model": tmp_path / "model", "transformer": tmp_path / "other", "base": tmp_path / "base"}
    names = [str(path.relative_to(tmp_path)) for path in weight_files(paths)]
    assert names == ["model/text_encoder/w.safetensors", "model/vae/w.safetensors", "other/w.safetensors"]
    meter = LoadMeter(paths)
    meter.read()
    assert meter.usage().checkpoint_bytes == 300
    assert meter.usage().cache_resident == 1.0


def test_a_case_without_weights_has_no_page_cache(tmp_path: Path) -> None:
    meter = LoadMeter({"model": tmp_path / "absent"})
    meter.read()
    assert meter.usage().cache_resident is None
    assert meter.usage().checkpoint_bytes == 0
