"""Cases and owners for the tests of the pipeline."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fault_cases import fault_case, wan_case
from random_wan import export, make_pipeline

from harness.definitions.case import Case
from harness.definitions.causes import CAUSES
from harness.engine.owner import EngineOwner
from harness.errors import CheckpointFaultError


@pytest.fixture(autouse=True)
def only_known_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint fault of the engine with a code that no case could wait for fails the test in which it is made."""
    plain = CheckpointFaultError.__init__

    def checked(self: CheckpointFaultError, *arguments: Any, **fields: Any) -> None:
        plain(self, *arguments, **fields)
        if self.code and sys._getframe(1).f_globals["__name__"].startswith("harness.engine"):
            assert self.code in CAUSES, f"{self.code}: add it to harness/definitions/causes.py"

    monkeypatch.setattr(CheckpointFaultError, "__init__", checked)


@pytest.fixture
def start_owner(tmp_path: Path) -> Iterator[Callable[..., EngineOwner]]:
    """Starts engines of the fault backend and ends them after the test."""
    owners: list[EngineOwner] = []

    def start(case: Case, **options: Any) -> EngineOwner:
        owner = EngineOwner(case, tmp_path, {}, {"model": tmp_path / "model"}, allow_python_backend=True, **options)
        owners.append(owner)
        owner.start()
        return owner

    yield start
    for owner in owners:
        owner.close()


@pytest.fixture
def make_case() -> Callable[..., Case]:
    """Makes cases for the fault-injecting backend."""
    return fault_case


@pytest.fixture(scope="session")
def random_wan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `bf16`, a small random Wan2.2 repository, and `nvfp4` and `fp8`: ModelOpt exports of one expert."""
    root = tmp_path_factory.mktemp("random_wan")
    make_pipeline(root / "bf16")
    for form in ("nvfp4", "fp8"):
        export(root / "bf16" / "transformer", root / form, form)
    return root


@pytest.fixture
def make_wan_case() -> Callable[..., Case]:
    """Makes cases for the random Wan2.2."""
    return wan_case


@pytest.fixture
def load(random_wan: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Loads a backend without touching the global settings of the tests' process."""
    import torch

    from harness.engine.backends import wan_loading
    from harness.engine.backends.diffusers_backend import DiffusersBackend

    monkeypatch.setattr(wan_loading, "apply", lambda _: torch.set_num_threads(1))

    def start(case: Case, **paths: Path) -> DiffusersBackend:
        backend = DiffusersBackend()
        backend.load(case, {"model": random_wan / "bf16"} | paths, "cpu", lambda _: None)
        return backend

    return start
