"""References for the tests of examples: a pair runs one copy at a time, on the data as they are given.

A grid of standard normal noise replaces the latent draws (Gauss-Hermite quadrature), and classes take each
of their values in turn. The evidence and the ELBO are then sums without random error. No code of the
library takes part, and no network gets a dimension that its author did not foresee.
"""

import itertools
import math
from dataclasses import dataclass
from functools import partial

import numpy
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger

from pyrovae import fit
from pyrovae.errors import InputError
from pyrovae.evaluation import marginal_likelihood
from pyrovae.objectives import ELBO, IWAE


@dataclass(frozen=True)
class Reference:
    """The log weights of one copy at a time, `(nodes, guide's classes, B)`, and the odds of their latents.

    The classes that only the model has are summed out in each weight.
    """

    log_weights: torch.Tensor
    log_nodes: torch.Tensor
    log_classes: torch.Tensor
    summed_out: bool
    classes_first: bool

    @property
    def log_px(self):
        """log p(x), `(B,)`."""
        return (self.log_weights + self.log_nodes[:, None, None]).logsumexp((0, 1))

    @property
    def elbo(self):
        """The ELBO, `(B,)`: E_q[log p - log q], where q holds the classes too."""
        return self._mean(self.log_weights - self.log_classes)

    @property
    def elbo_deviation(self):
        """The standard deviation of one draw of the ELBO, `(B,)`, with classes summed out or drawn."""
        terms = self.log_weights - self.log_classes
        if not self.summed_out:
            return self._mean((terms - self.elbo).square()).sqrt()
        terms = (self.log_classes.exp() * terms).sum(1)
        return (self.log_nodes.exp() @ (terms - self.elbo).square()).sqrt()

    def iwae(self, num_samples, draws=20_000):
        """The importance-weighted bound, `(B,)`, and the standard deviation of one estimate of it."""
        generator = torch.Generator().manual_seed(0)
        nodes, classes, num_data = self.log_weights.shape
        # Latents that follow the class are drawn anew for each class; those before it are shared.
        own = classes if self.classes_first else 1
        chosen = torch.multinomial(
            self.log_nodes.exp(), draws * num_samples * own, replacement=True, generator=generator
        ).reshape(draws, num_samples, own)
        total = torch.cat([self.log_weights[chosen[..., c % own], c] for c in range(classes)], 1)
        bounds = total.logsumexp(1) - math.log(num_samples)
        return bounds.mean(0), bounds.std(0)

    def _mean(self, terms):
        return (self.log_nodes[:, None, None].exp() * self.log_classes.exp() * terms).sum((0, 1))


def one_copy_at_a_time(pair, *args, nodes=12, without=(), factors_of_q=(), classes_first=True):
    """Return the reference of a pair whose latents are classes, or drawn by the guide from Gaussian noise.

    Args:
        pair: the pair.
        args: the arguments of both programs, the data first.
        nodes: the number of nodes in each latent dimension.
        without: names of factors and observed sites that are training terms, left out of all weights.
        factors_of_q: names of the guide's factors that belong to log q.
        classes_first: whether the latents with Gaussian noise are drawn after the guide's classes.
    """
    with torch.no_grad(), pyro.validation_enabled(False):
        guide, model = _run(pair, args, {}, None)
        values_of_guide = _all_values(guide)
        values_of_model = _all_values(model, besides=guide.nodes)
        grid, log_nodes = _grid(nodes, _size_of_noise(guide, len(args[0])), args[0].dtype)
        log_weights, log_classes = [], []
        for noise in grid:
            for classes in values_of_guide:
                parts = [_run(pair, args, classes | more, noise) for more in values_of_model]
                log_p = torch.stack([_sum(model, _given(model) - set(without)) for _, model in parts])
                guide = parts[0][0]
                drawn = set(guide.stochastic_nodes) - set(classes) | set(factors_of_q)
                log_weights.append(log_p.logsumexp(0) - _sum(guide, drawn))
                log_classes.append(_sum(guide, set(classes)) + torch.zeros_like(log_weights[-1]))
    shape = (len(grid), len(values_of_guide), -1)
    weights, classes = (torch.stack(each).reshape(shape).double() for each in (log_weights, log_classes))
    marked = (guide.nodes[name]["infer"].get("enumerate") for name in values_of_guide[0])
    return Reference(weights, log_nodes.double(), classes, all(marked), classes_first)


class _Copy(Messenger):
    """Gives classes their values, and the other latents what their distributions make of the noise."""

    def __init__(self, classes, noise):
        super().__init__()
        self.classes, self.noise = classes, noise

    def __enter__(self):
        self.used = 0
        return super().__enter__()

    def _pyro_sample(self, msg):
        if msg["is_observed"] or msg["value"] is not None or poutine.util.site_is_subsample(msg):
            return
        if msg["name"] in self.classes:
            msg["value"] = self.classes[msg["name"]].expand(msg["fn"].shape())
        elif self.noise is not None and not msg["fn"].has_enumerate_support:
            size = msg["fn"].event_shape.numel()
            eps = self.noise[self.used : self.used + size].reshape(msg["fn"].event_shape)
            self.used += size
            msg["value"] = _pushed(msg["fn"], eps)


def _pushed(fn, eps):
    if isinstance(fn, torch.distributions.TransformedDistribution):
        value = _pushed(fn.base_dist, eps)
        for transform in fn.transforms:
            value = transform(value)
        return value
    if isinstance(fn, dist.MultivariateNormal):
        return fn.loc + fn.scale_tril @ eps
    return fn.loc + fn.scale * eps if hasattr(fn, "loc") else _pushed(fn.base_dist, eps)


def _run(pair, args, classes, noise):
    guide = poutine.trace(_Copy(classes, noise)(pair.guide)).get_trace(*args)
    replayed = poutine.replay(pair.model, trace=guide)
    model = poutine.trace(_Copy(classes, None)(replayed)).get_trace(*args)
    return tuple(poutine.util.prune_subsample_sites(trace) for trace in (guide, model))


def _all_values(trace, besides=()):
    """Return every combination of the values of a trace's classes, as dictionaries by site."""
    latents = set(trace.stochastic_nodes) - set(besides)
    names = sorted(name for name in latents if trace.nodes[name]["fn"].has_enumerate_support)
    supports = [trace.nodes[name]["fn"].enumerate_support(expand=False) for name in names]
    return [dict(zip(names, values, strict=True)) for values in itertools.product(*supports)]


def _size_of_noise(guide, num_data):
    drawn = [guide.nodes[name]["fn"] for name in guide.stochastic_nodes]
    return sum(fn.event_shape.numel() for fn in drawn if not fn.has_enumerate_support)


def _grid(nodes, size, dtype):
    points, weights = numpy.polynomial.hermite_e.hermegauss(nodes)
    points, weights = torch.tensor(points, dtype=dtype), torch.tensor(weights / weights.sum())
    if not size:
        return torch.zeros(1, 0, dtype=dtype), torch.zeros(1)
    grid = torch.cartesian_prod(*[points] * size).reshape(-1, size)
    odds = torch.cartesian_prod(*[weights.log()] * size).reshape(-1, size).sum(1)
    return grid, odds


def _given(trace):
    return {name for name, site in trace.nodes.items() if site["type"] == "sample"}


def _sum(trace, names):
    """Return the log density of some sites of one copy for each datum, `(B,)`, with masks, without scales.

    A class that is masked has no density. Its C values, which all take part, then have 1/C each.
    """
    total = torch.zeros(())
    for name in names:
        site = trace.nodes[name]
        log_prob = site["fn"].log_prob(site["value"])
        if site["mask"] is not None:
            is_class = not site["is_observed"] and site["fn"].has_enumerate_support
            masked = -math.log(len(site["fn"].enumerate_support(expand=False))) if is_class else 0.0
            log_prob = torch.where(torch.as_tensor(site["mask"]), log_prob, masked)
        total = total + log_prob.reshape(-1, *log_prob.shape[-1:]).sum(0)
    return total


# Comparisons with the library


def assert_evidence(pair, *args, reference, num_samples=2000, largest_error=0.1):
    """The evidence of each datum is the reference's, within errors that are small enough to tell."""
    result = marginal_likelihood(pair, *args, num_samples=num_samples)
    off = (result.log_px - reference.log_px).abs()
    assert (off < 4.5 * result.std_error + 1e-4).all(), (result.log_px, reference.log_px)
    assert result.std_error.max() < largest_error
    error = (reference.elbo_deviation.square().sum() / num_samples).sqrt() / len(off)
    assert abs(result.elbo - reference.elbo.mean()) < 4.5 * error + 1e-4, (result.elbo, reference.elbo)
    return result


def assert_elbo(pair, *args, reference, repeats=300):
    """The objective's mean is the reference's ELBO."""
    exact, deviation = reference.elbo, reference.elbo_deviation
    _assert_bound(ELBO(), pair, args, exact, deviation, repeats)


def assert_iwae(pair, *args, reference, num_samples=3, repeats=300):
    """The objective's mean is the reference's importance-weighted bound."""
    exact, deviation = reference.iwae(num_samples)
    _assert_bound(IWAE(num_samples), pair, args, exact, deviation, repeats)


def _assert_bound(objective, pair, args, exact, deviation, repeats):
    """Many copies of each datum give as many independent estimates of its bound in one call."""
    many = [arg.repeat(repeats, *[1] * (arg.dim() - 1)) for arg in args]
    with torch.no_grad(), pyro.validation_enabled(False):
        bound = -float(objective.evaluate(pair, *many).loss) / repeats
    error = (deviation.square().sum() / repeats).sqrt()
    assert abs(bound - exact.sum()) < 4.5 * error + 1e-4, (bound, exact.sum(), error)


def assert_like_pyro(objective, pyro_objective, pair, *args, of=None, pyros_pair=None):
    """Value and gradients are those of an objective of Pyro on the same random numbers.

    Args:
        objective: an objective of the library.
        pyro_objective: the objective of Pyro.
        pair: a pair that is a module.
        args: the arguments of both programs.
        of: the parameters whose gradients are compared. None means all.
        pyros_pair: the pair that Pyro's objective gets. None means the same.
    """
    parameters = [value for value in pair.parameters() if value.requires_grad] if of is None else of
    results = []
    for each, given in ((objective, pair), (pyro_objective, pyros_pair or pair)):
        torch.manual_seed(3)
        loss = each.differentiable_loss(given.model, given.guide, *args)
        gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)
        results.append((loss.detach(), gradients))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


def unless_refused(evaluate, *names):
    """Return a result, or None if it is refused by an error that holds one of the names."""
    try:
        return evaluate()
    except InputError as error:
        _assert_one_of(names, str(error))
        return None


def _assert_one_of(names, message):
    assert any(name in message for name in names), message


def trained(pair, *data, **settings):
    """Train briefly and return the history."""
    adam = partial(torch.optim.Adam, lr=0.02)
    settings = {"epochs": 15, "batch_size": 16, "seed": 0, "optimizer": adam} | settings
    return fit(pair, *data, progress=False, device="cpu", compile="off", **settings)


def evidence_of_all(pair, *data, **settings):
    """Return the evidence of a whole data set and its standard error."""
    result = marginal_likelihood(pair, *data, joint=True, **settings)
    return float(result.log_px), float(result.std_error), float(result.khat)
