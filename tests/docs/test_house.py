"""benchmarks/house.py counts cycles, pairs of packages, lines and comments: on packages that are written here."""

import ast
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

from benchmarks.house import count_lines, cycles, lines_by_room, main, mutual_packages, rooms_table


def test_a_cycle_is_counted_once_with_all_its_members() -> None:
    imports = {"p.a": {"p.b"}, "p.b": {"p.c"}, "p.c": {"p.a"}, "p.d": {"p.a"}}
    assert cycles(imports) == [["p.a", "p.b", "p.c"]]


def test_a_chain_is_no_cycle() -> None:
    assert cycles({"p.a": {"p.b", "p.c"}, "p.b": {"p.c"}, "p.c": set()}) == []
    assert cycles({}) == []


def test_packages_that_import_each_other_through_different_modules_are_a_pair() -> None:
    imports = {"p.x.one": {"p.y.two"}, "p.y.three": {"p.x.four"}, "p.x.four": set()}
    assert cycles(imports) == []
    assert mutual_packages(imports, {"p", "p.x", "p.y"}) == [("p.x", "p.y")]


def test_a_package_and_its_own_subpackage_are_no_pair() -> None:
    imports = {"p.x.one": {"p.x.sub.two"}, "p.x.sub.three": {"p.x.one"}}
    assert mutual_packages(imports, {"p", "p.x", "p.x.sub"}) == []


def test_docstrings_comments_and_blank_lines_are_no_code() -> None:
    source = '"""Module.\n\nTwo lines more."""\n\n# a reason\nX = 1  # noqa: E501\nY = """kept\ntext"""  # why\n'
    lines = count_lines(source)
    assert (lines.total, lines.code, lines.comments) == (8, 3, 2)


def test_the_docstring_of_an_attribute_is_no_code_and_a_lone_string_elsewhere_is() -> None:
    attributes = 'X = 1\n"""What X is,\nin two lines."""\nclass A:\n    y: int\n    """Of y."""\n'
    assert count_lines(attributes).code == 3
    assert count_lines('print()\n"no docstring"\n').code == 2


@pytest.mark.parametrize(
    ("name", "body", "code"), [("turning", "from turning import a", 1), ("straight", "import os", 0)]
)
def test_the_command_counts_the_cycle_of_a_package_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, body: str, code: int
) -> None:
    package = tmp_path / name
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "a.py").write_text(f"from {name} import b\n")
    (package / "b.py").write_text(f"def late():\n    {body}\n")
    monkeypatch.setattr(sys, "argv", ["house", "--root", str(package), "--list"])
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert main() == code
    printed = capsys.readouterr().out
    assert f"{'import cycles':<28} {code}\n" in printed
    assert (f"cycle: {name}.a {name}.b" in printed) == bool(code)


def test_lines_of_code_are_counted_per_room() -> None:
    files = {"p/a.py": "X = 1\n", "p/x/b.py": "# why\nY = 1\nZ = 2\n", "p/x/deep/c.py": '"""Doc."""\nW = 1\n'}
    assert dict(lines_by_room(files)) == {"(top)": 1, "x": 3}


def test_the_rooms_of_an_earlier_commit_stand_beside_those_of_today(tmp_path: Path) -> None:
    package = tmp_path / "p"
    for name, text in {"a.py": "X = 1\n", "old/b.py": "X = 1\nY = 2\n"}.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *command], check=True)
    (package / "old").rename(package / "new")
    (package / "a.py").write_text("X = 1\nZ = 3\n")
    rows = [line.split() for line in rooms_table(package, "HEAD").splitlines()]
    assert rows == [
        ["room", "now", "HEAD"],
        ["(top)", "2", "1"],
        ["new", "2", "0"],
        ["old", "0", "2"],
        ["all", "4", "3"],
    ]
    with pytest.raises(SystemExit, match="nosuch"):
        rooms_table(package, "nosuch")


def builds(source: str) -> list[str]:
    """Return the names of the classes among ``Case`` and ``Evidence`` that ``source`` makes an object of."""
    calls = [node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    names = [
        call.value if isinstance(call, ast.Attribute) and call.attr == "model_validate" else call for call in calls
    ]
    return [name.id for name in names if isinstance(name, ast.Name) and name.id in ("Case", "Evidence")]


@pytest.mark.parametrize(
    ("source", "classes"),
    [
        ("Case(id='a')", ["Case"]),
        ("x = Case.model_validate({})", ["Case"]),
        ("f(Evidence(case, 'n'))", ["Evidence"]),
        ("make_case(id='a')", []),
        ("Case.model_validate_json(text)", []),
        ("GoldenEvidence(digest, ())", []),
    ],
)
def test_a_case_that_is_built_is_seen(source: str, classes: list[str]) -> None:
    assert builds(source) == classes


def test_tests_build_cases_and_evidence_in_one_file() -> None:
    """A new required field of a case or of the evidence changes one builder and no test."""
    tests = Path(__file__).parents[1]
    files = {path.relative_to(tests).as_posix() for path in tests.rglob("*.py") if builds(path.read_text("utf-8"))}
    assert files == {"support/builders.py"}


def test_pytest_looks_into_every_room_of_the_tests(pytestconfig: pytest.Config) -> None:
    """A room whose name stands in ``norecursedirs`` is left out of `make test` without a word."""
    tests = Path(__file__).parents[1]
    rooms = {path.parent.relative_to(tests) for path in tests.rglob("test_*.py")}
    patterns = pytestconfig.getini("norecursedirs")
    left_out = [str(room) for room in rooms for part in room.parts if any(fnmatch(part, item) for item in patterns)]
    assert left_out == []
