"""Faults inside a real engine, judged and attributed from the run's folder: the benchmark on a few of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.attribution import main

pytestmark = pytest.mark.slow


def test_faults_are_named_and_a_healthy_run_is_clean(tmp_path: Path) -> None:
    expected = {
        "healthy": "-",
        "gain 1%": "gain @ transformer_2/blocks.2.ffn.net.2",
        "swizzled one Linear": "scale_layout @ transformer_2/blocks.2.ffn.net.2",
        "boundary .875 -> .9": "boundary_ratio",
        "nibbles on disk": "nibble_order",
    }
    for name, named in expected.items():
        assert main(["--folder", str(tmp_path), "--no-linears", "--only", name]) in (0, 1)
        found = json.loads((tmp_path / "summary.json").read_text())[name]
        assert found["right"]
        assert found["named"].startswith(named)
