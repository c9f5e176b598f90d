"""Which class a pair of programs gives a datum: by its classifier, or by marginal likelihoods."""

from __future__ import annotations

import inspect
import math

import torch
from pyro import poutine
from torch import Tensor

from pyrovae.data.checks import check_data
from pyrovae.errors import InputError
from pyrovae.evaluation.importance import over_log_weights
from pyrovae.programs.devices import device_of
from pyrovae.programs.modes import evaluating
from pyrovae.programs.pair import ModelAndGuide, takes_pair
from pyrovae.programs.running import at_means, observed_sites, run_pair


@torch.no_grad()
@takes_pair
def class_probabilities(
    pair: ModelAndGuide, x: Tensor, *, site: str = "y", batch_size: int = 1000
) -> Tensor:
    """The pair's own classifier: the guide's q(y | x), or the model's p(y | z) if the guide has no class.

    Other latents the classifier depends on are set to the guide's means: a PC-VAE's z, M1+M2's z1.

    Args:
        model: a Pyro program `model(x, y)`.
        guide: a Pyro program `guide(x)`.
        x: the data, `(N, *x_shape)`.
        site: the class's name.
        batch_size: data that are classified at a time.

    Returns:
        Probabilities, `(N, C)`, on the CPU.

    Raises:
        InputError: neither program has a categorical site of that name.
    """
    device = device_of(pair, otherwise=x.device)
    with evaluating(pair):
        parts = [_probabilities(pair, part.to(device), site) for part in x.split(batch_size)]
    return torch.cat(parts).cpu()


def _probabilities(pair: ModelAndGuide, x: Tensor, site: str) -> Tensor:
    trace = poutine.trace(at_means(pair.guide)).get_trace(x)
    if site not in trace.nodes and len(inspect.signature(pair.model).parameters) > 1:
        # The class is downstream of z; whichever value is observed, its distribution is the same.
        any_class = torch.zeros(len(x), dtype=torch.long, device=x.device)
        trace = poutine.trace(poutine.replay(pair.model, trace=trace)).get_trace(x, any_class)
    probabilities = getattr(trace.nodes[site]["fn"], "probs", None) if site in trace.nodes else None
    if probabilities is None or probabilities.dim() != 2:
        raise InputError(
            f"the programs have no categorical site '{site}' to classify by: train m2, m1m2, pcvae or "
            "cpcvae, or fit a classifier of scikit-learn to the latent means."
        )
    return torch.broadcast_to(probabilities, (len(x), probabilities.shape[-1]))


def error_rate(probabilities: Tensor, y: Tensor) -> float:
    """The share, in %, of data whose most probable class `(N, C)` is not theirs `(N,)`.

    Raises:
        InputError: there is not one known class for each datum.
    """
    check_data(probabilities, y)
    return 100 * (probabilities.argmax(-1) != y).float().mean().item()


@takes_pair
def class_posterior(
    pair: ModelAndGuide,
    x: Tensor,
    num_classes: int,
    *,
    num_samples: int = 100,
    seed: int = 0,
    progress: bool = False,
) -> Tensor:
    """p(y | x) = p(x, y) / sum_c p(x, c), each term importance-sampled over z with its class given.

    M2's guide has a q(y | x) of its own; where the two differ, the guide is off. All classes share the
    same random numbers.

    Args:
        model: a Pyro program `model(x, y)` with an observed site for the class.
        guide: a Pyro program `guide(x, y)` with the remaining latent sites.
        x: the data, `(N, *x_shape)`.
        num_classes: C; the classes are 0, 1, ..., C - 1.
        num_samples: K, the draws of z for each datum and class.
        seed: of the draws. The caller's random stream stays in place.
        progress: show a progress bar for each class.

    Returns:
        Probabilities, `(N, C)` in 64-bit, on the CPU.

    Raises:
        InputError: `num_classes` is below 2 or not the model's, the model makes no use of a class, or what
            `marginal_likelihood` raises.
    """
    if num_classes < 2:
        raise InputError(f"num_classes is {num_classes}; there are at least 2 classes to tell apart.")
    _check_num_classes(pair, x[:1], num_classes)

    def log_mean(log_weights: Tensor) -> Tensor:
        return log_weights.logsumexp(0) - math.log(num_samples)

    log_joint = []
    for label in range(num_classes):
        y = torch.full((len(x),), label, device=x.device)
        parts = over_log_weights(
            log_mean, pair, x, y, num_samples, seed=seed, enumerate=False, progress=progress
        )
        log_joint.append(torch.cat(parts))
    if all(torch.equal(log_joint[0], other) for other in log_joint):
        raise InputError("log p(x, y) is the same for every class y: the model does not make use of it.")
    return torch.stack(log_joint, -1).softmax(-1)


def _check_num_classes(pair: ModelAndGuide, x: Tensor, num_classes: int) -> None:
    """Where the class is a categorical site, its distribution says how many there are."""
    x = x.to(device_of(pair, otherwise=x.device))
    y = torch.zeros(len(x), dtype=torch.long, device=x.device)
    with evaluating(pair):
        trace, _ = run_pair(pair, x, y)
    for name in observed_sites(trace):
        known = getattr(trace.nodes[name]["fn"], "probs", y).shape[-1]
        if trace.nodes[name]["value"] is y and known != num_classes:
            raise InputError(f"num_classes is {num_classes}; site '{name}' has {known} classes.")
