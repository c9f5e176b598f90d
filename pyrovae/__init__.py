"""Variational autoencoders as probabilistic programs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pyrovae._version import __version__
from pyrovae.diagrams import plate_diagram
from pyrovae.training import fit

if TYPE_CHECKING:
    from pyrovae.sklearn.estimator import SemiSupervisedVAEClassifier

__all__ = ["SemiSupervisedVAEClassifier", "__version__", "fit", "plate_diagram"]


def __getattr__(name: str) -> Any:
    """The estimator on demand: scikit-learn takes a while to import."""
    if name == "SemiSupervisedVAEClassifier":
        from pyrovae.sklearn.estimator import SemiSupervisedVAEClassifier

        return SemiSupervisedVAEClassifier
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
