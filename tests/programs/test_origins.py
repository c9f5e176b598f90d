"""What a value was computed from: values count, shapes and types do not."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pyrovae.programs.origins import Origins, unpacked

X, Z, S = "x", "z", "s"  # two matrices (3, 4) and a number


def origins_of(function, content_only: bool = False) -> tuple[Origins, Tensor]:
    origins = Origins(3, content_only)
    with torch.no_grad(), origins:
        x, z, s = torch.rand(3, 4), torch.rand(3, 4), torch.tensor(0.7)
        for number, value in enumerate((x, z, s)):
            origins.put(value, number + 1)
        return origins, function(x, z, s)


def names(origins: Origins, value: Tensor) -> set[str]:
    found = unpacked(origins.sources(value), 3)
    return {name for name, there in zip((X, Z, S), found, strict=True) if there}


def sources(function, content_only: bool = False) -> set[str]:
    return names(*origins_of(function, content_only))


SHAPES = {
    "new_zeros": lambda x, z, s: x.new_zeros(len(x), 2),
    "new_ones": lambda x, z, s: x.new_ones(2),
    "new_full": lambda x, z, s: x.new_full((2,), 1.0),
    "new_empty": lambda x, z, s: x.new_empty(2).normal_(),
    "new_tensor": lambda x, z, s: x.new_tensor([1.0, 2.0]),
    "new": lambda x, z, s: x.new(3, 2).uniform_(),
    "zeros_like": lambda x, z, s: torch.zeros_like(x) + torch.ones_like(z),
    "full_like": lambda x, z, s: torch.full_like(x, 2.0),
    "randn_like": lambda x, z, s: torch.randn_like(x) + torch.rand_like(z),
    "randint_like": lambda x, z, s: torch.randint_like(x, 3),
    "empty_like": lambda x, z, s: torch.empty_like(x).fill_(1.0),
    "ones of a shape": lambda x, z, s: torch.ones(x.shape) * x.size(0) * z.numel(),
    "sizes": lambda x, z, s: torch.zeros(s.long() + 1, 2) + x.new_ones(s.long() + 1, 2),
    "eye": lambda x, z, s: torch.eye(len(x), dtype=x.dtype, device=x.device),
    "zero_": lambda x, z, s: x.clone().zero_(),
    "normal_": lambda x, z, s: (x + z).normal_(),
    "shape of a view": lambda x, z, s: torch.ones(12).view_as(x).expand_as(z).type_as(s),
    "out": lambda x, z, s: torch.add(torch.ones(3), 1.0, out=x[:, 0].clone()),
    "written over": lambda x, z, s: x.clone().copy_(torch.ones(4)),
}


@pytest.mark.parametrize("function", SHAPES.values(), ids=SHAPES)
def test_shapes_and_types_are_no_origin(function):
    assert sources(function) == set()


VALUES = {
    "to": (lambda x, z, s: z.to(x), {Z}),
    "type_as": (lambda x, z, s: z.type_as(x.double()), {Z}),
    "expand_as": (lambda x, z, s: s.expand_as(x), {S}),
    "view_as": (lambda x, z, s: z.view_as(x) + z.reshape_as(x), {Z}),
    "broadcast": (lambda x, z, s: torch.broadcast_tensors(s, x)[0], {S}),
    "full": (lambda x, z, s: torch.full((2,), s), {S}),
    "full_like": (lambda x, z, s: torch.full_like(x, s), {S}),
    "new_full": (lambda x, z, s: x.new_full((2,), s), {S}),
    "new_tensor": (lambda x, z, s: x.new_tensor([s, 1.0]), {S}),
    "tensor": (lambda x, z, s: torch.tensor([s, x[0, 0]]), {S, X}),
    "as_tensor": (lambda x, z, s: torch.as_tensor([s, 1.0]), {S}),
    "index by a number": (lambda x, z, s: torch.ones(3, 2)[s.long()], {S}),
    "written by index": (lambda x, z, s: at(torch.zeros(3, 4), (slice(None), 0), z[:, 1]), {Z}),
    "written by mask": (lambda x, z, s: at(torch.zeros(3, 4), torch.eye(3, 4) > 0, s), {S}),
    "written by a mask of data": (lambda x, z, s: at(torch.zeros(3, 4), x > 0.5, 1.0), {X}),
    "written at a number": (lambda x, z, s: at(torch.zeros(3), s.long(), 1.0), {S}),
    "copy_": (lambda x, z, s: into(torch.empty_like(x), lambda out: out[1].copy_(z[0])), {Z}),
    "fill_": (lambda x, z, s: into(torch.empty_like(x), lambda out: out[1, 2].fill_(s)), {S}),
    "index_put_": (
        lambda x, z, s: torch.zeros(4).index_put_((torch.tensor([1]),), z[0, :1]),
        {Z},
    ),
    "scatter": (lambda x, z, s: torch.zeros(3, 4).scatter(1, torch.zeros(3, 1).long(), z), {Z}),
    "index_add_": (lambda x, z, s: x.new_zeros(4).index_add_(0, torch.arange(4), z[0]), {Z}),
    "through a view of it": (
        lambda x, z, s: into(torch.zeros(3, 4), lambda o: o.t()[0].add_(z[:, 0])),
        {Z},
    ),
    "out": (lambda x, z, s: torch.add(z, 1.0, out=torch.empty(3, 4)), {Z}),
    "where": (lambda x, z, s: torch.where(x > 0.5, z, s), {X, Z, S}),
    "one-hot": (lambda x, z, s: F.one_hot((x > 0.5).long(), 3), {X}),
    "random": (lambda x, z, s: torch.bernoulli(x) + torch.normal(z, 1.0), {X, Z}),
    "sparse": (lambda x, z, s: torch.sparse.mm(x.to_sparse(), z.t()), {X, Z}),
    "numbers of another width": (lambda x, z, s: torch.view_as_complex(x.view(3, 2, 2)), {X}),
    "convolution": (lambda x, z, s: F.conv1d(x.unsqueeze(1), z[:, None, :3]), {X, Z}),
}


def at(out: Tensor, index, value) -> Tensor:
    out[index] = value
    return out


def into(out: Tensor, write) -> Tensor:
    write(out)
    return out


@pytest.mark.parametrize(("function", "expected"), VALUES.values(), ids=VALUES)
def test_values_keep_their_origin(function, expected):
    assert sources(function) == expected


def by_column(function) -> list[set[str]]:
    origins, value = origins_of(function)
    return [names(origins, value[..., column]) for column in range(value.shape[-1])]


def recurrent(layer: nn.Module):
    """The states of a layer that reads six steps backwards: four of x, then two of z."""

    def states(x: Tensor, z: Tensor, s: Tensor) -> Tensor:
        both = torch.cat([x, z[:, :2]], -1).unsqueeze(-1)
        return layer(both.flip(1))[0].flip(1).sum(-1)

    return states


COLUMNS = {
    "joined": (lambda x, z, s: torch.cat([x[:, :1], z[:, :1]], -1).exp(), [{X}, {Z}]),
    "padded": (lambda x, z, s: F.pad(x[:, :2], (1, 0), value=-1.0), [set(), {X}, {X}]),
    "written": (lambda x, z, s: at(torch.zeros(3, 3), (slice(None), 1), z[:, 0]), [set(), {Z}, set()]),
    "steps": (lambda x, z, s: torch.stack([x, z], -1).mean((0, 1)), [{X}, {Z}]),
    "a product": (lambda x, z, s: torch.ones(2, 3) @ torch.stack([x[:, 0], z[:, 0]], -1), [{X}, {Z}]),
    "a linear layer": (
        lambda x, z, s: F.linear(torch.stack([x, z], 1), torch.ones(2, 4)).sum(-1),
        [{X}, {Z}],
    ),
    "softmax": (lambda x, z, s: torch.stack([x, z], -1).softmax(0), [{X}, {Z}]),
    "picked": (lambda x, z, s: torch.cat([x, z], -1)[:, [0, 5]], [{X}, {Z}]),
    "a table": (
        lambda x, z, s: F.embedding((torch.stack([x, z]) > 0.5).long(), torch.ones(2, 2)).sum((1, 2, 3)),
        [{X}, {Z}],
    ),
    "a mask of one": (
        lambda x, z, s: torch.stack([x, z], -1).masked_fill(x.unsqueeze(-1) > 0.5, 0.0),
        [{X}, {X, Z}],
    ),
    "a backward RNN": (recurrent(nn.RNN(1, 2, batch_first=True)), [{X, Z}] * 4 + [{Z}] * 2),
    "a backward GRU": (recurrent(nn.GRU(1, 2, batch_first=True)), [{X, Z}] * 4 + [{Z}] * 2),
}


@pytest.mark.parametrize(("function", "expected"), COLUMNS.values(), ids=COLUMNS)
def test_parts_keep_their_own_origins(function, expected):
    assert by_column(function) == expected


def test_what_chooses_elements_is_no_part_of_the_content():
    assert sources(lambda x, z, s: x[z > 0.5], content_only=True) == {X}
    assert sources(lambda x, z, s: x.masked_fill(z > 0.5, 0.0), content_only=True) == {X}
    assert sources(lambda x, z, s: torch.where(z > 0.5, x, 0.0), content_only=True) == {X}
    assert sources(lambda x, z, s: torch.ones(3)[(x > 0.5).long()], content_only=True) == {X}
    assert sources(lambda x, z, s: x[z > 0.5]) == {X, Z}


def test_a_table_is_not_changed_by_what_looks_it_up():
    def look_up(x: Tensor, z: Tensor, s: Tensor) -> Tensor:
        _ = x[s.long()]
        return x

    assert sources(look_up) == {X}


def test_labels_of_freed_memory_are_dropped():
    def long_loop(x: Tensor, z: Tensor, s: Tensor) -> Tensor:
        for _ in range(1500):
            x = x + 0.0
        return x

    origins, value = origins_of(long_loop)
    assert names(origins, value) == {X}
    assert len(origins._kept) < 1100
