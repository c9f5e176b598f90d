"""Version 0.1 had one flow here."""

raise ImportError(
    "pyrovae.sylvester is now part of pyrovae.flows: write `from pyrovae.flows import Sylvester`."
)
