"""A guide with free parameters: the guide's families of distributions, with parameters for each datum.

A handler replaces the distribution of each latent site of any guide by one of the same family. Its
parameters are leaf tensors, one set for each datum, that start at the networks' outputs. Then each datum
can have its own best q. In the original guide, one function computes the q of all data.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.distributions import constraints, transform_to

from pyrovae.distributions import HasFreeParameters
from pyrovae.errors import InputError
from pyrovae.programs.densities import enumerated_sites
from pyrovae.programs.distributions import base_of, layers_of
from pyrovae.programs.log_weights import Layout, enumerated
from pyrovae.programs.pair import Program
from pyrovae.programs.reparameterisation import check_gradient_flows
from pyrovae.programs.running import traced
from pyrovae.programs.sites import latent_sites

# Parameters that are left out because they are derived from another one.
_DERIVED = {"scale_tril": {"covariance_matrix", "precision_matrix"}, "logits": {"probs"}}


class FreeGuide:
    """A guide with free parameters for each datum of one call; call it as the guide.

    Args:
        guide: a Pyro program whose latents are independent of one another given the data and the sites
            that it marks for enumeration.
        args: the arguments of the guide, the data first.
        layout: the layout of the pair's log densities.

    Raises:
        InputError: a latent depends on the draw of another one, is neither enumerated nor reparameterised,
            or is of a family whose parameters are not known.
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
        """Run the guide with the present values of the free parameters.

        Raises:
            InputError: the number of data is not that of the call for which the guide was made.
        """
        if len(args[0]) != self.num_data:
            raise InputError(
                f"the guide was called with {len(args[0])} data, but has parameters for {self.num_data}: "
                "call it with the data that it was made for."
            )
        free = {
            name: {key: self._transforms[name][key](leaf) for key, leaf in leaves.items()}
            for name, leaves in self.leaves.items()
        }
        with _Replace(free):
            return self.guide(*args)

    def parameters(self) -> list[Tensor]:
        """Return the free parameters, unconstrained. The batch shape ends with the data's dimension."""
        return [leaf for leaves in self.leaves.values() for leaf in leaves.values()]

    def state(self) -> list[Tensor]:
        """Return a copy of the free parameters."""
        return [leaf.detach().clone() for leaf in self.parameters()]

    @torch.no_grad()
    def put_back(self, state: list[Tensor], where: Tensor) -> None:
        """Set the free parameters to an earlier state, for the data at which `where`, `(B,)`, is true."""
        dims = [self._data_dims[name] for name, leaves in self.leaves.items() for _ in leaves]
        for leaf, old, dim in zip(self.parameters(), state, dims, strict=True):
            mask = where.to(leaf.device).reshape(-1, *[1] * (leaf.dim() - dim - 1))
            leaf.copy_(torch.where(mask, old, leaf))

    @staticmethod
    def _check_independent(one: Mapping[str, Any], other: Mapping[str, Any]) -> None:
        """Refuse a guide whose distributions differ between two runs: they depend on the draws."""
        for name, fn in one.items():
            again = _parameters(name, other[name])
            for key, value in _parameters(name, fn).items():
                if value.shape != again[key].shape or not torch.allclose(value, again[key], rtol=1e-5):
                    raise InputError(
                        f"the guide's site '{name}' depends on what was drawn at another site "
                        f"({key} differs between two runs). With free parameters this site would leave the "
                        "guide's family, so there is no best q to compare with: use a guide whose latents "
                        "are independent given the data and the enumerated classes."
                    )


class _Replace(Messenger):
    """Replaces the parameters of the sites' distributions by the given ones."""

    def __init__(self, parameters: Mapping[str, Mapping[str, Tensor]]) -> None:
        super().__init__()
        self.parameters = parameters

    def _pyro_sample(self, msg: Any) -> None:
        if msg["name"] in self.parameters:
            msg["fn"] = _rebuilt(msg["fn"], self.parameters[msg["name"]])


def stick_the_landing(guide_trace: Trace) -> None:
    """Let the gradient of log q reach the parameters through the draws only (Roeder et al. 2017).

    The part of the gradient that is left out has expectation 0. Without it the gradient has no noise where
    q is the posterior, so the search finds an exact q exactly. A flow keeps that part, because it scores
    its own draw in the pass that made it.
    """
    for name in set(latent_sites(guide_trace)) - set(enumerated_sites(guide_trace)):
        site = guide_trace.nodes[name]
        if not _offers_parameters(_base(site["fn"])):
            parameters = _parameters(name, site["fn"])
            site["fn"] = _rebuilt(site["fn"], {key: value.detach() for key, value in parameters.items()})


def _distributions(guide: Program, args: tuple[Any, ...], layout: Layout) -> dict[str, Any]:
    """Return the distribution of each latent, expanded by the guide's own plates."""
    with torch.no_grad():
        trace = traced(enumerated(guide, layout), *args)
    check_gradient_flows(trace)
    return {name: trace.nodes[name]["fn"] for name in latent_sites(trace)}


def _base(fn: Any) -> Any:
    """Return the layer of a distribution that has the parameters."""
    return next((layer for layer in layers_of(fn) if _offers_parameters(layer)), base_of(fn))


def _offers_parameters(fn: Any) -> bool:
    return isinstance(fn, HasFreeParameters)


def _parameters(name: str, fn: Any) -> dict[str, Tensor]:
    """Return the parameters that each datum may have of its own, `(*batch_shape, ...)` each."""
    base = _base(fn)
    if any(isinstance(layer, dist.ExpandedDistribution) for layer in layers_of(fn)):
        raise _unknown(name, fn)  # its parameters are shared by data
    if _offers_parameters(base):
        return dict(base.free_parameters())
    names = set(base.arg_constraints)
    for given, derived in _DERIVED.items():
        names -= derived if given in names else set()
    if not names or not _settings(base).keys() >= _required(base) - names:
        raise _unknown(name, fn)
    return {key: getattr(base, key) for key in base.arg_constraints if key in names}


def _required(fn: Any) -> set[str]:
    """Return the arguments without which the distribution's class cannot be called."""
    arguments = list(inspect.signature(type(fn).__init__).parameters.values())[1:]
    named = [a for a in arguments if a.kind in (a.POSITIONAL_OR_KEYWORD, a.KEYWORD_ONLY)]
    return {argument.name for argument in named if argument.default is argument.empty}


def _settings(fn: Any) -> dict[str, Any]:
    """Return the arguments of the distribution's class that are no parameters, such as a temperature."""
    arguments = set(inspect.signature(type(fn).__init__).parameters) - {"self", "validate_args"}
    return {name: getattr(fn, name) for name in arguments - set(fn.arg_constraints) if hasattr(fn, name)}


def _transform(name: str, fn: Any, key: str) -> Any:
    """Return the transform from the reals, where Adam searches, to the values that a parameter may have."""
    try:
        return transform_to(getattr(_base(fn), "arg_constraints", {}).get(key, constraints.real))
    except NotImplementedError as error:
        raise _unknown(name, fn) from error


def _leaf(value: Tensor) -> Tensor:
    return value.detach().clone(memory_format=torch.contiguous_format).requires_grad_()


def _rebuilt(fn: Any, parameters: Mapping[str, Tensor]) -> Any:
    """Return the distribution with other parameters."""
    if _offers_parameters(fn):
        return fn.with_parameters(dict(parameters))
    if isinstance(fn, dist.Independent):
        return _rebuilt(fn.base_dist, parameters).to_event(fn.reinterpreted_batch_ndims)
    if isinstance(fn, dist.MaskedDistribution):
        return _rebuilt(fn.base_dist, parameters).mask(fn._mask)
    return type(fn)(**parameters, **_settings(fn), validate_args=False)


def _unknown(name: str, fn: Any) -> InputError:
    return InputError(
        f"the guide's site '{name}' has a {type(_base(fn)).__name__}, and it is not known which of its "
        "parameters each datum may have of its own: use a distribution whose `arg_constraints` names them "
        "all and whose attributes hold its other arguments, or give it free_parameters() -> dict of "
        "tensors and with_parameters(dict) -> distribution."
    )
