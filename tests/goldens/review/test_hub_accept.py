"""Accepting into a dataset: the upload comes first, the pin moves with the limits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_server import HubServer

from harness.errors import GoldenError, InfraError
from harness.goldens.accept import accept
from harness.goldens.journal import recover
from harness.goldens.pending import listed
from harness.goldens.store import HubPin, StoreConfig, open_store, read_config
from harness.goldens.workspace import Workspace
from harness.records.limits import LimitFile

REPO = "team/goldens"

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")  # inside the client library


class Killed(BaseException):
    """The process ended here."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """A hub in a process of its own; the client is set as HF_HUB_* variables set it at import."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    with HubServer() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)  # never store.json: a data file does not say where a token goes
        yield server


@pytest.fixture
def pinned(hub: Any, workspace: Workspace) -> Workspace:
    """A project whose b200 goldens are in the dataset."""
    pin = HubPin(repo_id=REPO, revision=hub.create(REPO))
    StoreConfig(hub=pin, runners=("b200",)).write(workspace.goldens / "store.json")
    return workspace


def pin_of(workspace: Workspace) -> str:
    """The pinned commit."""
    config = read_config(workspace.goldens)
    assert config.hub is not None
    return config.hub.revision


def test_golden_goes_to_the_hub_and_pin_and_limits_change_together(
    pinned: Workspace, hub: Any, left: Callable, limit_file: Callable
) -> None:
    left(limits=limit_file())
    done = accept(pinned, "nvfp4", reason="r", author="a")
    assert pin_of(pinned) == hub.head(REPO)
    assert done.changed == ("goldens/store.json", "thresholds/b200/nvfp4.json")
    (golden,) = open_store(pinned.goldens).find("b200", "nvfp4")
    assert golden.digest == done.digest
    assert golden.verify() == ()
    assert LimitFile.read(pinned.limits("b200", "nvfp4")).golden_digest == done.digest
    assert not (pinned.goldens / "b200").exists()


def test_other_runners_stay_in_the_folder(pinned: Workspace, hub: Any, left: Callable) -> None:
    before = pin_of(pinned)
    left(runner="cpu")
    accept(pinned, "nvfp4", reason="r", author="a")
    assert pin_of(pinned) == before
    assert (pinned.goldens / "cpu" / "nvfp4" / "accepted.json").exists()


def test_failed_upload_changes_nothing_and_can_be_repeated(
    pinned: Workspace, hub: Any, left: Callable, limit_file: Callable
) -> None:
    before = pin_of(pinned)
    left(limits=limit_file())
    hub.fail("status", "/commit/", status=500)
    with pytest.raises(InfraError, match="upload"):
        accept(pinned, "nvfp4", reason="r", author="a")
    assert (pin_of(pinned), hub.head(REPO)) == (before, before)
    assert not pinned.limits("b200", "nvfp4").exists()
    assert len(listed(pinned)) == 1
    accept(pinned, "nvfp4", reason="r", author="a")
    assert pin_of(pinned) == hub.head(REPO) != before


def test_death_after_the_upload_leaves_the_pin_alone_and_the_next_try_arrives(
    pinned: Workspace, hub: Any, left: Callable
) -> None:
    before = pin_of(pinned)
    left()

    def hook(name: str) -> None:
        if name == "before journal":
            raise Killed

    with pytest.raises(Killed):
        accept(pinned, "nvfp4", reason="r", author="a", hook=hook)
    assert hub.head(REPO) != before
    with pinned.locked():
        recover(pinned)
    assert pin_of(pinned) == before
    assert open_store(pinned.goldens).find("b200", "nvfp4") == ()
    assert len(listed(pinned)) == 1
    done = accept(pinned, "nvfp4", reason="once more", author="a")
    assert [golden.digest for golden in open_store(pinned.goldens).find("b200", "nvfp4")] == [done.digest]
    assert pin_of(pinned) == hub.head(REPO)


def test_somebody_elses_accept_on_the_hub_is_not_overwritten(
    pinned: Workspace, hub: Any, left: Callable, tmp_path: Path
) -> None:
    mine = read_config(pinned.goldens)
    left()
    accept(pinned, "nvfp4", reason="theirs", author="b")
    theirs = hub.head(REPO)
    mine.write(pinned.goldens / "store.json")  # a checkout that has not pulled their commit
    left(2)
    with pytest.raises(GoldenError, match=r"(?s)changed on branch main since the pin.*quantgate goldens pin"):
        accept(pinned, "nvfp4", reason="mine", author="a")
    assert hub.head(REPO) == theirs
    assert len(listed(pinned)) == 1
