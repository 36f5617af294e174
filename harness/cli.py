"""The command line door: parses, calls the session, prints."""


def main() -> None:
    """Run the ``quantgate`` command."""
