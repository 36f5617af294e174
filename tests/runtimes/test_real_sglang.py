"""The sglang backend in the real SGLang, on a CPU: `make test-sglang` installs what these tests need."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from builders import bare_evidence
from engine_processes import left
from real_runtimes import python_of

from harness.calibrate.faults.weights import inject, weight_faults
from harness.definitions.case import Case, Quantization, Server
from harness.definitions.loading import load_cases
from harness.definitions.schedule import schedule
from harness.engine.environment import RUNTIME_PYTHON
from harness.engine.noise import Noise
from harness.engine.owner import EngineOwner
from harness.engine.resolve import resolve_case
from harness.errors import InfraError, InvalidCaseError
from harness.frames.clip import read_clip
from harness.judge.observation import read_observation
from harness.judge.receipts_rule import judge_receipts
from harness.judge.schedule_rule import judge_schedule
from harness.machine.processes import descendants
from harness.records.generation import Progress

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cases() -> dict[str, Case]:
    return {one.case.id: one.case for one in load_cases([ROOT / "cases" / "incident_sglang.yaml"], ROOT)}


@pytest.fixture(scope="module", params=["incident_sglang_export_new", "incident_sglang_export_newest"])
def engine(request: Any, cases: dict[str, Case], tmp_path_factory: Any) -> Iterator[tuple[EngineOwner, Case]]:
    case = cases[request.param]
    python = python_of(case.runtime)
    owner = EngineOwner(
        case, tmp_path_factory.mktemp("engine"), {RUNTIME_PYTHON: python}, resolve_case(case, ROOT), device="cpu"
    )
    with owner:
        owner.start()
        yield owner, case


def test_trace_receipts_and_schedule_are_those_of_the_case(engine: Any, tmp_path: Path) -> None:
    owner, case = engine
    generation = owner.generate(case, tmp_path)
    assert read_clip(tmp_path / generation.clip).frames.shape == (17, 64, 96, 3)
    wanted = schedule("flow_unipc", 8, 12.0, 0.875)
    assert generation.trace.timesteps == wanted.timesteps
    experts = [step.expert for step in generation.trace.steps]
    assert experts.index("transformer_2") == wanted.switch
    assert all(step.guidance_measured == pytest.approx(3.0, abs=0.05) for step in generation.trace.steps)
    assert max(step.carried_error or 0.0 for step in generation.trace.steps) < 1e-6
    promised = {role: frozenset(modules) for role, modules in owner.start_record.quantized_modules.items()}
    evidence = bare_evidence(case, generation=generation, promised=promised)
    assert list(judge_receipts(evidence)) == []
    assert list(judge_schedule(evidence)) == []
    assert {receipt.note for receipt in generation.receipts.modules if receipt.format == "nvfp4"} == {"emulated"}
    assert owner.start_record.runtime["emulated"]
    assert owner.fingerprint().packages["sglang"] == case.runtime.partition("==")[2]


def test_repeats_are_bit_exact_and_a_disturbance_is_not(engine: Any, tmp_path: Path) -> None:
    owner, case = engine
    first, again = (owner.generate(case, tmp_path / name).clip_sha256 for name in ("a", "b"))
    assert first == again
    noise = Noise(seed=1, between=True).model_dump(mode="json")
    params = {"case": case.model_dump(mode="json"), "out_dir": str(tmp_path / "c"), "noise": noise}
    assert owner.call("generate_perturbed", params, 300)["clip_sha256"] != first


def test_a_reloaded_model_generates_what_a_fresh_engine_generates(engine: Any, tmp_path: Path) -> None:
    owner, case = engine
    model = resolve_case(case, ROOT)["model"]
    broken = tmp_path / "broken"
    inject(weight_faults()[0], 1.0, model, broken)
    whole = owner.generate(case, tmp_path / "whole").clip_sha256
    owner.reload({"model": broken})
    reloaded = owner.generate(case, tmp_path / "reloaded").clip_sha256
    owner.reload({"model": model})
    assert owner.generate(case, tmp_path / "again").clip_sha256 == whole
    environment = {RUNTIME_PYTHON: python_of(case.runtime)}
    with EngineOwner(case, tmp_path / "engine", environment, {"model": broken}, device="cpu") as fresh:
        fresh.start()
        assert fresh.generate(case, tmp_path / "fresh").clip_sha256 == reloaded != whole


def test_probes_are_recorded_and_answered_under_the_checkpoints_names(engine: Any, tmp_path: Path) -> None:
    owner, case = engine
    inputs, out = tmp_path / "probes.safetensors", tmp_path / "sketches.safetensors"
    owner.call("record_probes", {"case": case.model_dump(mode="json"), "out": str(inputs)}, 300)
    owner.call("probe", {"inputs": str(inputs), "out": str(out)}, 300)
    recorded, answered = read_observation(inputs), read_observation(out)
    assert {probe.expert for probe in recorded.index.probes} == {"transformer", "transformer_2"}
    assert "blocks.1.attn1.to_q" in answered.modules("transformer")
    assert answered.index.formats["transformer"]["blocks.1.attn1.to_q"] == "nvfp4"
    assert recorded.modules("transformer").keys() == answered.modules("transformer").keys()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("scheduler", {"flow_shift": 3.0}, "flow_shift 12"),
        ("sampling", {"max_sequence_length": 64}, "512 tokens"),
        ("sampling", {"num_frames": 16}, "num_frames"),
    ],
)
def test_what_sglang_would_ignore_or_change_is_refused(
    engine: Any, tmp_path: Path, field: str, value: dict[str, Any], message: str
) -> None:
    owner, case = engine
    changed = getattr(case, field).model_copy(update=value)
    with pytest.raises(InvalidCaseError, match=message):
        owner.generate(case.model_copy(update={field: changed}), tmp_path)
    assert owner.alive


def _real_case(cases: dict[str, Case], backend: str) -> tuple[Case, dict[str, str]]:
    """The BF16 model in SGLang 0.5.20, inside the engine or behind SGLang's own server, with the engine's environment.

    0.5.20 serves on a CPU as published.
    """
    python = python_of("sglang==0.5.20")
    new = cases["incident_sglang_export_new"]
    inside = new.model_copy(update={"runtime": "sglang==0.5.20", "model": new.base, "quantization": Quantization()})
    if backend == "sglang":
        return inside, {RUNTIME_PYTHON: python}
    launcher = ROOT / "tests" / "support" / "serve_sglang.py"
    command = [
        python, str(launcher), "serve", "--model-path", "{model}", "--model-id", "Wan2.2-T2V-A14B-Diffusers",
        "--port", "{port}", "--num-gpus", "1",
    ]  # fmt: skip
    server = Server(dialect="sglang", command=command)
    return inside.model_copy(update={"runtime": "", "runtime_args": {}, "backend": backend, "server": server}), {}


def _processes_of_the_runtime(owner: EngineOwner) -> list[int]:
    """Return the process that the engine started under the runtime's interpreter, and all that it started itself."""
    assert owner.pid is not None
    roots = []
    for process in descendants(owner.pid):
        command = Path(f"/proc/{process.pid}/cmdline").read_text().split("\0")
        # SGLang changes the title of its own process
        if {"main.py", "serve_sglang.py"} & {Path(part).name for part in command} or command[0].startswith("sgl"):
            roots.append(process.pid)
    return sorted({*roots, *(process.pid for root in roots for process in descendants(root))})


def _no_more_memory(pid: int) -> None:
    size = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
    resource.prlimit(pid, resource.RLIMIT_AS, (size, size))


FAULTS: dict[str, tuple[Callable[[int], None], set[str]]] = {
    "killed": (lambda pid: os.kill(pid, signal.SIGKILL), {"crash"}),
    "crash": (lambda pid: os.kill(pid, signal.SIGSEGV), {"crash"}),
    "hang": (lambda pid: os.kill(pid, signal.SIGSTOP), {"hang"}),
    "memory": (_no_more_memory, {"oom"}),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("backend", ["sglang", "openai-video"])
def test_each_end_of_the_real_runtime_is_a_typed_error(
    cases: dict[str, Case], tmp_path: Path, backend: str, fault: str
) -> None:
    """The fault is done to every process of SGLang itself, in the middle of a generation."""
    case, environment = _real_case(cases, backend)
    case = case.model_copy(update={"timeouts": case.timeouts.model_copy(update={"generate": 90})})
    paths = {"model": (ROOT / case.model.path).resolve()}
    do, kinds = FAULTS[fault]
    with EngineOwner(case, tmp_path, environment, paths, device="cpu") as owner:
        owner.start()
        runtime = _processes_of_the_runtime(owner)
        assert runtime
        done: list[str] = []

        def on_progress(progress: Progress) -> None:
            if progress.stage in ("denoise", "command") and not done:
                done.append(fault)
                for pid in runtime:
                    do(pid)

        with pytest.raises(InfraError) as error:
            owner.generate(case, tmp_path / "out", on_progress)
        assert done == [fault]
        assert error.value.kind in kinds, str(error.value)
    # A server that reports a failure lives on until its engine is closed. The kernel then frees a gigabyte.
    assert left(runtime, 20.0) == []


def test_the_real_server_gives_the_clip_that_was_asked_for(cases: dict[str, Case], tmp_path: Path) -> None:
    """Its clip is near the one that the same version makes inside the engine."""
    clips = []
    for backend in ("openai-video", "sglang"):
        case, environment = _real_case(cases, backend)
        paths = {"model": (ROOT / case.model.path).resolve()}
        with EngineOwner(case, tmp_path / backend, environment, paths, device="cpu") as owner:
            owner.start()
            generation = owner.generate(case, tmp_path / backend / "out")
            clips.append(read_clip(tmp_path / backend / "out" / generation.clip).frames.astype(float))
    # another seed's noise (the server draws its own), the same prompt: the same colours in the same places
    assert clips[0].shape == clips[1].shape == (17, 64, 96, 3)
    assert abs(clips[0].mean(axis=(0, 1, 2)) - clips[1].mean(axis=(0, 1, 2))).max() < 25


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """This repository's cases, goldens and limits, with a folder of runs of its own."""
    for name in ("cases", "goldens", "thresholds", "runners"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "tiny").symlink_to(ROOT / "tiny", target_is_directory=True)
    return tmp_path


def _quantgate(project: Path, *arguments: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "harness", *arguments, "--runner", "cpu", "--root", str(project)]
    ended = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=900, check=False)
    return ended.returncode, ended.stdout + ended.stderr


def test_try_names_the_default_that_another_version_has(project: Path) -> None:
    python_of("sglang==0.5.12.post1")
    code, message = _quantgate(project, "try", "incident_sglang_export_new", "--runtime", "sglang==0.5.12.post1")
    assert code == 10, message
    assert "the candidate is UNSAFE" in message
    assert "nvfp4.swap_weight_nibbles.default: false -> true" in message
    assert "git apply" not in message


def test_bisect_finds_the_runtime_and_the_request(project: Path) -> None:
    python_of("sglang==0.5.13")
    code, message = _quantgate(project, "bisect", "incident_sglang_export_new", "incident_sglang_export_old")
    assert code == 0, message
    assert message.endswith('red because of:\n  runtime: "sglang==0.5.13" -> "sglang==0.5.12.post1"\n')
    changes = ("--set", "sampling.seed=1", "--set", "timeouts.load=900", "--set", "sampling.fps=8")
    code, message = _quantgate(project, "bisect", "incident_sglang_bf16", *changes)
    assert code == 0, message
    assert message.endswith("red because of:\n  sampling.seed: 0 -> 1\n")
