"""`quantgate init`: what it writes is valid, a second call changes nothing, and what was there stays."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from harness.adopt import embedded, pytest_settings
from harness.adopt.init import init
from harness.adopt.source import UNKNOWN, source_of
from harness.cli.app import app
from harness.definitions.loading import load_cases
from harness.definitions.runner import load_runners, match_runner
from harness.definitions.schemas import SCHEMAS
from harness.errors import InvalidCaseError
from harness.project import case_files
from harness.records.identity import Device
from harness.session.identity import request_of

ROOT = Path(__file__).parents[2]
H100 = Device(
    kind="cuda", name="NVIDIA H100 80GB HBM3", compute_capability="9.0", uuid="GPU-1", memory_bytes=85 * 10**9
)
B200 = Device(kind="cuda", name="NVIDIA B200", compute_capability="10.0", uuid="GPU-2", memory_bytes=191 * 10**9)
TOML, INI = 'quantgate_cases = "cases"\n', "quantgate_cases = cases\n"
SOURCE = source_of("team/quantgate@" + "a" * 40)


def contents(root: Path) -> dict[str, tuple[bytes, int]]:
    """Bytes and modification time of every file, by path."""
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {str(path.relative_to(root)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def read_yaml(path: Path) -> Any:
    return YAML(typ="safe", pure=True).load(path)


@pytest.mark.parametrize("demo", [False, True])
def test_what_it_writes_can_be_used_and_a_second_call_changes_nothing(tmp_path: Path, demo: bool) -> None:
    made = init(tmp_path, (), SOURCE, demo=demo)
    assert len(made.commands) == 3
    assert {step.state for step in made.steps} <= {"written", "added"}
    located = load_cases(case_files(tmp_path), tmp_path)
    assert [one.case.id for one in located] == (["nvfp4", "nvfp4_nibbles_exchanged"] if demo else ["wan22_nvfp4"])
    assert sorted(load_runners(tmp_path / "runners")) == ["b200", "cpu"]
    before = contents(tmp_path)
    again = init(tmp_path, (), SOURCE, demo=demo)
    assert {step.state for step in again.steps} == {"kept"}
    assert contents(tmp_path) == before


def test_the_demo_brings_the_checkpoints_and_the_golden_of_this_repository(tmp_path: Path) -> None:
    init(tmp_path, (), SOURCE, demo=True)
    for name in ("transformer", "transformer_2"):
        file = f"{name}/diffusion_pytorch_model.safetensors"
        model = (tmp_path / embedded.MODEL / file).read_bytes()
        assert model == (ROOT / "tiny/weights" / file).read_bytes()
        assert 0 < len((tmp_path / embedded.QUANTIZED / file).read_bytes()) < len(model)
    (mine,) = [one.case for one in load_cases([tmp_path / "cases/demo.yaml"], tmp_path) if one.case.id == "nvfp4"]
    (ours,) = [one.case for one in load_cases([ROOT / "cases/tiny.yaml"], ROOT) if one.case.id == "nvfp4"]
    assert request_of(mine) == request_of(ours)
    accepted = (tmp_path / "goldens/cpu/nvfp4/accepted.json").read_bytes()
    assert accepted == (ROOT / "goldens/cpu/nvfp4/accepted.json").read_bytes()


def test_every_yaml_names_a_schema_that_is_there_and_fits(tmp_path: Path) -> None:
    init(tmp_path, (H100,), SOURCE, demo=True)
    files = [*(tmp_path / "cases").glob("*.yaml"), *(tmp_path / "runners").glob("*.yaml")]
    assert len(files) == 4
    for path in files:
        first = path.read_text().splitlines()[0]
        schema = (path.parent / first.removeprefix("# yaml-language-server: $schema=")).resolve()
        jsonschema.Draft202012Validator(json.loads(schema.read_text())).validate(read_yaml(path))


def test_each_gpu_of_the_machine_is_a_runner(tmp_path: Path) -> None:
    init(tmp_path, (H100, H100, B200), SOURCE)
    profiles = load_runners(tmp_path / "runners")
    assert sorted(profiles) == ["b200", "cpu", "h100_80gb_hbm3"]
    assert match_runner(H100, profiles).native_formats == ("bf16", "fp8")
    assert match_runner(B200, profiles).name == "b200"
    workflow = read_yaml(tmp_path / ".github/workflows/quantgate.yml")
    assert workflow["jobs"]["lane"]["with"]["runner"] == "h100_80gb_hbm3"


def test_what_is_there_stays(tmp_path: Path) -> None:
    mine = {
        "cases/mine.yaml": "cases: {}\n",
        "runners/cpu.yaml": "# mine\n",
        ".gitignore": "runs\n*.log",
        "pytest.ini": "[pytest]\naddopts = -q\n",
        ".github/workflows/quantgate.yml": "name: mine\n",
        "goldens/keep": "",
    }
    for name, text in mine.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    made = init(tmp_path, (), SOURCE)
    for name in ("cases/mine.yaml", "runners/cpu.yaml", ".github/workflows/quantgate.yml"):
        assert (tmp_path / name).read_text() == mine[name]
    assert not (tmp_path / "cases/first.yaml").exists()
    assert (tmp_path / ".gitignore").read_text() == "runs\n*.log\n/.quantgate/\n"
    assert (tmp_path / "pytest.ini").read_text() == "[pytest]\nquantgate_cases = cases\naddopts = -q\n"
    assert {step.path: step.state for step in made.steps}["runners/cpu.yaml"] == "kept"


@pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("pyproject.toml", "[project]\nname = 'x'\n", f"[project]\nname = 'x'\n\n[tool.pytest.ini_options]\n{TOML}"),
        (
            "pyproject.toml",
            "[tool.pytest.ini_options]  # ours\naddopts = '-q'\n[tool.x]\ny = 1\n",
            f"[tool.pytest.ini_options]  # ours\n{TOML}addopts = '-q'\n[tool.x]\ny = 1\n",
        ),
        ("pyproject.toml", "[tool.pytest]\nstrict = true\n", f"[tool.pytest]\n{TOML}strict = true\n"),
        ("pytest.toml", "[pytest]\n", f"[pytest]\n{TOML}"),
        ("setup.cfg", "[metadata]\nname = x\n[tool:pytest]\n", f"[metadata]\nname = x\n[tool:pytest]\n{INI}"),
        ("tox.ini", "[pytest]\naddopts =\n  -q\n", f"[pytest]\n{INI}addopts =\n  -q\n"),
    ],
)
def test_settings_of_pytest_get_one_line(tmp_path: Path, name: str, before: str, after: str) -> None:
    (tmp_path / name).write_text(before)
    assert pytest_settings.configure(tmp_path) == (tmp_path / name, True, "")
    assert (tmp_path / name).read_text() == after
    assert pytest_settings.configure(tmp_path) == (tmp_path / name, False, "")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pyproject.toml", "[tool]\npytest = {ini_options = {addopts = '-q'}}\n"),
        ("pyproject.toml", "not toml ["),
        ("pytest.ini", "addopts = -q\n"),
    ],
)
def test_settings_that_cannot_be_edited_safely_are_left_and_told(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    setting = pytest_settings.configure(tmp_path)
    assert (setting.changed, "quantgate_cases" in setting.by_hand) == (False, True)
    assert (tmp_path / name).read_text() == text


def test_settings_elsewhere_in_a_repository_are_nobodys_business(tmp_path: Path) -> None:
    (tmp_path / "setup.cfg").write_text("[metadata]\nname = x\n")
    assert pytest_settings.configure(tmp_path).path == tmp_path / "pytest.ini"


def test_in_a_folder_of_a_monorepo_the_workflow_lies_at_the_top_and_names_the_folder(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    (tmp_path / "video/gate").mkdir(parents=True)
    init(tmp_path / "video/gate", (), SOURCE)
    workflow = read_yaml(tmp_path / ".github/workflows/quantgate.yml")
    assert workflow["jobs"]["lane"]["with"]["folder"] == "video/gate"
    assert not (tmp_path / "video/gate/.github").exists()
    assert (tmp_path / "video/gate/cases/first.yaml").is_file()


def test_where_quantgate_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    assert SOURCE.requirement == "quantgate @ git+https://github.com/team/quantgate@" + "a" * 40
    noted = {"url": "https://github.com/team/quantgate.git", "vcs_info": {"vcs": "git", "commit_id": "b" * 40}}

    class Installed:
        @staticmethod
        def read_text(name: str) -> str:
            assert name == "direct_url.json"
            return json.dumps(noted)

    monkeypatch.setattr("harness.adopt.source.distribution", lambda _: Installed)
    assert source_of()[:2] == ("team/quantgate", "b" * 40)
    for url in ("file:///home/me/quantgate", "https://github.com/team/x$(id)@", "https://example.org/team/quantgate"):
        noted["url"] = url
        assert source_of().repository == UNKNOWN
    with pytest.raises(InvalidCaseError, match="no owner/name@commit"):
        source_of("quantgate")


def test_a_file_where_a_folder_belongs_is_told(tmp_path: Path) -> None:
    (tmp_path / "cases").write_text("")
    with pytest.raises(InvalidCaseError, match="a file lies where a folder belongs"):
        init(tmp_path, (), SOURCE)
    assert [path.name for path in tmp_path.iterdir()] == ["cases"]


def test_a_project_with_cases_is_told_a_command_that_runs_them(tmp_path: Path) -> None:
    (tmp_path / "cases/my suite").mkdir(parents=True)
    (tmp_path / "cases/my suite/own.yaml").write_text(
        "cases:\n  own: {runners: [b200], model: {path: ./m}, sampling: {prompt: p, width: 96, height: 64, "
        "num_frames: 17, num_inference_steps: 8, guidance_scale: 3.0}}\n"
    )
    made = init(tmp_path, (), SOURCE)
    assert made.commands[1] == "pytest 'cases/my suite/own.yaml' --runner b200"
    assert not any("first.yaml" in command for command in made.commands)
    assert not any("pytest will refuse" in note for note in made.notes)


def test_files_of_another_program_in_cases_are_told(tmp_path: Path) -> None:
    (tmp_path / "cases").mkdir()
    (tmp_path / "cases/foreign.yaml").write_text("x: 1\n")
    made = init(tmp_path, (), SOURCE)
    assert any("pytest will refuse cases/foreign.yaml: " in note for note in made.notes)
    assert not any("foreign" in command for command in made.commands)
    assert (tmp_path / "cases/foreign.yaml").read_text() == "x: 1\n"


def test_the_commands(tmp_path: Path) -> None:
    from harness import __version__

    runner = CliRunner()
    assert runner.invoke(app, ["--version"]).output == f"quantgate {__version__}\n"
    done = runner.invoke(app, ["init", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert done.output.count("\n  ") == 3
    assert "pytest -m b200" in done.output
    printed = json.loads(runner.invoke(app, ["schema"]).output)
    assert sorted(printed) == sorted(SCHEMAS)
    assert json.loads(runner.invoke(app, ["schema", "runner"]).output) == printed["runner.schema.json"]
    assert runner.invoke(app, ["schema", "--out", str(tmp_path / "s")]).exit_code == 0
    assert json.loads((tmp_path / "s/runner.schema.json").read_text()) == printed["runner.schema.json"]
    assert isinstance(runner.invoke(app, ["schema", "racer"]).exception, InvalidCaseError)


def test_an_ignore_file_that_is_no_text_stays_and_is_told(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_bytes(b"caf\xe9\n")
    made = init(tmp_path, (), SOURCE)
    (step,) = [step for step in made.steps if step.path == ".gitignore"]
    assert step.state == "by hand"
    assert "not UTF-8" in step.note
    assert "/.quantgate/" in step.note
    assert (tmp_path / ".gitignore").read_bytes() == b"caf\xe9\n"
