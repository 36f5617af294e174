"""The example in the documentation is a case file."""

from __future__ import annotations

import re
from pathlib import Path

from harness.definitions.loading import load_cases

ROOT = Path(__file__).parents[2]


def test_the_example_loads(tmp_path):
    (example,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "cases.md").read_text(), re.DOTALL)
    path = tmp_path / "example.yaml"
    path.write_text(example)
    assert [one.case.id for one in load_cases([path], tmp_path, runners=["b200"])] == [
        "wan22_nvfp4",
        "wan22_nvfp4_swapped",
        "wan22_seeds-seed_0-native",
        "wan22_seeds-seed_0-cudnn",
        "wan22_seeds-seed_1-native",
        "wan22_seeds-seed_1-cudnn",
    ]


def test_the_control_of_the_example_ends_as_it_says(tmp_path: Path) -> None:
    """It is the incident's control with other weights, and `make demo` runs that one."""
    (example,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "cases.md").read_text(), re.DOTALL)
    (tmp_path / "example.yaml").write_text(example)
    shown = {one.case.id: one.case for one in load_cases([tmp_path / "example.yaml"], tmp_path, runners=["b200"])}
    run = {one.case.id: one.case for one in load_cases([ROOT / "cases" / "incident.yaml"], ROOT)}
    ours, theirs = shown["wan22_nvfp4_swapped"], run["incident_export_old_default"]
    for name in ("loader", "quantization", "inspection", "expect"):
        assert getattr(ours, name) == getattr(theirs, name), name
