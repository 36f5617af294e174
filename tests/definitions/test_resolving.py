"""Revisions: what a run refuses, and how the hub's answer gets into the YAML."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from harness.definitions.loading import load_cases
from harness.definitions.resolving import require_resolved, resolve_cases
from harness.errors import InfraError, InvalidCaseError

TEXT = """\
# what this file is about: käse
defaults:
  runners: [cpu]
  base: {path: base/model, revision: unresolved}   # the anchor
  sampling: {prompt: p, width: 96, height: 64, num_frames: 17, num_inference_steps: 8, guidance_scale: 3.0}
cases:
  one:
    model: {path: a/one, revision: 'unresolved'}   # quoted
    transformer:
        path:     a/override
        revision: unresolved      # odd layout stays
  two:
    model: {path: a/two, revision: unresolved}
    matrix: {sampling.seed: [0, 1]}
  three:
    base: {path: base/model, revision: 0123456789abcdef0123456789abcdef01234567}
    matrix:
      model: {x: {path: a/one, revision: unresolved}, y: {path: ./local}}
"""

OPEN = [(4, "base/model"), (8, "a/one"), (11, "a/override"), (13, "a/two"), (18, "a/one")]
"""Line and repository of everything unresolved in it."""


def commit(repository: str, revision: str) -> str:
    return hashlib.sha1(f"{repository}@{revision}".encode()).hexdigest()  # noqa: S324 - a stand-in for git's


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "c.yaml"
    path.write_bytes(TEXT.replace("\n", "\r\n").encode())
    return path


def test_a_run_refuses_what_is_not_resolved(file, tmp_path):
    cases = {one.case.id: one.case for one in load_cases([file], tmp_path, runners=["cpu"])}
    with pytest.raises(InvalidCaseError) as caught:
        require_resolved(cases["one"])
    assert caught.value.remedy == "quantgate resolve one"
    for part in ("model a/one", "base base/model", "transformer a/override"):
        assert part in caught.value.message
    assert require_resolved(cases["three-y"]) is cases["three-y"]


def test_everything_is_resolved_and_nothing_else_is_touched(file, tmp_path):
    done = resolve_cases([file], tmp_path, lookup=commit)
    assert [(one.line, one.repository) for one in done] == OPEN
    lines = TEXT.replace("'unresolved'", "unresolved").splitlines()
    for line, repository in OPEN:
        lines[line - 1] = lines[line - 1].replace("unresolved", commit(repository, "main"))
    assert file.read_bytes().decode().split("\r\n") == [*lines, ""]
    for one in load_cases([file], tmp_path, runners=["cpu"]):
        require_resolved(one.case)
    assert resolve_cases([file], tmp_path, lookup=commit) == ()


@pytest.mark.parametrize(
    ("ids", "lines"), [(["one"], [4, 8, 11]), (["two-seed_1"], [4, 13]), (["three-x", "one"], [4, 8, 11, 18])]
)
def test_only_the_cases_asked_for(file, tmp_path, ids, lines):
    done = resolve_cases([file], tmp_path, ids, lookup=commit, revision="v2")
    assert [one.line for one in done] == lines
    assert str(done[0]) == f"c.yaml:4: base/model -> {commit('base/model', 'v2')}"


def test_each_repository_is_asked_for_once(file, tmp_path):
    asked = []
    resolve_cases([file], tmp_path, lookup=lambda repository, revision: (asked.append(repository), "a" * 40)[1])
    assert sorted(asked) == ["a/one", "a/override", "a/two", "base/model"]


def test_a_commit_that_reads_as_a_number_is_quoted(file, tmp_path):
    for number in ("1" * 40, "1" * 37 + "e10"):
        file.write_text(TEXT)
        resolve_cases([file], tmp_path, lookup=lambda repository, revision, number=number: number)
        assert YAML(typ="safe", pure=True).load(file)["cases"]["one"]["model"]["revision"] == number
        load_cases([file], tmp_path, runners=["cpu"])


def test_nothing_is_written_if_one_answer_is_missing(file, tmp_path):
    def fails(repository: str, revision: str) -> str:
        if repository == "a/two":
            raise InfraError("no answer", kind="download")
        return "a" * 40

    before = file.read_bytes()
    with pytest.raises(InfraError):
        resolve_cases([file], tmp_path, lookup=fails)
    assert file.read_bytes() == before


def test_an_unknown_case_is_an_error(file, tmp_path):
    with pytest.raises(InvalidCaseError, match="no case is called nobody"):
        resolve_cases([file], tmp_path, ["nobody"], lookup=commit)


def test_a_broken_file_is_an_error(tmp_path):
    (tmp_path / "c.yaml").write_text("cases: [")
    with pytest.raises(InvalidCaseError):
        resolve_cases([tmp_path / "c.yaml"], tmp_path, lookup=commit)


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as ``model_info`` asks for."""

    def do_GET(self) -> None:
        repository, _, revision = self.path.split("?")[0].removeprefix("/api/models/").partition("/revision/")
        known = repository != "a/two" or self.server.complete  # type: ignore[attr-defined]
        body = {"id": repository, "modelId": repository, "sha": commit(repository, revision), "siblings": []}
        data = json.dumps(body if known else {"error": "Repository not found"}).encode()
        self.send_response(200 if known else 404)
        if not known:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments: object) -> None:
        """Stay quiet."""


SCRIPT = """
import sys
from pathlib import Path
from harness.definitions.resolving import resolve_cases
from harness.errors import QuantgateError
try:
    for one in resolve_cases([Path(sys.argv[1])], Path(sys.argv[1]).parent):
        print(one)
except QuantgateError as error:
    print(error)
    sys.exit(error.exit_code)
"""


@pytest.mark.parametrize("complete", [True, False])
def test_the_unpatched_client_against_a_hub_on_this_machine(file, tmp_path, complete):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.complete = complete  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    before = file.read_bytes()
    names = ("HF_TOKEN", "HF_HUB_OFFLINE", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
    environment = {name: value for name, value in os.environ.items() if name.upper() not in names}
    environment |= {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path / "hf"),
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    try:
        run = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(file)], env=environment, capture_output=True, text=True, timeout=120
        )
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    if complete:
        assert run.returncode == 0, run.stderr
        assert f"c.yaml:13: a/two -> {commit('a/two', 'main')}" in run.stdout
        assert commit("base/model", "main").encode() in file.read_bytes()
    else:
        assert run.returncode == 18, run.stderr
        assert "the hub gave no commit of a/two at main" in run.stdout
        assert file.read_bytes() == before
