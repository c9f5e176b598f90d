"""The conversion of features between the units of the user's array and those of a model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from pyrovae.errors import InputError


@dataclass(frozen=True, eq=False)
class Scaling:
    """An affine map from the units of X to those of a model, and back.

    For a Gaussian likelihood each feature, or each channel of images, is standardised. For other
    likelihoods the features lie in [0, 1] and stay as they are.

    Attributes:
        offset: the offset of each feature, `(features,)` or `(1,)`.
        scale: the scale of each feature, `(features,)` or `(1,)`.
    """

    offset: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, array: np.ndarray, x_shape: tuple[int, ...], likelihood: str) -> Scaling:
        """Find the scaling that suits the data and the likelihood.

        Args:
            array: the data, `(n, features)`.
            x_shape: the shape of a datum. Images have the shape `(C, H, W)`.
            likelihood: the likelihood's name.
        """
        if likelihood != "gaussian":
            return cls(np.zeros(1), np.ones(1))
        pixels = int(np.prod(x_shape[1:])) if len(x_shape) == 3 else 1
        columns = array.reshape(len(array), -1, pixels).swapaxes(1, 2).reshape(-1, array.shape[1] // pixels)
        with np.errstate(over="ignore", invalid="ignore"):
            scaler = StandardScaler().fit(columns)  # gives constant features the scale 1
        if not (np.isfinite(scaler.mean_).all() and np.isfinite(scaler.var_).all()):
            raise _too_large(array)
        return cls(scaler.mean_.repeat(pixels), scaler.scale_.repeat(pixels))

    def transform(self, array: np.ndarray) -> Tensor:
        """Convert data `(n, features)` to the model's units, in 32-bit floating point.

        Raises:
            InputError: values are too large for that.
        """
        with np.errstate(over="ignore"):
            scaled = ((array - self.offset) / self.scale).astype(np.float32)
        if not np.isfinite(scaled).all():
            raise _too_large(array)
        return torch.from_numpy(scaled)

    def inverse_transform(self, array: np.ndarray) -> np.ndarray:
        """Convert data that a model has generated, `(n, features)`, to the units of X."""
        return array * self.scale + self.offset


def _too_large(array: np.ndarray) -> InputError:
    return InputError(
        f"X holds values as large as {np.abs(array).max():.3g}, too large for the model's 32-bit numbers: "
        "divide the features by a constant."
    )
