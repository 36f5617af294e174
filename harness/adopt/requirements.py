"""Requirements of a CI job: `python -m harness.adopt.requirements [--hosted]` prints a file with tested versions.

Plan, merge, report and comment import neither torch nor diffusers, so that a job on a hosted machine installs a tenth
of what a GPU job does; scipy and ruptures are for the trend of times. The wheel itself is installed with ``--no-deps``
before; this module needs the standard library only.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import PackageNotFoundError, requires

from harness.adopt.embedded import constraints_file

HOSTED = frozenset({
    "filelock", "huggingface-hub", "jinja2", "ml-dtypes", "numpy", "nvidia-ml-py", "packaging", "pillow", "pydantic",
    "rich", "ruamel-yaml", "ruptures", "safetensors", "scipy", "typer",
})  # fmt: skip
"""Distributions that the hosted jobs import. A test compares this list with the imports of the commands."""
_NAME = re.compile(r"[A-Za-z0-9._-]+")


def lines(*, hosted: bool) -> list[str]:
    """Return the lines of a requirements file: the dependencies in the metadata of quantgate, and the tested versions.

    Args:
        hosted: only the distributions that jobs on hosted machines import.

    Raises:
        PackageNotFoundError: quantgate is not installed.
    """
    requirements = [text for text in requires("quantgate") or () if "extra ==" not in text]
    if hosted:
        requirements = [text for text in requirements if _canonical(text) in HOSTED]
    constraints = constraints_file()
    return [*([f"-c {constraints.as_uri()}"] if constraints else []), *sorted(requirements)]


def _canonical(requirement: str) -> str:
    match = _NAME.match(requirement)
    return re.sub(r"[-_.]+", "-", match[0]).lower() if match else ""


def main(arguments: list[str]) -> int:
    """Print the lines; exit status 2 for an unknown option or where quantgate is not installed."""
    if set(arguments) - {"--hosted"}:
        sys.stderr.write("usage: python -m harness.adopt.requirements [--hosted]\n")
        return 2
    try:
        requirements = lines(hosted="--hosted" in arguments)
    except PackageNotFoundError:
        sys.stderr.write("quantgate is not installed here\n  next: python -m pip install --no-deps quantgate\n")
        return 2
    sys.stdout.write("\n".join(requirements) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
