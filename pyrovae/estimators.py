"""Version 0.1 had three objectives here."""

raise ImportError(
    "pyrovae.estimators is now part of pyrovae.objectives: write `from pyrovae.objectives import IWAE, "
    "FreeBits, ScoreFunctionELBO`. The estimators for scikit-learn are in pyrovae.sklearn."
)
