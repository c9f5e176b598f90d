"""The latents of a trained model: which there are, their prior, and where the guide puts them for data.

Everything here runs the programs `model.model` and `model.guide`, and knows no particular model. Where a
function takes a `site`, the default is the continuous latent that the model samples last before the data:
z, or z1 in M1+M2.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from pyro import poutine
from pyro.distributions import Categorical, Independent
from pyro.poutine.trace_struct import Trace
from torch import Tensor, nn

from pyrovae.compute.devices import seeded
from pyrovae.diagrams import plate_diagram
from pyrovae.errors import InputError
from pyrovae.programs.devices import device_of
from pyrovae.programs.modes import evaluating
from pyrovae.programs.pair import Program
from pyrovae.programs.running import at_means, latent_sites, observed_sites

Codes = dict[str, Tensor]
"""Values of latents by site, `(N, *event_shape)` each."""

ROWS = 1000  # data that pass through a program at a time


@dataclass(frozen=True)
class Sites:
    """What a model's program says of itself.

    Attributes:
        data: the site that observes x.
        latents: the latents in the order in which they are sampled.
        codes: the latents; of a model without any (an autoencoder), what it computes deterministically.
        discrete: those of the latents that are classes.
        label: the site that observes y, if there is one.
        num_classes: C, its number of classes; 0 without it.
        edges: (parent, child), where the child's distribution is computed from the parent.
    """

    data: str
    latents: tuple[str, ...]
    codes: tuple[str, ...]
    discrete: frozenset[str]
    label: str | None
    num_classes: int
    edges: frozenset[tuple[str, str]]

    def descendants(self, name: str) -> set[str]:
        """All sites that depend on one, directly or through others."""
        return _reach(name, self.edges, frozenset())

    def ancestors(self, name: str, given: Iterable[str]) -> set[str]:
        """All sites that one depends on, once those that are given shield what lies behind them."""
        return _reach(name, {(child, parent) for parent, child in self.edges}, frozenset(given))


def _reach(start: str, edges: Iterable[tuple[str, str]], shut: frozenset[str]) -> set[str]:
    found: set[str] = set()
    stack = [start]
    while stack:
        end = stack.pop()
        new = {to for came, to in edges if came == end} - found - shut
        found |= new
        stack += new
    return found


@torch.no_grad()
def sites_of(model: nn.Module) -> Sites:
    """Run `model.model` once without and once with a class, and read off its sites."""
    program, x = _program(model), placeholder(model, 1)
    y = torch.zeros(1, dtype=torch.long, device=x.device)
    with evaluating(model), seeded(0, x.device):
        trace = _traced(program, x)
        given = _traced(program, x, y) if len(inspect.signature(program).parameters) > 1 else trace
        diagram = plate_diagram(poutine.uncondition(program), x)
    latents, data = tuple(latent_sites(trace)), observed_sites(trace)[-1]
    deterministic = [name for name in trace.observation_nodes if name not in observed_sites(trace)]
    labels = set(observed_sites(given)) - set(observed_sites(trace))
    label = next((name for name in labels if isinstance(given.nodes[name]["fn"], Categorical)), None)
    return Sites(
        data=data,
        latents=latents,
        codes=latents or tuple(deterministic),
        discrete=frozenset(n for n in latents if not trace.nodes[n]["value"].is_floating_point()),
        label=label,
        num_classes=0 if label is None else given.nodes[label]["fn"].probs.shape[-1],
        edges=diagram.generative_edges,
    )


def _program(model: nn.Module) -> Program:
    return model.model  # type: ignore[return-value]


def _traced(program: Program, *args: Tensor) -> Trace:
    return poutine.util.prune_subsample_sites(poutine.trace(program).get_trace(*args))


def placeholder(model: nn.Module, count: int) -> Tensor:
    """`count` data of zeros, for a program that asks for no more than their number.

    An autoencoder's asks for their shape too, since it encodes them, whatever becomes of the code.
    """
    x_shape = getattr(getattr(model, "likelihood", None), "x_shape", ())
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), None)
    return torch.zeros(count, *x_shape, dtype=dtype, device=device_of(model))


def run_forward(
    model: nn.Module,
    count: int,
    given: Mapping[str, Tensor],
    y: Tensor | None = None,
    means: bool = False,
) -> Trace:
    """Run the model as a generator: nothing is observed but the latents that are given.

    Args:
        model: a module with the program `model`, in evaluation mode.
        count: N, how many data.
        given: values `(N, *event_shape)` of latents.
        y: classes `(N,)`, for programs that have their site only then; a value to set is in `given` too.
        means: put what is not given at its mean, a class at its mode, rather than draw it.
    """
    program = poutine.condition(poutine.uncondition(_program(model)), data=dict(given))
    x = placeholder(model, count)
    return _traced(at_means(program) if means else program, *((x,) if y is None else (x, y)))


def code_site(model: nn.Module, site: str | None = None) -> str:
    """The continuous latent of that name, by default the one sampled last before the data.

    Raises:
        InputError: there is none.
    """
    sites = sites_of(model)
    names = [name for name in sites.codes if name not in sites.discrete]
    if not names or site not in (None, *names):
        asked = "" if site is None else f" '{site}'"
        known = ", ".join(repr(name) for name in names) or "none"
        raise InputError(f"{type(model).__name__} has no continuous latent{asked}; there are: {known}.")
    return site or names[-1]


def prior_site(model: nn.Module, site: str | None = None) -> str:
    """As `code_site`, of a latent that has a prior.

    Raises:
        InputError: there is none: the code is a function of the datum.
    """
    if not sites_of(model).latents:
        raise InputError(
            f"{type(model).__name__} has no prior over z, so it cannot generate: "
            "reconstruct or interpolate instead, or train a vae."
        )
    return code_site(model, site)


def num_classes(model: nn.Module) -> int:
    """C, the classes that a model knows.

    Raises:
        InputError: it knows none.
    """
    if not (classes := sites_of(model).num_classes):
        raise InputError(
            f"{type(model).__name__} has no classes: train m2, m1m2, pcvae or cpcvae on labelled data."
        )
    return classes


# The prior


@torch.no_grad()
def draw_latents(
    model: nn.Module, count: int, label: int | None = None, candidates: int = 100, seed: int = 0
) -> Codes:
    """Draws of all latents from the model, given the class if `label` is given.

    Given a class it is sampling-importance-resampling (Rubin 1987): of `count * candidates` draws with
    the class set, each is kept in proportion to the probability of the class at its site. Where the class
    comes first (M2), all are equally probable and `count` draws are exact; where it is predicted from z
    (PC-VAE), the draws approach p(z | y) as `candidates` grows.

    Args:
        model: a module with the programs `model` and `guide`.
        count: N, how many draws.
        label: the class.
        candidates: draws for each that is kept.
        seed: of the draws. The caller's random stream stays in place.

    Returns:
        Each latent's values, `(N, *event_shape)`, on the CPU.

    Raises:
        InputError: the model has no latent with a prior, or no such class; `count` or `candidates` is
            below 1.
    """
    for name, value in {"count": count, "candidates": candidates}.items():
        if value < 1:
            raise InputError(f"{name} is {value}; it must be at least 1.")
    prior_site(model)
    sites = sites_of(model)
    if label is not None and not 0 <= label < num_classes(model):
        raise InputError(f"class {label} was asked for; there are {sites.num_classes}, counted from 0.")
    with evaluating(model), seeded(seed, device_of(model)):
        latents, log_weights = _draws(model, sites, count, label)
        if torch.allclose(log_weights, log_weights[:1]):
            return latents
        latents, log_weights = _draws(model, sites, count * candidates, label)
        kept = _systematic_resample(log_weights, count)
        return {name: values[kept] for name, values in latents.items()}


def _draws(model: nn.Module, sites: Sites, count: int, label: int | None) -> tuple[Codes, Tensor]:
    """Ancestral draws, and the log probability of the class in each (0 if none is given)."""
    parts, log_weights = [], []
    for rows in torch.zeros(count).split(ROWS):
        y, given = None, {}
        if label is not None and sites.label is not None:
            y = torch.full((len(rows),), label, device=device_of(model))
            given = {sites.label: y}
        trace = run_forward(model, len(rows), given, y)
        parts.append({name: trace.nodes[name]["value"].cpu() for name in sites.latents})
        terms = [trace.nodes[name]["fn"].log_prob(value).cpu() for name, value in given.items()]
        log_weights.append(sum(terms, rows))
    return joined(parts), torch.cat(log_weights)


def _systematic_resample(log_weights: Tensor, count: int) -> Tensor:
    """Indices, each expected as often as its weight says and repeated as seldom as can be: where evenly
    spaced points behind one random start fall among the cumulated weights (Kitagawa 1996)."""
    cumulated = log_weights.double().softmax(0).cumsum(0)
    points = (torch.arange(count) + torch.rand(())) / count
    return torch.searchsorted(cumulated, points * cumulated[-1]).clamp(max=len(cumulated) - 1)


def prior_quantiles(
    model: nn.Module, levels: Sequence[float], site: str | None = None, draws: int = 10_000, seed: int = 0
) -> Tensor:
    """The prior's quantiles in each dimension of a latent, estimated from draws: `(Q, M)`.

    Raises:
        InputError: the model has no such latent with a prior.
    """
    values = draw_latents(model, draws, seed=seed)[prior_site(model, site)]
    return values.quantile(torch.tensor(levels).to(values), dim=0)


@torch.no_grad()
def prior_density(
    model: nn.Module, points: Tensor, site: str | None = None, draws: int = 1000, seed: int = 0
) -> Tensor:
    """The prior's density in each dimension of a latent, at points on the axis: `(P,)` to `(P, M)`.

    It is the mean of the site's densities over draws of what the site depends on: exact where it depends
    on nothing. If they do not factorise over dimensions, a histogram of the draws stands for them.

    Raises:
        InputError: the model has no such latent with a prior.
    """
    site = prior_site(model, site)
    with evaluating(model), seeded(seed, device_of(model)):
        node = run_forward(model, draws, {}).nodes[site]
    fn, values = node["fn"], node["value"]
    if isinstance(fn, Independent) and fn.base_dist.event_shape == ():
        return fn.base_dist.log_prob(points.to(values)[:, None, None]).exp().mean(1).cpu()
    return torch.stack([_histogram_density(column, points) for column in values.cpu().T], -1)


def _histogram_density(values: Tensor, points: Tensor) -> Tensor:
    heights, edges = torch.histogram(values.double(), bins=40, density=True)
    cells = torch.searchsorted(edges, points.double()) - 1
    inside = (cells >= 0) & (cells < len(heights))
    return heights[cells.clamp(0, len(heights) - 1)] * inside


# The posterior


@torch.no_grad()
def latent_codes(model: nn.Module, x: Tensor) -> Codes:
    """Every latent of data `(N, *x_shape)` where the guide has it: at its mean, a class at its mode.

    A model without latents, such as an autoencoder, has as codes what it computes by `pyro.deterministic`.
    """
    names, device = sites_of(model).codes, device_of(model)
    with evaluating(model):
        return joined(_codes(model, part.to(device), names) for part in x.split(ROWS))


def _codes(model: nn.Module, x: Tensor, names: Iterable[str]) -> Codes:
    guide_trace = poutine.trace(at_means(model.guide)).get_trace(x)  # type: ignore[arg-type]
    model_trace = poutine.trace(poutine.replay(_program(model), trace=guide_trace)).get_trace(x)
    return {name: model_trace.nodes[name]["value"].cpu() for name in names}


def latent_means(model: nn.Module, x: Tensor, site: str | None = None) -> Tensor:
    """The posterior's mean for each datum (an autoencoder's code): `(N, M)`.

    What it depends on besides x stands at its own mean, a class at its mode.

    Raises:
        InputError: there is no such latent.
    """
    return latent_codes(model, x)[code_site(model, site)]


@torch.no_grad()
def posterior_draws(model: nn.Module, x: Tensor, site: str | None = None, seed: int = 0) -> Tensor:
    """One draw from the guide for each datum, `(N, M)`: together, draws of the aggregated posterior.

    Raises:
        InputError: there is no such latent, or the code is a function of the datum.
    """
    site, device = prior_site(model, site), device_of(model)
    with evaluating(model), seeded(seed, device):
        guide = poutine.trace(model.guide)
        return torch.cat(
            [guide.get_trace(part.to(device)).nodes[site]["value"].cpu() for part in x.split(ROWS)]
        )


def joined(parts: Iterable[Codes]) -> Codes:
    """Codes of parts of the data, one after another."""
    whole = list(parts)
    return {name: torch.cat([part[name] for part in whole]) for name in whole[0]}
