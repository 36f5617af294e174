"""The hub store, through the unpatched client, against a server in a process of its own."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.errors import GoldenError, InfraError
from harness.goldens.hub import Addition, HubStore
from harness.records.golden import Accepted, AcceptedIndex, GoldenManifest

_NUMBER = itertools.count()

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")  # inside the client library


@pytest.fixture
def repo(hub: Any) -> tuple[str, str]:
    """Name and first commit of a fresh dataset."""
    name = f"team/goldens-{next(_NUMBER)}"
    return name, hub.create(name)


@pytest.fixture
def store(hub: Any, repo: tuple[str, str], tmp_path: Path) -> HubStore:
    """A store on that dataset, with a cache of its own."""
    return HubStore(*repo, cache=tmp_path / "cache", endpoint=hub.url)


def index_of(*manifests: GoldenManifest) -> AcceptedIndex:
    """A list that accepts these."""
    rows = [Accepted(digest=m.digest(), reason=m.reason, author="Ada", accepted="now") for m in manifests]
    return AcceptedIndex(case=manifests[0].case, runner=manifests[0].runner, goldens=tuple(rows))


def fresh(store: HubStore, tmp_path: Path, revision: str, **options: Any) -> HubStore:
    """Another machine's view: the same dataset, an empty cache."""
    cache = tmp_path / f"cache-{next(_NUMBER)}"
    return HubStore(store.repo_id, revision, cache=cache, endpoint=store._endpoint, **options)


def test_one_upload_is_one_commit_and_reads_back(store: HubStore, hub: Any, tmp_path: Path, make: Callable) -> None:
    manifest, files = make()
    revision = store.publish([Addition(manifest, files)], [index_of(manifest)])
    commits = [line for line in hub.log() if "/commit/" in line]
    assert len(commits) == 1
    assert revision == hub.head(store.repo_id)
    (golden,) = fresh(store, tmp_path, revision).find("cpu", "nvfp4")
    assert golden.manifest == manifest
    for name, path in files.items():
        assert golden.open_part(name).read_bytes() == path.read_bytes()


def test_add_alone_makes_the_golden_readable(store: HubStore, make: Callable) -> None:
    manifest, files = make()
    golden = store.add(manifest, files)
    assert golden.digest == manifest.digest()
    assert store.digests("cpu", "nvfp4") == (manifest.digest()[:16],)
    assert store.find("cpu", "nvfp4") == ()


def test_only_what_is_opened_is_downloaded(store: HubStore, hub: Any, tmp_path: Path, make: Callable) -> None:
    one, files_one = make(1)
    two, files_two = make(2, case="other")
    revision = store.publish([Addition(one, files_one), Addition(two, files_two)], [index_of(one), index_of(two)])
    reader = fresh(store, tmp_path, revision)
    hub.log()
    (golden,) = reader.find("cpu", "nvfp4")
    asked = [line for line in hub.log() if line.startswith("GET")]
    assert not any("other" in line or "safetensors" in line for line in asked)
    golden.open_part("clip")
    asked = [line for line in hub.log() if line.startswith("GET")]
    assert len(asked) == 1
    assert asked[0].endswith("clip.safetensors")
    golden.open_part("clip")
    assert hub.log() == []


def test_the_pin_holds_when_the_branch_moves(store: HubStore, hub: Any, tmp_path: Path, make: Callable) -> None:
    manifest, files = make()
    revision = store.publish([Addition(manifest, files)], [index_of(manifest)])
    hub.commit(store.repo_id, {"cpu/nvfp4/accepted.json": AcceptedIndex(case="nvfp4", runner="cpu").to_json().encode()})
    assert fresh(store, tmp_path, hub.head(store.repo_id)).find("cpu", "nvfp4") == ()
    assert [g.digest for g in fresh(store, tmp_path, revision).find("cpu", "nvfp4")] == [manifest.digest()]


def test_case_without_goldens_is_empty_also_from_the_cache(store: HubStore, hub: Any) -> None:
    assert store.find("cpu", "nothing") == ()
    hub.log()
    assert store.find("cpu", "nothing") == ()
    assert hub.log() == []


def test_interrupted_upload_is_invisible_and_goes_on(store: HubStore, hub: Any, make: Callable) -> None:
    manifest, files = make()
    before = hub.head(store.repo_id)
    hub.fail("status", "/commit/", status=500)
    with pytest.raises(InfraError, match="upload"):
        store.publish([Addition(manifest, files)], [index_of(manifest)])
    assert hub.head(store.repo_id) == before
    uploaded = [line for line in hub.log() if line.startswith("PUT")]
    assert len(uploaded) == 2
    revision = store.publish([Addition(manifest, files)], [index_of(manifest)])
    assert not [line for line in hub.log() if line.startswith("PUT")], "what arrived is not sent again"
    assert store.at(revision).find("cpu", "nvfp4")[0].verify() == ()


def test_upload_that_breaks_in_one_part_leaves_the_branch_alone(store: HubStore, hub: Any, make: Callable) -> None:
    manifest, files = make()
    before = hub.head(store.repo_id)
    hub.fail("status", f"PUT /lfs/{store.repo_id}/{manifest.parts['clip'].sha256}", status=403)
    with pytest.raises(InfraError, match="type the same command again"):
        store.publish([Addition(manifest, files)], [])
    assert hub.head(store.repo_id) == before
    hub.log()
    store.publish([Addition(manifest, files)], [])
    # parts are sent in parallel, so the failure may have stopped another part before it began
    sent = [line.rpartition("/")[2] for line in hub.log() if line.startswith("PUT")]
    assert manifest.parts["clip"].sha256 in sent
    assert len(set(sent)) == len(sent) <= 2


def test_a_download_that_breaks_goes_on_where_it_stopped(
    store: HubStore, hub: Any, tmp_path: Path, make: Callable
) -> None:
    manifest, files = make(size=24 << 20)  # the client keeps what arrived in blocks of 10 MiB
    revision = store.publish([Addition(manifest, files)], [index_of(manifest)])
    (golden,) = fresh(store, tmp_path, revision).find("cpu", "nvfp4")
    hub.fail("drop", "clip.safetensors", after=15 << 20)
    hub.log()
    assert golden.open_part("clip").read_bytes() == files["clip"].read_bytes()
    ranges = [line.rsplit(" ", 1)[1] for line in hub.log() if "bytes=" in line]
    assert ranges == [f"bytes={10 << 20}-"]


def test_wrong_bytes_are_fetched_once_more(store: HubStore, hub: Any, tmp_path: Path, make: Callable) -> None:
    manifest, files = make()
    revision = store.publish([Addition(manifest, files)], [index_of(manifest)])
    (golden,) = fresh(store, tmp_path, revision).find("cpu", "nvfp4")
    hub.fail("corrupt", "clip.safetensors")
    assert golden.open_part("clip").read_bytes() == files["clip"].read_bytes()


def test_bytes_that_stay_wrong_are_an_error_that_names_the_part(
    store: HubStore, hub: Any, tmp_path: Path, make: Callable
) -> None:
    manifest, files = make()
    revision = store.publish([Addition(manifest, files)], [index_of(manifest)])
    (golden,) = fresh(store, tmp_path, revision).find("cpu", "nvfp4")
    hub.fail("corrupt", "clip.safetensors", times=99)
    with pytest.raises(GoldenError, match="part 'clip' was changed"):
        golden.open_part("clip")
    assert [str(fault)[:4] for fault in golden.verify()] != []


def test_manifest_that_the_hub_changed_is_refused(store: HubStore, hub: Any, tmp_path: Path, make: Callable) -> None:
    manifest, files = make()
    store.publish([Addition(manifest, files)], [index_of(manifest)])
    other = manifest.model_copy(update={"author": "Mallory"})
    path = f"cpu/nvfp4/{manifest.digest()[:16]}/manifest.json"
    revision = hub.commit(store.repo_id, {path: other.to_json().encode()})
    with pytest.raises(GoldenError, match="manifest was changed"):
        fresh(store, tmp_path, revision).find("cpu", "nvfp4")


def test_cache_damaged_on_this_machine_mends_itself(store: HubStore, hub: Any, tmp_path: Path, make: Callable) -> None:
    manifest, files = make()
    reader = fresh(store, tmp_path, store.publish([Addition(manifest, files)], [index_of(manifest)]))
    (golden,) = reader.find("cpu", "nvfp4")
    golden.open_part("trace").resolve().write_bytes(b"{}")
    assert golden.open_part("trace").read_bytes() == files["trace"].read_bytes()


def test_damaged_cache_without_a_network_is_named(store: HubStore, hub: Any, tmp_path: Path, make: Callable) -> None:
    manifest, files = make()
    revision = store.publish([Addition(manifest, files)], [index_of(manifest)])
    online = fresh(store, tmp_path, revision)
    online.find("cpu", "nvfp4")[0].verify()
    offline = HubStore(store.repo_id, revision, cache=online._cache, endpoint=hub.url, offline=True)
    (golden,) = offline.find("cpu", "nvfp4")
    golden.open_part("clip").resolve().write_bytes(b"short")
    with pytest.raises(GoldenError, match="part 'clip' is truncated"):
        golden.open_part("clip")


def test_offline_reads_the_cache_and_asks_nobody(store: HubStore, hub: Any, tmp_path: Path, make: Callable) -> None:
    manifest, files = make()
    revision = store.publish([Addition(manifest, files)], [index_of(manifest)])
    online = fresh(store, tmp_path, revision)
    assert online.find("cpu", "nvfp4")[0].verify() == ()
    hub.log()
    offline = HubStore(store.repo_id, revision, cache=online._cache, endpoint=hub.url, offline=True)
    assert offline.find("cpu", "nvfp4")[0].verify() == ()
    assert hub.log() == []


def test_offline_without_a_cache_is_infra_and_never_an_empty_answer(
    store: HubStore, tmp_path: Path, make: Callable
) -> None:
    manifest, files = make()
    revision = store.publish([Addition(manifest, files)], [index_of(manifest)])
    with pytest.raises(InfraError, match="not in the cache") as caught:
        fresh(store, tmp_path, revision, offline=True).find("cpu", "nvfp4")
    assert caught.value.kind == "download"


def test_hf_hub_offline_is_obeyed(store: HubStore, hub: Any, tmp_path: Path, make: Callable) -> None:
    manifest, files = make()
    revision = store.publish([Addition(manifest, files)], [index_of(manifest)])
    online = fresh(store, tmp_path, revision)
    online.find("cpu", "nvfp4")[0].verify()
    script = (
        "import sys; from pathlib import Path; from harness.goldens.hub import HubStore\n"
        "s = HubStore(sys.argv[1], sys.argv[2], cache=Path(sys.argv[3]), endpoint=sys.argv[4])\n"
        "print(len(s.find('cpu', 'nvfp4')), s.find('cpu', 'nvfp4')[0].verify())\n"
        "from harness.errors import InfraError\n"
        "try: s.find('cpu', 'never-asked')\n"
        "except InfraError as error: print('infra', error.kind)\n"
    )
    arguments = [sys.executable, "-c", script, store.repo_id, revision, str(online._cache), hub.url]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    hub.log()
    done = subprocess.run(arguments, env=env, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.splitlines() == ["1 ()", "infra download"]
    assert hub.log() == []


def test_no_network_is_infra(tmp_path: Path) -> None:
    store = HubStore("team/goldens", "0" * 40, cache=tmp_path, endpoint="http://127.0.0.1:9")
    with pytest.raises(InfraError, match="could not be asked"):
        store.find("cpu", "nvfp4")


def test_unknown_dataset_and_revision_are_said(store: HubStore, hub: Any, tmp_path: Path) -> None:
    with pytest.raises(GoldenError, match="no such revision"):
        fresh(store, tmp_path, "f" * 40).find("cpu", "nvfp4")
    with pytest.raises(GoldenError, match="no such dataset"):
        HubStore("team/absent", "f" * 40, cache=tmp_path, endpoint=hub.url).find("cpu", "nvfp4")


def test_a_list_that_somebody_changed_since_the_pin_is_not_overwritten(
    store: HubStore, hub: Any, make: Callable
) -> None:
    one, files_one = make(1)
    two, files_two = make(2)
    theirs = store.publish([Addition(one, files_one)], [index_of(one)])
    with pytest.raises(GoldenError, match="changed on branch main since the pin"):
        store.publish([Addition(two, files_two)], [index_of(two)])
    assert hub.head(store.repo_id) == theirs
    mine = store.at(theirs).publish([Addition(two, files_two)], [index_of(two)])
    assert hub.head(store.repo_id) == mine


def test_another_cases_commit_is_no_conflict(store: HubStore, hub: Any, make: Callable) -> None:
    one, files_one = make(1)
    two, files_two = make(2, case="other")
    store.publish([Addition(one, files_one)], [index_of(one)])
    revision = store.publish([Addition(two, files_two)], [index_of(two)])
    assert store.at(revision).cases() == (("cpu", "nvfp4"), ("cpu", "other"))


def test_commit_in_the_same_moment_is_refused_by_the_hub(
    store: HubStore, hub: Any, make: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, files = make()
    stale = store.head()
    newest = hub.commit(store.repo_id, {"README.txt": b"theirs"})
    monkeypatch.setattr(store, "head", lambda: stale)  # they committed after we looked
    with pytest.raises(GoldenError, match="same moment"):
        store.publish([Addition(manifest, files)], [])
    assert hub.head(store.repo_id) == newest


def test_part_that_is_not_its_manifests_is_not_uploaded(store: HubStore, hub: Any, make: Callable) -> None:
    manifest, files = make()
    files["clip"].write_bytes(b"\2" * files["clip"].stat().st_size)
    with pytest.raises(GoldenError, match="part 'clip' was changed"):
        store.publish([Addition(manifest, files)], [])
    assert not [line for line in hub.log() if line.startswith(("PUT", "POST"))]
