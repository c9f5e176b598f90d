"""Priors: modules whose `forward()` returns a distribution over the latent `z`, or over the class `y`.

A prior scores what the posterior drew, and seldom draws itself. So of a flow's two directions it is the
one from z to noise that should be cheap; for a posterior it is the other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyrovae.data.checks import check_data
from pyrovae.distributions import DiagonalNormalMixture, FromZuko
from pyrovae.distributions.zuko_import import zuko
from pyrovae.errors import InputError, check_counts
from pyrovae.networks import Shape, _shape
from pyrovae.programs.modes import evaluating


class StandardNormal(nn.Module):
    """p(z) = N(0, I) over `(M,)`.

    Args:
        latent_dim: M, the dimensions of the latent space.

    Raises:
        InputError: `latent_dim` is below 1.
    """

    zero: Tensor

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        check_counts(latent_dim=latent_dim)
        self.latent_dim = latent_dim
        # A buffer, so that the prior moves to a device with its model; rebuilt, so never saved.
        self.register_buffer("zero", torch.zeros(latent_dim), persistent=False)

    def forward(self) -> TorchDistributionMixin:
        """A distribution with batch shape `()` and event shape `(M,)`."""
        return dist.Normal(self.zero, torch.ones_like(self.zero)).to_event(1)


class MixtureOfGaussians(nn.Module):
    """p(z) = sum_k w_k N(z; loc_k, diag(scale_k^2)), with all three learned.

    It begins with covariance I in all, where the standard normal is and most encoders begin, and with
    means so far apart that two components differ by 4 nats on average where one of them has its mass,
    whatever M is. Nearer, they would move as one; with means drawn from N(0, I) in 40 dimensions, every z
    would belong to one component and the others would get no gradient.

    Args:
        latent_dim: M.
        components: K.
    """

    def __init__(self, latent_dim: int, components: int = 10) -> None:
        super().__init__()
        check_counts(latent_dim=latent_dim, components=components)
        self.latent_dim = latent_dim
        # Two means are at a squared distance of 2 M between, a divergence of M between / within.
        between = 4 / (latent_dim + 4)
        self.log_weights = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(math.sqrt(between) * torch.randn(components, latent_dim))
        self.log_scale = nn.Parameter(torch.full((components, latent_dim), 0.5 * math.log(1 - between)))

    def forward(self) -> TorchDistributionMixin:
        """A distribution with batch shape `()` and event shape `(M,)`."""
        return DiagonalNormalMixture(self.log_weights, self.loc, self.log_scale.exp())


class VampPrior(nn.Module):
    """p(z) = sum_k w_k q(z | u_k), the posterior's mixture over learned pseudo-inputs u_1, ..., u_K
    (Tomczak & Welling 2018, equation 9).

    The posterior is the model's own, one module with two roles: `VAE(VampPrior(posterior, x_shape), ...,
    posterior)`. Its parameters are trained once, by the gradients of both.

    Pseudo-inputs are kept within the data's range by low + (high - low) sigmoid(4 v - 2) of free
    parameters v. The slope is 1 in the middle, so that a learning rate moves them as it would pixels; the
    paper's clamp agrees with it there, but lets no gradient through at black and white, so that a
    pixel which once got there (all of them, in pseudo-inputs that begin as binary images) stays.

    They begin as grey noise; `start_at(x)` lets them begin as data.

    Densities cost one pass of the K pseudo-inputs through the encoder, and one matrix product for diagonal
    normals; for any other posterior each z is scored under K distributions in turn.

    Args:
        posterior: x -> distribution over z. It has to score points that it did not draw.
        x_shape: event shape of what the posterior is given.
        pseudo_inputs: K.
        num_classes: C, for a posterior that takes x and a class (M2): pseudo-input k has class k mod C.
        bounds: the least and the greatest value of x; None for data without any.
        learn_weights: train w; otherwise every weight is 1/K, as in the paper.

    Raises:
        InputError: a count below 1, fewer pseudo-inputs than classes, bounds without a range between them,
            or a posterior that does not run on pseudo-inputs of this shape (and their classes), or cannot
            score points that it did not draw.
    """

    classes: Tensor
    log_weights: Tensor

    def __init__(
        self,
        posterior: nn.Module,
        x_shape: Shape,
        pseudo_inputs: int = 500,
        num_classes: int | None = None,
        bounds: tuple[float, float] | None = (0.0, 1.0),
        learn_weights: bool = False,
    ) -> None:
        super().__init__()
        check_counts(pseudo_inputs=pseudo_inputs, num_classes=1 if num_classes is None else num_classes)
        if num_classes is not None and pseudo_inputs < num_classes:
            raise InputError(
                f"{pseudo_inputs} pseudo-inputs are too few for {num_classes} classes, each of which "
                "needs one at least."
            )
        if bounds is not None and not bounds[0] < bounds[1]:
            raise InputError(f"bounds are {bounds}; expected the least value of x and a greater one.")
        self.posterior, self.x_shape, self.bounds = posterior, _shape(x_shape), bounds
        # Made where the posterior is, which runs on them.
        like = next(posterior.parameters(), torch.zeros(()))
        noise = torch.randn(pseudo_inputs, *self.x_shape).to(like)
        self.free = nn.Parameter(noise if bounds is None else 0.5 + 0.1 * noise)
        log_weights = like.new_zeros(pseudo_inputs)
        if learn_weights:
            self.log_weights = nn.Parameter(log_weights)
        else:
            self.register_buffer("log_weights", log_weights, persistent=False)
        self.num_classes = num_classes
        classes = torch.arange(pseudo_inputs, device=like.device) % (num_classes or 1)
        self.register_buffer("classes", classes, persistent=False)
        self._check_posterior()

    @property
    def pseudo_inputs(self) -> Tensor:
        """u, `(K, *x_shape)`, within the bounds."""
        if self.bounds is None:
            return self.free
        low, high = self.bounds
        return low + (high - low) * torch.sigmoid(4 * self.free - 2)

    @torch.no_grad()
    def start_at(self, x: Tensor) -> None:
        """Let the pseudo-inputs begin as K of the data `(N, *x_shape)`, drawn at random without repetition
        (values at the bounds a hundredth of the range within them).

        Raises:
            InputError: data of another shape or beyond the bounds, fewer than K, or not finite.
        """
        check_data(x)
        count = len(self.free)
        if tuple(x.shape[1:]) != self.x_shape or len(x) < count:
            raise InputError(
                f"the data have shape {tuple(x.shape)}; {count} pseudo-inputs to begin at some of them "
                f"need at least ({count}, {', '.join(map(str, self.x_shape))}). (On the command line "
                "--components sets how many there are.)"
            )
        chosen = x[torch.randperm(len(x))[:count]].to(self.free)
        if self.bounds is None:
            self.free.copy_(chosen)
            return
        low, high = self.bounds
        if chosen.min() < low or chosen.max() > high:
            raise InputError(
                f"the data go from {chosen.min():g} to {chosen.max():g}, beyond the pseudo-inputs' bounds "
                f"({low:g}, {high:g}): pass the data's own as bounds, or None."
            )
        self.free.copy_(0.5 + ((chosen - low) / (high - low)).logit(eps=0.01) / 4)

    def forward(self) -> TorchDistributionMixin:
        """A distribution with batch shape `()` and event shape `(M,)`."""
        components = self._components(len(self.free))
        base = getattr(components, "base_dist", None)
        if isinstance(components, dist.Independent) and isinstance(base, dist.Normal):
            return DiagonalNormalMixture(self.log_weights, base.loc, base.scale)
        return dist.MixtureSameFamily(dist.Categorical(logits=self.log_weights), components)

    def _components(self, count: int) -> TorchDistributionMixin:
        """q(z | u_k) for the first pseudo-inputs: batch shape `(count,)`, event shape `(M,)`."""
        context = (self.pseudo_inputs[:count],)
        return self.posterior(*(context if self.num_classes is None else (*context, self.classes[:count])))

    @torch.no_grad()
    def _check_posterior(self) -> None:
        # One for each class; nothing is drawn, and nothing moves.
        count = self.num_classes or 1
        try:
            with evaluating(self.posterior):
                components = self._components(count)
        except (TypeError, RuntimeError, ValueError) as error:
            beside = "" if self.num_classes is None else f" beside classes from 0 to {self.num_classes - 1}"
            raise InputError(
                f"this {type(self.posterior).__name__} does not run on pseudo-inputs of shape "
                f"{self.x_shape}{beside} ({error}): the shape is that of its data, and num_classes the "
                "number of classes of a posterior that takes one (as in M2), else None."
            ) from error
        try:
            components.log_prob(self.free.new_zeros(count, *components.event_shape))
        except (InputError, NotImplementedError) as error:
            raise InputError(
                f"a VampPrior scores each z under the posteriors of all pseudo-inputs, but this "
                f"{type(self.posterior).__name__} scores its own draws only ({error}). Use a normal "
                "posterior or a flow with an inverse, or another prior."
            ) from error


class ZukoPrior(nn.Module):
    """p(z) by a normalizing flow of Zuko (https://zuko.readthedocs.io).

    Args:
        flow: any of `zuko.flows` over `(M,)` without a context, such as `zuko.flows.NAF(features=40)`.

    Raises:
        InputError: the flow asks for a context, or is not one over vectors.
    """

    def __init__(self, flow: nn.Module) -> None:
        super().__init__()
        self.flow = flow
        self._check_flow()
        (self.latent_dim,) = flow().event_shape

    def forward(self) -> TorchDistributionMixin:
        """A distribution with batch shape `()` and event shape `(M,)`."""
        return FromZuko(self.flow())

    @torch.no_grad()
    def _check_flow(self) -> None:
        try:
            like = next(self.flow.parameters(), torch.zeros(()))
            distribution = self.flow()
            (latent_dim,) = distribution.event_shape
            distribution.log_prob(like.new_zeros(latent_dim))
        except (AttributeError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(
                f"{type(self.flow).__name__} is no prior over vectors: pass a flow of zuko.flows that is "
                f"built with features=M and without a context ({error})."
            ) from error


class RealNVP(ZukoPrior):
    """Affine coupling layers (Dinh et al. 2017): half of the dimensions shift and scale the other half, in
    turns. Scoring and drawing cost the same.

    Args:
        latent_dim: M.
        steps: how many layers.
        hidden: widths of each layer's network.
        settings: of `zuko.flows.MAF`.
    """

    def __init__(
        self, latent_dim: int, steps: int = 6, hidden: Sequence[int] = (128, 128), **settings: Any
    ) -> None:
        check_counts(latent_dim=latent_dim, steps=steps)
        # Zuko's own RealNVP looks up which half is which in every call, which a compiled step cannot do.
        # In two passes, one for each half, its masked autoregressive flow couples halves as well.
        flow = zuko.flows.MAF(latent_dim, transforms=steps, hidden_features=hidden, passes=2, **settings)
        super().__init__(_near_identity(flow))


class SplineCoupling(ZukoPrior):
    """Coupling layers whose halves bend each other by monotone rational-quadratic splines on [-5, 5]
    (Durkan et al. 2019). Scoring and drawing cost the same.

    Args:
        latent_dim: M.
        steps: how many layers.
        hidden: widths of each layer's network.
        settings: of `zuko.flows.NSF`, such as `bins`.
    """

    def __init__(
        self, latent_dim: int, steps: int = 4, hidden: Sequence[int] = (128, 128), **settings: Any
    ) -> None:
        check_counts(latent_dim=latent_dim, steps=steps)
        flow = zuko.flows.NSF(latent_dim, transforms=steps, hidden_features=hidden, passes=2, **settings)
        super().__init__(_near_identity(flow))


class MaskedAutoregressive(ZukoPrior):
    """The masked autoregressive flow (Papamakarios et al. 2017): p(z) = prod_m p(z_m | z_1, ..., z_m-1),
    with dimensions in the opposite order from layer to layer.

    Scoring, which is all that training and evaluation ask of a prior, is one pass through each layer's
    network. Drawing takes M passes, a dimension at a time.

    Args:
        latent_dim: M.
        steps: how many layers.
        hidden: widths of each layer's network.
        settings: of `zuko.flows.MAF`.
    """

    def __init__(
        self, latent_dim: int, steps: int = 4, hidden: Sequence[int] = (128, 128), **settings: Any
    ) -> None:
        check_counts(latent_dim=latent_dim, steps=steps)
        flow = zuko.flows.MAF(latent_dim, transforms=steps, hidden_features=hidden, **settings)
        super().__init__(_near_identity(flow))


@torch.no_grad()
def _near_identity(flow: nn.Module) -> nn.Module:
    """Let training begin close to N(0, I), where encoders begin: with networks whose output is 0, affine
    maps and splines are the identity. (At 0 itself no gradient would reach the layers before the last.)"""
    layers: list[Any] = list(flow.modules())
    last = [layer.hyper[-1] for layer in layers if hasattr(layer, "hyper")]
    last += [layer.phi for layer in layers if hasattr(layer, "phi")]  # with M = 1 there is no network
    for parameter in nn.ModuleList(last).parameters():
        parameter.mul_(0.1)
    return flow


class Classes(nn.Module):
    """p(y) = Cat(pi) over the classes 0, 1, ..., C - 1.

    Args:
        num_classes: C.
        learned: whether pi is trained; otherwise it stays uniform.

    Raises:
        InputError: there are fewer than 2 classes.
    """

    logits: Tensor

    def __init__(self, num_classes: int, learned: bool = False) -> None:
        super().__init__()
        if num_classes < 2:
            raise InputError(f"num_classes is {num_classes}; there are at least 2 classes to tell apart.")
        self.num_classes = num_classes
        self.logits = nn.Parameter(torch.zeros(num_classes), requires_grad=learned)

    def forward(self) -> TorchDistributionMixin:
        """A distribution with batch shape `()` and event shape `()`."""
        return dist.Categorical(logits=self.logits)
