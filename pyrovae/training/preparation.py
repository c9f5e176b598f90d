"""The preparation of a run: everything that is found out and checked before its first step."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import pyro
import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from pyrovae.compute.indices import unchecked
from pyrovae.compute.streams import streams
from pyrovae.errors import InputError, cause
from pyrovae.programs.checks import check_pair, check_site_names
from pyrovae.programs.devices import move_to
from pyrovae.programs.gradient_checks import check_gradients
from pyrovae.programs.modes import buffers_kept
from pyrovae.programs.neighbours import check_no_neighbours
from pyrovae.programs.pair import ModelAndGuide
from pyrovae.programs.parameters import module_parameters, named_parameters, optional_parameters
from pyrovae.programs.reach import modules_of
from pyrovae.programs.running import run_pair
from pyrovae.programs.sites import latent_sites, observed_sites
from pyrovae.training.autoguides import check_autoguides, check_positions, follow_device
from pyrovae.training.batches import Batch, Minibatches, Rows, most_at_once
from pyrovae.training.losses import MinibatchLoss
from pyrovae.training.settings import Settings
from pyrovae.training.unit import holds_all_data, unit_of


@dataclass(frozen=True)
class Prepared:
    """A pair that is ready to be trained.

    Attributes:
        loss: the loss of a minibatch.
        parameters: all parameters of the pair, by name.
        trained: the parameters that are trained from the first step.
        nothing: a loss of zero and terms of zero, for a process that has no share of a minibatch.
        draws_elsewhere: whether the programs draw from the random streams of Python or NumPy.
        in_order: whether the data must keep their order, since the guide has parameters for each position.
    """

    loss: MinibatchLoss
    parameters: dict[str, Tensor]
    trained: list[Tensor]
    nothing: tuple[Tensor, dict[str, Tensor]]
    draws_elsewhere: bool
    in_order: bool


def prepare(
    pair: ModelAndGuide, data: Minibatches, validation: Minibatches | None, settings: Settings
) -> Prepared:
    """Move a pair to the device, find its parameters, and check everything that can be checked.

    All data in memory are checked. Of a stream only the first minibatch is checked here, and the others
    when they are first read. No buffer changes, such as the running means of batch normalisation.

    Raises:
        InputError: data, settings or programs do not fit together; or a density of a datum depends on the
            other data of a minibatch.
    """
    _check_no_inference(module_parameters(pair))
    move_to(data.device, pair, *([] if settings.transform is None else [settings.transform]))
    with pyro.validation_enabled(True):  # transforms check the range of the data then
        batch = data.first(check=data.source.stream)
        data.check_transform()
    all_data = len(data.source) if holds_all_data(data) and len(data.parts) == 1 else None
    in_order = False
    for call in batch.calls:
        args, kwargs = call.arguments
        follow_device(pair, call.arguments)
        in_order |= check_autoguides(pair, call.arguments, all_data, validation is not None)
        check_pair(pair, *args, **kwargs)  # in evaluation mode, and lazy modules get their shapes
        if all_data is None:
            check_no_neighbours(pair, call.arguments, in_training=True)
    if all_data is None and unchecked(data.device):
        for args, kwargs in data.extremes():  # no index of theirs may reach a kernel unchecked
            check_pair(pair, *args, **kwargs)
    before = _elsewhere()
    with buffers_kept(pair):
        _check_sizes(pair, data, batch, last=False)
        prepared = _prepared(pair, data, batch, settings, before)
    for call in batch.calls:
        in_order |= check_positions(
            pair, call.arguments, prepared.parameters, all_data, validation is not None
        )
    with buffers_kept(pair):
        _check_sizes(pair, data, batch, last=True)
    size = prepared.loss.unit.chunk(most_at_once(data.parts[-1].batch_size))
    for each in (data, validation):
        if each is not None and not each.source.stream:
            bound = each.given.bound_to(pair, each.device)
            for args, kwargs in each.in_order(len(each.source) if in_order else size):
                check_pair(bound, *args, **kwargs)
    return replace(prepared, in_order=in_order)


def _prepared(
    pair: ModelAndGuide, data: Minibatches, batch: Batch, settings: Settings, before: list[object]
) -> Prepared:
    sites: set[str] = set()
    parameters: dict[str, Tensor] = {}
    for call in batch.calls:
        args, kwargs = call.arguments
        traces = run_pair(pair, *args, **kwargs)
        parameters |= named_parameters(pair, *args, **kwargs)
        sites |= {*observed_sites(traces[0]), *latent_sites(traces[1])}
    check_site_names(settings.weight_schedules, sites)
    unit = unit_of(pair, data, batch, settings.bound)
    loss = MinibatchLoss(pair, settings.bound, data.parts, unit, frozenset(settings.weight_schedules))
    minibatches = itertools.chain([batch, batch], _others(data))
    trained = check_gradients(
        lambda: loss(next(minibatches), 1.0, {})[0],
        parameters,
        optional_parameters(pair),
        _shown_only(pair, parameters),
    )
    nothing = loss(batch, 1.0, {})  # with gradients, without which Pyro's TraceEnum_ELBO has no loss
    zeros = {name: torch.zeros_like(value) for name, value in nothing[1].items()}
    elsewhere = _elsewhere() != before
    return Prepared(loss, parameters, trained, (torch.zeros_like(nothing[0]), zeros), elsewhere, False)


def _others(data: Minibatches) -> Iterator[Batch]:
    """Yield further full minibatches, for programs whose parameters are not all used in the first."""
    for number in itertools.count(1):
        yield data.first(number * data.parts[-1].batch_size)


def _shown_only(pair: ModelAndGuide, parameters: dict[str, Tensor]) -> set[int]:
    """Return the ids of the parameters of `pyro.param`, which belong to no module."""
    inside = {id(value) for module in modules_of(pair) for value in module.parameters()}
    store = {name for name in pyro.get_param_store() if "$$$" not in name}
    return {id(value) for name, value in parameters.items() if name in store and id(value) not in inside}


def _elsewhere() -> list[object]:
    """Return the states of the random streams of Python and NumPy, to be compared."""
    states = streams()
    name, keys, *rest = states["numpy"]
    return [states["python"], name, keys.tobytes(), *rest]


def _check_no_inference(parameters: dict[str, Tensor]) -> None:
    made = {name: value for name, value in parameters.items() if not is_lazy(value)}
    if made_there := [name for name, value in made.items() if value.is_inference()]:
        raise InputError(
            f"the parameters {', '.join(made_there)} were made under torch.inference_mode, which forbids "
            "to change them: build the pair outside of it."
        )


def _check_sizes(pair: ModelAndGuide, data: Minibatches, batch: Batch, last: bool) -> None:
    """Run the pair in training mode on a full minibatch, or on as many data as the last one will have.

    Raises:
        InputError: the pair does not run on one of them, as batch normalisation does not on a single datum.
    """

    def first(number: int, size: int) -> Batch:
        rows = [Rows(part.indices[: size if n == number else 0]) for n, part in enumerate(data.parts)]
        return data.batch(rows, shared=False, check=data.source.stream)

    for number, part in enumerate(data.parts):
        total, full = len(part.indices), part.batch_size
        size = full if not last else total % full if part.steps == data.steps else 0
        if not size:
            continue
        of_part = Batch([call for call in batch.calls if call.number == number], full)
        problem = _problem(pair, first(number, size) if last else of_part)
        if problem is not None:
            fits = (
                n
                for n in _sizes_without_rest(total, full)
                if not any(_problem(pair, first(number, s)) for s in (n, total % n) if s)
            )
            which = "the last minibatch of an epoch has" if last else "a minibatch has"
            kind = f" {'labelled' if part.labelled else 'unlabelled'}" if len(data.parts) > 1 else ""
            raise InputError(
                f"{which} {size} of {total}{kind} data, and the pair does not run on {size} in training "
                f"mode ({problem}): {_remedy(data, number, next(fits, None))}."
            )


def _problem(pair: ModelAndGuide, batch: Batch) -> str | None:
    """Return what goes wrong when the pair runs on a minibatch in training mode, or None."""
    try:
        with torch.no_grad(), pyro.validation_enabled(False):
            for _, (args, kwargs), _ in batch.calls:
                run_pair(pair, *args, **kwargs)
    except InputError:
        raise
    except (ValueError, RuntimeError) as error:
        return cause(error).split(" Trace Shapes:")[0]
    return None


def _sizes_without_rest(total: int, size: int) -> list[int]:
    """Return a few sizes near the given one with which the last minibatch is at least half full."""
    near = sorted(range(2, total + 1), key=lambda n: abs(n - size))
    return [n for n in near if not total % n or total % n >= max(2, n / 2)][:3]


def _remedy(data: Minibatches, number: int, size: int | None) -> str:
    if size is None:
        return "let the programs run in training mode on any number of data, by len(x)"
    if len(data.parts) == 1:
        return f"set batch_size={size}"
    if number == 0:
        return f"set labelled_batch_size={size}"
    return f"set batch_size={size} and labelled_batch_size={data.parts[0].batch_size}"
