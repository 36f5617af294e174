"""Lets ``python -m harness.cli`` run the command."""

from harness.cli.app import main

main()
