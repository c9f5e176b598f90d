"""Sum out several enumerated sites, under any plates and in Markov chains, by Pyro's own contraction.

    the log weight        log sum_y w_y,    w_y = p(x, y, z) / q(z | x, y)
    the term of the ELBO  sum_y q(y | x) [ log w_y - log q(y | x) ]

over the values y of all enumerated sites together. The sum goes through the sites one after the other, as
in the forward algorithm, so its cost does not grow with the number of all combinations.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from pyro.ops import packed
from pyro.ops.contract import contract_tensor_tree, contract_to_tensor
from pyro.ops.rings import LogRing
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrovae.errors import InputError
from pyrovae.programs.accounting import Accounting

Density = Callable[[Mapping[str, Any]], Tensor]
Contraction = Callable[[Trace, Trace, Accounting, Density, Mapping[str, int]], Tensor]
Tree = OrderedDict[frozenset[str], list[Any]]
"""Log densities by the symbols of their plates. Each tensor knows the symbols of its dimensions."""


def summed_over_values(
    model_trace: Trace, guide_trace: Trace, sites: Accounting, density: Density, kept: Mapping[str, int]
) -> Tensor:
    """Return the log weights with all enumerated sites summed out.

    Args:
        model_trace: a trace of the model in the leading layout, with its log densities.
        guide_trace: the trace of the guide whose draws it has.
        sites: the part of each site in the weights.
        density: a function of a site that returns its log density without scale.
        kept: the plates whose dimensions the result keeps, with their sizes. All others are summed over.

    Returns:
        The log weights, one dimension for each kept plate, in their order from the left.
    """
    symbols = _pack(model_trace, guide_trace)
    factors: Tree = OrderedDict()
    _add(factors, model_trace, sites.log_p, density, symbols)
    _add(factors, guide_trace, sites.log_q, lambda site: -density(site), symbols)
    target = {symbols[name]: size for name, size in kept.items()}
    return _contracted(factors, _value_dims(factors, symbols), target)


def expected_over_values(
    model_trace: Trace, guide_trace: Trace, sites: Accounting, density: Density, kept: Mapping[str, int]
) -> Tensor:
    """Return the terms of the ELBO, with the arguments of `summed_over_values`.

    The expectation of f under q is the derivative of log sum_y q(y) exp(t f(y)) at t = 0, which has the
    form of a log weight. The sites of the model alone are summed out first, since they are part of f.
    """
    symbols = _pack(model_trace, guide_trace)
    in_guide = [name for name in sites.summed_out if name not in sites.in_model_alone]
    log_q_values: Tree = OrderedDict()
    _add(log_q_values, guide_trace, in_guide, density, symbols)
    log_ratio: Tree = OrderedDict()
    _add(log_ratio, model_trace, sites.log_p, density, symbols)
    of_guide: Tree = OrderedDict()
    _add(of_guide, guide_trace, [*sites.log_q, *in_guide], lambda site: -density(site), symbols)
    in_model = _value_dims(log_ratio, symbols) - _value_dims(of_guide, symbols)
    log_ratio = contract_tensor_tree(log_ratio, in_model)
    for plates, terms in of_guide.items():
        log_ratio.setdefault(plates, []).extend(terms)
    target = {symbols[name]: size for name, size in kept.items()}
    some = next(term for terms in log_ratio.values() for term in terms)
    with torch.enable_grad():
        t = some.new_zeros(tuple(target.values())).requires_grad_()
        tilted: Tree = OrderedDict((plates, list(terms)) for plates, terms in log_q_values.items())
        for plates, terms in log_ratio.items():
            tilted.setdefault(plates, []).extend(_times(t, "".join(target), term) for term in terms)
        total = _contracted(tilted, _value_dims(tilted, symbols), target).sum()
        (expected,) = torch.autograd.grad(total, t, create_graph=total.requires_grad)
    expected = expected.nan_to_num(nan=-math.inf)  # a value that q draws and p excludes: 0 times -inf
    return expected if torch.is_grad_enabled() else expected.detach()


def _pack(model_trace: Trace, guide_trace: Trace) -> dict[str, str]:
    """Give each dimension of both traces a symbol, and return those of the plates by the plates' names."""
    guide_trace.symbolize_dims()
    model_trace.symbolize_dims(guide_trace.plate_to_symbol)
    symbols: dict[str, str] = model_trace.plate_to_symbol
    return symbols


def _add(
    tree: Tree, trace: Trace, names: Collection[str], density: Density, symbols: Mapping[str, str]
) -> None:
    """Add the log densities of sites to a tree."""
    for name in names:
        site = trace.nodes[name]
        plates = frozenset(symbols[frame.name] for frame in site["cond_indep_stack"] if frame.vectorized)
        try:
            factor = packed.pack(density(site), site["infer"]["_dim_to_symbol"])
        except ValueError as error:
            raise InputError(
                f"site '{name}' has a log density of shape {tuple(density(site).shape)}, which depends on "
                "an enumerated site whose dimension another site uses by now: iterate over "
                "pyro.markov(...) in both programs or in neither, with a history as long as the dependence "
                "on earlier sites (history=...)."
            ) from error
        tree.setdefault(plates, []).append(factor)


def _sizes(tree: Tree) -> dict[str, int]:
    """Return the size of each dimension by its symbol."""
    terms = [term for terms in tree.values() for term in terms]
    return {
        symbol: size for term in terms for symbol, size in zip(term._pyro_dims, term.shape, strict=True)
    }


def _value_dims(tree: Tree, symbols: Mapping[str, str]) -> set[str]:
    """Return the symbols of the dimensions of enumerated sites."""
    return set(_sizes(tree)) - set(symbols.values())


def _times(t: Tensor, dims: str, term: Any) -> Any:
    """Return a term times t. -log q of a value that q excludes, which is infinite, has no part in it."""
    bounded = term.where(term < math.inf, term.new_zeros(()))
    bounded._pyro_dims = term._pyro_dims
    t = t.view_as(t)
    t._pyro_dims = dims  # type: ignore[attr-defined]  # Pyro's packed tensors carry their dimensions
    left, right = packed.broadcast_all(t, bounded)
    product = left * right
    product._pyro_dims = left._pyro_dims
    return product


def _contracted(tree: Tree, dims: set[str], target: Mapping[str, int]) -> Tensor:
    """Sum a tree over dimensions of values and all plates but those of the target, in their order."""
    ring = LogRing(dim_to_size=dict(target))
    result = contract_to_tensor(tree, dims, target_ordinal=frozenset(target), ring=ring)
    return result.permute([result._pyro_dims.index(symbol) for symbol in target])
