"""Draws from the prior, also given a class; quantiles and density of the prior."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyrovae.compute.devices import seeded
from pyrovae.compute.memory import check_fits
from pyrovae.compute.precision import in_64_bits
from pyrovae.errors import InputError, check_counts, warn
from pyrovae.evaluation.chunking import in_chunks
from pyrovae.generation.generator import ROWS, Codes, Generator, joined
from pyrovae.programs.devices import back_to_caller
from pyrovae.programs.distributions import factors_of
from pyrovae.programs.modes import evaluating
from pyrovae.programs.pair import ModelAndGuide, takes_pair

ENOUGH = 10
"""The number of proposals, at least, that should be of the class that is asked for."""

PROPOSALS = 1000
"""The number of draws, at least, from which draws of a class are kept."""


class Draws(NamedTuple):
    """Draws of a model.

    Attributes:
        latents: the latents that have a value for each datum, by site, `(N, *event_shape)`, on the CPU.
        data: the values of the sites that observe data, in the same form.
    """

    latents: Codes
    data: Codes

    def rows(self, rows: Tensor) -> Draws:
        """Return some of the draws."""
        return Draws(*({name: values[rows] for name, values in part.items()} for part in self))


@takes_pair
@back_to_caller
def prior_site(
    pair: ModelAndGuide, site: str | None = None, *, given: Mapping[str, Any] | None = None
) -> str:
    """Return the name of a continuous latent with a prior.

    Args:
        pair: a pair.
        site: the name. None means the latent that the model samples last before the data.
        given: further arguments of both programs by name, such as a condition, with one row `(1, ...)`.
            None means nothing.

    Raises:
        InputError: there is no such latent, all data share it, or it has no prior because it is a function
            of the datum.
    """
    return Generator(pair, given).prior_site(site)


@takes_pair
@back_to_caller
def draw_latents(
    pair: ModelAndGuide,
    count: int,
    label: int | None = None,
    candidates: int = 100,
    seed: int = 0,
    *,
    given: Mapping[str, Any] | None = None,
) -> Codes:
    """Draw all latents from the model, given a class if `label` is given.

    A latent that all data share, such as the weights of a regression, is drawn once from the guide, which
    is its posterior. The latents of the data are drawn given this value.

    Where the class comes first (M2), it is set, and the other latents are drawn given it. Where it is
    predicted from z (PC-VAE), draws given a class are made by sampling-importance-resampling (Rubin 1987):
    of `count * candidates` draws, and at least 1,000, `count` are kept, in proportion to the probability of
    the class. They approach p(z | y) as `candidates` grows.

    Args:
        pair: a trained pair.
        count: N, the number of draws.
        label: the class. None means that it is drawn like the other latents.
        candidates: the number of draws from which one is kept, if the class is predicted from z.
        seed: the seed of the random draws. The caller's random stream does not change.
        given: further arguments of both programs by name, such as a condition. A tensor with N rows has one
            for each draw. None means nothing.

    Returns:
        Each latent's values by site, `(N, *event_shape)`; one value, in its own shape, of a
        latent that all data share.

    Warns:
        UserWarning: too few of the draws are of the class.

    Raises:
        InputError: the model has no latent, or no such class; no draw can be of the class; the model cannot
            generate without data, or the guide reads data for a latent that all data share; or `count` or
            `candidates` is below 1.
    """
    check_counts(count=count)
    generator = Generator(pair, given, count=count)
    found = draws(generator, torch.arange(count), label, candidates, seed).latents
    found |= {name: value.cpu() for name, value in generator.shared_draws.items()}
    return {name: found[name] for name in generator.latents}


def draws(
    generator: Generator, rows: Tensor, label: int | None = None, candidates: int = 100, seed: int = 0
) -> Draws:
    """Do the work of `draw_latents` with an existing generator, for the indices of what is given."""
    check_counts(candidates=candidates)
    generator.check_prior()
    if label is not None:
        check_class(generator, label)
    with evaluating(generator.pair), seeded(seed, generator.device), torch.no_grad():
        drawn, _ = _draws(generator, rows, label)
        if label is None or not generator.predicts_class:
            return drawn
        return _draws_of_class(generator, rows, label, candidates)


def images_of_draws(
    generator: Generator, drawn: Draws, rows: Tensor, seed: int, mean: bool = True
) -> dict[str, Tensor]:
    """Return E[x | latents] by site, or the drawn data, also if some of their values depend on others."""
    if not mean or generator.reads_data:
        return drawn.data
    return generator.images_by_site({**generator.shared_draws, **drawn.latents}, rows, seed)


def check_class(generator: Generator, label: int) -> None:
    """Refuse a class that the model does not have."""
    num_classes = generator.known_class_site().num_classes
    if not 0 <= label < num_classes:
        raise InputError(f"class {label} was asked for; there are {num_classes}, counted from 0.")


def _draws(generator: Generator, rows: Tensor, label: int | None) -> tuple[Draws, Tensor]:
    """Return ancestral draws, and the log probability of the class in each (0 if no class is given)."""

    def of_part(part: slice) -> tuple[Codes, Codes, Tensor]:
        some, given = rows[part], {}
        if label is not None:
            y = generator.class_values(torch.full((len(some),), label))
            given = {generator.known_class_site().name: y}
        trace, data = generator.draw(some, given)
        latents = generator.latents_by_rows(trace)
        sites = [trace.nodes[name] for name in given]
        terms = [site["fn"].log_prob(site["value"]).reshape(len(some)).cpu() for site in sites]
        if part.start == 0:
            size = sum(values.nbytes for values in latents.values()) * len(rows) // len(some)
            check_fits(size, f"{len(rows)} draws", "draw fewer")
        return latents, data, sum(terms, torch.zeros(len(some)))

    parts, _ = in_chunks(of_part, len(rows), ROWS)
    latents, data, log_weights = zip(*parts, strict=True)
    return Draws(joined(latents), joined(data)), torch.cat(log_weights)


def _draws_of_class(generator: Generator, rows: Tensor, label: int, candidates: int) -> Draws:
    """Return a draw given the class for each row, resampled from many draws."""
    # The draws of one row serve the others if all have the same arguments.
    pools = rows[:, None] if generator.differs_by_row else rows[None]
    kept, total = pools.shape[1], max(candidates * pools.shape[1], PROPOSALS)
    parts, agreeing = [], []
    for pool in pools:
        proposals, log_weights = _draws(generator, pool.repeat(-(-total // kept))[:total], label)
        agreeing.append(log_weights.exp().sum().item())  # as many would be kept one by one
        if agreeing[-1] < 0.001:  # torch gives no class the probability 0
            raise InputError(f"class {label} was asked for, and none of {total} draws can be of it.")
        parts.append(proposals.rows(_systematic_resample(log_weights, kept)))
    if min(agreeing) < max(kept, ENOUGH):
        warn(
            f"class {label} was asked for, but only about {min(agreeing):.1f} of {total} draws of the "
            f"model are of it: raise candidates, which is {candidates}, above {total // kept} (at least "
            f"{PROPOSALS} draws are always made), to draw this class well."
        )
    return Draws(*(joined(part) for part in zip(*parts, strict=True)))


def _systematic_resample(log_weights: Tensor, count: int) -> Tensor:
    """Draw indices in proportion to their weights, with as few repetitions as possible (Kitagawa 1996).

    Evenly spaced points with one random start are looked up among the cumulated weights.
    """
    cumulated = in_64_bits(log_weights).softmax(0).cumsum(0)
    points = (torch.arange(count) + torch.rand(())) / count
    return torch.searchsorted(cumulated, points * cumulated[-1]).clamp(max=len(cumulated) - 1)


@takes_pair
@back_to_caller
def prior_quantiles(
    pair: ModelAndGuide,
    levels: Sequence[float],
    site: str | None = None,
    draws: int = 10_000,
    seed: int = 0,
    *,
    given: Mapping[str, Any] | None = None,
) -> Tensor:
    """Estimate the prior's quantiles in each dimension of a latent from draws.

    Args:
        pair: a trained pair.
        levels: the Q levels of the quantiles, between 0 and 1.
        site: the latent. None means the one that the model samples last before the data.
        draws: the number of draws.
        seed: the seed of the random draws. The caller's random stream does not change.
        given: further arguments of both programs by name, such as a condition, with one row `(1, ...)`.
            None means nothing.

    Returns:
        `(Q, M)`. A latent that is no vector is flattened to M dimensions.

    Raises:
        InputError: the model has no such latent with a prior, or `draws` is below 1.
    """
    check_counts(draws=draws)
    return quantiles(Generator(pair, given), levels, site, draws, seed)


def quantiles(
    generator: Generator,
    levels: Sequence[float],
    site: str | None = None,
    num_draws: int = 10_000,
    seed: int = 0,
) -> Tensor:
    """Do the work of `prior_quantiles` with an existing generator, given what its first row has."""
    rows = torch.zeros(num_draws, dtype=torch.long)
    values = draws(generator, rows, seed=seed).latents[generator.prior_site(site)].reshape(num_draws, -1)
    return values.quantile(torch.tensor(levels).to(values), dim=0)


@torch.no_grad()
@takes_pair
@back_to_caller
def prior_density(
    pair: ModelAndGuide,
    points: Tensor,
    site: str | None = None,
    draws: int = 1000,
    seed: int = 0,
    *,
    given: Mapping[str, Any] | None = None,
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
        given: further arguments of both programs by name, such as a condition, with one row `(1, ...)`.
            None means nothing.

    Returns:
        `(P, M)`, where the points are. A latent that is no vector is flattened to M dimensions.

    Raises:
        InputError: the model has no such latent with a prior, or `draws` is below 1.
    """
    check_counts(draws=draws)
    generator = Generator(pair, given)
    name = generator.prior_site(site)
    with evaluating(generator.pair), seeded(seed, generator.device):
        node = generator.run(torch.zeros(draws, dtype=torch.long), {}).nodes[name]
    values = node["value"]
    if (factors := factors_of(node["fn"])) is not None:
        densities = factors.log_prob(points.to(values).view(-1, *[1] * values.dim())).exp()
        means = torch.stack([generator.by_rows(name, at_point).mean(0) for at_point in densities])
        return means.reshape(len(points), -1).cpu()
    columns = generator.by_rows(name, values).cpu().reshape(draws, -1).T
    return torch.stack([_histogram_density(column, points) for column in columns], -1)


def _histogram_density(values: Tensor, points: Tensor) -> Tensor:
    heights, edges = torch.histogram(values.double(), bins=40, density=True)
    cells = torch.searchsorted(edges, points.double()) - 1
    inside = (cells >= 0) & (cells < len(heights))
    return heights[cells.clamp(0, len(heights) - 1)] * inside
