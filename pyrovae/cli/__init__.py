"""The command line."""

from pyrovae.cli.app import main

__all__ = ["main"]
