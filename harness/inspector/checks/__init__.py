"""Every check of the inspector. A check looks at a filled context and yields findings; it reads no bytes itself."""

from harness.inspector.checks.registry import CHECKS, Check, run_checks

__all__ = ["CHECKS", "Check", "run_checks"]
