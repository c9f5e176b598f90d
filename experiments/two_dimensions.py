"""Show the effect of richer posteriors and priors in two dimensions, where they can be seen.

Posteriors: a VAE with 2 latents is trained on MNIST. Then its decoder is fixed, and each family of
posteriors is trained for it. The true posterior p(z | x) is computed on a grid. The figure shows draws of
each guide and draws of the best member of its family for that image alone, over the true posterior. Their
distances from it are KL(q || p) = log p(x) - ELBO, in nats. The distance of the best member is the
approximation gap, which the family causes; the rest is the amortisation gap, which the encoder causes.

Priors: VAEs with 2 latents have a standard-normal, mixture, VampPrior or RealNVP prior. The figures show
the density of the learned prior over the aggregated posterior, and the pseudo-inputs of the VampPrior.

The images are read from the folder that PYROVAE_DATA names.

    python experiments/two_dimensions.py posteriors
    python experiments/two_dimensions.py priors
"""

from __future__ import annotations

import json
import math
from functools import partial
from typing import Annotated, Any

import torch
from cyclopts import Parameter, validators
from matplotlib.figure import Figure
from pyro import poutine
from reporting import RESULTS, command_line
from torch import Tensor, nn

from pyrovae import data, fit, plots
from pyrovae.evaluation import best_guide
from pyrovae.flows import InverseAutoregressive, Planar
from pyrovae.generation import posterior_draws
from pyrovae.likelihoods import Bernoulli
from pyrovae.models import VAE
from pyrovae.networks import MLP
from pyrovae.plots import COLOURS, GREY
from pyrovae.posteriors import DiagonalNormal, FlowPosterior, FullCovarianceNormal
from pyrovae.priors import MixtureOfGaussians, RealNVP, StandardNormal, VampPrior
from pyrovae.runs.provenance import git_commit, versions
from pyrovae.schedules import linear_warm_up
from pyrovae.storage import write_atomically

X_SHAPE, LATENT_DIM = (1, 28, 28), 2
TRAINED_ON = 20_000  # images
POSTERIORS = {
    "diagonal normal": lambda network: DiagonalNormal(network, LATENT_DIM),
    "full covariance": lambda network: FullCovarianceNormal(network, LATENT_DIM),
    "planar, 8 steps": lambda network: FlowPosterior(network, LATENT_DIM, Planar(LATENT_DIM, 8)),
    "IAF, 4 steps": lambda network: FlowPosterior(
        network, LATENT_DIM, InverseAutoregressive(LATENT_DIM, 4, hidden=(64, 64))
    ),
}
PRIORS = {
    "standard normal": lambda encoder: StandardNormal(LATENT_DIM),
    "mixture of 50": lambda encoder: MixtureOfGaussians(LATENT_DIM, 50),
    "VampPrior of 50": lambda encoder: VampPrior(encoder, X_SHAPE, 50),
    "RealNVP": lambda encoder: RealNVP(LATENT_DIM, steps=8),
}
# The first SEARCHED test images are sorted by how far their posteriors are from normal. The figure shows
# the median one and the last LEAST_NORMAL ones.
SEARCHED, LEAST_NORMAL = 200, 3
PLANE = torch.tensor([[-5.0, 5.0], [-5.0, 5.0]])

app = command_line(__doc__)
Epochs = Annotated[int, Parameter(help="Training epochs.", validator=validators.Number(gte=1))]


def encoder() -> MLP:
    """Return the network of a posterior."""
    return MLP(X_SHAPE, 200, hidden=(200,))


def decoder(x: Tensor) -> Bernoulli:
    """Return a likelihood whose pixels start at their frequencies in the images `x`."""
    likelihood = Bernoulli(MLP(LATENT_DIM, X_SHAPE, hidden=(200, 200)))
    likelihood.start_at_marginals(x)
    return likelihood


def train(vae: VAE, x: Tensor, epochs: int) -> None:
    """Train a VAE with a cosine learning rate and a warm-up of beta."""
    fit(
        vae,
        x,
        epochs=epochs,
        optimizer=partial(torch.optim.Adam, lr=1e-3, fused=True),
        scheduler=partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=epochs),
        beta=linear_warm_up(epochs / 5),
        transform=data.binarise,
        progress=False,
    )


@torch.no_grad()
def true_posterior(vae: VAE, x: Tensor, extent: Tensor, size: int = 200) -> tuple[Tensor, Tensor, float]:
    """Compute p(z | x) of one image on a grid.

    Args:
        vae: the VAE.
        x: the image `(1, 28, 28)`.
        extent: the lowest and highest value of each latent `(2, 2)`.
        size: the number of grid points along each axis.

    Returns:
        The density `(size, size)`, the grid `(size * size, 2)`, and log p(x) by the sum over the grid.
    """
    axes = [torch.linspace(float(low), float(high), size) for low, high in extent]
    grid = torch.cartesian_prod(*axes)
    cell = torch.stack([axis[1] - axis[0] for axis in axes]).prod()
    log_joint = vae.prior().log_prob(grid) + vae.likelihood(grid).log_prob(x.expand(len(grid), *X_SHAPE))
    log_px = (log_joint + cell.log()).logsumexp(0)
    return (log_joint - log_px).exp().reshape(size, size), grid, log_px.item()


def away_from_normal(vae: VAE, x: Tensor) -> float:
    """Return KL(p(z | x) || normal with the same mean and covariance) for one image, in nats."""
    density, grid, _ = true_posterior(vae, x, PLANE)
    p = (density / density.sum()).flatten().double()
    mean = p @ grid.double()
    away = grid.double() - mean
    covariance = (p * away.T) @ away
    # This KL is the entropy of the normal minus the entropy of p.
    cell = (PLANE[:, 1] - PLANE[:, 0]).prod() / (len(density) - 1) ** 2
    return (math.log(2 * math.pi * math.e) + covariance.logdet() / 2 + (p.xlogy(p / cell)).sum()).item()


def images_to_show(vae: VAE, x: Tensor) -> list[int]:
    """Choose the images of the figure: the median one first, then the least normal ones."""
    order = sorted(range(len(x)), key=lambda number: away_from_normal(vae, x[number]))
    return [order[len(x) // 2], *order[-LEAST_NORMAL:]]


@torch.no_grad()
def elbo(vae: VAE, q: Any, x: Tensor, draws: int = 5_000) -> tuple[Tensor, Tensor]:
    """Estimate the ELBO of each image with a given posterior.

    Args:
        vae: the VAE, whose prior and likelihood are used.
        q: the posterior of the images, a distribution with batch shape `(B,)`.
        x: the images `(B, 1, 28, 28)`.
        draws: the number of draws of the latents.

    Returns:
        The ELBOs `(B,)` in nats, and the draws `(draws, B, 2)`.
    """
    q = q.expand((draws, len(x)))
    z = q.sample()
    log_joint = vae.prior().log_prob(z) + vae.likelihood(z).log_prob(x)
    return (log_joint - q.log_prob(z)).mean(0), z


def best_posterior(vae: VAE, x: Tensor) -> Any:
    """Fit the best member of the guide's family for each image, with batch shape `(B,)`."""
    guide = best_guide(vae, x, steps=1000, particles=20)
    return poutine.trace(guide).get_trace(x).nodes["z"]["fn"]


@app.command
def posteriors(epochs: Epochs = 30) -> None:
    """Compare four posteriors with the true one, and write the figure and its numbers."""
    images = data.load("mnist")
    x, x_test = images.x_train[:TRAINED_ON], data.binarise_static(images.x_test, 0)
    torch.manual_seed(0)
    first = VAE(StandardNormal(LATENT_DIM), decoder(x), DiagonalNormal(encoder(), LATENT_DIM))
    train(first, x, epochs)
    first.likelihood.requires_grad_(False)
    vaes = {"diagonal normal": first}
    for name, posterior in POSTERIORS.items():
        torch.manual_seed(0)
        vaes[name] = VAE(first.prior, first.likelihood, posterior(encoder()))
        train(vaes[name], x, epochs)
    few = x_test[:100]
    log_px = torch.tensor([true_posterior(first, image, PLANE)[2] for image in few])
    gaps = {}
    for name, vae in vaes.items():
        (amortised, _), (best, _) = (
            elbo(vae, q, few, 500) for q in (vae.posterior(few), best_posterior(vae, few))
        )
        gaps[name] = {
            "approximation": round((log_px - best).mean().item(), 3),
            "amortisation": round((best - amortised).mean().item(), 3),
        }
    figure = draw_posteriors(vaes, x_test[images_to_show(first, x_test[:SEARCHED])])
    write("two_dimensions-posteriors", figure, {"mean_gaps_of_100_images": gaps, "epochs": epochs})


def draw_posteriors(vaes: dict[str, VAE], x: Tensor) -> Figure:
    """Draw one row for each image: draws of each family over the true posterior."""
    figure = Figure(figsize=(2.6 * (1 + len(vaes)), 2.7 * len(x)), layout="constrained")
    figure.suptitle(
        "Blue: the true posterior p(z | x), one decoder for all. Red: draws of the guide's q(z | x).\n"
        "Orange: the best q of its family for this image alone that gradient ascent finds from there."
    )
    axes = figure.subplots(len(x), 1 + len(vaes))
    drawn = {
        name: (elbo(vae, vae.posterior(x), x), elbo(vae, best_posterior(vae, x), x))
        for name, vae in vaes.items()
    }
    model = next(iter(vaes.values()))
    for number, row in enumerate(axes):
        row[0].imshow(x[number, 0], cmap="gray_r")
        every = torch.cat([z[:, number] for pair in drawn.values() for _, z in pair])
        extent = extent_of(model, x[number], every)
        density, _, log_px = true_posterior(model, x[number], extent)
        box = extent.flatten().tolist()
        for axis, (name, pair) in zip(row[1:], drawn.items(), strict=True):
            axis.imshow(density.T, origin="lower", extent=box, aspect="auto", cmap="Blues")
            for (_, z), colour in zip(pair, (COLOURS[2], COLOURS[1]), strict=True):
                axis.scatter(*z[:300, number].T, s=2.5, color=colour, alpha=0.6, linewidths=0)
            kl, best_kl = (max(0.0, log_px - bound[number].item()) for bound, _ in pair)
            axis.set(xlim=box[:2], ylim=box[2:], title=f"{name}\nKL = {kl:.2f}, best {best_kl:.2f} nats")
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    return figure


@torch.no_grad()
def extent_of(vae: VAE, x: Tensor, z: Tensor) -> Tensor:
    """Choose the part of the latent space that a panel shows.

    Args:
        vae: the VAE.
        x: the image `(1, 28, 28)`.
        z: draws of all guides `(S, 2)`.

    Returns:
        The lowest and highest value of each latent `(2, 2)`. The box holds the true posterior's mass and
        all but the most extreme draws.
    """
    density, grid, _ = true_posterior(vae, x, torch.tensor([[-4.0, 4.0], [-4.0, 4.0]]))
    mass = grid[density.flatten() > 0.01 * density.max()]
    low = torch.minimum(mass.amin(0), z.quantile(0.005, 0))
    high = torch.maximum(mass.amax(0), z.quantile(0.995, 0))
    margin = 0.15 * (high - low)
    return torch.stack([low - margin, high + margin], 1)


@app.command
def priors(epochs: Epochs = 30) -> None:
    """Compare four learned priors, and write the figures and their numbers."""
    images = data.load("mnist")
    x, x_test = images.x_train[:TRAINED_ON], data.binarise_static(images.x_test, 0)
    figure = Figure(figsize=(3.6 * len(PRIORS), 4.2), layout="constrained")
    figure.suptitle(
        "Learned prior p(z): contours around 25, 50, 75 and 95 % of it. Grey: z ~ q(z | x), test images"
    )
    bounds: dict[str, Any] = {}
    for axis, (name, prior) in zip(figure.subplots(1, len(PRIORS)), PRIORS.items(), strict=True):
        torch.manual_seed(0)
        posterior = DiagonalNormal(encoder(), LATENT_DIM)
        vae = VAE(prior(posterior), decoder(x), posterior)
        if isinstance(vae.prior, VampPrior):
            vae.prior.start_at(x)
        train(vae, x, epochs)
        z = posterior_draws(vae, x_test[:4000])
        bounds[name] = bound_parts(vae, x_test)
        draw_prior(axis, vae.prior, z)
        axis.set_title(f"{name}\nELBO {bounds[name]['elbo']:.1f}, KL {bounds[name]['kl']:.1f} nats")
        if isinstance(vae.prior, VampPrior):
            grid = vae.prior.pseudo_inputs.detach().unflatten(0, (5, 10))
            pseudo = plots.image_grid(grid, "Learned pseudo-inputs of the VampPrior over two latents")
            print(f"written: {plots.save(pseudo, RESULTS / 'two_dimensions-pseudo-inputs.png')}")
    write("two_dimensions-priors", figure, {"test": bounds, "epochs": epochs})


@torch.no_grad()
def bound_parts(vae: VAE, x: Tensor) -> dict[str, float]:
    """Estimate the ELBO and its KL term on test images, in nats per datum, with one draw for each image."""
    q = vae.posterior(x)
    z = q.sample()
    kl = q.log_prob(z) - vae.prior().log_prob(z)
    log_px = vae.likelihood(z).log_prob(x)
    return {"elbo": round((log_px - kl).mean().item(), 2), "kl": round(kl.mean().item(), 2)}


@torch.no_grad()
def draw_prior(axis: Any, prior: nn.Module, z: Tensor) -> None:
    """Draw contours that hold 25, 50, 75 and 95 % of a prior over draws of the aggregated posterior.

    Args:
        axis: the matplotlib axes.
        prior: the prior.
        z: draws of the aggregated posterior `(S, 2)`.
    """
    inside = torch.cat([z, prior().sample((len(z),))])
    low, high = inside.quantile(0.002, 0), inside.quantile(0.998, 0)
    low, high = low - 0.1 * (high - low), high + 0.1 * (high - low)
    size = 200
    axes = [torch.linspace(float(a), float(b), size) for a, b in zip(low, high, strict=True)]
    density = prior().log_prob(torch.cartesian_prod(*axes)).exp()
    order = density.sort(descending=True).values
    mass = order.cumsum(0) / order.sum()
    levels = sorted({float(order[int((mass < share).sum())]) for share in (0.25, 0.5, 0.75, 0.95)})
    axis.scatter(*z.T, s=1.5, color=GREY, linewidths=0)
    axis.contour(*axes, density.reshape(size, size).T, levels=levels, colors=COLOURS[2], linewidths=1)
    axis.set(xlabel="z[0]", ylabel="z[1]", aspect="equal")


def write(name: str, figure: Figure, numbers: dict[str, Any]) -> None:
    """Write a figure and the numbers that belong to it."""
    command = f"python experiments/two_dimensions.py {name.split('-')[1]}"
    content = {"command": command, "versions": versions(), "git_commit": git_commit()} | numbers
    write_atomically(RESULTS / f"{name}.json", json.dumps(content, indent=1).encode() + b"\n")
    print(f"written: {plots.save(figure, RESULTS / f'{name}.png')}")


if __name__ == "__main__":
    app()
