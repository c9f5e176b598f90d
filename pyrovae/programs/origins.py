"""The sources that the values of tensors were computed from, element by element.

`Origins` watches every operation of torch while a program runs. It keeps a label for each element of the
memory of each tensor: a number for the set of sources that the element was computed from. So a view needs
no rule, and what is written into a part of a tensor keeps its origin. A function that reads only the shape
or the type of a tensor passes nothing on.

Branches (`if z > 0`) and numbers that leave torch (`float(z)`, `z.numpy()`) are not followed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

Label = int | Tensor
"""The label of all elements, or a tensor with one for each element. 0 stands for no source."""

# Operations that move elements unchanged from their tensors to a new place: what they do with values, they
# do with labels. Those of `_SAME` leave each element in its place.
_MOVES = {
    *("cat", "stack", "index", "index_select", "gather", "take", "masked_select", "flip", "roll", "repeat"),
    *("tril", "triu", "diag_embed", "constant_pad_nd", "_pack_padded_sequence", "_pad_packed_sequence"),
    *("index_put", "index_put_", "_index_put_impl_", "index_copy", "index_copy_", "scatter", "scatter_"),
    *("masked_scatter", "masked_scatter_", "slice_scatter", "select_scatter"),
}
_SAME = {"clone", "_to_copy", "copy", "copy_", "fill_", "lift_fresh"}
# Arguments that choose elements.
_CHOOSING = {"index", "indices", "mask", "condition", "lengths", "batch_sizes"}
# Operations that write over a tensor without reading it.
_OVERWRITES = {
    *("copy", "copy_", "fill", "fill_", "zero", "zero_", "normal_", "uniform_", "bernoulli_", "random_"),
    *("exponential_", "geometric_", "cauchy_", "log_normal_"),
}
_PRODUCTS = {"mm", "addmm", "bmm", "baddbmm"}
# Functions that take numbers as sizes alone.
_SIZED = {
    *(torch.zeros, torch.ones, torch.empty, torch.rand, torch.randn, torch.eye, Tensor.new_zeros),
    *(Tensor.new_ones, Tensor.new_empty, Tensor.view, Tensor.reshape, Tensor.expand, torch.reshape),
}
_FROM_PYTHON = (torch.tensor, torch.as_tensor, torch.asarray, Tensor.new_tensor)
_MOST_SETS = 4096  # where one operation makes more sets than this, all elements get their union


class Origins(TorchDispatchMode):
    """Follow the sources of values through the operations of torch, while this is entered.

    Args:
        singles: the number of sources that have a label from the start: source k has the label k + 1.
        content_only: whether to follow only what a value consists of, and not what chose its elements:
            the mask in `x[mask]` is then no source of the result.
    """

    def __init__(self, singles: int, content_only: bool = False) -> None:
        super().__init__()
        self.singles, self.content_only = singles, content_only
        self.numbers_read = 0
        self._sets: list[int] = []  # of the labels above twice `singles`, as bits
        self._label_of: dict[int, int] = {0: 0}
        self._kept: dict[int, tuple[StorageWeakRef, int, Label]] = {}  # by memory: width and labels
        self._of_sparse: Any = WeakTensorKeyDictionary()
        self._limit = 1000
        self._functions = _Functions(self)

    def __enter__(self) -> Origins:
        super().__enter__()
        self._functions.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._functions.__exit__(*error)
        super().__exit__(*error)

    # Sets of sources, as the bits of a number

    def bits(self, label: Label) -> int:
        """Return the union of the sets of some labels; bit k is source k."""
        if isinstance(label, int):
            return self._bits_of(label)
        there = np.zeros(2 * self.singles + len(self._sets) + 1, dtype=bool)
        there[label.flatten().cpu().numpy()] = True
        singles = there[1 : self.singles + 1] | there[self.singles + 1 : 2 * self.singles + 1]
        bits = int.from_bytes(np.packbits(singles, bitorder="little").tobytes(), "little")
        for number in np.flatnonzero(there[2 * self.singles + 1 :]):
            bits |= self._sets[number]
        return bits

    def _bits_of(self, label: int) -> int:
        if label > 2 * self.singles:
            return self._sets[label - 2 * self.singles - 1]
        return 1 << (label - 1) % self.singles if label else 0

    def label_of(self, bits: int) -> int:
        """Return the label of a set."""
        if bits not in self._label_of:
            self._sets.append(bits)
            self._label_of[bits] = 2 * self.singles + len(self._sets)
        return self._label_of[bits]

    def joined(self, labels: Sequence[Label], shape: Sequence[int]) -> Label:
        """Return the labels of the unions of sets, element by element of a tensor of this shape."""
        joined: Label = 0
        for label in labels:
            joined = self._union(joined, label, shape)
        return joined

    def _union(self, one: Label, other: Label, shape: Sequence[int]) -> Label:
        if isinstance(one, int) and isinstance(other, int):
            return one if other in (0, one) else other if not one else self._merged(one, other)
        for number, tensor in ((one, other), (other, one)):
            if isinstance(tensor, Tensor) and isinstance(number, int) and not number:
                return tensor.expand(shape)
        base = 2 * self.singles + len(self._sets) + 1
        pairs: Any = one * base + other
        if len(pairs.flatten()[: 2 * _MOST_SETS].unique()) > _MOST_SETS:  # a quick look
            return self._merged(one, other)
        found, where = pairs.unique(return_inverse=True)
        if len(found) > _MOST_SETS:
            return self._merged(one, other)
        new = [self._merged(*divmod(pair, base)) for pair in found.tolist()]
        return torch.tensor(new, device=pairs.device)[where].expand(shape)

    def _merged(self, one: Label, other: Label) -> int:
        return self.label_of(self.bits(one) | self.bits(other))

    # The labels of tensors

    def of(self, tensor: Tensor) -> Label:
        """Return the labels of a tensor's elements: one for all, or a tensor of the same shape."""
        if tensor.layout != torch.strided:
            return self._of_sparse.get(tensor, 0)
        _, width, label = self._kept.get(_memory(tensor), _UNKNOWN)
        if isinstance(label, int):
            return label
        if width != tensor.element_size():  # the memory is read as numbers of another width
            return self.label_of(self.bits(label))
        if not tensor.numel():
            return 0
        label = label.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
        return int(label.flatten()[0]) if _is_constant(label) else label

    def sources(self, tensor: Tensor) -> int:
        """Return the set of the sources of all elements of a tensor, as bits."""
        return self.bits(self.of(tensor))

    def put(self, tensor: Tensor, label: Label) -> None:
        """Give a tensor's elements these labels, and so all tensors that share its memory."""
        if tensor.layout != torch.strided:
            self._of_sparse[tensor] = self.label_of(self.bits(label))
            return
        if not tensor.numel():
            return
        if tensor.is_meta:  # without values there is nothing to tell its elements apart
            label = self.label_of(self.bits(label))
        storage, width = tensor.untyped_storage(), tensor.element_size()
        size = storage.nbytes() // width
        _, _, before = self._kept.get(storage._cdata, _UNKNOWN)
        if isinstance(label, int) and isinstance(before, int) and label == before:
            return
        if isinstance(label, Tensor) or (
            tensor.numel() != size and not tensor.is_meta
        ):  # other tensors may have the rest
            if isinstance(before, int) or len(before) != size:
                before = torch.full((size,), self.label_of(self.bits(before)), device=tensor.device)
            part = before.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
            part.copy_(torch.as_tensor(label, device=part.device))
            label = int(before[0]) if _is_constant(before) else before
        self._kept[storage._cdata] = StorageWeakRef(storage), width, label
        if len(self._kept) > self._limit:
            self._kept = {key: kept for key, kept in self._kept.items() if not kept[0].expired()}
            self._limit = 2 * len(self._kept) + 1000

    def add(self, tensor: Tensor, bits: int) -> None:
        """Add sources to all elements of a tensor."""
        self.put(tensor, self.joined([self.of(tensor), self.label_of(bits)], tensor.shape))

    # Operations

    @classmethod
    def _should_skip_dynamo(cls) -> bool:  # would import torch's compiler, which takes seconds
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if self._has_label((*args, *kwargs.values())):
            _Operation(self, func, args, kwargs).note(result)
        return result

    def _has_label(self, values: Sequence[Any]) -> bool:
        """Whether any tensor among the values has a label, a quick look before the long one."""
        for value in values:
            if isinstance(value, Tensor):
                if value.layout != torch.strided:
                    return True
                label = self._kept.get(value.untyped_storage()._cdata, _UNKNOWN)[2]
                if not isinstance(label, int) or label:
                    return True
            elif isinstance(value, list | tuple) and self._has_label(value):
                return True
        return False


class _Operation:
    """One call of an operation of torch, and the labels of its results."""

    def __init__(self, origins: Origins, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.origins, self.func, self.args, self.kwargs = origins, func, args, kwargs
        self.name = func.overloadpacket.__name__
        declared = func._schema.arguments
        self.named = [(declared[i], value) for i, value in enumerate(args)]
        self.named += [(part, kwargs[part.name]) for part in declared[len(args) :] if part.name in kwargs]
        self.tensors = [
            (part, value)
            for part, values in self.named
            for value in (values if isinstance(values, list | tuple) else (values,))
            if isinstance(value, Tensor)
        ]
        found = [(part.name, value, origins.of(value)) for part, value in self.tensors if self._reads(part)]
        labelled = [read for read in found if not isinstance(read[2], int) or read[2]]
        self.chosen = [read for read in labelled if read[0] in _CHOOSING]
        self.data = [read for read in labelled if read[0] not in _CHOOSING]

    def _reads(self, part: Any) -> bool:
        """Whether the operation reads the values of an argument, and not only its shape and type."""
        if part.name == "out":
            return False
        shape_only = self.name.startswith("new_") or self.name.endswith("_like")
        return part.name != "self" or not (shape_only or self.name in _OVERWRITES)

    def note(self, result: Any) -> None:
        """Label what the operation returned or wrote."""
        if torch.Tag.inplace_view in self.func.tags:  # another shape of the same memory
            return
        written = [value for part, value in self.tensors if part.alias_info and part.alias_info.is_write]
        reads = self.data + self.chosen
        if not reads:
            for tensor in written:
                self.origins.put(tensor, 0)
            return
        if self.name == "_local_scalar_dense":
            self.origins.numbers_read |= self.origins.bits(reads[0][2])
            return
        known = {_memory(value) for _, value in self.tensors}
        new = [value for value in tree_leaves(result) if isinstance(value, Tensor)]
        for tensor in written or [value for value in new if _memory(value) not in known]:
            self.origins.put(tensor, self._label(tensor))

    def _label(self, out: Tensor) -> Label:
        """Return the labels of a result."""
        if out.is_meta or (self.origins.content_only and self.data and self.chosen):
            return self._union()  # values choose the elements, so any of them may be in the result
        reads = self.data + self.chosen
        labels = [label for _, _, label in reads]
        if self.name in _SAME:
            return self.origins.joined(labels, out.shape)
        if self.name in _MOVES:
            return self._moved(out)
        if all(isinstance(label, int) for label in labels):
            return self._union()
        if torch.Tag.pointwise in self.func.tags:
            joined = self.origins.joined(labels, out.shape)
            return self._computed(joined) if len(reads) == 1 else joined
        if self.name == "embedding" and not self.data:
            return self._computed(labels[0]).unsqueeze(-1).expand(out.shape)
        if self.name in _PRODUCTS:
            return self._of_product(out)
        return self._along_dim(out) if len(reads) == 1 else self._union()

    def _union(self, reads: Sequence[Any] = ()) -> int:
        content = self.data if self.origins.content_only and self.data else self.data + self.chosen
        bits = 0
        for _, _, label in reads or content:
            bits |= self.origins.bits(label)
        return self.origins.label_of(bits)

    def _computed(self, label: Label) -> Any:
        """Return the labels of elements that were each computed from one element alone."""
        singles = self.origins.singles
        if isinstance(label, int):
            return label
        return torch.where((label > 0) & (label <= singles), label + singles, label)

    def _moved(self, out: Tensor) -> Label:
        """Move the labels as the operation moves values."""
        labels = {id(value): label for _, value, label in self.data}

        def change(name: str, value: Any) -> Any:
            if isinstance(value, list | tuple) and name not in _CHOOSING:
                return type(value)(change(name, part) for part in value)
            if name in ("value", "padding_value"):
                return 0 if not isinstance(value, Tensor) else torch.zeros_like(value, dtype=torch.long)
            if isinstance(value, Tensor) and name not in _CHOOSING:
                label = torch.as_tensor(labels.get(id(value), 0), device=value.device)
                return label.expand(value.shape).clone()
            return value

        changed = {part.name: change(part.name, value) for part, value in self.named}
        by_position = [changed.pop(part.name) for part, _ in self.named[: len(self.args)]]
        try:
            moved, *_ = tree_leaves(self.func(*by_position, **changed))
        except RuntimeError:  # the operation does not take whole numbers
            return self._union()
        if moved.shape != out.shape:  # a further result, such as the sizes of packed steps
            return self._union(self.chosen)
        chosen = [self._spread(self._computed(label), out) for _, _, label in self.chosen]
        return self.origins.joined([moved, *chosen], out.shape)

    def _spread(self, label: Label, out: Tensor) -> Label:
        """Return the labels of what chose elements, for the elements of the result."""
        fits = isinstance(label, int) or (
            label.dim() == out.dim()
            and all(a in (1, b) for a, b in zip(label.shape, out.shape, strict=True))
        )
        return label if fits else self.origins.label_of(self.origins.bits(label))

    def _of_product(self, out: Tensor) -> Label:
        """Return the labels of a matrix product: row i and column j come from these of the factors."""
        labels = {id(value): label for _, value, label in self.data}
        *bias, rows, columns = [(labels.get(id(value), 0), -2, value) for _, value in self.tensors]
        parts: list[Label] = [label for label, _, _ in bias]
        for dim, (label, _, _) in ((-1, rows), (-2, columns)):
            if isinstance(label, Tensor) and not _is_constant(label, [dim]):
                label = self.origins.label_of(self.origins.bits(label))
            parts.append(label if isinstance(label, int) else label.narrow(dim, 0, 1))
        return self.origins.joined(parts, out.shape)

    def _along_dim(self, out: Tensor) -> Label:
        """Return the labels of a result that mixes elements along dimensions, such as a sum, or of any."""
        dims = next((value for part, value in self.named if part.name == "dim"), None)
        dims = [dims] if isinstance(dims, int) else list(dims or ())
        _, _, label = (self.data + self.chosen)[0]
        assert isinstance(label, Tensor)
        if dims and _is_constant(label, dims):
            if out.shape == label.shape:
                return self._computed(label)
            reduced = label.amax(dims)
            if reduced.numel() == out.numel():
                return self._computed(reduced.reshape(out.shape))
        return self._union()


class _Functions(TorchFunctionMode):
    """Add to the results of functions the sources of the numbers that they read on the way.

    Functions such as `torch.full(size, z)`, `torch.tensor([z1, z2])` and `table[k]` take a tensor for a
    number, which the operations below do not see.
    """

    def __init__(self, origins: Origins) -> None:
        super().__init__()
        self.origins = origins

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs, origins = kwargs or {}, self.origins
        origins.numbers_read = 0
        result = func(*args, **kwargs)
        bits = 0 if func in _SIZED else origins.numbers_read
        if func in _FROM_PYTHON:
            for value in tree_leaves([args[func is Tensor.new_tensor :], kwargs]):
                bits |= origins.sources(value) if isinstance(value, Tensor) else 0
        if not bits:
            return result
        if func is Tensor.__setitem__:
            origins.add(args[0], bits)
            return result
        given = [value for value in tree_leaves([args, kwargs]) if isinstance(value, Tensor)]

        def marked(value: Any) -> Any:
            if not isinstance(value, Tensor) or not bits & ~origins.sources(value):
                return value
            if any(_memory(value) == _memory(other) for other in given) and value is not args[0]:
                value = value.clone()  # `table[k]` depends on k, the table does not
            origins.add(value, bits)
            return value

        return tree_map(marked, result)


_UNKNOWN: tuple[Any, int, Label] = None, 0, 0


def _memory(tensor: Tensor) -> int:
    """Return a number for the memory of a tensor, which its views share."""
    return tensor.untyped_storage()._cdata if tensor.layout == torch.strided else -id(tensor)


def _is_constant(label: Tensor, dims: Sequence[int] | None = None) -> bool:
    """Whether labels are the same along some dimensions, or, without any, everywhere."""
    if dims is None:
        label, dims = label.flatten(), [0]
    return all(bool((label == label.narrow(dim, 0, 1)).all()) for dim in dims if label.shape[dim])


def unpacked(bits: int, count: int) -> np.ndarray:
    """Return which of `count` sources are in a set that is given by bits, `(count,)` bool."""
    data = np.frombuffer(bits.to_bytes(count // 8 + 1, "little"), dtype=np.uint8)
    return np.unpackbits(data, bitorder="little")[:count].astype(bool)
