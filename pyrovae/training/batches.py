"""Minibatches of data. All, some or none of the data have a class.

Labelled and unlabelled data are two parts. The programs are called once for each part, with classes for the
labelled data and without for the others. A minibatch has some data of both. An epoch is one pass through
the part that takes longer. The other part is shuffled again after each pass through it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from pyrovae.compute import processes
from pyrovae.compute.devices import seeded
from pyrovae.compute.indices import holds_whole_numbers
from pyrovae.data.checks import OBSERVED, UNLABELLED, holds_classes, mask_of_elements
from pyrovae.data.transforms import Transform
from pyrovae.distributions import filled
from pyrovae.errors import InputError
from pyrovae.programs.given import NOTHING_GIVEN, Given
from pyrovae.programs.rows import Arguments
from pyrovae.training.sources import InMemory, Items, Source, check_read, item_seeds, rows_of

_TRIED = 5  # data whose missing values are changed to see what a transform does with them


@dataclass(frozen=True)
class Part:
    """Data that are given to the programs in one call.

    Attributes:
        indices: the indices of the data, `(n,)`.
        labelled: whether the programs are called with their classes.
        batch_size: the number of these data in a minibatch.
        share: the fraction of all data that are in this part.
        weight: the weight of the part's mean loss in the loss of a minibatch.
    """

    indices: Tensor
    labelled: bool
    batch_size: int
    share: float
    weight: float

    @property
    def steps(self) -> int:
        """The number of minibatches in a pass through the part."""
        return math.ceil(len(self.indices) / self.batch_size)

    def shuffled(self, steps: int, device: torch.device) -> tuple[Tensor, ...]:
        """Draw the indices of the data for `steps` minibatches, in as many passes as they take."""
        needed = len(self.indices) if steps == self.steps else steps * self.batch_size
        passes = [torch.randperm(len(self.indices)) for _ in range(math.ceil(needed / len(self.indices)))]
        return self.indices[torch.cat(passes)[:needed]].to(device).split(self.batch_size)


class Rows(NamedTuple):
    """The data of a part that are in a minibatch.

    Attributes:
        indices: the indices of the data, `(n,)`, for all processes.
        seeds: the seed of each item's random draws, `(n,)`; None if reading makes no random draws.
        items: this process's share of the data, if they have been read already.
    """

    indices: Tensor
    seeds: Tensor | None = None
    items: Arguments | None = None


class Call(NamedTuple):
    """The data of a part in a minibatch.

    Attributes:
        number: the number of the part.
        arguments: the arguments of the programs' call: this process's share of the data.
        total: the number of data in all processes. Division by it turns sums into means.
    """

    number: int
    arguments: Arguments
    total: int


class Batch(NamedTuple):
    """A minibatch.

    Attributes:
        calls: one call for each part, if this process has a share of it.
        num_data: the number of data in all parts and processes.
    """

    calls: list[Call]
    num_data: int

    @property
    def layout(self) -> list[tuple[int, int]]:
        """The number of each part and its size. Minibatches with equal layouts have equal shapes."""
        return [(call.number, call.total) for call in self.calls]


@dataclass(frozen=True)
class Minibatches:
    """Data in one or two parts, and the minibatches made from them.

    Attributes:
        source: the data.
        y: their classes `(N,)`, -1 for unlabelled data. None means that the programs take no classes, or
            that the source has them.
        parts: the parts, the labelled one first if there are both.
        transform: a function that is applied to the data of each call, or None.
        device: the device of the minibatches.
        seed: the run's seed, on which the seeds of items depend.
        workers: the number of processes that read items in advance. 0 means that the training process does.
        shuffle: whether the data come in another order in each epoch.
        given: what is given beside the data and their classes, on any device.
        one_hot: C, if the programs take classes as one-hot rows `(n, C)`; None for whole numbers.
    """

    source: Source
    y: Tensor | None
    parts: list[Part]
    transform: Transform | None
    device: torch.device
    seed: int = 0
    workers: int = 0
    shuffle: bool = True
    given: Given = NOTHING_GIVEN
    one_hot: int | None = None

    @property
    def steps(self) -> int:
        """The number of minibatches in an epoch."""
        return max(part.steps for part in self.parts)

    @property
    def full_steps(self) -> int:
        """The number of full minibatches in an epoch."""
        short = [
            part.steps == self.steps and len(part.indices) % part.batch_size and part.steps > 1
            for part in self.parts
        ]
        return self.steps - any(short)

    @property
    def lie_on_device(self) -> bool:
        """Whether all data, and what belongs to them, are in the memory of the minibatches' device."""
        beside = [*self.given.rows.values(), *([] if self.y is None else [self.y])]
        return isinstance(self.source, InMemory) and all(
            values.device.type == self.device.type for values in (self.source.x, *beside)
        )

    def first(self, offset: int = 0, shared: bool = False, check: bool = False) -> Batch:
        """Return a full minibatch of the first data of each part.

        Args:
            offset: the number of data to leave out at the beginning.
            shared: whether to return only this process's share.
            check: whether to check the values that are read from a stream.
        """
        return self.batch(self.first_rows(offset), shared, check)

    def first_rows(self, offset: int = 0) -> list[Rows]:
        """Return the rows of `first`."""
        return [Rows(part.indices.roll(-offset)[: part.batch_size]) for part in self.parts]

    def epoch(self, number: int) -> Iterator[tuple[Rows, ...]]:
        """Draw the order of an epoch at once, and return the rows of each step's minibatch.

        Args:
            number: the number of the epoch, on which the seeds of items depend.
        """
        # The order is drawn before this function returns, since each process draws for itself afterwards.
        order = [part.shuffled(self.steps, self.source.device) for part in self.parts]
        if not self.shuffle:  # the random stream moves all the same
            order = [tuple(rows.sort().values for rows in of_part) for of_part in order]
        if not isinstance(self.source, Items):
            return zip(*([Rows(rows) for rows in of_part] for of_part in order), strict=True)
        seeds = [
            item_seeds(self.seed, sum(map(len, rows)), "epoch", number, part).split(list(map(len, rows)))
            for part, rows in enumerate(order)
        ]
        steps = [
            tuple(map(Rows, rows, of_rows))
            for rows, of_rows in zip(zip(*order, strict=True), zip(*seeds, strict=True), strict=True)
        ]
        return self._read_ahead(self.source, steps) if self.workers else iter(steps)

    def batch(self, rows: Sequence[Rows], shared: bool = True, check: bool = False) -> Batch:
        """Return the minibatch of these rows: read if necessary, transformed, and on the device.

        Args:
            rows: the rows of each part that form the minibatch.
            shared: whether to take only this process's share, rather than all data.
            check: whether to check the values that are read, as in a first pass through a stream.
        """
        calls = []
        for number, of_part in enumerate(rows):
            own = _share(of_part) if shared else of_part
            if len(own.indices):
                arguments = self._arguments(self.parts[number], own, check)
                calls.append(Call(number, arguments, len(of_part.indices)))
        return Batch(calls, sum(len(of_part.indices) for of_part in rows))

    def in_order(self, size: int, check: bool = False) -> Iterator[Arguments]:
        """Yield the arguments of calls with every datum once, with the same random draws each time."""
        for number, part in enumerate(self.parts):
            seeds = item_seeds(self.seed, len(part.indices), "in order", number)
            for indices, of_indices in zip(part.indices.split(size), seeds.split(size), strict=True):
                yield self._arguments(part, Rows(indices, of_indices), check)

    def extremes(self) -> Iterator[Arguments]:
        """Yield a minibatch of each part with the data that have the least and greatest whole numbers.

        Programs may take classes, and whole numbers that are given beside the data, for indices. If any of
        them is out of range, so is one in such a minibatch.
        """
        for number, part in enumerate(self.parts):
            classes = [self.y] if part.labelled and self.y is not None else []
            found: list[Tensor] = []
            for values in filter(holds_whole_numbers, (*classes, *self.given.rows.values())):
                rows = rows_of(values, part.indices).reshape(len(part.indices), -1)
                found += [rows.amin(1).argmin(), rows.amax(1).argmax()]
            if found:
                chosen = part.indices[torch.stack(found).cpu()]
                size = max(part.batch_size, len(chosen))
                yield self.arguments(number, torch.cat([chosen, part.indices])[:size])

    def arguments(self, number: int, indices: Tensor) -> Arguments:
        """Return the arguments of a call with these data of a part."""
        return self._arguments(self.parts[number], Rows(indices), check=False)

    def _read_ahead(self, source: Items, steps: list[tuple[Rows, ...]]) -> Iterator[tuple[Rows, ...]]:
        """Let the workers read this process's share of each step in advance."""
        shares = [[_share(of_part) for of_part in rows] for rows in steps]
        # One loader reads ahead, so it reads the parts of a step together. They are split afterwards.
        keys = [
            (torch.cat([s.indices for s in of_step]), torch.cat([_seeds(s) for s in of_step]))
            for of_step in shares
        ]
        reading = source.read_ahead([key for key in keys if len(key[0])], self.workers)
        for rows, of_step, (indices, _) in zip(steps, shares, keys, strict=True):
            sizes = [len(share.indices) for share in of_step]
            items = _split(next(reading), sizes) if len(indices) else [Arguments(())] * len(rows)
            yield tuple(of_part._replace(items=read) for of_part, read in zip(rows, items, strict=True))

    def _arguments(self, part: Part, rows: Rows, check: bool) -> Arguments:
        read = self._read(rows)
        if check:
            check_read(read)
        x, *classes = read.args
        x = x.to(self.device)
        if self.transform is not None:
            x = self._transformed(filled(x, _mask_of(x, read)))
        if self.y is not None:
            classes = [rows_of(self.y, rows.indices)] if part.labelled else []
        if self.one_hot is not None:
            classes = [one_hot(y, self.one_hot).to(x) for y in classes]
        return Arguments((x, *classes), read.kwargs).to(self.device)

    def _read(self, rows: Rows) -> Arguments:
        """Read the data of a call, with what is given beside them."""
        read = self.source.read(rows.indices, rows.seeds) if rows.items is None else rows.items
        given = {name: rows_of(values, rows.indices) for name, values in self.given.rows.items()}
        return read._replace(kwargs={**read.kwargs, **given})

    def check_transform(self) -> None:
        """Refuse a transform that moves missing values to where others were observed, such as a shift.

        Raises:
            InputError: an observed value changes with the missing values of its datum.
        """
        if self.transform is None or OBSERVED not in {*self.given.rows, *self.source.names}:
            return
        for part in self.parts:
            read = self._read(Rows(part.indices[: part.batch_size]))
            x = read.args[0].to(self.device)
            if (observed := _mask_of(x, read)) is None:
                continue
            before = self._with_seed(filled(x, observed))
            if before.shape != x.shape:  # no element of it belongs to one of the mask
                continue
            incomplete = (~observed).reshape(len(observed), -1).any(1).nonzero()[:_TRIED]
            for row in incomplete.flatten().tolist():
                other = filled(x, observed)
                other[row].masked_fill_(~observed[row], 1.0)
                changed = (self._with_seed(other) != before) & observed
                # If other data change too, random numbers or sums over the minibatch couple all values.
                if changed[row].any() and changed.sum() == changed[row].sum():
                    raise InputError(
                        f"the transform {_name(self.transform)} brings missing values to places where "
                        f"`{OBSERVED}` is true, since it changes the data and not the mask: transform both "
                        'in a Dataset whose items are (x, {"observed": observed}), or leave it out.'
                    )

    def _with_seed(self, x: Tensor) -> Tensor:
        with seeded(self.seed, self.device):
            return self._transformed(x)

    def _transformed(self, x: Tensor) -> Tensor:
        """Apply the transform to the data of a call.

        Raises:
            InputError: it returns something else than a tensor, another number of data, or data that
                require gradients.
        """
        assert self.transform is not None
        name = _name(self.transform)
        found = self.transform(x)
        if not isinstance(found, Tensor) or len(found) != len(x):
            what = f"{len(found)} data" if isinstance(found, Tensor) else f"a {type(found).__name__}"
            raise InputError(
                f"the transform {name} makes {what} of {len(x)} data: bounds are sums over the minibatch's "
                "data, divided by their number, so return a tensor with one datum for each. Add or remove "
                "data before fit, for example by x = torch.cat([x, x])."
            )
        if found.requires_grad:
            raise InputError(
                f"the transform {name} returns data that require gradients: return x.detach(), or make "
                "them under torch.no_grad()."
            )
        return found


def _name(transform: Transform | None) -> str:
    return getattr(transform, "__qualname__", type(transform).__name__)


def _mask_of(x: Tensor, read: Arguments) -> Tensor | None:
    mask = mask_of_elements(x, read.kwargs)
    return None if mask is None else mask.to(x.device)


def most_at_once(batch_size: int) -> int:
    """Return the number of data that take about the memory of a training step if there are no gradients."""
    return max(batch_size, min(1000, 8 * batch_size))


def _split(read: Arguments, sizes: Sequence[int]) -> list[Arguments]:
    """Split items that were read together."""
    parts = zip(*(values.split(list(sizes)) for values in read.tensors), strict=True)
    return [read.with_tensors(part) for part in parts]


def _share(rows: Rows) -> Rows:
    """Return this process's share. Items that have been read are a share already."""
    seeds = None if rows.seeds is None else processes.share_of(rows.seeds)
    return Rows(processes.share_of(rows.indices), seeds, rows.items)


def _seeds(rows: Rows) -> Tensor:
    assert rows.seeds is not None
    return rows.seeds


def parts_of(
    num_data: int,
    y: Tensor | None,
    batch_size: int,
    labelled_batch_size: int | None = None,
    data_weights: tuple[float, float] = (1.0, 1.0),
) -> list[Part]:
    """Split data into the labelled and the unlabelled part.

    Each datum has the same weight in the loss, times the weight of its kind. If the unlabelled data are in
    the minority, they are spread over the epoch and not repeated beside the labelled ones, unless
    `labelled_batch_size` is given. There is one part if there are no classes, if every datum has one, or if
    `y` is real-valued or a mask, since its values are then no classes.

    Args:
        num_data: N, the number of data.
        y: the classes `(N,)`, -1 for unlabelled data. None means no classes.
        batch_size: the number of data in a minibatch, or of its unlabelled data if there are two parts.
        labelled_batch_size: the number of labelled data in a minibatch. None means `batch_size`, or all
            labelled data if they are fewer.
        data_weights: the weights of a labelled and of an unlabelled datum.

    Raises:
        InputError: all given classes are -1, or a weight is below 0.
    """
    if not all(0 <= weight < math.inf for weight in data_weights):
        raise InputError(f"data_weights are {data_weights}; each must be a finite number of at least 0.")
    if y is None or not holds_classes(y) or not (unlabelled := y == UNLABELLED).any():
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
