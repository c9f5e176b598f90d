"""The search for the best member of a guide's family for each datum, by gradient ascent.

`inference_gaps` compares the guide with the result. `best_guide` returns it as a guide, for uses where a
sharper q is worth the search (semi-amortised inference).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyro
import torch
from torch import Tensor
from tqdm import tqdm

from pyrovae.compute.devices import seeded
from pyrovae.compute.precision import in_64_bits
from pyrovae.errors import InputError, check_counts
from pyrovae.evaluation.chunking import in_chunks, particles_at_once
from pyrovae.evaluation.free_guide import FreeGuide, stick_the_landing
from pyrovae.evaluation.validation import check_scorable
from pyrovae.programs.checks import check_pair
from pyrovae.programs.devices import device_of
from pyrovae.programs.given import with_given
from pyrovae.programs.layout import Layout, traces_of
from pyrovae.programs.log_weights import scores_of
from pyrovae.programs.modes import evaluating
from pyrovae.programs.pair import ModelAndGuide, Program, takes_pair, with_programs
from pyrovae.programs.rows import Arguments

_SELECTION_DRAWS = 200  # draws for each datum that decide whether its q* is better than its q


@takes_pair
def best_guide(
    pair: ModelAndGuide,
    x: Tensor,
    y: Tensor | None = None,
    *,
    given: Mapping[str, Any] | None = None,
    steps: int = 500,
    particles: int = 10,
    learning_rate: float = 0.03,
    seed: int = 0,
) -> FreeGuide:
    """Find the best member of the guide's family for each of these data: the q* of `inference_gaps`.

    Args:
        pair: a pair, as for `inference_gaps`.
        x: the data, `(B, *x_shape)`, which are optimised side by side.
        y: classes `(B,)`, or None.
        given: further arguments of both programs by name, as in `fit`. None means nothing.
        steps: the number of steps of the optimisation. If twice as many change the result, use more.
        particles: the number of draws for each datum in each step.
        learning_rate: the learning rate of the first step; it falls to 0 by a half cosine.
        seed: the seed of the random draws. The caller's random stream does not change.

    Returns:
        A guide with these best members. It can be called only with the same data.

    Raises:
        InputError: for the reasons given at `inference_gaps`.
    """
    check_search(steps, particles, learning_rate)
    pair, data = with_given(pair, x, y, given)
    device = device_of(pair, otherwise=x.device)
    with evaluating(pair), seeded(seed, device):
        with torch.no_grad():
            layout = check_scorable(pair, device, data, enumerate=True)
        return search(pair, data.to(device), layout, steps, particles, learning_rate)


def check_search(steps: int, particles: int, learning_rate: float) -> None:
    """Refuse settings of the search that are out of range."""
    check_counts(steps=steps, particles=particles)
    if not learning_rate > 0:
        raise InputError(f"learning_rate is {learning_rate}; it must be above 0.")


def search(
    pair: ModelAndGuide,
    arguments: Arguments,
    layout: Layout,
    steps: int,
    particles: int,
    learning_rate: float,
    bar: tqdm | None = None,
) -> FreeGuide:
    """Find the best member of the guide's family for each datum, for a pair whose layout is known.

    The losses of the data are added up. No parameter belongs to two data, and Adam treats each number by
    itself, so the result for one datum does not depend on the others.
    """
    check_pair(pair, *arguments.args, **arguments.kwargs)
    free = FreeGuide(pair.guide, arguments, layout)
    start, leaves = free.state(), free.parameters()
    optimizer = torch.optim.Adam(leaves, lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps)
    for _ in range(steps):
        with torch.enable_grad():
            _, bounds = _scores(with_programs(pair, guide=free), arguments, particles, layout, land=True)
            loss = -bounds.mean(0).sum()
        # The gradients of the leaves only: the pair's own parameters do not change.
        gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
        for leaf, gradient in zip(leaves, gradients, strict=True):
            leaf.grad = gradient
        optimizer.step()
        schedule.step()
        if bar is not None:
            bar.update(len(arguments.args[0]))
    _keep_the_better(pair, free, start, arguments, layout)
    return free


def _keep_the_better(
    pair: ModelAndGuide,
    free: FreeGuide,
    start: list[Tensor],
    arguments: Arguments,
    layout: Layout,
) -> None:
    """Put the starting values back for data whose bound has not risen.

    Where the start was the best q already, the noise of the gradients has moved it away. The draws used
    here are not those of the reported figures, so the figures stay unbiased.
    """
    (_, before), (_, after) = compare(pair, (pair.guide, free), arguments, _SELECTION_DRAWS, layout)
    free.put_back(start, ~(after.mean(0) > before.mean(0)))  # also where the end is not finite


def compare(
    pair: ModelAndGuide,
    guides: Sequence[Program],
    arguments: Arguments,
    num_samples: int,
    layout: Layout,
) -> list[tuple[Tensor, Tensor]]:
    """Return log weights and ELBO terms, `(K, B)` each, of each guide, from the same random numbers."""
    seed = int(torch.randint(2**62, ()))
    drawn = []
    for guide in guides:
        with seeded(seed, arguments.args[0].device):
            drawn.append(_draw(with_programs(pair, guide=guide), arguments, num_samples, layout))
    return drawn


@torch.no_grad()
def _draw(
    pair: ModelAndGuide, arguments: Arguments, num_samples: int, layout: Layout
) -> tuple[Tensor, Tensor]:
    """Return the `_scores` of K draws, computed in chunks, in 64-bit."""
    size = particles_at_once(arguments.args[0], layout)
    chunks, _ = in_chunks(
        lambda rows: _scores(pair, arguments, rows.stop - rows.start, layout), num_samples, size
    )
    log_weights, bounds = zip(*chunks, strict=True)
    return in_64_bits(torch.cat(log_weights)), in_64_bits(torch.cat(bounds))


def _scores(
    pair: ModelAndGuide,
    arguments: Arguments,
    particles: int,
    layout: Layout,
    land: bool = False,
) -> tuple[Tensor, Tensor]:
    """Return log weights and terms of the ELBO, `(K, B)` each, for K = `particles` draws of B data."""
    if isinstance(pair.guide, FreeGuide):  # its distributions have no networks
        layout = replace(layout, ways=layout.ways._replace(guide="leading"))
    found = []
    with pyro.validation_enabled(False):
        for model_trace, guide_trace in traces_of(pair, arguments, particles, layout):
            if land:
                stick_the_landing(guide_trace)
            found.append(scores_of(model_trace, guide_trace, arguments.args[0], layout))
    return torch.cat([part.log_weights for part in found]), torch.cat([part.elbo_terms for part in found])
