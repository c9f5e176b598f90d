"""The check that a model does not read values of the data that are missing.

A pair with missing values gets `observed`, a tensor of `torch.bool` in the shape of the data, by keyword.
What stands in x where it is false must not enter a density of the model, since it was not observed. The
guide may read it, since any guide is a valid proposal.
"""

from __future__ import annotations

import torch
from pyro import poutine
from pyro.poutine.trace_struct import Trace

from pyrovae.data.checks import OBSERVED, mask_of_elements
from pyrovae.errors import InputError
from pyrovae.programs.densities import unscaled_log_prob
from pyrovae.programs.modes import nothing_moves
from pyrovae.programs.pair import Program
from pyrovae.programs.rows import Arguments
from pyrovae.programs.running import traced
from pyrovae.programs.sites import is_sample


def check_missing_values(model: Program, latents: Trace, arguments: Arguments) -> None:
    """Refuse a model whose densities change with the values that are missing.

    Args:
        model: the model.
        latents: a trace with values of its latents.
        arguments: the arguments of a call. They are checked if `observed` is among them and is a mask of
            the data's elements.

    Raises:
        InputError: a density of the model changes. The message names the site.
    """
    x, *others = arguments.args
    observed = mask_of_elements(x, arguments.kwargs)
    if observed is None or observed.all():
        return
    runs = []
    for values in (x, x.where(observed, x.nan_to_num() + 1)):
        with nothing_moves(model):  # both runs draw the same random numbers, if they draw any
            run = traced(poutine.replay(model, trace=latents), values, *others, **arguments.kwargs)
            run.compute_log_prob()
        runs.append({name: site for name, site in run.nodes.items() if is_sample(site)})
    before, after = runs
    for name in before.keys() & after.keys():
        one, two = (unscaled_log_prob(run[name]) for run in runs)
        if one.shape == two.shape and not torch.allclose(one, two, 1e-5, 1e-6, equal_nan=True):
            raise InputError(
                f"the log density of the model's site '{name}' depends on values of the data where "
                f"`{OBSERVED}` is false, which are missing: leave them out of the density, by "
                f"masked(distribution, {OBSERVED}) of pyrovae.distributions or by the program's own means."
            )
