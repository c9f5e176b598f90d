"""The VampPrior: the posterior's mixture over learned pseudo-inputs."""

from __future__ import annotations

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from pyrovae.data.checks import check_data
from pyrovae.distributions import DiagonalNormalMixture
from pyrovae.errors import InputError, check_counts
from pyrovae.networks import Shape, Standardisation, as_shape
from pyrovae.programs.modes import evaluating


class VampPrior(nn.Module):
    """p(z) = sum_k w_k q(z | u_k) with learned pseudo-inputs u_1, ..., u_K.

    The prior is that of Tomczak & Welling (2018, equation 9). The posterior q is the model's own: one
    module has two roles, as in the example. Its parameters are trained once, by the gradients of both.

    The pseudo-inputs are low + (high - low) sigmoid(4 v - 2) with free parameters v, so they stay within
    the range of the data. The slope is 1 in the middle, so a learning rate moves them as it would move
    pixels. The paper clamps instead. A clamp agrees in the middle, but lets no gradient through at black
    and white: a pixel that has once got there stays there, and pseudo-inputs that start as binary images
    have no other pixels.

    The pseudo-inputs start as grey noise. `start_at(x)` lets them start as data.

    A density costs one pass of the K pseudo-inputs through the encoder. For diagonal normals it then costs
    one matrix product; for any other posterior each z is scored under K distributions.

    Args:
        posterior: maps x to a distribution over z. It must be able to score points that it did not draw.
        x_shape: the event shape of the posterior's input.
        pseudo_inputs: the number of pseudo-inputs K.
        num_classes: the number of classes C of a posterior that takes x and a class (M2). Pseudo-input k
            then has class k mod C. None means that the posterior takes x alone.
        bounds: the least and the greatest value of x. None means that x has no bounds.
        learn_weights: train w. By default every weight is 1/K, as in the paper.
        standardisation: the standardisation of data without bounds. The free parameters are then
            standardised pseudo-inputs, so that a learning rate moves each column by its own unit.

    Raises:
        InputError: when a count is below 1; when there are fewer pseudo-inputs than classes; when the
            bounds leave no range between them, or are given beside a standardisation; when the posterior
            does not run on pseudo-inputs of this shape and their classes; or when it cannot score points
            that it did not draw.

    Examples:
        >>> from pyrovae.likelihoods import Bernoulli
        >>> from pyrovae.models import VAE
        >>> from pyrovae.networks import MLP
        >>> from pyrovae.posteriors import DiagonalNormal
        >>> from pyrovae.priors import VampPrior
        >>> posterior = DiagonalNormal(MLP((1, 8, 8), 64), 2)
        >>> prior = VampPrior(posterior, (1, 8, 8), pseudo_inputs=50)
        >>> vae = VAE(prior, Bernoulli(MLP(2, (1, 8, 8))), posterior)
        >>> prior.pseudo_inputs.shape
        torch.Size([50, 1, 8, 8])
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
        standardisation: Standardisation | None = None,
    ) -> None:
        super().__init__()
        check_counts(pseudo_inputs=pseudo_inputs, num_classes=1 if num_classes is None else num_classes)
        if num_classes is not None and pseudo_inputs < num_classes:
            raise InputError(
                f"pseudo_inputs is {pseudo_inputs}, but there are {num_classes} classes: use at least one "
                "pseudo-input for each class."
            )
        if bounds is not None and not bounds[0] < bounds[1]:
            raise InputError(f"bounds are {bounds}; expected the least value of x and a greater one.")
        if bounds is not None and standardisation is not None:
            raise InputError(f"bounds are {bounds}, but standardised data have none: set bounds=None.")
        self.posterior, self.x_shape, self.bounds = posterior, as_shape(x_shape), bounds
        self.standardisation = standardisation
        # On the posterior's device and of its type, since the posterior runs on the pseudo-inputs below. A
        # lazy posterior has both before it has shapes. In half precision pseudo-inputs would hardly move.
        like = next(posterior.parameters(), torch.zeros(()))
        dtype = torch.float32 if like.dtype in (torch.float16, torch.bfloat16) else like.dtype
        noise = torch.randn(pseudo_inputs, *self.x_shape).to(like.device, dtype)
        self.free = nn.Parameter(noise if bounds is None else 0.5 + 0.1 * noise)
        log_weights = torch.zeros(pseudo_inputs, device=like.device, dtype=dtype)
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
        """The pseudo-inputs u, `(K, *x_shape)`, within the bounds."""
        if self.bounds is None:
            return self.free if self.standardisation is None else self.standardisation.original(self.free)
        low, high = self.bounds
        return low + (high - low) * torch.sigmoid(4 * self.free - 2)

    @torch.no_grad()
    def start_at(self, x: Tensor) -> None:
        """Set the pseudo-inputs to K of the data, drawn at random without repetition.

        Values at the bounds are moved inwards by a hundredth of the range.

        Args:
            x: the data, `(N, *x_shape)` with N of at least K.

        Raises:
            InputError: when the data have another shape, are fewer than K, lie beyond the bounds or are not
                finite.
        """
        check_data(x)
        count = len(self.free)
        if tuple(x.shape[1:]) != self.x_shape or len(x) < count:
            raise InputError(
                f"the data have shape {tuple(x.shape)}; {count} pseudo-inputs can start as data of shape "
                f"(N, {', '.join(map(str, self.x_shape))}) with N of at least {count}: pass more data, or "
                "build the prior with fewer pseudo_inputs."
            )
        chosen = x[torch.randperm(len(x))[:count]].to(self.free)
        if self.bounds is None:
            self.free.copy_(chosen if self.standardisation is None else self.standardisation(chosen))
            return
        low, high = self.bounds
        if chosen.min() < low or chosen.max() > high:
            raise InputError(
                f"the data go from {chosen.min():g} to {chosen.max():g}, beyond the bounds of the "
                f"pseudo-inputs, ({low:g}, {high:g}): build the prior with the least and greatest value of "
                "the data as bounds, or with bounds=None."
            )
        self.free.copy_(0.5 + ((chosen - low) / (high - low)).logit(eps=0.01) / 4)

    def forward(self) -> TorchDistributionMixin:
        """Return p(z), with batch shape `()` and event shape `(M,)`."""
        components = self._components(len(self.free))
        base = getattr(components, "base_dist", None)
        if isinstance(components, dist.Independent) and isinstance(base, dist.Normal):
            return DiagonalNormalMixture(self.log_weights, base.loc, base.scale)
        return dist.MixtureSameFamily(dist.Categorical(logits=self.log_weights), components)

    def _components(self, count: int) -> TorchDistributionMixin:
        """Return q(z | u_k) for the first pseudo-inputs: batch shape `(count,)`, event shape `(M,)`."""
        context = (self.pseudo_inputs[:count],)
        return self.posterior(*(context if self.num_classes is None else (*context, self.classes[:count])))

    @torch.no_grad()
    def _check_posterior(self) -> None:
        # One pseudo-input for each class. No random number is drawn, and no running statistic moves.
        count = self.num_classes or 1
        try:
            with evaluating(self.posterior):
                components = self._components(count)
        except (TypeError, RuntimeError, ValueError) as error:
            beside = "" if self.num_classes is None else f" with classes from 0 to {self.num_classes - 1}"
            dtype = next((p.dtype for p in self.posterior.parameters()), self.free.dtype)
            precision = (
                f" Pseudo-inputs have single precision: build the prior in it, then call vae.to({dtype})."
                if dtype != self.free.dtype
                else ""
            )
            raise InputError(
                f"this {type(self.posterior).__name__} does not run on pseudo-inputs of shape "
                f"{self.x_shape}{beside} ({error}): x_shape must be the shape of its data. For a posterior "
                "that takes a class (as in M2) set num_classes to the number of classes; for any other "
                f"leave it out.{precision}"
            ) from error
        try:
            components.log_prob(self.free.new_zeros(count, *components.event_shape))
        except (InputError, NotImplementedError) as error:
            raise InputError(
                "a VampPrior scores each z under the posteriors of all pseudo-inputs, but this "
                f"{type(self.posterior).__name__} scores its own draws only ({error}). Use a normal "
                "posterior, a flow with an inverse, or another prior."
            ) from error
