"""The preparation of a run: everything that is found out and checked before its first step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pyrovae.programs.checks import check_pair, check_site_names
from pyrovae.programs.gradient_checks import check_gradients
from pyrovae.programs.modes import buffers_kept
from pyrovae.programs.pair import ModelAndGuide
from pyrovae.programs.parameters import modules_of, named_parameters, replaced_parameters
from pyrovae.programs.running import run_pair
from pyrovae.programs.sites import latent_sites, observed_sites
from pyrovae.training.autoguides import check_autoguides, check_positions
from pyrovae.training.batches import Minibatches
from pyrovae.training.losses import MinibatchLoss
from pyrovae.training.settings import Settings
from pyrovae.training.unit import holds_all_data, unit_of


@dataclass(frozen=True)
class Prepared:
    """A pair that is ready to be trained.

    Attributes:
        loss: the loss of a minibatch.
        parameters: all parameters of the pair, by name.
        trainable: the parameters that are trained.
        nothing: a loss of zero and terms of zero, for a process that has no share of a minibatch.
        in_order: whether the data must keep their order, since the guide has parameters for each position.
    """

    loss: MinibatchLoss
    parameters: dict[str, Tensor]
    trainable: list[Tensor]
    nothing: tuple[Tensor, dict[str, Tensor]]
    in_order: bool


def prepare(
    pair: ModelAndGuide, data: Minibatches, validation: Minibatches | None, settings: Settings
) -> Prepared:
    """Move a pair to the device, find its parameters, and check everything that can be checked.

    All data in memory are checked. Of a stream only the first minibatch is checked here, and the others
    when they are first read.

    Raises:
        InputError: data, settings or programs do not fit together.
    """
    for module in modules_of(pair):
        module.to(data.device)
    batch = data.first(check=data.source.stream)
    sites: set[str] = set()
    parameters: dict[str, Tensor] = {}
    all_data = len(data.source) if holds_all_data(data) and len(data.parts) == 1 else None
    in_order = False
    for call in batch.calls:
        in_order |= check_autoguides(pair, call.args, all_data, validation is not None)
        check_pair(pair, *call.args)
        traces = run_pair(pair, *call.args)
        parameters |= named_parameters(pair, *call.args)
        in_order |= check_positions(pair, call.args, parameters, all_data, validation is not None)
        sites |= {*observed_sites(traces[0]), *latent_sites(traces[1])}
    check_site_names(settings.weight_schedules, sites)
    unit = unit_of(pair, data, batch, settings.bound)
    loss = MinibatchLoss(pair, settings.bound, data.parts, unit, frozenset(settings.weight_schedules))
    with buffers_kept(pair):
        trainable = check_gradients(lambda: loss(batch, 1.0, {})[0], parameters, replaced_parameters(pair))
        with torch.no_grad():
            nothing = loss(batch, 1.0, {})
    for each in (data, validation):
        if each is not None and not each.source.stream:
            for args in each.in_order(len(each.source) if in_order else unit.chunk(1000)):
                check_pair(pair, *args)
    zeros = {name: torch.zeros_like(value) for name, value in nothing[1].items()}
    return Prepared(loss, parameters, trainable, (torch.zeros_like(nothing[0]), zeros), in_order)
