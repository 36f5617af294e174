"""All checks, in the order in which their findings are reported, and all codes that the inspector reports."""

from __future__ import annotations

import json
import pkgutil
from collections.abc import Collection, Iterator
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

from harness.definitions.causes import CHECKS_GROUP, INSPECTOR_CODES
from harness.errors import InvalidCaseError
from harness.inspector.checks.registration import Check, check, registered
from harness.inspector.context import Context
from harness.records.inspection import InspectionFinding


@check(
    "files",
    cost="header",
    order=10,
    # Reading yields these findings before any check runs: headers, indexes, configurations, components.
    codes=(
        *(
            "header_invalid",
            "html_page",
            "lfs_pointer",
            "pickle_file",
            "other_file",
            "not_a_transformer",
            "source_failed",
            "download_unfinished",
        ),
        *("index_invalid", "index_stale", "unindexed_tensors", "shard_missing", "duplicate_tensors"),
        *("config_invalid", "declarations_differ", "layers_unmatched", "weights_missing"),
        *("component_missing", "component_broken", "component_unscaled", "component_mismatch", "component_differs"),
        *("config_differs", "config_key_added"),
    ),
)
def files(context: Context) -> Iterator[InspectionFinding]:
    """Return the findings that reading headers, indexes and configurations made."""
    yield from context.reading_findings
    for component in context.experts.values():
        yield from component.findings


def _all_checks() -> tuple[Check, ...]:
    """Import every module of this package, which registers its checks, and sort them."""
    package = Path(__file__).parent
    for module in pkgutil.iter_modules([str(package)]):
        if module.name not in ("__main__", Path(__file__).stem):
            import_module(f"{__package__}.{module.name}")
    return tuple(sorted(registered.values(), key=lambda item: (item.order, item.name)))


CHECKS: Final = _all_checks()


@cache
def installed_checks() -> tuple[Check, ...]:
    """Return the checks of other distributions, by rising order.

    Raises:
        InvalidCaseError: an entry point cannot be loaded, or its function is no check with the code of its name.
    """
    checks: dict[str, Check] = {}
    for point in sorted(entry_points(group=CHECKS_GROUP), key=lambda point: point.name):
        package = point.dist.name if point.dist else "an unknown package"
        label = f"check {point.name} of {package} ({point.value})"
        try:
            function = point.load()
        except Exception as error:  # any fault of a plugin's module, named with its package
            remedy = f"repair the entry point of {package} and install it again, or uninstall it"
            raise InvalidCaseError(f"{label} cannot be loaded: {error!r}", remedy=remedy) from error
        item = next((item for item in registered.values() if item.run is function), None)
        if item is None or point.name not in item.codes:
            raise InvalidCaseError(
                f"{label} is no check with the code {point.name!r}",
                remedy=f"decorate it: @check(..., codes=({point.name!r},))",
            )
        checks[item.name] = item
    return tuple(sorted(checks.values(), key=lambda item: (item.order, item.name)))


def run_checks(context: Context, skip: Collection[str] = ()) -> list[InspectionFinding]:
    """Run all checks but those named in ``skip`` (tests remove each of them once) and return their findings.

    Raises:
        InvalidCaseError: see `installed_checks`.
    """
    findings: list[InspectionFinding] = []
    for item in sorted((*CHECKS, *installed_checks()), key=lambda item: (item.order, item.name)):
        if item.name not in skip:
            findings += item.run(context)
    return findings


def cause_codes() -> tuple[str, ...]:
    """Return all codes that can be the cause of a verdict, sorted."""
    return tuple(sorted({code for item in CHECKS for code in item.codes}))


def all_codes() -> frozenset[str]:
    """Return all codes that the inspector reports, hints included."""
    return frozenset(code for item in CHECKS for code in (*item.codes, *item.notes))


def codes_text() -> str:
    """Return the text of ``harness/definitions/inspector_codes.json``, the copy that the loader of case files reads.

    The loader runs at every start of pytest; importing the checks would cost it numpy.
    """
    return json.dumps(list(cause_codes()), indent=2) + "\n"


def codes_are_current() -> bool:
    """Return whether the copy holds the codes that are registered."""
    return INSPECTOR_CODES.is_file() and INSPECTOR_CODES.read_text(encoding="utf-8") == codes_text()
