"""verify, gc, push, pull, pin: through the commands."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from harness.cli.goldens import goldens_app
from harness.errors import GoldenError, InfraError, InvalidCaseError, QuantgateError
from harness.goldens.folder import FolderStore
from harness.goldens.store import RoutedStore, StoreConfig, open_store, read_config
from harness.records.golden import Accepted, AcceptedIndex, GoldenManifest

_NUMBER = itertools.count()

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")  # inside the client library


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    """An empty store."""
    return FolderStore(tmp_path / "goldens")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """huggingface_hub's cache, in a place of its own, as HF_HUB_CACHE sets it at import."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    return tmp_path / "hf"


@pytest.fixture
def repo(hub: Any, cache: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh dataset on the hub that the client asks, as HF_ENDPOINT sets it at import."""
    from huggingface_hub import constants

    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    name = f"team/moved-{next(_NUMBER)}"
    hub.create(name)
    return name


def run(store: FolderStore, *arguments: str) -> str:
    """Run `quantgate goldens ...` on a store; its output. Errors of ours come through as exceptions."""
    result = CliRunner().invoke(goldens_app, [*arguments, "--goldens", str(store.root)])
    if isinstance(result.exception, QuantgateError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def fill(store: FolderStore, make: Callable, *, accepted: tuple[int, ...], others: tuple[int, ...] = ()) -> None:
    """Add goldens with these fills; accept some."""
    manifests: dict[int, GoldenManifest] = {}
    for number in (*accepted, *others):
        manifest, files = make(number)
        store.add(manifest, files)
        manifests[number] = manifest
    rows = [Accepted(digest=manifests[n].digest(), reason="r", author="a", accepted="now") for n in accepted]
    store.set_index(AcceptedIndex(case="nvfp4", runner="cpu", goldens=tuple(rows)))


def test_verify_reads_everything_and_names_every_fault(store: FolderStore, make: Callable) -> None:
    fill(store, make, accepted=(1,), others=(2,))
    assert "2 goldens, 0 damaged" in run(store, "verify")
    (golden,) = store.find("cpu", "nvfp4")
    golden.open_part("clip").write_bytes(b"short")
    golden.open_part("trace").unlink()
    with pytest.raises(GoldenError, match=f"1 of 2 goldens are damaged: cpu/nvfp4/{golden.digest[:16]}") as caught:
        run(store, "verify")
    assert caught.value.exit_code == 14
    result = CliRunner().invoke(goldens_app, ["verify", "--goldens", str(store.root)])
    assert "part 'clip' is truncated" in result.output
    assert "part 'trace' is missing" in result.output


def test_verify_sees_an_accepted_golden_that_is_gone(store: FolderStore, make: Callable) -> None:
    fill(store, make, accepted=(1,))
    shutil.rmtree(store.find("cpu", "nvfp4")[0].origin)
    with pytest.raises(GoldenError, match="1 of 1"):
        run(store, "verify")


def test_verify_sees_a_damaged_list(store: FolderStore, make: Callable) -> None:
    fill(store, make, accepted=(1,))
    store.index_path("cpu", "nvfp4").write_text("{")
    with pytest.raises(GoldenError, match="nvfp4/accepted"):
        run(store, "verify")


@pytest.mark.parametrize("place", ["part", "list"])
def test_verify_sees_a_file_that_nothing_names(store: FolderStore, make: Callable, place: str) -> None:
    """A proposal with goldens could bring any file along in one of their folders."""
    fill(store, make, accepted=(1,))
    (golden,) = store.find("cpu", "nvfp4")
    folder = store.folder("cpu", "nvfp4", golden.digest if place == "part" else "")
    (folder / ".gitkeep").touch()
    assert "0 damaged" in run(store, "verify")
    (folder / "more.safetensors").write_bytes(b"x")
    with pytest.raises(GoldenError, match="are damaged"):
        run(store, "verify")
    result = CliRunner().invoke(goldens_app, ["verify", "--goldens", str(store.root)])
    assert "more.safetensors: nothing names this file" in result.output


def test_gc_deletes_nothing_unless_told(store: FolderStore, make: Callable) -> None:
    fill(store, make, accepted=(1,), others=(2, 3))
    assert "2 unused goldens; nothing was deleted" in run(store, "gc")
    assert len(store.digests("cpu", "nvfp4")) == 3
    assert "deleted 2 goldens" in run(store, "gc", "--apply")
    assert store.digests("cpu", "nvfp4") == tuple(g.digest[:16] for g in store.find("cpu", "nvfp4"))
    assert "0 unused goldens" in run(store, "gc", "--apply")


def test_gc_keeps_its_hands_off_where_the_list_is_damaged(store: FolderStore, make: Callable) -> None:
    fill(store, make, accepted=(1,), others=(2,))
    store.index_path("cpu", "nvfp4").write_text("{")
    with pytest.raises(GoldenError, match="cannot be read"):
        run(store, "gc", "--apply")
    assert len(store.digests("cpu", "nvfp4")) == 2


def test_gc_of_a_case_without_accepted_goldens_empties_it(store: FolderStore, make: Callable) -> None:
    store.add(*make())
    run(store, "gc", "--apply")
    assert store.cases() == ()


def test_push_then_pull_is_the_same_store(store: FolderStore, repo: str, make: Callable, tmp_path: Path) -> None:
    fill(store, make, accepted=(1, 2), others=(3,))
    assert "pushed to" in run(store, "push", "--repo", repo)
    config = read_config(store.root)
    assert config.hub is not None
    assert config.hub.repo_id == repo
    other = FolderStore(tmp_path / "other")
    config.write(other.root / "store.json")
    assert "pulled 2 goldens" in run(other, "pull")
    assert other.index("cpu", "nvfp4") == store.index("cpu", "nvfp4")
    for mine, theirs in zip(store.find("cpu", "nvfp4"), other.find("cpu", "nvfp4"), strict=True):
        assert mine.manifest == theirs.manifest
        assert theirs.verify() == ()
    assert "pulled 0 goldens" in run(other, "pull")
    assert "nothing to push" in run(store, "push")


def test_push_goes_on_after_an_interruption(store: FolderStore, repo: str, hub: Any, make: Callable) -> None:
    fill(store, make, accepted=(1,))
    hub.fail("status", "/commit/", status=500)
    with pytest.raises(InfraError):
        run(store, "push", "--repo", repo)
    assert read_config(store.root) == StoreConfig()
    run(store, "push", "--repo", repo)
    assert read_config(store.root).hub is not None


def test_damaged_golden_is_not_pushed(store: FolderStore, repo: str, hub: Any, make: Callable) -> None:
    fill(store, make, accepted=(1,))
    before = hub.head(repo)
    store.find("cpu", "nvfp4")[0].open_part("trace").write_bytes(b"{}")
    with pytest.raises(GoldenError, match="part 'trace' is truncated"):
        run(store, "push", "--repo", repo)
    assert hub.head(repo) == before


def test_pull_drops_an_accepted_golden_only_when_told(store: FolderStore, repo: str, make: Callable) -> None:
    fill(store, make, accepted=(1,))
    run(store, "push", "--repo", repo)
    fill(store, make, accepted=(1, 2))
    with pytest.raises(GoldenError, match="add --replace"):
        run(store, "pull")
    assert len(store.find("cpu", "nvfp4")) == 2
    run(store, "pull", "--replace")
    assert len(store.find("cpu", "nvfp4")) == 1


def test_select_by_runner_and_case(store: FolderStore, repo: str, make: Callable, tmp_path: Path) -> None:
    fill(store, make, accepted=(1,))
    with pytest.raises(InvalidCaseError, match="no golden of b200"):
        run(store, "verify", "--runner", "b200")
    assert "1 goldens" in run(store, "verify", "--runner", "c*", "--case", "nv*")


def test_runners_named_in_store_json_are_read_from_the_hub(store: FolderStore, repo: str, make: Callable) -> None:
    fill(store, make, accepted=(1,))
    run(store, "push", "--repo", repo)
    config = read_config(store.root)
    config.model_copy(update={"runners": ("cpu",)}).write(store.root / "store.json")
    shutil.rmtree(store.root / "cpu")
    opened = open_store(store.root)
    assert isinstance(opened, RoutedStore)
    (golden,) = opened.find("cpu", "nvfp4")
    assert golden.verify() == ()
    assert opened.cases() == (("cpu", "nvfp4"),)
    assert opened.find("h200", "nvfp4") == ()
    assert "1 goldens, 0 damaged" in run(store, "verify")


def test_pin_moves_to_the_newest_commit_and_says_what_changes(
    store: FolderStore, repo: str, hub: Any, make: Callable
) -> None:
    fill(store, make, accepted=(1,))
    run(store, "push", "--repo", repo)
    empty = AcceptedIndex(case="nvfp4", runner="cpu")
    head = hub.commit(repo, {"cpu/nvfp4/accepted.json": empty.to_json().encode()})
    assert "cpu/nvfp4" in run(store, "pin")
    config = read_config(store.root)
    assert config.hub is not None
    assert config.hub.revision == head


def test_gc_on_the_hub_removes_from_the_branch_and_older_pins_still_read(
    store: FolderStore, repo: str, hub: Any, make: Callable
) -> None:
    fill(store, make, accepted=(1,))
    run(store, "push", "--repo", repo)
    old_pin = read_config(store.root)
    unused_digest = store.find("cpu", "nvfp4")[0].digest
    hub.commit(repo, {"cpu/nvfp4/accepted.json": AcceptedIndex(case="nvfp4", runner="cpu").to_json().encode()})
    run(store, "pin")
    assert "nothing was deleted" in run(store, "gc", "--hub")
    assert "deleted 1" in run(store, "gc", "--hub", "--apply")
    assert "0 unused" in run(store, "gc", "--hub")
    old_pin.model_copy(update={"runners": ("cpu",)}).write(store.root / "store.json")
    assert open_store(store.root).find("cpu", "nvfp4")[0].digest == unused_digest


def test_without_a_dataset_the_commands_say_how_to_name_one(store: FolderStore) -> None:
    for command in ("push", "pull", "pin"):
        with pytest.raises(GoldenError, match="no dataset is configured"):
            run(store, command)


@pytest.mark.parametrize("text", ["{", '{"hub": {"repo_id": "x", "revision": "main"}}', '{"surprise": 1}'])
def test_damaged_configuration_is_an_error(store: FolderStore, text: str) -> None:
    store.root.mkdir()
    (store.root / "store.json").write_text(text)
    with pytest.raises(GoldenError, match="not a store configuration"):
        open_store(store.root)
