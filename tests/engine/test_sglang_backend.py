"""The sglang backend against a double of the process that runs the runtime."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from builders import make_case
from PIL import Image
from safetensors.numpy import save_file

import harness.engine.backends.sglang_backend as module
from harness.definitions.case import Case, ImageRef
from harness.definitions.checks import check_case
from harness.engine.backends.sglang_backend import SglangBackend, _vae_numbers, promised_formats
from harness.engine.environment import RUNTIME_PYTHON, engine_key
from harness.engine.noise import Noise
from harness.engine.owner import EngineOwner
from harness.engine.protocol import Writer
from harness.engine.worker import Server
from harness.errors import CheckpointFaultError, InfraError, InvalidCaseError
from harness.frames.clip import read_clip
from harness.records.identity import Device, differences
from harness.runtimes.environments import interpreter_of
from harness.session.identity import identity_of

DOUBLE = Path(__file__).with_name("runtime_double.py")


def sglang_case(prompt: str = "fine", **changes: Any) -> Case:
    usual = {
        "id": "real",
        "backend": "sglang",
        "runtime": "sglang==0.5.23",
        "sampling": {
            "prompt": prompt, "width": 32, "height": 32, "num_frames": 5, "num_inference_steps": 3,
            "guidance_scale": 1.0,
        },
        "timeouts": {"load": 60, "generate": 60},
    }  # fmt: skip
    return make_case(**{**usual, **changes})


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    (folder / "vae").mkdir(parents=True)
    (folder / "vae" / "config.json").write_text('{"z_dim": 4}')
    return folder


@pytest.fixture
def loaded(model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Case], SglangBackend]]:
    monkeypatch.setattr(module, "MAIN", DOUBLE)
    monkeypatch.setenv(RUNTIME_PYTHON, sys.executable)
    monkeypatch.setenv("PYTHONPATH", "/packages/of/the/harness")
    backends: list[SglangBackend] = []

    def load(case: Case) -> SglangBackend:
        backends.append(SglangBackend())
        backends[-1].load(case, {"model": model}, "cpu", lambda _: None)
        return backends[-1]

    yield load
    for backend in backends:
        backend.close()


def test_a_runtime_that_rewrites_the_checkpoint_changes_its_own_view_alone(loaded: Any, model: Path) -> None:
    backend = loaded(sglang_case("load: rewrites the checkpoint"))
    assert (model / "vae" / "config.json").read_text() == '{"z_dim": 4}'
    backend.close()
    assert (model / "vae" / "config.json").exists()


def test_frames_trace_and_receipts_come_back(loaded: Any, tmp_path: Path) -> None:
    case = sglang_case()
    backend = loaded(case)
    out = tmp_path / "out"
    out.mkdir()
    generation = backend.generate(case, out, lambda _: None)
    assert read_clip(out / generation.clip).frames.shape == (5, 32, 32, 3)
    assert read_clip(out / generation.clip).frames[0, 0, 0, 0] == 128
    assert generation.trace.steps[0].timestep == 999.0
    assert len(generation.trace.initial_latents_sha256) == 64
    assert generation.receipts.modules[0].format == "nvfp4"
    assert [path.name for path in out.iterdir()] == ["clip.safetensors"]  # inputs are gone
    assert backend.runtime_facts()["flow_shift"] == 12.0
    usage = generation.usage
    assert usage is not None
    assert (usage.clock, usage.ordinal, usage.experts, usage.emulated) == ("host", 1, ("transformer",), False)
    again = backend.generate(case, out, lambda _: None).usage
    assert again is not None
    assert again.ordinal == 2
    assert backend.runtime_facts()["leaked"] == ""  # packages of two interpreters never mix


def test_a_disturbance_starts_from_the_same_stated_latents(loaded: Any, tmp_path: Path) -> None:
    case = sglang_case()
    backend = loaded(case)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    plain = backend.generate(case, tmp_path / "a", lambda _: None)
    moved = backend.generate_with(case, tmp_path / "b", lambda _: None, Noise(seed=1, between=True))
    assert moved.trace.initial_latents_sha256 == plain.trace.initial_latents_sha256
    assert moved.float_stats == plain.float_stats
    assert moved.clip_sha256 != plain.clip_sha256  # the double brightens by the number of disturbed steps


def test_a_picture_reaches_the_runtime_in_the_size_of_the_video(loaded: Any, model: Path, tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), (200, 30, 7)).save(tmp_path / "a.png")
    digest = hashlib.sha256((tmp_path / "a.png").read_bytes()).hexdigest()
    plain = sglang_case()
    sampling = plain.sampling.model_copy(update={"image": ImageRef(path="./a.png", sha256=digest)})
    case = plain.model_copy(update={"sampling": sampling})
    backend = loaded(plain)
    backend.reload(case, {"model": model, "image": tmp_path / "a.png"}, "cpu", lambda _: None)
    (tmp_path / "out").mkdir()
    condition = backend.generate(case, tmp_path / "out", lambda _: None).trace.condition
    assert condition is not None
    assert condition.encoder == (32, 32, 200, 30, 7)  # 64x64 became the 32x32 of the video
    params = {"case": case.model_dump(mode="json"), "out": str(tmp_path / "out" / "p")}
    assert backend.methods()["record_probes"](params, lambda _: None)["pictures"] == [True]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["clip.safetensors"]  # the copies are gone
    assert backend.generate(plain, tmp_path / "out", lambda _: None).trace.condition is None
    (tmp_path / "a.png").unlink()
    with pytest.raises(InvalidCaseError, match=r"a\.png cannot be read"):
        backend.generate(case, tmp_path / "out", lambda _: None)


def test_the_fingerprint_is_that_of_the_runtimes_interpreter(loaded: Any) -> None:
    found = loaded(sglang_case()).fingerprint("cpu")
    assert found.packages["torch"] == "2.13.0"
    assert found.packages["sglang"] == "0.5.23"
    assert found.python == "3.12.1"


def test_further_methods_reach_the_runtime(loaded: Any, tmp_path: Path) -> None:
    case = sglang_case()
    methods = loaded(case).methods()
    assert set(methods) == {"generate_perturbed", "record_probes", "probe"}
    recorded = methods["record_probes"](
        {"case": case.model_dump(mode="json"), "out": str(tmp_path / "p")}, lambda _: None
    )
    assert recorded["asked"] == "record_probes"
    assert methods["probe"]({"inputs": "a", "out": "b"}, lambda _: None)["asked"] == "probe"


@pytest.mark.parametrize(
    ("fault", "kind", "detail"),
    [
        ("refused", InvalidCaseError, "flow_shift 12"),
        ("wrong", CheckpointFaultError, "refuses the checkpoint"),
        ("oom", InfraError, "oom"),
        ("no package", InfraError, "crash"),
        ("killed", InfraError, "SIGKILL"),
        ("nonsense", InfraError, "protocol"),
        ("another version", InfraError, "0.5.99"),
    ],
)
def test_each_end_of_a_load_is_a_typed_error(loaded: Any, fault: str, kind: type[Exception], detail: str) -> None:
    with pytest.raises(kind) as error:
        loaded(sglang_case(f"load: {fault}"))
    assert detail in f"{error.value} {getattr(error.value, 'kind', '')}"


def test_a_reload_keeps_the_process_and_a_load_or_a_failed_reload_does_not(loaded: Any, model: Path) -> None:
    backend = loaded(sglang_case())
    first = backend.runtime_facts()["process"]
    backend.reload(sglang_case(), {"model": model}, "cpu", lambda _: None)
    assert backend.runtime_facts()["process"] == first
    with pytest.raises(CheckpointFaultError):
        backend.reload(sglang_case("load: wrong"), {"model": model}, "cpu", lambda _: None)
    backend.reload(sglang_case(), {"model": model}, "cpu", lambda _: None)
    second = backend.runtime_facts()["process"]
    backend.load(sglang_case(), {"model": model}, "cpu", lambda _: None)
    assert len({first, second, backend.runtime_facts()["process"]}) == 3


TWICE = """
from pathlib import Path


class Backend:
    def load(self, case, paths, device, emit):
        self.note("load")

    def note(self, event):
        with Path(__file__).with_suffix(".log").open("a") as file:
            print(event, file=file)

    def close(self):
        self.note("close")

    def quantized_modules(self):
        return {}


class Reloading(Backend):
    def reload(self, case, paths, device, emit):
        self.note("reload")
"""


@pytest.mark.parametrize(("name", "events"), [("Backend", "load close load"), ("Reloading", "load reload")])
def test_a_second_model_ends_the_first_backend_unless_it_reloads(
    name: str, events: str, model: Path, tmp_path: Path
) -> None:
    script = tmp_path / "twice.py"
    script.write_text(TWICE)
    case = make_case(id="twice", backend=f"{script}:{name}")
    server = Server(Writer(-1))
    params = {"case": case.model_dump(mode="json"), "paths": {"model": str(model)}, "engine": "e", "device": "cpu"}
    for loads in (1, 2):
        started: Any = server._start({**params, "allow_python": True}, lambda _: None)
        assert started["loads"] == loads
    assert script.with_suffix(".log").read_text().split() == events.split()


def test_a_checkpoint_that_the_runtime_refuses_is_looked_at_by_its_case(loaded: Any) -> None:
    case = sglang_case("load: wrong")
    with pytest.raises(CheckpointFaultError) as error:
        loaded(case)
    assert (error.value.code, error.value.remedy) == ("runtime_refuses", f"quantgate inspect --case {case.id}")


def test_a_vae_without_a_configuration_is_a_fault_of_the_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(CheckpointFaultError, match="cannot be read") as error:
        _vae_numbers(tmp_path)
    assert error.value.place == str(tmp_path / "vae" / "config.json")
    assert error.value.remedy == f"quantgate inspect {tmp_path}"
    (tmp_path / "vae").mkdir()
    (tmp_path / "vae" / "config.json").write_text("[48]")
    with pytest.raises(CheckpointFaultError, match="holds no JSON object") as error:
        _vae_numbers(tmp_path)
    assert error.value.remedy == f"quantgate inspect {tmp_path}"
    (tmp_path / "vae" / "config.json").write_text('{"z_dim": 48}')
    assert _vae_numbers(tmp_path)["z_dim"] == 48


@pytest.mark.parametrize(("fault", "kind"), [("wrong", "crash"), ("oom", "oom"), ("killed", "crash")])
def test_an_error_while_generating_says_nothing_of_the_checkpoint(
    loaded: Any, tmp_path: Path, fault: str, kind: str
) -> None:
    case = sglang_case(f"generate: {fault}")
    backend = loaded(case)
    with pytest.raises(InfraError) as error:
        backend.generate(case, tmp_path, lambda _: None)
    assert error.value.kind == kind


@pytest.mark.parametrize(
    "changes",
    [{"execution": {"matmul": "dequantize"}}, {"execution": {"offload": "model"}}, {"loader": {"packed_qkv": True}}],
)
def test_settings_that_sglang_would_ignore_are_refused_before_anything_starts(loaded: Any, changes: Any) -> None:
    with pytest.raises(InvalidCaseError, match="backend diffusers only"):
        loaded(sglang_case(**changes))


def test_without_an_environment_the_command_that_makes_it_is_named(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(RUNTIME_PYTHON, raising=False)
    with pytest.raises(InfraError, match=r"sglang==0\.5\.23") as error:
        SglangBackend().load(sglang_case(), {"model": model}, "cpu", lambda _: None)
    assert error.value.remedy == "quantgate runtime install sglang==0.5.23"


def test_an_interpreter_that_is_not_there_is_told(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RUNTIME_PYTHON, str(model / "python"))
    with pytest.raises(InfraError, match="cannot be started"):
        SglangBackend().load(sglang_case(), {"model": model}, "cpu", lambda _: None)


def test_a_runtime_that_hangs_is_ended_with_its_engine(model: Path, tmp_path: Path) -> None:
    case = sglang_case("generate: hang", timeouts={"load": 60, "generate": 2})
    script = tmp_path / "backend.py"
    script.write_text(
        "import harness.engine.backends.sglang_backend as module\nfrom pathlib import Path\n"
        f"module.MAIN = Path({str(DOUBLE)!r})\nHanging = module.SglangBackend\n"
    )
    named = case.model_copy(update={"backend": f"{script}:Hanging"})
    owner = EngineOwner(
        named, tmp_path, {RUNTIME_PYTHON: sys.executable}, {"model": model}, device="cpu", allow_python_backend=True
    )
    began = time.monotonic()
    with owner:
        assert owner.start().runtime["runtime"] == "sglang==0.5.23"
        assert owner.fingerprint().packages["sglang"] == "0.5.23"
        with pytest.raises(InfraError) as error:
            owner.generate(named, tmp_path / "out")
    assert error.value.kind == "hang"
    assert time.monotonic() - began < 50


def test_versions_and_arguments_have_engines_of_their_own() -> None:
    case = sglang_case()
    assert engine_key(case) != engine_key(sglang_case(runtime="sglang==0.5.13"))
    assert engine_key(case) != engine_key(sglang_case(runtime_args={"attention_backend": "fa"}))


def test_the_promise_of_a_checkpoint_is_read_from_headers(tmp_path: Path) -> None:
    import numpy as np

    for role, dtype in (("transformer", np.uint8), ("transformer_2", np.float32)):
        (tmp_path / role).mkdir()
        save_file({"blocks.0.to_q.weight": np.zeros((2, 2), dtype)}, tmp_path / role / "model.safetensors")
    assert promised_formats({"model": tmp_path}) == {"transformer": {"blocks.0.to_q": "nvfp4"}}


def test_a_runner_may_name_the_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANTGATE_RUNTIMES", str(tmp_path))
    named = {"sglang==0.5.23": sys.executable, "sglang==0.5.13": str(tmp_path / "absent")}
    assert interpreter_of("", named) is None
    assert interpreter_of("sglang==0.5.23", named) == Path(sys.executable)
    with pytest.raises(InfraError, match="there is no program"):
        interpreter_of("sglang==0.5.13", named)
    with pytest.raises(InfraError) as error:
        interpreter_of("sglang==0.5.20", named)
    assert error.value.remedy.startswith("quantgate runtime install sglang==0.5.20")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"runtime": ""}, "needs `runtime`"),
        ({"runtime": "vllm==1.0"}, "runs sglang==VERSION"),
        ({"backend": "diffusers"}, "`runtime` is read by"),
        ({}, ""),
    ],
)
def test_a_case_names_one_version_of_its_runtime(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    findings = check_case(sglang_case(**changes), root=tmp_path, runners=["cpu"])
    found = [text for place, text in findings if "runtime" in (*place, *text.replace("`", " ").split())]
    assert message in " ".join(found) if message else not found


def test_a_version_is_the_subject_and_its_arguments_are_the_request() -> None:
    device = Device(kind="cpu", name="x86_64")
    one = identity_of(sglang_case(), device, {})
    other = identity_of(sglang_case(runtime="sglang==0.5.13"), device, {})
    assert [change.field for change in differences(one, other)] == ["runtime"]
    assert one.digest() == other.digest()  # the same golden is compared with
    third = identity_of(sglang_case(runtime_args={"attention_backend": "fa"}), device, {})
    assert [change.identity_class for change in differences(one, third)] == ["request"]
