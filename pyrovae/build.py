"""From the command line's words to a model: which names there are, and what each of them builds."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from pyrovae import likelihoods
from pyrovae.errors import InputError
from pyrovae.models import PPCA, VAE, Autoencoder
from pyrovae.networks import MLP, ConvDecoder, ConvEncoder, ResidualMLP
from pyrovae.posteriors import DiagonalNormal
from pyrovae.priors import StandardNormal

MODELS: dict[str, str] = {
    "vae": "variational autoencoder (beta-VAE with --beta): z ~ N(0, I), x ~ p(x | z)",
    "ppca": "probabilistic PCA: z ~ N(0, I), x ~ N(W z + mu, sigma^2 I), with its exact evidence",
    "autoencoder": "deterministic autoencoder, for contrast: z = encoder(x), x ~ p(x | z)",
}
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
        seed: of the initial parameters. The caller's random stream stays in place.

    Raises:
        InputError: an unknown name, or a size below 1.
    """
    check_choice("model", model, MODELS)
    check_choice("likelihood", likelihood, LIKELIHOODS)
    check_choice("network", network, NETWORKS)
    for name, size in {"latent_dim": latent_dim, "width": width}.items():
        if size < 1:
            raise InputError(f"{name} is {size}; it must be at least 1.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if model == "ppca":
            return PPCA(x_shape, latent_dim)
        decoder = _decoder(network, latent_dim, _pixel_parameters(likelihood, x_shape), width)
        pixels = LIKELIHOODS[likelihood](decoder)
        if model == "autoencoder":
            return Autoencoder(_encoder(network, x_shape, latent_dim, width), pixels)
        posterior = DiagonalNormal(_encoder(network, x_shape, width, width), latent_dim)
        return VAE(StandardNormal(latent_dim), pixels, posterior)


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
