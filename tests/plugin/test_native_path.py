"""The runner's profile reaches the judge: a format that it multiplies natively must not be dequantized."""

from __future__ import annotations

import json
from typing import Any

import pytest

from harness.outcomes import Outcome


@pytest.mark.parametrize(("formats", "outcome"), [("bf16, nvfp4", Outcome.PASS), ("bf16", Outcome.GOLDEN_MISSING)])
def test_a_control_that_was_dequantized_fails_where_the_profile_promises_the_format(
    project: Any, formats: str, outcome: Outcome
) -> None:
    profile = project.root / "runners" / "cpu.yaml"
    profile.write_text(profile.read_text().replace("native_formats: [bf16]", f"native_formats: [{formats}]"))
    wrote = {
        "expert": "transformer",
        "module": "blocks.0.attn1.to_q",
        "format": "nvfp4",
        "kernel": "dequantize+linear",
        "calls": 2,
        "note": "native nvfp4 refused: relative error 0.9",
        "fallback": "device",
    }
    message = json.dumps({"modules": [wrote]})
    project.program.write_text(f"{project.program.read_text()}\nopen(sys.argv[3], 'w').write({message!r})\n")
    project.cases(
        "  golden: {}\n  control:\n    golden_of: golden\n    inspection: report\n"
        "    expect: regression:native_path_not_run\n    quantization: {transformer: nvfp4}\n"
    )
    path = project.root / "cases" / "a.yaml"
    text = path.read_text()
    assert text.count('"{out}"]') == 1
    path.write_text(text.replace('"{out}"]', '"{out}", "{receipts}"]'))
    project.pytest("-k", "control", "--run-id", "r")
    verdict = project.records("r")["control"].verdict
    assert verdict.outcome is outcome, verdict.summary
    assert ("native nvfp4 refused: relative error 0.9" in verdict.summary) == (outcome is Outcome.PASS)
