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
