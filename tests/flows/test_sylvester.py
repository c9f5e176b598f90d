"""The Sylvester flow and its orthonormal columns."""

import pytest
import torch
from flow_cases import (
    dependence,
)

from pyrovae.errors import InputError
from pyrovae.flows import Sylvester, gram_schmidt


@pytest.mark.parametrize(
    ("settings", "columns"),
    [
        ({}, 5),
        ({"columns": 10}, 10),
        ({"columns": 1}, 1),
        ({"orthogonal": "householder"}, 10),
        ({"orthogonal": "triangular"}, 10),
    ],
    ids=str,
)
def test_sylvester_matrices_are_what_the_theorem_asks_for(settings, columns):
    flow = Sylvester(10, 4, **settings).double()
    steps = flow(5 * torch.randn(200, flow.context_dim).double())
    assert len(steps) == 4
    z = torch.randn(10).double()
    for step in steps:
        q = matrix_of(step.q, columns)
        assert q.shape[-2:] == (10, columns)
        torch.testing.assert_close(q.mT @ q, torch.eye(columns).double().expand(*q.shape[:-2], -1, -1))
        torch.testing.assert_close(step.q.coordinates(z), q.mT @ z)
        for r in (step.r1, step.r2):
            assert torch.equal(r, r.triu())
            assert r.diagonal(dim1=-2, dim2=-1).abs().max() < 1
            assert (r.triu(1)[..., 0, -1] != 0).all() or columns == 1


def matrix_of(basis, columns):
    return torch.stack([basis.combine(row) for row in torch.eye(columns).double()], -1)


def test_a_sylvester_step_is_the_papers():
    """Its parts in the order of the context: R1, R2, b, and the matrix that Q is made of."""
    flow = Sylvester(4, 1, columns=2).double()
    context, z = torch.randn(flow.context_dim).double(), torch.randn(4).double()
    (step,) = flow(context)
    entries1, entries2, b, numbers = context.split((3, 3, 2, 8))
    r1, r2 = (upper_triangle(*entries) for entries in (entries1, entries2))
    q = gram_schmidt(numbers.view(4, 2))
    torch.testing.assert_close(step(z), z + q @ r1 @ torch.tanh(r2 @ q.T @ z + b))


def upper_triangle(first, beside, second):
    """The diagonal is kept within (-1, 1)."""
    zero = torch.zeros_like(first)
    rows = [[0.999 * first.tanh(), beside], [zero, 0.999 * second.tanh()]]
    return torch.stack([torch.stack(row) for row in rows])


def test_triangular_sylvester_steps_turn_the_order_around():
    context = torch.randn(3 * 24).double()
    one, two, three = (dependence(t, 4) for t in Sylvester(4, 3, "triangular").double()(context))
    upper = torch.ones(4, 4, dtype=torch.bool).triu()
    assert torch.equal(one, upper)
    assert torch.equal(two, upper.T)
    assert torch.equal(three, upper)


def test_orthonormal_columns_are_gram_schmidts_and_do_not_jump():
    for matrix in torch.randn(200, 4, 3).double():
        columns = []
        for a in matrix.T:
            for q in columns:
                a = a - q * (q @ a)
            columns.append(a / a.norm())
        torch.testing.assert_close(gram_schmidt(matrix), torch.stack(columns, -1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"orthogonal": "diagonal"}, "'diagonal'.*orthogonal, householder, triangular"),
        ({"columns": 4}, "columns is 4; expected 1 to 3"),
        ({"columns": 2, "orthogonal": "triangular"}, "columns is 2.*always has 3"),
        ({"columns": 0}, "columns is 0; expected 1 to 3"),
        ({"steps": 0}, "steps is 0; it must be a whole number of at least 1"),
    ],
    ids=str,
)
def test_a_sylvester_flow_that_cannot_be_is_refused(settings, message):
    with pytest.raises(InputError, match=message):
        Sylvester(3, **settings)
