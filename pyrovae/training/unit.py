"""The unit of losses and of the history: nats per datum of the bound on all N data.

    (1/B) sum over the minibatch of the local terms + (1/N) of the terms outside of the data's plate

So a global latent, such as the weight of a regression, gets the posterior of all data from minibatches of
any size, whether the plate says N or only `len(x)`. The gradient's size does not depend on it either.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine
from pyro.infer.inspect import site_is_deterministic
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrovae.compute import processes
from pyrovae.errors import InputError
from pyrovae.objectives.importance import IWAE
from pyrovae.objectives.objective import Objective
from pyrovae.objectives.weights import Counting
from pyrovae.programs.accounting import accounting
from pyrovae.programs.dependence import Argument, Run, record
from pyrovae.programs.modes import nothing_moves
from pyrovae.programs.pair import ModelAndGuide
from pyrovae.programs.sites import is_sample
from pyrovae.programs.structure import Structure
from pyrovae.training.batches import Batch, Call, Minibatches


@dataclass(frozen=True)
class Unit:
    """What is known of a run's plates, to count each site as the unit says.

    Attributes:
        num_data: N, the number of data to which the bound belongs: the data's plate's size if it
            subsamples, else the number of training data.
        data_plates: the names of the plates over the data.
        globals: the names of the sites outside of these plates.
        scaled_by_hand: whether the programs scale all sites of the data by N/B themselves.
        part_weights: the sum of the weights of the parts.
        largest_call: the largest number of data that the programs can be called with; None without limit.
        needed: whether some site counts other than the programs say.
        densities: the guide's factors that state the density of latents, which beta weighs as it weighs
            them.
    """

    num_data: int
    data_plates: frozenset[str]
    globals: tuple[str, ...]
    scaled_by_hand: bool
    part_weights: float
    largest_call: int | None
    needed: bool
    densities: tuple[str, ...] = ()

    def counting(self, num_data: int, in_training: bool = True) -> Counting | None:
        """Return what the sites count in a call of `num_data` data, or None if all count as they are.

        Args:
            num_data: the number of this process's data in the call.
            in_training: whether the parts of a minibatch have their weights. Their sum has no influence on
                what a global site counts.
        """
        if not self.needed:
            return None
        outside = num_data / self.num_data
        in_loss = outside / self.part_weights if in_training and self.part_weights else outside
        return Counting(num_data, self.data_plates, in_loss, outside, self.scaled_by_hand)

    def chunk(self, size: int) -> int:
        """Return the number of data for a call of about `size`."""
        return size if self.largest_call is None else min(size, self.largest_call)


def unit_of(pair: ModelAndGuide, data: Minibatches, batch: Batch, objective: Objective) -> Unit:
    """Find out what the sites of a pair count in minibatches.

    Args:
        pair: the pair to train.
        data: the minibatches of the training data.
        batch: a full minibatch.
        objective: the objective.

    Raises:
        InputError: the minibatches do not hold all data, and a latent is drawn outside of the data's plate
            for the importance-weighted bound, data are observed outside of the plate, or the sites of the
            data have a scale that may or may not stand for N/B.
    """
    structures = [Structure(pair, *call.arguments) for call in batch.calls]
    plates = [[plate for plate in found.plates.values() if plate.is_data] for found in structures]
    names = frozenset(plate.name for of_call in plates for plate in of_call)
    outside = dict.fromkeys(name for found in structures for name in _outside(found))
    scaled_up = [[p.full_size for p in of_call if p.full_size > p.size] for of_call in plates]
    sizes = [len(part.indices) for part in data.parts]
    beyond = [
        max((size for size in of_call if size > _length(call)), default=None)
        for of_call, call in zip(scaled_up, batch.calls, strict=True)
    ]
    full = holds_all_data(data)
    if isinstance(objective, IWAE) and outside and not (full and len(data.parts) == 1):
        _check_sums_over_data(structures)
    if not full:
        _check_data_in_plate(pair, data, batch, structures)
    by_hand = not any(scaled_up) and _scaled_by_hand(structures, data, full, tuple(outside))
    return Unit(
        _all_data([size or n for size, n in zip(beyond, sizes, strict=True)], sizes),
        names,
        tuple(outside),
        by_hand,
        sum(part.weight for part in data.parts),
        min((size for size in beyond if size is not None), default=None),
        # A site that joins later may be global. Importance weights refuse it themselves.
        bool(outside or any(scaled_up) or by_hand or not isinstance(objective, IWAE)),
        tuple(dict.fromkeys(name for found in structures for name in _stated_densities(found))),
    )


def _stated_densities(found: Structure) -> list[str]:
    """Return the guide's factors that state the density of latents that a `Delta` sets."""
    factors = [n for n, site in found.sites.items() if site.program == "guide" and site.role == "factor"]
    try:
        counted = accounting(found).log_q if factors else ()
    except InputError:  # the guide has no density, and may be trained all the same
        return []
    return [name for name in factors if name in counted]


def holds_all_data(data: Minibatches) -> bool:
    """Whether each minibatch holds all data, in one process."""
    return processes.count() == 1 and all(part.batch_size >= len(part.indices) for part in data.parts)


def _outside(found: Structure) -> list[str]:
    return [name for name in found.in_scope("global") if found[name].role != "deterministic"]


def _all_data(claimed: Sequence[int], sizes: Sequence[int]) -> int:
    """Return N, given the sizes that the plates claim in a call of each part, and the parts' own sizes."""
    if len(set(claimed)) == 1 and [*claimed] != [*sizes]:
        return claimed[0]  # each call's plate is over the data of both parts
    return sum(claimed)


def _check_sums_over_data(structures: Sequence[Structure]) -> None:
    """Refuse latents drawn outside of the data's plate, with which all data have one importance weight."""
    parts = [(_outside(found), accounting(found).log_q) for found in structures]
    drawn = [name for outside, counted in parts for name in outside if name in counted]
    if drawn:
        raise InputError(
            f"site '{drawn[0]}' is drawn outside of the data's plate, so all data have one importance "
            "weight, and the importance-weighted bound of a minibatch says nothing of it: train with all "
            'data at once (batch_size=len(x), in one process), sample the site within pyro.plate("data", '
            "len(x)), or use ELBO()."
        )


def _check_data_in_plate(
    pair: ModelAndGuide, data: Minibatches, batch: Batch, structures: Sequence[Structure]
) -> None:
    """Refuse sites outside of the data's plate that depend on the data of a minibatch."""
    for call, found in zip(batch.calls, structures, strict=True):
        outside = _outside(found)
        runs = record((pair.model, pair.guide), *call.arguments).runs if outside else ()
        for number, run in enumerate(runs):
            suspects = [name for name in outside if name in run and _depends_on_data(name, run, found)]
            for name in _changed_by_data(pair, data, call, outside, number, suspects) if suspects else ():
                does = "observes" if run[name].observed and not run[name].factor else "computes"
                raise InputError(
                    f"the {('model', 'guide')[number]} {does} '{name}' from the data, but outside of a "
                    f"plate over data, so a minibatch of {_length(call)} data does not say what it is "
                    'for all data: sample it within pyro.plate("data", len(x)), once for each datum, '
                    "or train with all data at once (batch_size=len(x), in one process)."
                )


def _changed_by_data(
    pair: ModelAndGuide,
    data: Minibatches,
    call: Call,
    outside: Sequence[str],
    program: int,
    suspects: Sequence[str],
) -> list[str]:
    """Return the sites of a program whose values or densities differ between two minibatches.

    Both have the same values outside of the data's plate. Not every site whose computation uses the data
    depends on their values: `x.new_zeros(2)` does not.
    """
    rows = data.parts[call.number].indices[-_length(call) :]
    one, other = call.arguments, data.arguments(call.number, rows)
    with nothing_moves(pair), poutine.block():
        first = poutine.trace(pair.guide).get_trace(*one.args, **one.kwargs)
        shared = first.copy()
        for name in first.nodes.keys() - set(outside):
            shared.remove_node(name)
        replayed = poutine.replay(pair.guide, trace=shared)
        second = poutine.trace(replayed).get_trace(*other.args, **other.kwargs)
        models = (
            poutine.trace(poutine.replay(pair.model, trace=guide)).get_trace(*args, **kwargs)
            for guide, (args, kwargs) in ((first, one), (second, other))
        )
        before, after = (first, second) if program else models
        before.compute_log_prob()
        after.compute_log_prob()
    return [name for name in suspects if name in before.nodes and not _same(before, after, name)]


def _length(call: Call) -> int:
    """Return the number of data in a call."""
    return len(call.arguments.args[0])


def _same(one: Trace, two: Trace, name: str) -> bool:
    """Whether a site has the same value and log density in two traces."""
    if name not in two.nodes:
        return False
    sites = one.nodes[name], two.nodes[name]
    pairs = [[site[part] for site in sites] for part in ("value", "log_prob")]
    return all(a.shape == b.shape and torch.allclose(a, b, equal_nan=True) for a, b in pairs)


def _depends_on_data(name: str, run: Run, found: Structure) -> bool:
    """Whether a site's distribution or value comes from an argument, or from a site of single data."""
    sources, seen = [*run[name].parents, *run[name].computed_from], {name}
    while sources:
        source = sources.pop()
        if isinstance(source, Argument) or (source in found.sites and found[source].scope != "global"):
            return True
        if source not in seen and source in run:
            seen.add(source)
            sources += [*run[source].parents, *run[source].computed_from]
    return False


def _scaled_by_hand(
    structures: Sequence[Structure], data: Minibatches, full: bool, outside: Sequence[str]
) -> bool:
    """Whether the programs scale all sites of the data by the N/B of a minibatch themselves.

    Raises:
        InputError: all sites of the data have a scale that is neither 1 nor N/B, and there are sites
            outside of the data's plate, whose part in a minibatch is not clear then.
    """
    if full:
        return False
    by_hand = []
    for found, part in zip(structures, data.parts, strict=True):
        local, rest = _scales(found, outside)
        if not local or any(_is_number(scale) and float(scale) == 1 for scale in local.values()):
            by_hand.append(False)
            continue
        ratios = [size / part.batch_size for size in (len(data.source), len(part.indices))]
        as_said = [any(_near(scale, ratio) for ratio in ratios) for scale in local.values()]
        common = rest and all(_near(scale, next(iter(local.values()))) for scale in rest.values())
        by_hand.append(all(as_said) and not common)
        if rest and not common and not all(as_said):
            name, scale = next(each for each, said in zip(local.items(), as_said, strict=True) if not said)
            shown = f"{float(scale):g}" if _is_number(scale) else "a tensor"
            raise InputError(
                f"the scale of site '{name}' is {shown}, where N/B is {ratios[0]:g} for minibatches of "
                f"{part.batch_size} of {len(data.source)} data, so it is not clear how much "
                f"'{outside[0]}', which lies "
                'outside of the data\'s plate, counts in a minibatch: write pyro.plate("data", '
                f"{len(data.source)}, subsample_size=len(x)), which says N, and keep poutine.scale for "
                "weights."
            )
    return any(by_hand)


def _scales(found: Structure, outside: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the scales that the program writes by hand, of the sites of the data and of those outside."""
    local: dict[str, Any] = {}
    rest: dict[str, Any] = {}
    for trace in found.traces:
        for name, node in {} if trace is None else trace.nodes.items():
            if is_sample(node) and not site_is_deterministic(node):
                of_plates = math.prod(
                    frame.full_size / frame.size for frame in node["cond_indep_stack"] if frame.full_size
                )
                (rest if name in outside else local)[name] = node["scale"] / of_plates
    return local, rest


def _is_number(scale: Any) -> bool:
    return not isinstance(scale, Tensor) or scale.numel() == 1


def _near(scale: Any, expected: Any) -> bool:
    return _is_number(scale) and _is_number(expected) and math.isclose(scale, expected, rel_tol=1e-4)
