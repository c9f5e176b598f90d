"""The order in which data can be drawn, where a model reads values of the data.

A decoder may read the earlier values of a sequence from the data (teacher forcing). Without data, its
values are drawn one after the other. The order is found by trial: a value can be drawn next if its
distribution stays the same when all values change that are not drawn yet. If no value can be drawn next,
as with a library size that is the sum of a datum, the model cannot generate without data.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from pyro.distributions import MaskedDistribution
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.distributions import Independent
from torch.nn.functional import one_hot

from pyrovae.errors import InputError
from pyrovae.programs.distributions import closed_mean

TRIALS = 16
"""The number of data in a trial."""

Run = Callable[[Tensor, Mapping[str, Tensor]], Trace]
"""Runs the model on data `(B, *x_shape)` with values of latents by name, in the layout of a run."""

ByRows = Callable[[str, Tensor], Tensor]
"""Brings the dimension of the data to the front, in the values of the site of some name."""


class Step(NamedTuple):
    """The latents, and the places in a flattened datum `(D,)`, that one run of the model can draw."""

    latents: tuple[str, ...]
    places: Tensor


class Order(NamedTuple):
    """An order in which to draw.

    Attributes:
        places: the place in a flattened datum of each value of each observed site, `(*event_shape)`.
        steps: what to draw, first to last.
        by_rows: brings the dimension of the data to the front.
    """

    places: dict[str, Tensor]
    steps: list[Step]
    by_rows: ByRows

    def draw(self, run: Run, x: Tensor, given: Mapping[str, Tensor]) -> Trace:
        """Draw data and return the trace of the model on them.

        Args:
            run: runs the model.
            x: a placeholder, `(B, *x_shape)`.
            given: values of latents by name. The others are drawn, or set to their means, by `run`.
        """
        x, fixed = x.clone(), dict(given)
        flat = x.view(len(x), -1)
        for step in self.steps:
            trace = run(x, fixed)
            fixed |= {name: trace.nodes[name]["value"] for name in step.latents}
            for name, places in self.places.items():
                now = step.places[places]
                drawn = self.by_rows(name, trace.nodes[name]["fn"]())
                flat[:, places[now]] = drawn.to(flat)[:, now]
        return run(x, fixed)


def order_of(
    run: Run, x: Tensor, sites: Sequence[str], given: Collection[str], by_rows: ByRows
) -> Order | None:
    """Find the order in which data can be drawn; None if they can be drawn in a single run.

    Args:
        run: runs the model.
        x: a placeholder for several data, `(B, *x_shape)`.
        sites: the sites that observe the data, and the latents to draw, in the order of the program.
        given: the sites whose values will be given.
        by_rows: brings the dimension of the data to the front.

    Raises:
        InputError: there is no order, or the model observes values that it computes from the data.
    """
    trials = torch.Generator().manual_seed(0)

    def pattern() -> Tensor:  # 0 and 1 are values that most programs take, counts and embeddings too
        return torch.randint(2, x.shape, generator=trials).to(x)

    def single() -> Tensor:  # the largest sum of a datum is another one here
        places = torch.randint(x[0].numel(), (len(x),), generator=trials)
        return one_hot(places, x[0].numel()).to(x).view(x.shape)

    one = pattern()
    same = _unmoved(run, one, [pattern(), single()], sites, given, by_rows)
    if all(bool(each.all()) for each in same.values()):
        return None
    nodes = run(one, {}).nodes
    observed = [name for name in sites if nodes[name]["is_observed"]]
    places, steps = _places(run, x, observed, pattern(), by_rows), []
    wanted = torch.zeros(x[0].numel(), dtype=torch.bool)
    for each in places.values():
        wanted[each] = True
    known, fixed = torch.zeros_like(wanted), {*given}
    while wanted[~known].any() or not fixed.issuperset(set(sites) - {*observed}):
        step = _next_step(sites, same, places, known, fixed)
        if not step.latents and not step.places.any():
            left = next(name for name in sites if name not in fixed and not same[name].all())
            raise _unordered(left)
        steps.append(step)
        known, fixed = known | step.places, fixed | {*step.latents}
        one = pattern()
        kept = known.view(x.shape[1:]).to(x.device)
        others = [torch.where(kept, one, other) for other in (pattern(), single())]
        same = _unmoved(run, one, others, sites, given, by_rows)
    return Order(places, steps, by_rows)


def _next_step(
    sites: Sequence[str],
    same: Mapping[str, Tensor],
    places: Mapping[str, Tensor],
    known: Tensor,
    fixed: Collection[str],
) -> Step:
    latents, now = [], torch.zeros_like(known)
    for name in sites:
        if name in places:
            now[places[name][same[name]]] = True
        elif name not in fixed:
            if not same[name].all():
                break  # what follows may depend on this latent
            latents.append(name)
    return Step(tuple(latents), now & ~known)


def _unmoved(
    run: Run,
    one: Tensor,
    others: Sequence[Tensor],
    sites: Sequence[str],
    given: Collection[str],
    by_rows: ByRows,
) -> dict[str, Tensor]:
    """Return where the distribution of each site is the same on all sets of data, `(*event_shape)`."""
    nodes = run(one, {}).nodes
    held = {name: nodes[name]["value"] for name in given if name in nodes}
    held |= {name: nodes[name]["value"] for name in sites if not nodes[name]["is_observed"]}
    before, *after = (_seeded(partial(run, x, held)).nodes for x in (one, *others))

    def unmoved(name: str) -> Tensor:
        same = [_same(before[name], each[name], nodes[name]["is_observed"]) for each in after]
        return torch.stack([by_rows(name, each).all(0) for each in same]).all(0).cpu()

    return {name: unmoved(name) for name in sites}


def _same(one: Mapping[str, Any], other: Mapping[str, Any], observed: bool) -> Tensor:
    value = one["fn"].sample() if observed else one["value"]
    try:
        before, after = (_scores(site["fn"], value) for site in (one, other))
    except (NotImplementedError, KeyError, InputError):  # without a density, the draws tell
        before, after = (_seeded(site["fn"].sample) for site in (one, other))
    same = torch.isclose(before, after, rtol=1e-6, atol=0, equal_nan=True)
    first, second = closed_mean(one["fn"]), closed_mean(other["fn"])
    if first is not None and second is not None:  # the density of a multinomial knows no total count
        same = same & torch.isclose(first, second, rtol=1e-6, atol=0, equal_nan=True)
    return same


def _seeded(draw: Callable[[], Any]) -> Any:
    """Draw, and make the other random numbers of a program, with the same seed each time."""
    torch.manual_seed(0)
    return draw()


def _scores(fn: Any, value: Tensor) -> Tensor:
    """Return the log density of each independent part of a value, in the value's shape."""
    while isinstance(fn, Independent | MaskedDistribution):
        fn = fn.base_dist
    scores: Tensor = fn.log_prob(value)
    return scores.reshape(*scores.shape, *[1] * len(fn.event_shape)).expand(value.shape)


def _places(
    run: Run, x: Tensor, observed: Sequence[str], pattern: Tensor, by_rows: ByRows
) -> dict[str, Tensor]:
    """Find where in a datum the values of each observed site stand.

    The places are numbered, and the sites observe the numbers bit by bit.
    """
    numbers = torch.arange(x[0].numel())
    found = {name: torch.tensor(0) for name in observed}
    for bit in range(len(numbers).bit_length()):
        marks = (numbers >> bit & 1).to(x).view(x.shape[1:]).expand(x.shape).clone()
        for name, value in _values(run, marks, observed, by_rows).items():
            found[name] = found[name] + (value[0].long().cpu() << bit)
    for name, value in _values(run, pattern, observed, by_rows).items():
        shape = pattern.shape[:1] + found[name].shape
        inside = found[name].min() >= 0 and found[name].max() < len(numbers)
        if not inside or value.shape != shape or not value.equal(pattern.flatten(1)[:, found[name]]):
            raise InputError(
                f"the model reads values of the data, and '{name}' observes values that are computed from "
                "the data, so the data cannot be drawn one value after the other: let the site observe the "
                "data themselves, and transform them before they are given to the programs."
            )
    return found


def _values(run: Run, x: Tensor, observed: Sequence[str], by_rows: ByRows) -> dict[str, Tensor]:
    nodes = run(x, {}).nodes
    for name in observed:
        found, expected = nodes[name]["value"].shape, nodes[name]["fn"].shape()
        if found != expected:
            raise InputError(
                f"with data of shape {tuple(x.shape)}, '{name}' observes values of shape {tuple(found)}, "
                f"and its distribution has shape {tuple(expected)}: give the pair the x_shape of its data."
            )
    return {name: by_rows(name, nodes[name]["value"]) for name in observed}


def _unordered(site: str) -> InputError:
    return InputError(
        f"the distribution of '{site}' depends on values of the datum that cannot be drawn before it, such "
        "as its sum, so there is nothing to draw it from without data: let the programs take what they "
        'compute from the data as an argument, and give it by name, given={"library": ...}.'
    )
