"""VAE, text encoder, tokenizer and scheduler: judged together, and against the base's."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.inspector import inspect_checkpoint
from harness.records.inspection import InspectionReport

TINY = Path(__file__).parents[2] / "tiny" / "weights"
PARTS = ("vae", "text_encoder", "tokenizer", "scheduler")
Change = Callable[[Path], object]


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    """The embedded model with real copies of everything beside its transformers."""
    folder = tmp_path / "pipeline"
    folder.mkdir()
    shutil.copy(TINY / "model_index.json", folder)
    for name in PARTS:
        shutil.copytree(TINY / name, folder / name)
    for name in ("transformer", "transformer_2"):
        (folder / name).symlink_to(TINY / name, target_is_directory=True)
    return folder


def setting(file: str, **values: object) -> Change:
    """Change keys of a JSON file."""

    def change(folder: Path) -> None:
        body = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(body | values))

    return change


def tensors(name: str, rule: Callable[[torch.Tensor], torch.Tensor], first: bool = False) -> Change:
    """Change the tensors of a component."""

    def change(folder: Path) -> None:
        (file,) = (folder / name).glob("*.safetensors")
        body = load_file(file)
        names = sorted(key for key, value in body.items() if value.ndim > 1)
        for key in names[:1] if first else names:
            body[key] = rule(body[key]).contiguous()
        save_file(body, file, metadata={"format": "pt"})

    return change


def report(folder: Path, base: bool) -> InspectionReport:
    return inspect_checkpoint(folder, base=TINY if base else None, digests=False)


FAULTS: dict[str, tuple[Change, str, bool]] = {
    "vae of another model": (setting("vae/config.json", z_dim=48), "component_mismatch", False),
    "a std of zero": (setting("vae/config.json", latents_std=[0.0] * 16), "component_mismatch", False),
    "text of another width": (setting("text_encoder/config.json", d_model=77), "component_mismatch", False),
    "tokenizer larger than the table": (setting("text_encoder/config.json", vocab_size=3), "component_mismatch", False),
    "text encoder in bare FP8": (
        tensors("text_encoder", lambda value: value.to(torch.float8_e4m3fn)),
        "component_unscaled",
        False,
    ),
    "vae scaled": (tensors("vae", lambda value: value * 1.01, first=True), "component_differs", True),
    "text encoder of another model": (tensors("text_encoder", torch.zeros_like), "component_differs", True),
    "vae statistics": (setting("vae/config.json", latents_mean=[0.5] * 16), "component_differs", True),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_component_that_does_not_fit_is_a_fault(name: str, pipeline: Path) -> None:
    change, code, base = FAULTS[name]
    change(pipeline)
    found = report(pipeline, base)
    assert code in {item.code for item in found.faults}, [item.message for item in found.findings]


@pytest.mark.parametrize("base", [True, False])
def test_a_pipeline_as_it_is_raises_nothing(pipeline: Path, base: bool) -> None:
    assert not report(pipeline, base).faults


def test_values_that_were_only_narrowed_or_written_otherwise_are_the_same(pipeline: Path) -> None:
    tensors("text_encoder", lambda value: value.to(torch.bfloat16))(pipeline)
    setting("text_encoder/config.json", _name_or_path="elsewhere", torch_dtype="bfloat16")(pipeline)
    assert not report(pipeline, True).with_code("component_differs")


def test_a_key_that_is_left_out_has_its_default_and_only_that(pipeline: Path) -> None:
    path = pipeline / "text_encoder" / "config.json"
    config = json.loads(path.read_text())
    short = {key: value for key, value in config.items() if key not in ("initializer_factor", "classifier_dropout")}
    path.write_text(json.dumps(short))
    assert not report(pipeline, True).with_code("component_differs")
    path.write_text(json.dumps({key: value for key, value in short.items() if key != "num_layers"}))
    assert "num_layers 8 for 3" in report(pipeline, True).with_code("component_differs")[0].message


def test_what_a_tokenizer_keeps_of_its_last_call_and_older_keys_are_no_difference(pipeline: Path) -> None:
    setting("tokenizer/tokenizer.json", padding={"strategy": {"Fixed": 512}}, truncation={"max_length": 512})(pipeline)
    tokens = {"0": {"content": "<pad>", "special": True}}
    older = {"clean_up_tokenization_spaces": True, "additional_special_tokens": [], "added_tokens_decoder": tokens}
    setting("tokenizer/tokenizer_config.json", **older)(pipeline)
    setting("vae/config.json", clip_output=False)(pipeline)
    assert not report(pipeline, True).with_code("component_differs")
    setting("tokenizer/tokenizer_config.json", added_tokens_decoder={"0": {"content": "<end>"}})(pipeline)
    assert "added_tokens_decoder" in report(pipeline, True).with_code("component_differs")[0].message


@pytest.mark.parametrize(("factor", "differs"), [(1.0, False), (1.01, True)])
def test_a_table_may_be_stored_under_both_of_its_names(pipeline: Path, factor: float, differs: bool) -> None:
    path = next((pipeline / "text_encoder").glob("*.safetensors"))
    stored = load_file(path)
    stored["encoder.embed_tokens.weight"] = stored["shared.weight"] * factor
    save_file(stored, path)
    assert bool(report(pipeline, True).with_code("component_differs")) is differs


def test_files_of_a_file_system_are_not_read(pipeline: Path) -> None:
    for name in ("text_encoder/._config.json", "vae/.DS_Store", "vae/._diffusion_pytorch_model.safetensors"):
        (pipeline / name).write_bytes(b"\0\5\x16\7")
    assert not report(pipeline, True).faults


def test_another_flow_shift_is_shown_and_decides_nothing(pipeline: Path) -> None:
    setting("scheduler/scheduler_config.json", flow_shift=12.5)(pipeline)
    found = report(pipeline, True)
    assert [item.severity for item in found.with_code("component_differs")] == ["warning"]
    assert "flow_shift 12.5" in found.with_code("component_differs")[0].message
