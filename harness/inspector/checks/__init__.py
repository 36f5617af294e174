"""All checks of the inspector. A check reads a filled context and yields findings; it reads no file itself."""

from harness.inspector.checks.registration import Check, check
from harness.inspector.checks.registry import CHECKS, run_checks

__all__ = ["CHECKS", "Check", "check", "run_checks"]
