"""Manifests, parts and a hub for the tests of golden stores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hub_server import HubServer

from harness.frames.clip import Clip, write_clip
from harness.goldens.golden import describe
from harness.records.golden import GoldenManifest, Provenance
from harness.records.identity import Identity

Made = tuple[GoldenManifest, dict[str, Path]]


@pytest.fixture(scope="session")
def hub_server() -> Iterator[Any]:
    """A hub on loopback, in a process of its own; one for all tests, each in a repository of its own."""
    with HubServer() as server:
        yield server


@pytest.fixture
def hub(hub_server: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The hub without faults, and the client set as HF_HUB_DISABLE_XET=1 and HF_HUB_OFFLINE=0 set it at import."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub_server.heal()
    hub_server.log()
    return hub_server


@pytest.fixture
def identity() -> Identity:
    """An identity with something in each class."""
    return Identity(
        request={"sampling.seed": 0, "sampling.prompt": "a red ball"},
        hardware={"device": "x86_64"},
        weights={"model": "a" * 40},
        env={"SGLANG_X": "1"},
        subject={"execution.threads": 1, "code": "c0"},
    )


@pytest.fixture
def make(tmp_path: Path, identity: Identity) -> Callable[..., Made]:
    """Make a manifest and its files; ``fill`` moves the clip's bytes, other keywords replace fields."""

    def build(fill: int = 1, size: int = 5000, **fields: Any) -> Made:
        folder = tmp_path / f"made-{fill}-{size}"
        folder.mkdir(exist_ok=True)
        clip, trace, sketches = folder / "a.safetensors", folder / "b.json", folder / "c.safetensors"
        shape = (1, 1, size // 3, 3)
        write_clip(clip, Clip(np.full(shape, fill, np.uint8)), codec="raw")
        trace.write_text(f'{{"steps": [{fill}]}}')
        sketches.write_bytes(b"sketch" * 50 + bytes([fill]))
        files = {"clip": clip, "trace": trace, "sketches": sketches}
        parts = {name: describe(path, "test", f"{name}{path.suffix}") for name, path in files.items()}
        values: dict[str, Any] = {
            "case": "nvfp4",
            "runner": "cpu",
            "identity": identity,
            "parts": parts,
            "shape": shape,
            "created": "2026-01-01T00:00:00+00:00",
            "author": "Ada",
            "reason": "first",
            "provenance": Provenance(run="r1", code="c0"),
        }
        return GoldenManifest(**{**values, **fields}), files

    return build
