"""Estimators of a density p(x): what they share, whether they are trained or fitted in closed form."""

from __future__ import annotations

import copy
from typing import Any, Self, cast

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.sparse import issparse
from torch import Tensor

from pyrovae.data.checks import OBSERVED
from pyrovae.errors import InputError
from pyrovae.evaluation import impute, marginal_likelihood
from pyrovae.generation import images_of, latent_codes, only_site, samples
from pyrovae.models import PPCA
from pyrovae.recipes import ppca
from pyrovae.recipes.presentation import Presentation
from pyrovae.sklearn import inputs
from pyrovae.sklearn.base import Part, RandomState, RecipeEstimator, seed_of
from pyrovae.sklearn.inputs import Rows
from pyrovae.sklearn.parameters import WITHOUT_CLASSES, plain


class Density(RecipeEstimator):
    """An estimator of p(x). A subclass defines `_fit_model` and `_log_px`."""

    _takes_missing = True
    _takes_sparse = True

    def fit(self, X: ArrayLike, y: object = None, sample_weight: ArrayLike | None = None) -> Self:
        """Fit the density.

        The estimator takes over the results at the end. If `fit` is interrupted, it stays as it was.

        Args:
            X: data, `(n, features)` or `(n, C, H, W)`. NaN marks a missing value.
            y: not used.
            sample_weight: the weight of each datum, `(n,)`, at least 0. Data of weight 0 are left out. None
                means equal weights.

        Raises:
            InputError: data or parameters do not fit. It is a ValueError.
        """
        fresh = copy.copy(self)
        fresh._fit(X, sample_weight)
        return self._take_over(fresh)

    def _fit(self, X: ArrayLike, sample_weight: ArrayLike | None) -> tuple[Rows, np.ndarray | None]:
        """Fit the model, and return the data that have a weight above 0, with their weights."""
        rows = self._validated(X, reset=True)
        weight = inputs.weight_of(rows, sample_weight)
        kept = inputs.kept_by(weight)
        rows, weight = rows[kept], None if weight is None else weight[kept]
        self._seed = seed_of(self.random_state)
        self._fit_model(rows, weight)
        return rows, weight

    def _fit_model(self, rows: Rows, weight: np.ndarray | None) -> None:
        raise NotImplementedError

    def _log_px(self, model: Any, part: Part) -> Tensor:
        """Return log p(x) and its standard error, `(B, 2)` in 64-bit."""
        raise NotImplementedError

    def _imputed(self, model: Any, part: Part) -> Tensor:
        """Return the mean and the standard deviation of missing values, `(B, 2, *x_shape)`."""
        raise NotImplementedError

    def score_samples(
        self, X: ArrayLike, return_std_error: bool = False
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Return log p(x) of each datum, in nats; where values are missing, that of the observed ones.

        Args:
            X: data, `(n, features)` or `(n, C, H, W)`. NaN marks a missing value.
            return_std_error: return the standard error of the estimates too, which is 0 where they are
                exact.

        Returns:
            log p(x), `(n,)` float64; with `return_std_error` also its standard error, `(n,)`.
        """
        fitted = self._fitted()
        log_px, std_error = fitted._scores(fitted._validated(X)).T
        return (log_px, std_error) if return_std_error else log_px

    def score(self, X: ArrayLike, y: object = None) -> float:
        """Return the mean of log p(x) over the data, in nats per datum.

        Args:
            X: data, `(n, features)` or `(n, C, H, W)`. NaN marks a missing value.
            y: not used.
        """
        fitted = self._fitted()
        return float(fitted._scores(fitted._validated(X))[:, 0].mean())

    def sample(self, n_samples: int = 1, random_state: RandomState = None, mean: bool = False) -> Any:
        """Draw data from the model, in the shape and units of the X that `fit` was given.

        Args:
            n_samples: the number of draws.
            random_state: the seed of the draws. None means the estimator's own.
            mean: return E[x | z] for draws of z in the place of draws of x.

        Returns:
            The draws, `(n_samples, features)` or `(n_samples, C, H, W)`: an array, or the data frame for
            which `set_output` asks.
        """
        fitted = self._fitted()
        seed = seed_of(fitted.random_state if random_state is None else random_state)
        with fitted._on_device() as model:
            drawn = fitted._array(only_site(samples(model, n_samples, seed, mean=mean)))
        return fitted._framed(drawn)

    def _scores(self, rows: Rows) -> np.ndarray:
        """Return log p(x) and its standard error, `(n, 2)`."""
        return self._by_parts(rows, self._log_px).numpy()


class TrainedDensity(Density):
    """A density without classes that is trained by the plan of its recipe."""

    model: str
    num_samples: int

    def _fit_model(self, rows: Rows, weight: np.ndarray | None) -> None:
        settings = WITHOUT_CLASSES.settings(self, likelihood=self._suitable_likelihood(rows))
        given = {}
        if issparse(rows):
            x: Any = inputs.SparseRows(rows, self._x_shape)
        elif (missing := np.isnan(rows)).any():
            given = {OBSERVED: torch.from_numpy(~missing).unflatten(1, self._x_shape)}
            x = self._tensor(inputs.completed(rows, self._column_names))
        else:
            x = self._tensor(rows)
        self._train(settings, self._about(), x, given=given, weight=weight)

    def _log_px(self, model: Any, part: Part) -> Tensor:
        x = self._presentation.fixed(part.x)
        count, seed = self.num_samples, part.seed
        found = marginal_likelihood(model, x, given=part.given, num_samples=count, bounds=(), seed=seed)
        return torch.stack([found.log_px, found.std_error], 1)

    def _imputed(self, model: Any, part: Part) -> Tensor:
        x, observed = self._presentation.fixed(part.x), part.given[OBSERVED]
        found = impute(model, x, observed, num_samples=self.num_samples, seed=part.seed)
        return torch.stack([self._presentation.shown(found.x), self._presentation.shown(found.std)], 1)


class ClosedFormPPCA(Density):
    """Probabilistic PCA in 64-bit, whose maximum-likelihood fit, density and posterior are known."""

    latent_dim: int
    standardise: bool
    device = "cpu"
    _presentation = Presentation("none")
    _dtype = np.float64

    def _fit_model(self, rows: Rows, weight: np.ndarray | None) -> None:
        if not issparse(rows) and np.isnan(rows).any():
            raise InputError(
                "X has missing values, and the closed form of PPCA needs all values: fit it to complete "
                "data, or fit a VAETransformer. Missing values may stand in the X of other methods."
            )
        plan = ppca(self._about(), latent_dim=plain(self.latent_dim), standardise=plain(self.standardise))
        n_samples, n_features = rows.shape
        if plan.options["latent_dim"] >= min(n_features, n_samples - 1):
            raise InputError(
                f"latent_dim is {self.latent_dim}, but n_samples = {n_samples} and n_features = "
                f"{n_features}: nothing is left for the noise. Choose a latent_dim below n_features and "
                "below n_samples - 1."
            )
        if issparse(rows) or weight is not None:
            rows = inputs.with_same_moments(rows, weight)
        self.model_ = cast(PPCA, plan.pair).double().eval()
        self.model_.fit_closed_form(self._tensor(rows))
        _turn_like_pca(self.model_)

    def _log_px(self, model: Any, part: Part) -> Tensor:
        log_px = model.log_evidence(part.x, part.given.get(OBSERVED))
        return torch.stack([log_px, torch.zeros_like(log_px)], 1).detach()

    def _imputed(self, model: Any, part: Part) -> Tensor:
        mean = only_site(images_of(model, latent_codes(model, part.x, given=part.given)))
        posterior = model.exact_posterior(part.x, part.given[OBSERVED])
        variance = (model.weight @ posterior.scale_tril).square().sum(-1) + model.variance
        std = variance.sqrt().view(part.x.shape)
        if model.standardisation is not None:
            std = std * model.standardisation.scale
        return torch.stack([mean, std], 1).detach()


@torch.no_grad()
def _turn_like_pca(model: PPCA) -> None:
    """Give each column of W the sign that scikit-learn's PCA gives: its largest entry is above 0."""
    largest = model.weight.gather(0, model.weight.abs().argmax(0, keepdim=True))
    model.weight.mul_(largest.sign())
    model.set_guide_to_exact_posterior()
