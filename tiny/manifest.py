"""The sha256 manifest of the committed weights: `python -m tiny.manifest` checks it, `--write` makes it anew."""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Final

WEIGHTS: Final = Path(__file__).parent / "weights"
MANIFEST: Final = "manifest.json"
#: All committed weights together, in bytes.
LIMIT: Final = 24_000_000


def digests(folder: Path) -> dict[str, dict[str, str | int]]:
    """Size and sha256 of every file below `folder` but the manifest itself, by its path there, sorted."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)
    return {
        path.relative_to(folder).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in files
    }


def write(folder: Path = WEIGHTS) -> None:
    """Writes the manifest beside the files it lists, atomically."""
    target = folder / MANIFEST
    part = target.with_suffix(".part")
    part.write_text(json.dumps({"files": digests(folder)}, indent=2) + "\n")
    part.replace(target)


def check(folder: Path = WEIGHTS) -> list[str]:
    """What is wrong, one sentence each; empty if every file is as listed and the whole is within `LIMIT`."""
    target = folder / MANIFEST
    if not target.exists():
        return [f"{target}: missing; write it with `python -m tiny.manifest --write`"]
    listed, found = json.loads(target.read_text())["files"], digests(folder)
    wrong = [f"{folder / name}: listed in {MANIFEST} but not there" for name in listed.keys() - found.keys()]
    wrong += [f"{folder / name}: not listed in {MANIFEST}" for name in found.keys() - listed.keys()]
    wrong += [
        f"{folder / name}: differs from {MANIFEST}; restore it with `git checkout -- {folder.name}`"
        for name in listed.keys() & found.keys()
        if listed[name] != found[name]
    ]
    total = sum(int(entry["bytes"]) for entry in found.values())
    if total > LIMIT:
        wrong.append(f"{folder}: {total} bytes, more than the {LIMIT} allowed")
    return sorted(wrong)


def main(arguments: list[str] | None = None) -> int:
    """Entry point; exit status 1 if the weights are not as listed."""
    parser = argparse.ArgumentParser(prog="python -m tiny.manifest", description=__doc__)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args(arguments)
    if options.write:
        write(options.weights)
    wrong = check(options.weights)
    for sentence in wrong:
        print(sentence, file=sys.stderr)
    total = sum(int(entry["bytes"]) for entry in digests(options.weights).values())
    print(f"{total / 1e6:.2f} MB, {len(wrong)} problems")
    return int(bool(wrong))


if __name__ == "__main__":
    raise SystemExit(main())
