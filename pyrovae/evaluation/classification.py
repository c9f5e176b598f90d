"""Classification by a pair: by its own classifier, or by the marginal likelihoods of the classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyrovae.compute.devices import seeded
from pyrovae.compute.precision import in_64_bits
from pyrovae.data.checks import check_data
from pyrovae.errors import InputError, check_counts
from pyrovae.evaluation.chunking import in_chunks
from pyrovae.evaluation.importance import Further, Sampling, check_num_samples, over_log_weights
from pyrovae.evaluation.statistics import log_mean
from pyrovae.programs.classes import categorical_latents, class_site, takes_classes
from pyrovae.programs.devices import back_to_caller, device_of
from pyrovae.programs.given import with_classes_of, with_given
from pyrovae.programs.log_weights import Scores, by_value
from pyrovae.programs.modes import evaluating, nothing_moves
from pyrovae.programs.pair import ModelAndGuide, takes_pair, with_programs
from pyrovae.programs.rows import Arguments
from pyrovae.programs.running import AtMeans, at_means, run_pair
from pyrovae.programs.sites import observed_sites
from pyrovae.programs.structure import Structure


@torch.no_grad()
@takes_pair
@back_to_caller
def class_probabilities(
    pair: ModelAndGuide,
    x: Tensor,
    *,
    given: Mapping[str, Any] | None = None,
    site: str | None = None,
    batch_size: int = 1000,
    num_samples: int = 100,
    seed: int = 0,
) -> Tensor:
    """Return the class probabilities of the pair's own classifier.

    The classifier is the guide's q(y | x), or the model's p(y | z) if the guide has no class. If the class
    is a latent of the model alone, as in a mixture, the probabilities are p(y | x), estimated by importance
    sampling with the guide's draws.

    Other latents that the classifier depends on are set to the guide's means: a PC-VAE's z, M1+M2's z1. A
    mean without a closed form, such as that of a flow, is the average of 100 draws. Latents that all data
    share, such as the weights of a Bayesian network, and those without a mean, such as Cauchy variables,
    are drawn, and the probabilities are averaged.

    Args:
        pair: a pair whose programs are called as `model(x, y)` and `guide(x)`.
        x: the data, `(N, *x_shape)`.
        given: further arguments of both programs by name, as in `fit`. None means nothing.
        site: the name of the class's site. None means the categorical site that observes the classes in
            `model(x, y)`; in a pair without one, its only categorical latent.
        batch_size: the number of data that are classified at a time.
        num_samples: the number of draws of latents that all data share, or that have no mean; and of the
            guide for each datum where the model alone has the class. Otherwise it is not used.
        seed: the seed of all draws. The caller's random stream does not change.

    Returns:
        Probabilities, `(N, C)`, where x is.

    Raises:
        InputError: neither program has a categorical site of that name, or there is no class site.
    """
    check_counts(num_samples=num_samples, batch_size=batch_size)
    pair, data = with_given(pair, x, None, given)
    check_num_samples(num_samples, len(x))
    device = device_of(pair, otherwise=x.device)
    few = data.rows(slice(2)).to(device)
    name = site if site is not None else _class_site(pair, few.rows(slice(1)))
    found = Structure(pair, *few)
    if name in found.model_only and name not in found.predicted:
        return _in_model_alone(pair, data, Sampling(num_samples, seed, enumerate=True))
    drawn = [name for name in found.drawn if found[name].scope == "global"]
    total: Any = 0.0
    with evaluating(pair), seeded(seed, device):
        centre = AtMeans()
        poutine.trace(centre(pair.guide)).get_trace(*few.args, **few.kwargs)
        drawn += [name for name in centre.drawn if name not in drawn]
    with evaluating(pair), seeded(seed, device):
        for _ in range(num_samples if drawn else 1):
            drawing = with_programs(pair, guide=_Drawn(drawn)(pair.guide)) if drawn else pair
            of_rows = partial(_probabilities, drawing, name, device, data)
            parts, batch_size = in_chunks(of_rows, len(x), batch_size)
            total = total + torch.cat(parts)
    return (total / num_samples if drawn else total).cpu()


def _in_model_alone(pair: ModelAndGuide, data: Arguments, sampling: Sampling) -> Tensor:
    """Return p(y | x) of a class that the model alone has, `(N, C)`, by importance sampling."""

    def summary(scores: Scores, log_weights: Tensor) -> Tensor:
        return in_64_bits(log_weights).logsumexp(0).softmax(0).T.cpu()

    of_class = Further({}, lambda *run: [by_value(*run)], count=1, size=1)
    _, parts = over_log_weights(summary, pair, data, sampling, of_class)
    return torch.cat(parts).to(data.args[0].dtype)


class _Drawn(Messenger):
    """Draws the named latents, also within `at_means`."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = names

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.names and msg["value"] is None:
            msg["value"] = msg["fn"]()


def _class_site(pair: ModelAndGuide, data: Arguments) -> str:
    if found := class_site(pair, data.args[0], data.kwargs):
        return found.name
    latents = categorical_latents(Structure(pair, *data))
    if len(latents) == 1:
        return latents[0]
    if latents:
        raise InputError(
            f"the pair has several categorical sites, {', '.join(latents)}: name one by site=."
        )
    raise _no_classifier("")


def _no_classifier(site: str) -> InputError:
    return InputError(
        f"the programs have no categorical site{site} to classify by: train m2, m1m2, pcvae or "
        "cpcvae, or fit a classifier of scikit-learn to the latent means."
    )


def _probabilities(
    pair: ModelAndGuide, site: str, device: torch.device, data: Arguments, rows: slice
) -> Tensor:
    (x,), kwargs = data.rows(rows).to(device)
    trace = poutine.trace(at_means(pair.guide)).get_trace(x, **kwargs)
    if site not in trace.nodes and takes_classes(pair.model, kwargs):
        # The class is downstream of z; whichever value is observed, its distribution is the same.
        any_class = torch.zeros(len(x), dtype=torch.long, device=x.device)
        trace = poutine.trace(poutine.replay(pair.model, trace=trace)).get_trace(x, any_class, **kwargs)
    probabilities = getattr(trace.nodes[site]["fn"], "probs", None) if site in trace.nodes else None
    if probabilities is None or probabilities.shape[:-1].numel() not in (1, len(x)):
        raise _no_classifier(f" '{site}'")
    num_classes = probabilities.shape[-1]  # the plate of the data may have any dimension
    return torch.broadcast_to(probabilities.reshape(-1, num_classes), (len(x), num_classes))


def error_rate(probabilities: Tensor, y: Tensor) -> float:
    """Return the error rate in %: the share of data whose most probable class is wrong.

    Args:
        probabilities: `(N, C)`.
        y: the classes, `(N,)`.

    Raises:
        InputError: the classes are not one known class for each datum.
    """
    check_data(probabilities, y)
    return 100 * (probabilities.argmax(-1) != y.to(probabilities.device)).float().mean().item()


@takes_pair
def class_posterior(
    pair: ModelAndGuide,
    x: Tensor,
    num_classes: int,
    *,
    given: Mapping[str, Any] | None = None,
    num_samples: int = 100,
    seed: int = 0,
    progress: bool = False,
) -> Tensor:
    """Estimate p(y | x) = p(x, y) / sum_c p(x, c), where each term is importance-sampled over z.

    M2's guide has a q(y | x) of its own. A difference between the two is an error of the guide. All classes
    use the same random numbers.

    Args:
        pair: a pair whose programs are called as `model(x, y)` and `guide(x, y)`.
        x: the data, `(N, *x_shape)`.
        num_classes: C; the classes are 0, 1, ..., C - 1.
        given: further arguments of both programs by name, as in `fit`: the estimate is of p(y | x, given).
            None means nothing.
        num_samples: K, the number of draws of z for each datum and class.
        seed: the seed of the random draws. The caller's random stream does not change.
        progress: show a progress bar for each class.

    Returns:
        Probabilities, `(N, C)` in 64-bit, on the CPU.

    Raises:
        InputError: `num_classes` is below 2 or not that of the model; the model takes no classes, or does
            not use them; or for the reasons given at `marginal_likelihood`.
    """
    if num_classes < 2:
        raise InputError(f"num_classes is {num_classes}; it must be at least 2.")
    any_class = torch.zeros(len(x), dtype=torch.long, device=x.device)
    pair, data = with_given(pair, x, any_class, given)
    if not takes_classes(pair.model, data.kwargs):
        raise InputError(
            "the model takes no classes, model(x): write it as model(x, y=None) with obs=y at the class's "
            "site, or use class_probabilities(pair, x), if the class is a latent."
        )
    _check_num_classes(pair, data.rows(slice(1)), num_classes)
    sampling = Sampling(num_samples, seed, progress=progress)
    log_joint = []
    for label in range(num_classes):
        of_class = with_classes_of(pair, data._replace(args=(x,)), torch.full_like(any_class, label))
        _, parts = over_log_weights(_log_px, pair, of_class, sampling)
        log_joint.append(torch.cat(parts))
    if all(torch.equal(log_joint[0], other) for other in log_joint):
        raise InputError(
            "log p(x, y) is the same for every class y, so the model does not use the class: give a model "
            "whose likelihood or classifier does, such as M2 or PCVAE."
        )
    return torch.stack(log_joint, -1).softmax(-1)


def _log_px(scores: Scores) -> Tensor:
    return log_mean(scores.log_weights).cpu()


def _check_num_classes(pair: ModelAndGuide, data: Arguments, num_classes: int) -> None:
    """Refuse a number of classes that differs from that of the site that observes them."""
    (x, y), kwargs = data.to(device_of(pair, otherwise=data.args[0].device))
    with nothing_moves(pair):
        trace, _ = run_pair(pair, x, y, **kwargs)
    for name in observed_sites(trace):
        known = getattr(trace.nodes[name]["fn"], "probs", y).shape[-1]
        if trace.nodes[name]["value"] is y and known != num_classes:
            raise InputError(f"num_classes is {num_classes}; site '{name}' has {known} classes.")
