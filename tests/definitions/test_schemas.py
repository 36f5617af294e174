"""The JSON Schemas: current, and of one mind with the loader."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
from ruamel.yaml import YAML

from harness.definitions import schemas
from harness.definitions.schemas import FOLDER, SCHEMAS, stale
from harness.definitions.schemas.__main__ import main

ROOT = Path(__file__).parents[2]


def schema(name: str) -> jsonschema.Draft202012Validator:
    read = json.loads((FOLDER / name).read_text())
    jsonschema.Draft202012Validator.check_schema(read)
    return jsonschema.Draft202012Validator(read)


def test_the_committed_schemas_are_what_the_models_say(capsys):
    assert main(["--check"]) == 0, capsys.readouterr().err


def test_a_stale_schema_is_named_and_rewritten(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("harness.definitions.schemas.__main__.FOLDER", tmp_path)
    monkeypatch.setattr("harness.definitions.schemas.__main__.stale", lambda: stale(tmp_path))
    (tmp_path / "runner.schema.json").write_text("{}")
    assert main(["--check"]) == 1
    assert "runner.schema.json: not what the models say" in capsys.readouterr().err
    assert main(["--write"]) == 0
    assert main(["--check"]) == 0
    assert {path.name for path in tmp_path.iterdir()} == set(SCHEMAS)


@pytest.mark.parametrize(("folder", "name"), [("cases", "case-file.schema.json"), ("runners", "runner.schema.json")])
def test_committed_files_pass_and_name_their_schema(folder, name):
    files = sorted((ROOT / folder).glob("*.yaml"))
    assert files
    for path in files:
        first, *_ = path.read_text().splitlines()
        prefix = "# yaml-language-server: $schema="
        assert first.startswith(prefix), path
        assert (path.parent / first.removeprefix(prefix)).resolve() == FOLDER / name
        schema(name).validate(YAML(typ="safe", pure=True).load(path))


def test_committed_limits_pass():
    for path in (ROOT / "thresholds").glob("*/*.json"):
        schema("limit-file.schema.json").validate(json.loads(path.read_text()))


@pytest.mark.parametrize(
    "entry",
    [
        {"sampling": {"widht": 64}},
        {"smapling": {}},
        {"sampling": {"width": "96"}},
        {"model": {"revision": "unresolved"}},
        {"model": {"path": "a/b", "revision": "main"}},
        {"quantization": {"transformer": "int4"}},
        {"matrix": {"sampling.sed": [1]}},
        {"matrix": {"sampling.seed": []}},
        {"id": "x"},
    ],
)
def test_the_schema_refuses_what_the_loader_refuses(entry, refused):
    assert not schema("case-file.schema.json").is_valid({"cases": {"one": entry}})
    assert refused(f"cases: {json.dumps({'one': entry})}\n")


@pytest.mark.parametrize(
    "entry",
    [
        None,
        {"sampling": {"width": 64}},
        {"matrix": {"sampling.seed": [0, 1], "env.OMP_NUM_THREADS": ["1"], "model": {"a": {"path": "./a"}}}},
    ],
)
def test_the_schema_admits_what_the_loader_admits(entry, load):
    schema("case-file.schema.json").validate({"defaults": None, "cases": {"one": entry}})
    assert load(f"cases: {json.dumps({'one': entry})}\n")


def test_the_same_models_give_the_same_bytes():
    assert [schemas.text_of(name) for name in SCHEMAS] == [schemas.text_of(name) for name in SCHEMAS]
