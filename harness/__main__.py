"""Run the ``quantgate`` command for ``python -m harness``."""

from harness.cli.app import main

main()
