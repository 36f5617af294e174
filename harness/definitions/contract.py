"""A runtime that a checkpoint is deployed to, written ``sglang==0.5.23``."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from packaging.version import InvalidVersion, Version

_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?")


class Contract(NamedTuple):
    """A runtime at one version. Its assumptions are known per version, so a range of versions is no contract."""

    runtime: str
    version: Version

    def __str__(self) -> str:
        return f"{self.runtime}=={self.version}"


def parse_contract(text: str) -> Contract:
    """Read ``runtime==version``.

    Raises:
        ValueError: the text is not of that form, or the version is not valid by PEP 440.
    """
    runtime, mark, version = text.partition("==")
    if not mark or not _NAME.fullmatch(runtime):
        raise ValueError(f"{text!r} is not of the form runtime==version, such as sglang==0.5.23")
    try:
        return Contract(runtime, Version(version))
    except InvalidVersion:
        raise ValueError(f"{version!r} is not one version of {runtime} (PEP 440), such as 0.5.23") from None
