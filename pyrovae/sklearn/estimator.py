"""A scikit-learn face of the models that learn from few labels.

What `fit`, `build_model` and `training_task` do with tensors and programs, done with arrays: labels of any
kind, features in any units, and the conventions of scikit-learn's estimators. It trains in the order of
a run folder (`runs.train`): a VAE where one is needed, labels spread over its latents, then the model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassifierMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.metrics import accuracy_score
from sklearn.utils import Tags, check_random_state
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from pyrovae import data
from pyrovae.compute.devices import resolve_device
from pyrovae.data.checks import UNLABELLED
from pyrovae.errors import InputError, check_choice
from pyrovae.evaluation import class_probabilities
from pyrovae.generation import latent_means, sample_images, samples_of_classes
from pyrovae.models import M1M2, VAE
from pyrovae.recipes.build import CLASSED, LIKELIHOODS, build_model
from pyrovae.semi_supervised import (
    M1_CLASSIFIERS,
    Supervision,
    Task,
    fit_m1_classifier,
    starting_point,
    training_task,
)
from pyrovae.sklearn.arrays import Scaling, codes_of, encode_labels, given_labels
from pyrovae.training import History, fit

MODELS = ("m1", *CLASSED)


def _gives_probabilities(estimator: SemiSupervisedVAEClassifier) -> bool:
    """Whether the classifier has any; scikit-learn's SVMs have none."""
    classifier = M1_CLASSIFIERS.get(estimator.m1_classifier)
    return estimator.model != "m1" or classifier is None or hasattr(classifier(), "predict_proba")


class SemiSupervisedVAEClassifier(
    ClassNamePrefixFeaturesOutMixin, ClassifierMixin, TransformerMixin, BaseEstimator
):
    """A classifier that learns from few labels and many data, by a VAE with classes.

    The models are M1, M2 and M1+M2 (Kingma et al. 2014), PC-VAE and CPC-VAE (Hope et al. 2020), as
    `pyrovae.models` has them. By default labels first spread to unlabelled data over the latent space of a
    VAE trained on all of them (`semi_supervised.spread_labels`), and the model learns from those.

    A label of -1 means unlabelled, as in `sklearn.semi_supervised`; among strings it may be the string
    "-1", which NumPy makes of a mixed list. So do None and NaN. All other values are classes, strings or
    numbers. A class of which no datum is labelled is not known, and never predicted.

    Args:
        model: "m1", "m2", "m1m2", "pcvae" or "cpcvae".
        latent_dim: M, dimensions of the latent space.
        network: "mlp", "residual" or, for images, "conv".
        width: of hidden layers (`build_model`).
        likelihood: "bernoulli" (X in [0, 1], drawn to be 0 or 1 afresh at each presentation),
            "continuous-bernoulli" or "categorical" (X in [0, 1]), "gaussian" (X in any units:
            standardised by feature, in images by channel), or "auto": Bernoulli if X lies in [0, 1],
            else Gaussian.
        image_shape: (C, H, W) of flat data (n, C * H * W); data that are given as (n, C, H, W) have it.
        spread_labels: whether labels spread first. (An M1 learns the given ones: choose its classifier.)
        neighbours: of each datum, in the graph along which labels spread.
        m1_classifier: of M1, one of `semi_supervised.M1_CLASSIFIERS`: "logistic", "linear-svm",
            "rbf-svm", "label-spreading". The SVMs have no `predict_proba`.
        epochs: passes through the data.
        vae_epochs: passes in the training of the VAE: M1's, M1+M2's, or the one that labels spread over.
        batch_size: data in a minibatch.
        learning_rate: Adam's, at the start; it falls to 0 along a cosine.
        beta: the weight of that VAE's KL term. Below 1 more of what tells classes apart stays in z.
        alpha: weight of log q(y | x) in M2 and M1+M2. Weights are per datum (`Supervision`).
        prediction: of log p(y | z) in PC-VAE and CPC-VAE.
        consistency: in CPC-VAE, of the agreement of predictions before and after a reconstruction.
        aggregate: in CPC-VAE, of predicted class frequencies; both count where labels do not spread.
        constraint_delay: epochs before the weights of PC-VAE and CPC-VAE count.
        constraint_warm_up: epochs over which they rise from then on.
        learn_class_prior: learn the frequencies of classes, which otherwise are taken to be equal.
        device: where it is trained and run; "auto" takes CUDA where there is one, else the CPU.
        random_state: an int makes `fit` reproducible and moves no global random state.
        verbose: show progress bars.

    Attributes:
        classes_: the classes, sorted, `(C,)`.
        model_: the trained `nn.Module`, with its programs `model` and `guide`, on the CPU. It is given
            features as tensors: float32, standardised for a Gaussian likelihood.
        classifier_: M1's scikit-learn classifier, of latent means; None for the other models.
        history_: `History` of the training of `model_`, of M1+M2's upper part.
        transduction_: a class for each training datum, `(n,)`: the given one, else the predicted.
        n_iter_: epochs trained.
        n_features_in_: features in a datum, C * H * W for images.
        feature_names_in_: names of the features, if X has them.

    Example:
        >>> import numpy as np
        >>> from sklearn.datasets import load_digits
        >>> from pyrovae import SemiSupervisedVAEClassifier
        >>> X, y = load_digits(return_X_y=True)
        >>> few = np.where(np.arange(len(y)) < 150, y, -1)
        >>> classifier = SemiSupervisedVAEClassifier("pcvae", epochs=10, vae_epochs=10, random_state=0)
        >>> classifier.fit(X / 16, few).transduction_.shape
        (1797,)
        >>> classifier.sample(3, y=7).shape
        (3, 64)
    """

    def __init__(
        self,
        model: str = "m2",
        *,
        latent_dim: int = 20,
        network: str = "mlp",
        width: int = 256,
        likelihood: str = "auto",
        image_shape: Sequence[int] | None = None,
        spread_labels: bool = True,
        neighbours: int = 15,
        m1_classifier: str = "label-spreading",
        epochs: int = 50,
        vae_epochs: int = 50,
        batch_size: int = 100,
        learning_rate: float = 2e-3,
        beta: float = 0.1,
        alpha: float = 25.0,
        prediction: float = 25.0,
        consistency: float = 25.0,
        aggregate: float = 25.0,
        constraint_delay: float = 0.0,
        constraint_warm_up: float = 0.0,
        learn_class_prior: bool = False,
        device: str = "auto",
        random_state: int | np.random.RandomState | None = None,
        verbose: bool = False,
    ) -> None:
        self.model = model
        self.latent_dim = latent_dim
        self.network = network
        self.width = width
        self.likelihood = likelihood
        self.image_shape = image_shape
        self.spread_labels = spread_labels
        self.neighbours = neighbours
        self.m1_classifier = m1_classifier
        self.epochs = epochs
        self.vae_epochs = vae_epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.beta = beta
        self.alpha = alpha
        self.prediction = prediction
        self.consistency = consistency
        self.aggregate = aggregate
        self.constraint_delay = constraint_delay
        self.constraint_warm_up = constraint_warm_up
        self.learn_class_prior = learn_class_prior
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    # Training

    def fit(self, X: ArrayLike, y: ArrayLike) -> SemiSupervisedVAEClassifier:
        """Train on all data, and on the labels there are.

        Args:
            X: data, `(n, features)` or `(n, C, H, W)`.
            y: labels, `(n,)`, -1 where there is none.

        Raises:
            InputError: a ValueError; data, labels or parameters that cannot be.
        """
        array = self._validated(X, reset=True)
        self.classes_, codes = encode_labels(y, len(array))
        self._scaling = self._new_scaling(array)
        self._n_features_out = self.latent_dim
        self.model_, self.classifier_, self.history_ = self._trained(self._events(array), codes)
        self.model_.cpu().eval()  # where a pickle of it can be read without a GPU
        self.n_iter_ = len(self.history_.rows)
        self.transduction_ = self.classes_[codes.numpy()]
        if (unlabelled := codes.numpy() == UNLABELLED).any():
            self.transduction_[unlabelled] = self._predict(array[unlabelled])
        return self

    def _trained(self, x: Tensor, y: Tensor) -> tuple[nn.Module, Any, History]:
        """The model, M1's classifier, and how training went: a VAE first where one is needed."""
        check_choice("model", self.model, MODELS)
        check_choice("M1 classifier", self.m1_classifier, M1_CLASSIFIERS)
        resolve_device(self.device)
        if self.neighbours < 1:
            raise InputError(f"neighbours is {self.neighbours}; it must be at least 1.")
        seed = _seed(self.random_state)
        supervision = Supervision(
            *(self.alpha, self.prediction, self.consistency, self.aggregate),
            *(self.constraint_delay, self.constraint_warm_up),
        )
        spread = bool(self.spread_labels and (y == UNLABELLED).any())
        # Built before the VAE is trained, to fail early if it does.
        model = None if self.model == "m1" else self._new_model(self.model, seed)
        vae = None
        if self.model in ("m1", "m1m2") or spread:
            vae = self._new_model("vae", seed)
            starting_point(vae, x)
            history = self._fit(vae, training_task(vae, None, supervision), x, None, seed)
        if model is None:
            z = latent_means(vae, x).numpy()  # type: ignore[arg-type]
            classifier = fit_m1_classifier(self.m1_classifier, z, y.numpy(), self.neighbours)
            return vae, classifier, history  # type: ignore[return-value]
        labels = starting_point(model, x, y, vae, spread, self.neighbours)
        task = training_task(model, labels, supervision)
        return model, None, self._fit(model, task, x, labels, seed)

    def _new_model(self, name: str, seed: int) -> nn.Module:
        return build_model(
            name,
            self._x_shape,
            latent_dim=self.latent_dim,
            likelihood=self._scaling.likelihood,
            network=self.network,
            width=self.width,
            num_classes=len(self.classes_),
            learn_class_prior=self.learn_class_prior,
            seed=seed,
        )

    def _fit(self, model: nn.Module, task: Task, x: Tensor, y: Tensor | None, seed: int) -> History:
        epochs, beta = (self.vae_epochs, self.beta) if isinstance(model, VAE) else (self.epochs, 1.0)
        return fit(
            task,
            x,
            y,
            epochs=epochs,
            batch_size=self.batch_size,
            optimizer=partial(torch.optim.Adam, lr=self.learning_rate, fused=True),
            scheduler=partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=epochs),
            beta=beta,
            transform=self._presentation(model),
            seed=seed,
            device=self.device,
            progress=bool(self.verbose),
            **task.options(),
        )

    def _presentation(self, model: nn.Module) -> data.Transform | None:
        steps: list[data.Transform] = []
        if self._scaling.likelihood == "bernoulli":
            steps.append(data.binarise)
        if isinstance(model, M1M2):
            steps.append(model.draw_z1)
        return data.in_turn(*steps)

    # What a trained one does

    def predict(self, X: ArrayLike) -> np.ndarray:
        """The most probable class of each datum, `(n,)`."""
        check_is_fitted(self)
        return self._predict(self._validated(X))

    @available_if(_gives_probabilities)
    def predict_proba(self, X: ArrayLike) -> np.ndarray:
        """Probabilities of the classes, in the order of `classes_`: `(n, C)`, float32."""
        check_is_fitted(self)
        return self._probabilities(self._validated(X))

    def transform(self, X: ArrayLike) -> np.ndarray:
        """The posterior's mean of z for each datum, M1+M2's of z1: `(n, latent_dim)`, float32."""
        check_is_fitted(self)
        return self._latent_means(self._events(self._validated(X)))

    def score(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Accuracy on the labelled data; nothing can be said of unlabelled ones, which are passed over.

        Raises:
            InputError: no datum is labelled.
        """
        check_is_fitted(self)
        array = self._validated(X)
        labels, given = given_labels(y, len(array))
        if not given.any():
            raise InputError("no datum of y is labelled: there is nothing to compare predictions with.")
        weights = None if sample_weight is None else np.asarray(sample_weight)[given]
        return float(accuracy_score(labels, self._predict(array[given]), sample_weight=weights))

    def sample(
        self,
        n_samples: int = 1,
        y: Any = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> np.ndarray:
        """E[x | z] for draws of z from the model, in the shape and units of the X that it was fitted to.

        Args:
            n_samples: how many.
            y: a class for all of them, or one for each, `(n_samples,)`; by default any.
            random_state: of the draws; by default the estimator's own.

        Returns:
            `(n_samples, features)` or `(n_samples, C, H, W)`.

        Raises:
            InputError: a class that is not known, or an M1, which makes data without regard to class.
        """
        check_is_fitted(self)
        seed = _seed(self.random_state if random_state is None else random_state)
        if y is not None and self.classifier_ is not None:
            raise InputError("an m1 makes data without regard to class: leave y out, or choose an m2.")
        codes = None if y is None else codes_of(y, self.classes_, n_samples)
        with self._on_device() as model:
            if codes is None:
                x = sample_images(model, n_samples, seed)
            else:
                x = samples_of_classes(model, codes, seed=seed)
        return self._scaling.undone(x.flatten(1).numpy()).reshape(len(x), *self._given_shape)

    def _predict(self, array: np.ndarray) -> np.ndarray:
        if self.classifier_ is not None and not hasattr(self.classifier_, "predict_proba"):
            return self.classes_[self.classifier_.predict(self._latent_means(self._events(array)))]
        return self.classes_[self._probabilities(array).argmax(1)]

    def _probabilities(self, array: np.ndarray) -> np.ndarray:
        x = self._events(array)
        if self.classifier_ is not None:
            return _m1_probabilities(self.classifier_, self._latent_means(x))
        with self._on_device() as model:
            return class_probabilities(model, x).numpy()

    def _latent_means(self, x: Tensor) -> np.ndarray:
        with self._on_device() as model:
            return latent_means(model, x).numpy()

    @contextmanager
    def _on_device(self) -> Iterator[Any]:
        try:
            yield self.model_.to(resolve_device(self.device))
        finally:
            self.model_.cpu()

    # Features

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    def _validated(self, X: ArrayLike, reset: bool = False) -> np.ndarray:
        """X as `(n, features)`, checked by scikit-learn's rules; at fit its shape is noted."""
        given_shape = tuple(getattr(X, "shape", None) or np.asarray(X).shape)[1:]
        rows: Any = np.asarray(X).reshape(-1, math.prod(given_shape)) if len(given_shape) > 1 else X
        array = validate_data(self, rows, reset=reset, dtype=[np.float64, np.float32])
        if reset:
            self._given_shape = given_shape
            self._x_shape = tuple(self.image_shape or self._given_shape)
            if math.prod(self._x_shape) != array.shape[1]:
                raise InputError(
                    f"image_shape is {self._x_shape}, but a datum of X has shape {self._given_shape}: "
                    f"its {array.shape[1]} values must be C * H * W."
                )
        elif len(given_shape) > 1 and given_shape not in (self._x_shape, self._given_shape):
            raise InputError(f"a datum of X has shape {given_shape}; it was fitted to {self._x_shape}.")
        return array

    def _new_scaling(self, array: np.ndarray) -> Scaling:
        likelihood = self.likelihood
        if likelihood == "auto":
            likelihood = "bernoulli" if array.min() >= 0 and array.max() <= 1 else "gaussian"
        check_choice("likelihood", likelihood, ("auto", *LIKELIHOODS))
        return Scaling.of(array, self._x_shape, likelihood)

    def _events(self, array: np.ndarray) -> Tensor:
        """`(n, features)` as the model has it: `(n, *x_shape)`."""
        return self._scaling.done(array).unflatten(1, self._x_shape)


def _seed(random_state: int | np.random.RandomState | None) -> int:
    return int(check_random_state(random_state).randint(2**31 - 1))


def _m1_probabilities(classifier: Any, z: np.ndarray) -> np.ndarray:
    """Those of a scikit-learn classifier of latents; equal ones where no label has spread to."""
    with np.errstate(invalid="ignore"):
        probabilities = classifier.predict_proba(z)
    probabilities[np.isnan(probabilities).any(1)] = 1 / probabilities.shape[1]
    return probabilities.astype(np.float32)
