"""Sum out several enumerated sites, under any plates and in Markov chains, by Pyro's own contraction.

    log sum_y p(x, y, z) / q(z | x, y)

over the values y of all enumerated sites together. The sum goes through the sites one after the other, as
in the forward algorithm, so its cost does not grow with the number of all combinations.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection
from typing import Any

from opt_einsum import shared_intermediates
from pyro.ops import packed
from pyro.ops.contract import contract_to_tensor
from pyro.poutine.trace_struct import Trace
from torch import Tensor


def summed_over_values(
    model_trace: Trace,
    guide_trace: Trace,
    log_p: Collection[str],
    log_q: Collection[str],
    density: Callable[[Any], Tensor],
    kept: Collection[str],
) -> Tensor:
    """Return the log weights with all enumerated sites summed out.

    Args:
        model_trace: a trace of the model in the leading layout, with its log densities.
        guide_trace: the trace of the guide whose draws it has.
        log_p: the names of the model's sites in the weight.
        log_q: the names of the guide's drawn sites in the weight.
        density: a function of a site that returns its log density without scale.
        kept: the names of the plates whose dimensions the result keeps. All others are summed over.

    Returns:
        The log weights, one dimension for each kept plate, in their order from the left.
    """
    guide_trace.pack_tensors()
    model_trace.pack_tensors(guide_trace.plate_to_symbol)
    symbols = model_trace.plate_to_symbol
    factors: OrderedDict[frozenset[str], list[Tensor]] = OrderedDict()
    dims: set[str] = set()
    for trace, names, sign in ((model_trace, log_p, 1), (guide_trace, log_q, -1)):
        for name in names:
            site = trace.nodes[name]
            plates = [frame.name for frame in site["cond_indep_stack"] if frame.vectorized]
            factor = packed.pack(sign * density(site), site["infer"]["_dim_to_symbol"])
            factors.setdefault(frozenset(symbols[name] for name in plates), []).append(factor)
            dims |= set(factor._pyro_dims) - set(symbols.values())
    target = [symbols[name] for name in kept]
    with shared_intermediates() as cache:
        result = contract_to_tensor(factors, dims, target_ordinal=frozenset(target), cache=cache)
    return result.permute([result._pyro_dims.index(symbol) for symbol in target])
