"""Identity is content: storage that changes no value changes no digest, and any value that changes does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from harness.inspector import content
from harness.inspector.content import components_of, contents_of, document_digest
from harness.records.contents import ComponentContent, content_change

EXPERT = "transformer"
FILE = "diffusion_pytorch_model.safetensors"


def tensors(seed: int = 0) -> dict[str, np.ndarray]:
    made = np.random.default_rng(seed)
    return {f"blocks.{i}.weight": made.normal(size=(4, 3 + i)).astype(np.float32) for i in range(5)}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QUANTGATE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A small pipeline: one expert, VAE, text encoder, tokenizer, scheduler."""
    root = tmp_path / "model"
    for folder, name in (
        (EXPERT, FILE),
        ("vae", FILE),
        ("text_encoder", "model.safetensors"),
    ):
        (root / folder).mkdir(parents=True)
        save_file(tensors(len(folder)), root / folder / name, metadata={"format": "pt"})
        config = {"_class_name": folder, "_diffusers_version": "0.42.1", "eps": 1e-6, "heads": 4}
        (root / folder / "config.json").write_text(json.dumps(config))
    (root / "tokenizer").mkdir()
    (root / "tokenizer" / "tokenizer.json").write_text(json.dumps({"model": {"vocab": {"a": 0, "_b": 1}}}))
    (root / "tokenizer" / "spiece.model").write_bytes(b"\x00pieces")
    (root / "scheduler").mkdir()
    (root / "scheduler" / "scheduler_config.json").write_text(json.dumps({"flow_shift": 3.0}))
    (root / "model_index.json").write_text(json.dumps({"_class_name": "WanPipeline", "vae": ["diffusers", "V"]}))
    return root


def identity(model: Path) -> dict[str, str]:
    return contents_of(components_of({"model": model})).digests()


def shard(model: Path) -> None:
    whole = load_file(model / EXPERT / FILE)
    names = sorted(whole, reverse=True)
    parts = {"a.safetensors": names[:2], "b.safetensors": names[2:]}
    for file, held in parts.items():
        save_file({name: whole[name] for name in held}, model / EXPERT / file, metadata={"format": "pt", "by": "me"})
    weight_map = {name: file for file, held in parts.items() for name in held}
    body = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (model / EXPERT / f"{FILE}.index.json").write_text(json.dumps(body))
    (model / EXPERT / FILE).unlink()


def reorder(model: Path) -> None:
    """The same tensors in the opposite order in the file, written by hand: the header's order is free."""
    path = model / "vae" / FILE
    header, data, offset = {}, b"", 0
    for name, array in sorted(load_file(path).items(), reverse=True):
        raw = array.tobytes()
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [offset, offset + len(raw)]}
        data, offset = data + raw, offset + len(raw)
    text = json.dumps({"__metadata__": {"note": "reordered"}, **header}).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def rename(model: Path) -> None:
    (model / "text_encoder" / "model.safetensors").rename(model / "text_encoder" / "umt5.safetensors")


def reformat(model: Path) -> None:
    for path in model.rglob("*.json"):
        body = json.loads(path.read_text())
        path.write_text(json.dumps(dict(reversed(body.items())), indent=4, ensure_ascii=False) + "\n\n")


def document(model: Path) -> None:
    path = model / "vae" / "config.json"
    body = json.loads(path.read_text()) | {"_diffusers_version": "0.43.0", "_name_or_path": "/home/me/vae"}
    path.write_text(json.dumps(body))
    (model / "vae" / "README.md").write_text("the VAE")
    (model / "tokenizer" / ".gitattributes").write_text("* lfs")


def add_variant(model: Path) -> None:
    save_file(tensors(9), model / "vae" / "diffusion_pytorch_model.fp16.safetensors")


def whole_numbers(model: Path) -> None:
    (model / "scheduler" / "scheduler_config.json").write_text('{"flow_shift": 3}')


@pytest.mark.parametrize("change", [shard, reorder, rename, reformat, document, add_variant, whole_numbers])
def test_storage_is_no_part_of_the_identity(model: Path, change: Callable[[Path], None]) -> None:
    before = identity(model)
    assert set(before) == {"model_index", "scheduler", "text_encoder", "tokenizer", EXPERT, "vae"}
    change(model)
    assert identity(model) == before


def test_a_copy_elsewhere_has_the_same_identity(model: Path, tmp_path: Path) -> None:
    before = identity(model)
    shutil.copytree(model, tmp_path / "elsewhere")
    assert identity(tmp_path / "elsewhere") == before


def one_bit(model: Path) -> None:
    path = model / EXPERT / FILE
    held = load_file(path)
    held["blocks.2.weight"].view(np.uint32)[0, 0] ^= 1
    save_file(held, path)


def other_dtype(model: Path) -> None:
    path = model / EXPERT / FILE
    held: dict[str, Any] = load_file(path)
    held["blocks.2.weight"] = held["blocks.2.weight"].view(np.int32)
    save_file(held, path)


def other_shape(model: Path) -> None:
    path = model / EXPERT / FILE
    held = load_file(path)
    held["blocks.2.weight"] = held["blocks.2.weight"].reshape(2, -1)
    save_file(held, path)


@pytest.mark.parametrize("change", [one_bit, other_dtype, other_shape])
def test_a_tensor_that_differs_is_named(model: Path, change: Callable[[Path], None]) -> None:
    old = contents_of(components_of({"model": model})).components
    change(model)
    new = contents_of(components_of({"model": model})).components
    assert {name for name in old if old[name] != new[name]} == {EXPERT}
    found = content_change(EXPERT, old[EXPERT], new[EXPERT])
    assert found is not None
    assert (found.changed, found.added, found.removed, found.documents) == (("blocks.2.weight",), (), (), ())
    assert "transformer: 1 of 5 tensors changed (blocks.2.weight" in str(found)


@pytest.mark.parametrize(
    ("component", "path", "text"),
    [
        ("scheduler", "scheduler/scheduler_config.json", '{"flow_shift": 5.0}'),
        ("vae", "vae/config.json", '{"_class_name": "vae", "eps": 1e-5, "heads": 4}'),
        ("vae", "vae/config.json", '{"_class_name": "other", "eps": 1e-6, "heads": 4}'),
        ("tokenizer", "tokenizer/tokenizer.json", '{"model": {"vocab": {"a": 0, "_b": 2}}}'),
        ("tokenizer", "tokenizer/spiece.model", "\x00piecez"),
        ("model_index", "model_index.json", '{"_class_name": "WanPipeline", "vae": ["diffusers", "W"]}'),
        ("transformer", "transformer/diffusion_pytorch_model.gguf", "GGUF"),
    ],
)
def test_a_value_that_differs_is_named(model: Path, component: str, path: str, text: str) -> None:
    old = contents_of(components_of({"model": model})).components
    (model / path).write_text(text)
    new = contents_of(components_of({"model": model})).components
    assert {name for name in old if old[name] != new[name]} == {component}
    change = content_change(component, old[component], new[component])
    assert change is not None
    assert change.documents == (path.partition("/")[2] or path,)


def test_tensors_that_came_and_went_are_named() -> None:
    old = ComponentContent(tensors={"a": "F32[1] 00", "b": "F32[1] 01"})
    new = ComponentContent(tensors={"a": "F32[1] 00", "b.scale": "F32[1] 02"})
    assert str(content_change("vae", old, new)) == "vae: 1 tensors added (b.scale), 1 tensors removed (b)"
    assert content_change("vae", old, old) is None


def test_an_override_takes_the_place_of_its_expert(model: Path, tmp_path: Path) -> None:
    override = tmp_path / "override"
    override.mkdir()
    save_file(tensors(7), override / "x.safetensors")
    (override / "config.json").write_text("{}")
    with_it = contents_of(components_of({"model": model, EXPERT: override})).digests()
    without = identity(model)
    assert {name for name in without if with_it[name] != without[name]} == {EXPERT}


def test_what_is_known_is_not_read_again(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    real = content.tensor_digest
    monkeypatch.setattr(content, "tensor_digest", lambda file, entry: read.append(entry.name) or real(file, entry))
    first = identity(model)
    assert len(read) == 15
    assert identity(model) == first
    assert len(read) == 15
    one_bit(model)
    assert identity(model) != first
    assert len(read) == 20


def test_a_damaged_cache_is_an_empty_one(model: Path, cache: Path) -> None:
    first = identity(model)
    for path in (cache / "tensors").iterdir():
        path.write_text("[1, 2")
    assert identity(model) == first


def test_a_broken_weight_file_counts_by_its_bytes(model: Path) -> None:
    first = identity(model)
    (model / "vae" / FILE).write_bytes(b"\xff" * 20)
    second = identity(model)
    (model / "vae" / FILE).write_bytes(b"\xfe" * 20)
    third = identity(model)
    assert len({first["vae"], second["vae"], third["vae"]}) == 3


@pytest.mark.parametrize(
    ("tokens", "same"),
    [
        ({"eos_token": "</s>"}, True),
        ({"eos_token": {"content": "</s>", "lstrip": False}}, True),
        ({"eos_token": "<end>"}, False),
        ({"eos_token": "</s>", "mask_token": "<mask>"}, False),
        ([], False),
    ],
)
def test_a_map_of_special_tokens_counts_if_it_says_more_than_the_configuration(
    model: Path, tokens: Any, same: bool
) -> None:
    folder = model / "tokenizer"
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "</s>", "pad_token": "<pad>"}))
    first = identity(model)
    (folder / "special_tokens_map.json").write_text(json.dumps(tokens))
    assert (identity(model) == first) is same


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=8), JSON, max_size=5))
def test_a_document_is_its_values(body: dict[str, Any]) -> None:
    def turned(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: turned(value[key]) for key in reversed(list(value))}
        return [turned(inner) for inner in value] if isinstance(value, list) else value

    dense, wide = json.dumps(body, separators=(",", ":")), json.dumps(turned(body), indent=3, ensure_ascii=False)
    expected = document_digest("config.json", dense.encode("utf-8", "surrogatepass"))
    assert document_digest("config.json", wide.encode("utf-8", "surrogatepass")) == expected
    assert document_digest("config.json", json.dumps({**body, "heads": [body]}).encode()) != expected or "heads" in body


def test_an_absent_component_may_be_left_out_or_null() -> None:
    plain = document_digest("model_index.json", b'{"vae": ["diffusers", "A"]}')
    for absent in ("null", "[null, null]"):
        text = f'{{"vae": ["diffusers", "A"], "image_encoder": {absent}}}'
        assert document_digest("model_index.json", text.encode()) == plain
    assert document_digest("model_index.json", b'{"vae": ["diffusers", "A"], "expand_timesteps": false}') != plain


def test_settings_of_text_generation_do_not_count(model: Path) -> None:
    first = identity(model)
    (model / "text_encoder").mkdir(exist_ok=True)
    (model / "text_encoder" / "generation_config.json").write_text('{"eos_token_id": 1}')
    assert {name: value for name, value in identity(model).items() if name in first} == first


def test_files_that_no_loader_reads_do_not_count(model: Path) -> None:
    first = identity(model)
    for name in ("config.json~", "#config.json#", ".config.json.swp", "._config.json", "training.log", "notes.json"):
        (model / "vae" / name).write_bytes(b"\0\5")
    assert identity(model) == first
    (model / "vae" / "model.bin").write_bytes(b"1")
    assert identity(model) != first


@pytest.mark.parametrize(
    ("name", "one", "other", "same"),
    [
        ("tokenizer.json", {"padding": None, "model": 1}, {"padding": {"strategy": "x"}, "model": 1}, True),
        ("tokenizer.json", {"model": 1}, {"model": 2}, False),
        ("model_index.json", {"tokenizer": ["t", "T5Tokenizer"]}, {"tokenizer": ["t", "T5TokenizerFast"]}, True),
        ("config.json", {"_class_name": "AutoencoderKLWan"}, {"_class_name": "AutoencoderKLWan", "older": 1}, True),
        ("config.json", {"_class_name": "AutoencoderKLWan"}, {"_class_name": "AutoencoderKLWan", "z_dim": 8}, False),
        (
            "config.json",
            {"_class_name": "WanTransformer3DModel"},
            {"_class_name": "WanTransformer3DModel", "x": 1},
            False,
        ),
    ],
)
def test_what_no_loader_reads_changes_no_identity(name: str, one: Any, other: Any, same: bool) -> None:
    digests = {document_digest(name, json.dumps(body).encode()) for body in (one, other)}
    assert (len(digests) == 1) is same


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"ignore": ["b", "a"]}, True),
        ({"kv_cache_scheme": None}, True),
        ({"config_groups": {"all": {"weights": 4}}}, True),
        ({"ignore": ["a"]}, False),
        ({"config_groups": {"all": {"weights": 8}}}, False),
    ],
)
def test_a_declaration_of_quantization_counts_by_its_meaning(change: dict[str, Any], same: bool) -> None:
    plain = {"quant_algo": "NVFP4", "ignore": ["a", "b"], "config_groups": {"group_0": {"weights": 4}}}
    bodies = ({"quantization_config": plain}, {"quantization_config": {**plain, **change}})
    assert (len({document_digest("config.json", json.dumps(body).encode()) for body in bodies}) == 1) is same


def test_what_is_no_json_counts_by_its_bytes() -> None:
    assert document_digest("config.json", b"{a") != document_digest("config.json", b"{b")
    assert document_digest("vocab.json", b'{"_a": 1}') != document_digest("vocab.json", b'{"_a": 2}')
