"""The folder store: immutable, whole, and every fault named."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.errors import GoldenError
from harness.goldens.folder import FolderStore
from harness.records.golden import Accepted, AcceptedIndex, GoldenManifest

PARTS = ("clip", "trace", "sketches")


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    """An empty store."""
    return FolderStore(tmp_path / "goldens")


def accept(store: FolderStore, *manifests: GoldenManifest) -> None:
    """Accept exactly these."""
    rows = [Accepted(digest=m.digest(), reason=f"because {m.reason}", author="Ada", accepted="now") for m in manifests]
    store.set_index(AcceptedIndex(case=manifests[0].case, runner=manifests[0].runner, goldens=tuple(rows)))


def tree(root: Path) -> dict[str, bytes]:
    """Every file of the store but its scratch folder."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and ".work" not in path.parts
    }


def test_a_golden_comes_back_as_it_went_in(store: FolderStore, make: Callable) -> None:
    manifest, files = make()
    golden = store.add(manifest, files)
    assert golden.manifest == manifest
    assert golden.digest == manifest.digest()
    for name in PARTS:
        assert golden.open_part(name).read_bytes() == files[name].read_bytes()
    assert golden.verify() == ()


def test_adding_is_not_accepting(store: FolderStore, make: Callable) -> None:
    manifest, files = make()
    store.add(manifest, files)
    assert store.find("cpu", "nvfp4") == ()
    accept(store, manifest)
    (golden,) = store.find("cpu", "nvfp4")
    assert golden.reason == "because first"


def test_several_goldens_can_be_accepted_each_with_its_reason(store: FolderStore, make: Callable) -> None:
    made = [make(1, reason="mode A"), make(2, reason="mode B")]
    for manifest, files in made:
        store.add(manifest, files)
    accept(store, *(manifest for manifest, _ in made))
    assert [golden.reason for golden in store.find("cpu", "nvfp4")] == ["because mode A", "because mode B"]


def test_adding_again_changes_nothing(store: FolderStore, make: Callable) -> None:
    manifest, files = make()
    store.add(manifest, files)
    before = tree(store.root)
    stamps = {path: path.stat().st_mtime_ns for path in store.root.rglob("*.safetensors")}
    store.add(manifest, files)
    assert tree(store.root) == before
    assert {path: path.stat().st_mtime_ns for path in store.root.rglob("*.safetensors")} == stamps


def test_every_field_moves_the_digest(make: Callable) -> None:
    base = make()[0]
    others = [
        make(2)[0],
        make(author="Bob")[0],
        make(reason="second")[0],
        make(created="later")[0],
        make(previous="a" * 64)[0],
        make(shape=(1, 1, 3, 3))[0],
    ]
    assert len({manifest.digest() for manifest in (base, *others)}) == 7


def test_other_content_under_the_same_digest_is_refused(store: FolderStore, make: Callable) -> None:
    manifest, files = make()
    store.add(manifest, files)
    path = store.folder("cpu", "nvfp4", manifest.digest()) / "manifest.json"
    manifest.model_copy(update={"author": "Mallory"}).write(path)
    with pytest.raises(GoldenError, match="manifest was changed"):
        store.add(manifest, files)


@pytest.mark.parametrize("name", PARTS)
def test_truncated_part_is_named(store: FolderStore, make: Callable, name: str) -> None:
    manifest, files = make()
    path = store.add(manifest, files).open_part(name)
    path.write_bytes(path.read_bytes()[:-1])
    accept(store, manifest)
    (golden,) = store.find("cpu", "nvfp4")
    with pytest.raises(GoldenError, match=f"part '{name}' is truncated") as caught:
        golden.open_part(name)
    assert str(path) in str(caught.value)
    for other in set(PARTS) - {name}:
        golden.open_part(other)
    with pytest.raises(GoldenError, match=f"part '{name}' is truncated"):
        store.add(manifest, files)


@pytest.mark.parametrize("name", PARTS)
def test_tampered_part_is_named(store: FolderStore, make: Callable, name: str) -> None:
    manifest, files = make()
    golden = store.add(manifest, files)
    path = golden.open_part(name)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(GoldenError, match=f"part '{name}' was changed"):
        golden.open_part(name)
    assert len(golden.verify()) == 1


@pytest.mark.parametrize("name", PARTS)
def test_longer_part_is_named(store: FolderStore, make: Callable, name: str) -> None:
    manifest, files = make()
    golden = store.add(manifest, files)
    with golden.open_part(name).open("ab") as out:
        out.write(b"x")
    with pytest.raises(GoldenError, match=f"part '{name}' is too long"):
        golden.open_part(name)


@pytest.mark.parametrize("name", PARTS)
def test_missing_part_is_named(store: FolderStore, make: Callable, name: str) -> None:
    manifest, files = make()
    golden = store.add(manifest, files)
    golden.open_part(name).unlink()
    with pytest.raises(GoldenError, match=f"part '{name}' is missing"):
        golden.open_part(name)


def test_part_that_was_never_there_is_named(store: FolderStore, make: Callable) -> None:
    golden = store.add(*make())
    with pytest.raises(GoldenError, match="no part 'probes', only"):
        golden.open_part("probes")


def test_changed_manifest_is_refused(store: FolderStore, make: Callable) -> None:
    manifest, files = make()
    store.add(manifest, files)
    accept(store, manifest)
    path = store.folder("cpu", "nvfp4", manifest.digest()) / "manifest.json"
    path.write_text(path.read_text().replace("a red ball", "a red bell"))
    with pytest.raises(GoldenError, match="manifest was changed"):
        store.find("cpu", "nvfp4")


def test_reformatted_manifest_is_the_same_golden(store: FolderStore, make: Callable) -> None:
    manifest, files = make()
    store.add(manifest, files)
    accept(store, manifest)
    path = store.folder("cpu", "nvfp4", manifest.digest()) / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert store.find("cpu", "nvfp4")[0].manifest == manifest


def test_accepted_golden_that_is_gone_is_an_error_and_not_a_missing_golden(store: FolderStore, make: Callable) -> None:
    manifest, files = make()
    store.add(manifest, files)
    accept(store, manifest)
    folder = store.folder("cpu", "nvfp4", manifest.digest())
    folder.rename(folder.with_name("elsewhere"))
    with pytest.raises(GoldenError, match="manifest is missing"):
        store.find("cpu", "nvfp4")


def test_golden_of_another_case_is_refused(store: FolderStore, make: Callable) -> None:
    manifest, files = make(case="other")
    golden = store.add(manifest, files)
    source = Path(golden.origin)
    target = store.folder("cpu", "nvfp4", golden.digest)
    target.parent.mkdir(parents=True)
    source.rename(target)
    with pytest.raises(GoldenError, match="belongs to cpu/other"):
        store.get("cpu", "nvfp4", golden.digest)


@pytest.mark.parametrize("text", ["{", "{}", '{"schema_version": 1, "case": "x", "runner": "cpu"}'])
def test_damaged_list_is_an_error_and_not_an_empty_one(store: FolderStore, make: Callable, text: str) -> None:
    manifest, files = make()
    store.add(manifest, files)
    accept(store, manifest)
    store.index_path("cpu", "nvfp4").write_text(text)
    with pytest.raises(GoldenError, match=r"cannot be read|belongs to"):
        store.find("cpu", "nvfp4")


def test_only_goldens_of_the_store_can_be_accepted(store: FolderStore, make: Callable) -> None:
    with pytest.raises(GoldenError, match="manifest is missing"):
        accept(store, make()[0])
    assert store.find("cpu", "nvfp4") == ()


@pytest.mark.parametrize("name", ["..", "../x", "a/b", "", ".hidden", "-x", "a\\b", "x\n"])
def test_names_cannot_leave_the_store(store: FolderStore, name: str) -> None:
    with pytest.raises(GoldenError, match="cannot be a golden's name"):
        store.find("cpu", name)
    with pytest.raises(GoldenError, match="cannot be a golden's name"):
        store.find(name, "nvfp4")


def test_files_must_be_those_of_the_manifest(store: FolderStore, make: Callable) -> None:
    manifest, files = make()
    with pytest.raises(GoldenError, match="see \\['trace'\\]"):
        store.add(manifest, {name: path for name, path in files.items() if name != "trace"})
    files["clip"].write_bytes(b"\2" * files["clip"].stat().st_size)
    with pytest.raises(GoldenError, match="part 'clip' was changed"):
        store.add(manifest, files)
    assert tree(store.root) == {}


def test_accepted_golden_cannot_be_removed(store: FolderStore, make: Callable) -> None:
    manifest, files = make()
    store.add(manifest, files)
    accept(store, manifest)
    with pytest.raises(GoldenError, match="is accepted"):
        store.remove("cpu", "nvfp4", manifest.digest())
    assert store.find("cpu", "nvfp4")[0].verify() == ()


def test_scratch_of_a_writer_that_died_is_swept(store: FolderStore, make: Callable) -> None:
    manifest, files = make()
    left = store.root / ".work" / "0123"
    left.mkdir(parents=True)
    (left / "clip.safetensors").write_bytes(b"half")
    store.add(manifest, files)
    assert not left.exists()
    assert store.cases() == (("cpu", "nvfp4"),)


def _add_many(root: str, made: list[tuple[str, dict[str, str]]], start: Any) -> None:
    store = FolderStore(Path(root))
    start.wait()
    for text, files in made:
        manifest = GoldenManifest.model_validate_json(text)
        golden = store.add(manifest, {name: Path(path) for name, path in files.items()})
        assert golden.verify() == ()


def test_processes_that_add_at_once_tear_nothing(store: FolderStore, make: Callable) -> None:
    made = [make(fill) for fill in range(6)]
    sent = [(m.to_json(), {name: str(path) for name, path in files.items()}) for m, files in made]
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(4)
    jobs = [context.Process(target=_add_many, args=(str(store.root), sent[i:] + sent[:i], start)) for i in range(4)]
    for job in jobs:
        job.start()
    for job in jobs:
        job.join(120)
    assert [job.exitcode for job in jobs] == [0, 0, 0, 0]
    assert store.digests("cpu", "nvfp4") == tuple(sorted(m.digest()[:16] for m, _ in made))
    for manifest, _ in made:
        assert store.get("cpu", "nvfp4", manifest.digest()).verify() == ()
    assert [path.name for path in (store.root / ".work").iterdir() if path.is_dir()] == []


def _add_and_die(root: str, text: str, files: dict[str, str]) -> None:
    from harness.goldens import folder

    def die(_folder: Path) -> None:
        os._exit(9)

    folder.sync_folder = die  # everything is staged, nothing is published
    FolderStore(Path(root)).add(GoldenManifest.model_validate_json(text), {n: Path(p) for n, p in files.items()})


def test_writer_that_dies_before_publishing_leaves_no_golden(store: FolderStore, make: Callable) -> None:
    manifest, files = make()
    context = multiprocessing.get_context("spawn")
    sent = {name: str(path) for name, path in files.items()}
    job = context.Process(target=_add_and_die, args=(str(store.root), manifest.to_json(), sent))
    job.start()
    job.join(60)
    assert job.exitcode == 9
    assert tree(store.root) == {}
    assert store.add(manifest, files).verify() == ()
