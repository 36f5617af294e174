"""A run knows the content of its weights from a golden's files, and reads them only if the files differ."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from builders import make_case
from safetensors.numpy import load_file, save_file

from harness.definitions.case import Case
from harness.goldens.golden import Golden
from harness.goldens.matching import MatchKind, select
from harness.inspector import content
from harness.records.contents import CONTENTS, WeightContents
from harness.records.golden import GoldenManifest, Part, Provenance
from harness.records.identity import Device, Identity, differences
from harness.session.contents import Contents
from harness.session.identity import identity_of
from harness.session.inspecting import Inspector
from tiny.export import WEIGHTS

CPU = Device(kind="cpu", name="x86_64")
ENCODER = "text_encoder/model.safetensors"


def case(**more: Any) -> Case:
    return make_case(model={"path": "./weights"}, **more)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QUANTGATE_CACHE", str(tmp_path / "cache"))
    shutil.copytree(WEIGHTS, tmp_path / "weights")
    return tmp_path


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the tensors that are read from now on."""
    names: list[str] = []
    real = content.tensor_digest
    monkeypatch.setattr(content, "tensor_digest", lambda file, entry: names.append(entry.name) or real(file, entry))
    return names


def look(root: Path, known: tuple[Identity, ...] = ()) -> tuple[Identity, Contents]:
    inspected = Inspector(root).look(case(), {"model": root / "weights"})
    weights = inspected.contents.weights(known)
    return identity_of(case(), CPU, weights, files=inspected.digests), inspected.contents


def golden_of(identity: Identity, contents: WeightContents | None, folder: Path) -> Golden:
    parts = {}
    if contents is not None:
        contents.write(folder / "contents.json")
        data = (folder / "contents.json").read_bytes()
        sha = hashlib.sha256(data).hexdigest()
        parts[CONTENTS] = Part(path="contents.json", sha256=sha, bytes=len(data), media="application/json")
    else:
        parts["trace"] = Part(path="trace.json", sha256="0" * 64, bytes=1, media="application/json")
    manifest = GoldenManifest(
        case="one",
        runner="cpu",
        identity=identity,
        parts=parts,
        created="2026-01-01",
        author="a",
        reason="r",
        provenance=Provenance(run="r"),
    )
    return Golden(manifest, manifest.digest(), "r", str(folder), fetch=lambda part, _again: folder / part.path)


def lose_scales(root: Path) -> None:
    path = root / "weights" / ENCODER
    held = load_file(path)
    save_file({name: (value * 2 if value.ndim == 2 else value) for name, value in held.items()}, path)


def reformat(root: Path) -> None:
    path = root / "weights" / ENCODER
    save_file(load_file(path), path, metadata={"format": "pt", "note": "written again"})
    config = root / "weights" / "vae" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"_diffusers_version": "9"}))


def test_equal_files_are_not_read(root: Path, read: list[str]) -> None:
    first, _ = look(root)
    assert set(first.weights) >= {"transformer", "vae", "text_encoder", "tokenizer", "scheduler", "model_index"}
    shutil.rmtree(root / "cache" / "tensors")  # another machine
    read.clear()
    again, contents = look(root, (first,))
    assert again == first
    assert read == []
    contents.complete()  # a golden to be: now everything is read
    assert len(read) > 100


def test_a_candidate_takes_what_a_golden_of_the_same_files_holds(root: Path, read: list[str], tmp_path: Path) -> None:
    first, contents = look(root)
    golden = golden_of(first, contents.complete(), tmp_path)
    shutil.rmtree(root / "cache" / "tensors")  # another machine
    reformat(root)
    again, contents = look(root, (first,))
    read.clear()
    contents.adopt([golden])
    assert contents.complete().digests().items() <= again.weights.items()
    assert read == []  # what differs was read to know the identity, everything else is the golden's


def test_a_component_that_is_not_understood_is_known_by_its_files(tmp_path: Path) -> None:
    (tmp_path / "model" / "transformer").mkdir(parents=True)
    file = {"strange/weights.bin": "0" * 64}
    assert Contents({"model": tmp_path / "model"}, file).weights() == file


def test_only_the_component_whose_file_differs_is_read(root: Path, read: list[str]) -> None:
    first, _ = look(root)
    shutil.rmtree(root / "cache" / "tensors")
    reformat(root)
    read.clear()
    again, _ = look(root, (first,))
    assert again.weights == first.weights
    assert again.digest() == first.digest()
    encoder, vae = load_file(root / "weights" / ENCODER), load_file(next((root / "weights/vae").glob("*.safetensors")))
    assert set(read) == set(encoder) | set(vae)
    changed = {(change.identity_class, change.field) for change in differences(first, again)}
    assert changed == {("subject", f"file.{ENCODER}"), ("subject", "file.vae/config.json")}


def test_changed_tensors_are_named_by_component(root: Path, tmp_path: Path) -> None:
    first, contents = look(root)
    golden = golden_of(first, contents.complete(), tmp_path)
    lose_scales(root)
    again, contents = look(root, (first,))
    match = select([golden], again)
    assert match.kind is MatchKind.WEIGHTS
    assert [change.field for change in match.of("weights")] == ["text_encoder"]
    (change,) = contents.changes(golden, again)
    assert change.component == "text_encoder"
    assert "shared.weight" in change.changed or len(change.changed) > 10


@pytest.mark.parametrize(("globs", "kind"), [((), MatchKind.WEIGHTS), (("NCCL_*",), MatchKind.EXACT)])
def test_a_harmless_variable_is_shown_and_makes_nothing_stale(
    globs: tuple[str, ...], kind: MatchKind, tmp_path: Path
) -> None:
    quiet, loud = (case(env={"NCCL_DEBUG": value}, pass_env=["NCCL_DEBUG"][:0]) for value in ("WARN", "INFO"))
    golden = golden_of(identity_of(quiet, CPU, {}, harmless_env=globs), None, tmp_path)
    run = identity_of(loud, CPU, {}, harmless_env=globs)
    match = select([golden], run, globs)
    assert match.kind is kind
    assert [change.field for change in match.changes] == ["env.NCCL_DEBUG" if globs else "NCCL_DEBUG"]
    # a golden that was made before the profile listed it
    older = golden_of(identity_of(quiet, CPU, {}), None, tmp_path)
    assert select([older], run, globs).kind is (MatchKind.EXACT if globs else kind)
