"""Explanations of losses and parameters that became infinite, or not a number."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro
import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from pyrovae.compute.precision import in_64_bits
from pyrovae.errors import NonFiniteError
from pyrovae.programs.distributions import base_of
from pyrovae.programs.pair import ModelAndGuide
from pyrovae.programs.rows import Arguments
from pyrovae.programs.running import run_pair


def check_finite(parameters: Mapping[str, Tensor], step: int) -> None:
    """Check that parameters are finite, before a run goes on with them and saves them.

    Raises:
        NonFiniteError: a parameter is not finite. The message names it.
    """
    bad = [name for name, value in parameters.items() if not value.isfinite().all()]
    if bad:
        raise NonFiniteError(
            f"after step {step} the parameters {', '.join(bad)} are not finite, since the last gradient "
            "was not: lower the learning rate, or clip the gradient's norm."
        )


def explain_non_finite(what: str, pair: ModelAndGuide, *calls: Arguments) -> NonFiniteError:
    """Return an error that names the first site at which a number is not finite.

    Args:
        what: a name of the number that is not finite, for the message.
        pair: the pair, which is run again on each call.
        calls: the arguments of the calls. The random stream must be in the state in which they were made.
    """
    with torch.no_grad(), pyro.validation_enabled(False):
        for args, kwargs in calls:
            model_trace, guide_trace = run_pair(pair, *args, **kwargs)
            for role, trace in (("guide", guide_trace), ("model", model_trace)):
                trace.compute_log_prob()
                for name, site in trace.nodes.items():
                    if site["type"] == "sample" and not _site_is_finite(site):
                        return NonFiniteError(_describe_site(what, role, name, site))
    return NonFiniteError(
        f"{what} is not finite, but every site's log density is: their sum overflowed, or the objective "
        "itself makes it so."
    )


def _site_is_finite(site: Mapping[str, Any]) -> bool:
    log_prob = scale_and_mask(site["unscaled_log_prob"], mask=site["mask"])
    return bool(site["value"].isfinite().all() and log_prob.isfinite().all())


def _describe_site(what: str, role: str, name: str, site: Mapping[str, Any]) -> str:
    fn = base_of(site["fn"])
    tensors = {"value": site["value"], "log density": site["unscaled_log_prob"]}
    for parameter in fn.arg_constraints:
        # Only the given one of probs and logits: torch derives the other from it.
        if parameter in vars(fn):
            tensors[parameter] = getattr(fn, parameter)
    lines = "\n".join(f"  {label}: {statistics(tensor)}" for label, tensor in tensors.items())
    return (
        f"{what} is not finite; the first bad numbers are at the {role}'s site "
        f"'{name}' ({type(fn).__name__}):\n{lines}\n"
        "Lower the learning rate, clip the gradient's norm, or look at the data."
    )


def statistics(tensor: Tensor) -> str:
    """Return a line with a tensor's shape, its finite values' range and mean, and the count of others."""
    finite = in_64_bits(tensor[tensor.isfinite()])
    shape = tuple(tensor.shape)
    bad = f"{int(tensor.isnan().sum())} NaN, {int(tensor.isinf().sum())} infinite of {tensor.numel()}"
    if not finite.numel():
        return f"shape {shape}, {bad}"
    low, high, mean = finite.min().item(), finite.max().item(), finite.mean().item()
    return f"shape {shape}, from {low:.4g} to {high:.4g}, mean {mean:.4g}, {bad}"
