"""Made-up runs for the tests of the report."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import report_runs


@pytest.fixture(scope="session")
def make() -> ModuleType:
    """The factories of ``tests/support/report_runs.py``."""
    return report_runs


@pytest.fixture(scope="session")
def sample(make: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with one case of every kind; not to be written to."""
    return make.sample_run(tmp_path_factory.mktemp("runs") / "20260102-030405-abcd")


@pytest.fixture(scope="session")
def rendered(sample: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample's report; not to be written to."""
    from harness.report.render import render_run

    return render_run(sample, tmp_path_factory.mktemp("report") / "out").parent
