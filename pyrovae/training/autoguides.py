"""Guides whose latents of single data belong to a position in the data, such as Pyro's autoguides.

Such a guide has parameters for the first, the second, ... datum of a call. It is right only if every call
has the same data in the same order, or if the plate tells it which data a call has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from pyro import poutine
from pyro.infer.autoguide import AutoCallable, AutoDelta, AutoGuide, AutoGuideList, AutoNormal
from torch import Tensor, nn

from pyrovae.errors import InputError
from pyrovae.programs.given import with_bound
from pyrovae.programs.modes import nothing_moves
from pyrovae.programs.pair import ModelAndGuide
from pyrovae.programs.reach import modules_of
from pyrovae.programs.rows import Arguments
from pyrovae.programs.sites import is_sample
from pyrovae.programs.structure import Structure


def check_autoguides(
    pair: ModelAndGuide, arguments: Arguments, all_data: int | None, validated: bool
) -> bool:
    """Refuse an autoguide that would give the parameters of one datum to another datum.

    The check runs the model alone, since a guide remembers the data that it is first called with.

    Args:
        pair: the pair to train.
        arguments: the arguments of a call.
        all_data: the number of data if a call has all of them, else None.
        validated: whether there are validation data.

    Returns:
        Whether the data must keep their order in training.

    Raises:
        InputError: the guide has latents of single data, and the calls do not have all data or there are
            validation data; or the guide has been called with another number of data before.
    """
    in_order = False
    arguments = with_bound(pair.guide, arguments)
    for guide, root in _autoguides(pair):
        found = Structure(guide.model, *arguments)
        for name in found.latents:
            frames = {frame.name: frame for frame in found.traces.model.nodes[name]["cond_indep_stack"]}
            parts = [n for n, frame in frames.items() if (frame.full_size or frame.size) != frame.size]
            if parts and not isinstance(guide, AutoNormal | AutoDelta):
                raise InputError(
                    f"{type(guide).__name__} has one value of '{name}' for each member of a subsample, so "
                    f"the members of plate '{parts[0]}' would share them: use AutoNormal or AutoDelta, "
                    "which have one for each member of the plate."
                )
            indices = (_indices_given(root, arguments, part) for part in parts)
            if found[name].scope == "global" or any(indices):
                continue
            _check_local(guide, name, len(arguments.args[0]), all_data, validated)
            _check_remembered(guide, found, frames)
            in_order = True
    return in_order


def follow_device(pair: ModelAndGuide, arguments: Arguments) -> None:
    """Let autoguides that remember a run of the model on another device remember one on this device.

    Their parameters have been moved with their modules, and stay as they are.

    Args:
        pair: the pair, on its device.
        arguments: the arguments of a call, on the same device.
    """
    arguments = with_bound(pair.guide, arguments)
    for guide, _ in _autoguides(pair):
        known = () if guide.prototype_trace is None else guide.prototype_trace.iter_stochastic_nodes()
        if any(site["value"].device != arguments.args[0].device for _, site in known):
            with nothing_moves(pair.model):
                AutoGuide._setup_prototype(guide, *arguments.args, **arguments.kwargs)


def _autoguides(pair: ModelAndGuide) -> Iterator[tuple[AutoGuide, AutoGuide]]:
    """Yield the autoguides of a pair that have latents of their own, each with the one that contains it."""
    for module in modules_of(pair.guide):
        roots = [part for part in module.modules() if isinstance(part, AutoGuide) and part.master is None]
        for root in roots:
            for part in root.modules():
                if isinstance(part, AutoGuide) and not isinstance(part, AutoGuideList | AutoCallable):
                    yield part, root


def _indices_given(guide: AutoGuide, arguments: Arguments, plate: str) -> bool:
    """Whether `create_plates` takes a plate's subsample from the data, rather than draws it."""
    if guide.create_plates is None:
        return False
    indices: list[Any] = []
    with nothing_moves(guide), poutine.block():
        for seed in (0, 1):
            torch.manual_seed(seed)
            made = guide.create_plates(*arguments.args, **arguments.kwargs)
            indices += [
                p._indices for p in (made if isinstance(made, list | tuple) else [made]) if p.name == plate
            ]
    return len(indices) == 2 and all(isinstance(i, Tensor) for i in indices) and torch.equal(*indices)


def _check_local(guide: AutoGuide, name: str, num_data: int, all_data: int | None, validated: bool) -> None:
    if all_data is not None and not validated:
        return
    what = f"{num_data} data" if all_data is None else "the training data, and not the validation data"
    raise InputError(
        f"{type(guide).__name__} has parameters of '{name}' for each datum by its position: it would "
        f"remember those of {what}. Train it with all data at once (a new guide, batch_size=len(x), no "
        "validation data, no labels for a part of the data, one process), or compute the parameters from x "
        "by a network in a guide of your own."
    )


def _check_remembered(guide: AutoGuide, found: Structure, frames: dict[str, Any]) -> None:
    remembered = guide._prototype_frames
    for name, frame in frames.items():
        if name in remembered and found.plates[name].is_data and remembered[name].size != frame.size:
            raise InputError(
                f"the {type(guide).__name__} has been called with {remembered[name].size} data before, and "
                f"remembers their number, but now there are {frame.size}: make a new guide."
            )


def check_positions(
    pair: ModelAndGuide,
    arguments: Arguments,
    parameters: Mapping[str, Tensor],
    all_data: int | None,
    validated: bool,
) -> bool:
    """Refuse any guide that has parameters for each datum by its position, as `check_autoguides` does.

    Parameters are suspected whose shape has the number of data. Then the guide is run on the same data in
    another order, and must give each of them the same density.

    Args:
        pair: the pair to train.
        arguments: the arguments of a call.
        parameters: the pair's parameters by name.
        all_data: the number of data if a call has all of them, else None.
        validated: whether there are validation data.

    Returns:
        Whether the data must keep their order in training.

    Raises:
        InputError: the guide has such parameters, and the calls do not have all data or there are
            validation data.
    """
    size = len(arguments.args[0])
    layers = _of_layers(pair)
    suspected = {
        name: value for name, value in parameters.items() if size in value.shape and id(value) not in layers
    }
    with _moved(suspected.values()):
        if size == 1 or not suspected or not _by_position(pair, arguments):
            return False
    if all_data is None or validated:
        name, value = next(iter(suspected.items()))
        raise InputError(
            f"the guide has a parameter for each of the {size} data of a call, by their position (see "
            f"'{name}', {tuple(value.shape)}), so other data would "
            "get the parameters of these: train with all data at once (batch_size=len(x), no "
            "validation data, one process), or compute the parameters from x by a network."
        )
    return True


# Modules whose parameters belong to no datum, whatever their shapes.
_LAYERS = ("torch.", "pyrovae.", "zuko.", "pyro.nn.", "pyro.distributions.")


def _of_layers(pair: ModelAndGuide) -> set[int]:
    """Return the ids of the parameters of layers that compute from the data."""
    parts = (part for module in modules_of(pair) for part in module.modules())
    return {
        id(value)
        for part in parts
        if type(part).__module__.startswith(_LAYERS) and not isinstance(part, nn.Embedding)
        for value in part._parameters.values()
    }


@contextmanager
def _moved(parameters: Iterable[Tensor]) -> Iterator[None]:
    """Move parameters a little within, since equal values, such as zeros, show no difference."""
    kept = [(value, value.detach().clone()) for value in parameters]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for value, _ in kept:
            value += 0.1 * torch.randn(value.shape, generator=generator).to(value)
        try:
            yield
        finally:
            for value, before in kept:
                value.copy_(before)


def _by_position(pair: ModelAndGuide, arguments: Arguments) -> bool:
    """Whether the guide gives data another density when they come in another order."""
    plates = Structure(pair, *arguments).plates
    moved = arguments.of_data(lambda values: values.roll(1, 0))
    with nothing_moves(pair), poutine.block():
        first = poutine.trace(pair.guide).get_trace(*arguments.args, **arguments.kwargs)
        first.compute_log_prob()
        wanted, replayed = {}, first.copy()
        for name, node in first.nodes.items():
            dims = [
                f.dim
                for f in node.get("cond_indep_stack", ())
                if is_sample(node) and plates[f.name].is_data
            ]
            if dims:
                dim = dims[0] - node["fn"].event_dim
                replayed.nodes[name] = {**node, "value": node["value"].roll(1, dim)}
                wanted[name] = node["log_prob"].roll(1, dims[0])
        again = poutine.trace(poutine.replay(pair.guide, trace=replayed))
        second = again.get_trace(*moved.args, **moved.kwargs)
        try:
            second.compute_log_prob()
        except ValueError:  # a flow that scores only its own draws: their parameters come from networks
            return False
    return any(
        name not in second.nodes or not torch.allclose(second.nodes[name]["log_prob"], value, atol=1e-4)
        for name, value in wanted.items()
    )
