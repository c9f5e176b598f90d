"""A table that belongs to no datum passes whole, also if it has as many rows as there are data."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyrovae import fit
from pyrovae.diagrams import plate_diagram
from pyrovae.errors import InputError
from pyrovae.evaluation import impute, marginal_likelihood
from pyrovae.programs import Whole
from pyrovae.recipes import About, cvae

pytestmark = pytest.mark.cpu

X = torch.randn(7, 2, generator=torch.Generator().manual_seed(1))
TABLE = torch.randn(7, 2, generator=torch.Generator().manual_seed(2))


class Shifted(nn.Module):
    """z ~ N(0, I), x ~ N(z + the sum of a table's rows, I), with the exact posterior as guide."""

    def model(self, x, table):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z + self.shift(table), 1.0).to_event(1), obs=x)

    def guide(self, x, table):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((x - self.shift(table)) / 2, 0.5**0.5).to_event(1))

    def shift(self, table):
        assert len(table) == 7
        return table.sum(0)


class Trained(Shifted):
    """The same, shifted further by a parameter, which has the sum of the table from its data."""

    def __init__(self):
        super().__init__()
        self.further = nn.Parameter(torch.zeros(2))

    def shift(self, table):
        return super().shift(table) + self.further


def test_it_reaches_the_programs_whole():
    given = {"table": Whole(TABLE)}
    exact = dist.Normal(TABLE.sum(0), 2**0.5).log_prob(X).sum(-1).double()
    found = marginal_likelihood(Shifted(), X, given=given, num_samples=30)
    torch.testing.assert_close(found.log_px, exact, rtol=0, atol=1e-4)
    assert "table" in plate_diagram(Shifted(), X, given=given).nodes


def test_minibatches_get_all_of_it():
    rows = fit(
        Trained(),
        X,
        given={"table": Whole(TABLE)},
        validation=X[:3],
        batch_size=2,
        epochs=2,
        progress=False,
    ).rows
    assert len(rows) == 2
    with pytest.raises(AssertionError):  # without it, the table is cut with the data
        fit(Trained(), X, given={"table": TABLE}, batch_size=2, epochs=1, progress=False)


def test_a_list_of_as_many_values_as_there_are_data_is_refused_unless_it_is_whole():
    class Listed(Shifted):
        def shift(self, table):
            return super().shift(torch.tensor(table))

    table = TABLE.tolist()
    with pytest.raises(InputError, match=r"a list of 7 values, .* or Whole\(\.\.\.\) of pyrovae.programs"):
        marginal_likelihood(Listed(), X, given={"table": table}, num_samples=30)
    found = marginal_likelihood(Listed(), X, given={"table": Whole(table)}, num_samples=30)  # the remedy
    exact = dist.Normal(TABLE.sum(0), 2**0.5).log_prob(X).sum(-1).double()
    torch.testing.assert_close(found.log_px, exact, rtol=0, atol=1e-4)


def test_a_wrong_number_of_rows_is_told_in_one_line():
    class Conditional(Shifted):
        def shift(self, table):
            return table

    for call in (
        lambda given: marginal_likelihood(Conditional(), X, given=given, num_samples=30),
        lambda given: fit(Conditional(), X, given=given, epochs=1, progress=False),
    ):
        with pytest.raises(
            InputError, match=r"given 'table' \(5, 2\) as a whole \(a tensor is cut with the"
        ) as e:
            call({"table": TABLE[:5]})
        assert "\n" not in str(e.value)


def test_it_is_told_also_if_a_network_refuses_it():
    pair = cvae(About.of(X, torch.arange(7) % 2), latent_dim=2, width=4).pair
    for call in (
        lambda given: marginal_likelihood(pair, X, given=given, num_samples=30),
        lambda given: fit(pair, X, given=given, epochs=1, progress=False),
    ):
        with pytest.raises(InputError, match=r"cannot be concatenated.* given 'c' \(3, 2\) as a whole \(a"):
            call({"c": torch.eye(2)[[0, 0, 1]]})


def test_values_that_are_missing_do_not_hide_that_the_likelihood_reads_them():
    class TeacherForcing(nn.Module):
        def model(self, x, observed=None):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
                before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)
                fn = dist.Normal(z + before / 2, 1.0)
                pyro.sample("x", fn.mask(True if observed is None else observed).to_event(1), obs=x)

        def guide(self, x, observed=None):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))

    observed = torch.tensor([[False, False, True]])  # no observed value is read
    x = torch.randn(1, 3).where(observed, torch.nan)
    with pytest.raises(
        InputError, match="the Normal of site 'x' depends on x, so its elements are not ind"
    ):
        impute(TeacherForcing(), x, observed)
