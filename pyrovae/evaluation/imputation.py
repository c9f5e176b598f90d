"""Missing values, imputed by any pair: E[x_missing | x_observed], with its error and with intervals.

    E[x_d | x_observed] ~ sum_k w_k E[x_d | z_k] / sum_k w_k, w_k = p(x_observed, z_k) / q(z_k | x_observed)

with draws z_k of the guide. This is self-normalised importance sampling (Mattei & Frellsen 2019, section
4). A class that the guide enumerates is summed out: each of its values has a weight of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from pyro import poutine
from pyro.distributions import Categorical, MaskedDistribution
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrovae import small_tables
from pyrovae.compute import processes
from pyrovae.compute.indices import indices_checked
from pyrovae.compute.precision import in_64_bits
from pyrovae.data.checks import OBSERVED
from pyrovae.distributions.observed import check_observed_elements
from pyrovae.errors import InputError, check_counts
from pyrovae.evaluation.importance import Further, Sampling, over_log_weights
from pyrovae.evaluation.statistics import (
    JudgedByKhat,
    importance_statistics,
    is_poor_proposal,
    khat_line,
    warn_if_repeated,
    warn_if_unreliable,
)
from pyrovae.programs.devices import device_of
from pyrovae.programs.distributions import base_of, factors_of, name_of
from pyrovae.programs.given import with_given
from pyrovae.programs.layout import Layout
from pyrovae.programs.log_weights import Scores, by_value
from pyrovae.programs.modes import nothing_moves
from pyrovae.programs.pair import ModelAndGuide, takes_pair
from pyrovae.programs.rows import Arguments
from pyrovae.programs.running import traced
from pyrovae.programs.sites import observed_sites
from pyrovae.programs.structure import Structure
from pyrovae.programs.ways import needs_all

_ROWS, _COLUMNS = 6, 16  # the largest table of imputed data that a notebook shows
_FEW = 7  # the number of data that the model is tried on


@dataclass(frozen=True)
class Imputation(JudgedByKhat):
    """Data whose missing values are estimated, and what is known of these values.

    All tensors of the data's shape have an entry for each value. Where it was observed, `x`, `lower`,
    `upper` and `draws` have the value itself, and the other entries are 0.

    Attributes:
        x: the data with E[x_missing | x_observed] in the place of the missing values, `(N, *x_shape)`.
        std_error: the Monte-Carlo standard error of these expectations (delta method), `(N, *x_shape)`. It
            is NaN, unknown, with one draw, or where all draws of discrete latents are the same.
        std: the standard deviation of p(x_missing | x_observed), `(N, *x_shape)`.
        lower: the lower end of the interval that holds a missing value with probability `level`,
            `(N, *x_shape)`. As much probability lies below it as above the upper end.
        upper: the upper end, `(N, *x_shape)`.
        draws: data with draws of p(x_missing | x_observed), `(num_draws, N, *x_shape)`: multiple
            imputations. The missing values of a datum are drawn together.
        observed: true where a value was observed, `(N, *x_shape)`.
        khat: Pareto k-hat of the importance weights, `(N,)`, as in `MarginalLikelihood`. It is NaN for a
            datum without missing values.
        ess: the effective sample size, between 1 and K, `(N,)`; infinite for a datum without missing
            values.
        repeated: whether all K draws of latents that are discrete, and not enumerated, are the same,
            `(N,)`. What was not drawn does not enter, and no error shows this.
        level: the probability of the intervals.
        num_samples: K, the number of draws for each datum.
        notes: what the estimate leaves out, in words, as in `MarginalLikelihood`.
    """

    x: Tensor
    std_error: Tensor
    std: Tensor
    lower: Tensor
    upper: Tensor
    draws: Tensor
    observed: Tensor
    khat: Tensor
    ess: Tensor
    repeated: Tensor
    level: float
    num_samples: int
    notes: tuple[str, ...] = ()

    @property
    def is_poor_proposal(self) -> bool:
        """Whether k-hat is above its limit for more than a fifth of the data with missing values.

        Then the guide is a poor proposal, and the errors and intervals are too small.
        """
        return is_poor_proposal(self.khat[self._incomplete], self.num_samples)

    @property
    def _incomplete(self) -> Tensor:
        return ~_complete(self.observed)

    def _repr_html_(self) -> str:
        """Return the table that a notebook shows: the first incomplete data, if they are short vectors."""
        lines = str(self).splitlines()
        columns = self.observed[0].numel()
        if columns > _COLUMNS:
            return small_tables.html(("", ""), [line.split(":", 1) for line in lines])
        places = self._incomplete.nonzero().squeeze(1)[:_ROWS].tolist()
        values, known, std = (
            part.reshape(len(part), -1).tolist() for part in (self.x, self.observed, self.std)
        )
        rows = [
            (
                f"datum {n}",
                *(
                    f"{value:.4g}" if seen else f"{value:.3g} ± {spread:.2g}"
                    for value, seen, spread in zip(values[n], known[n], std[n], strict=True)
                ),
            )
            for n in places
        ]
        title = f"The first {len(rows)} incomplete data; ± is the standard deviation of an imputed value"
        return small_tables.html(("", *(f"x[{column}]" for column in range(columns))), rows, title, lines)

    def __str__(self) -> str:
        missing, incomplete = ~self.observed, self._incomplete
        count, total = int(missing.sum()), missing.numel()
        lines = [
            f"imputed  : {count} of {total} values ({100 * count / total:.1f} %), in "
            f"{int(incomplete.sum())} of {len(incomplete)} data (Monte Carlo, K = {self.num_samples})"
        ]
        if count:
            lines += [
                f"std      : {self.std[missing].mean():.3g} on average; the imputed values have a standard "
                f"error of {self.std_error[missing].nanmean():.2g} on average",
                f"k-hat    : {khat_line(self.khat[incomplete], self.num_samples)}; effective samples: "
                f"median {self.ess[incomplete].median():.0f} of {self.num_samples}",
            ]
        return "\n".join([*lines, *(f"note     : {note}" for note in self.notes)])


@takes_pair
def impute(
    pair: ModelAndGuide,
    x: Tensor,
    observed: Tensor,
    y: Tensor | None = None,
    *,
    given: Mapping[str, Any] | None = None,
    num_samples: int = 1000,
    level: float = 0.9,
    num_draws: int = 0,
    enumerate: bool = True,
    seed: int = 0,
    progress: bool = False,
) -> Imputation:
    """Estimate the missing values of data, E[x_missing | x_observed], with the guide as proposal.

    The programs are called as `model(x, observed=observed)`. In the models of `pyrovae.models` and with
    `pyrovae.distributions.masked`, the density is then that of the observed values. The model observes x at
    one site, where the elements of x are independent given the latents.

    Args:
        pair: a pair whose programs take `observed` by keyword. All of its sites lie under a plate of the
            data.
        x: the data, `(N, *x_shape)`. The values where `observed` is false do not matter; they may be NaN.
        observed: true where a value was observed, `(N, *x_shape)` of type `torch.bool`.
        y: classes `(N,)`. None means that the programs are called without classes.
        given: further arguments of both programs by name, as in `fit`. None means nothing.
        num_samples: K, the number of draws of the latents for each datum.
        level: the probability of the intervals, between 0 and 1.
        num_draws: the number of draws of p(x_missing | x_observed) that the result has: multiple
            imputations. They are drawn from the K draws with their weights.
        enumerate: sum exactly over the site that the guide marks for enumeration. If false, it is drawn.
        seed: the seed of the random draws. The caller's random stream does not change.
        progress: show a progress bar.

    Returns:
        The estimates in the type and on the device of the data, with errors, intervals and diagnostics.

    Raises:
        InputError: `observed` is no mask of the elements of x; K or `num_draws` is no count, or `level` is
            not between 0 and 1; the model does not observe x at one site of independent elements, its
            distribution there reads x or has no finite mean, or a density reads missing values; several
            sites are enumerated; or for the reasons given at `marginal_likelihood`.

    Warns:
        UserWarning: k-hat is above its limit for some data, or K is below 30, too few draws for k-hat; or
            all draws of the discrete latents are the same for some data.

    Example:
        >>> import torch
        >>> from pyrovae.evaluation import impute
        >>> from pyrovae.models import PPCA
        >>> x = torch.tensor([[1.0, torch.nan, 3.0], [torch.nan, 2.0, 1.0]])
        >>> result = impute(PPCA(3, 1), x, ~x.isnan())
        >>> result.x[0, [0, 2]]
        tensor([1., 3.])
    """
    check_observed_elements(observed, tuple(x.shape) if isinstance(x, Tensor) else None)
    if not 0 < level < 1:
        raise InputError(f"level is {level}; expected a probability between 0 and 1, such as 0.9.")
    if num_draws:
        check_counts(num_draws=num_draws)
    sampling = Sampling(num_samples, seed, enumerate, progress)
    beside = {} if given is None else given
    if isinstance(beside, Mapping):  # anything else is refused by with_given
        if OBSERVED in beside:
            raise InputError(
                f"given has '{OBSERVED}', an argument of impute itself: leave it out of given."
            )
        beside = {**beside, OBSERVED: observed}
    pair, data = with_given(pair, x, y, beside)
    device = device_of(pair, otherwise=x.device)
    with indices_checked(device, data):
        rows = _rows_to_run(pair, data)
    if not len(rows):
        return _scattered(x, observed, rows, [], level, num_draws, num_samples)
    part = data.rows(rows)
    with indices_checked(device, data):
        site = _site_of_data(pair, part.rows(slice(None, _FEW)).to(device))
    further = Further(_extras(site), partial(_columns, site), count=4, size=3 * math.prod(x.shape[1:]))
    summarise = partial(_summary, dtype=x.dtype, level=level, num_draws=num_draws)
    layout, parts = over_log_weights(summarise, pair, part, sampling, further)
    result = _scattered(x, observed, rows, parts, level, num_draws, num_samples, layout.notes)
    _warn(result)
    return result


def _complete(observed: Tensor) -> Tensor:
    """Return for each datum whether all its values were observed, `(N,)`, on the CPU."""
    return observed.reshape(len(observed), -1).all(1).cpu()


def _rows_to_run(pair: ModelAndGuide, data: Arguments) -> Tensor:
    """Return the data with missing values; all data if the pair runs on all of them only."""
    incomplete = ~_complete(data.kwargs[OBSERVED])
    device = device_of(pair, otherwise=data.args[0].device)
    some = 0 < int(incomplete.sum()) < len(incomplete)
    if some and needs_all(pair, data.to(device), int(incomplete.sum())):
        return torch.arange(len(incomplete))
    return incomplete.nonzero().squeeze(1)


# The site of the data


def _site_of_data(pair: ModelAndGuide, arguments: Arguments) -> str:
    """Return the name of the site that observes x.

    Raises:
        InputError: p(x_missing | z) is not known, because no single site observes x, its elements are not
            independent, or its distribution reads x; or it has no finite mean.
    """
    x, *others = arguments.args
    observed = arguments.kwargs[OBSERVED]
    x = x.where(observed, torch.zeros_like(x))  # NaN would hide what the distribution reads
    with nothing_moves(pair.model, pair.guide):
        found = Structure(pair, (x, *others), arguments.kwargs)
        trace, name = found.traces.model, _observing(found, x, observed)
        fn = trace.nodes[name]["fn"]
        elements = _elements(fn)
        if elements is None:
            raise InputError(
                f"site '{name}' has a {name_of(fn)}, whose elements are not independent given the latents, "
                "so the distribution of the missing ones is not known: use a likelihood of independent "
                "elements, such as Gaussian."
            )
        again = traced(poutine.replay(pair.model, trace=trace), x + 1, *others, **arguments.kwargs)
        value, after = elements.sample(), _elements(again.nodes[name]["fn"])
        assert after is not None
        if not torch.allclose(elements.log_prob(value), after.log_prob(value), 1e-4, 1e-5, equal_nan=True):
            raise InputError(
                f"the {name_of(fn)} of site '{name}' depends on x, so its elements are not independent "
                "given the latents, and the distribution of the missing ones is not known. If what it "
                'reads is known for all data, let it read another argument, given={"size": size}.'
            )
        mean = _mean(elements)
        if mean is not None and not mean.isfinite().all():
            raise InputError(
                f"site '{name}' has a {name_of(fn)} without a finite mean, so the missing values have no "
                "expectation: use a likelihood that has one, such as Gaussian."
            )
    return name


def _observing(found: Structure, x: Tensor, observed: Tensor) -> str:
    names, trace = [], found.traces.model
    for name in observed_sites(trace):
        value, axis = trace.nodes[name]["value"], found.data_axis(name)
        value = value if axis is None else value.movedim(axis, 0)
        if value.numel() == x.numel() and bool((value.reshape(x.shape) == x)[observed].all()):
            names.append(name)
    if len(names) != 1:
        sites = {name: tuple(trace.nodes[name]["value"].shape) for name in observed_sites(trace)}
        shapes = ", ".join(f"'{name}' of shape {shape}" for name, shape in sites.items())
        raise InputError(
            f"the model observes {shapes}, and the data x of shape {tuple(x.shape)} are the values of "
            f"{len(names)} of these sites; expected one: observe all of x at one site, with obs=x."
        )
    return names[0]


def _elements(fn: Any) -> Any:
    """Return the distribution of each element without its mask, or None if they are not independent."""
    elements = factors_of(fn)
    while isinstance(elements, MaskedDistribution):
        elements = factors_of(elements.base_dist)
    return elements


# Moments and draws of each element, in a run of copies


def _extras(name: str) -> dict[str, Callable[[Mapping[str, Any]], Tensor | None]]:
    """Return functions of a site that give mean, variance and draw of the elements of x at site `name`."""

    def at_site(part: Callable[[Any], Tensor | None], site: Mapping[str, Any]) -> Tensor | None:
        return part(_elements(site["fn"])) if site["name"] == name else None

    return {part.__name__: partial(at_site, part) for part in (_mean, _variance, _draw)}


def _mean(elements: Any) -> Tensor | None:
    return None if (moments := _moments(elements)) is None else moments[0]


def _variance(elements: Any) -> Tensor | None:
    return None if (moments := _moments(elements)) is None else moments[1]


def _moments(elements: Any) -> tuple[Tensor, Tensor] | None:
    """Return the mean and the variance of each element; None if they have no closed form."""
    if isinstance(base := base_of(elements), Categorical):
        levels = torch.arange(base.probs.shape[-1], device=base.probs.device, dtype=base.probs.dtype)
        mean = (base.probs * levels).sum(-1)
        return mean, (base.probs * (levels - mean.unsqueeze(-1)).square()).sum(-1)
    try:
        return elements.mean, elements.variance
    except NotImplementedError:
        return None


def _draw(elements: Any) -> Tensor:
    draw: Tensor = elements.sample()
    return draw


def _columns(name: str, model_trace: Trace, guide_trace: Trace, x: Tensor, layout: Layout) -> list[Tensor]:
    """Return the log weights `(K, C, B)`, and mean, variance and draw of x, `(K, C or 1, B, *x_shape)`.

    C is the number of values of the enumerated site; 1 if there is none. If the elements have no known
    moments, the draw is an estimate of the mean, with all of the variance.
    """
    site = model_trace.nodes[name]
    log_weights = by_value(model_trace, guide_trace, x, layout)

    def column(values: Tensor) -> Tensor:
        missing = 2 + layout.depth + site["fn"].event_dim - values.dim()
        values = values.reshape((*[1] * missing, *values.shape))
        values = values.movedim(layout.data_dim - site["fn"].event_dim, 2)
        values = values.reshape(*values.shape[:2], *x.shape).transpose(0, 1)
        return values.expand(len(log_weights), *values.shape[1:]).to(x.dtype)

    mean, variance, draw = (site[part.__name__] for part in (_mean, _variance, _draw))
    if mean is None:
        mean, variance = draw, torch.zeros_like(draw)
    return [log_weights, *map(column, (mean, variance, draw))]


# Sums over the draws


def _summary(
    scores: Scores,
    log_weights: Tensor,
    mean: Tensor,
    variance: Tensor,
    draw: Tensor,
    *,
    dtype: torch.dtype,
    level: float,
    num_draws: int,
) -> dict[str, Tensor]:
    """Return the attributes of an `Imputation` for some data, from their scores and `_columns`."""
    statistics = importance_statistics(scores, (), dtype)
    log_weights = in_64_bits(log_weights)
    weights = (log_weights - log_weights.flatten(0, 1).logsumexp(0)).exp()
    of_values = weights.reshape(*weights.shape, *[1] * (mean.dim() - 3))
    expected = (of_values * mean).sum((0, 1))
    centred = mean - expected
    # The delta method for a ratio of two means over the draws.
    terms = (of_values * centred).sum(1)
    correction = len(terms) / (len(terms) - 1) if len(terms) > 1 else math.nan
    error = (correction * terms.square().sum(0)).sqrt()
    unknown = statistics["std_error"].isnan()
    error[unknown.to(error.device)] = math.nan
    flat = weights.flatten(0, 1)
    values = draw.expand(*weights.shape, *draw.shape[3:]).flatten(0, 1)
    lower, upper = _interval(values, flat.reshape(*flat.shape, *[1] * (values.dim() - 2)), level)
    found = {
        "x": expected,
        "std_error": error,
        "std": (of_values * (variance + centred.square())).sum((0, 1)).sqrt(),
        "lower": lower,
        "upper": upper,
        "draws": _resampled(values, flat, num_draws),
    }
    return {name: value.to("cpu", dtype) for name, value in found.items()} | {
        name: statistics[name] for name in ("khat", "ess", "repeated")
    }


def _interval(values: Tensor, weights: Tensor, level: float) -> tuple[Tensor, Tensor]:
    """Return the ends of the interval between equal tails, for weighted draws `(R, B, *x_shape)`."""
    tail = (1 - level) / 2
    values, order = values.sort(0)
    weights = weights.expand(values.shape).gather(0, order)
    below = weights.cumsum(0)  # the weight of a draw and of those below it
    above = 1 - below + weights
    first, last = (below < tail).sum(0, keepdim=True), (above >= tail).sum(0, keepdim=True) - 1
    ends = (values.gather(0, index.clamp(0, len(values) - 1)).squeeze(0) for index in (first, last))
    lower, upper = ends
    return lower, upper


def _resampled(values: Tensor, weights: Tensor, count: int) -> Tensor:
    """Return draws in proportion to their weights: `(R, B, *x_shape)` to `(count, B, *x_shape)`."""
    if not count:
        return values[:0]
    chosen = torch.multinomial(weights.T, count, replacement=True).T
    return values[chosen, torch.arange(values.shape[1], device=values.device)]


def _scattered(
    x: Tensor,
    observed: Tensor,
    rows: Tensor,
    parts: list[dict[str, Tensor]],
    level: float,
    num_draws: int,
    num_samples: int,
    notes: tuple[str, ...] = (),
) -> Imputation:
    """Put the estimates of the data that were run beside the observed values and the other data."""
    observed = observed.to(x.device)

    def of_values(name: str, known: Tensor) -> Tensor:
        result = known.clone()
        dim = x.dim() - known.dim()  # draws come before the data
        if parts:
            found = torch.cat([part[name] for part in parts], -dim).to(x.device)
            result.index_copy_(-dim, rows.to(x.device), found)
        return known.where(observed, result)

    def of_data(name: str, otherwise: Any) -> Tensor:
        result = torch.full((len(x),), otherwise)
        if parts:
            found = torch.cat([part[name] for part in parts])
            result = result.to(found.dtype).index_copy(0, rows, found)
        return result.masked_fill(_complete(observed), otherwise)

    zero = torch.zeros_like(x)
    return Imputation(
        **{name: of_values(name, x) for name in ("x", "lower", "upper")},
        **{name: of_values(name, zero) for name in ("std_error", "std")},
        draws=of_values("draws", x.expand(num_draws, *x.shape)),
        observed=observed,
        khat=of_data("khat", math.nan),
        ess=of_data("ess", math.inf),
        repeated=of_data("repeated", False),
        level=level,
        num_samples=num_samples,
        notes=notes,
    )


def _warn(result: Imputation) -> None:
    if not processes.is_first():
        return
    consequence = (
        "the guide is a poor proposal, so the imputed values of all data may be off, and their errors and "
        "intervals are too small"
        if result.is_poor_proposal
        else "their imputed values, errors and intervals are not reliable"
    )
    warn_if_unreliable(result.khat[result._incomplete], result.num_samples, consequence)
    warn_if_repeated(result.repeated, result.num_samples, "the imputed values")
