"""``python -m harness.inspector.checks --list | --write | --check``: checks, and their codes for the case loader."""

from __future__ import annotations

import argparse
import sys

from harness.definitions.causes import INSPECTOR_CODES
from harness.inspector.checks.registry import CHECKS, cause_codes, codes_are_current, codes_text
from harness.records.base import write_text_atomic


def main(arguments: list[str] | None = None) -> int:
    """List the checks, write the codes that they register, or compare the file with them; 1 if it is not current."""
    parser = argparse.ArgumentParser(prog="python -m harness.inspector.checks", description=main.__doc__)
    choice = parser.add_mutually_exclusive_group(required=True)
    choice.add_argument("--list", action="store_true", help="list order, cost, name and codes of each check")
    choice.add_argument("--write", action="store_true", help="write them")
    choice.add_argument("--check", action="store_true", help="compare the file with them")
    options = parser.parse_args(arguments)
    if options.list:
        for item in CHECKS:
            sys.stdout.write(f"{item.order:>6} {item.cost:<7} {item.name:<22} {' '.join((*item.codes, *item.notes))}\n")
        return 0
    if options.write:
        write_text_atomic(INSPECTOR_CODES, codes_text())
    elif not codes_are_current():
        sys.stderr.write(
            f"{INSPECTOR_CODES}: not the codes that the checks register\n"
            "  next: python -m harness.inspector.checks --write\n"
        )
        return 1
    sys.stdout.write(f"{INSPECTOR_CODES.name} holds {len(cause_codes())} codes\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
