"""The preparation of a run: everything that is found out and checked before its first step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pyrovae.programs.checks import check_pair, check_site_names
from pyrovae.programs.gradient_checks import check_gradients
from pyrovae.programs.modes import buffers_kept
from pyrovae.programs.pair import ModelAndGuide
from pyrovae.programs.parameters import modules_of, named_parameters, optional_parameters
from pyrovae.programs.running import run_pair
from pyrovae.programs.sites import latent_sites, observed_sites
from pyrovae.training.batches import Minibatches
from pyrovae.training.losses import MinibatchLoss
from pyrovae.training.settings import Settings


@dataclass(frozen=True)
class Prepared:
    """A pair that is ready to be trained.

    Attributes:
        loss: the loss of a minibatch.
        parameters: all parameters of the pair, by name.
        trainable: the parameters that are trained.
        nothing: a loss of zero and terms of zero, for a process that has no share of a minibatch.
    """

    loss: MinibatchLoss
    parameters: dict[str, Tensor]
    trainable: list[Tensor]
    nothing: tuple[Tensor, dict[str, Tensor]]


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
    latents: list[list[str]] = []
    sites: set[str] = set()
    parameters: dict[str, Tensor] = {}
    for call in batch.calls:
        check_pair(pair, *call.args)
        traces = run_pair(pair, *call.args)
        latents.append(latent_sites(traces[1]))
        parameters |= named_parameters(pair, *call.args)
        sites |= {*observed_sites(traces[0]), *latents[-1]}
    check_site_names(settings.weight_schedules, sites)
    loss = MinibatchLoss(pair, settings.bound, data.parts, latents, frozenset(settings.weight_schedules))
    with buffers_kept(pair):
        trainable = check_gradients(lambda: loss(batch, 1.0, {})[0], parameters, optional_parameters(pair))
        with torch.no_grad():
            nothing = loss(batch, 1.0, {})
    for each in (data, validation):
        if each is not None and not each.source.stream:
            for args in each.in_order():
                check_pair(pair, *args)
    zeros = {name: torch.zeros_like(value) for name, value in nothing[1].items()}
    return Prepared(loss, parameters, trainable, (torch.zeros_like(nothing[0]), zeros))
