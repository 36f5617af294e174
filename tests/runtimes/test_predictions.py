"""Contracts predict what real runtimes answered, and the inspector turns a prediction into a sentence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import contracts as benchmark
from benchmarks.contract_kinds import drawn_kinds
from harness.inspector import inspect_checkpoint
from harness.inspector.contracts import load_contract
from harness.inspector.contracts.predict import predict
from harness.records.inspection import InspectionReport
from harness.runtimes.kinds import Kind, all_kinds, base_kind, base_tensors, quantize, write_kind
from harness.runtimes.outcomes import declared_of, predicted_outcome, real_outcome

KINDS = {kind.name: kind for kind in all_kinds()}
VERSIONS = benchmark.recorded()


def test_seven_versions_and_more_were_asked() -> None:
    wanted = {f"sglang=={v}" for v in ("0.5.12.post1", "0.5.13", "0.5.15", "0.5.17", "0.5.19", "0.5.20", "0.5.23")}
    assert wanted <= set(VERSIONS)
    assert all(len(answers) >= len(KINDS) for answers in VERSIONS.values())


@pytest.mark.parametrize("version", sorted(VERSIONS))
def test_every_answer_of_a_real_runtime_is_predicted(version: str) -> None:
    scores = [benchmark.score(version, kinds, VERSIONS[version]) for kinds in benchmark.lists().values()]
    assert [miss for item in scores for miss in item.wrong] == []


SCHEDULES = sorted(version for version, answers in VERSIONS.items() if "sampling_as_published" in answers)


def test_versions_on_both_sides_of_the_incident_were_asked_for_schedules() -> None:
    assert {"sglang==0.5.12.post1", "sglang==0.5.13"} <= set(SCHEDULES)


@pytest.mark.parametrize("version", SCHEDULES)
def test_every_schedule_of_a_real_runtime_is_predicted(version: str) -> None:
    score = benchmark.score_schedules(version, VERSIONS[version])
    assert score.asked >= 50
    assert score.wrong == ()


def test_a_wrong_rule_of_the_scheduler_is_found_by_the_answers() -> None:
    """0.5.12.post1 refuses the keys that diffusers writes since 0.36, 0.5.13 takes them."""
    older = benchmark.score_schedules("sglang==0.5.12.post1", VERSIONS["sglang==0.5.13"])
    assert "scheduler_of_diffusers_037" in [name for name, _, _ in older.wrong]
    assert older.false_alarms > 0


def test_an_index_without_a_boundary_leaves_the_second_expert_unused() -> None:
    answers = VERSIONS["sglang==0.5.13"]
    assert answers["sampling_as_published"] == "switch at 0.875, shift 12"
    assert answers["boundary_absent"] == answers["boundary_null"] == "one expert, shift 12"
    assert answers["local_folder"] == "switch at 0.875, shift 3"


def test_a_wrong_rule_is_found_by_the_answers() -> None:
    """The comparison can fail: the rules of before the incident mispredict the version after it."""
    rules = load_contract("sglang==0.5.12").rules
    answers = VERSIONS["sglang==0.5.13"]
    wrong = [
        name
        for name, kind in KINDS.items()
        if predicted_outcome(predict(rules, declared_of(kind)), kind, declared_of(kind)) != answers[name]
    ]
    assert "nvfp4_silent" in wrong
    assert len(wrong) > 20


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_kind(base_kind(), tmp_path_factory.mktemp("kinds") / "base")


def inspected(kind: str, base: Path, tmp_path: Path, *contracts: str) -> InspectionReport:
    folder = write_kind(KINDS[kind], tmp_path / kind)
    if KINDS[kind].role == "override":
        return inspect_checkpoint(base, base=base, transformer=str(folder), contracts=contracts, digests=False)
    return inspect_checkpoint(folder, base=base, contracts=contracts, digests=False)


def of_contract(report: InspectionReport, code: str) -> list[str]:
    return [item.message for item in report.with_code(code) if item.contract]


@pytest.mark.parametrize(
    ("kind", "version", "code"),
    [
        ("nvfp4_silent", "0.5.12.post1", "nibble_order"),
        ("nvfp4_swap_text_false", "0.5.23", "nibble_order"),
        ("nvfp4_section_layout_swizzled", "0.5.13", "scale_layout"),
        ("nvfp4_algo_nvfp4_awq", "0.5.20", "runtime_refuses"),
        ("fp8_algo_fp8_per_channel_per_token", "0.5.23", "runtime_refuses"),
        ("fp8_scale_channel", "0.5.17", "scale_shape"),
        ("nvfp4_prefixed_names", "0.5.13", "name_unmapped"),
        ("fp8_ignore_parents", "0.5.23", "scope_differs"),
        ("fp8_ignore_exact", "0.5.12", "scope_differs"),
        ("fp8_hf_quant_only", "0.5.19", "declaration_unseen"),
        ("nvfp4_dynamic_inputs", "0.5.20", "input_scale_missing"),
        ("fp8_no_weight_scale", "0.5.15", "scale_missing"),
    ],
)
def test_what_a_runtime_does_wrong_is_a_fault_with_its_name(
    kind: str, version: str, code: str, base: Path, tmp_path: Path
) -> None:
    assert of_contract(inspected(kind, base, tmp_path, f"sglang=={version}"), code)


@pytest.mark.parametrize(
    "kind", ["nvfp4_silent", "nvfp4_nested_silent", "fp8_scale_one", "fp8_nested", "nvfp4_two_shards"]
)
def test_what_a_runtime_reads_right_raises_nothing(kind: str, base: Path, tmp_path: Path) -> None:
    report = inspected(kind, base, tmp_path, "sglang==0.5.13", "sglang==0.5.23")
    assert [item.code for item in report.findings if item.contract and item.severity not in ("warning", "info")] == []
    assert {item.agrees for item in report.contracts} == {True}


def test_the_remedy_for_an_override_is_one_that_works(base: Path, tmp_path: Path) -> None:
    """0.5.12.post1 never reads an override's config.json: the key that mends a full repository does nothing there."""
    report = inspected("override_nvfp4_swap_false", base, tmp_path, "sglang==0.5.12.post1")
    message = of_contract(report, "nibble_order")[0]
    assert "set swap_weight_nibbles" not in message
    assert "use sglang >=0.5.13" in message
    full = of_contract(inspected("nvfp4_silent", base, tmp_path, "sglang==0.5.12.post1"), "nibble_order")[0]
    assert "set swap_weight_nibbles: false, or use sglang >=0.5.13" in full


def test_a_version_that_nobody_read_is_inconclusive_and_names_the_command(base: Path, tmp_path: Path) -> None:
    report = inspected("nvfp4_silent", base, tmp_path, "sglang==0.6.0")
    unread = report.with_code("contract_unread")
    assert {item.severity for item in unread} == {"inconclusive"}
    assert unread[0].next_command == "quantgate learn sglang==0.6.0"
    assert {item.agrees for item in report.contracts} == {None}


def test_a_declaration_without_a_rule_is_inconclusive(base: Path, tmp_path: Path) -> None:
    kind = Kind("modelslim", config={"quant_method": "mxfp4"})
    report = inspect_checkpoint(
        write_kind(kind, tmp_path / "made"), base=base, contracts=["sglang==0.5.23"], digests=False
    )
    assert of_contract(report, "contract_unmodelled")


def test_answers_are_judged_by_their_values() -> None:
    kind = KINDS["nvfp4_silent"]
    declared = declared_of(kind)
    right = {"loaded": True, "config": {"swap_weight_nibbles": False}, "linears": {}}
    good = {name: ["ModelOptFp4LinearMethod", 0.995, 1.0, 0.011] for name in _quantized(kind)}
    assert real_outcome({**right, "linears": good}, kind, declared) == "right"
    swapped = {name: ["ModelOptFp4LinearMethod", 0.01, 1.0, 0.011] for name in good}
    assert real_outcome({**right, "linears": swapped}, kind, declared) == "nibble_order"
    gain = {name: ["ModelOptFp4LinearMethod", 0.995, 480.0, 0.011] for name in good}
    assert real_outcome({**right, "linears": gain}, kind, declared) == "gain"
    plain = {name: ["UnquantizedLinearMethod", 0.995, 1.0, None] for name in good}
    assert real_outcome({**right, "linears": plain}, kind, declared) == "plain"
    assert real_outcome({"loaded": False}, kind, declared) == "refused"


def _quantized(kind: Kind) -> list[str]:
    return [
        name[:-7]
        for name, entry in declared_of(kind).tensors.items()
        if name.endswith(".weight") and entry.dtype == "U8"
    ]


def test_generated_weights_decode_to_their_base() -> None:
    """An independent decoder: torchao's or ModelOpt's rule written out, W = code * block scale * global scale."""
    kind = KINDS["nvfp4_silent"]
    base = base_tensors()
    made = quantize(base, kind.stored)
    name = "blocks.1.ffn.net.2"
    packed, scale = made[f"{name}.weight"], made[f"{name}.weight_scale"].astype(np.float32)
    table = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6], dtype=np.float32)
    values = np.empty((packed.shape[0], packed.shape[1] * 2), dtype=np.float32)
    values[:, 0::2], values[:, 1::2] = table[packed & 15], table[packed >> 4]
    weight = values * np.repeat(scale, 16, axis=1) * made[f"{name}.weight_scale_2"]
    reference = base[f"{name}.weight"].astype(np.float32)
    cosine = (weight * reference).sum() / np.sqrt((weight**2).sum() * (reference**2).sum())
    assert cosine > 0.99


def test_drawn_checkpoints_are_the_same_for_the_same_seed() -> None:
    first, second = drawn_kinds(3, 5), drawn_kinds(3, 5)
    assert [json.dumps(kind.config) for kind in first] == [json.dumps(kind.config) for kind in second]
    assert len({kind.name for kind in all_kinds()}) == len(all_kinds()) >= 80
