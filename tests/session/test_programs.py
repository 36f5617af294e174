"""Which files are a case's program: an edit of any of them has a name, an edit of another file has none."""

from __future__ import annotations

import hashlib
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from builders import make_case

from harness.definitions.case import Case
from harness.definitions.checks import check_case
from harness.errors import InvalidCaseError
from harness.machine.devices import cpu_device
from harness.records.identity import differences
from harness.session import programs
from harness.session.identity import identity_of
from harness.session.programs import program_digests


def case(*command: str, **more: Any) -> Case:
    return make_case(**{"backend": "command", "command": command, **more})


@pytest.fixture
def root(tmp_path: Path) -> Path:
    files = {
        "runtimes/run.py": "import helper\nfrom lib import kernels\nimport numpy\nfrom . import missing\n",
        "runtimes/helper.py": "import lib.deep.inner\n",
        "runtimes/unrelated.py": "",
        "lib/__init__.py": "",
        "lib/kernels.py": "from .deep import inner as again\n",
        "lib/deep/__init__.py": "from .. import tables\n",
        "lib/deep/inner.py": "import os\n",
        "lib/tables.py": "",
        "lib/other.py": "",
        "lib/__main__.py": "import lib.kernels\n",
        "kernels/a.cu": "a",
        "kernels/b.cu": "b",
        "settings.yaml": "x: 1",
        "broken.py": "def (",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


IMPORTED = {
    "runtimes/run.py", "runtimes/helper.py", "lib/__init__.py", "lib/kernels.py", "lib/deep/__init__.py",
    "lib/deep/inner.py", "lib/tables.py",
}  # fmt: skip


@pytest.mark.parametrize(
    "script", ["runtimes/run.py", "{root}/runtimes/run.py", "./runtimes/run.py"], ids=["plain", "root", "dot"]
)
def test_a_script_and_the_modules_that_it_imports(root: Path, script: str) -> None:
    digests = program_digests(case("sh", script, "{case_json}", "{out}"), root)
    inside = {name for name in digests if not name.startswith("/")}
    assert inside == IMPORTED
    text = (root / "lib" / "tables.py").read_bytes()
    assert digests["lib/tables.py"] == hashlib.sha256(text).hexdigest()


def test_a_module_that_is_run_by_name(root: Path) -> None:
    digests = program_digests(case("sh", "-m", "lib", "{case_json}", "{out}"), root)
    assert {"lib/__main__.py", "lib/__init__.py", "lib/kernels.py"} <= set(digests)
    assert "lib/other.py" not in digests


def test_files_that_arguments_and_globs_name(root: Path) -> None:
    command = ("sh", "broken.py", "--settings=settings.yaml", "{case_json}", "{out}")
    digests = program_digests(case(*command, program_files=["kernels/*.cu"]), root)
    assert {name for name in digests if not name.startswith("/")} == {
        "broken.py", "settings.yaml", "kernels/a.cu", "kernels/b.cu"
    }  # fmt: skip


def test_a_case_without_a_command_has_no_program(root: Path) -> None:
    assert program_digests(case(backend="diffusers"), root) == {}


def test_a_glob_that_names_nothing_is_an_error(root: Path) -> None:
    with pytest.raises(InvalidCaseError, match=r"kernels/\*.ptx' names no file"):
        program_digests(case("sh", "{case_json}", program_files=["kernels/*.ptx"]), root)


@pytest.mark.parametrize(("most", "refused"), [(1, True), (2, False)])
def test_a_glob_that_covers_too_much_is_an_error(
    root: Path, monkeypatch: pytest.MonkeyPatch, most: int, refused: bool
) -> None:
    monkeypatch.setattr(programs, "MOST_FILES", most)
    with pytest.raises(InvalidCaseError, match="names more than 1 files") if refused else nullcontext():
        program_digests(case("sh", "{case_json}", program_files=["kernels/*.cu"]), root)


def test_an_edited_program_is_a_change_with_a_name_and_blocks_nothing(root: Path) -> None:
    one = case("sh", "runtimes/run.py", "{case_json}", "{out}")

    def identity() -> Any:
        return identity_of(one, cpu_device(), {}, programs=program_digests(one, root))

    before = identity()
    assert differences(before, identity()) == ()
    (root / "runtimes" / "helper.py").write_text("import lib.deep.inner  # edited\n")
    (change,) = differences(before, identity())
    assert (change.identity_class, change.field) == ("subject", "program.runtimes/helper.py")
    assert before.digest() == identity().digest()


@pytest.mark.parametrize(
    "text",
    ["-" * 100_000 + "1", "from " + "." * 80 + " import x", "import " + "a" * 300, "("],
    ids=["too deep to parse", "more dots than folders", "a name that no file system takes", "no Python"],
)
def test_source_that_python_cannot_read_is_digested_and_no_crash(root: Path, text: str) -> None:
    (root / "odd.py").write_text(f"{text}\n")
    assert "odd.py" in program_digests(case("sh", "odd.py", "{case_json}", "{out}"), root)


def test_source_of_many_megabytes_is_digested_and_not_parsed(root: Path) -> None:
    (root / "large.py").write_bytes(b"import helper\n" + b"#" * programs.LARGEST_SOURCE)
    (root / "helper.py").write_text("")
    digests = program_digests(case("sh", "large.py", "{case_json}", "{out}"), root)
    assert {name for name in digests if not name.startswith("/")} == {"large.py"}


@pytest.mark.parametrize("word", ["--prompt=" + "word " * 80, "a" * 300, "a" * 5000, "a\0b"])
def test_an_argument_that_no_file_can_have_names_no_file(root: Path, word: str) -> None:
    assert "settings.yaml" in program_digests(case("sh", word, "settings.yaml", "{case_json}", "{out}"), root)


@pytest.mark.parametrize("glob", ["", ".", "./", "/etc/*", "../*"])
def test_a_glob_that_names_no_place_in_the_repository_is_refused(glob: str) -> None:
    wanted = case("sh", "{case_json}", "{out}", program_files=[glob])
    problems = [text for _, text in check_case(wanted, root=Path(), runners=["cpu"])]
    assert any("write a glob" in text for text in problems)


def test_a_program_that_cannot_be_read_is_one_sentence(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_path: Path) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(programs, "digest_file", refuse)
    with pytest.raises(InvalidCaseError, match=r"cannot be read: Permission denied") as error:
        program_digests(case("sh", "settings.yaml", "{case_json}", "{out}"), root)
    assert error.value.place.startswith("one: ")
