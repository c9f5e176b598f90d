"""What all estimators share: checks of X, the training of a recipe's plan, devices and threads."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy.sparse import issparse
from sklearn.utils import Tags, check_random_state
from sklearn.utils._set_output import ADAPTERS_MANAGER, _get_output_config
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from pyrovae.compute.devices import resolve_device
from pyrovae.compute.turns import alone
from pyrovae.data.checks import OBSERVED
from pyrovae.errors import InputError, check_choice
from pyrovae.likelihoods.table import LIKELIHOODS
from pyrovae.recipes import About, Data, Training
from pyrovae.recipes.about import ROUNDING
from pyrovae.recipes.fitting import Fitted
from pyrovae.sklearn import inputs
from pyrovae.sklearn.inputs import Rows
from pyrovae.sklearn.parameters import Settings
from pyrovae.sklearn.pickles import KeepsVersion

RandomState = int | np.random.RandomState | None


class Part(NamedTuple):
    """Some of the data, as a fitted model takes them.

    Attributes:
        x: the data, `(B, *x_shape)`, with 0 in the place of missing values.
        given: what the programs get beside them, such as the mask of observed values.
        seed: the seed of random draws for these data.
    """

    x: Tensor
    given: Mapping[str, Tensor]
    seed: int


class RecipeEstimator(KeepsVersion):
    """The base of estimators that train the plan of a recipe.

    A subclass says with `_takes_missing` whether NaN in X marks a missing value, and with `_takes_sparse`
    whether X may be sparse. `_dtype` is the type of the model's numbers.
    """

    device: str
    random_state: RandomState
    likelihood: str
    verbose: bool
    model_: Any
    _seed: int
    _takes_missing = False
    _takes_sparse = False
    _dtype: type[np.floating[Any]] = np.float32

    def _fitted(self) -> Self:
        """Return the results of one `fit`, which do not change while another thread fits anew."""
        check_is_fitted(self)
        return copy.copy(self)

    def _take_over(self, fresh: Self) -> Self:
        """Take over the results of a `fit` that has ended. One that is interrupted leaves no trace."""
        self.__dict__ = fresh.__dict__
        return self

    # Data

    def _validated(self, X: ArrayLike, reset: bool = False) -> Rows:
        """Check X by scikit-learn's rules and flatten it to `(n, features)`. `fit` resets the shape."""
        X = inputs.as_array(X, self._takes_missing)
        given_shape = inputs.shape_of_datum(X)
        rows = validate_data(
            self,
            inputs.flat(X),
            reset=reset,
            dtype=[np.float64, np.float32],
            accept_sparse="csr" if self._takes_sparse else False,
            ensure_all_finite="allow-nan" if self._takes_missing else True,
        )
        if issparse(rows) and np.isnan(rows.data).any():
            raise InputError(
                "X is sparse and has NaN. NaN marks missing values in dense data only: give X.toarray()."
            )
        if reset:
            self._set_shape(given_shape, rows.shape[1])
        elif len(given_shape) > 1 and given_shape not in (self._x_shape, self._given_shape):
            raise InputError(
                f"a datum of X has shape {given_shape}; it must have the shape of the training "
                f"data, {self._x_shape}."
            )
        return rows

    def _set_shape(self, given_shape: tuple[int, ...], num_features: int) -> None:
        self._given_shape = given_shape
        image_shape = getattr(self, "image_shape", None)
        self._x_shape = tuple(given_shape if image_shape is None else map(int, image_shape))
        if math.prod(self._x_shape) != num_features:
            raise InputError(
                f"image_shape is {self._x_shape}, but a datum of X has shape {self._given_shape}: "
                f"its {num_features} values must be C * H * W."
            )

    def _suitable_likelihood(self, rows: Rows) -> str:
        """Return the name of the likelihood that the user has chosen, or else one that the data allow."""
        chosen: str = self.likelihood
        check_choice("likelihood", chosen, LIKELIHOODS)
        if chosen != "auto":
            return chosen
        low, high = inputs.bounds_of(rows)
        return "bernoulli" if low >= -ROUNDING and high <= 1 + ROUNDING else "gaussian"

    def _tensor(self, array: np.ndarray) -> Tensor:
        """Convert dense data `(n, features)` without missing values to `(n, *x_shape)`."""
        values = np.require(array, self._dtype, ["C", "W"])  # a copy, if the user's array is read only
        return torch.from_numpy(values).unflatten(1, self._x_shape)

    def _array(self, x: Tensor) -> np.ndarray:
        """Convert data that a model has generated to the shape of the X that `fit` was given."""
        return x.numpy().reshape(len(x), *self._given_shape)

    def _framed(self, values: np.ndarray, like: object = None) -> Any:
        """Return data with the names of the features where the user wants a frame; else the array.

        Args:
            values: the data, in the shape of X.
            like: the X of the call. The data are a frame if it is one of pandas, with its index and
                columns, or if `set_output` or scikit-learn's configuration ask for one.
        """
        if hasattr(like, "iloc"):
            frame: Any = like
            return type(frame)(values, index=frame.index, columns=frame.columns)
        chosen = _get_output_config("transform", self)["dense"]
        if chosen == "default" or values.ndim != 2:
            return values
        names = getattr(self, "feature_names_in_", None)
        return ADAPTERS_MANAGER.adapters[chosen].create_container(values, values, columns=names)

    def _part(self, array: np.ndarray, seed: int = 0) -> Part:
        """Convert dense data `(n, features)` for the fitted model. NaN marks a missing value."""
        given = {}
        if self._takes_missing and (missing := np.isnan(array)).any():
            given = {OBSERVED: torch.from_numpy(~missing).unflatten(1, self._x_shape)}
            array = np.where(missing, 0.0, array)
        return Part(self._presentation.within_range(self._tensor(array), "X"), given, seed)

    def _encoded(self, part: Part) -> Tensor:
        """Return data as the encoder and the classifier take them."""
        return self._presentation.encoded(part.x)

    def _by_parts(self, rows: Rows, function: Callable[[Any, Part], Tensor]) -> Tensor:
        """Apply a function of the model and of dense parts of the data, and join the results."""
        with self._on_device() as model:
            return torch.cat(
                [
                    function(model, self._part(part, self._seed + number))
                    for number, part in enumerate(inputs.parts(rows))
                ]
            )

    # The model

    @property
    def _column_names(self) -> tuple[str, ...]:
        """The names of the features, if X had names in `fit`."""
        return tuple(map(str, getattr(self, "feature_names_in_", ())))

    def _about(self, num_classes: int = 0, unlabelled: bool = True) -> About:
        """Return the facts about the training data, for a recipe."""
        facts = num_classes, unlabelled, self._seed
        return About(self._x_shape, *facts, column_names=self._column_names)

    def _train(
        self,
        settings: Settings,
        about: About,
        x: Any,
        y: Tensor | None = None,
        given: Mapping[str, Tensor] | None = None,
        weight: np.ndarray | None = None,
    ) -> Fitted:
        """Build and train the plan of a recipe, and keep its results."""
        plan = settings.recipe(about, **settings.options)
        fitted = plan.fit(
            x,
            y,
            given=given,
            weight=None if weight is None else torch.as_tensor(weight, dtype=torch.float32),
            training=Training(**settings.training, seed=about.seed),
            data=Data(**settings.data),
            device=self.device,
            progress=bool(self.verbose),
            verdict=False,  # which no estimator shows
        )
        self.history_, self._presentation = fitted.history, fitted.presentation
        self.n_iter_ = len(self.history_.rows)
        self.model_ = fitted.pair.cpu().eval()  # so that a pickle can be read without a GPU
        return fitted

    @contextmanager
    def _on_device(self) -> Iterator[Any]:
        with alone():  # no other thread finds the model on another device
            try:
                yield self.model_.to(resolve_device(self.device))
            finally:
                self.model_.cpu()

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self._takes_missing
        tags.input_tags.sparse = self._takes_sparse
        return tags


def seed_of(random_state: RandomState) -> int:
    """Return a seed for the library: an int itself, so that it means what `--seed` means."""
    if isinstance(random_state, int | np.integer):
        check_random_state(random_state)
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31 - 1))
