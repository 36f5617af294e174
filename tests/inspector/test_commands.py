"""Exit codes, tables and JSON of `inspect` and `lock`; comparison, digests, and what importing costs."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from builders import make_case
from safetensors.torch import load_file, save_file

from benchmarks.corpus.edit import Edit
from benchmarks.corpus.mutations import nibbles
from harness.cli.app import main
from harness.cli.inspect import Options, inspect, lock_cases, question
from harness.definitions.case import Case, CheckpointRef
from harness.errors import InvalidCaseError
from harness.formats.errors import SourceError
from harness.inspector import identity
from harness.inspector.compare import compare_checkpoints
from harness.inspector.identity import DigestCache, digest_files
from harness.inspector.lock import LOCK_NAME, make_lock
from harness.inspector.sources import LocalSource, Meter
from harness.records.inspection import CheckpointLock, InspectionReport


def case(folder: Path, name: str = "one") -> Case:
    return make_case(id=name, model={"path": str(folder)}, sampling={"num_frames": 17})


def test_exit_codes_by_class(exports: Path, tmp_path: Path) -> None:
    edit = Edit(exports / "nvfp4", tmp_path / "bad")
    nibbles(edit, "layer")
    base = str(exports / "base")
    assert inspect(str(exports / "nvfp4"), base=base) == 0
    assert inspect(str(edit.folder), base=base) == 11
    assert inspect(str(exports / "nvfp4")) == 13
    with pytest.raises(InvalidCaseError, match="no such folder"):
        inspect(str(tmp_path / "nothing"))
    with pytest.raises(InvalidCaseError, match="no contract of the runtime 'vllm'"):
        inspect(str(exports / "nvfp4"), contract=["vllm==1"])


def test_a_case_of_another_runtime_is_compared_with_its_contract_and_not_with_the_own_loader() -> None:
    question_of_case = question(Options(), make_case(backend="sglang", runtime="sglang==0.5.12"))[1]
    assert (question_of_case["contracts"], question_of_case["loader"]) == (("sglang==0.5.12",), None)
    diffusers = make_case(contracts=["sglang==0.5.13"])
    question_of_case = question(Options(), diffusers)[1]
    assert (question_of_case["contracts"], question_of_case["loader"]) == (("sglang==0.5.13",), diffusers.loader)


def test_an_error_shows_neither_a_secret_nor_control_characters(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", token := "not-a-real-token-of-anyone")
    absent = tmp_path / f"\x1b[31m{token}"
    for command in (["inspect", str(absent)], ["lock", "--check", "--root", str(absent)]):
        monkeypatch.setattr(sys, "argv", ["quantgate", *command])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert stopped.value.code == 17
    err = capsys.readouterr().err
    assert err.count("error: ") == 2
    assert token not in err
    assert "\x1b" not in err


def test_json_is_the_record(exports: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "report.json"
    inspect(str(exports / "fp8"), base=str(exports / "base"), as_json=True, out=out)
    printed = InspectionReport.model_validate_json(capsys.readouterr().out)
    assert printed == InspectionReport.read(out)
    assert {layer.format for layer in printed.layers} == {"fp8", "bf16", "fp32"}
    assert len(printed.digests) == 4


def test_table_names_finding_and_remedy(exports: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inspect(str(exports / "nvfp4"), base=str(exports / "base"), contract=["sglang==0.5.12"], layers=True)
    text = capsys.readouterr().out
    assert "fault nibble_order" in text
    assert "swap_weight_nibbles: false" in text
    assert "blocks.1.attn1.to_q" in text
    assert "not done" in text


def test_comparison_says_what_a_switch_changes(exports: Path, capsys: pytest.CaptureFixture[str]) -> None:
    comparison = compare_checkpoints(
        exports / "nvfp4", exports / "fp8", against_transformer=exports / "fp8" / "transformer"
    )
    fields = {(item.expert, item.field): (item.new, item.old) for item in comparison.changes}
    assert fields[("transformer", "format")] == ("nvfp4", "fp8")
    assert fields[("transformer", "declared reading")] == ("low_first/linear", None)
    assert compare_checkpoints(exports / "fp8", exports / "fp8").changes == ()
    assert len(compare_checkpoints(exports / "fp8", exports / "fp8").identical_files) == 4
    assert inspect(str(exports / "nvfp4"), against=str(exports / "fp8")) == 0
    assert "nvfp4" in capsys.readouterr().out


def test_lock_fails_when_a_checkpoint_changes(
    exports: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit = Edit(exports / "nvfp4", tmp_path / "made")
    edit.own("transformer")
    file, cases = tmp_path / LOCK_NAME, [case(edit.folder)]
    with pytest.raises(InvalidCaseError, match="there is no lock"):
        lock_cases(cases, file, check=True)
    assert lock_cases(cases, file) == 0
    assert lock_cases(cases, file, check=True) == 0
    nibbles(edit, "layer")
    assert lock_cases(cases, file, check=True) == 17
    assert "transformer/diffusion_pytorch_model.safetensors has another digest" in capsys.readouterr().out
    assert lock_cases([*cases, case(exports / "fp8", "two")], file, check=True) == 17
    assert lock_cases([], file, check=True) == 17
    file.write_text("{}", encoding="utf-8")
    with pytest.raises(InvalidCaseError, match="not a checkpoint lock"):
        lock_cases(cases, file, check=True)


def test_a_checkpoint_that_is_stored_otherwise_agrees_with_its_lock(
    exports: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit = Edit(exports / "nvfp4", tmp_path / "made")
    edit.own("transformer")
    file, cases = tmp_path / LOCK_NAME, [case(edit.folder)]
    assert lock_cases(cases, file) == 0
    path = edit.folder / "transformer" / "diffusion_pytorch_model.safetensors"
    save_file(load_file(path), path, metadata={"format": "pt", "note": "written again"})
    assert lock_cases(cases, file, check=True) == 0
    old = CheckpointLock.read(file).model_dump()
    for roles in old["cases"].values():  # a lock that was made without the files on this machine
        for role in roles.values():
            del role["contents"]
    file.write_text(json.dumps(old), encoding="utf-8")
    assert lock_cases(cases, file, check=True) == 17
    assert "transformer/diffusion_pytorch_model.safetensors has another digest" in capsys.readouterr().out


def test_lock_lists_what_it_could_not_lock(tmp_path: Path) -> None:
    ref = CheckpointRef(path="owner/name", revision="unresolved")
    lock, left = make_lock([case(tmp_path / "absent").model_copy(update={"base": ref})])
    assert lock == CheckpointLock(cases={})
    assert len(left) == 2


def test_a_file_is_hashed_once_until_it_changes(tmp_path: Path) -> None:
    file, store = tmp_path / "a.safetensors", tmp_path / "digests.json"
    file.write_bytes(b"one")
    cache = DigestCache(store)
    first, remembered = cache.digest(file)
    assert not remembered
    cache.save()
    assert DigestCache(store).digest(file) == (first, True)
    file.write_bytes(b"two")
    again, remembered = DigestCache(store).digest(file)
    assert not remembered
    assert again != first
    store.write_text("not json", encoding="utf-8")
    assert DigestCache(store).digest(file) == (again, False)


def test_inspecting_imports_neither_torch_nor_the_hub_client(exports: Path) -> None:
    code = (
        "import sys, json; from harness.inspector import inspect_checkpoint;"
        f"report = inspect_checkpoint({str(exports / 'nvfp4')!r}, base={str(exports / 'base')!r},"
        " contracts=['sglang==0.5.23']);"
        "heavy = [name for name in ('torch', 'pytest', 'huggingface_hub', 'diffusers') if name in sys.modules];"
        "print(json.dumps([report.outcome, heavy]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == ["clean", []]


def test_with_a_base_the_comparison_proves_the_nibble_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a reviewer of the switch had to know: same format, same shapes, same silence, other bytes."""
    from tiny.export import WEIGHTS, export

    low, high = (str(export(name, tmp_path)) for name in ("nvfp4-override", "nvfp4-preswapped-override"))
    assert inspect(low, against=high) == 0
    assert "proven reading" not in capsys.readouterr().out
    assert inspect(low, against=high, base=str(WEIGHTS)) == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if "proven reading" in line]
    assert row.split() == ["transformer", "proven", "reading", "low_first/linear", "high_first/linear"]


@pytest.fixture
def project(exports: Path, tmp_path: Path) -> Path:
    """A repository with one case of a healthy export."""
    shutil.copytree(exports / "nvfp4", tmp_path / "nvfp4")
    shutil.copytree(exports / "base", tmp_path / "base")
    runners = Path(__file__).parents[2] / "runners"
    shutil.copytree(runners, tmp_path / "runners")
    (tmp_path / "cases").mkdir()
    (tmp_path / "cases" / "a.yaml").write_text(CASES, encoding="utf-8")
    return tmp_path


CASES = """\
defaults:
  runners: [cpu]
  base: {path: ./base}
  quantization: {transformer: nvfp4, transformer_2: nvfp4}
  sampling: {prompt: p, width: 96, height: 64, num_frames: 17, num_inference_steps: 8, guidance_scale: 3.0}
cases:
  one: {model: {path: ./nvfp4}, contracts: [sglang==0.5.13]}
  over: {model: {path: ./nvfp4}, transformer: {path: ./nvfp4}}
"""


def run_inspect(project: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "argv", ["quantgate", "inspect", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


@pytest.fixture
def damaged(project: Path) -> Path:
    edit = Edit(project / "nvfp4", project / "damaged")
    nibbles(edit, "layer")
    return edit.folder


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 0, ""),
        (["damaged"], 11, "two_conventions"),
        (["--transformer", "damaged"], 11, "two_conventions"),
        (["--transformer-2", "damaged/transformer"], 11, "fault"),
        (["--contract", "sglang==0.5.12"], 11, "sglang==0.5.12"),
        (["--nibble-order", "high_first"], 11, "nibble_order"),
        (["--scale-layout", "swizzled"], 11, "scale_layout"),
        (["--base", "nvfp4"], 11, "fault"),
        (["--base", "./nope"], 17, "no such folder"),
        (["--against", "damaged"], 0, "faults"),
        (["--against", "damaged", "--contract", "sglang==0.5.12"], 17, "does not look at --contract"),
        (["--against", "damaged", "--full", "--layers"], 17, "does not look at --full, --layers"),
    ],
)
def test_what_is_given_beside_a_case_is_looked_at(
    project: Path,
    damaged: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    assert run_inspect(project, monkeypatch, "--case", "one", *arguments) == code
    printed = capsys.readouterr()
    assert message in printed.out + printed.err


def test_a_model_that_the_overrides_of_a_case_hide_is_not_called_clean(
    project: Path, damaged: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_inspect(project, monkeypatch, "damaged", "--case", "over") == 17
    assert "add --transformer none" in capsys.readouterr().err
    assert run_inspect(project, monkeypatch, "damaged", "--case", "over", "--transformer", "none") == 11
    assert run_inspect(project, monkeypatch, "--case", "over") == 0


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["./nvfp4", "--nibble-order", "hi"], 17, "--nibble-order: 'hi' is none of low_first, high_first"),
        (["./nvfp4", "--scale-layout", "foo"], 17, "--scale-layout: 'foo' is none of linear, swizzled"),
        (["./nvfp4", "--base", "nope/"], 17, "'nope/' is neither a folder nor owner/name"),
        (["nvfp4/tranformer_2/x"], 17, "nvfp4/ is a folder here"),
        (["./nvpf4"], 17, "nvfp4?"),
    ],
)
def test_a_mistyped_option_is_told_without_the_network(
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    assert run_inspect(project, monkeypatch, *arguments) == code
    printed = capsys.readouterr()
    assert message in printed.err
    assert "network" not in printed.err


def test_a_name_that_could_be_a_folder_gets_the_hint_for_folders(
    hub: Any, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_inspect(project, monkeypatch, "nvfp4/transfomer") == 17
    assert "if a folder is meant, write ./nvfp4/transformer; if it is on the hub" in capsys.readouterr().err


def _hub_blob(tmp_path: Path, data: bytes, name: str) -> Path:
    """A file as the hub's cache has it: a link in a snapshot to a blob that is named by its sha256."""
    blob, link = tmp_path / "blobs" / name, tmp_path / "snapshots" / "c" / "a.safetensors"
    for path in (blob, link):
        path.parent.mkdir(parents=True)
    blob.write_bytes(data)
    link.symlink_to(blob)
    return link


def test_a_blob_named_by_its_hash_may_lie(tmp_path: Path) -> None:
    name = hashlib.sha256(b"the hub's bytes").hexdigest()
    link = _hub_blob(tmp_path, b"other bytes....", name)
    cache = DigestCache(tmp_path / "digests.json")
    for _ in range(2):  # neither hashed now nor remembered is it believed
        with pytest.raises(SourceError, match="the hub's cache is damaged") as refused:
            digest_files(LocalSource(link.parent, Meter()), ["a.safetensors"], cache)
        assert refused.value.kind == "disk"
        assert name in refused.value.remedy


def test_a_blob_that_is_what_its_name_says_is_hashed_once(tmp_path: Path) -> None:
    name = hashlib.sha256(b"the hub's bytes").hexdigest()
    link = _hub_blob(tmp_path, b"the hub's bytes", name)
    cache = DigestCache(tmp_path / "digests.json")
    origins = []
    for _ in range(2):
        (item,) = digest_files(LocalSource(link.parent, Meter()), ["a.safetensors"], cache)
        assert item.sha256 == name
        origins.append(item.origin)
    assert origins == ["computed", "cache"]


def test_a_link_to_a_file_with_a_name_like_a_hash_gets_the_digest_of_its_bytes(tmp_path: Path) -> None:
    """Outside of the hub's cache such a name promises nothing, and it is no identity either."""
    (tmp_path / ("a" * 64)).write_bytes(b"bytes")
    (tmp_path / "m").mkdir()
    (tmp_path / "m/a.safetensors").symlink_to(tmp_path / ("a" * 64))
    (item,) = digest_files(LocalSource(tmp_path / "m", Meter()), ["a.safetensors"], DigestCache(tmp_path / "d"))
    assert item.sha256 == hashlib.sha256(b"bytes").hexdigest()


def test_a_file_that_is_written_while_it_is_hashed_is_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a"
    file.write_bytes(b"x" * 10)
    real = identity._stamp
    stamps = []

    def stamp(handle: int) -> tuple[int, int, int, int, int]:
        if stamps:
            file.write_bytes(b"y" * 11)
        stamps.append(real(handle))
        return stamps[-1]

    monkeypatch.setattr(identity, "_stamp", stamp)
    cache = DigestCache(tmp_path / "digests.json")
    with pytest.raises(SourceError, match="changed while it was read"):
        cache.digest(file)
    monkeypatch.undo()
    assert cache.digest(file) == (hashlib.sha256(b"y" * 11).hexdigest(), False)
