"""What a trained model makes: samples, reconstructions, interpolations, as images in [0, 1]."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyrovae.errors import InputError
from pyrovae.programs import device_of, evaluating, seeded


@torch.no_grad()
def sample_images(model: nn.Module, count: int, seed: int = 0) -> Tensor:
    """E[x | z] for `count` draws z ~ p(z): `(count, *x_shape)`.

    Raises:
        InputError: the model has no prior to draw from, or `count` is below 1.
    """
    if count < 1:
        raise InputError(f"count is {count}; it must be at least 1.")
    if not hasattr(model, "prior"):
        raise InputError(
            f"a {type(model).__name__} has no prior over z, so it cannot generate: "
            "reconstruct or interpolate instead, or train a vae."
        )
    with evaluating(model), seeded(seed, device_of(model)):
        return model.likelihood.mean(model.prior().sample((count,))).cpu()  # type: ignore[operator]


@torch.no_grad()
def latent_means(model: nn.Module, x: Tensor) -> Tensor:
    """The posterior's mean for each datum (an autoencoder's code): `(N, M)`."""
    encode = getattr(model, "encoder", None) or (lambda part: model.posterior(part).mean)  # type: ignore[operator]
    device = device_of(model)
    with evaluating(model):
        return torch.cat([encode(part.to(device)).cpu() for part in x.split(1000)])


@torch.no_grad()
def decode(model: nn.Module, z: Tensor) -> Tensor:
    """E[x | z] as images: `(N, M)` to `(N, *x_shape)`."""
    device = device_of(model)
    with evaluating(model):
        return torch.cat([model.likelihood.mean(p.to(device)).cpu() for p in z.split(1000)])  # type: ignore[operator]


def reconstruct(model: nn.Module, x: Tensor) -> Tensor:
    """E[x | z] at the posterior's mean of each datum: `(N, *x_shape)`."""
    return decode(model, latent_means(model, x))


def interpolate(model: nn.Module, start: Tensor, end: Tensor, steps: int = 10) -> Tensor:
    """Decode the straight lines in latent space between data: `(N, steps, *x_shape)`.

    Args:
        start: `(N, *x_shape)`.
        end: `(N, *x_shape)`.
        steps: points on each line, both ends included.

    Raises:
        InputError: fewer than 2 steps.
    """
    if steps < 2:
        raise InputError(f"steps is {steps}; a line needs at least its 2 ends.")
    first, last = latent_means(model, start), latent_means(model, end)
    weights = torch.linspace(0, 1, steps)[None, :, None]
    z = (1 - weights) * first[:, None] + weights * last[:, None]
    return decode(model, z.flatten(0, 1)).unflatten(0, z.shape[:2])
