"""What a run is made of: everything that moves its output, and nothing else."""

from __future__ import annotations

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fault_cases import wan_case as make_wan_case

from harness.errors import InfraError
from harness.records.identity import Device
from harness.session.contents import Contents
from harness.session.inspecting import Inspector
from harness.session.origin import Origin, Origins, code_digest
from harness.session.perturbation import CPU, NONE
from harness.session.probing import record_inputs


@pytest.fixture
def wan_case() -> Any:
    return make_wan_case()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "bf16").mkdir()
    (tmp_path / "bf16" / "weights").write_bytes(b"aaaa")
    (tmp_path / "program.py").write_text("one")
    return tmp_path


@pytest.fixture
def origin(root: Path, wan_case: Any) -> Any:
    runner = SimpleNamespace(name="cpu", harmless_env=())
    context: Any = SimpleNamespace(
        root=root, device=Device(kind="cpu", name="x86_64"), runner=runner, store=store(), contents_from=None
    )

    class Looked(Inspector):
        def look(self, case: Any, paths: Any) -> Any:
            held = {"weights": (root / "bf16" / "weights").read_text()}
            return SimpleNamespace(contents=SimpleNamespace(weights=lambda _accepted: held))

    def made(*arguments: Any, **changes: Any) -> Origin:
        return Origins(context, Looked(root)).of(wan_case.model_copy(update=changes), *arguments)

    return made


def store(*identities: Any) -> Any:
    """A store whose goldens are of ``identities``."""
    goldens = [SimpleNamespace(manifest=SimpleNamespace(identity=identity)) for identity in identities]
    return SimpleNamespace(find=lambda _runner, _case: goldens)


def test_equal_files_have_the_digest_of_the_accepted_golden_if_no_golden_may_decide(root: Path, wan_case: Any) -> None:
    """A regeneration runs with an empty store, and compares its identity with the accepted golden's afterwards."""
    files = {"vae/config.json": "a" * 64}
    golden = SimpleNamespace(weights={"vae": "digest of an older rule"}, subject={"file.vae/config.json": "a" * 64})

    class Looked(Inspector):
        def look(self, case: Any, paths: Any) -> Any:
            return SimpleNamespace(contents=Contents({"model": root / "bf16"}, files))

    def identity(contents_from: Any) -> str:
        context: Any = SimpleNamespace(
            root=root,
            device=Device(kind="cpu", name="x86_64"),
            runner=SimpleNamespace(name="cpu", harmless_env=()),
            store=store(),
            contents_from=contents_from,
        )
        return Origins(context, Looked(root)).of(wan_case).identity

    (root / "bf16" / "vae").mkdir()
    (root / "bf16" / "vae" / "config.json").write_text("{}")
    assert identity(None) == identity(store())
    assert identity(store(golden)) != identity(None)


def test_every_part_is_told(origin: Any, root: Path, wan_case: Any) -> None:
    first = origin()
    assert (origin(), first.differs(origin())) == (first, "")
    assert first.differs(origin(CPU[0])) == "perturbation"
    assert first.differs(origin(description="x", metrics=("ssim",))) == ""
    assert first.differs(origin(loader=wan_case.loader.model_copy(update={"nibble_order": "high_first"}))) == "request"
    (root / "inputs").write_bytes(b"recorded")
    assert first.differs(origin(NONE, root / "inputs")) == "probes"
    program = origin(command=("python", "program.py"))
    (root / "program.py").write_text("two")
    assert program.differs(origin(command=("python", "program.py"))) == "programs"
    (root / "bf16" / "weights").write_bytes(b"bbbb")
    assert first.differs(origin()) == "identity"
    assert first.digest() != origin().digest()


def test_code_is_what_is_committed_and_what_is_not(root: Path) -> None:
    def git(*arguments: str) -> None:
        named = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", "-C", str(root), *named, *arguments], check=True, capture_output=True)

    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "one")
    first = code_digest(root)
    (root / "runs").mkdir()
    (root / "runs" / "x").write_text("made")
    (root / "cases").mkdir()
    (root / "cases" / "a.yaml").write_text("cases: {}")
    assert code_digest(root) == first, "cases are in the request, and runs are made"
    (root / "helper.py").write_text("untracked")
    untracked = code_digest(root)
    (root / "program.py").write_text("two")
    dirty = code_digest(root)
    (root / "program.py").write_text("three")
    assert len({first, untracked, dirty, code_digest(root)}) == 4
    git("commit", "-qam", "two")
    assert code_digest(root) not in {first, untracked, dirty}


def test_a_recording_is_kept_for_its_own_base_only(root: Path, wan_case: Any) -> None:
    case = wan_case.model_copy(update={"base": wan_case.model})
    runner = SimpleNamespace(name="cpu", harmless_env=())
    context: Any = SimpleNamespace(root=root, device=Device(kind="cpu", name="x86_64"), runner=runner)
    calls: list[str] = []

    def engine(_case: Any) -> Any:
        def call(method: str, params: Any, _seconds: float) -> None:
            calls.append(method)
            Path(params["out"]).write_bytes(b"half")
            if len(calls) == 2:
                raise InfraError("out of memory", kind="oom")

        return SimpleNamespace(call=call)

    def record(one: Any) -> Path | None:
        return record_inputs(engine, one, root / "probes", Origins(context, Inspector(root)))

    first = record(case)
    assert (record(case), len(calls)) == (first, 1)
    (root / "bf16" / "weights").write_bytes(b"bbbb")
    with pytest.raises(InfraError):
        record(case)
    assert record(case) != first, "what was torn is recorded again"
    other = case.model_copy(update={"sampling": case.sampling.model_copy(update={"prompt": "another"})})
    assert record(other) not in (first, record(case))
    assert len(calls) == 4


def test_no_checkpoint_in_the_work_tree_is_read_as_code(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.session import origin as module

    subprocess.run(["git", "-C", str(root), "init", "-q"], check=True)
    first = code_digest(root)
    model = root / "models" / "wan"
    for name in ("transformer/a-00001-of-00002.safetensors", "transformer/config.json", "tokenizer/tokenizer.json",
                 "model_index.json", "vae/model.GGUF".lower()):  # fmt: skip
        (model / name).parent.mkdir(parents=True, exist_ok=True)
        (model / name).write_bytes(b"weights")
    (root / "loose.safetensors").write_bytes(b"weights")
    read: list[str] = []
    real = module._sha256
    monkeypatch.setattr(module, "_sha256", lambda path: (read.append(path.name), real(path))[1])
    assert code_digest(root) == first
    assert not [name for name in read if not name.endswith(".py") and name != "weights"]
    (model / "pipeline.py").write_text("a program beside the weights")
    assert code_digest(root) != first
    (root / "settings.json").write_text("{}")
    beside = code_digest(root)
    (root / "settings.json").write_text('{"a": 1}')
    assert code_digest(root) != beside, "a file of the repository's top folder is no part of a checkpoint"


def test_a_large_file_counts_by_its_stamp(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.session import origin as module

    subprocess.run(["git", "-C", str(root), "init", "-q"], check=True)
    monkeypatch.setattr(module, "LARGEST_CODE", 10)
    (root / "table.csv").write_bytes(b"x" * 11)
    read: list[str] = []
    real = module._sha256
    monkeypatch.setattr(module, "_sha256", lambda path: (read.append(path.name), real(path))[1])
    first = code_digest(root)
    assert "table.csv" not in read
    (root / "table.csv").write_bytes(b"y" * 12)
    assert code_digest(root) != first
