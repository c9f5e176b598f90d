"""Handwritten PyTorch versions of the models of `benchmark.py`, the baseline of all ratios.

This is the code that an expert would write without a library: matrices, closed-form divergences where they
exist, and losses per datum. There are no probabilistic programs and no distribution objects.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Loss = Callable[..., Tensor]


class VAE(nn.Module):
    """A VAE with a diagonal normal posterior, Bernoulli pixels and one hidden ReLU layer on each side.

    Args:
        pixels: the number of pixels D.
        hidden: the number of hidden units H.
        latent: the number of latents M.
    """

    def __init__(self, pixels: int, hidden: int, latent: int) -> None:
        super().__init__()
        self.encoder = nn.Linear(pixels, hidden)
        self.loc, self.scale = nn.Linear(hidden, latent), nn.Linear(hidden, latent)
        self.decoder, self.logits = nn.Linear(latent, hidden), nn.Linear(hidden, pixels)

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = F.relu(self.encoder(x))
        return self.loc(h), F.softplus(self.scale(h)) + 1e-4

    def decode(self, z: Tensor) -> Tensor:
        return self.logits(F.relu(self.decoder(z)))

    def forward(self, x: Tensor) -> Tensor:
        """Return the loss per datum."""
        loc, scale = self.encode(x)
        z = loc + scale * torch.randn_like(scale)
        return (pixel_loss(self.decode(z), x) + normal_kl(loc, scale)) / len(x)

    def log_weights(self, x: Tensor, particles: int) -> Tensor:
        """Return log p(x, z) - log q(z | x) of `particles` draws for each datum: `(particles, B)`."""
        loc, scale = self.encode(x)
        noise = torch.randn(particles, *loc.shape, device=x.device)
        z = loc + scale * noise
        logits = self.decode(z)
        log_px = -F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)
        return log_px + (0.5 * (noise.square() - z.square()) + scale.log()).sum(-1)


class PCVAE(VAE):
    """The VAE with a linear classifier of z, for data that all have a class."""

    def __init__(self, pixels: int, hidden: int, latent: int, classes: int) -> None:
        super().__init__(pixels, hidden, latent)
        self.classifier = nn.Linear(latent, classes)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:  # type: ignore[override]  # classes too
        """Return the loss per datum, with lambda = 25."""
        loc, scale = self.encode(x)
        z = loc + scale * torch.randn_like(scale)
        loss = pixel_loss(self.decode(z), x) + normal_kl(loc, scale)
        return (loss + 25 * F.cross_entropy(self.classifier(z), y, reduction="sum")) / len(x)


class M2(nn.Module):
    """M2 for a labelled and an unlabelled minibatch of one size. It sums out the classes of the latter."""

    def __init__(self, pixels: int, hidden: int, latent: int, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.features, self.encoder = nn.Linear(pixels, hidden), nn.Linear(hidden + classes, hidden)
        self.loc, self.scale = nn.Linear(hidden, latent), nn.Linear(hidden, latent)
        self.decoder, self.logits = nn.Linear(latent + classes, hidden), nn.Linear(hidden, pixels)
        self.hidden, self.class_logits = nn.Linear(pixels, hidden), nn.Linear(hidden, classes)

    def negative_bound(self, x: Tensor, one_hot: Tensor) -> Tensor:
        """Return -L(x, y) for each datum. `one_hot` can have leading dimensions, which broadcast."""
        h = F.relu(self.features(x)).expand(*one_hot.shape[:-1], -1)
        h = F.relu(self.encoder(torch.cat([h, one_hot], -1)))
        loc, scale = self.loc(h), F.softplus(self.scale(h)) + 1e-4
        z = loc + scale * torch.randn_like(scale)
        logits = self.logits(F.relu(self.decoder(torch.cat([z, one_hot], -1))))
        pixels = F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)
        kl = 0.5 * (loc.square() + scale.square() - 1) - scale.log()
        return pixels + kl.sum(-1) + math.log(self.classes)

    def forward(self, x: Tensor, y: Tensor, unlabelled: Tensor) -> Tensor:
        """Return the loss per datum, with alpha = 0.1."""
        labelled = self.negative_bound(x, F.one_hot(y, self.classes).float())
        classified = F.cross_entropy(self.class_logits(F.relu(self.hidden(x))), y, reduction="none")
        every = torch.eye(self.classes, device=x.device)[:, None].expand(-1, len(unlabelled), -1)
        bounds = self.negative_bound(unlabelled, every)
        log_q = self.class_logits(F.relu(self.hidden(unlabelled))).log_softmax(-1).T
        marginal = (log_q.exp() * (bounds + log_q)).sum(0)
        return 0.5 * (labelled + 0.1 * classified).mean() + 0.5 * marginal.mean()


class MaskedLinear(nn.Linear):
    """A linear map with a mask, which sets some of its weights to 0."""

    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask.float())

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.mask * self.weight, self.bias)


class IAFStep(nn.Module):
    """One step of an inverse autoregressive flow, with one hidden layer and a context from the encoder."""

    def __init__(self, latent: int, context: int, hidden: int, flip: bool) -> None:
        super().__init__()
        order = torch.arange(latent)
        order = order.flip(0) if flip else order
        degrees = torch.arange(hidden) % max(1, latent - 1)
        self.first = MaskedLinear(degrees[:, None] >= order[None])
        self.context = nn.Linear(context, hidden, bias=False)
        self.last = MaskedLinear((order[:, None] > degrees[None]).repeat(2, 1))

    def forward(self, z: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        h = F.elu(self.first(z) + self.context(context))
        shift, log_scale = self.last(h).chunk(2, -1)
        log_scale = log_scale / (1 + (log_scale / math.log(1e3)).abs())
        return shift + log_scale.exp() * z, log_scale.sum(-1)


class IAFVAE(VAE):
    """The VAE with an inverse autoregressive flow as posterior."""

    def __init__(
        self, pixels: int, hidden: int, latent: int, steps: int = 2, context: int = 64, width: int = 128
    ) -> None:
        super().__init__(pixels, hidden, latent)
        self.context = nn.Linear(hidden, context)
        self.steps = nn.ModuleList(IAFStep(latent, context, width, k % 2 == 1) for k in range(steps))

    def flow(self, x: Tensor, particles: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
        """Draw z and return it with log q(z | x)."""
        h = F.relu(self.encoder(x))
        loc, scale, context = self.loc(h), F.softplus(self.scale(h)) + 1e-4, self.context(h)
        noise = torch.randn(*particles, *loc.shape, device=x.device)
        log_q = (-0.5 * noise.square() - scale.log() - 0.5 * math.log(2 * math.pi)).sum(-1)
        z = loc + scale * noise
        for step in self.steps:
            z, ladj = step(z, context)
            log_q = log_q - ladj
        return z, log_q

    def forward(self, x: Tensor) -> Tensor:
        """Return the loss per datum."""
        z, log_q = self.flow(x)
        log_p = -(0.5 * z.square() + 0.5 * math.log(2 * math.pi)).sum()
        return (pixel_loss(self.decode(z), x) + log_q.sum() - log_p) / len(x)

    def log_weights(self, x: Tensor, particles: int) -> Tensor:
        """Return log p(x, z) - log q(z | x) of `particles` draws for each datum: `(particles, B)`."""
        z, log_q = self.flow(x, (particles,))
        logits = self.decode(z)
        log_px = -F.binary_cross_entropy_with_logits(logits, x.expand_as(logits), reduction="none").sum(-1)
        return log_px - (0.5 * z.square() + 0.5 * math.log(2 * math.pi)).sum(-1) - log_q


def pixel_loss(logits: Tensor, x: Tensor) -> Tensor:
    """Return -log p(x | z), summed over the minibatch."""
    return F.binary_cross_entropy_with_logits(logits, x, reduction="sum")


def normal_kl(loc: Tensor, scale: Tensor) -> Tensor:
    """Return the KL divergence from N(0, 1), summed over the minibatch."""
    return (0.5 * (loc.square() + scale.square() - 1) - scale.log()).sum()


def training_step(model: nn.Module, loss: Loss) -> Callable[..., Any]:
    """Return a function that takes one training step: loss, gradients, fused Adam.

    Args:
        model: the model.
        loss: its loss, which may be compiled.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)

    def step(*batch: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss(*batch).backward()
        optimizer.step()

    return step


def captured_step(model: nn.Module, batch: Callable[[], tuple[Tensor, ...]]) -> Callable[[], None]:
    """Return a function that replays a whole training step, captured once as a CUDA graph.

    Args:
        model: the model, on a GPU.
        batch: a function that gathers the minibatch from tensors that stay where they are.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True, capturable=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        model(*batch()).backward()
        optimizer.step()

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # libraries and the optimiser make their state
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay
