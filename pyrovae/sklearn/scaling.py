"""The units of features: those of the user's array, and those that a model is given."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from pyrovae import data


@dataclass(frozen=True, eq=False)
class Scaling:
    """An affine map from the units of X to those of a model, and back.

    For a Gaussian likelihood each feature is standardised; in images each channel is. For other likelihoods
    the features lie in [0, 1] and stay as they are.

    Attributes:
        likelihood: the likelihood's name.
        offset: the offset of each feature, `(features,)` or `(1,)`.
        scale: the scale of each feature, `(features,)` or `(1,)`.
    """

    likelihood: str
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
            return cls(likelihood, np.zeros(1), np.ones(1))
        pixels = int(np.prod(x_shape[1:])) if len(x_shape) == 3 else 1
        columns = array.reshape(len(array), -1, pixels).swapaxes(1, 2).reshape(-1, array.shape[1] // pixels)
        scaler = StandardScaler().fit(columns)  # gives constant features the scale 1
        return cls(likelihood, scaler.mean_.repeat(pixels), scaler.scale_.repeat(pixels))

    def transform(self, array: np.ndarray) -> Tensor:
        """Convert data `(n, features)` to the model's units, in 32-bit floating point.

        For a categorical likelihood they become the levels 0, 1, ..., 255.
        """
        x = torch.from_numpy(((array - self.offset) / self.scale).astype(np.float32))
        return data.to_levels(x) if self.likelihood == "categorical" else x

    def inverse_transform(self, array: np.ndarray) -> np.ndarray:
        """Convert what a model generates, `(n, features)`, to the units of X.

        The images that a categorical likelihood generates already are grey values in [0, 1].
        """
        return array * self.scale + self.offset
