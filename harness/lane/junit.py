"""JUnit files of the shards into one, with an error for every planned case that has no result."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from xml.etree import ElementTree as ET

from harness.reading import UnreadableError, parse_xml, read_bytes
from harness.reading import reason as why
from harness.records.base import write_bytes_atomic
from harness.report.text import clean, one_line

PLAN_PROPERTY = "quantgate_plan"
"""Property of a test suite: id of the plan that it ran."""
_COUNTED = {"failure": "failures", "error": "errors", "skipped": "skipped"}


def join_junit(
    files: Iterable[Path],
    missing: Iterable[tuple[str, str]],
    out: Path,
    *,
    plan: str = "",
    planned: Collection[str] = (),
) -> tuple[str, ...]:
    """Join test suites and write ``out``.

    Args:
        files: JUnit XML files.
        missing: pytest id and reason of every planned case without a result; each becomes an error.
        out: the joined file.
        plan: id of the plan. A suite of another one is left out.
        planned: pytest ids of its cases; of a suite that names no plan, they are left out.

    Returns:
        Problems: files that could not be read, and what was left out.
    """
    joined = ET.Element("testsuites", name="quantgate")
    problems = []
    names = {_names(node) for node in planned}
    for path in sorted(files):
        try:
            root = _parse(path)
        except (OSError, UnreadableError) as error:
            problems.append(f"{path}: not readable as JUnit: {why(error)}")
            continue
        for suite in [root] if root.tag == "testsuite" else root.findall("testsuite"):
            reason = _of_another_plan(suite, plan, names)
            if reason:
                problems.append(f"{path}: {reason}")
            joined.append(suite)
    lost = list(missing)
    if lost:
        suite = ET.SubElement(joined, "testsuite", name="not_run")
        for node, reason in lost:
            classname, name = _names(node)
            case = ET.SubElement(suite, "testcase", classname=clean(classname), name=clean(name), time="0")
            ET.SubElement(case, "error", type="not_run", message=one_line(reason, 1000))
    _one_a_test(joined)
    for suite in joined:
        _count(suite)
    for name in ("tests", "failures", "errors", "skipped"):
        joined.set(name, str(sum(int(suite.get(name, "0")) for suite in joined)))
    ET.indent(joined)
    write_bytes_atomic(out, ET.tostring(joined, encoding="utf-8", xml_declaration=True) + b"\n")
    return tuple(problems)


def _names(node: str) -> tuple[str, str]:
    """Class and name that pytest gives a case in JUnit."""
    file, _, name = node.partition("::")
    return file.replace("/", "."), name


def _of_another_plan(suite: ET.Element, plan: str, planned: Collection[tuple[str, str]]) -> str:
    """Take out of ``suite`` what is no result of this plan, and say why; empty where all of it is one."""
    marks = [one.get("value") for one in suite.findall("properties/property") if one.get("name") == PLAN_PROPERTY]
    if plan in marks:
        return ""
    stale = [
        case
        for case in suite.findall("testcase")
        if marks or (case.get("classname", ""), case.get("name", "")) in planned
    ]
    for case in stale:
        suite.remove(case)
    of = f"plan {marks[0]}" if marks else "no plan"
    return f"it is of {of}, not of plan {plan}; {len(stale)} results of it do not count" if stale else ""


def _parse(path: Path) -> ET.Element:
    return parse_xml(read_bytes(path), str(path))


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
