"""The ELBO with the score-function gradient, which needs no reparameterisation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from pyro import poutine
from pyro.distributions import Delta, TorchDistribution
from pyro.poutine.messenger import Messenger
from pyro.poutine.trace_struct import Trace
from torch import Tensor

from pyrovae.errors import InputError
from pyrovae.objectives.elbo import ELBO
from pyrovae.programs.densities import enumerated_sites
from pyrovae.programs.distributions import base_of
from pyrovae.programs.pair import ModelAndGuide, Program
from pyrovae.programs.reparameterisation import copy_of_draw

_ONE = torch.Size()


class _Unreparameterised(TorchDistribution):
    """A distribution that hides that it could be reparameterised."""

    arg_constraints: ClassVar[dict[str, Any]] = {}
    has_rsample = False

    def __init__(self, base_dist: Any) -> None:
        self.base_dist = base_dist
        super().__init__(base_dist.batch_shape, base_dist.event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        return self.base_dist.support

    def expand(self, batch_shape: Any, _instance: Any = None) -> _Unreparameterised:
        return _Unreparameterised(self.base_dist.expand(batch_shape))

    def sample(self, sample_shape: Any = _ONE) -> Tensor:
        with torch.no_grad():
            # A copy, since a flow recognises its own draw and scores it by cached values. These give the
            # density at a point that moves with the parameters, not at this fixed point.
            return copy_of_draw(self.base_dist(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        return self.base_dist.log_prob(value)


class _WithoutReparameterisation(Messenger):
    """A handler that hides from a program that its distributions are reparameterised."""

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"] or msg["done"] or poutine.util.site_is_subsample(msg):
            return
        # A Delta draws nothing. Its value may be a parameter, whose gradient is the path through it.
        if msg["fn"].has_rsample and not isinstance(base_of(msg["fn"]), Delta):
            msg["fn"] = _Unreparameterised(msg["fn"])


class ScoreFunctionELBO(ELBO):
    """The ELBO with its gradient estimated by the score function (REINFORCE) for every latent of the guide:

        d/dphi E_q[f] = E_q[ f d log q(z | x) / dphi ],    f = log p(x, z) - log q(z | x)

    (Williams 1992; Ranganath et al. 2014). The estimator needs only densities, so it works for discrete
    latents that are drawn. It uses the value of f but not the gradient of f, and its noise grows with the
    number of latents. Each datum has its own f, since the plates declare the data independent. There is no
    baseline. To see the effect of reparameterisation, compare it with `ELBO` by
    `evaluation.gradient_variance`.

    Args:
        settings: settings of `ELBO`, such as `num_particles`.

    Raises:
        InputError: on evaluation, if a site is enumerated, if data depend on a latent that only the model
            has, or if the guide cannot score a given value (a flow without an inverse).
    """

    def _runs(self, pair: ModelAndGuide, args: Any, kwargs: Any) -> Iterator[tuple[Trace, Trace]]:
        try:
            for model_trace, guide_trace in super()._runs(pair, args, kwargs):
                _check_drawn(enumerated_sites(model_trace), enumerated_sites(guide_trace))
                yield model_trace, guide_trace
        except ValueError as error:
            if isinstance(error.__cause__, InputError):  # Pyro has wrapped it in a ValueError
                raise InputError(str(error.__cause__)) from error
            raise

    def _drawing(self, guide: Program) -> Program:
        unreparameterised: Program = _WithoutReparameterisation()(guide)
        return unreparameterised


def _check_drawn(in_model: list[str], in_guide: list[str]) -> None:
    if in_guide:
        raise InputError(
            f"{in_guide} is enumerated, but the score function needs drawn latents: remove "
            "infer={'enumerate': 'parallel'} from the guide's site, so that it is drawn."
        )
    if in_model:
        raise InputError(
            f"'{in_model[0]}' is summed out, since the guide lacks it, but the score function needs drawn "
            "latents: sample the site in the guide, under the same name, or use the ELBO."
        )
