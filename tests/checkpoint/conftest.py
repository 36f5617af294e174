"""Real exports of the tiny model, made once a session by nvidia-modelopt's own exporter."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("modelopt", reason="the corpus is made by nvidia-modelopt's exporter (extra: test)")

from benchmarks.fault_corpus import build


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``<recipe>/transformer`` and ``base/transformer`` of every recipe."""
    return build(tmp_path_factory.mktemp("exports"))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Digests are remembered below the test's folder, not in the user's cache."""
    monkeypatch.setenv("QUANTGATE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
