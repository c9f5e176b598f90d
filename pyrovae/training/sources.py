"""Sources of data: a tensor, a NumPy array or memory map, or a map-style `Dataset`.

A source reads data by their indices. Data outside of memory are a *stream*. The values of a stream are
checked when they are first read. When a run is resumed, the length of the stream and a digest of 256 fixed
items are compared, not all values.

An item of a `Dataset` is `x`, or a tuple of `x`, its class `y` if there are classes, and a dictionary of
what is given beside them if there is any: `(x, {"c": c})`, or `(x, y, {"c": c})`. A `DataLoader` collates
such items to a minibatch of the same form.

Items of a `Dataset` may be random, as with augmentation. Each item is read with a seed of its own, which
depends on the run's seed, the epoch and the item's position in the epoch. So the item does not depend on
the number of workers or processes, and reading it does not change the run's random stream.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from pyrovae.compute.streams import set_streams, streams
from pyrovae.data.arrays import unmasked
from pyrovae.data.checks import (
    OBSERVED,
    UNLABELLED,
    check_classes,
    check_data,
    holds_classes,
    mask_of_elements,
)
from pyrovae.data.digests import fingerprint
from pyrovae.errors import InputError
from pyrovae.programs.given import check_value
from pyrovae.programs.rows import Arguments

Data = Tensor | NDArray[Any] | Dataset[Any]
"""The data that `fit` takes: `(N, *x_shape)`, or a map-style dataset of `x` or of tuples with `x` first."""

DIGESTED = 256
"""The number of items that a stream's fingerprint covers."""

FEW = 10_000
"""The number of data of a stream that are used if a method needs all data at once."""


class Source(Protocol):
    """Data that are read by their indices."""

    @property
    def stream(self) -> bool:
        """Whether the values are outside of memory, and so are not checked in advance."""
        ...

    @property
    def with_classes(self) -> bool:
        """Whether `read` returns `(x, y)` rather than `(x,)`."""
        ...

    @property
    def names(self) -> tuple[str, ...]:
        """The names of what `read` returns as keyword arguments."""
        ...

    @property
    def device(self) -> torch.device:
        """The device of the tensors that `read` returns."""
        ...

    def __len__(self) -> int:
        """The number of data."""
        ...

    def read(self, indices: Tensor, seeds: Tensor | None = None) -> Arguments:
        """Return the data with these indices, in this order, as arguments of the programs.

        Args:
            indices: the indices of the data, `(n,)`.
            seeds: the seed of each item's random draws, `(n,)`.
        """
        ...

    def fingerprint(self) -> str:
        """Return a digest that identifies these data."""
        ...


class InMemory:
    """A source of data in a tensor `(N, *x_shape)`, on any device."""

    stream = False
    with_classes = False
    names = ()

    def __init__(self, x: Tensor) -> None:
        self.x = x

    @property
    def device(self) -> torch.device:
        """The tensor's device."""
        return self.x.device

    def __len__(self) -> int:
        return len(self.x)

    def read(self, indices: Tensor, seeds: Tensor | None = None) -> Arguments:
        """Return the rows with these indices."""
        return Arguments((rows_of(self.x, indices),))

    def fingerprint(self) -> str:
        """Return the shape and a digest of all values."""
        return fingerprint(self.x)


class MemoryMapped:
    """A source of data in a NumPy memory map `(N, *x_shape)`. It reads only the rows that are used."""

    stream = True
    with_classes = False
    names = ()
    device = torch.device("cpu")

    def __init__(self, array: NDArray[Any]) -> None:
        self.array = array

    def __len__(self) -> int:
        return len(self.array)

    def read(self, indices: Tensor, seeds: Tensor | None = None) -> Arguments:
        """Return copies of the rows with these indices."""
        return Arguments((torch.from_numpy(np.array(self.array[indices.cpu().numpy()])),))

    def fingerprint(self) -> str:
        """Return the length and a digest of 256 rows."""
        return _fingerprint_of_few(self)


class Items:
    """A source of data in a map-style `torch.utils.data.Dataset`.

    Args:
        dataset: a dataset whose items are all of one form: `x`, or a tuple of `x`, then a class `y` if
            there are classes, then a dictionary of what is given beside them if there is any. Their values
            are tensors, arrays or numbers.

    Raises:
        InputError: the dataset has no length, cannot be indexed, or its items are something else.
    """

    stream = True
    device = torch.device("cpu")

    def __init__(self, dataset: Any) -> None:
        if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__"):
            raise InputError(
                f"the data are a {type(dataset).__name__}, which can only be iterated over: "
                "shuffling and resuming need items by number. Give a map-style Dataset, which has "
                "__len__ and __getitem__."
            )
        try:
            self.length = len(dataset)
        except TypeError as error:
            raise InputError(
                f"the dataset {type(dataset).__name__} has no length: give it a __len__."
            ) from error
        if self.length == 0:
            raise InputError("the dataset has length 0; expected at least one datum.")
        self.items = _SeededItems(dataset)
        with _streams_kept():
            first = self.items[0, 0]
        self.with_classes, self.names = len(first.args) == 2, tuple(first.kwargs)

    def __len__(self) -> int:
        return self.length

    def read(self, indices: Tensor, seeds: Tensor | None = None) -> Arguments:
        """Return the items with these indices, stacked."""
        seeds = torch.zeros_like(indices) if seeds is None else seeds
        with _streams_kept():
            keys = zip(indices.tolist(), seeds.tolist(), strict=True)
            return _stacked([self.items[key] for key in keys])

    def read_ahead(self, batches: Sequence[tuple[Tensor, Tensor]], workers: int) -> Iterator[Arguments]:
        """Yield the items of each batch `(indices, seeds)`, which worker processes read in advance."""
        keys = [[*zip(i.tolist(), s.tolist(), strict=True)] for i, s in batches]
        # The loader draws a seed that no item uses. It must not draw it from the run's stream.
        aside = torch.Generator()
        yield from DataLoader(
            cast("Dataset[Any]", self.items),
            batch_sampler=keys,
            num_workers=workers,
            collate_fn=_stacked,
            generator=aside,
        )

    def fingerprint(self) -> str:
        """Return the length and a digest of 256 items."""
        return _fingerprint_of_few(self)


class _SeededItems:
    """The items of a dataset, each read with a seed: `items[index, seed]` has the arguments of one datum.

    Reading an item changes the random streams. A worker process has streams of its own.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getitem__(self, key: tuple[int, int]) -> Arguments:
        index, seed = key
        _seed_all(seed)
        item = self.dataset[index]
        x, y, given = parts_of_item(item, f"item {index} of the dataset")
        parts = (x,) if y is None else (x, y)
        try:
            args = tuple(torch.as_tensor(part) for part in parts)
            return Arguments(args, {name: torch.as_tensor(value) for name, value in given.items()})
        except (TypeError, ValueError, RuntimeError) as error:
            found = ", ".join(type(part).__name__ for part in (*parts, *given.values()))
            raise InputError(
                f"item {index} of the dataset is made of {found}; expected tensors, arrays or numbers: "
                "convert them in the dataset (torchvision's ToTensor makes tensors of images)."
            ) from error


def parts_of_item(item: Any, what: str = "the item") -> tuple[Any, Any, Mapping[str, Any]]:
    """Return the parts of `x`, `(x, y)`, `(x, given)` or `(x, y, given)`: the data, classes and a mapping.

    Args:
        item: one datum of a dataset, or data in this form.
        what: a name for it, for the message.

    Raises:
        InputError: it has another form.
    """
    parts = [*item] if isinstance(item, tuple | list) else [item]
    given = parts.pop() if len(parts) > 1 and isinstance(parts[-1], Mapping) else {}
    if len(parts) not in (1, 2) or any(isinstance(part, Mapping) for part in parts):
        every = item if isinstance(item, tuple | list) else parts
        kinds = ", ".join(type(part).__name__ for part in every)
        raise InputError(
            f"{what} has {len(every)} parts ({kinds}); expected x, or (x, y) with classes, and a "
            'dictionary at the end if something is given beside: (x, {"c": c}) or (x, y, {"c": c}).'
        )
    return parts[0], parts[1] if len(parts) > 1 else None, given


@contextmanager
def _streams_kept() -> Iterator[None]:
    """Restore the random streams of torch, NumPy and Python at the end."""
    before = streams()
    try:
        yield
    finally:
        set_streams(before)


def _seed_all(seed: int) -> None:
    """Seed the random streams of torch, NumPy and Python."""
    torch.default_generator.manual_seed(seed)  # torch.manual_seed seeds GPUs too, which takes far longer
    np.random.seed(seed % 2**32)
    random.seed(seed)


def _stacked(items: Sequence[Arguments]) -> Arguments:
    if len({(len(item.args), *item.kwargs) for item in items}) > 1:
        raise InputError(
            "some of the dataset's items have a class or a given value, and some have none: give all items "
            "the same parts."
        )
    for parts in zip(*((*item.args[:1], *item.kwargs.values()) for item in items), strict=True):
        if len(shapes := {tuple(part.shape) for part in parts}) > 1:
            raise InputError(
                f"the dataset's items have different shapes ({sorted(shapes)}): make them of one shape."
            )
    first = items[0]
    return first.with_tensors(
        [torch.stack(parts) for parts in zip(*(i.tensors for i in items), strict=True)]
    )


def source_of(x: Data, y: Tensor | None = None, given: Mapping[str, Any] | None = None) -> Source:
    """Return the source of data, and check what can be checked without reading a stream.

    Args:
        x: the data: a tensor or array `(N, *x_shape)`, a memory map of that shape, or a map-style dataset.
        y: the classes `(N,)`, -1 for unlabelled data. None means that the programs take no classes.
        given: what is given beside them; a mask `observed` says where any value may stand.

    Raises:
        InputError: the data cannot be used, or `y` cannot belong to them.
    """
    if isinstance(x, np.memmap):
        first, mask = torch.from_numpy(np.array(x[:1])), mask_of_elements(cast(Any, x), given)
        check_data(first, given=None if mask is None else {OBSERVED: mask[:1]})
        source: Source = MemoryMapped(x)
    elif isinstance(x, np.ndarray):
        plain = unmasked(x, "the array of data")
        if plain.dtype.kind not in "biufc" or plain.dtype.itemsize > 8 * (1 + (plain.dtype.kind == "c")):
            raise InputError(
                f"the array of data has type {plain.dtype}; expected floating point of 16, 32 or 64 bits: "
                "convert it by array.astype(numpy.float32)."
            )
        native = np.ascontiguousarray(plain, dtype=plain.dtype.newbyteorder("="))
        source = InMemory(torch.from_numpy(native if native.flags.writeable else native.copy()))
    elif isinstance(x, Tensor) or not isinstance(x, Dataset):
        source = InMemory(cast(Tensor, x))  # check_data refuses anything but a tensor
    else:
        source = Items(x)
    if isinstance(source, InMemory):
        check_data(source.x, y, unlabelled=True, given=given)
        if source.x.requires_grad:
            raise InputError("the data require gradients, as what a network returns does: give x.detach().")
    elif y is not None:
        check_classes(y, len(source))
    if y is not None and y.requires_grad:
        raise InputError("the second argument y requires gradients: give y.detach().")
    if y is not None and source.with_classes:
        raise InputError(
            "classes are given twice, by the dataset's items (x, y) and by y: give a dataset whose items "
            "are x, or leave y out."
        )
    return source


def check_read(read: Arguments) -> None:
    """Check data that have just been read from a stream, with what is given beside them.

    Raises:
        InputError: values are not finite, or an item is unlabelled. Training must know that before it reads
            it.
    """
    x, *classes = read.args
    check_data(x, given=read.kwargs)
    for name, value in read.kwargs.items():
        check_value(name, value)
    for y in classes:
        check_classes(y, len(x))
        if holds_classes(y) and (unknown := int((y.long() == UNLABELLED).sum())):
            raise InputError(
                f"{unknown} of {len(y)} items of the dataset have class {UNLABELLED}, unlabelled. "
                "Training must know in advance which data are labelled: give a dataset of x, and the "
                f"classes by y=... with {UNLABELLED} for unlabelled data."
            )


def few(x: Data, count: int = FEW) -> Tensor:
    """Return up to 10,000 data, evenly spread, for a method that needs all data at once.

    Args:
        x: the data, as `fit` takes them.
        count: the largest number of data to return.
    """
    source = source_of(x)
    return source.read(_spread(len(source), count)).args[0]


def item_seeds(seed: int, count: int, *purpose: int | str) -> Tensor:
    """Return `count` seeds `(count,)`, which depend on the run's seed and on their purpose."""
    words = " ".join(map(str, (seed, *purpose))).encode()
    generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(words).digest()[:7], "big"))
    return torch.randint(2**62, (count,), generator=generator)


def rows_of(values: Tensor, indices: Tensor) -> Tensor:
    """Return the rows of a tensor with these indices."""
    # index_select copies whole rows, and is faster than values[indices], which copies single numbers.
    return values.index_select(0, indices.to(values.device))


def _spread(length: int, count: int) -> Tensor:
    """Return up to `count` indices, evenly spread over `length`, with the first and the last one."""
    return torch.linspace(0, length - 1, min(length, count), dtype=torch.float64).round().long()


def _fingerprint_of_few(source: Source) -> str:
    values = source.read(_spread(len(source), DIGESTED)).tensors
    digests = " and ".join(fingerprint(part) for part in values)
    return f"{len(source)} data, of which {len(values[0])} are {digests}"
