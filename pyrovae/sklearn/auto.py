"""The default of the classifier: probabilistic PCA in closed form, and an average of classifiers.

The data choose the units of the features, the number of latents, and the weight of each classifier.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from pyrovae.errors import InputError
from pyrovae.recipes import About, Plan, Stage, recipe
from pyrovae.recipes.components import Count
from pyrovae.semi_supervised import Choice
from pyrovae.sklearn.scaling import Scaling

VARIANCE = 0.95
"""The share of the variance of the data that the latents hold."""

NOISE_FLOOR = 0.01
"""The least variance of the noise, as a share of that along the last latent."""


@recipe(classes=True)
def auto(
    about: About,
    *,
    latent_dim: Count | None = None,
    neighbours: Count = 7,
    learn_class_prior: bool = False,
) -> Plan:
    """Probabilistic PCA, z ~ N(0, I), x ~ N(W z + mu, sigma^2 I), and classifiers of z.

    The estimator fits PPCA in closed form. It then gives `neighbours` and `learn_class_prior` to
    `AveragedClassifier`.

    Args:
        latent_dim: The number of dimensions of z. By default as many as hold 95 % of the variance
            ("auto").
        neighbours: The number of neighbours of each datum in the graph along which labels spread.
        learn_class_prior: Whether the class prior p(y) is learned. Otherwise it is uniform, or for "auto"
            holds the labels' frequencies.
    """
    from pyrovae.models import PPCA

    return Plan([Stage(PPCA(about.x_shape, latent_dim or 1))])


@dataclass(frozen=True)
class Chosen:
    """What the data chose.

    Attributes:
        latent_dim: M, the number of latents of probabilistic PCA.
        num_features: the number of features of a datum.
        classifiers: the weights of the classifiers of latents, and what the labels said of each.
    """

    latent_dim: int
    num_features: int
    classifiers: Choice

    def __str__(self) -> str:
        latents = f"probabilistic PCA: {self.latent_dim} latents of {self.num_features} features"
        return f"{latents}\n{self.classifiers}"


def own_units(array: np.ndarray, x_shape: tuple[int, ...]) -> Scaling:
    """Find the units in which features are compared.

    - The features of images have one unit for each channel.
    - Features with the values 0 and 1 only, such as those of one-hot coding, stay as they are.
    - Other features share one unit if most of them, without the constant ones, have the same least and the
      same greatest value, as pixels have. Their mean variance becomes 1.
    - Otherwise each has the variance 1.

    Args:
        array: the data, `(n, features)`.
        x_shape: the shape of a datum. Images have the shape `(C, H, W)`.
    """
    if len(x_shape) == 3:
        return Scaling.of(array, x_shape, "gaussian")
    scaler = StandardScaler().fit(array)  # gives constant features the scale 1
    scale = scaler.scale_
    binary = ((array == 0) | (array == 1)).all(0)
    others = array[:, (array != array[0]).any(0) & ~binary]
    low, high = others.min(0), others.max(0)
    if others.shape[1] > 1 and ((low == low.min()) & (high == high.max())).mean() > 0.5:
        scale[(array != array[0]).any(0)] = np.sqrt(others.var(0).mean())
    scale[binary] = 1
    return Scaling(scaler.mean_, scale)


def number_of_latents(x: Tensor) -> int:
    """Return the number of principal directions that hold `VARIANCE`.

    Args:
        x: the data, `(n, *x_shape)`.

    Raises:
        InputError: all data are equal.
    """
    rows = x.flatten(1).double().numpy()
    triangle = np.linalg.qr(rows - rows.mean(0), mode="r")
    variances = np.linalg.svd(triangle, compute_uv=False) ** 2
    if not variances.max() > 0:
        raise InputError(
            f"all {len(rows)} data of X are equal (n_samples = {len(rows)}): give data that differ."
        )
    return int((np.cumsum(variances) < VARIANCE * variances.sum()).sum()) + 1
