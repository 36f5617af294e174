"""The examples of docs/extending.md work as the page says: each is used here in the way of a reader who copies it."""

from __future__ import annotations

import json
import math
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from builders import make_case
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from harness.cli.app import app
from harness.definitions import causes, environment
from harness.definitions.case import Case
from harness.definitions.environment import environment_of
from harness.definitions.runner import load_runners, match_runner
from harness.engine.backend import load_backend
from harness.engine.backends.command_backend import CommandBackend
from harness.engine.owner import EngineOwner
from harness.errors import CheckpointFaultError, InvalidCaseError, NoRunnerError
from harness.formats import registry as formats
from harness.frames import registry as metrics
from harness.frames.clip import Clip, read_clip
from harness.frames.compare import compare
from harness.frames.sanity import check_clip
from harness.inspector import inspect_checkpoint
from harness.inspector.checks import registration
from harness.inspector.checks import registry as checks
from harness.records.frames import MetricResult
from harness.records.generation import DEQUANTIZE
from harness.records.identity import Device

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"
CACHED = (metrics, checks, causes, environment, formats)
"""Modules that look entry points up once."""


def clear_caches(*modules: ModuleType) -> None:
    """Forget which plugins are installed."""
    for module in modules:
        for value in vars(module).values():
            if hasattr(value, "cache_clear"):
                value.cache_clear()


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Install docs/examples as pip would: its modules on the path, its entry points in a `.dist-info` folder."""
    project = tomllib.loads((EXAMPLES / "pyproject.toml").read_text())["project"]
    info = tmp_path / "site" / "quantgate_examples-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = project["entry-points"].items()
    text = "".join(f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in points.items()) for group, points in groups)
    (info / "entry_points.txt").write_text(text)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.syspath_prepend(str(info.parent))
    clear_caches(*CACHED)
    yield
    clear_caches(*CACHED)
    registration.registered.pop("bias_shape", None)
    for path in EXAMPLES.glob("*.py"):
        sys.modules.pop(path.stem, None)


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hide all plugins, also those of a reader who installed the examples."""
    for module in CACHED:
        monkeypatch.setattr(module, "entry_points", lambda **_: [])
    clear_caches(*CACHED)
    yield
    clear_caches(*CACHED)


def clip(change: Callable[[np.ndarray], np.ndarray] = lambda frames: frames) -> Clip:
    """Three frames of noise around grey, changed."""
    frames = np.random.default_rng(0).integers(60, 190, (3, 16, 16, 3)).astype(np.uint8)
    return Clip(np.ascontiguousarray(change(frames)))


def measured(candidate: Clip) -> MetricResult:
    """Compare with the unchanged clip in the example's metric."""
    (result,) = compare(clip(), candidate, ["brightness_bias"]).metrics
    return result


@pytest.mark.usefixtures("installed")
def test_the_metric_measures_what_its_text_says() -> None:
    assert measured(clip(lambda frames: frames + 3)).gating_value == pytest.approx(3.0)
    assert measured(clip(lambda frames: frames - 5)).gating_value == pytest.approx(5.0)  # two-sided: the distance gates
    assert measured(clip()).gating_value == 0.0
    assert measured(clip(lambda frames: np.roll(frames, 5, axis=2))).gating_value == pytest.approx(
        0.0
    )  # its blind spot


@pytest.mark.usefixtures("nothing_installed")
def test_without_its_registration_the_metric_is_unknown() -> None:
    with pytest.raises(Exception, match="brightness_bias"):
        measured(clip())


def square_case(**changes: Any) -> Case:
    """A case for the square."""
    return make_case(**{"sampling": {"num_frames": 5}, **changes})


def encode_log8(value: float, scale: float) -> int:
    """Encode one value by the text of the format, without its table: the nearest e, in the logarithm."""
    magnitude = abs(value) / scale
    step = round(math.log2(magnitude) * 8) + 127 if magnitude > 0 else 0
    return (128 if value < 0 else 0) + max(min(step, 127), 0)


@pytest.fixture
def log8(tmp_path: Path) -> Callable[..., Path]:
    """Write a base of two blocks and its LOG8 export; a test changes the tensors before they are written."""
    rng = np.random.default_rng(1)
    names = [f"blocks.{block}.attn1.to_{leaf}" for block in range(2) for leaf in "qkv"]
    base = {f"{name}.weight": rng.normal(0, 0.05, (16, 64)).astype(np.float32) for name in names}
    config: dict[str, Any] = {"_class_name": "Transformer", "num_layers": 2}

    def write(folder: str, tensors: dict[str, np.ndarray], config: dict[str, Any]) -> Path:
        path = tmp_path / folder
        path.mkdir()
        save_file(tensors, path / "diffusion_pytorch_model.safetensors")
        (path / "config.json").write_text(json.dumps(config))
        return path

    def export(change: Callable[[dict[str, np.ndarray]], None] = lambda _: None) -> Path:
        write("base", base, config)
        tensors: dict[str, np.ndarray] = {}
        for name, weight in base.items():
            scale = np.abs(weight).max(axis=1, keepdims=True)
            codes = [
                [encode_log8(v, s) for v in row] for row, (s,) in zip(weight.tolist(), scale.tolist(), strict=True)
            ]
            tensors[name] = np.array(codes, np.uint8)
            tensors[f"{name}_scale"] = scale
        change(tensors)
        return write("export", tensors, config | {"quantization_config": {"quant_method": "log8"}})

    return export


def reported(export: Path) -> tuple[set[str], set[str]]:
    """Inspect an export with its base; return the formats of its Linears and the codes that decide the outcome."""
    report = inspect_checkpoint(export, base=export.parent / "base", digests=False)
    codes = {finding.code for finding in report.findings if finding.severity in ("fault", "inconclusive")}
    return {expert.format for expert in report.experts}, codes


def inspected_codes(folder: Path, bias: int) -> set[str]:
    """Inspect a transformer with one Linear [16, 64] and a bias of some length, without a base."""
    folder.mkdir()
    weight = np.random.default_rng(2).normal(0, 0.05, (16, 64)).astype(np.float32)
    tensors = {"blocks.0.attn1.to_q.weight": weight, "blocks.0.attn1.to_q.bias": np.zeros(bias, np.float32)}
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors")
    (folder / "config.json").write_text('{"_class_name": "Transformer"}')
    return {finding.code for finding in inspect_checkpoint(folder, digests=False).findings}


@pytest.mark.usefixtures("installed")
def test_the_check_fires_on_a_wrong_bias_alone(tmp_path: Path) -> None:
    assert "bias_shape_differs" in inspected_codes(tmp_path / "wrong", bias=8)
    assert "bias_shape_differs" not in inspected_codes(tmp_path / "right", bias=16)


@pytest.mark.usefixtures("installed")
def test_a_negative_control_may_wait_for_the_check() -> None:
    assert causes.check_cause("bias_shape_differs", ()) is None
    assert "did you mean bias_shape_differs" in str(causes.check_cause("bias_shape_difers", ()))


@pytest.mark.usefixtures("nothing_installed")
def test_without_its_registration_the_check_does_not_run(tmp_path: Path) -> None:
    assert "bias_shape_differs" not in inspected_codes(tmp_path / "wrong", bias=8)
    assert causes.check_cause("bias_shape_differs", ()) is not None


@pytest.mark.parametrize("point", ["bias_shape_differs = bias_shape:absent", "other = bias_shape:bias_shape"])
@pytest.mark.usefixtures("installed")
def test_a_check_that_is_registered_wrongly_is_an_error_with_its_package(tmp_path: Path, point: str) -> None:
    (tmp_path / "site" / "quantgate_examples-1.0.dist-info" / "entry_points.txt").write_text(
        f"[quantgate.checks]\n{point}\n"
    )
    with pytest.raises(InvalidCaseError, match="quantgate-examples"):
        inspected_codes(tmp_path / "wrong", bias=8)


@pytest.mark.usefixtures("installed")
def test_the_format_is_recognised_and_proven(log8: Callable[..., Path]) -> None:
    assert reported(log8()) == ({"log8"}, set())


@pytest.mark.usefixtures("installed")
def test_damage_of_the_format_is_a_fault(log8: Callable[..., Path]) -> None:
    def lose_the_sign(tensors: dict[str, np.ndarray]) -> None:
        tensors["blocks.0.attn1.to_q.weight"] &= 127

    def double_the_scale(tensors: dict[str, np.ndarray]) -> None:
        tensors["blocks.1.attn1.to_k.weight_scale"] *= 2

    _, codes = reported(log8(lambda tensors: (lose_the_sign(tensors), double_the_scale(tensors))))
    assert codes >= {"gain"}
    assert len(codes) >= 2


@pytest.mark.usefixtures("installed")
def test_the_exporter_of_the_format_agrees_with_its_definition() -> None:
    values = np.random.default_rng(3).normal(0, 0.05, (4, 64)).astype(np.float32)
    values[2] = 0
    encode = formats.known_formats()["log8"].encode
    assert encode is not None
    scale = np.abs(values).max(axis=1)
    codes = [[encode_log8(v, s or 1.0) for v in row] for row, s in zip(values.tolist(), scale.tolist(), strict=True)]
    assert encode(values)["weight"].tolist() == codes


def wan(folder: Path) -> dict[str, np.ndarray]:
    """Write a random Wan transformer whose q and v are in LOG8. Return the values of these Linears by name.

    The values follow from the codes by the text of the format: sign, and a power of two in steps of an eighth.
    """
    config = {
        "_class_name": "WanTransformer3DModel", "attention_head_dim": 12, "num_attention_heads": 2, "num_layers": 1,
        "ffn_dim": 32, "freq_dim": 32, "text_dim": 32, "in_channels": 4, "out_channels": 4,
    }  # fmt: skip
    model = pytest.importorskip("diffusers").WanTransformer3DModel.from_config(config)
    tensors = {name: value.detach().float().numpy() for name, value in model.state_dict().items()}
    values: dict[str, np.ndarray] = {}
    for name in [name for name in tensors if name.endswith(("to_q.weight", "to_v.weight"))]:
        scale = np.abs(tensors[name]).max(axis=1, keepdims=True)
        rows = zip(tensors[name].tolist(), scale[:, 0].tolist(), strict=True)
        codes = np.array([[encode_log8(value, own) for value in row] for row, own in rows])
        sign, e = np.where(codes >= 128, -1.0, 1.0), codes % 128
        values[name.removesuffix(".weight")] = np.where(e == 0, 0.0, sign * 2.0 ** ((e - 127) / 8)) * scale
        tensors |= {name: codes.astype(np.uint8), f"{name}_scale": scale}
    folder.mkdir()
    save_file(tensors, folder / "diffusion_pytorch_model.safetensors")
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "log8"}}))
    return values


@pytest.mark.usefixtures("installed")
def test_the_engine_multiplies_what_the_format_says_and_writes_receipts(tmp_path: Path) -> None:
    import torch

    from harness.definitions.case import Loader
    from harness.engine.quantized.build import build_transformer
    from harness.engine.receipts import keep_receipts

    values = wan(tmp_path / "model")
    model, kinds = build_transformer(
        tmp_path / "model", dtype=torch.float32, device=torch.device("cpu"), loader=Loader(), policy="auto"
    )
    assert kinds == dict.fromkeys(values, "log8")
    with keep_receipts({"transformer": model}) as book:
        for name, weight in values.items():
            linear = model.get_submodule(name)
            x = torch.randn(3, weight.shape[1], generator=torch.Generator().manual_seed(1))
            bias = linear.get_parameter("bias").numpy()
            assert np.allclose(linear(x).numpy(), x.numpy() @ weight.T + bias, atol=1e-5)
    receipts = book.receipts().modules
    assert {receipt.module for receipt in receipts} == set(values)
    assert {(receipt.format, receipt.kernel) for receipt in receipts} == {("log8", DEQUANTIZE)}


@pytest.mark.usefixtures("installed")
def test_a_case_may_ask_for_the_format() -> None:
    assert square_case(quantization={"transformer": "log8"}).quantization.transformer == "log8"


@pytest.mark.usefixtures("nothing_installed")
def test_without_its_registration_no_case_may_ask_for_it_and_the_engine_refuses_it(tmp_path: Path) -> None:
    from harness.engine.quantized.headers import formats_of, read_headers

    with pytest.raises(ValueError, match="must be 'bf16', 'fp8' or 'nvfp4'"):
        square_case(quantization={"transformer": "log8"})
    wan(tmp_path / "model")
    with pytest.raises(CheckpointFaultError, match="no weight_scale_2"):
        formats_of(read_headers(tmp_path / "model"), {"quant_method": "log8"})


@pytest.mark.usefixtures("installed")
def test_calibration_injects_the_damage_of_the_format(tmp_path: Path) -> None:
    from harness.calibrate.faults.weights import inject, weight_faults

    values = wan(tmp_path / "model")
    fault = next(fault for fault in weight_faults() if fault.name == "sign_lost")
    assert fault.formats == {"log8"}
    assert {name.removeprefix("/") for name in inject(fault, 1.0, tmp_path / "model", tmp_path / "broken")} == set(
        values
    )
    weights = load_file(tmp_path / "broken" / "diffusion_pytorch_model.safetensors")
    assert all((weights[f"{name}.weight"] < 128).all() for name in values)


@pytest.mark.usefixtures("nothing_installed")
def test_without_its_registration_the_format_is_unknown(log8: Callable[..., Path]) -> None:
    formats, codes = reported(log8())
    assert "log8" not in formats
    assert codes


@pytest.mark.usefixtures("installed")
def test_the_backend_is_found_by_its_name_and_states_its_variables() -> None:
    assert type(load_backend("square")).__name__ == "SquareBackend"
    assert environment_of("square").covers("SQUARE_SIZE")
    assert not environment_of("square").covers("SQUARE_SIZES")


def test_the_backend_runs_in_an_engine_and_the_program_draws_the_same(tmp_path: Path) -> None:
    case = square_case(backend=f"{EXAMPLES / 'square_backend.py'}:SquareBackend")
    owner = EngineOwner(case, tmp_path, {}, {"model": tmp_path / "model"}, allow_python_backend=True)
    try:
        owner.start()
        generation = owner.generate(case, tmp_path / "engine")
    finally:
        owner.close()
    clip = read_clip(tmp_path / "engine" / generation.clip)
    frames = clip.frames
    assert [int((frame.min(axis=2) >= 160).sum()) for frame in frames] == [1024] * 5  # a 32x32 square in each frame
    sanity = check_clip(clip, wanted=(5, 64, 96, 3), float_stats=generation.float_stats)
    assert [check.name for check in sanity.checks if not check.ok] == []
    program = str(EXAMPLES / "square_program.py")
    case = square_case(backend="command", command=[sys.executable, program, "{case_json}", "{out}"])
    backend = CommandBackend()
    backend.load(case, {"model": tmp_path}, "cpu", lambda _: None)
    backend.generate(case, tmp_path, lambda _: None)
    assert np.array_equal(read_clip(tmp_path / "clip.safetensors").frames, frames)


@pytest.mark.parametrize(
    ("export", "contract", "codes"),
    [
        ("nvfp4", "tinyserve==1.4", {"nibble_order"}),
        ("nvfp4", "tinyserve==2.5", {"nibble_order", "contract_unread"}),
        ("fp8", "tinyserve==1.4", set()),
    ],
)
def test_the_contract_of_a_project_is_applied(tmp_path: Path, export: str, contract: str, codes: set[str]) -> None:
    shutil.copytree(EXAMPLES / "contracts", tmp_path / "contracts")
    checkpoint, base = ROOT / "tiny" / "exports" / export, ROOT / "tiny" / "weights"
    report = inspect_checkpoint(checkpoint, base=base, contracts=[contract], root=tmp_path, digests=False)
    assert {finding.code for finding in report.findings if finding.severity != "warning"} == codes


def test_the_contract_of_a_project_is_found_by_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(EXAMPLES / "contracts", tmp_path / "contracts")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("QUANTGATE_CACHE", str(tmp_path / "cache"))
    names = ["--base", str(ROOT / "tiny" / "weights"), "--contract", "tinyserve==1.4"]
    result = CliRunner().invoke(app, ["inspect", str(ROOT / "tiny" / "exports" / "nvfp4"), *names])
    assert result.exit_code == 11, result.output
    assert "tinyserve==1.4 will read high nibble first" in result.output


def test_the_runner_takes_its_device_and_no_other(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "runners", tmp_path / "runners")
    shutil.copy(EXAMPLES / "runners" / "l4.yaml", tmp_path / "runners")
    profiles = load_runners(tmp_path / "runners")
    card = Device(kind="cuda", name="NVIDIA L4", compute_capability="8.9")
    assert match_runner(card, profiles).name == "l4"
    with pytest.raises(NoRunnerError):
        match_runner(card.model_copy(update={"name": "NVIDIA L40"}), profiles)
