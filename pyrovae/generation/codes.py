"""The codes of data: the latents that the guide gives to them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

import torch
from pyro import poutine
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrovae.compute.devices import seeded
from pyrovae.errors import InputError
from pyrovae.evaluation.chunking import in_chunks
from pyrovae.generation.generator import ROWS, Codes, Generator, joined
from pyrovae.programs.accounting import has_finite_support
from pyrovae.programs.devices import back_to_caller
from pyrovae.programs.modes import evaluating
from pyrovae.programs.pair import ModelAndGuide, takes_pair
from pyrovae.programs.rows import Arguments
from pyrovae.programs.running import AtMeans, traced
from pyrovae.programs.structure import Structure, Traces


@takes_pair
@back_to_caller
def code_site(
    pair: ModelAndGuide, site: str | None = None, *, given: Mapping[str, Any] | None = None
) -> str:
    """Return the name of a continuous latent.

    Args:
        pair: a pair.
        site: the name. None means the latent that the model samples last before the data.
        given: further arguments of both programs by name, such as a condition, with one row `(1, ...)`.
            None means nothing.

    Raises:
        InputError: there is no such latent.
    """
    return Generator(pair, given).code_site(site)


@takes_pair
@back_to_caller
def latent_codes(pair: ModelAndGuide, x: Tensor, *, given: Mapping[str, Any] | None = None) -> Codes:
    """Return the latents of data at the guide's means, and discrete ones, such as classes, at their
    modes.

    A mean without a closed form, such as that of a flow, is the average of `MEAN_DRAWS` = 100 draws of
    `pyrovae.programs.distributions`, with a fixed seed and the same noise for each datum. So it does not
    depend on the other data of the call. In a model without latents, such as an autoencoder,
    the codes are its `pyro.deterministic` sites. A latent that all data share has one value, its posterior
    mean, in its own shape.

    Args:
        pair: a trained pair.
        x: the data, `(N, *x_shape)`.
        given: further arguments of both programs by name, such as a condition. A tensor with N rows has one
            for each datum. None means nothing.

    Returns:
        Each latent's values by site, `(N, *event_shape)`, where the data are; one value if all data share
        it.

    Raises:
        InputError: a latent has no mean under the guide, such as a Cauchy variable.
    """
    generator = Generator(pair, given, x)
    return encoded(generator, exact=generator.code_names)


@takes_pair
@back_to_caller
def latent_means(
    pair: ModelAndGuide, x: Tensor, site: str | None = None, *, given: Mapping[str, Any] | None = None
) -> Tensor:
    """Return the posterior mean of a latent for each datum (of an autoencoder, the code).

    Other latents that it depends on are at their own means, discrete ones, such as classes, at their modes.
    A mean without a closed form, such as that of a flow, is the average of 100 draws with a fixed seed and
    the same noise for each datum. So it does not depend on the other data of the call.

    Args:
        pair: a trained pair.
        x: the data, `(N, *x_shape)`.
        site: the latent. None means the one that the model samples last before the data.
        given: further arguments of both programs by name, such as a condition. A tensor with N rows has one
            for each datum. None means nothing.

    Returns:
        `(N, M)`, where the data are; one value, in its own shape, of a latent that all data share.

    Raises:
        InputError: there is no such latent; `site` is None, and all data share each of several latents; or
            it, or a latent that it depends on, has no mean under the guide, such as a Cauchy variable: then
            draw it by `posterior_draws`.

    Example:
        >>> import torch
        >>> from pyrovae.generation import latent_means
        >>> from pyrovae.models import PPCA
        >>> latent_means(PPCA((4,), 2), torch.zeros(3, 4)).shape
        torch.Size([3, 2])
    """
    generator = Generator(pair, given, x)
    shared = [name for name in generator.code_names if name not in generator.discrete]
    if site is None and len(shared) > 1 and generator.shared.issuperset(shared):
        raise InputError(
            f"all data share each of the latents {', '.join(map(repr, shared))} of {generator.name}: "
            "latent_codes(pair, x) returns the means of all of them by name, and latent_means(pair, x, "
            f"site='{shared[0]}') that of one."
        )
    site = generator.code_site(site)
    return encoded(generator, exact=[site], only=[site])[site]


@torch.no_grad()
@takes_pair
@back_to_caller
def posterior_draws(
    pair: ModelAndGuide,
    x: Tensor,
    site: str | None = None,
    seed: int = 0,
    *,
    given: Mapping[str, Any] | None = None,
) -> Tensor:
    """Draw once from the guide for each datum. Together these are draws of the aggregated posterior.

    Args:
        pair: a trained pair.
        x: the data, `(N, *x_shape)`.
        site: the latent. None means the one that the model samples last before the data.
        seed: the seed of the random draws. The caller's random stream does not change.
        given: further arguments of both programs by name, such as a condition. A tensor with N rows has one
            for each datum. None means nothing.

    Returns:
        `(N, M)`, where the data are.

    Raises:
        InputError: there is no such latent, all data share it, or it is a function of the datum.
    """
    generator = Generator(pair, given, x)
    name = generator.prior_site(site)
    guide = poutine.trace(generator.pair.guide)

    def of_rows(rows: slice) -> Tensor:
        args, kwargs = generator.arguments(torch.arange(rows.start, rows.stop))
        drawn: Tensor = guide.get_trace(*args, **kwargs).nodes[name]["value"]
        return generator.by_rows(name, drawn).cpu()

    with evaluating(generator.pair), seeded(seed, generator.device):
        parts, _ = in_chunks(of_rows, len(x), ROWS)
    return torch.cat(parts)


def encoded(
    generator: Generator, exact: Collection[str] = (), only: Collection[str] | None = None
) -> Codes:
    """Do the work of `latent_codes` with an existing generator.

    A latent that has no mean is one draw, with a warning.

    Args:
        generator: the generator of data.
        exact: the latents that must be means.
        only: the latents that are wanted; None means all.

    Raises:
        InputError: one of these has no mean, or depends on a latent in the guide that has none.
    """
    wanted = [name for name in generator.code_names if only is None or name in only]
    with evaluating(generator.pair), seeded(0, generator.device), torch.no_grad():
        parts, _ = in_chunks(partial(_encoded, generator, wanted), generator.size, ROWS)
        codes = joined(parts)
        codes |= {n: values.cpu() for n, values in generator.shared_means.items() if n in wanted}
    without = generator.without_mean
    for name in exact if without else ():
        if cause := {name, *generator.before_in_guide(name)} & {*without}:
            raise _no_mean(generator, name, min(cause), without[min(cause)])
    if without and only is not None:
        behind = {*wanted}.union(*map(generator.before_in_guide, wanted))
        generator.without_mean = {name: fn for name, fn in without.items() if name in behind}
    generator.warn_of_draws()
    return {name: codes[name] for name in wanted}


def _encoded(generator: Generator, wanted: Collection[str], rows: slice) -> Codes:
    """Return the wanted codes that have a row for each datum."""
    data = generator.arguments(torch.arange(rows.start, rows.stop))
    centre = AtMeans(generator.shared_means)
    guide = poutine.trace(centre(generator.pair.guide)).get_trace(*data.args, **data.kwargs)
    model = AtMeans(generator.shared_means)(poutine.replay(generator.pair.model, trace=guide))
    nodes = traced(model, *data.args, **data.kwargs).nodes
    generator.without_mean |= centre.drawn
    of_data = [name for name in wanted if name not in generator.shared]
    codes = {name: nodes[name]["value"] for name in of_data}
    lacking = [name for name in of_data if name in generator.latents and name not in guide.nodes]
    if alone := {name: nodes[name]["fn"] for name in lacking}:
        codes |= _most_probable(generator, alone, guide, data)
    return {name: generator.by_rows(name, values).cpu() for name, values in codes.items()}


def _most_probable(generator: Generator, alone: Mapping[str, Any], guide: Trace, data: Arguments) -> Codes:
    """Return the most probable values of latents that the guide lacks, given its own and the data.

    Args:
        generator: the generator of data.
        alone: these latents' distributions by name.
        guide: the trace of the guide.
        data: the arguments of the call.

    Raises:
        InputError: a latent has no finite support, or there are too many values to try.
    """
    num_data = len(data.args[0])
    if nested := [name for name, fn in alone.items() if fn.batch_shape.numel() != num_data]:
        raise InputError(
            f"the guide of {generator.name} has no site for '{nested[0]}', which is not directly under the "
            "plate of the data, so its most probable values are not searched for: sample it in the guide."
        )
    finite = all(map(has_finite_support, alone.values()))
    supports = [fn.enumerate_support(expand=False) for fn in alone.values()] if finite else []
    if not supports or math.prod(map(len, supports)) > ROWS:
        raise InputError(
            f"the guide of {generator.name} has no site for {', '.join(map(repr, alone))}, and there are "
            "too many values to find the most probable ones: sample them in the guide."
        )
    points, scores = [], []
    for values in itertools.product(*supports):
        fns = zip(alone.items(), values, strict=True)
        points.append({name: value.expand(fn.shape()) for (name, fn), value in fns})
        model = poutine.condition(poutine.replay(generator.pair.model, trace=guide), data=points[-1])
        traces = Traces(traced(model, *data.args, **data.kwargs), None)
        log_p = Structure(generator.pair.model, *data, traces).log_p
        terms = [log_p[name] for name in (*generator.latents, *generator.data_sites)]
        scores.append(sum(terms[1:], terms[0]))
    best = torch.stack(scores).argmax(0)

    def of_best(name: str) -> Tensor:
        values = torch.stack([generator.by_rows(name, point[name]) for point in points])
        return generator.in_place(name, values[best, torch.arange(num_data, device=best.device)])

    return {name: of_best(name) for name in alone}


def _no_mean(generator: Generator, site: str, without: str, distribution: str) -> InputError:
    draw = f"posterior_draws(pair, x, site='{site}')"
    if site in generator.shared:
        draw = f"draw_latents(pair, 1)['{site}']"
    through = "" if without == site else f", on which '{site}' depends,"
    return InputError(
        f"'{without}' ({distribution}){through} has no mean under the guide: draw it by "
        f"{draw}, and take medians of several draws for a centre."
    )
