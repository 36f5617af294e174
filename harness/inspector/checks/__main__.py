"""``python -m harness.inspector.checks --write | --check``: the codes of all checks, for the loader of case files."""

from __future__ import annotations

import argparse
import sys

from harness.definitions.causes import INSPECTOR_CODES
from harness.inspector.checks.registry import cause_codes, codes_are_current, codes_text
from harness.records.base import write_text_atomic


def main(arguments: list[str] | None = None) -> int:
    """Write the codes that checks register, or compare the file with them; 1 if it is not current."""
    parser = argparse.ArgumentParser(prog="python -m harness.inspector.checks", description=main.__doc__)
    choice = parser.add_mutually_exclusive_group(required=True)
    choice.add_argument("--write", action="store_true", help="write them")
    choice.add_argument("--check", action="store_true", help="compare the file with them")
    options = parser.parse_args(arguments)
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
