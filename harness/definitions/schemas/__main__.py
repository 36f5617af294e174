"""``python -m harness.definitions.schemas --write | --check``."""

from __future__ import annotations

import argparse
import sys

from harness.definitions.schemas import FOLDER, SCHEMAS, stale, text_of
from harness.records.base import write_text_atomic


def main(arguments: list[str] | None = None) -> int:
    """Write the schemas, or print the outdated ones and return 1."""
    parser = argparse.ArgumentParser(prog="python -m harness.definitions.schemas", description=main.__doc__)
    choice = parser.add_mutually_exclusive_group(required=True)
    choice.add_argument("--write", action="store_true", help="generate them from the models")
    choice.add_argument("--check", action="store_true", help="compare them with the models")
    options = parser.parse_args(arguments)
    old = stale()
    if options.write:
        for name in old:
            write_text_atomic(FOLDER / name, text_of(name))
        sys.stdout.write("".join(f"written: {FOLDER / name}\n" for name in old) or "all current\n")
        return 0
    for name in old:
        sys.stderr.write(f"{FOLDER / name}: not what the models say\n")
    if old:
        sys.stderr.write("  next: python -m harness.definitions.schemas --write\n")
        return 1
    sys.stdout.write(f"{len(SCHEMAS)} schemas are current\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
