"""A scikit-learn classifier that learns from few labels, by the recipes of models with classes."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import ClassifierMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.metrics import accuracy_score
from sklearn.utils import Tags, check_consistent_length, check_random_state
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from pyrovae.compute.devices import resolve_device
from pyrovae.compute.turns import alone
from pyrovae.data.arrays import unmasked
from pyrovae.data.checks import UNLABELLED
from pyrovae.errors import InputError, check_choice
from pyrovae.evaluation import class_probabilities
from pyrovae.generation import latent_means, only_site, sample_images, samples_of_classes
from pyrovae.likelihoods.table import LIKELIHOODS
from pyrovae.recipes import About, Data, Training
from pyrovae.semi_supervised import fit_m1_classifier, m1_probabilities
from pyrovae.sklearn.labels import codes_of, encode_labels, given_labels
from pyrovae.sklearn.parameters import Settings, documents_options, given_options, takes_options
from pyrovae.sklearn.pickles import KeepsVersion
from pyrovae.sklearn.scaling import Scaling

WITHOUT_PROBABILITIES = ("linear-svm", "rbf-svm")
"""The classifiers of M1 that have no `predict_proba`."""


def _gives_probabilities(estimator: SemiSupervisedVAEClassifier) -> bool:
    return estimator.model != "m1" or estimator.m1_classifier not in WITHOUT_PROBABILITIES


@documents_options
class SemiSupervisedVAEClassifier(
    ClassNamePrefixFeaturesOutMixin, ClassifierMixin, TransformerMixin, KeepsVersion
):
    """A classifier that learns from few labels and many data, with a VAE and classes.

    The models are M1, M2 and M1+M2 (Kingma et al. 2014), and PC-VAE and CPC-VAE (Hope et al. 2020). By
    default labels first spread to unlabelled data over the latents of a VAE that is trained on all data
    (`pyrovae.semi_supervised.spread_labels`). The model then learns from the spread labels.

    The label -1 means "unlabelled", as in `sklearn.semi_supervised`. None, NaN and the string "-1", which
    NumPy makes of a mixed list, mean the same. All other values, strings or numbers, are classes. The
    classifier knows the classes that have at least one label, and predicts no others.

    All parameters from `latent_dim` on are options of the models, read from their recipes
    (`pyrovae.recipes`). None means the model's own default. `fit` refuses an option that the chosen
    model lacks, unless it is None.

    Args:
        model: "m1", "m2", "m1m2", "pcvae" or "cpcvae".
        likelihood: the likelihood p(x | z). "bernoulli" takes X in [0, 1] and draws each value to be 0 or 1
            afresh in every minibatch; "continuous-bernoulli" and "categorical" take X in [0, 1];
            "gaussian" takes X in any units and standardises each feature or, in images, each channel.
            "auto" is "bernoulli" if X lies in [0, 1], else "gaussian".
        image_shape: the shape (C, H, W) of the images in flat data (n, C * H * W). It is not needed for
            data of shape (n, C, H, W).
        device: the device that trains and runs the model. "auto" means CUDA if it is available, else the
            CPU.
        random_state: the seed of all random draws. An int makes `fit` reproducible. Global random
            states are not changed.
        verbose: whether to show progress bars.
        {options}

    Attributes:
        classes_: the classes, sorted, `(C,)`.
        model_: the trained model, an `nn.Module` with its programs `model` and `guide`, on the CPU. It
            takes features as 32-bit tensors, standardised for a Gaussian likelihood.
        classifier_: the scikit-learn classifier of M1's latent means. None for the other models.
        history_: the `History` of the training of `model_`. For M1+M2 it is that of the upper part.
        transduction_: a class for each training datum, `(n,)`: the given one, or else the predicted one.
        n_iter_: the number of epochs in `history_`.
        n_features_in_: the number of features of a datum, C * H * W for images.
        feature_names_in_: the names of the features, if X has names.

    Example:
        >>> import numpy as np
        >>> from sklearn.datasets import load_digits
        >>> from pyrovae import SemiSupervisedVAEClassifier
        >>> X, y = load_digits(return_X_y=True)
        >>> few = np.where(np.arange(len(y)) < 150, y, -1)
        >>> classifier = SemiSupervisedVAEClassifier("pcvae", epochs=2, vae_epochs=2, random_state=0)
        >>> classifier.fit(X / 16, few).transduction_.shape
        (1797,)
        >>> classifier.sample(3, y=7).shape
        (3, 64)
    """

    @takes_options
    def __init__(
        self,
        model: str = "m2",
        *,
        likelihood: str = "auto",
        image_shape: Sequence[int] | None = None,
        device: str = "auto",
        random_state: int | np.random.RandomState | None = None,
        verbose: bool = False,
        **options: Any,
    ) -> None:
        self.model = model
        self.likelihood = likelihood
        self.image_shape = image_shape
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X: ArrayLike, y: ArrayLike) -> SemiSupervisedVAEClassifier:
        """Train on all data and on the given labels.

        The estimator takes over the results at the end. If the training is interrupted, it stays as it was.

        Args:
            X: data, `(n, features)` or `(n, C, H, W)`.
            y: labels, `(n,)`, -1 for unlabelled data.

        Raises:
            InputError: data, labels or parameters do not fit. It is a ValueError.
        """
        fresh = copy.copy(self)
        fresh._fit(X, y)
        self.__dict__ = fresh.__dict__
        return self

    def _fit(self, X: ArrayLike, y: ArrayLike) -> None:
        array = self._validated(X, reset=True)
        self.classes_, codes = encode_labels(y, len(array))
        likelihood = self._suitable_likelihood(array)
        settings = Settings.of(self.model, given_options(self) | {"likelihood": likelihood})
        self._scaling = Scaling.of(array, self._x_shape, likelihood)
        self._train(settings, self._scaling.transform(array).unflatten(1, self._x_shape), codes)
        self.n_iter_ = len(self.history_.rows)
        self.transduction_ = self.classes_[codes.numpy()]
        if (unlabelled := codes.numpy() == UNLABELLED).any():
            self.transduction_[unlabelled] = self._predict(array[unlabelled])

    def _fitted(self) -> SemiSupervisedVAEClassifier:
        """Return the results of one `fit`, which do not change while another thread fits anew."""
        check_is_fitted(self)
        return copy.copy(self)

    def _train(self, settings: Settings, x: Tensor, y: Tensor) -> None:
        """Train the plan of the model's recipe, and M1's classifier on the latents."""
        seed = _seed(self.random_state)
        unlabelled = bool((y == UNLABELLED).any())
        about = About(self._x_shape, len(self.classes_), unlabelled, seed)
        plan = settings.recipe(about, **settings.options)
        fitted = plan.fit(
            x,
            y,
            training=Training(**settings.training, seed=seed),
            data=Data(**settings.data, split_seed=seed),
            device=self.device,
            progress=bool(self.verbose),
        )
        self.history_, self._presentation = fitted.history, fitted.presentation
        self._n_features_out = plan.options["latent_dim"]
        self.classifier_ = None
        if self.model == "m1":
            z = latent_means(fitted.pair, self._presentation.encoded(x)).numpy()
            name, neighbours = plan.options["m1_classifier"], plan.options["neighbours"]
            self.classifier_ = fit_m1_classifier(name, z, y.numpy(), neighbours)
        self.model_ = fitted.pair.cpu().eval()  # so that a pickle can be read without a GPU

    def predict(self, X: ArrayLike) -> np.ndarray:
        """Predict the most probable class of each datum.

        Args:
            X: data, `(n, features)` or `(n, C, H, W)`.

        Returns:
            The classes, `(n,)`.
        """
        fitted = self._fitted()
        return fitted._predict(fitted._validated(X))

    @available_if(_gives_probabilities)
    def predict_proba(self, X: ArrayLike) -> np.ndarray:
        """Compute the probabilities of the classes. M1 with an SVM has none.

        Args:
            X: data, `(n, features)` or `(n, C, H, W)`.

        Returns:
            The probabilities, `(n, C)` float32, in the order of `classes_`.
        """
        fitted = self._fitted()
        return fitted._probabilities(fitted._validated(X))

    def transform(self, X: ArrayLike) -> np.ndarray:
        """Compute the posterior mean of z for each datum, or of z1 for M1+M2.

        Args:
            X: data, `(n, features)` or `(n, C, H, W)`.

        Returns:
            The means, `(n, latent_dim)` float32.
        """
        fitted = self._fitted()
        return fitted._latent_means(fitted._events(fitted._validated(X)))

    def score(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Compute the accuracy on the labelled data. Unlabelled data are left out.

        Args:
            X: data, `(n, features)` or `(n, C, H, W)`.
            y: labels, `(n,)`, -1 for unlabelled data.
            sample_weight: the weight of each datum, `(n,)`. None means equal weights.

        Raises:
            InputError: no datum is labelled.
        """
        fitted = self._fitted()
        array = fitted._validated(X)
        labels, given = given_labels(y, len(array))
        if not given.any():
            raise InputError("no datum of y is labelled, but the score needs labels: give at least one.")
        check_consistent_length(array, sample_weight)
        weights = None if sample_weight is None else np.asarray(sample_weight)[given]
        return float(accuracy_score(labels, fitted._predict(array[given]), sample_weight=weights))

    def sample(
        self,
        n_samples: int = 1,
        y: Any = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> np.ndarray:
        """Generate data: E[x | z] for draws of z, in the shape and units of the X that `fit` was given.

        Args:
            n_samples: the number of samples.
            y: one class for all samples, or one for each, `(n_samples,)`. None means any class.
            random_state: the seed of the draws. None means the estimator's own.

        Returns:
            The samples, `(n_samples, features)` or `(n_samples, C, H, W)`.

        Raises:
            InputError: a class is not known, or the model is an M1, which generates data without classes.
        """
        fitted = self._fitted()
        seed = _seed(self.random_state if random_state is None else random_state)
        if y is not None and fitted.classifier_ is not None:
            raise InputError("the model 'm1' generates data without classes: leave y out, or choose 'm2'.")
        codes = None if y is None else codes_of(y, fitted.classes_, n_samples)
        with fitted._on_device() as model:
            if codes is None:
                x = only_site(sample_images(model, n_samples, seed))
            else:
                x = only_site(samples_of_classes(model, codes, seed=seed))
        samples = fitted._scaling.inverse_transform(x.flatten(1).numpy())
        return samples.reshape(len(x), *fitted._given_shape)

    def _predict(self, array: np.ndarray) -> np.ndarray:
        if self.classifier_ is not None and not hasattr(self.classifier_, "predict_proba"):
            return self.classes_[self.classifier_.predict(self._latent_means(self._events(array)))]
        return self.classes_[self._probabilities(array).argmax(1)]

    def _probabilities(self, array: np.ndarray) -> np.ndarray:
        x = self._events(array)
        if self.classifier_ is not None:
            return m1_probabilities(self.classifier_, self._latent_means(x))
        with self._on_device() as model:
            return class_probabilities(model, x).numpy()

    def _latent_means(self, x: Tensor) -> np.ndarray:
        with self._on_device() as model:
            return latent_means(model, x).numpy()

    @contextmanager
    def _on_device(self) -> Iterator[Any]:
        with alone():  # no other thread finds the model on another device
            try:
                yield self.model_.to(resolve_device(self.device))
            finally:
                self.model_.cpu()

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    def _validated(self, X: ArrayLike, reset: bool = False) -> np.ndarray:
        """Check X by scikit-learn's rules and flatten it to `(n, features)`. `fit` resets the shape."""
        if isinstance(X, np.ma.MaskedArray):
            X = unmasked(X, "X")
        if isinstance(X, Tensor):
            X = X.detach().cpu()  # NumPy takes no tensors on a device, or with a gradient
        given_shape = tuple(getattr(X, "shape", None) or np.asarray(X).shape)[1:]
        rows: Any = np.asarray(X).reshape(-1, math.prod(given_shape)) if len(given_shape) > 1 else X
        array = validate_data(self, rows, reset=reset, dtype=[np.float64, np.float32])
        if reset:
            self._given_shape = given_shape
            self._x_shape = tuple(given_shape if self.image_shape is None else map(int, self.image_shape))
            if math.prod(self._x_shape) != array.shape[1]:
                raise InputError(
                    f"image_shape is {self._x_shape}, but a datum of X has shape {self._given_shape}: "
                    f"its {array.shape[1]} values must be C * H * W."
                )
        elif len(given_shape) > 1 and given_shape not in (self._x_shape, self._given_shape):
            raise InputError(
                f"a datum of X has shape {given_shape}; it must have the shape of the training "
                f"data, {self._x_shape}."
            )
        return array

    def _suitable_likelihood(self, array: np.ndarray) -> str:
        check_choice("likelihood", self.likelihood, ("auto", *LIKELIHOODS))
        if self.likelihood != "auto":
            return self.likelihood
        return "bernoulli" if array.min() >= 0 and array.max() <= 1 else "gaussian"

    def _events(self, array: np.ndarray) -> Tensor:
        """Convert data `(n, features)` to the model's input, `(n, *x_shape)`."""
        return self._presentation.encoded(self._scaling.transform(array).unflatten(1, self._x_shape))


def _seed(random_state: int | np.random.RandomState | None) -> int:
    return int(check_random_state(random_state).randint(2**31 - 1))
