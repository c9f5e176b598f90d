"""What can be known to be wrong before training or evaluation begins."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions import constraints
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pyrovae.data.checks import UNLABELLED
from pyrovae.errors import InputError
from pyrovae.programs.modes import evaluating
from pyrovae.programs.pair import ModelAndGuide, Pair, Program
from pyrovae.programs.parameters import modules_of
from pyrovae.programs.running import observed_sites, run_pair

# What to do about data that a likelihood cannot have produced.
_REMEDIES: dict[type, str] = {
    dist.Bernoulli: "its pixels are 0 or 1: binarise them (afresh for each minibatch with "
    "transform=pyrovae.data.binarise, once with pyrovae.data.binarise_static, on the command line "
    "with --binarise), or use the ContinuousBernoulli likelihood for grey values",
    dist.ContinuousBernoulli: "its pixels lie in [0, 1]: scale them",
    dist.Categorical: "its pixels are the levels 0, 1, ..., 255: convert grey values with "
    "pyrovae.data.to_levels",
}


def check_pair(pair: ModelAndGuide, *args: Any) -> None:
    """Run the pair once, validated, and refuse what does not fit together.

    Raises:
        InputError: the pair does not run on these arguments; a site has no distribution; the model
            observes nothing, or the guide what the model does; a latent site is in one of the programs
            only, or has other plates, another shape, fewer classes, or in the guide values that the model
            gives no density; or an observed site's values have the wrong shape or lie outside of its
            distribution's support.
    """
    noted = poutine.trace(_Distributions("guide")(pair.guide))
    try:
        with torch.no_grad(), pyro.validation_enabled(True), evaluating(pair):
            checked = _Distributions("model")(_CompareLatents(noted)(pair.model))
            model_trace, guide_trace = run_pair(Pair(checked, noted), *args)
            observed = observed_sites(model_trace)
            _check_roles(observed, observed_sites(guide_trace))
            for name in observed:
                _check_observed(name, model_trace.nodes[name])
            for trace in (guide_trace, model_trace):
                trace.compute_log_prob()
    except (ValueError, RuntimeError, TypeError) as error:
        # Pyro appends the shapes of all sites so far: of use beside its own errors, not beside ours.
        if isinstance(error, InputError):
            raise InputError(str(error).split("\nTrace Shapes")[0]) from error
        if problem := _plate_problem(str(error), noted, pair.model, args):
            raise InputError(problem) from error
        shapes = ", ".join(str(tuple(a.shape)) for a in args if isinstance(a, Tensor))
        raise InputError(
            f"the model and guide do not run on data of shape {shapes}{_type_problem(args, pair)}: {error}"
        ) from error


def _type_problem(args: tuple[Any, ...], *programs: Program | ModelAndGuide) -> str:
    """What to do where the data are not of the parameters' type."""
    parameters = (p for module in modules_of(*programs) for p in module.parameters())
    types = {p.dtype for p in parameters if p.is_floating_point()}
    of_data = next((a.dtype for a in args if isinstance(a, Tensor)), None)
    if not types or of_data in types:
        return ""
    return f" and type {of_data}, where parameters are {types.pop()} (use x.to or model.to(dtype))"


def _check_roles(in_model: Collection[str], in_guide: Collection[str]) -> None:
    if not in_model or set(in_model) & set(in_guide):
        model, guide = (", ".join(map(repr, sites)) or "no site" for sites in (in_model, in_guide))
        raise InputError(
            f"the model observes {model}, and the guide {guide}: the model alone observes the data, by "
            "obs=x, and the guide samples what is not observed. Give them in this order, model and guide."
        )


class _Distributions(Messenger):
    """Refuses sites that have something else for a distribution."""

    def __init__(self, program: str) -> None:
        super().__init__()
        self.program = program

    def _pyro_sample(self, msg: Any) -> None:
        if not hasattr(msg["fn"], "log_prob"):
            raise InputError(
                f"the {self.program}'s site '{msg['name']}' has a {type(msg['fn']).__name__} for a "
                "distribution: priors, likelihoods and posteriors are modules whose forward returns one of "
                "Pyro's (which is no such module itself: when called, it draws a value)."
            )


class _CompareLatents(Messenger):
    """Holds each latent of the model against the guide's as soon as it is sampled: what comes after would
    fail for a reason that is harder to read, or broadcast and not fail at all."""

    def __init__(self, guide: Any) -> None:
        super().__init__()
        self.guide = guide

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["is_observed"] or poutine.util.site_is_subsample(msg):
            return
        if (site := self.guide.trace.nodes.get(msg["name"])) is not None:
            _check_plates(msg["name"], msg, site)
            _check_shapes(msg["name"], msg["fn"], site["fn"])
            _check_support(msg["name"], msg["fn"], site["fn"], site["value"])


def _check_plates(name: str, in_model: Mapping[str, Any], in_guide: Mapping[str, Any]) -> None:
    frames = [
        {(frame.dim, frame.size): frame.name for frame in site["cond_indep_stack"] if frame.vectorized}
        for site in (in_model, in_guide)
    ]
    if frames[0].keys() != frames[1].keys():
        model, guide = (
            " and ".join(
                f"plate '{plate}' of {size} at dimension {dim}" for (dim, size), plate in of.items()
            )
            for of in frames
        )
        raise InputError(
            f"site '{name}' lies under {model or 'no plate'} in the model, but under {guide or 'no plate'} "
            'in the guide: open the same plates in both, that of the data with pyro.plate("data", len(x)).'
        )


def _check_shapes(name: str, in_model: Any, in_guide: Any) -> None:
    model, guide = ((tuple(fn.batch_shape), tuple(fn.event_shape)) for fn in (in_model, in_guide))
    if model == guide:
        return
    remedy = "sample values of the model's shape in the guide"
    missing = in_model.event_dim - in_guide.event_dim
    if missing > 0 and not _family(in_guide).has_enumerate_support:  # no vector is made of classes
        remedy = (
            f"declare the last {missing} dimensions of the guide's distribution with .to_event({missing})"
        )
    raise InputError(
        f"site '{name}' has event shape {model[1]} and batch shape {model[0]} in the model, but "
        f"event shape {guide[1]} and batch shape {guide[0]} in the guide: {remedy}."
    )


def _check_support(name: str, in_model: Any, in_guide: Any, value: Tensor) -> None:
    families = [_family(fn) for fn in (in_model, in_guide)]
    classes = [family.probs.shape[-1] for family in families if isinstance(family, dist.Categorical)]
    if len(classes) == 2 and classes[1] < classes[0]:
        raise InputError(
            f"site '{name}' has {classes[0]} classes in the model and {classes[1]} in the guide, which "
            "never draws the others: give both the same number."
        )
    try:
        allowed = in_model.support.check(value).all() and not _reaches_beyond(in_guide, in_model, value)
    except (NotImplementedError, ValueError):  # a distribution that does not know its support
        return
    if not allowed:
        model, guide = (type(family).__name__ for family in families)
        raise InputError(
            f"site '{name}' is {model} in the model, with support {_each(in_model)}, but {guide} in the "
            f"guide, with support {_each(in_guide)}: what the guide draws must have a "
            "density under the model, so use a distribution there whose support is not larger."
        )


# Between and beyond the usual bounds; not on them, where supports may differ by no more than a point.
_PROBES = (-3.0, -2.0, -1.5, -1.0, -0.5, 0.25, 0.5, 1.5, 2.0, 3.0)


def _reaches_beyond(in_guide: Any, in_model: Any, value: Tensor) -> bool:
    """Whether the guide's support holds a number that the model's does not, if they are of numbers."""
    drawn, supported = _each(in_guide), _each(in_model)
    if isinstance(_family(in_guide), dist.Delta):  # it never draws but the one point
        return False
    if drawn.is_discrete != supported.is_discrete:
        return True
    if drawn.event_dim or supported.event_dim:
        return False
    if isinstance(drawn, constraints.integer_interval):
        ends = (torch.as_tensor(end, device=value.device) for end in (drawn.lower_bound, drawn.upper_bound))
        return not all(supported.check(end).all() for end in ends)
    points = torch.as_tensor(_PROBES).to(value.device).reshape(-1, *[1] * value.dim())
    return bool((drawn.check(points) & ~supported.check(points)).any())


def _each(fn: Any) -> Any:
    """The support of each of the independent values of an event."""
    support = fn.support
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support


_MISFIT = re.compile(r"Shape mismatch inside plate\('(.*)'\) at site (.*) dim (-\d+), (\d+) vs (\d+)")


def _plate_problem(error: str, guide: Any, model: Program, args: tuple[Any, ...]) -> str | None:
    """What Pyro's error of a distribution that does not fit into its plate says, and what to do."""
    if not (found := _MISFIT.search(error)):
        return None
    plate, name, dim, size, length = found.groups()
    guide_ran = "_RETURN" in guide.trace.nodes
    return (
        f"the {'model' if guide_ran else 'guide'}'s site '{name}' does not fit into plate '{plate}', "
        f"which has {size} members at dimension {dim}: the distribution's batch has {length} there"
        f"{'' if guide_ran else _shape_in_model(name, model, args)}. Declare what belongs to one datum as "
        'its event with .to_event(1), and open the data\'s plate with pyro.plate("data", len(x)).'
    )


def _shape_in_model(name: str, model: Program, args: tuple[Any, ...]) -> str:
    try:
        with torch.no_grad(), evaluating(model):
            fn = poutine.trace(model).get_trace(*args).nodes[name]["fn"]
    except (ValueError, RuntimeError, TypeError, KeyError):  # it has an error of its own
        return ""
    return (
        f", while the model's '{name}' has event shape {tuple(fn.event_shape)} and batch shape "
        f"{tuple(fn.batch_shape)}"
    )


def _check_observed(name: str, site: Mapping[str, Any]) -> None:
    fn, value = site["fn"], site["value"]
    expected = tuple(fn.event_shape)
    found = tuple(value.shape[value.dim() - len(expected) :])
    if found != expected:
        raise InputError(
            f"the model makes data of shape {expected} at site '{name}', but was given {found}: "
            "build its networks for the data's shape."
        )
    outside = ~fn.support.check(value)
    if outside.any():
        rows = value.flatten(1) if value.dim() > 1 else value.unsqueeze(-1)
        row = rows[outside.nonzero()[0, -1]] if outside.dim() == 1 else rows.flatten()
        family = _family(fn)
        remedies = (remedy for kind, remedy in _REMEDIES.items() if expected and isinstance(family, kind))
        remedy = next(remedies, f"its values must satisfy {family.support}")
        if not expected and isinstance(family, dist.Categorical):
            remedy = f"its classes are 0, 1, ..., {family.probs.shape[-1] - 1}"
            if value.is_floating_point():
                remedy += f" (of type {value.dtype}, where {UNLABELLED} is not unlabelled: use y.long())"
        raise InputError(
            f"{int(outside.sum())} of {outside.numel()} data lie outside the support of the "
            f"{type(family).__name__} likelihood at site '{name}' (values from {row.min():g} to "
            f"{row.max():g} in the first of them): {remedy}."
        )


def _family(fn: Any) -> Any:
    """The distribution under the wrappers that declare its event and expand its batch."""
    while hasattr(fn, "base_dist") and isinstance(fn, dist.Independent | dist.MaskedDistribution):
        fn = fn.base_dist
    return fn


def check_site_names(weights: Collection[str], sites: Collection[str]) -> None:
    """Refuse weights of sites that no call of the programs has: they would be ignored.

    Raises:
        InputError: names the site and those that there are.
    """
    if unknown := sorted(set(weights) - set(sites)):
        raise InputError(
            f"there is no site {', '.join(map(repr, unknown))} to weigh; the programs have "
            f"{', '.join(sorted(sites))}."
        )
