"""Choose the way to run several copies of a pair: the fastest one that gives the densities of single runs.

Each way runs a few copies of a few data with the noise of the single runs, at the present parameters and at
slightly moved ones, since a layer that starts at zero hides what it does with dimensions. The numbers of
copies, data and values are pairwise different, so that no dimension can be taken for another.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import dropwhile
from typing import Any, NamedTuple

import pyro
import torch
from pyro import poutine
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrovae.compute.precision import in_64_bits
from pyrovae.programs.copies import Copies, Way, joined, run_copies, run_one
from pyrovae.programs.densities import unscaled_log_prob
from pyrovae.programs.modes import in_training, nothing_moves
from pyrovae.programs.noise import Noise, RecordedNoise, ReplayedNoise
from pyrovae.programs.pair import ModelAndGuide, Program
from pyrovae.programs.reach import modules_of
from pyrovae.programs.rows import Arguments
from pyrovae.programs.running import run_pair
from pyrovae.programs.sites import is_sample

_SIZES = (2, 3, 5, 7, 11, 13)
_TOLERANCE = 1e-4  # relative to a log density, with its rounding


class Ways(NamedTuple):
    """The ways to run copies of the guide and of the model."""

    guide: Way = "leading"
    model: Way = "leading"


LEADING = Ways()


def ways_of(
    pair: ModelAndGuide, arguments: Arguments, guide: Copies, model: Copies, rows: bool, taken: set[int]
) -> Ways:
    """Find the fastest way for each program.

    Args:
        pair: a pair.
        arguments: the arguments of a call.
        guide: the kind of the guide's copies; their number does not matter.
        model: the kind of the model's copies.
        rows: whether the sites are all local, so that copies may be rows.
        taken: the sizes of plates and supports, from which the numbers of copies and data must differ.
    """
    particles, num_data = [size for size in _SIZES if size not in taken][:2]
    few = arguments if needs_all(pair, arguments, num_data) else arguments.first(num_data)
    candidates: list[Way] = ["leading", "rows", "mapped"] if rows else ["leading", "mapped"]
    guide, model = (copies._replace(particles=particles) for copies in (guide, model))
    of_guide, of_model = _some_of(guide.values), _some_of(model.values)
    if not model.enumerated:  # it takes over the values that the guide was run with
        model, of_model = model._replace(values=len(of_guide)), range(len(of_guide))
    for_guide = for_model = candidates
    unseen = True  # whether a way has not been tried at the present parameters
    for moved in (False, True, False):
        if not (moved or unseen):
            break
        with nothing_moves(pair.model, pair.guide), _parameters(pair, moved):
            by_guide, noise = _single(pair.guide, few, guide, of_guide, None)
            by_model, model_noise = _single(pair.model, few, model, of_model, by_guide)
            left = len(for_guide) + len(for_model)
            for_guide = _from_first_right(
                for_guide, pair.guide, few, guide, of_guide, None, by_guide, noise
            )
            for_model = _from_first_right(
                for_model, pair.model, few, model, of_model, by_guide, by_model, model_noise
            )
            unseen = moved and len(for_guide) + len(for_model) < left
    return Ways(next(iter(for_guide), "single"), next(iter(for_model), "single"))


def needs_all(pair: ModelAndGuide, arguments: Arguments, num_data: int) -> bool:
    """Whether the programs do not run on the first `num_data` data."""
    few = arguments.first(num_data)
    try:
        with nothing_moves(pair.model, pair.guide), poutine.block():
            for trace in run_pair(pair, *few.args, **few.kwargs):
                trace.compute_log_prob()
    except Exception:  # programs for one number of data raise errors of any type
        return True
    return False


def _some_of(values: int) -> Sequence[int]:
    """Return the numbers of at most three of the enumerated values, which are run one at a time."""
    return sorted({0, values // 2, values - 1})


def _single(
    program: Program, arguments: Arguments, copies: Copies, values: Sequence[int], given: Trace | None
) -> tuple[Trace, list[Noise]]:
    """Run copies one at a time, for some of the enumerated values.

    The copies for one value are given the noise of those for another.
    """
    runs, noise = [], []
    first, *others = values
    for particle in range(copies.number):
        with RecordedNoise() as recorded:
            runs.append(run_one(program, arguments, copies, (first, particle), given))
        noise.append(recorded.noise)
    for value in others:
        for particle in range(copies.number):
            with ReplayedNoise([noise[particle]]):
                runs.append(run_one(program, arguments, copies, (value, particle), given))
    return joined(runs, copies._replace(values=len(values))), noise


def _from_first_right(ways: Sequence[Way], *run: Any) -> list[Way]:
    """Return the ways from the first one on that agrees; see `_agrees` for a run."""
    return [*dropwhile(lambda way: not _agrees(way, *run), ways)]


def _agrees(
    way: Way,
    program: Program,
    arguments: Arguments,
    copies: Copies,
    values: Sequence[int],
    given: Trace | None,
    expected: Trace,
    noise: list[Noise],
) -> bool:
    """Whether a way gives each site the values and log densities of single runs."""

    def of_values(tensor: Tensor, event_dim: int = 0) -> Tensor:
        has_all = tensor.dim() - event_dim == 2 + copies.depth and len(tensor) == copies.values
        return tensor[list(values)] if has_all else tensor

    try:
        if way == "mapped":  # an update of a buffer stops it in training mode alone
            with in_training(program):
                run_copies(way, program, arguments, copies, given)
        with ReplayedNoise(noise, copies.values):
            found = run_copies(way, program, arguments, copies, given)
    except Exception:  # networks that cannot take the dimensions raise errors of any type
        return False
    names = [[name for name, site in trace.nodes.items() if is_sample(site)] for trace in (found, expected)]
    if names[0] != names[1]:
        return False
    for name in names[0]:
        one, other = found.nodes[name], expected.nodes[name]
        value = of_values(one["value"], one["fn"].event_dim)
        if not one["is_observed"] and not close(value, other["value"]):
            return False
        if not close(of_values(unscaled_log_prob(one)), unscaled_log_prob(other)):
            return False
    return True


def close(found: Tensor, expected: Tensor) -> bool:
    """Whether two log densities, or values, broadcast and are equal but for rounding."""
    try:
        found, expected = torch.broadcast_tensors(found, expected)
    except RuntimeError:
        return False
    if found.is_meta:  # shapes without values
        return True
    return torch.allclose(in_64_bits(found), in_64_bits(expected), _TOLERANCE, _TOLERANCE, equal_nan=True)


@contextmanager
def _parameters(pair: ModelAndGuide, moved: bool) -> Iterator[None]:
    """Move all parameters a little, and put them back. The programs' own `pyro.param` are among them."""
    found: list[Tensor] = []
    if moved:
        found = [value for module in modules_of(pair) for value in module.parameters()]
        found += [value for _, value in pyro.get_param_store().named_parameters()]
    parameters = [value for value in found if value.is_floating_point()]
    before = [value.detach().clone() for value in parameters]
    # By `data`, since a graph that is still to be differentiated may hold the parameters.
    try:
        for value in parameters:
            value.data.add_(torch.randn_like(value) * 0.05 * (0.2 + value.abs().mean()))
        yield
    finally:
        for value, old in zip(parameters, before, strict=True):
            value.data.copy_(old)
