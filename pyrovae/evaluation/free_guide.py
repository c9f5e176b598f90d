"""A guide set free of its networks: the same families, with parameters of each datum's own.

Whatever program the guide is, a handler replaces the distribution of each of its latent sites by one of
the same family whose parameters are leaf tensors, one set for each datum, that start where the networks
put them. In place of one function for all data, each datum can then have its best q.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.distributions import constraints, transform_to

from pyrovae.distributions import HasFreeParameters
from pyrovae.errors import InputError
from pyrovae.programs.densities import enumerated_sites
from pyrovae.programs.log_weights import Layout, enumerated
from pyrovae.programs.pair import Program
from pyrovae.programs.running import latent_sites

# Of parameters that are derived from one another, those to leave out.
_DERIVED = {"scale_tril": {"covariance_matrix", "precision_matrix"}, "logits": {"probs"}}


class FreeGuide:
    """A guide with free parameters for each of the data that it was made for; call it as the guide.

    Args:
        guide: a Pyro program whose latents are independent of one another given the data, other than
            through sites that it marks for enumeration.
        args: what both are called with; the data first.
        layout: of the pair's log densities.

    Raises:
        InputError: a latent depends on what was drawn at another one, is neither enumerated nor
            reparameterised, or is of a family whose parameters are not known.
    """

    def __init__(self, guide: Program, args: tuple[Any, ...], layout: Layout) -> None:
        self.guide, self.num_data = guide, len(args[0])
        distributions = _distributions(guide, args, layout)
        self._check_independent(distributions, _distributions(guide, args, layout))
        self.leaves: dict[str, dict[str, Tensor]] = {}
        self._transforms: dict[str, dict[str, Any]] = {}
        self._data_dims: dict[str, int] = {}
        for name, fn in distributions.items():
            values = _parameters(name, fn)
            self._transforms[name] = {key: _transform(name, fn, key) for key in values}
            self.leaves[name] = {
                key: _leaf(self._transforms[name][key].inv(value)) for key, value in values.items()
            }
            self._data_dims[name] = len(fn.batch_shape) - 1

    def __call__(self, *args: Any) -> Any:
        """Run the guide with its parameters as they are now.

        Raises:
            InputError: these are not as many data as it has parameters for.
        """
        if len(args[0]) != self.num_data:
            raise InputError(
                f"{len(args[0])} data for a guide with parameters of its own for each of {self.num_data}: "
                "call it with the data that it was made for."
            )
        free = {
            name: {key: self._transforms[name][key](leaf) for key, leaf in leaves.items()}
            for name, leaves in self.leaves.items()
        }
        with _Replace(free):
            return self.guide(*args)

    def parameters(self) -> list[Tensor]:
        """The leaves, unconstrained; batch shape first, the data's dimension last in it."""
        return [leaf for leaves in self.leaves.values() for leaf in leaves.values()]

    def state(self) -> list[Tensor]:
        """A copy of the leaves."""
        return [leaf.detach().clone() for leaf in self.parameters()]

    @torch.no_grad()
    def put_back(self, state: list[Tensor], where: Tensor) -> None:
        """Set the leaves to an earlier state, for the data at which `where`, `(B,)`, is true."""
        dims = [self._data_dims[name] for name, leaves in self.leaves.items() for _ in leaves]
        for leaf, old, dim in zip(self.parameters(), state, dims, strict=True):
            mask = where.to(leaf.device).reshape(-1, *[1] * (leaf.dim() - dim - 1))
            leaf.copy_(torch.where(mask, old, leaf))

    @staticmethod
    def _check_independent(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
        """Two runs that drew differently must have made the same distributions."""
        for name, fn in one.items():
            again = _parameters(name, other[name])
            for key, value in _parameters(name, fn).items():
                if value.shape != again[key].shape or not torch.allclose(value, again[key], rtol=1e-5):
                    raise InputError(
                        f"the guide's site '{name}' depends on what was drawn at another site "
                        f"({key} differs between two runs): with parameters of its own it would leave "
                        "the guide's family, so that there is no best q to compare with. Gaps are for "
                        "guides whose latents are independent given the data and enumerated classes."
                    )


class _Replace(Messenger):
    """Puts the given parameters into the distributions of the sites."""

    def __init__(self, parameters: Mapping[str, Mapping[str, Tensor]]) -> None:
        super().__init__()
        self.parameters = parameters

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.parameters:
            msg["fn"] = _rebuilt(msg["fn"], self.parameters[msg["name"]])


def stick_the_landing(guide_trace: Trace) -> None:
    """Let log q's gradient reach the parameters through the draws alone (Roeder et al. 2017).

    The part that is left out is 0 in expectation. Without it the gradient has no noise where q is the
    posterior, so that the best q is found exactly if it is exact. A flow keeps that part: it scores its own
    draw, in the pass that made it.
    """
    for name in set(latent_sites(guide_trace)) - set(enumerated_sites(guide_trace)):
        site = guide_trace.nodes[name]
        if not _offers_parameters(_base(site["fn"])):
            parameters = _parameters(name, site["fn"])
            site["fn"] = _rebuilt(site["fn"], {key: value.detach() for key, value in parameters.items()})


def _distributions(guide: Program, args: tuple[Any, ...], layout: Layout) -> dict[str, Any]:
    """The distribution of each latent as the guide's own plates have made it."""
    with torch.no_grad():
        trace = poutine.trace(enumerated(guide, layout)).get_trace(*args)
    trace = poutine.util.prune_subsample_sites(trace)
    for name in latent_sites(trace):
        site = trace.nodes[name]
        if not (site["fn"].has_rsample or site["infer"].get("enumerate") == "parallel"):
            raise InputError(
                f"the guide's site '{name}' ({_name(site['fn'])}) is neither reparameterised nor "
                "enumerated, so that no gradient leads to its best parameters: mark a discrete site with "
                "infer={'enumerate': 'parallel'}; a continuous one needs a distribution with an rsample."
            )
    return {name: trace.nodes[name]["fn"] for name in latent_sites(trace)}


def _base(fn: Any) -> Any:
    """The distribution that has the parameters, under the wrappers that declare its event and its mask."""
    while isinstance(fn, dist.Independent | dist.MaskedDistribution) and not _offers_parameters(fn):
        fn = fn.base_dist
    return fn


def _offers_parameters(fn: Any) -> bool:
    return isinstance(fn, HasFreeParameters)


def _name(fn: Any) -> str:
    return type(_base(fn)).__name__


def _parameters(name: str, fn: Any) -> dict[str, Tensor]:
    """What a datum's best q may change, `(*batch_shape, ...)` each."""
    base = _base(fn)
    if _offers_parameters(base):
        return dict(base.free_parameters())
    names = set(base.arg_constraints)
    for given, derived in _DERIVED.items():
        names -= derived if given in names else set()
    if not names:
        raise _unknown(name, fn)
    return {key: getattr(base, key) for key in base.arg_constraints if key in names}


def _transform(name: str, fn: Any, key: str) -> Any:
    """From the reals, where Adam may go, to the values that a parameter may have."""
    try:
        return transform_to(getattr(_base(fn), "arg_constraints", {}).get(key, constraints.real))
    except NotImplementedError as error:
        raise _unknown(name, fn) from error


def _leaf(value: Tensor) -> Tensor:
    return value.detach().clone(memory_format=torch.contiguous_format).requires_grad_()


def _rebuilt(fn: Any, parameters: Mapping[str, Tensor]) -> Any:
    """The same distribution with other parameters."""
    if _offers_parameters(fn):
        return fn.with_parameters(dict(parameters))
    if isinstance(fn, dist.Independent):
        return _rebuilt(fn.base_dist, parameters).to_event(fn.reinterpreted_batch_ndims)
    if isinstance(fn, dist.MaskedDistribution):
        return _rebuilt(fn.base_dist, parameters).mask(fn._mask)
    return type(fn)(**parameters, validate_args=False)


def _unknown(name: str, fn: Any) -> InputError:
    return InputError(
        f"the guide's site '{name}' has a {_name(fn)}, and which of its parameters a datum may have for "
        "itself is not known: use a distribution whose `arg_constraints` names them all, or give it "
        "free_parameters() -> dict of tensors and with_parameters(dict) -> distribution."
    )
