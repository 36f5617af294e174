"""Configurations and indexes: every schema in use, and hostile ones as typed findings instead of tracebacks."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.corpus.edit import Edit
from harness.formats.config import declaration, parse_json, pattern_matches
from harness.formats.errors import ConfigError
from harness.inspector import inspect_checkpoint


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": ["a"]}, ("nvfp4", ("a",))),
        ({"quantization": {"quant_algo": "FP8", "exclude_modules": ["b*"]}}, ("fp8", ("b*",))),
        ({"quant_method": "modelopt", "quant_algo": "FP8_PER_CHANNEL_PER_TOKEN"}, ("fp8", ())),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4_AWQ"}, ("nvfp4", ())),
        ({"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized", "ignore": []}, ("nvfp4", ())),
        ({"config_groups": {"g": {"weights": {"num_bits": 8, "type": "float"}}}}, ("fp8", ())),
        ({"config_groups": {"g": {"weights": {"num_bits": 8, "type": "int"}}}}, (None, ())),
    ],
)
def test_schemas(body: dict[str, Any], expected: tuple[str | None, tuple[str, ...]]) -> None:
    found = declaration(body, "config.json")
    assert (found.format, found.ignore) == expected


@pytest.mark.parametrize(
    ("pattern", "module", "matches"),
    [
        ("blocks.0*", "blocks.0.attn1.to_q", True),
        ("blocks.0*", "blocks.1.attn1.to_q", False),
        ("proj_out", "proj_out", True),
        ("proj_out", "blocks.0.proj_out", False),
        ("condition_embedder", "condition_embedder.time_proj", True),
        (r"re:blocks\.0\..*", "blocks.0.attn1.to_q", True),
        ("re:[", "blocks.0", False),
    ],
)
def test_ignore_patterns(pattern: str, module: str, matches: bool) -> None:
    assert pattern_matches(pattern, module) is matches


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{",
        b'{"a": NaN}',
        b'{"a": 1, "a": 2}',
        b"\xff\xfe",
        b'{"a":' + b"[" * 60_000 + b"]" * 60_000 + b"}",
    ],
)
def test_hostile_json_is_refused(data: bytes) -> None:
    with pytest.raises(ConfigError):
        parse_json(data, "config.json")


@given(st.binary(max_size=200) | st.text(max_size=80).map(str.encode))
@settings(deadline=None)
def test_any_bytes_parse_or_are_refused(data: bytes) -> None:
    with contextlib.suppress(ConfigError):
        parse_json(data, "x")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(
    ["quantization", "quant_algo", "quant_method", "ignore", "config_groups", "group_size", "format"]
)


@given(st.dictionaries(KEYS, VALUES, max_size=5))
@settings(deadline=None)
def test_any_declaration_is_read_or_refused(body: dict[str, Any]) -> None:
    with contextlib.suppress(ConfigError):
        declaration(body, "x")


@pytest.mark.parametrize(
    ("file", "text", "code"),
    [
        ("config.json", "{", "config_invalid"),
        ("config.json", '{"quantization_config": 3}', "config_invalid"),
        ("config.json", '{"quantization_config": {"ignore": 3}}', "config_invalid"),
        ("diffusion_pytorch_model.safetensors.index.json", "[]", "index_invalid"),
        ("diffusion_pytorch_model.safetensors.index.json", '{"weight_map": {"a": 1}}', "index_invalid"),
        ("diffusion_pytorch_model.safetensors.index.json", '{"weight_map": {"a": "../../x"}}', "index_invalid"),
    ],
)
def test_hostile_files_of_a_checkpoint_become_findings(
    exports: Path, tmp_path: Path, file: str, text: str, code: str
) -> None:
    edit = Edit(exports / "nvfp4", tmp_path / "made")
    (edit.own("transformer") / file).write_text(text, encoding="utf-8")
    report = inspect_checkpoint(edit.folder, base=exports / "base", digests=False)
    assert report.outcome == "fault"
    assert report.cause == code


def test_broken_model_index_is_a_finding(exports: Path, tmp_path: Path) -> None:
    edit = Edit(exports / "nvfp4", tmp_path / "made")
    (edit.folder / "model_index.json").write_text("{", encoding="utf-8")
    assert inspect_checkpoint(edit.folder, base=exports / "base", digests=False).cause == "config_invalid"


def test_expert_that_the_index_names_must_be_there(exports: Path, tmp_path: Path) -> None:
    edit = Edit(exports / "nvfp4", tmp_path / "made")
    (edit.folder / "transformer_2").unlink()
    report = inspect_checkpoint(edit.folder, base=exports / "base", digests=False)
    assert report.cause == "weights_missing"


def test_full_leaves_nothing_of_excluded_tensors_unread(exports: Path) -> None:
    report = inspect_checkpoint(exports / "nvfp4", base=exports / "base", full=True, digests=False)
    assert report.outcome == "clean"
    assert not [line for line in report.not_done if "excluded" in line or "block scales" in line]


def test_report_is_json_that_reads_back(exports: Path, tmp_path: Path) -> None:
    from harness.records.inspection import InspectionReport

    report = inspect_checkpoint(exports / "nvfp4", base=exports / "base", contracts=["harness==0.1.0"], digests=False)
    assert InspectionReport.read(report.write(tmp_path / "r.json")) == report
    assert json.loads(report.to_json())["contracts"][0]["agrees"] is True
