"""Minibatches of data of which all, some or none have a class.

Labelled and unlabelled data are two parts, each a call of the programs: with and without classes. A
minibatch has some of both. An epoch is one pass through the part that takes longer; the other part is
shuffled anew each time it has been passed through.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from pyrovae.compute import processes
from pyrovae.data.checks import UNLABELLED
from pyrovae.errors import InputError


@dataclass(frozen=True)
class Part:
    """Data that are given to the programs in one call.

    Attributes:
        indices: which data, `(n,)`.
        labelled: whether the call is given their classes.
        batch_size: how many are in a minibatch.
        share: the part's share of all data.
        weight: of the part's mean loss in a minibatch's loss.
    """

    indices: Tensor
    labelled: bool
    batch_size: int
    share: float
    weight: float

    @property
    def steps(self) -> int:
        """Minibatches in a pass."""
        return math.ceil(len(self.indices) / self.batch_size)

    def shuffled(self, steps: int, device: torch.device) -> tuple[Tensor, ...]:
        """Indices for so many minibatches, in as many passes as it takes, on the device of the data."""
        needed = len(self.indices) if steps == self.steps else steps * self.batch_size
        passes = [torch.randperm(len(self.indices)) for _ in range(math.ceil(needed / len(self.indices)))]
        return self.indices[torch.cat(passes)[:needed]].to(device).split(self.batch_size)


class Call(NamedTuple):
    """A part's data in a minibatch.

    Attributes:
        part: whose they are.
        args: the arguments of the programs' call: this process's share of these data.
        total: how many they are in all processes, by which sums over them become means. It is infinite
            for a process without a share, whose call has a datum that is to count for nothing.
    """

    part: Part
    args: tuple[Tensor, ...]
    total: float


Batch = list[Call]


@dataclass(frozen=True)
class Minibatches:
    """Data in one part or two, and how they are presented.

    Attributes:
        x: the data, `(N, *x_shape)`.
        y: their classes `(N,)`, -1 where there is none; None if the programs are given no classes.
        parts: labelled data first, if there are both.
        transform: applied to the data of a call when they are presented, or None.
        device: where they are presented.
    """

    x: Tensor
    y: Tensor | None
    parts: list[Part]
    transform: Callable[[Tensor], Tensor] | None
    device: torch.device

    @property
    def steps(self) -> int:
        """Minibatches in an epoch."""
        return max(part.steps for part in self.parts)

    def first(self) -> Batch:
        """The first data of each part."""
        return self.presented([part.indices[: part.batch_size] for part in self.parts])

    def shuffled(self) -> Iterator[tuple[Tensor, ...]]:
        """An epoch: for each step, which data of each part are in the minibatch."""
        return zip(*(part.shuffled(self.steps, self.x.device) for part in self.parts), strict=True)

    def presented(self, indices: Sequence[Tensor]) -> Batch:
        """A minibatch, given which data of each part are in it."""
        return [self._call(part, rows) for part, rows in zip(self.parts, indices, strict=True)]

    def in_order(self, size: int = 1000) -> Iterator[tuple[Tensor, ...]]:
        """The arguments of calls that present every datum once."""
        for part in self.parts:
            for indices in part.indices.split(size):
                yield self._arguments(part, indices)

    def _call(self, part: Part, rows: Tensor) -> Call:
        if len(share := processes.share_of(rows)):
            return Call(part, self._arguments(part, share), len(rows))
        return Call(part, self._arguments(part, rows[:1]), math.inf)

    def _arguments(self, part: Part, indices: Tensor) -> tuple[Tensor, ...]:
        # By index_select, which copies whole rows where x[indices] goes number by number.
        x = self.x.index_select(0, indices.to(self.x.device)).to(self.device)
        x = x if self.transform is None else self.transform(x)
        if self.y is None or not part.labelled:
            return (x,)
        return x, self.y[indices.to(self.y.device)].to(self.device)


def parts_of(
    num_data: int,
    y: Tensor | None,
    batch_size: int,
    labelled_batch_size: int | None = None,
    data_weights: tuple[float, float] = (1.0, 1.0),
) -> list[Part]:
    """The labelled and the unlabelled part of data with classes `y` `(N,)`, -1 where there is none.

    Each datum counts in the loss as often as any other, times the weight of its kind, labelled first.
    Unlabelled data that are in the minority are spread over the epoch, rather than presented again and
    again beside the labelled, unless `labelled_batch_size` says how many are to stand beside each other.
    Without classes, or if every datum has one, there is one part; also if `y` is real-valued, where -1 is
    a value like any other.

    Raises:
        InputError: no datum has a class, though classes are given; or a weight is below 0.
    """
    if not min(data_weights) >= 0:
        raise InputError(f"data_weights are {data_weights}; each must be at least 0.")
    if y is None or y.is_floating_point() or not (unlabelled := y == UNLABELLED).any():
        return [Part(torch.arange(num_data), y is not None, batch_size, 1.0, 1.0)]
    if unlabelled.all():
        raise InputError(
            f"all {num_data} classes are {UNLABELLED}, which stands for unlabelled: give the classes of "
            "some data, or leave y out."
        )
    num_labelled, num_unlabelled = int((~unlabelled).sum()), int(unlabelled.sum())
    beside = batch_size
    if labelled_batch_size is None and num_unlabelled < num_labelled:
        beside = math.ceil(num_unlabelled / math.ceil(num_labelled / batch_size))
    parts = []
    for rows, labelled, size, weight in (
        (~unlabelled, True, labelled_batch_size or batch_size, data_weights[0]),
        (unlabelled, False, beside, data_weights[1]),
    ):
        indices = rows.nonzero().squeeze(1).cpu()
        share = len(indices) / num_data
        parts.append(Part(indices, labelled, min(size, len(indices)), share, share * weight))
    return parts
