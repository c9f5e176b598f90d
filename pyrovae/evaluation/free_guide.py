"""A guide with free parameters: the guide's families of distributions, with parameters for each datum.

Each latent site of a guide has a distribution of the same family here. Its parameters are leaf tensors, one
set for each datum, that start at the networks' outputs. Then each datum can have its own best q. In the
original guide, one function computes the q of all data.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from pyro.poutine.trace_struct import Trace
from torch import Tensor
from torch.distributions import constraints, transform_to

from pyrovae.distributions import HasFreeParameters
from pyrovae.errors import InputError
from pyrovae.programs.copies import PARTICLES, run_one
from pyrovae.programs.densities import enumerated_sites
from pyrovae.programs.distributions import base_of, layers_of, name_of
from pyrovae.programs.layout import Layout, enumerated
from pyrovae.programs.pair import Program
from pyrovae.programs.reparameterisation import check_gradient_flows
from pyrovae.programs.rows import Arguments
from pyrovae.programs.running import traced
from pyrovae.programs.sites import latent_sites

# Parameters that are left out because they are derived from another one.
_DERIVED = {"scale_tril": {"covariance_matrix", "precision_matrix"}, "logits": {"probs"}}


class FreeGuide:
    """A guide with free parameters for each datum of one call; call it as the guide.

    Args:
        guide: a Pyro program whose latents are independent of one another given the data and the sites
            that it marks for enumeration.
        arguments: the arguments of the guide, the data first.
        layout: the layout of the pair's log densities.

    Raises:
        InputError: a latent depends on the draw of another one, is neither enumerated nor reparameterised,
            or is of a family whose parameters are not known.
    """

    def __init__(self, guide: Program, arguments: Arguments, layout: Layout) -> None:
        self.num_data = len(arguments.args[0])
        self._sites, distributions = _latents(guide, arguments, layout)
        _, again = _latents(guide, arguments, layout)
        self._check_independent(distributions, again)
        self.leaves: dict[str, dict[str, Tensor]] = {}
        self._transforms: dict[str, dict[str, Any]] = {}
        self._data_dims: dict[str, int] = {}
        for name, values in distributions.items():
            fn = self._sites[name]["fn"]
            _check_transforms(name, fn, layout.data_dim)
            self._transforms[name] = {key: _transform(name, fn, key) for key in values}
            self.leaves[name] = {
                key: _leaf(self._transforms[name][key].inv(value)) for key, value in values.items()
            }
            inner = layout.data_dim  # the parameters' own dimensions stand right of the batch's
            self._data_dims[name] = len(fn.batch_shape) + inner + _leading(values, fn)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Sample the guide's latents with the present values of the free parameters.

        Raises:
            InputError: the number of data is not that of the call for which the guide was made.
        """
        if len(args[0]) != self.num_data:
            raise InputError(
                f"the guide was called with {len(args[0])} data, but has parameters for {self.num_data}: "
                "call it with the data that it was made for."
            )
        plates: dict[str, Any] = {}
        for name, site in self._sites.items():
            free = {key: self._transforms[name][key](leaf) for key, leaf in self.leaves[name].items()}
            with ExitStack() as within:
                for frame in site["cond_indep_stack"]:
                    if frame.vectorized and frame.name != PARTICLES:
                        if frame.name not in plates:  # a plate may be made once, and entered again
                            plates[frame.name] = pyro.plate(frame.name, frame.size, dim=frame.dim)
                        within.enter_context(plates[frame.name])
                if site["mask"] is not None:
                    within.enter_context(poutine.mask(mask=site["mask"]))
                pyro.sample(name, _rebuilt(site["fn"], free))

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
    def _check_independent(
        one: Mapping[str, Mapping[str, Tensor]], other: Mapping[str, Mapping[str, Tensor]]
    ) -> None:
        """Refuse a guide whose distributions differ between two runs: they depend on the draws."""
        for name, parameters in one.items():
            for key, value in parameters.items():
                again = other[name][key]
                if value.shape != again.shape or not torch.allclose(value, again, rtol=1e-5):
                    raise InputError(
                        f"the guide's site '{name}' depends on what was drawn at another site "
                        f"({key} differs between two runs). With free parameters this site would leave the "
                        "guide's family, so there is no best q to compare with: use a guide whose latents "
                        "are independent given the data and the enumerated classes."
                    )


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
            site["unscaled_log_prob"] = site["fn"].log_prob(site["value"])
            site["log_prob"] = scale_and_mask(site["unscaled_log_prob"], site["scale"], site["mask"])


_Parameters = dict[str, dict[str, Tensor]]


def _latents(
    guide: Program, arguments: Arguments, layout: Layout
) -> tuple[dict[str, dict[str, Any]], _Parameters]:
    """Return a guide's latent sites, and their distributions' parameters for all enumerated values."""
    copies = layout.of_guide()
    with torch.no_grad():
        if layout.way("guide") == "leading":
            runs = [traced(enumerated(guide, layout), *arguments.args, **arguments.kwargs)]
        else:
            ones = (run_one(guide, arguments, copies, (value, 0)) for value in range(copies.values))
            runs = [poutine.util.prune_subsample_sites(run) for run in ones]
    check_gradient_flows(runs[0])
    sites = {name: runs[0].nodes[name] for name in latent_sites(runs[0])}
    found = {name: [_parameters(name, run.nodes[name]["fn"]) for run in runs] for name in sites}
    return sites, {
        name: {key: _of_all_values([part[key] for part in parts], sites[name], layout) for key in parts[0]}
        for name, parts in found.items()
    }


def _of_all_values(parts: list[Tensor], site: Mapping[str, Any], layout: Layout) -> Tensor:
    """Join a parameter's values for each enumerated value, unless they are all the same."""
    if all(torch.equal(part, parts[0]) for part in parts):
        return parts[0]
    missing = layout.depth - len(site["fn"].batch_shape)
    return torch.stack([part.reshape(*[1] * missing, *part.shape) for part in parts]).unsqueeze(1)


def _leading(parameters: Mapping[str, Tensor], fn: Any) -> int:
    """Return the number of dimensions that `_of_all_values` has added on the left of the parameters."""
    first, of_one = next(iter(parameters.values())), next(iter(_parameters("", fn).values()))
    return first.dim() - of_one.dim()


def _base(fn: Any) -> Any:
    """Return the layer of a distribution that has the parameters."""
    base = next((layer for layer in layers_of(fn) if _offers_parameters(layer)), base_of(fn))
    return _base(base.base_dist) if _is_transformed(base) else base


def _is_transformed(fn: Any) -> bool:
    """Whether a distribution is Pyro's of a flow: a base, and transforms that are the same for all data."""
    return type(fn) is dist.TransformedDistribution  # subclasses, such as LogNormal, name parameters


def _check_transforms(name: str, fn: Any, data_dim: int) -> None:
    """Refuse transforms that differ from datum to datum, since each datum could have its own of these too.

    Raises:
        InputError: the same value of the base is transformed to other values for other data.
    """
    base = base_of(fn)
    if not _is_transformed(base):
        return
    dim = len(base.batch_shape) + data_dim
    with torch.no_grad():
        value = base.base_dist.sample()
        value = value.narrow(dim, 0, 1).expand_as(value)
        for transform in base.transforms:
            value = transform(value)
    if not torch.allclose(value, value.narrow(dim, 0, 1).expand_as(value), rtol=1e-4, atol=1e-5):
        raise _unknown(name, fn)


def _offers_parameters(fn: Any) -> bool:
    return isinstance(fn, HasFreeParameters)


def _parameters(name: str, fn: Any) -> dict[str, Tensor]:
    """Return the parameters that each datum may have of its own, `(*batch_shape, ...)` each."""
    base = _base(fn)
    layers = [*layers_of(fn), *(layers_of(base_of(fn).base_dist) if _is_transformed(base_of(fn)) else ())]
    if any(isinstance(layer, dist.ExpandedDistribution) for layer in layers):
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
    if _is_transformed(fn):
        return type(fn)(_rebuilt(fn.base_dist, parameters), fn.transforms, validate_args=False)
    if isinstance(fn, torch.distributions.Independent):
        return _rebuilt(fn.base_dist, parameters).to_event(fn.reinterpreted_batch_ndims)
    if isinstance(fn, dist.MaskedDistribution):
        return _rebuilt(fn.base_dist, parameters).mask(fn._mask)
    return type(fn)(**parameters, **_settings(fn), validate_args=False)


def _unknown(name: str, fn: Any) -> InputError:
    return InputError(
        f"the guide's site '{name}' has a {name_of(fn)}, and it is not known which of its "
        "parameters each datum may have of its own: use a distribution whose `arg_constraints` names them "
        "all and whose attributes hold its other arguments, a TransformedDistribution whose transforms are "
        "the same for all data, or give it free_parameters() -> dict of tensors and with_parameters(dict) "
        "-> distribution."
    )
