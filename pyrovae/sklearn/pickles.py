"""Pickles of estimators, which tell the version of pyrovae that wrote them."""

from __future__ import annotations

from typing import Any

from sklearn.base import BaseEstimator

from pyrovae._version import __version__
from pyrovae.errors import warn

_KEY = "_pyrovae_version"


class KeepsVersion(BaseEstimator):
    """An estimator that warns if another version of pyrovae pickled it, as scikit-learn's own ones do."""

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), _KEY: __version__}

    def __setstate__(self, state: dict[str, Any]) -> None:
        written = state.get(_KEY, "an earlier version")
        if written != __version__:
            warn(
                f"this {type(self).__name__} was pickled by pyrovae {written}, and is read by "
                f"{__version__}: its results may differ, or it may fail. Fit it again, or use that version."
            )
        super().__setstate__({name: value for name, value in state.items() if name != _KEY})
