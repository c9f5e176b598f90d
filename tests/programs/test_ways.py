"""The way to run copies of a pair: the fastest one that gives the densities of single runs."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyrovae.errors import InputError
from pyrovae.programs.copies import run_copies
from pyrovae.programs.given import with_given
from pyrovae.programs.layout import layout_of
from pyrovae.programs.neighbours import check_no_neighbours
from pyrovae.programs.noise import OtherNoise, RecordedNoise, ReplayedNoise
from pyrovae.programs.pair import Pair
from pyrovae.programs.rows import Arguments, Whole

X = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)).double()


class Centred(nn.Module):
    """Leading dimensions change it without an error, rows do not."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 3).double()

    def forward(self, z):
        return self.linear(z - z.mean(1, keepdim=True) / 2)


class StartsAtZero(Centred):
    """At the start its output does not depend on the input."""

    def __init__(self):
        super().__init__()
        nn.init.zeros_(self.linear.weight)


def pair_of(network, guide=None):
    class Made(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def model(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(self.network(z), 1.0).to_event(1), obs=x)

        def guide(self, x):
            with pyro.plate("data", len(x)):
                if guide is not None:
                    guide(x)
                else:
                    pyro.sample("z", dist.Normal(x[:, :2] / 2, 0.7).to_event(1))

    return Made()


def rows_of_noise(x):
    z = x[:, :2] + torch.randn_like(x[:, :2])
    pyro.sample("z", dist.Delta(z, dist.Normal(x[:, :2], 1.0).log_prob(z).sum(-1), event_dim=1))


def noise_of_the_call(x):
    z = x[:, :2] + torch.randn(2).double()
    pyro.sample("z", dist.Delta(z, dist.Normal(x[:, :2], 1.0).log_prob(z).sum(-1), event_dim=1))


def noise_without_a_rule(x):
    shift = dist.Beta(torch.ones(2).double(), 1.0).sample()  # vmap has no rule for it
    pyro.sample("z", dist.Normal(x[:, :2] + shift, 1.0).to_event(1))


@pytest.mark.parametrize(
    ("network", "guide", "ways"),
    [
        (nn.Linear(2, 3).double(), None, ("leading", "leading")),
        (Centred(), None, ("leading", "rows")),
        (StartsAtZero(), None, ("leading", "rows")),
        (nn.Linear(2, 3).double(), rows_of_noise, ("rows", "leading")),
        (nn.Linear(2, 3).double(), noise_of_the_call, ("mapped", "leading")),
        (nn.Linear(2, 3).double(), noise_without_a_rule, ("single", "leading")),
    ],
    ids=[
        "plain",
        "another result",
        "hidden by zeros",
        "noise for each row",
        "noise for all rows",
        "no batching rule",
    ],
)
def test_the_fastest_way_that_is_right_is_taken(network, guide, ways):
    pair = pair_of(network, guide)
    before = {name: value.clone() for name, value in pair.state_dict().items()}
    state = torch.get_rng_state()
    assert tuple(layout_of(pair, Arguments((X,))).ways) == ways
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in pair.state_dict().items())


@pytest.mark.parametrize("way", ["leading", "rows", "mapped", "single"])
def test_every_way_gives_one_layout(way):
    pair = pair_of(nn.Linear(2, 3).double())
    layout = layout_of(pair, Arguments((X,)))
    by_guide = run_copies(way, pair.guide, Arguments((X,)), layout.of_guide(4))
    by_model = run_copies(way, pair.model, Arguments((X,)), layout.of_model(4), by_guide)
    z = by_guide.nodes["z"]["value"]
    assert z.shape == (4, 6, 2)
    assert len({tuple(draw.flatten().tolist()) for draw in z}) == 4  # each copy has draws of its own
    q = dist.Normal(X[:, :2] / 2, 0.7).log_prob(z).sum(-1)
    torch.testing.assert_close(by_guide.nodes["z"]["log_prob"], q)
    p = dist.Normal(pair.network(z), 1.0).log_prob(X).sum(-1)
    torch.testing.assert_close(by_model.nodes["x"]["log_prob"], p)


class Batches(nn.Module):
    """A network of a user, for `(B, ...)` alone."""

    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers).double()

    def forward(self, z):
        if z.dim() != 2 or len(z) > 5:
            raise ValueError("one batch at a time")
        return self.layers(z)


@pytest.mark.parametrize(
    ("layers", "way"),
    [
        ([nn.Linear(2, 3)], "mapped"),
        ([nn.Linear(2, 3), nn.Dropout(0.5)], "mapped"),
        ([nn.Linear(2, 3), nn.BatchNorm1d(3)], "single"),  # vmap cannot move its running means
        ([nn.BatchNorm1d(2, track_running_stats=False), nn.Linear(2, 3)], "mapped"),
    ],
    ids=["linear", "dropout", "running means", "means of the batch"],
)
def test_one_batch_at_a_time_is_mapped_where_training_can_be_mapped_too(layers, way):
    pair = pair_of(Batches(*layers))
    assert layout_of(pair, Arguments((X[:5],))).ways == ("leading", way)


def test_a_mapped_program_draws_afresh_and_lets_gradients_pass():
    loc = torch.tensor([0.3, -0.2], requires_grad=True)

    def program(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, 1.0).to_event(1))

    copies = layout_of(pair_of(nn.Linear(2, 3).double()), Arguments((X,))).of_guide(4000)
    z = run_copies("mapped", program, Arguments((X,)), copies).nodes["z"]["value"]
    assert (z.mean((0, 1)) - loc).abs().max() < 4 / (4000 * 6) ** 0.5
    neighbours = torch.corrcoef(torch.stack([z[:-1, 0, 0], z[1:, 0, 0]]))
    assert neighbours[0, 1].abs() < 4 / 4000**0.5
    (gradient,) = torch.autograd.grad(z.sum() / 4000, loc)
    torch.testing.assert_close(gradient, torch.tensor([6.0, 6.0]))


def test_noise_is_given_to_another_run():
    with RecordedNoise() as recorded:
        first = dist.Gamma(torch.ones(3), 1.0).sample() + torch.randn(3)
    with ReplayedNoise([recorded.noise]):
        again = dist.Gamma(torch.ones(3), 1.0).sample() + torch.randn(3)
    assert torch.equal(again, first)
    with ReplayedNoise([recorded.noise]), pytest.raises(OtherNoise, match=r"\(7,\)"):
        torch.randn(7)


def test_two_copies_noise_is_joined_along_the_rows():
    noise = [[torch.zeros(2, 3)], [torch.ones(2, 3)]]
    with ReplayedNoise(noise):
        rows = torch.randn(4, 3)
    with ReplayedNoise(noise):
        leading = torch.randn(2, 2, 3)
    assert rows[:, 0].tolist() == [0, 0, 1, 1]
    assert torch.equal(leading, torch.stack([noise[0][0], noise[1][0]]))


def neighbours(x):
    """A Gaussian process's covariance enters the mean of each datum."""
    return (-(x - x.T).square()).exp().sum(-1)


def test_a_density_that_depends_on_other_data_is_refused_by_name():
    def model(x):
        with pyro.plate("data", len(x)):
            f = pyro.sample("f", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(f * neighbours(x[:, :1]), 1.0), obs=x[:, 0])

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("f", dist.Normal(x[:, 0], 1.0))

    def guide_of_neighbours(x):
        with pyro.plate("data", len(x)):
            pyro.sample("f", dist.Normal(neighbours(x[:, :1]), 1.0))

    def alone(x):
        with pyro.plate("data", len(x)):
            f = pyro.sample("f", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(f, 1.0), obs=x[:, 0])

    with pytest.raises(InputError, match=r"site 'x' of a datum depends on the other data.*joint=True"):
        check_no_neighbours(Pair(model, guide), Arguments((X,)))
    with pytest.raises(InputError, match="site 'f' of a datum depends on the other data"):
        check_no_neighbours(Pair(alone, guide_of_neighbours), Arguments((X,)))
    check_no_neighbours(Pair(alone, guide), Arguments((X,)))

    def with_a_term_of_the_minibatch(x):
        alone(x)
        with pyro.plate("again", len(x)):
            pyro.factor("spread", -(x - x.mean(0)).square().sum(-1))

    check_no_neighbours(Pair(with_a_term_of_the_minibatch, guide), Arguments((X,)), in_training=True)
    with pytest.raises(InputError, match="site 'spread'"):
        check_no_neighbours(Pair(with_a_term_of_the_minibatch, guide), Arguments((X,)))


def on_a_circle(mean):
    """A pair whose guide draws by rejection: torch tries until every datum has a draw."""

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("angle", dist.VonMises(mean(x), (3 * x[:, 1]).exp()))

    def model(x):
        with pyro.plate("data", len(x)):
            angle = pyro.sample("angle", dist.VonMises(0.0, 1.0).expand([len(x)]))
            pyro.sample("x", dist.Normal(angle, 1.0), obs=x[:, 0])

    return Pair(model, guide)


def test_draws_by_rejection_do_not_count_as_a_dependence_on_other_data():
    for seed in range(8):
        torch.manual_seed(seed)
        check_no_neighbours(on_a_circle(lambda x: x[:, 2]), Arguments((X,)))
    torch.manual_seed(5)
    with pytest.raises(InputError, match="site 'angle' of a datum depends on the other data"):
        check_no_neighbours(on_a_circle(lambda x: neighbours(x[:, :1])), Arguments((X,)))


def test_a_table_with_a_row_for_each_datum_by_chance_is_named_with_its_remedy():
    def model(x, table, c):
        with pyro.plate("data", len(x)):
            f = pyro.sample("f", dist.Normal(torch.zeros(len(x), 3), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(f @ table + c, 1.0).to_event(1), obs=x)

    def guide(x, table, c):
        with pyro.plate("data", len(x)):
            pyro.sample("f", dist.Normal((x - c) @ table.T, 1.0).to_event(1))

    x, table, c = X[:3, :2].float(), torch.randn(3, 2), torch.randn(3, 2)
    with pytest.raises(InputError) as refused:
        check_no_neighbours(Pair(model, guide), Arguments((x,), {"table": table, "c": c}))
    assert "given['table'] has as many rows as there are data" in str(refused.value)
    assert "give Whole(table)" in str(refused.value)
    assert "given['c']" not in str(refused.value)
    pair, call = with_given(Pair(model, guide), x, None, {"table": Whole(table), "c": c})
    check_no_neighbours(pair, call)
