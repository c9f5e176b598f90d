"""From the command line's words to a model: which names there are, and what each of them builds."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from pyrovae import likelihoods
from pyrovae.classifiers import Classifier, LinearClassifier
from pyrovae.errors import InputError
from pyrovae.models import CPCVAE, M1M2, M2, PCVAE, PPCA, VAE, Autoencoder
from pyrovae.networks import MLP, ConvDecoder, ConvEncoder, ResidualMLP, WithClass
from pyrovae.posteriors import DiagonalNormal
from pyrovae.priors import Classes, StandardNormal

MODELS: dict[str, str] = {
    "vae": "variational autoencoder (beta-VAE with --beta): z ~ N(0, I), x ~ p(x | z)",
    "ppca": "probabilistic PCA: z ~ N(0, I), x ~ N(W z + mu, sigma^2 I), with its exact evidence",
    "autoencoder": "deterministic autoencoder, for contrast: z = encoder(x), x ~ p(x | z)",
    "m2": "a class beside z: y ~ Cat(pi), z ~ N(0, I), x ~ p(x | y, z); guide q(y | x) q(z | x, y)",
    "m1m2": "M2 on the latents of a VAE (M1): y, z2, z1 ~ p(z1 | y, z2), x ~ p(x | z1)",
    "pcvae": "prediction-constrained VAE: z ~ N(0, I), x ~ p(x | z), y ~ p(y | z) weighted by lambda",
    "cpcvae": "PC-VAE whose predictions must also survive decoding and encoding again",
}
CLASSED = ("m2", "m1m2", "pcvae", "cpcvae")
LIKELIHOODS: dict[str, Callable[[nn.Module], Any]] = {
    "bernoulli": likelihoods.Bernoulli,
    "continuous-bernoulli": likelihoods.ContinuousBernoulli,
    "gaussian": likelihoods.Gaussian,
    "categorical": likelihoods.Categorical,
}
NETWORKS = ("mlp", "residual", "conv")


def build_model(
    model: str,
    x_shape: tuple[int, ...],
    *,
    latent_dim: int = 10,
    likelihood: str = "bernoulli",
    network: str = "mlp",
    width: int = 256,
    num_classes: int = 0,
    learn_class_prior: bool = False,
    seed: int = 0,
) -> nn.Module:
    """Build a model by name, with initial parameters that depend on the seed alone.

    Args:
        model: one of `MODELS`.
        x_shape: event shape of the data.
        latent_dim: M.
        likelihood: one of `LIKELIHOODS`; probabilistic PCA has its own.
        network: one of `NETWORKS`, for encoder and decoder alike.
        width: of hidden layers; a convolutional network has an eighth of it as first channels.
        num_classes: C, for the models in `CLASSED`.
        learn_class_prior: learn the frequencies of classes; they are equal and fixed otherwise.
        seed: of the initial parameters. The caller's random stream stays in place.

    Raises:
        InputError: an unknown name, a size below 1, or fewer than 2 classes where there must be.
    """
    check_choice("model", model, MODELS)
    check_choice("likelihood", likelihood, LIKELIHOODS)
    check_choice("network", network, NETWORKS)
    for name, size in {"latent_dim": latent_dim, "width": width}.items():
        if size < 1:
            raise InputError(f"{name} is {size}; it must be at least 1.")
    if model in CLASSED and num_classes < 2:
        raise InputError(f"num_classes is {num_classes}; {model} needs at least 2 classes.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if model == "ppca":
            return PPCA(x_shape, latent_dim)
        prior, classes = StandardNormal(latent_dim), partial(Classes, num_classes, learn_class_prior)

        def encoder(out: int) -> nn.Module:
            return _encoder(network, x_shape, out, width)

        def pixels(extra: int = 0) -> Any:
            out = _pixel_parameters(likelihood, x_shape)
            decoder = _decoder(network, latent_dim + extra, out, width)
            return LIKELIHOODS[likelihood](WithClass(decoder, extra) if extra else decoder)

        def beside_class(inputs: int, features: nn.Module | None = None) -> nn.Module:
            mixer = MLP(inputs + num_classes, width, hidden=(width,))
            return WithClass(mixer, num_classes, features)

        if model == "autoencoder":
            return Autoencoder(encoder(latent_dim), pixels())
        if model == "m2":
            classifier = Classifier(encoder(num_classes))
            posterior = DiagonalNormal(beside_class(width, encoder(width)), latent_dim)
            return M2(classes(), prior, pixels(num_classes), classifier, posterior)
        posterior = DiagonalNormal(encoder(width), latent_dim)
        if model == "pcvae":
            return PCVAE(prior, pixels(), posterior, LinearClassifier(latent_dim, num_classes))
        if model == "cpcvae":
            classifier = LinearClassifier(latent_dim, num_classes)
            return CPCVAE(prior, pixels(), posterior, classifier, classes())
        vae = VAE(prior, pixels(), posterior)
        if model == "vae":
            return vae
        upper = M2(
            classes(),
            StandardNormal(latent_dim),
            DiagonalNormal(beside_class(latent_dim), latent_dim),
            Classifier(MLP(latent_dim, num_classes, hidden=(width,))),
            DiagonalNormal(beside_class(latent_dim), latent_dim),
        )
        return M1M2(vae, upper)


def check_choice(what: str, name: str, known: Mapping[str, Any] | tuple[str, ...]) -> None:
    """Refuse a name that is not known, and suggest one that is."""
    if name not in known:
        close = difflib.get_close_matches(name, list(known), n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        raise InputError(f"unknown {what} '{name}'; there are {', '.join(known)}.{hint}")


def _pixel_parameters(likelihood: str, x_shape: tuple[int, ...]) -> tuple[int, ...]:
    levels = likelihoods.Categorical.levels if likelihood == "categorical" else 1
    return (x_shape[0] * levels, *x_shape[1:])


def _encoder(network: str, x_shape: tuple[int, ...], out: int, width: int) -> nn.Module:
    if network == "conv":
        return ConvEncoder(x_shape, out, channels=max(1, width // 8))
    if network == "residual":
        return ResidualMLP(x_shape, out, width=width)
    return MLP(x_shape, out, hidden=(width, width))


def _decoder(network: str, latent_dim: int, out: tuple[int, ...], width: int) -> nn.Module:
    if network == "conv":
        return ConvDecoder(latent_dim, out, channels=max(1, width // 8))
    if network == "residual":
        return ResidualMLP(latent_dim, out, width=width)
    return MLP(latent_dim, out, hidden=(width, width))
