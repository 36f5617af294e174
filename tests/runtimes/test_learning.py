"""A contract is learned from answers: from wrong rules, through a reader that dies, into a file that loads."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Literal

import pytest

from benchmarks import contracts as benchmark
from harness.errors import InfraError, InvalidCaseError
from harness.inspector.contracts import load_contract
from harness.inspector.contracts.model import read_contract_file
from harness.runtimes import environments, learn
from harness.runtimes.environments import Environment, find, parse_runtime, place_of
from harness.runtimes.kinds import all_kinds
from harness.runtimes.learn import Answers, Asked, as_yaml, ask, changed, contract_of, disagreements, fit
from harness.runtimes.outcomes import declared_of

HERE = Path(sys.executable)


def answers_of(version: str) -> Answers:
    rows = benchmark.recorded()[version]
    kinds = [kind for kind in all_kinds() if "nibble" not in kind.name]
    return Answers(parse_runtime(version), tuple(Asked(kind, declared_of(kind), rows[kind.name]) for kind in kinds), {})


def test_the_flipped_default_is_learned_from_answers() -> None:
    """Start with the rules of before the flip, but for the default and what goes with it: the answers set them."""
    after = load_contract("sglang==0.5.13").rules
    before = load_contract("sglang==0.5.12").rules
    wrong = after.model_copy(
        update={"nvfp4": after.nvfp4.model_copy(update={"swap_weight_nibbles": before.nvfp4.swap_weight_nibbles})}
    )
    answers = answers_of("sglang==0.5.13")
    assert len(disagreements(wrong, answers.rows)) > 20
    assert disagreements(wrong, answers.rows, limit=3) == disagreements(wrong, answers.rows)[:3]
    rules, unexplained = fit(wrong, answers)
    assert unexplained == []
    assert rules.nvfp4.swap_weight_nibbles.default is False
    assert rules.nvfp4.swap_weight_nibbles.implied_by == "checkpoint_uses_packed_qkv"
    assert any("swap_weight_nibbles.default: true -> false" in line for line in changed(before, rules))


def test_an_answer_that_no_rule_explains_is_written_down_and_not_guessed() -> None:
    answers = answers_of("sglang==0.5.23")
    odd = tuple(
        row if row.kind.name != "bf16_plain" else Asked(row.kind, row.declared, "refused") for row in answers.rows
    )
    contract = contract_of(Answers(answers.name, odd, {}), Environment(answers.name, HERE, "runner"))
    learned = contract.rules[0].learned
    assert learned is not None
    assert learned.unexplained == ("bf16_plain",)


def test_a_learned_contract_of_the_project_is_read_before_the_shipped_one(tmp_path: Path) -> None:
    answers = answers_of("sglang==0.5.13")
    renamed = Answers(parse_runtime("sglang==0.6.1"), answers.rows, {})
    place = tmp_path / "contracts" / "learned" / "sglang-0.6.1.yaml"
    place.parent.mkdir(parents=True)
    place.write_text(as_yaml(contract_of(renamed, Environment(renamed.name, HERE, "runner"))), encoding="utf-8")
    assert read_contract_file(place).rules[0].versions == "==0.6.1"
    assert load_contract("sglang==0.6.1", tmp_path).read
    assert not load_contract("sglang==0.6.1").read


def test_every_shipped_contract_loads_and_explains_its_answers() -> None:
    for version in benchmark.recorded():
        contract = load_contract(version)
        assert contract.read
        assert contract.rules.learned is not None
        assert contract.rules.learned.unexplained == ()


READER = """
import json, os, sys
jobs, answers = json.load(open(sys.argv[1])), sys.argv[2]
done = {json.loads(line)["name"] for line in open(answers)} if os.path.exists(answers) else set()
out = open(answers, "a")
for job in jobs["checkpoints"]:
    if job["name"] in done:
        continue
    if job["name"] == "fp8_undeclared":
        os._exit(9)
    out.write(json.dumps({"name": job["name"], "loaded": False, "error": "no"}) + "\\n")
    out.flush()
"""


def test_a_reader_that_dies_over_a_checkpoint_is_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = tmp_path / "reader.py"
    reader.write_text(READER, encoding="utf-8")
    monkeypatch.setattr(learn, "READER", reader)
    kinds = [kind for kind in all_kinds() if kind.name in ("fp8_scale_one", "fp8_undeclared", "fp8_nested")]
    message: list[str] = []
    answers = ask(Environment(parse_runtime("sglang==0.5.23"), HERE, "runner"), kinds, message.append)
    assert [row.outcome for row in answers.rows] == ["refused"] * 3
    assert sum("starting" in line for line in message) == 2


def test_a_runtime_that_cannot_be_imported_is_infra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = tmp_path / "reader.py"
    reader.write_text("raise ImportError('no such runtime here')", encoding="utf-8")
    monkeypatch.setattr(learn, "READER", reader)
    with pytest.raises(InfraError, match="no such runtime here"):
        ask(Environment(parse_runtime("sglang==0.5.23"), HERE, "runner"), list(all_kinds())[:1], lambda text: None)


def test_a_missing_environment_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(environments.CACHE, str(tmp_path))
    with pytest.raises(InfraError) as caught:
        find(parse_runtime("sglang==0.5.23"))
    assert "quantgate runtime install sglang==0.5.23" in caught.value.remedy
    assert find(parse_runtime("sglang==0.5.23"), {"sglang==0.5.23": str(HERE)}).python == HERE
    with pytest.raises(InfraError, match="no program"):
        find(parse_runtime("sglang==0.5.23"), {"sglang==0.5.23": str(tmp_path / "absent")})


def test_an_environment_without_its_mark_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed half-way, an installation leaves a folder and no ready.txt."""
    monkeypatch.setenv(environments.CACHE, str(tmp_path))
    name = parse_runtime("sglang==0.5.23")
    place = place_of(name, "cpu")
    (place / "bin").mkdir(parents=True)
    assert environments.installed() == []
    (place / environments.READY).write_text("sglang==0.5.23 cpu\n", encoding="utf-8")
    assert [str(item.name) for item in environments.installed()] == ["sglang==0.5.23"]
    assert environments.remove(name) == place
    assert not place.exists()


@pytest.mark.parametrize("text", ["sglang", "sglang>=1", "sglang==1,==2", "sglang==x", "../../x==1"])
def test_a_runtime_is_one_version(text: str) -> None:
    with pytest.raises(InvalidCaseError):
        parse_runtime(text)


@pytest.mark.parametrize("installer", ["pip", "uv"])
def test_one_environment_of_dependencies_serves_every_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installer: Literal["pip", "uv"]
) -> None:
    """Replaced is only the program that installs; the tree that the commands would make is made by hand."""
    (tmp_path / "bin").mkdir()
    uv = tmp_path / "bin" / "uv"
    uv.write_text("#!/bin/sh\n")
    uv.chmod(0o755)
    monkeypatch.setenv("PATH", str(uv.parent))
    monkeypatch.setenv(environments.CACHE, str(tmp_path / "cache"))
    commands: list[list[str]] = []

    def run(command: list[str]) -> None:
        commands.append(command)
        if "venv" in command:
            (Path(command[-1]) / "lib" / "python3.11" / "site-packages").mkdir(parents=True)

    monkeypatch.setattr(environments, "_run", run)
    places = [
        environments.install(parse_runtime(f"sglang=={version}"), "cpu", lambda line: None, installer)
        for version in ("0.5.13", "0.5.23")
    ]
    adding = [command for command in commands if "install" in command]
    # torch, the other dependencies, and then each version without dependencies
    assert [command[-1].partition("=")[0] for command in adding if "--target" in command] == ["sglang", "sglang"]
    assert ["--no-deps" in command for command in adding] == [False, True, True, True]
    (shared,) = (tmp_path / "cache").glob("sglang-dependencies-*")
    python = str(shared / "bin" / "python")
    start = [python, "-m", "pip"] if installer == "pip" else [str(uv), "pip", "install"]
    assert all(command[:3] == start and python in command for command in adding)
    assert [item.python for item in places] == [item.python for item in environments.installed()]
    assert {item.python.parents[1].name for item in places} == {"sglang-0.5.13-cpu", "sglang-0.5.23-cpu"}


def test_an_absent_uv_is_named_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv(environments.CACHE, str(tmp_path / "cache"))
    with pytest.raises(InfraError, match="uv is not on the PATH"):
        environments.install(parse_runtime("sglang==0.5.13"), "cpu", lambda line: None, "uv")
    assert not (tmp_path / "cache").exists()


def test_only_known_runtimes_are_installed_by_name() -> None:
    with pytest.raises(InvalidCaseError, match="cannot be installed by name"):
        environments.install(parse_runtime("left-pad==1.0"), "cpu", lambda text: None)


def test_the_reader_imports_nothing_of_the_harness() -> None:
    """It runs under the runtime's interpreter, which has numpy, torch, torchvision, safetensors and the runtime."""
    import ast

    tree = ast.parse(learn.READER.with_name("sglang_reader.py").read_text(encoding="utf-8"))
    modules = {
        (node.module or "") if isinstance(node, ast.ImportFrom) else alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    tops = {name.split(".")[0] for name in modules} - set(sys.stdlib_module_names)
    assert tops <= {"numpy", "torch", "torchvision", "safetensors", "sglang"}
    assert json.dumps(sorted(tops))
