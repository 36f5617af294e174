"""Make text fit for pytest's output: no secrets, no control characters, no commands to GitHub Actions."""

from __future__ import annotations

from harness.harmless import harmless
from harness.redaction import safe_text


def printable(text: str) -> str:
    """Return ``text`` as pytest may print it, or write it into JUnit."""
    return harmless(safe_text(text))
