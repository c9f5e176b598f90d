"""The transformers: latents of a VAE, or of probabilistic PCA, as features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyrovae.sklearn.base import RandomState
from pyrovae.sklearn.densities import ClosedFormPPCA, TrainedDensity
from pyrovae.sklearn.latents import LatentFeatures
from pyrovae.sklearn.parameters import WITHOUT_CLASSES


@WITHOUT_CLASSES.documented
class VAETransformer(LatentFeatures, TrainedDensity):
    """A variational autoencoder as a density and a transformer: data to latents and back.

    The models are those of the recipes "vae" and "hvae". A trained estimator gives log p(x), draws and
    reconstructions of data, and imputes missing values, which NaN marks. Missing values may stand in the
    training data too.

    All parameters from `latent_dim` on are options of the models, read from their recipes
    (`pyrovae.recipes`). None means the model's own default. `fit` refuses an option that the chosen
    model lacks, unless it is None. With an int as `random_state`, `fit` trains the model that
    `pyrovae train --seed` trains on the same data.

    Args:
        model: "vae", or "hvae" with two levels of latents.
        likelihood: the likelihood p(x | z). "bernoulli" takes X in [0, 1] and draws each value to be 0 or 1
            afresh in every minibatch; log p(x) is that of one such draw. "continuous-bernoulli" and
            "categorical" take X in [0, 1]. "gaussian" takes X in any units. "auto" is "bernoulli" if X
            lies in [0, 1], else "gaussian".
        image_shape: the shape (C, H, W) of the images in flat data (n, C * H * W). It is not needed for
            data of shape (n, C, H, W).
        num_samples: K, the number of draws of z with which log p(x) and missing values of a datum are
            estimated.
        device: the device that trains and runs the model. "auto" means CUDA if it is available, else the
            CPU.
        random_state: the seed of all random draws. An int makes `fit` reproducible. Global random
            states are not changed.
        verbose: whether to show progress bars.
        {options}

    Attributes:
        model_: the trained model, an `nn.Module` with its programs `model` and `guide`, on the CPU. It
            takes features as 32-bit tensors.
        history_: the `History` of the training.
        n_iter_: the number of epochs in `history_`.
        n_features_in_: the number of features of a datum, C * H * W for images.
        feature_names_in_: the names of the features, if X has names.

    Example:
        >>> from sklearn.datasets import load_wine
        >>> from pyrovae import VAETransformer
        >>> X = load_wine().data
        >>> vae = VAETransformer(latent_dim=2, epochs=2, random_state=0).fit(X)
        >>> vae.transform(X).shape
        (178, 2)
        >>> vae.sample(3).shape
        (3, 13)
    """

    @WITHOUT_CLASSES.taken
    def __init__(
        self,
        model: str = "vae",
        *,
        likelihood: str = "auto",
        image_shape: Sequence[int] | None = None,
        num_samples: int = 500,
        device: str = "auto",
        random_state: RandomState = None,
        verbose: bool = False,
        **options: Any,
    ) -> None:
        self.model = model
        self.likelihood = likelihood
        self.image_shape = image_shape
        self.num_samples = num_samples
        self.device = device
        self.random_state = random_state
        self.verbose = verbose


class PPCATransformer(LatentFeatures, ClosedFormPPCA):
    """Probabilistic PCA (Tipping & Bishop 1999) as a density and a transformer, fitted in closed form.

    x ~ N(m + S W z, sigma^2 S^2) with z ~ N(0, I). log p(x), the posterior means of z and of missing values
    are exact. On standardised columns log p(x) is that of `sklearn.decomposition.PCA.score_samples`.

    Args:
        latent_dim: the number of dimensions of z, below the number of features and of data.
        standardise: whether to standardise each feature within the model, by its mean and scale in X. The
            density stays that of X in its own units.
        random_state: the seed of `sample`.

    Attributes:
        model_: the fitted `pyrovae.models.PPCA`, in 64-bit.
        n_features_in_: the number of features of a datum, C * H * W for images.
        feature_names_in_: the names of the features, if X has names.

    Example:
        >>> from sklearn.datasets import load_wine
        >>> from pyrovae import PPCATransformer
        >>> X = load_wine().data
        >>> PPCATransformer(latent_dim=2).fit(X).transform(X).shape
        (178, 2)
    """

    def __init__(
        self, latent_dim: int = 10, *, standardise: bool = True, random_state: RandomState = None
    ) -> None:
        self.latent_dim = latent_dim
        self.standardise = standardise
        self.random_state = random_state
