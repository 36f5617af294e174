"""Where this quantgate came from, as `quantgate init` writes it into a workflow: repository, commit, requirement."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, distribution
from typing import NamedTuple

from harness import __version__
from harness.errors import InvalidCaseError
from harness.reading import parse_object

UNKNOWN = "OWNER/quantgate"
"""Placeholder for an unknown repository; `quantgate init` prints that it has to be replaced."""
_STATED = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*/[A-Za-z0-9_.-]+)@([A-Za-z0-9_./-]+)")
_GITHUB = re.compile(r"https://github\.com/([A-Za-z0-9][A-Za-z0-9-]*/[A-Za-z0-9_.-]+?)(?:\.git)?/?")


class Source(NamedTuple):
    """A pinned quantgate."""

    repository: str
    """``owner/name`` on GitHub, of which the reusable workflow is called."""
    ref: str
    """Commit or tag."""
    requirement: str
    """Requirement that pip installs."""

    @property
    def is_known(self) -> bool:
        """Whether the workflow can run as it is written."""
        return self.repository != UNKNOWN


def source_of(stated: str = "") -> Source:
    """Find out where quantgate was installed from.

    Args:
        stated: ``owner/name@commit``; empty: what pip noted (PEP 610) of an installation from git on GitHub, else the
            version, of an unknown repository.

    Raises:
        InvalidCaseError: ``stated`` is no ``owner/name@commit``.
    """
    if stated:
        match = _STATED.fullmatch(stated)
        if match is None:
            raise InvalidCaseError(
                f"{stated!r} is no owner/name@commit", place="--source", remedy="--source owner/quantgate@<full commit>"
            )
        return _from_git(match[1], match[2])
    try:
        noted = parse_object(distribution("quantgate").read_text("direct_url.json") or "{}", "direct_url.json")
    except (PackageNotFoundError, ValueError):
        noted = {}
    url, commit = str(noted.get("url", "")), str(noted.get("vcs_info", {}).get("commit_id", ""))
    match = _GITHUB.fullmatch(url.removeprefix("git+"))
    if match is not None and re.fullmatch(r"[0-9a-f]{40}", commit):
        return _from_git(match[1], commit)
    return Source(UNKNOWN, f"v{__version__}", f"quantgate=={__version__}")


def _from_git(repository: str, ref: str) -> Source:
    return Source(repository, ref, f"quantgate @ git+https://github.com/{repository}@{ref}")
