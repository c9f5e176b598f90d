"""Draws from the prior, also given a class; quantiles and density of the prior."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pyro.distributions import Independent
from torch import Tensor

from pyrovae.compute.devices import seeded
from pyrovae.compute.memory import check_fits
from pyrovae.compute.precision import in_64_bits
from pyrovae.errors import InputError, check_counts
from pyrovae.generation.generator import ROWS, Codes, Generator, joined
from pyrovae.programs.distributions import factors_of
from pyrovae.programs.modes import evaluating
from pyrovae.programs.pair import ModelAndGuide, takes_pair


@takes_pair
def prior_site(pair: ModelAndGuide, site: str | None = None) -> str:
    """Return the name of a continuous latent with a prior.

    Args:
        pair: a pair.
        site: the name. None means the latent that the model samples last before the data.

    Raises:
        InputError: there is no such latent, or it has no prior because it is a function of the datum.
    """
    return Generator(pair).prior_site(site)


@takes_pair
def draw_latents(
    pair: ModelAndGuide, count: int, label: int | None = None, candidates: int = 100, seed: int = 0
) -> Codes:
    """Draw all latents from the model, given a class if `label` is given.

    Draws given a class are made by sampling-importance-resampling (Rubin 1987). The class is set, and
    `count * candidates` draws are made; `count` of them are kept, in proportion to the probability of the
    class at its site. Where the class comes first (M2), all probabilities are equal, and `count` draws are
    exact without resampling. Where the class is predicted from z (PC-VAE), the draws approach p(z | y) as
    `candidates` grows.

    Args:
        pair: a trained pair.
        count: N, the number of draws.
        label: the class. None means that it is drawn like the other latents.
        candidates: the number of draws from which one is kept, if the class is predicted from z.
        seed: the seed of the random draws. The caller's random stream does not change.

    Returns:
        Each latent's values by site, `(N, *event_shape)`, on the CPU.

    Raises:
        InputError: the model has no latent with a prior, or no such class; `count` or `candidates` is
            below 1.
    """
    return draws(Generator(pair), count, label, candidates, seed)


@torch.no_grad()
def draws(
    generator: Generator, count: int, label: int | None = None, candidates: int = 100, seed: int = 0
) -> Codes:
    """Do the work of `draw_latents` with an existing generator."""
    check_counts(count=count, candidates=candidates)
    generator.prior_site()
    if label is not None:
        check_class(generator, label)
    with evaluating(generator.pair), seeded(seed, generator.device):
        latents, log_weights = _draws(generator, count, label)
        if torch.allclose(log_weights, log_weights[:1]):
            return latents
        latents, log_weights = _draws(generator, count * candidates, label)
        kept = _systematic_resample(log_weights, count)
        return {name: values[kept] for name, values in latents.items()}


def check_class(generator: Generator, label: int) -> None:
    """Refuse a class that the model does not have."""
    num_classes = generator.known_class_site().num_classes
    if not 0 <= label < num_classes:
        raise InputError(f"class {label} was asked for; there are {num_classes}, counted from 0.")


def _draws(generator: Generator, count: int, label: int | None) -> tuple[Codes, Tensor]:
    """Return ancestral draws, and the log probability of the class in each (0 if no class is given)."""
    parts, log_weights = [], []
    for rows in torch.zeros(count).split(ROWS):
        y, given = None, {}
        if label is not None:
            y = torch.full((len(rows),), label, device=generator.device)
            given = {generator.known_class_site().name: y}
        trace = generator.run(len(rows), given, y)
        parts.append({name: trace.nodes[name]["value"].cpu() for name in generator.structure.latents})
        terms = [trace.nodes[name]["fn"].log_prob(value).cpu() for name, value in given.items()]
        log_weights.append(sum(terms, rows))
        if len(parts) == 1:
            size = sum(values.nbytes for values in parts[0].values()) * count // len(rows)
            check_fits(size, f"{count} draws", "draw fewer")
    return joined(parts), torch.cat(log_weights)


def _systematic_resample(log_weights: Tensor, count: int) -> Tensor:
    """Draw indices in proportion to their weights, with as few repetitions as possible (Kitagawa 1996).

    Evenly spaced points with one random start are looked up among the cumulated weights.
    """
    cumulated = in_64_bits(log_weights).softmax(0).cumsum(0)
    points = (torch.arange(count) + torch.rand(())) / count
    return torch.searchsorted(cumulated, points * cumulated[-1]).clamp(max=len(cumulated) - 1)


@takes_pair
def prior_quantiles(
    pair: ModelAndGuide,
    levels: Sequence[float],
    site: str | None = None,
    draws: int = 10_000,
    seed: int = 0,
) -> Tensor:
    """Estimate the prior's quantiles in each dimension of a latent from draws.

    Args:
        pair: a trained pair.
        levels: the Q levels of the quantiles, between 0 and 1.
        site: the latent. None means the one that the model samples last before the data.
        draws: the number of draws.
        seed: the seed of the random draws. The caller's random stream does not change.

    Returns:
        `(Q, M)`, on the CPU.

    Raises:
        InputError: the model has no such latent with a prior.
    """
    return quantiles(Generator(pair), levels, site, draws, seed)


def quantiles(
    generator: Generator,
    levels: Sequence[float],
    site: str | None = None,
    num_draws: int = 10_000,
    seed: int = 0,
) -> Tensor:
    """Do the work of `prior_quantiles` with an existing generator."""
    values = draws(generator, num_draws, seed=seed)[generator.prior_site(site)]
    return values.quantile(torch.tensor(levels).to(values), dim=0)


@torch.no_grad()
@takes_pair
def prior_density(
    pair: ModelAndGuide, points: Tensor, site: str | None = None, draws: int = 1000, seed: int = 0
) -> Tensor:
    """Return the prior's density in each dimension of a latent.

    It is the mean of the site's densities over draws of the latents that the site depends on, so it is
    exact where the site depends on no other latent. If the densities do not factorise over dimensions, it
    is estimated by a histogram of the draws.

    Args:
        pair: a trained pair.
        points: points on the axis, `(P,)`.
        site: the latent. None means the one that the model samples last before the data.
        draws: the number of draws.
        seed: the seed of the random draws. The caller's random stream does not change.

    Returns:
        `(P, M)`, on the CPU.

    Raises:
        InputError: the model has no such latent with a prior.
    """
    generator = Generator(pair)
    name = generator.prior_site(site)
    with evaluating(pair), seeded(seed, generator.device):
        node = generator.run(draws, {}).nodes[name]
    fn, values = node["fn"], node["value"]
    factors = factors_of(fn) if isinstance(fn, Independent) else None
    if factors is not None:
        return factors.log_prob(points.to(values)[:, None, None]).exp().mean(1).cpu()
    return torch.stack([_histogram_density(column, points) for column in values.cpu().T], -1)


def _histogram_density(values: Tensor, points: Tensor) -> Tensor:
    heights, edges = torch.histogram(values.double(), bins=40, density=True)
    cells = torch.searchsorted(edges, points.double()) - 1
    inside = (cells >= 0) & (cells < len(heights))
    return heights[cells.clamp(0, len(heights) - 1)] * inside
