"""A scikit-learn classifier that learns from few labels, by the recipes of models with classes."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from sklearn.base import ClassifierMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.metrics import accuracy_score
from sklearn.utils import Tags
from sklearn.utils.metaestimators import available_if
from torch import Tensor

from pyrovae.data.checks import UNLABELLED
from pyrovae.errors import InputError
from pyrovae.evaluation import class_probabilities
from pyrovae.generation import latent_means, only_site, sample_images, samples_of_classes
from pyrovae.recipes import About
from pyrovae.recipes.presentation import Presentation
from pyrovae.semi_supervised import (
    AveragedClassifier,
    decoder_scales,
    fit_m1_classifier,
    m1_probabilities,
)
from pyrovae.sklearn import inputs
from pyrovae.sklearn.auto import NOISE_FLOOR, Chosen, number_of_latents, own_units
from pyrovae.sklearn.base import RandomState, RecipeEstimator, seed_of
from pyrovae.sklearn.labels import codes_of, encode_labels, given_labels, label_weights
from pyrovae.sklearn.parameters import WITH_CLASSES
from pyrovae.sklearn.scaling import Scaling

WITHOUT_PROBABILITIES = ("linear-svm", "rbf-svm")
"""The classifiers of M1 that have no `predict_proba`."""


def _gives_probabilities(estimator: SemiSupervisedVAEClassifier) -> bool:
    return estimator.model != "m1" or estimator.m1_classifier not in WITHOUT_PROBABILITIES


@WITH_CLASSES.documented
class SemiSupervisedVAEClassifier(
    ClassNamePrefixFeaturesOutMixin, ClassifierMixin, TransformerMixin, RecipeEstimator
):
    """A classifier that learns from few labels and many data, with a VAE and classes.

    The default model "auto" suits tables as well as images, and takes seconds. It is probabilistic PCA in
    closed form, the VAE in which all is linear. On its latents three classifiers learn: logistic
    regression, a linear M2 and label spreading. Labels that are held out in turn give each a weight, and
    `chosen_` says which (`pyrovae.semi_supervised.AveragedClassifier`).

    The other models are trained. They are M1, M2 and M1+M2 (Kingma et al. 2014), and PC-VAE and CPC-VAE
    (Hope et al. 2020). By default labels first spread to unlabelled data over the latents of a VAE that is
    trained on all data (`pyrovae.semi_supervised.spread_labels`). The model then learns from the spread
    labels.

    The label -1 means "unlabelled", as in `sklearn.semi_supervised`. None, NaN and the string "-1", which
    NumPy makes of a mixed list, mean the same. All other values, strings or numbers, are classes. The
    classifier knows the classes that have at least one label, and predicts no others.

    All parameters from `latent_dim` on are options of the models, read from their recipes
    (`pyrovae.recipes`). None means the model's own default. `fit` refuses an option that the chosen
    model lacks, unless it is None.

    Args:
        model: "auto", "m1", "m2", "m1m2", "pcvae" or "cpcvae".
        class_weight: the weight of a label by its class, or "balanced": the labels of each class then have
            the same total weight. It weighs a labelled datum like `sample_weight`. None means weight 1.
        likelihood: the likelihood p(x | z). "bernoulli" takes X in [0, 1] and draws each value to be 0 or 1
            afresh in every minibatch; "continuous-bernoulli" and "categorical" take X in [0, 1];
            "gaussian" takes X in any units and standardises each feature or, in images, each channel.
            "auto" is "bernoulli" if X lies in [0, 1], else "gaussian". The model "auto" is Gaussian: it
            keeps features with the values 0 and 1 and the common unit of pixels, and standardises others.
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
            takes features as 32-bit tensors, images standardised by channel for a Gaussian likelihood. That
            of "auto" takes features in the units that it has chosen.
        classifier_: the scikit-learn classifier of the latents of "auto" and "m1". None for other models.
        latent_scales_: the scale of each latent, `(latent_dim,)`. `classifier_` takes latents times these.
        chosen_: what the data chose for the model "auto"; `print` shows it. None for other models.
        history_: the `History` of the training of `model_`. For M1+M2 it is that of the upper part. None
            for "auto".
        transduction_: a class for each training datum, `(n,)`: the given one, or else the predicted one.
        n_iter_: the number of epochs in `history_`, 0 for "auto".
        n_features_in_: the number of features of a datum, C * H * W for images.
        feature_names_in_: the names of the features, if X has names.

    Example:
        >>> import numpy as np
        >>> from sklearn.datasets import load_digits
        >>> from pyrovae import SemiSupervisedVAEClassifier
        >>> X, y = load_digits(return_X_y=True)
        >>> few = np.where(np.random.default_rng(0).random(len(y)) < 0.1, y, -1)
        >>> SemiSupervisedVAEClassifier(random_state=0).fit(X, few).score(X, y) > 0.95
        True
        >>> classifier = SemiSupervisedVAEClassifier("pcvae", epochs=2, vae_epochs=2, random_state=0)
        >>> classifier.fit(X / 16, few).transduction_.shape
        (1797,)
        >>> classifier.sample(3, y=7).shape
        (3, 64)
    """

    classifier_: Any
    latent_scales_: np.ndarray | None
    chosen_: Chosen | None
    history_: Any

    @WITH_CLASSES.taken
    def __init__(
        self,
        model: str = "auto",
        *,
        class_weight: Mapping[Any, float] | str | None = None,
        likelihood: str = "auto",
        image_shape: Sequence[int] | None = None,
        device: str = "auto",
        random_state: RandomState = None,
        verbose: bool = False,
        **options: Any,
    ) -> None:
        self.model = model
        self.class_weight = class_weight
        self.likelihood = likelihood
        self.image_shape = image_shape
        self.device = device
        self.random_state = random_state
        self.verbose = verbose

    def fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> SemiSupervisedVAEClassifier:
        """Train on all data and on the given labels.

        The estimator takes over the results at the end. If the training is interrupted, it stays as it was.

        Args:
            X: data, `(n, features)` or `(n, C, H, W)`.
            y: labels, `(n,)`, -1 for unlabelled data.
            sample_weight: the weight of each datum's bound in training, `(n,)`, at least 0, with the term
                of its label. Data of weight 0 are left out. A graph along which labels spread counts each
                of the others once. None means equal weights.

        Raises:
            InputError: data, labels or parameters do not fit. It is a ValueError.
        """
        fresh = copy.copy(self)
        fresh._fit(X, y, sample_weight)
        return self._take_over(fresh)

    def _fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None) -> None:
        array = self._validated(X, reset=True)
        weight = inputs.weight_of(array, sample_weight)
        kept = inputs.kept_by(weight)
        self.classes_, codes = encode_labels(y, len(array), kept)
        self._learn(array[kept], codes[kept], None if weight is None else weight[kept])
        self.transduction_ = self.classes_[codes.numpy()]
        if (unlabelled := codes.numpy() == UNLABELLED).any():
            self.transduction_[unlabelled] = self._predict(array[unlabelled])

    def _learn(self, array: np.ndarray, y: Tensor, weight: np.ndarray | None) -> None:
        """Fit the model, and the classifier of its latents if it has one."""
        self._seed = seed_of(self.random_state)
        about = self._about(len(self.classes_), bool((y == UNLABELLED).any()))
        of_labels = label_weights(y.numpy(), self.classes_, self.class_weight, weight)
        self.classifier_ = self.latent_scales_ = self.chosen_ = None
        if self.model == "auto":
            self._learn_in_closed_form(about, array, y, weight, of_labels)
            return
        likelihood = self._suitable_likelihood(array)
        settings = WITH_CLASSES.settings(self, likelihood=likelihood)
        self._scaling = Scaling.of(array, self._x_shape, likelihood)
        options = self._train(settings, about, self._tensor(array), y, weight=of_labels).plan.options
        self._n_features_out = options["latent_dim"]
        if self.model == "m1":
            z = self._scaled_latents(array)
            name, neighbours = options["m1_classifier"], options["neighbours"]
            self.classifier_ = fit_m1_classifier(name, z, y.numpy(), neighbours, of_labels)

    def _learn_in_closed_form(
        self,
        about: About,
        array: np.ndarray,
        y: Tensor,
        weight: np.ndarray | None,
        of_labels: np.ndarray | None,
    ) -> None:
        """Fit probabilistic PCA, and the average of classifiers on its latents."""
        if self.likelihood not in ("auto", "gaussian"):
            raise InputError(
                f"likelihood is {self.likelihood!r}, but the model 'auto' is probabilistic PCA, which is "
                "Gaussian: leave likelihood at 'auto', or choose another model."
            )
        settings = WITH_CLASSES.settings(self, likelihood=None)
        self._presentation = Presentation("none")
        self._scaling = own_units(array, self._x_shape)
        x = self._tensor(array if weight is None else inputs.with_same_moments(array, weight))
        self._n_features_out = settings.options.get("latent_dim") or number_of_latents(x)
        plan = settings.recipe(about, **dict(settings.options) | {"latent_dim": self._n_features_out})
        self.model_, self.history_, self.n_iter_ = plan.pair, None, 0
        self.model_.eval().fit_closed_form(x, NOISE_FLOOR)
        self.classifier_ = AveragedClassifier(
            plan.options["neighbours"],
            learn_class_prior=plan.options["learn_class_prior"],
            random_state=self._seed,
        ).fit(self._scaled_latents(array), y.numpy(), of_labels)
        self.chosen_ = Chosen(self._n_features_out, array.shape[1], self.classifier_.choice_)

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
        return fitted._latent_means(fitted._validated(X))

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
        weight = inputs.weight_of(array, sample_weight)
        weight = None if weight is None else weight[given]
        return float(accuracy_score(labels, fitted._predict(array[given]), sample_weight=weight))

    def sample(
        self,
        n_samples: int = 1,
        y: Any = None,
        random_state: RandomState = None,
    ) -> Any:
        """Generate data: E[x | z] for draws of z, in the shape and units of the X that `fit` was given.

        Args:
            n_samples: the number of samples.
            y: one class for all samples, or one for each, `(n_samples,)`. None means any class.
            random_state: the seed of the draws. None means the estimator's own.

        Returns:
            The samples, `(n_samples, features)` or `(n_samples, C, H, W)`: an array, or the data frame for
            which `set_output` asks.

        Raises:
            InputError: a class is not known, or the model is an M1, which generates data without classes.
        """
        fitted = self._fitted()
        seed = seed_of(fitted.random_state if random_state is None else random_state)
        if y is not None and fitted.classifier_ is not None:
            raise InputError(
                f"the model '{fitted.model}' generates data without classes: leave y out, or choose 'm2'."
            )
        codes = None if y is None else codes_of(y, fitted.classes_, n_samples)
        with fitted._on_device() as model:
            if codes is None:
                x = only_site(sample_images(model, n_samples, seed))
            else:
                x = only_site(samples_of_classes(model, codes, seed=seed))
        return fitted._framed(fitted._array(x))

    def _predict(self, array: np.ndarray) -> np.ndarray:
        if self.classifier_ is not None and not hasattr(self.classifier_, "predict_proba"):
            return self.classes_[self.classifier_.predict(self._scaled_latents(array))]
        return self.classes_[self._probabilities(array).argmax(1)]

    def _probabilities(self, array: np.ndarray) -> np.ndarray:
        if self.classifier_ is not None:
            return m1_probabilities(self.classifier_, self._scaled_latents(array))
        return self._by_parts(
            array, lambda model, part: class_probabilities(model, self._encoded(part))
        ).numpy()

    def _latent_means(self, array: np.ndarray) -> np.ndarray:
        return self._by_parts(array, lambda model, part: latent_means(model, self._encoded(part))).numpy()

    def _scaled_latents(self, array: np.ndarray) -> np.ndarray:
        """Return the latents as `classifier_` takes them: posterior means in the decoder's scale."""
        z = self._latent_means(array)
        if self.latent_scales_ is None:
            with self._on_device() as model:
                self.latent_scales_ = decoder_scales(model, torch.from_numpy(z)).numpy()
        return z * self.latent_scales_

    def _tensor(self, array: np.ndarray) -> Tensor:
        return self._scaling.transform(array).unflatten(1, self._x_shape)

    def _array(self, x: Tensor) -> np.ndarray:
        return self._scaling.inverse_transform(x.flatten(1).numpy()).reshape(len(x), *self._given_shape)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags
