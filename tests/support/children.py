"""The environment of commands that tests start."""

from __future__ import annotations

import os

# the plugins of the test tools take longer to import than everything of ours, and no case needs them
WITHOUT_TEST_TOOLS = "-p no:hypothesispytest -p no:anyio"


def child_environment(*without: str, **more: str) -> dict[str, str]:
    """Return this process's environment, as a command has it that no test has started.

    Args:
        without: prefixes of further variables that are left out.
        more: variables that are added or replaced.
    """
    prefixes = ("PYTEST", *without)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}
    return {**kept, "PYTEST_ADDOPTS": WITHOUT_TEST_TOOLS, **more}
