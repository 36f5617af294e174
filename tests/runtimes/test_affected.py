"""Which cases a version of a runtime loads otherwise than the one that they name."""

from __future__ import annotations

from pathlib import Path

from harness.definitions.loading import load_cases
from harness.inspector.contracts import load_contract
from harness.runtimes.affected import affected
from harness.runtimes.kinds import Kind, all_kinds, write_kind

CASES = """
defaults:
  runners: [cpu]
  sampling: {prompt: a, width: 96, height: 64, num_frames: 17, num_inference_steps: 4, guidance_scale: 3.0}
cases:
  silent: {model: {path: ./silent}, contracts: [sglang==0.5.12]}
  channel: {model: {path: ./channel}, contracts: [sglang==0.5.13]}
  other: {model: {path: ./silent}, contracts: [harness==0.1.0]}
  gone: {model: {path: ./gone}, contracts: [sglang==0.5.12]}
"""


def test_the_flipped_default_and_a_refusal_are_named_and_what_is_gone_is_said(tmp_path: Path) -> None:
    kinds: dict[str, Kind] = {kind.name: kind for kind in all_kinds()}
    write_kind(kinds["nvfp4_silent"], tmp_path / "silent")
    write_kind(kinds["fp8_algo_fp8_default"], tmp_path / "channel")
    (tmp_path / "gone").mkdir()
    (tmp_path / "runners").mkdir()
    (tmp_path / "runners" / "cpu.yaml").write_text(
        "name: cpu\ndevice_kind: cpu\narchitectures: [x86_64]\nmarker: cpu\nlabels: [x]\n", encoding="utf-8"
    )
    (tmp_path / "cases").mkdir()
    (tmp_path / "cases" / "a.yaml").write_text(CASES, encoding="utf-8")
    cases = [located.case for located in load_cases([tmp_path / "cases" / "a.yaml"], tmp_path)]
    lines = list(affected(cases, "sglang", load_contract("sglang==0.5.23").rules, tmp_path))
    assert "silent (sglang==0.5.12): transformer: nibble order high_first -> low_first" in lines
    assert any(line.startswith("channel (sglang==0.5.13): transformer: loads yes -> quant_algo") for line in lines)
    assert any(line.startswith("gone (sglang==0.5.12): its checkpoint could not be read here") for line in lines)
    assert not any("other" in line for line in lines)
