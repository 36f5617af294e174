"""Write JUnit XML from the records alone, valid by the schema that Jenkins publishes.

pytest writes the JUnit file of a run, and ``quantgate merge`` joins those of the shards. This writer,
``quantgate report --format junit``, is for records that pytest did not judge: those of ``quantgate try``, of an
artifact on another machine, and of a run whose pytest was killed before it wrote its file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from xml.etree import ElementTree as ET

from harness.outcomes import RULES
from harness.records.case_record import CaseRecord
from harness.report.load import Run
from harness.report.text import next_step
from harness.text import clean, one_line

_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}", re.ASCII)
_NO_TIME = "1970-01-01T00:00:00"
"""Strict readers require a time; a record of others may hold any text in its place."""
_YAML = re.compile(r"\.ya?ml$")


def junit_xml(run: Run) -> str:
    """Return JUnit XML with one suite per runner and one test case per case; an unreadable record is an error.

    Facts of the machine are properties of the suite, because strict readers refuse properties of a test case.
    """
    root = ET.Element("testsuites", name="quantgate")
    by_runner: dict[str, list[CaseRecord]] = {}
    for entry in run.entries:
        by_runner.setdefault(entry.record.runner, []).append(entry.record)
    for runner, records in sorted(by_runner.items()):
        _suite(root, runner, records)
    if run.unreadable:
        suite = ET.SubElement(root, "testsuite", name="unreadable records")
        for item in run.unreadable:
            case = ET.SubElement(suite, "testcase", classname="records", name=item.path, time="0.000")
            ET.SubElement(case, "error", message=one_line(item.why), type="unreadable_record").text = item.why
        _totals(suite, tests=len(run.unreadable), failures=0, errors=len(run.unreadable), skipped=0, time=0.0)
    for element in root.iter():  # here and not per value, so that no field is forgotten
        element.text = clean(element.text) if element.text else element.text
        for name, value in element.attrib.items():
            element.set(name, clean(value))
    ET.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _suite(root: ET.Element, runner: str, records: list[CaseRecord]) -> None:
    suite = ET.SubElement(root, "testsuite", name=runner, hostname=runner)
    started = min(record.started for record in records)[:19]
    suite.set("timestamp", started if _TIME.fullmatch(started) else _NO_TIME)
    properties = ET.SubElement(suite, "properties")
    for name, value in _facts(records):
        ET.SubElement(properties, "property", name=name, value=one_line(value))
    kinds = [RULES[record.verdict.outcome].junit for record in records]
    for record in records:
        _case(suite, record)
    _totals(
        suite,
        tests=len(records),
        failures=kinds.count("failure"),
        errors=kinds.count("error"),
        skipped=kinds.count("skipped"),
        time=sum(record.timing.total for record in records),
    )


def _totals(suite: ET.Element, *, tests: int, failures: int, errors: int, skipped: int, time: float) -> None:
    counts = {"tests": tests, "failures": failures, "errors": errors, "skipped": skipped}
    for name, value in counts.items():
        suite.set(name, str(value))
    suite.set("time", f"{time:.3f}")


def _case(suite: ET.Element, record: CaseRecord) -> None:
    file, _, name = record.node.partition("::")
    case = ET.SubElement(
        suite,
        "testcase",
        classname=_YAML.sub("", file).replace("/", "."),
        name=name or record.case,
        time=f"{record.timing.total:.3f}",
    )
    verdict, kind = record.verdict, RULES[record.verdict.outcome].junit
    message = one_line(f"{verdict.cause}: {verdict.summary}", limit=1000)
    if kind == "skipped":
        ET.SubElement(case, "skipped", type=verdict.outcome.value, message=message)
    elif kind in ("failure", "error"):
        detail = ET.SubElement(case, kind, type=verdict.outcome.value, message=message)
        detail.text = "\n".join(_detail(record))
    if record.log_tail and kind in ("failure", "error"):
        ET.SubElement(case, "system-out").text = "\n".join(record.log_tail)


def _detail(record: CaseRecord) -> Iterable[str]:
    yield record.verdict.summary
    for finding in record.verdict.findings:
        yield f"- {finding.stage}/{one_line(finding.code)}: {one_line(finding.message)}"
    command = next_step(record)
    if command:
        yield f"next: {command}"


def _facts(records: list[CaseRecord]) -> Iterable[tuple[str, str]]:
    yield "run", records[0].run
    fingerprint = next((record.fingerprint for record in records if record.fingerprint), None)
    if fingerprint is None:
        return
    yield "device", fingerprint.device.model or fingerprint.device.name
    for name, value in (("driver", fingerprint.driver), ("cuda", fingerprint.cuda), ("code", fingerprint.code)):
        if value:
            yield name, value
    yield from sorted(fingerprint.packages.items())
