"""JUnit files of the shards into one, with an error for every planned case that has no result."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree as ET

from harness.records.base import write_bytes_atomic

_COUNTED = {"failure": "failures", "error": "errors", "skipped": "skipped"}


def join_junit(files: Iterable[Path], missing: Iterable[tuple[str, str]], out: Path) -> tuple[str, ...]:
    """Join test suites and write ``out``.

    Args:
        files: JUnit XML files.
        missing: pytest id and reason of every planned case without a result; each becomes an error.
        out: the joined file.

    Returns:
        Problems: files that could not be read, which are left out.
    """
    joined = ET.Element("testsuites", name="quantgate")
    problems = []
    for path in sorted(files):
        try:
            root = _parse(path)
        except (ET.ParseError, OSError, ValueError) as error:
            problems.append(f"{path}: not readable as JUnit: {error}")
            continue
        joined.extend([root] if root.tag == "testsuite" else root.findall("testsuite"))
    lost = list(missing)
    if lost:
        suite = ET.SubElement(joined, "testsuite", name="not_run")
        for node, reason in lost:
            file, _, name = node.partition("::")
            case = ET.SubElement(suite, "testcase", classname=file, name=name, time="0")
            ET.SubElement(case, "error", type="not_run", message=reason)
    _one_a_test(joined)
    for suite in joined:
        _count(suite)
    for name in ("tests", "failures", "errors", "skipped"):
        joined.set(name, str(sum(int(suite.get(name, "0")) for suite in joined)))
    ET.indent(joined)
    write_bytes_atomic(out, ET.tostring(joined, encoding="utf-8", xml_declaration=True) + b"\n")
    return tuple(problems)


def _parse(path: Path) -> ET.Element:
    data = path.read_bytes()
    # pytest writes no document type; entities are the one way in which XML can be a bomb.
    if b"<!" in data.replace(b"<![CDATA[", b""):
        raise ValueError("it declares a document type")
    return ET.fromstring(data)  # noqa: S314 - no entities, see above


def _one_a_test(joined: ET.Element) -> None:
    """Keep one entry a test. A case whose worker died and that ran again has two; what is not green stays."""
    kept: dict[tuple[str | None, str | None], tuple[ET.Element, ET.Element]] = {}
    for suite in joined:
        for case in suite.findall("testcase"):
            name = (case.get("classname"), case.get("name"))
            if name in kept:
                drop_new = _bad(kept[name][1]) and not _bad(case)
                loser = (suite, case) if drop_new else kept[name]
                loser[0].remove(loser[1])
                if drop_new:
                    continue
            kept[name] = (suite, case)


def _bad(case: ET.Element) -> bool:
    return case.find("failure") is not None or case.find("error") is not None


def _count(suite: ET.Element) -> None:
    cases = suite.findall("testcase")
    suite.set("tests", str(len(cases)))
    for tag, name in _COUNTED.items():
        suite.set(name, str(sum(case.find(tag) is not None for case in cases)))
