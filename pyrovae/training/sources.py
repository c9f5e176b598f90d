"""Sources of data: a tensor, a NumPy array or memory map, or a map-style `Dataset`.

A source reads data by their indices. Data outside of memory are a *stream*. The values of a stream are
checked when they are first read. When a run is resumed, the length of the stream and a digest of 256 fixed
items are compared, not all values.

Items of a `Dataset` may be random, as with augmentation. Each item is read with a seed of its own, which
depends on the run's seed, the epoch and the item's position in the epoch. So the item does not depend on
the number of workers or processes, and reading it does not change the run's random stream.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from pyrovae.compute.streams import set_streams, streams
from pyrovae.data.arrays import unmasked
from pyrovae.data.checks import UNLABELLED, check_classes, check_data, holds_classes
from pyrovae.errors import InputError

Data = Tensor | NDArray[Any] | Dataset[Any]
"""The data that `fit` takes: `(N, *x_shape)`, or a map-style dataset of `x` or of `(x, y)`."""

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
    def device(self) -> torch.device:
        """The device of the tensors that `read` returns."""
        ...

    def __len__(self) -> int:
        """The number of data."""
        ...

    def read(self, indices: Tensor, seeds: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return the data with these indices, `(x,)` or `(x, y)`, in this order.

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

    def __init__(self, x: Tensor) -> None:
        self.x = x

    @property
    def device(self) -> torch.device:
        """The tensor's device."""
        return self.x.device

    def __len__(self) -> int:
        return len(self.x)

    def read(self, indices: Tensor, seeds: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return the rows with these indices."""
        # index_select copies whole rows, and is faster than x[indices], which copies single numbers.
        return (self.x.index_select(0, indices.to(self.x.device)),)

    def fingerprint(self) -> str:
        """Return the shape and a digest of all values."""
        return fingerprint(self.x)


class MemoryMapped:
    """A source of data in a NumPy memory map `(N, *x_shape)`. It reads only the rows that are used."""

    stream = True
    with_classes = False
    device = torch.device("cpu")

    def __init__(self, array: NDArray[Any]) -> None:
        self.array = array

    def __len__(self) -> int:
        return len(self.array)

    def read(self, indices: Tensor, seeds: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return copies of the rows with these indices."""
        return (torch.from_numpy(np.array(self.array[indices.cpu().numpy()])),)

    def fingerprint(self) -> str:
        """Return the length and a digest of 256 rows."""
        return _fingerprint_of_few(self)


class Items:
    """A source of data in a map-style `torch.utils.data.Dataset`.

    Args:
        dataset: a dataset whose items are all `x`, or all `(x, y)`, as tensors, arrays or numbers.

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
            self.with_classes = len(self.items[0, 0]) == 2

    def __len__(self) -> int:
        return self.length

    def read(self, indices: Tensor, seeds: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return the items with these indices, stacked."""
        seeds = torch.zeros_like(indices) if seeds is None else seeds
        with _streams_kept():
            keys = zip(indices.tolist(), seeds.tolist(), strict=True)
            return _stacked([self.items[key] for key in keys])

    def read_ahead(
        self, batches: Sequence[tuple[Tensor, Tensor]], workers: int
    ) -> Iterator[tuple[Tensor, ...]]:
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
    """The items of a dataset, each read with a seed: `items[index, seed]` is `(x,)` or `(x, y)`.

    Reading an item changes the random streams. A worker process has streams of its own.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, ...]:
        index, seed = key
        _seed_all(seed)
        item = self.dataset[index]
        parts = item if isinstance(item, tuple | list) else (item,)
        if len(parts) not in (1, 2):
            raise InputError(f"item {index} of the dataset has {len(parts)} parts; expected x, or (x, y).")
        try:
            return tuple(torch.as_tensor(part) for part in parts)
        except (TypeError, ValueError, RuntimeError) as error:
            found = ", ".join(type(part).__name__ for part in parts)
            raise InputError(
                f"item {index} of the dataset is made of {found}; expected tensors, arrays or numbers: "
                "convert them in the dataset (torchvision's ToTensor makes tensors of images)."
            ) from error


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


def _stacked(items: Sequence[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    shapes = {tuple(item[0].shape) for item in items}
    if len(shapes) > 1:
        raise InputError(
            f"the dataset's items have different shapes ({sorted(shapes)}): make them of one shape."
        )
    if len({len(item) for item in items}) > 1:
        raise InputError(
            "some of the dataset's items are x, and some are (x, y): give all a class, or none."
        )
    return tuple(torch.stack(parts) for parts in zip(*items, strict=True))


def source_of(x: Data, y: Tensor | None = None) -> Source:
    """Return the source of data, and check what can be checked without reading a stream.

    Args:
        x: the data: a tensor or array `(N, *x_shape)`, a memory map of that shape, or a map-style dataset.
        y: the classes `(N,)`, -1 for unlabelled data. None means that the programs take no classes.

    Raises:
        InputError: the data cannot be used, or `y` cannot belong to them.
    """
    if isinstance(x, np.memmap):
        check_data(torch.from_numpy(np.array(x[:1])))
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
        check_data(source.x, y, unlabelled=True)
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


def check_read(values: Sequence[Tensor]) -> None:
    """Check data that have just been read from a stream, `(x,)` or `(x, y)`.

    Raises:
        InputError: values are not finite, or an item is unlabelled. Training must know that before it reads
            it.
    """
    check_data(values[0])
    if len(values) > 1:
        check_classes(values[1], len(values[0]))
        if holds_classes(values[1]) and (unknown := int((values[1].long() == UNLABELLED).sum())):
            raise InputError(
                f"{unknown} of {len(values[1])} items of the dataset have class {UNLABELLED}, unlabelled. "
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
    return source.read(_spread(len(source), count))[0]


def item_seeds(seed: int, count: int, *purpose: int | str) -> Tensor:
    """Return `count` seeds `(count,)`, which depend on the run's seed and on their purpose."""
    words = " ".join(map(str, (seed, *purpose))).encode()
    generator = torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(words).digest()[:7], "big"))
    return torch.randint(2**62, (count,), generator=generator)


def fingerprint(x: Tensor) -> str:
    """Return a tensor's shape and a digest of its values."""
    values = x.detach().cpu().contiguous().view(torch.uint8)  # NumPy lacks some types, such as bfloat16
    digest = hashlib.sha256(values.numpy().tobytes()).hexdigest()[:16]
    return f"{tuple(x.shape)} {digest}"


def _spread(length: int, count: int) -> Tensor:
    """Return up to `count` indices, evenly spread over `length`, with the first and the last one."""
    return torch.linspace(0, length - 1, min(length, count), dtype=torch.float64).round().long()


def _fingerprint_of_few(source: Source) -> str:
    values = source.read(_spread(len(source), DIGESTED))
    digests = " and ".join(fingerprint(part) for part in values)
    return f"{len(source)} data, of which {len(values[0])} are {digests}"
