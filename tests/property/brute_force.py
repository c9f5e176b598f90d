"""Importance weights of random programs, written directly: every site is drawn and scored one at a time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from exact_answers import LOG_2PI, Network, Node, Weights
from program_description import Program
from torch import Tensor


class Draws(NamedTuple):
    """Draws of the guide and their densities.

    The dimensions of each tensor are: the classes that the model alone enumerates, those that the guide
    enumerates, S draws, B data (1 if all data make one network).
    """

    values: dict[Node, Tensor]
    log_p: Tensor
    log_q_drawn: Tensor
    log_q_enumerated: Tensor

    @property
    def elbo(self) -> Tensor:
        """The ELBO of each draw, with classes summed out, `(S, B)`."""
        terms = self.log_p - self.log_q_drawn - self.log_q_enumerated
        return _rows(self.log_q_enumerated.exp() * terms).sum(0)

    @property
    def log_weights(self) -> Tensor:
        """The importance weight of each draw, with classes summed out, `(S, B)`."""
        return _rows(self.log_p - self.log_q_drawn).logsumexp(0)


def draw(
    program: Program, weights: Weights, x: Tensor, num_samples: int, joint: bool, seed: int = 0
) -> Draws:
    """Draw from the guide, S times for each datum. A site has a draw of its own for each of the enumerated
    classes that its distribution depends on. In a network for each datum, global points are given, and have
    no density."""
    net = Network(program, weights, x, joint)
    generator = torch.Generator().manual_seed(seed)
    batch = 1 if joint else len(x)
    summed = net.classes(site for site in net.model_sites if site.role == "summed")
    enumerated = [
        node
        for site in program.guide_order
        if not site.is_normal and site.treatment == "enumerated"
        for node in net.nodes(site)
    ]
    rank = len(summed) + len(enumerated) + 2
    codes: dict[Node, Tensor] = {}
    values: dict[Node, Tensor] = {}
    for node, known in net.known.items():
        if not program[node.name].is_normal:
            codes[node] = known.reshape(*[1] * (rank - 1), -1)
        else:
            values[node] = known.reshape(*[1] * (rank - 1), known.shape[0], known.shape[-1])
    for position, node in enumerate([*summed, *enumerated]):
        size = program[node.name].size
        codes[node] = torch.arange(size).reshape(*[1] * position, size, *[1] * (rank - position - 1))
    start = torch.zeros([*[1] * (rank - 2), num_samples, batch], dtype=torch.double)
    drawn, log_q = _run_guide(net, codes, values, enumerated, start, generator)
    log_p = _score_model(net, codes, values, joint)
    log_p, drawn, log_q = torch.broadcast_tensors(log_p, drawn, log_q)
    for _ in summed:
        log_p = log_p.logsumexp(0)
        drawn, log_q = drawn[0], log_q[0]
    return Draws({n: _without(v, len(summed)) for n, v in values.items()}, log_p, drawn, log_q)


def _run_guide(
    net: Network,
    codes: dict[Node, Tensor],
    values: dict[Node, Tensor],
    enumerated: list[Node],
    start: Tensor,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Add the guide's draws to classes and values, and return log q of drawn and of enumerated nodes."""
    drawn, log_q = start, torch.zeros((), dtype=torch.double)
    rank, (num_samples, batch) = start.dim(), start.shape[-2:]
    for node in (node for site in net.program.guide_order for node in net.nodes(site)):
        if node in net.known:
            continue
        if net.program[node.name].is_normal:
            mean, scale = net.normal("q", node, codes, values)
            mean = _over(mean, rank, num_samples, batch)
            noise = torch.randn(mean.shape, generator=generator, dtype=torch.double)
            values[node] = mean + scale.exp() * noise
            drawn = drawn + _log_normal(noise, scale)
            continue
        logits = net.logits("q", node, codes, values)
        if node in enumerated:
            log_q = log_q + _chosen(logits, codes[node])
        else:
            logits = _over(logits, rank, num_samples, batch)
            codes[node] = _classes(logits, generator)
            drawn = drawn + _chosen(logits, codes[node])
    return drawn, log_q


def _score_model(
    net: Network, codes: Mapping[Node, Tensor], values: Mapping[Node, Tensor], joint: bool
) -> Tensor:
    """Return log p of all nodes; in a network for each datum, without global points."""
    log_p = torch.zeros((), dtype=torch.double)
    for node in _scored(net, joint):
        if net.program[node.name].is_normal:
            mean, scale = net.normal("p", node, codes, values)
            log_p = log_p + _log_normal((values[node] - mean) / scale.exp(), scale)
        else:
            log_p = log_p + _chosen(net.logits("p", node, codes, values), codes[node])
    return log_p


def bound(log_weights: Tensor, num_samples: int) -> tuple[Tensor, Tensor]:
    """The mean importance-weighted bound with K samples, and the variance of one bound, `(B,)` each."""
    groups = log_weights[: len(log_weights) // num_samples * num_samples]
    groups = groups.reshape(-1, num_samples, groups.shape[-1]).logsumexp(1) - math.log(num_samples)
    return groups.mean(0), groups.var(0)


def _rows(terms: Tensor) -> Tensor:
    """The enumerated classes as one dimension, `(R, S, B)`."""
    return terms.reshape(-1, *terms.shape[-2:])


def _scored(net: Network, joint: bool) -> Iterable[Node]:
    for site in net.model_sites:
        if joint or site.treatment != "point":
            yield from net.nodes(site)


def _without(value: Tensor, leading: int) -> Tensor:
    for _ in range(leading):
        value = value[0] if len(value) == 1 else value
    return value


def _over(parameter: Tensor, rank: int, num_samples: int, batch: int) -> Tensor:
    """Give parameters `(..., d)` a copy for each draw and datum."""
    full = parameter.reshape(*[1] * (rank + 1 - parameter.dim()), *parameter.shape)
    return full.expand(*full.shape[: rank - 2], num_samples, batch, full.shape[-1])


def _classes(logits: Tensor, generator: torch.Generator) -> Tensor:
    flat = torch.multinomial(logits.exp().reshape(-1, logits.shape[-1]), 1, generator=generator)
    return flat.reshape(logits.shape[:-1])


def _chosen(logits: Tensor, index: Tensor) -> Tensor:
    shape = torch.broadcast_shapes(index.shape, logits.shape[:-1])
    spread = logits.broadcast_to(*shape, logits.shape[-1])
    return spread.gather(-1, index.broadcast_to(shape).unsqueeze(-1)).squeeze(-1)


def _log_normal(noise: Tensor, scale: Tensor) -> Tensor:
    return (-0.5 * noise.square() - scale - 0.5 * LOG_2PI).sum(-1)
