"""The command line."""

from pyrovae.compute.interrupts import ending_at_once

__all__ = ["main"]


def main() -> None:
    """Run the command line; see `pyrovae.cli.app.main`."""
    with ending_at_once():  # also during the imports, which take seconds
        from pyrovae.cli.app import main as run_program

        run_program()
