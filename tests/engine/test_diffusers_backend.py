"""The diffusers backend in this process: the frames are the pipeline's own, and the trace tells what ran."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.definitions.case import Case
from harness.engine.backends.diffusers_backend import DiffusersBackend
from harness.errors import CheckpointFaultError, InfraError, InvalidCaseError
from harness.frames.clip import read_clip
from harness.records.base import Json
from harness.records.generation import Generation, Trace

Make = Callable[..., Case]
Load = Callable[..., DiffusersBackend]
BLOCK_LINEARS = 20


def _ignore(_: dict[str, Json]) -> None:
    """No progress is shown."""


def _generate(backend: DiffusersBackend, case: Case, folder: Path) -> tuple[Generation, Any]:
    generation = backend.generate(case, folder, _ignore)
    return generation, read_clip(folder / generation.clip).frames


def test_the_frames_are_the_pipelines_own(load: Load, make_wan_case: Make, random_wan: Path, tmp_path: Path) -> None:
    from diffusers import UniPCMultistepScheduler, WanPipeline

    case = make_wan_case()
    backend = load(case)
    generation, frames = _generate(backend, case, tmp_path)

    pipe = WanPipeline.from_pretrained(
        str(random_wan / "bf16"), dtype={"default": torch.bfloat16, "vae": torch.float32}
    )
    pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config, flow_shift=3.0)
    latents = torch.randn(1, 4, 2, 4, 4, generator=torch.Generator("cpu").manual_seed(0))
    torch.testing.assert_close(backend.initial_latents(case), latents, rtol=0, atol=1.2e-5)
    latents = backend.initial_latents(case)
    video = pipe(
        prompt="a bc",
        negative_prompt="",
        height=32,
        width=32,
        num_frames=5,
        num_inference_steps=4,
        guidance_scale=3.0,
        guidance_scale_2=2.0,
        latents=latents,
        max_sequence_length=16,
        output_type="np",
    ).frames[0]
    np.testing.assert_array_equal(frames, (video * 255).round().astype(np.uint8))
    assert generation.shape == frames.shape == (5, 32, 32, 3)


def test_the_trace_tells_timesteps_experts_and_guidance(load: Load, make_wan_case: Make, tmp_path: Path) -> None:
    case = make_wan_case(scheduler={"boundary_ratio": 0.8, "flow_shift": 3.0})
    events: list[dict[str, Json]] = []
    generation = load(case).generate(case, tmp_path, events.append)
    trace = generation.trace
    assert [step.timestep for step in trace.steps] == [999, 900, 750, 500]
    assert [step.expert for step in trace.steps] == ["transformer", "transformer", "transformer_2", "transformer_2"]
    assert [step.guidance_scale for step in trace.steps] == [3.0, 3.0, 2.0, 2.0]
    for step in trace.steps:
        assert step.guidance_measured == pytest.approx(step.guidance_scale, abs=0.03)
        assert len(step.latent_sketch) == len(step.velocity_sketch) == 64
        assert step.latent_norm > 0
    assert trace.boundary_ratio == 0.8
    assert trace.scheduler["flow_shift"] == 3.0
    assert trace.scheduler["class"] == "UniPCMultistepScheduler"
    assert trace.vae["dtype"] == "torch.float32"
    assert len(trace.text_embedding_sketch) == 64
    assert [event["step"] for event in events if event["stage"] == "denoise"] == [1, 2, 3, 4]
    assert generation.peak_memory_bytes is not None
    assert generation.peak_memory_bytes > 0


CHANGES: dict[str, tuple[dict[str, Any], str]] = {
    "boundary": ({"scheduler": {"boundary_ratio": 0.95}}, "experts"),
    "flow shift": ({"scheduler": {"flow_shift": 5.0}}, "timesteps"),
    "guidance": ({"sampling": {"guidance_scale": 4.0}}, "guidance"),
    "low guidance": ({"sampling": {"guidance_scale_2": 4.0}}, "guidance"),
    "sequence length": ({"sampling": {"max_sequence_length": 8}}, "text"),
    "prompt": ({"sampling": {"prompt": "b"}}, "text"),
    "negative prompt": ({"sampling": {"negative_prompt": "b"}}, "text"),
    "seed": ({"sampling": {"seed": 1}}, "latents"),
    "scheduler": ({"scheduler": {"name": "FlowMatchEulerDiscreteScheduler"}}, "scheduler"),
}


def _facts(generation: Generation) -> dict[str, object]:
    steps = generation.trace.steps
    return {
        "experts": [step.expert for step in steps],
        "timesteps": [round(step.timestep) for step in steps],
        "guidance": [round(step.guidance_measured or 0.0, 1) for step in steps],
        "text": generation.trace.text_embedding_sketch,
        "latents": generation.trace.initial_latents_sha256,
        "scheduler": generation.trace.scheduler["class"],
    }


def test_each_change_of_the_request_shows_in_the_trace_where_it_belongs(
    load: Load, make_wan_case: Make, tmp_path: Path
) -> None:
    backend = load(make_wan_case())
    before = _facts(backend.generate(make_wan_case(), tmp_path, _ignore))
    for name, (change, fact) in CHANGES.items():
        after = _facts(backend.generate(make_wan_case(**change), tmp_path, _ignore))
        assert after[fact] != before[fact], name
    assert _facts(backend.generate(make_wan_case(), tmp_path, _ignore)) == before


def test_guidance_that_is_not_used_is_not_measured(load: Load, make_wan_case: Make, tmp_path: Path) -> None:
    case = make_wan_case(sampling={"guidance_scale": 1.0, "guidance_scale_2": 1.0})
    assert {step.guidance_measured for step in load(case).generate(case, tmp_path, _ignore).trace.steps} == {None}


def test_another_guidance_than_stated_is_measured(load: Load, make_wan_case: Make, tmp_path: Path) -> None:
    case = make_wan_case()
    backend = load(case)
    call = type(backend.pipe).__call__

    class Deaf(type(backend.pipe)):  # type: ignore[misc]
        """Uses a guidance of its own and says otherwise."""

        def __call__(self, **options: Any) -> Any:
            return call(self, **(options | {"guidance_scale": 6.0}))

        @property
        def _guidance_scale(self) -> float:
            return 3.0

        @_guidance_scale.setter
        def _guidance_scale(self, _value: float) -> None:
            """What was used stays hidden."""

    backend.pipe.__class__ = Deaf
    high = backend.generate(case, tmp_path, _ignore).trace.steps[0]
    assert high.guidance_scale == 3.0
    assert high.guidance_measured == pytest.approx(6.0, abs=0.1)


@pytest.mark.parametrize("form", ["nvfp4", "fp8"])
def test_receipts_hold_every_linear_by_expert(
    load: Load, make_wan_case: Make, random_wan: Path, tmp_path: Path, form: str
) -> None:
    case = make_wan_case(transformer={"path": f"./{form}"})
    backend = load(case, transformer=random_wan / form)
    generation = backend.generate(case, tmp_path, _ignore)
    promised = backend.quantized_modules()
    assert set(promised) == {"transformer"}
    receipts = {(receipt.expert, receipt.module): receipt for receipt in generation.receipts.modules}
    for name, promise in promised["transformer"].items():
        receipt = receipts["transformer", name]
        assert (receipt.format, receipt.kernel, receipt.note) == (promise, "dequantize+linear", "")
        assert receipt.calls == 4
    low = [receipt for receipt in generation.receipts.modules if receipt.expert == "transformer_2"]
    blocks = [receipt for receipt in low if receipt.module.startswith("blocks.")]
    assert len(blocks) == BLOCK_LINEARS
    assert {(receipt.format, receipt.kernel, receipt.calls) for receipt in blocks} == {("bf16", "linear", 4)}


def test_a_linear_replaced_by_bf16_shows_in_the_receipts(
    load: Load, make_wan_case: Make, random_wan: Path, tmp_path: Path
) -> None:
    case = make_wan_case(transformer={"path": "./nvfp4"})
    backend = load(case, transformer=random_wan / "nvfp4")
    before = backend.generate(case, tmp_path, _ignore).receipts
    name = "blocks.1.ffn.net.2"
    quantized = backend.pipe.transformer.get_submodule(name)
    replaced = torch.nn.Linear(quantized.in_features, quantized.out_features)
    replaced.weight.data = quantized.dequantized(torch.bfloat16)
    replaced.bias.data = quantized.bias.data
    backend.pipe.transformer.blocks[1].ffn.net[2] = replaced
    after = backend.generate(case, tmp_path, _ignore).receipts
    changed = set(after.modules) - set(before.modules)
    assert [(receipt.module, receipt.format, receipt.kernel) for receipt in changed] == [(name, "bf16", "linear")]
    assert (
        after.count("transformer")["nvfp4/dequantize+linear"]
        == before.count("transformer")["nvfp4/dequantize+linear"] - 1
    )


def test_an_expert_that_did_not_run_has_no_receipts(load: Load, make_wan_case: Make, tmp_path: Path) -> None:
    case = make_wan_case(scheduler={"boundary_ratio": 0.0})
    receipts = load(case).generate(case, tmp_path, _ignore).receipts
    assert receipts.count("transformer_2") == {}
    assert sum(receipts.count("transformer").values()) > BLOCK_LINEARS


def _poisoned(source: Path, target: Path, value: float) -> Path:
    shutil.copytree(source, target)
    weights = target / "vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    tensors["decoder.conv_out.bias"][1] = value
    save_file(tensors, weights, metadata={"format": "pt"})
    return target


@pytest.mark.parametrize(("value", "field"), [(float("nan"), "nan"), (float("inf"), "inf"), (float("-inf"), "inf")])
def test_a_bad_float_is_seen_before_clamping_and_rounding(
    load: Load, make_wan_case: Make, random_wan: Path, tmp_path: Path, value: float, field: str
) -> None:
    case = make_wan_case()
    backend = load(case, model=_poisoned(random_wan / "bf16", tmp_path / "poisoned", value))
    generation, frames = _generate(backend, case, tmp_path)
    stats = generation.float_stats
    assert getattr(stats, field) == 5 * 32 * 32  # one of three channels
    assert stats.nan + stats.inf == 5 * 32 * 32
    assert stats.first_bad_frame == 0
    assert set(np.unique(frames[..., 1])) == {255 if value > 0 else 0}


def test_overshoot_is_seen_before_the_clamp(load: Load, make_wan_case: Make, random_wan: Path, tmp_path: Path) -> None:
    case = make_wan_case()
    backend = load(case, model=_poisoned(random_wan / "bf16", tmp_path / "poisoned", 9.0))
    stats = backend.generate(case, tmp_path, _ignore).float_stats
    assert stats.maximum > 4
    assert (stats.nan, stats.inf, stats.first_bad_frame) == (0, 0, None)


def test_nan_in_the_latents_ends_as_a_record(load: Load, make_wan_case: Make, tmp_path: Path) -> None:
    case = make_wan_case()
    backend = load(case)
    backend.pipe.transformer_2.proj_out.bias.data[0] = float("nan")
    generation = backend.generate(case, tmp_path, _ignore)
    again = Generation.model_validate_json(generation.model_dump_json())
    assert again == generation
    assert generation.float_stats.nan > 0
    assert generation.trace.steps[1].latent_norm < 1e6
    assert generation.trace.steps[2].latent_norm == 1e300


def test_nan_in_the_text_ends_as_a_record(load: Load, make_wan_case: Make, tmp_path: Path) -> None:
    case = make_wan_case()
    backend = load(case)
    backend.pipe.text_encoder.encoder.final_layer_norm.weight.data[0] = float("nan")
    generation = backend.generate(case, tmp_path, _ignore)
    assert 1e300 in generation.trace.text_embedding_sketch
    assert generation.float_stats.nan > 0


@pytest.mark.parametrize(
    ("sampling", "words"),
    [({"num_frames": 6}, "num_frames"), ({"height": 40}, "height 40"), ({"width": 24}, "width 24")],
)
def test_a_size_that_would_be_rounded_is_refused(
    load: Load, make_wan_case: Make, tmp_path: Path, sampling: dict[str, int], words: str
) -> None:
    case = make_wan_case(sampling=sampling)
    with pytest.raises(InvalidCaseError, match=words):
        load(case).generate(case, tmp_path, _ignore)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"loader": {"packed_qkv": True}}, "packed_qkv"), ({"execution": {"attention_backend": "nonsense"}}, "nonsense")],
)
def test_what_this_backend_has_not_is_refused(
    load: Load, make_wan_case: Make, change: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidCaseError, match=words):
        load(make_wan_case(**change))


def test_another_pipeline_is_a_checkpoint_fault(
    load: Load, make_wan_case: Make, random_wan: Path, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(random_wan / "bf16", tmp_path / "other"))
    (root / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(CheckpointFaultError, match="FluxPipeline"):
        load(make_wan_case(), model=root)


@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_precision_is_what_the_case_says(load: Load, make_wan_case: Make, dtype: str) -> None:
    wanted = {"bf16": torch.bfloat16, "fp32": torch.float32}[dtype]
    pipe = load(make_wan_case(precision={"transformer": dtype, "text_encoder": dtype, "vae": dtype})).pipe
    assert pipe.transformer.patch_embedding.weight.dtype == wanted
    assert pipe.transformer_2.patch_embedding.weight.dtype == wanted
    assert pipe.vae.dtype == wanted
    assert pipe.text_encoder.dtype == wanted
    assert pipe.transformer.condition_embedder.time_embedder.linear_1.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("component", "file", "tensor"),
    [
        ("vae", "diffusion_pytorch_model.safetensors", "decoder.conv_in.weight"),
        ("text_encoder", "model.safetensors", "encoder.block.0.layer.0.SelfAttention.q.weight"),
        ("transformer_2", "diffusion_pytorch_model.safetensors", "blocks.1.attn2.to_k.weight"),
    ],
)
def test_a_missing_weight_is_a_checkpoint_fault_and_never_random(
    load: Load, make_wan_case: Make, random_wan: Path, tmp_path: Path, component: str, file: str, tensor: str
) -> None:
    root = Path(shutil.copytree(random_wan / "bf16", tmp_path / "lacking"))
    tensors = load_file(root / component / file)
    del tensors[tensor]
    save_file(tensors, root / component / file, metadata={"format": "pt"})
    with pytest.raises(CheckpointFaultError, match=tensor) as caught:
        load(make_wan_case(), model=root)
    assert caught.value.code == "tensor_missing"
    assert component in caught.value.place


@pytest.mark.parametrize("component", ["vae", "text_encoder", "transformer", "transformer_2"])
def test_a_missing_component_is_a_checkpoint_fault(
    load: Load, make_wan_case: Make, random_wan: Path, tmp_path: Path, component: str
) -> None:
    root = Path(shutil.copytree(random_wan / "bf16", tmp_path / "lacking"))
    shutil.rmtree(root / component)
    with pytest.raises(CheckpointFaultError) as caught:
        load(make_wan_case(), model=root)
    assert component in caught.value.place


@pytest.mark.parametrize("role", ["transformer", "transformer_2"])
def test_an_override_takes_the_place_of_one_expert(
    load: Load, make_wan_case: Make, random_wan: Path, role: str
) -> None:
    backend = load(make_wan_case(**{role: {"path": "./fp8"}}), **{role: random_wan / "fp8"})
    assert set(backend.quantized_modules()) == {role}
    assert set(backend.quantized_modules()[role].values()) == {"fp8"}


def _wrapped(short: Exception) -> OSError:
    """As diffusers says it of whatever went wrong while it read weights."""
    try:
        try:
            raise short
        except Exception as error:
            raise ValueError("not a checkpoint") from error
    except ValueError:
        try:
            raise OSError("Unable to load weights from checkpoint file")
        except OSError as said:
            return said


@pytest.mark.parametrize(
    ("short", "kind"),
    [
        (RuntimeError("unable to mmap 6128568 bytes: Cannot allocate memory (12)"), "oom"),
        (MemoryError(), "oom"),
        (OSError(12, "Cannot allocate memory"), "oom"),
        (OSError(28, "No space left on device"), "disk"),
        (OSError(5, "Input/output error"), "disk"),
        (RuntimeError("CUDA error: device-side assert triggered"), "device"),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["diffusers.AutoencoderKLWan", "transformers.T5TokenizerFast"])
def test_a_shortage_while_loading_says_nothing_of_the_files(
    load: Load, make_wan_case: Make, monkeypatch: pytest.MonkeyPatch, short: Exception, kind: str, name: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise _wrapped(short)

    if name.startswith("transformers"):
        monkeypatch.setattr(f"{_tokenizer_class(load, make_wan_case)}.from_pretrained", fail)
    else:
        monkeypatch.setattr(f"{name}.from_pretrained", fail)
    with pytest.raises(InfraError) as caught:
        load(make_wan_case())
    assert caught.value.kind == kind


def _tokenizer_class(load: Load, make_wan_case: Make) -> str:
    return f"transformers.{type(load(make_wan_case()).pipe.tokenizer).__name__}"


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("scheduler/scheduler_config.json", "{"),
        ("tokenizer/tokenizer.json", '{"version": "1.0", "trunc'),
        ("tokenizer/tokenizer_config.json", "[}"),
        ("vae/config.json", "{"),
    ],
)
def test_a_broken_file_beside_the_weights_is_a_checkpoint_fault_that_names_it(
    load: Load, make_wan_case: Make, random_wan: Path, tmp_path: Path, file: str, damage: str
) -> None:
    root = Path(shutil.copytree(random_wan / "bf16", tmp_path / "broken"))
    (root / file).write_text(damage, encoding="utf-8")
    with pytest.raises(CheckpointFaultError) as caught:
        load(make_wan_case(), model=root)
    assert caught.value.place == str(root / file)


@pytest.mark.parametrize("component", ["scheduler", "tokenizer"])
def test_an_absent_component_without_weights_is_a_checkpoint_fault(
    load: Load, make_wan_case: Make, random_wan: Path, tmp_path: Path, component: str
) -> None:
    root = Path(shutil.copytree(random_wan / "bf16", tmp_path / "lacking"))
    shutil.rmtree(root / component)
    with pytest.raises(CheckpointFaultError) as caught:
        load(make_wan_case(), model=root)
    assert component in caught.value.place


def test_a_library_that_is_not_installed_is_no_fault_of_the_checkpoint(
    load: Load, make_wan_case: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ImportError("requires the protobuf library")

    monkeypatch.setattr("diffusers.AutoencoderKLWan.from_pretrained", fail)
    with pytest.raises(ImportError):
        load(make_wan_case())


@pytest.mark.parametrize(
    ("component", "entry", "words"),
    [
        ("vae", ["diffusers", "AutoencoderKL"], "vae is diffusers.AutoencoderKL, and it may be"),
        ("vae", ["os", "system"], "vae is os.system"),
        ("tokenizer", ["transformers", "pipeline"], "tokenizer is transformers.pipeline"),
        ("scheduler", ["diffusers.utils", "get_class_from_dynamic_module"], "scheduler is diffusers.utils"),
        ("text_encoder", ["transformers"], "text_encoder is transformers.None"),
        ("transformer", ["my_module", "WanTransformer3DModel"], "transformer is my_module"),
        ("safety", ["safety", "Checker"], "safety is safety.Checker, and it may be absent"),
        ("image_encoder", ["transformers", "CLIPVisionModel"], "image_encoder"),
        ("vae", ["diffusers", {"AutoencoderKLWan": 1}], "vae is diffusers.{"),
        ("scheduler", [["diffusers"], ["UniPCMultistepScheduler"]], "scheduler is ['diffusers']"),
    ],
)
def test_a_checkpoint_cannot_choose_what_is_called(
    load: Load,
    make_wan_case: Make,
    random_wan: Path,
    tmp_path: Path,
    component: str,
    entry: list[Any],
    words: str,
) -> None:
    copy = tmp_path / "model"
    shutil.copytree(random_wan / "bf16", copy)
    index = json.loads((copy / "model_index.json").read_text())
    (copy / "model_index.json").write_text(json.dumps(index | {component: entry}))
    (copy / "my_module.py").write_text("raise SystemExit('it ran')")
    (copy / "safety").mkdir(exist_ok=True)
    (copy / "safety" / "safety.py").write_text("raise SystemExit('it ran')")
    with pytest.raises(CheckpointFaultError) as refused:
        load(make_wan_case(), model=copy)
    assert words in refused.value.message
    assert refused.value.code == "unsupported_layout"
    assert refused.value.place == str(copy / "model_index.json")


def test_an_absent_component_is_no_component(load: Load, make_wan_case: Make, random_wan: Path, tmp_path: Path) -> None:
    copy = tmp_path / "model"
    shutil.copytree(random_wan / "bf16", copy)
    index = json.loads((copy / "model_index.json").read_text())
    absent = {"image_encoder": [None, None], "image_processor": [None, None]}
    (copy / "model_index.json").write_text(json.dumps(index | absent))
    load(make_wan_case(), model=copy)


def test_settings_of_a_scheduler_that_json_lacks_are_text() -> None:
    """DPMSolver's own default is a number that is not finite: a run with it must leave a record."""
    from diffusers import DPMSolverMultistepScheduler

    from harness.engine.backends.diffusers_backend import _plain

    settings = _plain(DPMSolverMultistepScheduler().config)
    assert settings["lambda_min_clipped"] == "-inf"
    assert Trace(steps=(), scheduler=settings).as_json()["scheduler"]["lambda_min_clipped"] == "-inf"
