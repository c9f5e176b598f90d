"""The latents of a density as features: codes of data, and data of codes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags, check_array
from torch import Tensor

from pyrovae.errors import InputError
from pyrovae.generation import images_of, latent_codes, only_site
from pyrovae.sklearn.base import Part
from pyrovae.sklearn.densities import Density
from pyrovae.sklearn.inputs import Rows


class LatentFeatures(ClassNamePrefixFeaturesOutMixin, TransformerMixin, Density):
    """A density whose latents are the features of data.

    If the model has several latents, the features are those of all, in the order in which the model draws
    them. So `inverse_transform` of them is the reconstruction.
    """

    def _fit(self, X: ArrayLike, sample_weight: ArrayLike | None) -> tuple[Rows, np.ndarray | None]:
        rows, weight = super()._fit(X, sample_weight)
        with self._on_device() as model:
            codes = latent_codes(model, self._tensor(np.zeros((1, self.n_features_in_))))
        self._latent_shapes = {name: tuple(values.shape[1:]) for name, values in codes.items()}
        self._n_features_out = sum(math.prod(shape) for shape in self._latent_shapes.values())
        return rows, weight

    def transform(self, X: ArrayLike) -> np.ndarray:
        """Return the means of the latents given each datum.

        Args:
            X: data, `(n, features)` or `(n, C, H, W)`. NaN marks a missing value.

        Returns:
            The means, `(n, latent_dim)`; those of all levels of a hierarchical VAE, the highest first.
        """
        fitted = self._fitted()
        return fitted._codes(fitted._validated(X)).numpy()

    def inverse_transform(self, X: ArrayLike) -> Any:
        """Return E[x | z], in the shape and units of the X that `fit` was given.

        Args:
            X: latents z, `(n, latent_dim)`, as `transform` returns them.

        Returns:
            The data: an array, or the data frame for which `set_output` asks.

        Raises:
            InputError: a datum has another number of latents.
        """
        fitted = self._fitted()
        codes = check_array(X, dtype=[fitted._dtype], input_name="X")
        if codes.shape[1] != fitted._n_features_out:
            raise InputError(
                f"X has {codes.shape[1]} latents for each datum; expected {fitted._n_features_out}, as "
                "transform returns them."
            )
        return fitted._framed(fitted._decoded(torch.from_numpy(np.array(codes))))

    def reconstruct(self, X: ArrayLike) -> Any:
        """Return E[x | z] at the latents' means given each datum: `inverse_transform(transform(X))`.

        Args:
            X: data, `(n, features)` or `(n, C, H, W)`. NaN marks a missing value.

        Returns:
            The reconstructions, in the shape and units of the X that `fit` was given; a data frame if X is
            one of pandas, or `set_output` asks for one.
        """
        fitted = self._fitted()
        return fitted._framed(fitted._decoded(fitted._codes(fitted._validated(X))), X)

    def impute(self, X: ArrayLike, return_std: bool = False) -> Any:
        """Return the data with E[x_missing | x_observed] in the place of each NaN.

        Args:
            X: data, `(n, features)` or `(n, C, H, W)`, in which NaN marks a missing value.
            return_std: return the standard deviation of p(x_missing | x_observed) too, 0 where a value was
                observed.

        Returns:
            The data in the shape of X, a data frame if X is one of pandas, or `set_output` asks for one;
            with `return_std` also the standard deviations, an array of this shape.
        """
        fitted = self._fitted()
        rows = fitted._validated(X)
        if not isinstance(rows, np.ndarray):
            raise InputError("X is sparse, and a value that it does not hold is 0: give X.toarray().")
        completed, std = rows.copy(), np.zeros_like(rows)
        missing = np.isnan(rows)
        if (some := missing.any(1)).any():
            found = fitted._by_parts(rows[some], fitted._imputed).flatten(2).numpy()
            completed[missing], std[missing] = found[:, 0][missing[some]], found[:, 1][missing[some]]
        completed, std = (values.reshape(np.shape(X)) for values in (completed, std))
        framed = fitted._framed(completed, X)
        return (framed, std) if return_std else framed

    def _codes(self, rows: Rows) -> Tensor:
        """Return the latents' means, `(n, latent_dim)`."""

        def codes(model: Any, part: Part) -> Tensor:
            found = latent_codes(model, self._encoded(part), given=part.given)
            return torch.cat([found[name].flatten(1) for name in self._latent_shapes], 1)

        return self._by_parts(rows, codes)

    def _decoded(self, z: Tensor) -> np.ndarray:
        """Return E[x | z] for all latents together, `(n, latent_dim)`."""
        sizes = [math.prod(shape) for shape in self._latent_shapes.values()]
        parts = zip(self._latent_shapes.items(), z.split(sizes, 1), strict=True)
        codes = {name: values.reshape(len(z), *shape) for (name, shape), values in parts}
        with self._on_device() as model:
            return self._array(only_site(images_of(model, codes)))

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = [np.dtype(self._dtype).name]
        return tags
