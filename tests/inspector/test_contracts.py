"""What each runtime assumes, from its data file; and the sentence where the bytes say otherwise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.corpus.dialects import DIALECTS
from benchmarks.corpus.edit import Edit
from harness.definitions.case import Loader
from harness.formats.errors import ContractError
from harness.inspector import inspect_checkpoint, load_contract
from harness.inspector.contracts import known_contracts
from harness.inspector.contracts.sampling import predict_sampling
from harness.records.inspection import InspectionReport


def assumed(report: InspectionReport, contract: str, field: str) -> object:
    rows = [row for item in report.contracts if item.contract == contract for row in item.assumptions]
    return next(row.value for row in rows if row.field == field)


def test_every_contract_file_is_well_formed() -> None:
    assert {"sglang", "harness"} <= set(known_contracts())


@pytest.mark.parametrize(
    "name", ["sglang", "sglang>=0.5.12", "vllm==1.0", "sglang==x", "not a name ==1", "sglang==1,==2"]
)
def test_a_contract_is_one_known_version(name: str) -> None:
    with pytest.raises(ContractError):
        load_contract(name)


def test_a_misspelt_field_of_a_contract_is_named_before_the_field_that_is_missing(tmp_path: Path) -> None:
    example = Path(__file__).parents[2] / "docs" / "examples" / "contracts" / "tinyserve.yaml"
    file = tmp_path / "contracts" / "tinyserve.yaml"
    file.parent.mkdir()
    file.write_text(example.read_text(encoding="utf-8").replace("families:", "family:"), encoding="utf-8")
    with pytest.raises(ContractError, match=r"nvfp4\.family: there is no such field; rules\.0\.nvfp4\.families: Field"):
        load_contract("tinyserve==1.4", tmp_path)


def test_a_malformed_contract_of_a_project_says_what_where_and_what_next(tmp_path: Path) -> None:
    file = tmp_path / "contracts" / "ours.yaml"
    file.parent.mkdir()
    file.write_text("runtime: 3\n", encoding="utf-8")
    with pytest.raises(ContractError, match="malformed") as error:
        load_contract("ours==1.0", tmp_path)
    assert error.value.place == str(file)
    assert "quantgate learn" in error.value.remedy


def test_default_flipped_between_versions() -> None:
    old, new = load_contract("sglang==0.5.12"), load_contract("sglang==0.5.13")
    assert old.rules.nvfp4.swap_weight_nibbles.default is True
    assert new.rules.nvfp4.swap_weight_nibbles.default is False
    assert old.read
    assert not load_contract("sglang==0.6.0").read


@pytest.mark.parametrize(("folder", "agrees", "count"), [("fp8", True, 40), ("base", None, 0)])
def test_a_runtime_agrees_only_about_what_was_compared(
    folder: str, agrees: bool | None, count: int, exports: Path
) -> None:
    report = inspect_checkpoint(exports / folder, contracts=["sglang==0.5.23"], digests=False)
    for item in report.contracts:
        fields = {row.field: row.value for row in item.assumptions}
        assert (item.agrees, fields["quantized_linears"]) == (agrees, count)
        assert not fields.keys() & {"nibble_order", "scale_layout", "fp4_backend"}


def test_without_a_base_the_next_command_names_this_checkpoint(exports: Path) -> None:
    report = inspect_checkpoint(exports / "nvfp4", contracts=["sglang==0.5.23"], digests=False)
    commands = {item.next_command for item in report.findings if item.code in ("base_missing", "contract_unproven")}
    assert commands == {f"quantgate inspect {exports / 'nvfp4'} --base owner/name@commit"}


def test_incident_sentence(exports: Path) -> None:
    report = inspect_checkpoint(
        exports / "nvfp4", base=exports / "base", contracts=["sglang==0.5.12", "sglang==0.5.23"], digests=False
    )
    found = report.with_code("nibble_order")
    assert {item.contract for item in found} == {"sglang==0.5.12"}
    assert "low nibble first" in found[0].message
    assert "config is silent" in found[0].message
    assert "swap_weight_nibbles: false, or use sglang >=0.5.13" in found[0].message
    assert (report.outcome, report.cause) == ("fault", "nibble_order")
    assert {item.contract: item.agrees for item in report.contracts} == {
        "sglang==0.5.12": False,
        "sglang==0.5.23": True,
    }


@pytest.mark.parametrize(
    ("loader", "code"),
    [
        (Loader(), ""),
        (Loader(nibble_order="high_first"), "nibble_order"),
        (Loader(scale_layout="swizzled"), "scale_layout"),
    ],
)
def test_own_loader_is_a_contract_too(exports: Path, loader: Loader, code: str) -> None:
    report = inspect_checkpoint(exports / "nvfp4", base=exports / "base", loader=loader, digests=False)
    assert report.cause == (code or "none")
    assert all(item.contract == "harness" for item in report.faults)


def test_explicit_config_wins_before_and_inference_wins_after(exports: Path, tmp_path: Path) -> None:
    edit = Edit(exports / "nvfp4", tmp_path / "made")
    next(item for item in DIALECTS if item.name.startswith("Comfy")).make(edit)
    for expert in ("transformer", "transformer_2"):
        body = edit.config(expert)
        body["quantization_config"] = {
            "quant_method": "modelopt", "quant_algo": "NVFP4", "group_size": 16, "swap_weight_nibbles": False,
        }  # fmt: skip
        edit.write_config(expert, body)
    report = inspect_checkpoint(
        edit.folder, base=exports / "base", contracts=["sglang==0.5.12", "sglang==0.5.23"], digests=False
    )
    assert assumed(report, "sglang==0.5.12", "nibble_order") == "low_first"
    assert assumed(report, "sglang==0.5.23", "nibble_order") == "high_first"
    assert assumed(report, "sglang==0.5.23", "scale_layout") == "swizzled"


def test_old_schema_of_fp8_is_not_seen_by_sglang(exports: Path, tmp_path: Path) -> None:
    old = next(item for item in DIALECTS if item.name.startswith("old"))
    edit = Edit(exports / "fp8", tmp_path / "made")
    old.make(edit)
    report = inspect_checkpoint(edit.folder, base=exports / "base", contracts=["sglang==0.5.23"], digests=False)
    assert report.cause == "declaration_unseen"
    assert inspect_checkpoint(edit.folder, base=exports / "base", digests=False).outcome == "clean"


def test_backend_follows_the_environment(exports: Path) -> None:
    env = {"SGLANG_DIFFUSION_FLASHINFER_FP4_GEMM_BACKEND": "cudnn"}
    for given, expected in ((env, "cudnn"), ({}, "trtllm")):
        report = inspect_checkpoint(exports / "nvfp4", contracts=["sglang==0.5.23"], env=given, digests=False)
        assert assumed(report, "sglang==0.5.23", "fp4_backend") == expected


def test_a_backend_that_the_runtime_does_not_have(exports: Path) -> None:
    env = {"SGLANG_DIFFUSION_FLASHINFER_FP4_GEMM_BACKEND": "cutlas"}
    report = inspect_checkpoint(
        exports / "nvfp4", base=exports / "base", contracts=["sglang==0.5.23"], env=env, digests=False
    )
    assert (report.outcome, report.with_code("backend_unknown")[0].severity) == ("clean", "warning")


def test_prepared_for_the_old_default_is_right_there_and_named_elsewhere(exports: Path, tmp_path: Path) -> None:
    """High nibble first and a silent config: what was published before the default flipped."""
    from benchmarks.corpus.mutations import nibbles

    edit = Edit(exports / "nvfp4", tmp_path / "made")
    nibbles(edit, "all")
    old = inspect_checkpoint(edit.folder, base=exports / "base", contracts=["sglang==0.5.12"], digests=False)
    assert old.outcome == "clean"
    assert old.with_code("nibble_order")[0].severity == "warning"
    new = inspect_checkpoint(edit.folder, base=exports / "base", contracts=["sglang==0.5.23"], digests=False)
    assert (new.outcome, new.cause) == ("fault", "nibble_order")


def test_a_repository_that_a_runtime_does_not_know_is_a_warning(exports: Path) -> None:
    """Local folders are not asked: their path says nothing about the repository."""
    report = inspect_checkpoint(exports / "nvfp4", base=exports / "base", contracts=["sglang==0.5.23"], digests=False)
    assert not report.with_code("repository_unregistered")


@pytest.mark.parametrize(("contract", "shift"), [("sglang==0.5.12.post1", 12.0), ("sglang==0.5.23", 12.0)])
def test_what_a_runtime_samples_with_is_said_with_the_files_that_it_ignores(
    tmp_path: Path, contract: str, shift: float
) -> None:
    from tiny.export import export

    report = inspect_checkpoint(export("nvfp4", tmp_path), contracts=[contract], digests=False)
    [message] = report.with_code("contract_schedule")
    assert message.severity == "info"
    assert message.evidence["flow_shift"]["Wan-AI/Wan2.2-T2V-A14B-Diffusers"] == shift
    assert message.evidence["ignored_files"] == ["scheduler/scheduler_config.json"]
    assert "which says flow_shift 3" in message.message
    assert "0.875 (model_index.json)" in message.message


@pytest.mark.parametrize(
    ("contract", "export_name", "refused"),
    [
        ("sglang==0.5.12.post1", "nvfp4", True),
        ("sglang==0.5.12.post1", "nvfp4-older-diffusers", False),
        ("sglang==0.5.13", "nvfp4", False),
    ],
)
def test_a_scheduler_that_a_runtime_does_not_load_is_named(
    tmp_path: Path, contract: str, export_name: str, refused: bool
) -> None:
    """Seen in the real versions: 0.5.12.post1 raises over these keys, 0.5.13 loads them."""
    from tiny.export import export

    report = inspect_checkpoint(export(export_name, tmp_path), contracts=[contract], digests=False)
    found = report.with_code("scheduler_refused")
    assert [item.evidence["keys"] for item in found] == (
        [["shift_terminal", "sigma_max", "sigma_min"]] if refused else []
    )


@pytest.mark.parametrize(
    ("file", "key", "value", "code", "message"),
    [
        ("model_index.json", "boundary_ratio", None, "contract_schedule", "`transformer` serves every step"),
        ("model_index.json", "boundary_ratio", "0.875", "scheduler_refused", "is no number"),
        ("model_index.json", "boundary_ratio", 0.5, "contract_schedule", "experts switch at 0.5"),
        ("scheduler/scheduler_config.json", "_class_name", "LCMScheduler", "scheduler_refused", "no scheduler"),
    ],
)
def test_an_index_and_a_scheduler_are_taken_as_the_runtime_takes_them(
    exports: Path, tmp_path: Path, file: str, key: str, value: Any, code: str, message: str
) -> None:
    edit = Edit(exports / "nvfp4", tmp_path / "made")
    place = edit.folder / file
    place.parent.mkdir(exist_ok=True)
    body = json.loads(place.read_text()) if place.exists() else {}
    place.write_text(json.dumps({**body, key: value}))
    report = inspect_checkpoint(edit.folder, contracts=["sglang==0.5.13"], digests=False)
    assert message in " ".join(item.message for item in report.with_code(code))


@pytest.mark.parametrize(
    ("second", "present"),
    [(None, False), ([None, None], False), (["diffusers", "WanTransformer3DModel"], True), (5, True), ({}, True)],
)
def test_an_index_of_any_type_is_predicted(second: Any, present: bool) -> None:
    index = {"_diffusers_version": "0.36.0", "transformer_2": second}
    assert not predict_sampling(load_contract("sglang==0.5.13").rules, index, {}, None).two_experts
    index["boundary_ratio"] = 0.875
    assert predict_sampling(load_contract("sglang==0.5.13").rules, index, {}, None).two_experts == present


def test_a_transformer_alone_has_no_schedule(exports: Path) -> None:
    report = inspect_checkpoint(exports / "nvfp4" / "transformer", contracts=["sglang==0.5.23"], digests=False)
    assert not report.with_code("contract_schedule")
