"""Sums over the values of enumerated sites, by Pyro's algorithms for tensors whose dimensions have names.

A packed tensor has one symbol for each dimension: an even letter for a plate, an odd one for an enumerated
site. So a dimension that `pyro.markov` uses for two sites is not taken for one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pyro.infer.traceenum_elbo import _find_ordinal
from pyro.ops.contract import contract_tensor_tree
from pyro.ops.rings import LogRing
from pyro.poutine.trace_struct import Trace

from pyrovae.errors import InputError
from pyrovae.programs.densities import enumerated_sites
from pyrovae.programs.sites import role_of

Ordinal = frozenset[str]
"""The symbols of the plates that a density lies under."""

Packed = Any
"""A tensor with a symbol for each dimension, in its attribute `_pyro_dims`."""

Factors = Mapping[Ordinal, list[Packed]]
"""Packed log densities by the plates that they lie under."""


def pack(model_trace: Trace, guide_trace: Trace) -> tuple[Trace, Trace]:
    """Give the log densities of both traces named dimensions, and leave deterministic sites out.

    Raises:
        InputError: a log density has a dimension that is neither a plate nor an enumerated site.
    """
    model_trace, guide_trace = (_without_deterministic(trace) for trace in (model_trace, guide_trace))
    with readable(model_trace, guide_trace):
        guide_trace.pack_tensors()
        model_trace.pack_tensors(guide_trace.plate_to_symbol)
    return model_trace, guide_trace


def ordinal_of(trace: Trace, name: str) -> Ordinal:
    """Return the symbols of the plates of a site of a packed trace."""
    found: Ordinal = _find_ordinal(trace, trace.nodes[name])
    return found


def contracted(factors: Factors, sum_dims: Collection[str]) -> list[tuple[Ordinal, Packed]]:
    """Sum products of factors over the dimensions of enumerated sites. Values are logarithms.

    Returns:
        The logarithms of the sums, one for each independent group of factors, with the plates of each.
    """
    tree: OrderedDict[Ordinal, list[Packed]] = OrderedDict(factors)
    tree = contract_tensor_tree(tree, set(sum_dims), ring=LogRing(dim_to_size=_sizes(tree)))
    return [(ordinal, term) for ordinal, terms in tree.items() for term in terms]


def _sizes(factors: Factors) -> dict[str, int]:
    terms = [term for terms in factors.values() for term in terms]
    return {dim: size for term in terms for dim, size in zip(term._pyro_dims, term.shape, strict=True)}


def _without_deterministic(trace: Trace) -> Trace:
    copy = trace.copy()
    for name, site in trace.nodes.items():
        if site["type"] == "sample" and role_of(site) == "deterministic":
            del copy.nodes[name]
    return copy


@contextmanager
def readable(model_trace: Trace, guide_trace: Trace) -> Iterator[None]:
    """Turn errors of Pyro's algorithms into errors that name the sites.

    Raises:
        InputError: the sites have dimensions or dependences that Pyro cannot sum over.
    """
    try:
        yield
    except (ValueError, NotImplementedError) as error:
        if isinstance(error, InputError):
            raise
        sites = sorted({*enumerated_sites(guide_trace), *enumerated_sites(model_trace)})
        reason = " ".join(str(error).split("\nTrace Shapes")[0].split())
        raise InputError(
            f"the values of {', '.join(map(repr, sites)) or 'the sites'} cannot be summed over, since Pyro "
            f"reports: {reason} Each dimension of a log density must be a plate of its site or the values "
            "of one enumerated site. A site outside of a plate must not depend on enumerated sites within "
            "it. Mend the shapes, or draw the site without infer={'enumerate': 'parallel'}."
        ) from error
