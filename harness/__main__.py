"""Lets ``python -m harness`` run the ``quantgate`` command."""

from harness.cli.app import main

main()
