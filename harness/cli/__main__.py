"""Run the ``quantgate`` command for ``python -m harness.cli``."""

from harness.cli.app import main

main()
