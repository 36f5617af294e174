"""Checks register themselves with their codes; every code is declared, known to the loader, and tested."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.definitions.causes import CAUSES, check_cause
from harness.inspector.checks import CHECKS, check, registration
from harness.inspector.checks.__main__ import main
from harness.inspector.checks.registry import all_codes, cause_codes, codes_are_current
from harness.inspector.context import Context
from harness.inspector.findings import about, finding
from harness.records.inspection import InspectionFinding

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def test_no_code_is_without_a_test() -> None:
    rooms = (HERE, HERE.with_name("runtimes"))
    files = [ROOT / "benchmarks" / "corpus" / "faults.py", *(path for room in rooms for path in room.glob("*.py"))]
    texts = "".join(path.read_text(encoding="utf-8") for path in files)
    assert [code for code in sorted(all_codes()) if f'"{code}"' not in texts] == []


def test_the_loader_knows_the_codes_that_checks_register() -> None:
    assert codes_are_current(), "run python -m harness.inspector.checks --write"
    assert set(cause_codes()) <= CAUSES
    assert check_cause("nibble_order", ()) is None
    assert "names_prefixed" in all_codes()
    assert check_cause("names_prefixed", ()) is not None, "a hint is never a cause"


def test_an_undeclared_code_fails_in_tests() -> None:
    with pytest.raises(ValueError, match="'no_such_code' is among the codes of no check"):
        finding("fault", "no_such_code", "text")
    assert finding("fault", "nibble_order", "text").code == "nibble_order"


def test_a_finding_about_linears_and_one_about_tensors() -> None:
    names = [f"blocks.{number}.ffn" for number in range(30)]
    linears = about("nibble_order", "transformer", "30 Linears.", linears=names, severity="warning", proven="low_first")
    assert (linears.message, linears.severity) == ("transformer: 30 Linears.", "warning")
    assert (linears.module, linears.tensor, linears.expert) == (names[0], "", "transformer")
    assert linears.evidence == {"proven": "low_first", "modules": names[:20], "count": 30}
    tensors = about("nibble_order", "transformer", "text", tensors=names[:2], tensor=names[1])
    assert (tensors.module, tensors.tensor, tensors.severity) == ("", names[1], "fault")
    assert tensors.evidence == {"tensors": names[:2], "count": 2}


def test_a_check_registers_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "registered", dict(registration.registered))

    @check("odd", cost="header", codes=("odd_code",))
    def odd(context: Context) -> Iterator[InspectionFinding]:
        yield finding("fault", "nibble_order", "text")

    assert registration.registered["odd"].codes == ("odd_code",)
    assert registration.registered["odd"].order > max(item.order for item in CHECKS)
    odd.__module__ = "another"
    with pytest.raises(ValueError, match="two checks are called 'encoding'"):
        check("encoding", cost="rows", codes=())(odd)


def test_checks_are_listed_by_order(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[2] for row in rows] == [item.name for item in CHECKS]
    orders = [int(row[0]) for row in rows]
    assert orders == sorted(orders)
    assert {row[2]: row[1] for row in rows}["key_set"] == "header"


def test_codes_are_written_and_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "codes.json"
    for module in ("registry", "__main__"):
        monkeypatch.setattr(f"harness.inspector.checks.{module}.INSPECTOR_CODES", path)
    assert main(["--check"]) == 1
    assert main(["--write"]) == 0
    assert main(["--check"]) == 0
    path.write_text("[]")
    assert main(["--check"]) == 1


def test_causes_are_read_without_numpy() -> None:
    code = "import sys; import harness.definitions.causes; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"
