"""A warning where the noise of a Gaussian likelihood falls towards 0, and log p(x) grows without bound."""

from __future__ import annotations

from torch import Tensor

from pyrovae.errors import warn
from pyrovae.likelihoods import Gaussian
from pyrovae.programs.pair import ModelAndGuide
from pyrovae.programs.reach import modules_of

_SMALL = 0.05  # of the standard deviation of the data


def warn_of_small_noise(pair: ModelAndGuide, x: Tensor) -> None:
    """Warn if a Gaussian likelihood reproduces its data almost exactly.

    log N(x; mean, scale^2) has no upper bound as x - mean and the scale fall to 0. Few data, constant data
    and data without noise let a network get there (Rybkin et al. 2021, section 3.1).

    Args:
        pair: the trained pair.
        x: some of the training data, `(N, *x_shape)`.

    Warns:
        UserWarning: the learned scale is below a twentieth of the standard deviation of the data, or this
            is 0.
    """
    found = {id(m): m for top in modules_of(pair) for m in top.modules() if isinstance(m, Gaussian)}
    for likelihood in found.values():
        if tuple(likelihood.x_shape) != tuple(x.shape[1:]):
            continue
        standardise = getattr(likelihood, "standardisation", None)
        units = x if standardise is None else standardise(x.to(likelihood.log_scale.device))
        spread = float((units - units.mean(0)).square().mean().sqrt())
        scale = float(likelihood.log_scale.detach().exp())
        if scale < _SMALL * spread or not spread:
            share = f", {scale / spread:.1%} of the standard deviation of the data" if spread else ""
            warn(
                f"the noise of the Gaussian likelihood has fallen to {scale:.2g}{share}: the model "
                "reproduces the training data almost exactly, and log p(x) grows without bound. "
                "Compare models on data that they have not learned, give more data, or add noise to data "
                "that are rounded, constant or without noise."
            )
