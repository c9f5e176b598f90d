"""Members of one kind as one function: their tensors are stacked, and `torch.func.vmap` runs them together.

The members are pairs that one function has made under different seeds. Each parameter and buffer of theirs
is one tensor with a first dimension for the members. The programs of the first member run for all of them:
within `vmap` they see tensors of a single member, and each member gets draws of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from pyrovae.compute.compilation import difference
from pyrovae.compute.devices import seeded
from pyrovae.errors import InputError, NonFiniteError, cause
from pyrovae.programs.mapping import mapped
from pyrovae.programs.modes import buffers_kept
from pyrovae.programs.noise import Noise, OtherNoise, RecordedNoise, ReplayedNoise
from pyrovae.programs.reach import modules_of
from pyrovae.programs.rows import Arguments
from pyrovae.training.batches import Batch, Call, Minibatches, Rows
from pyrovae.training.losses import MinibatchLoss, Weights
from pyrovae.training.sources import item_seeds
from pyrovae.training.trainable import Trainable

OWN_LOSS = "loss of the member"
"""The name of the term with the loss of each member."""


class ModulesOf(nn.Module):
    """The modules behind a pair as one module, whose result is the loss of a minibatch.

    Args:
        loss: the loss of the pair.
    """

    def __init__(self, loss: MinibatchLoss) -> None:
        super().__init__()
        self.parts = nn.ModuleList(modules_of(loss.pair))
        self.loss = loss

    def forward(
        self, batch: Batch, beta: float | Tensor, weights: Weights
    ) -> tuple[Tensor, dict[str, Tensor]]:
        return self.loss(batch, beta, weights)

    def tensors(self) -> dict[str, Tensor]:
        """Return all parameters and buffers by name."""
        return dict(self.named_parameters()) | dict(self.named_buffers())


class Stack:
    """The tensors of several members, each with a first dimension for the members.

    Args:
        losses: the loss of each member.

    Attributes:
        members: the modules of each member.
        tensors: the stacked tensors by name, parameters first.

    Raises:
        InputError: the members differ in more than the values of their tensors, or share a parameter.
    """

    def __init__(self, losses: Sequence[MinibatchLoss]) -> None:
        self.members = [ModulesOf(loss) for loss in losses]
        _check_alike(self.members)
        parameters, buffers = stack_module_state(self.members)
        self.tensors: dict[str, Tensor] = {
            name: nn.Parameter(value.detach(), value.requires_grad) for name, value in parameters.items()
        } | buffers

    @torch.no_grad()
    def write_back(self, number: int) -> None:
        """Give a member the values of its own tensors."""
        for name, value in self.members[number].tensors().items():
            value.copy_(self.tensors[name][number])

    def named(self, names: Mapping[int, str]) -> dict[str, Tensor]:
        """Return the stacked tensors by other names.

        Args:
            names: the new names of the first member's tensors, by their ids. Those left out keep theirs.
        """
        first = self.members[0].tensors()
        return {names.get(id(first[name]), name): value for name, value in self.tensors.items()}

    def of(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return the stacked tensors of these tensors of the first member."""
        names = {id(value): name for name, value in self.members[0].tensors().items()}
        return [self.tensors[names[id(value)]] for value in tensors]


def _check_alike(members: Sequence[ModulesOf]) -> None:
    """Refuse members whose tensors differ in more than their values, or are shared.

    Raises:
        InputError: two members differ in names, shapes, types or what is frozen, or share a parameter.
    """

    def kinds(member: ModulesOf) -> dict[str, str]:
        return {
            name: f"{tuple(value.shape)}, {str(value.dtype).removeprefix('torch.')}"
            + (", trained" if value.requires_grad else "")
            for name, value in member.tensors().items()
        }

    first = kinds(members[0])
    for number, member in enumerate(members[1:], 2):
        other = kinds(member)
        for name in [*first, *other]:
            if first.get(name) != other.get(name):
                raise InputError(
                    f"the members must differ in their seeds alone, but {name.removeprefix('parts.')} is "
                    f"{first.get(name, 'absent')} in the first member and {other.get(name, 'absent')} in "
                    f"member {number}: let make build the same modules for every seed."
                )
    owners: dict[int, int] = {}
    for number, member in enumerate(members, 1):
        for name, value in member.named_parameters():
            if value.requires_grad and (owner := owners.setdefault(id(value), number)) != number:
                raise InputError(
                    f"members {owner} and {number} share the parameter {name.removeprefix('parts.')}, and "
                    "each must train its own: build all trained modules inside of make, or freeze the "
                    "shared ones by requires_grad_(False)."
                )


@dataclass(frozen=True)
class StackedLoss(MinibatchLoss):
    """The sum of the losses of all members, each on a minibatch of its own.

    The other attributes are those of the first member.

    Attributes:
        stack: the members and their tensors.
        seeds: the seed of each member, for messages.
    """

    stack: Stack = field(kw_only=True)
    seeds: tuple[int, ...] = field(kw_only=True)

    def __call__(
        self, batch: Batch, beta: float | Tensor, weights: Weights
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum of the losses, and the terms of each member, `(S,)` each, its own loss among them.

        Args:
            batch: a minibatch for each member, `(S, B, ...)`, as `StackedMinibatches` makes it.
            beta: the weight of the latent sites.
            weights: the weights of further sites.
        """

        def of_member(inputs: Any) -> tuple[Tensor, dict[str, Tensor]]:
            tensors, data = inputs
            calls = [
                call._replace(arguments=call.arguments.with_tensors(own))
                for call, own in zip(batch.calls, data, strict=True)
            ]
            of_batch = (batch._replace(calls=calls), beta, weights)
            found: tuple[Tensor, dict[str, Tensor]] = functional_call(
                self.stack.members[0], tensors, of_batch
            )
            return found

        data = tuple(call.arguments.tensors for call in batch.calls)
        losses, terms = mapped(of_member, (self.stack.tensors, data), len(self.seeds))
        return losses.sum(), {**terms, OWN_LOSS: losses.detach()}

    def explanation(self, what: str, batch: Batch) -> NonFiniteError:
        """Return an error that names the member, and the site at which its loss is not finite."""
        with torch.no_grad():
            finite = self(batch, 1.0, {})[1][OWN_LOSS].isfinite()
        number = int(finite.int().argmin())
        self.stack.write_back(number)
        own, seed = self.stack.members[number].loss, self.seeds[number]
        return own.explanation(f"{what} of the member with seed {seed}", member_of(batch, number))


class StackedParameters(Trainable):
    """The stacked parameters of several members, and their optimiser."""

    def clip(self, norm: float) -> None:
        """Scale the gradients of each member down, so that they have at most this norm together."""
        gradients = [value.grad for value in self.trained if value.grad is not None]
        norms = torch.stack([each.reshape(len(each), -1).norm(dim=1) for each in gradients]).norm(dim=0)
        factor = (norm / (norms + 1e-6)).clamp(max=1.0)  # as in torch's clip_grad_norm_
        for each in gradients:
            each.mul_(factor.reshape(-1, *[1] * (each.dim() - 1)))


@dataclass(frozen=True)
class StackedMinibatches(Minibatches):
    """Minibatches of several members. Each member has an order of the data, and transforms, of its own.

    Attributes:
        seeds: the seed of each member, on which its order of the data depends.
    """

    seeds: tuple[int, ...] = ()

    def first_rows(self, offset: int = 0) -> list[Rows]:
        """Return the rows of `first`, which are the same for all members."""
        return [
            Rows(part.indices.roll(-offset)[: part.batch_size].repeat(len(self.seeds), 1))
            for part in self.parts
        ]

    def epoch(self, number: int) -> Iterator[tuple[Rows, ...]]:
        """Draw the orders of an epoch. The indices of each part's rows are `(S, B)`."""
        orders = []
        for seed in self.seeds:
            with seeded(int(item_seeds(seed, 1, "order", number)), self.device):
                orders.append([*super().epoch(number)])
        for step in zip(*orders, strict=True):
            parts = zip(*step, strict=True)
            yield tuple(Rows(torch.stack([rows.indices for rows in part])) for part in parts)

    def batch(self, rows: Sequence[Rows], shared: bool = True, check: bool = False) -> Batch:
        """Return the minibatches of these rows, with a first dimension for the members.

        Args:
            rows: the rows of each part, with indices `(S, B)`.
            shared: of no use here, since there is one process.
            check: whether to check the values that are read.
        """
        members = len(self.seeds)
        indices = [each.indices for each in rows]
        if self.transform is None:  # all are read at once
            together = super().batch([Rows(each.flatten()) for each in indices], False, check)
            calls = [
                Call(number, _apart(arguments, members), total // members)
                for number, arguments, total in together.calls
            ]
            return Batch(calls, together.num_data // members)
        read = super().batch
        return _stacked([read([*map(Rows, own)], False, check) for own in zip(*indices, strict=True)])


def _apart(arguments: Arguments, members: int) -> Arguments:
    return arguments.with_tensors([each.unflatten(0, (members, -1)) for each in arguments.tensors])


def _stacked(batches: Sequence[Batch]) -> Batch:
    calls = []
    for same in zip(*(batch.calls for batch in batches), strict=True):
        columns = zip(*(call.arguments.tensors for call in same), strict=True)
        tensors = [torch.stack(values) for values in columns]
        calls.append(same[0]._replace(arguments=same[0].arguments.with_tensors(tensors)))
    return Batch(calls, batches[0].num_data)


def member_of(batch: Batch, number: int) -> Batch:
    """Return the minibatch of one member."""

    def own(arguments: Arguments) -> Arguments:
        return arguments.with_tensors([each[number] for each in arguments.tensors])

    return batch._replace(calls=[call._replace(arguments=own(call.arguments)) for call in batch.calls])


def disagreement(loss: StackedLoss, trained: Sequence[Tensor], batch: Batch) -> str | None:
    """Hold the stacked members against single runs of each, with the same noise.

    No value moves. If they agree, each parameter takes the layout in memory that its gradient has, so that
    no step must copy the gradients of linear layers.

    Args:
        loss: the stacked loss.
        trained: the stacked parameters that are trained.
        batch: a minibatch of each member.

    Returns:
        How losses, gradients or buffers differ, or why the members cannot run together; None if they agree.
    """
    members, number_of = loss.stack.members, {id(v): n for n, v in loss.stack.tensors.items()}
    names = [number_of[id(value)] for value in trained]
    expected: list[list[Tensor]] = []
    noise: list[Noise] = []
    for number, member in enumerate(members):
        own, draws = _single(member, names, member_of(batch, number))
        expected.append(own)
        noise.append(draws)
    before = {name: value.detach().clone() for name, value in loss.stack.tensors.items()}
    try:
        with ReplayedNoise(noise):
            total, terms = loss(batch, 1.0, {})
        gradients = _gradients(total, trained)
        found = [terms[OWN_LOSS], *gradients, *_buffers(loss.stack.tensors)]
    except (RuntimeError, ValueError, TypeError, NotImplementedError, OtherNoise) as error:
        return f"torch.func.vmap cannot run the programs ({cause(error)})"
    finally:
        with torch.no_grad():
            for name, value in before.items():
                loss.stack.tensors[name].copy_(value)
    if by := difference(found, [torch.stack(each) for each in zip(*expected, strict=True)]):
        return f"the members together give other numbers than each alone ({by})"
    for value, gradient in zip(trained, gradients, strict=True):
        value.data = torch.empty_like(gradient).copy_(value.detach())
    return None


def _single(member: ModulesOf, names: Sequence[str], batch: Batch) -> tuple[list[Tensor], Noise]:
    """Run a member alone. Return loss, gradients and buffers, and the noise that it drew."""
    with buffers_kept(member.loss.pair), torch.no_grad():
        member.loss(batch, 1.0, {})  # the objective finds the layout, which draws numbers
    parameters = dict(member.named_parameters())
    with buffers_kept(member.loss.pair), RecordedNoise() as recorded:
        value, _ = member.loss(batch, 1.0, {})
        gradients = _gradients(value, [parameters[name] for name in names])
        buffers = [each.clone() for each in _buffers(member.tensors())]
    return [value.detach(), *gradients, *buffers], recorded.noise


def _gradients(loss: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    active = [value for value in parameters if value.requires_grad]
    found = torch.autograd.grad(loss, active, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(active, found, strict=True)]


def _buffers(tensors: Mapping[str, Tensor]) -> list[Tensor]:
    """Return what a run may have moved without a gradient, as 64-bit numbers."""
    still = (value for value in tensors.values() if not value.requires_grad)
    return [value if value.is_complex() else value.double() for value in still]
