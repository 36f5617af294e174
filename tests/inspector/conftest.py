"""Real exports of the tiny model, made once a session by nvidia-modelopt's own exporter."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hub_server import HubServer

pytest.importorskip("modelopt", reason="the corpus is made by nvidia-modelopt's exporter (extra: test)")

from benchmarks.fault_corpus import build
from harness.inspector import inspect


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``<recipe>/transformer`` and ``base/transformer`` of every recipe; not to be written to.

    The worker that needs them first makes them for all workers of the session.
    """
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    folder, made = root / "corpus_exports", root / "corpus_exports.made"
    with FileLock(root / "corpus_exports.lock"):
        if not made.exists():
            build(folder)
            made.touch()
    return folder


@pytest.fixture(autouse=True)
def only_declared_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A finding with a code that no check declares fails the test in which it is made."""
    from harness.inspector import findings
    from harness.inspector.checks.registry import all_codes

    monkeypatch.setattr(findings, "registered_codes", all_codes())


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Digests are remembered below the test's folder, not in the user's cache."""
    monkeypatch.setenv("QUANTGATE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(autouse=True)
def few_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading the small exports in 16 threads takes a third more processor time than in two."""
    monkeypatch.setattr(inspect, "WORKERS", 2)


@pytest.fixture(scope="session")
def hub_server() -> Iterator[Any]:
    """A hub on loopback, in a process of its own."""
    with HubServer() as server:
        yield server


@pytest.fixture
def hub(hub_server: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The hub without faults; the client's settings as HF_ENDPOINT and two more variables set them at import."""
    from huggingface_hub import constants

    from harness.inspector import sources as source

    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, hub_server.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", hub_server.url)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(source, "RETRIES", 0)
    hub_server.heal()
    hub_server.log()
    return hub_server


def publish(hub: Any, name: str, folder: Path) -> str:
    """Put a checkpoint folder on the hub; returns its commit."""
    hub.create(name, kind="models")
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return str(hub.commit(name, files, kind="models"))


@pytest.fixture(scope="session")
def published(hub_server: Any, exports: Path) -> dict[str, str]:
    """``owner/name`` to commit of both bases and the NVFP4 exports made from them."""
    names = ("base", "nvfp4", "base_wide", "nvfp4_wide")
    return {f"corpus/{name}": publish(hub_server, f"corpus/{name}", exports / name) for name in names}


@pytest.fixture
def upload(hub: Any) -> Callable[[Path], str]:
    """Puts a folder on the hub under a name of its own, and gives the name."""

    def put(folder: Path) -> str:
        name = f"uploaded/number-{next(UPLOADS)}"
        publish(hub, name, folder)
        return name

    return put


UPLOADS = itertools.count()
