"""The plate of the data may have any dimension: results have one row for each datum all the same."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyrovae.evaluation import class_probabilities, impute
from pyrovae.generation import (
    class_samples,
    images_of,
    interpolate,
    latent_codes,
    latent_means,
    posterior_draws,
    prior_density,
    reconstruct,
    samples,
)
from pyrovae.programs import Pair

L, SMALL = 4, 0.01


def plates_of(x, dim):
    """The plate of the data at dimension `dim`, those of a datum's rows and columns around it."""
    others = [d for d in (-3, -2, -1) if d != dim]
    sizes = zip(("rows", "columns"), x.shape[1:], others, strict=False)
    return pyro.plate("data", len(x), dim=dim), [pyro.plate(name, size, dim=d) for name, size, d in sizes]


def grids(dim, **how):
    """x_ij ~ N(z + w_ij, small), z ~ N(0, 1) of a datum, w ~ N(0, 1) for each value: nested latents."""

    def model(x, observed=None):
        data, (rows, columns) = plates_of(x, dim)
        with data:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with rows, columns:
                w = pyro.sample("w", dist.Normal(0.0, 1.0))
                pyro.sample("x", dist.Normal(z + w, SMALL), obs=x.movedim(0, dim))

    def guide(x, observed=None):
        data, (rows, columns) = plates_of(x, dim)
        mean = x.mean((1, 2), keepdim=True).movedim(0, dim)
        with data:
            z = pyro.sample("z", dist.Normal(mean, SMALL))
            with rows, columns:
                pyro.sample("w", dist.Normal(x.movedim(0, dim) - z, SMALL))

    return Pair(model, guide, x_shape=(2, L), data_plate="data", **how)


@pytest.mark.parametrize("dim", [-1, -2, -3])
@pytest.mark.parametrize("num_data", [L, 3])
def test_the_dimension_of_the_data_comes_to_the_front(dim, num_data):
    pair, x = grids(dim), torch.arange(float(num_data * 2 * L)).view(num_data, 2, L)
    torch.testing.assert_close(reconstruct(pair, x), x)
    means = x.mean((1, 2), keepdim=True)
    codes = latent_codes(pair, x)
    torch.testing.assert_close(codes["z"].flatten(), means.flatten())
    torch.testing.assert_close(codes["w"], x - means)
    torch.testing.assert_close(latent_means(pair, x, "w"), x - means)
    assert (posterior_draws(pair, x, "w") - (x - means)).abs().max() < 10 * SMALL
    torch.testing.assert_close(images_of(pair, codes), x)
    line = interpolate(pair, x, x + 3, 3)
    torch.testing.assert_close(line, torch.stack([x, x + 1.5, x + 3], 1))


@pytest.mark.parametrize("dim", [-1, -2, -3])
def test_the_values_of_a_draw_belong_to_one_datum(dim):
    """All values of a datum share z: their covariance is 1, and that of values of two data is 0."""
    drawn = samples(grids(dim), 3000)
    assert drawn.shape == (3000, 2, L)
    covariance = drawn.flatten(1).T.cov()
    expected = torch.ones(2 * L, 2 * L) + torch.eye(2 * L)
    assert (covariance - expected).abs().max() < 5 * (5 / 3000) ** 0.5  # var(xy) = 1 + 4 at most
    density = prior_density(grids(dim), torch.tensor([0.0, 1.0]), "w", 5)
    normal = dist.Normal(0.0, 1.0).log_prob(torch.tensor([0.0, 1.0])).exp()
    torch.testing.assert_close(density, normal[:, None].expand(2, 2 * L))


def transposed(num_values, **how):
    """The usual layout of Pyro: data at -1, their values at -2."""

    def model(x):
        with pyro.plate("data", len(x), dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.plate("values", num_values, dim=-2):
                pyro.sample("x", dist.Normal(z, SMALL), obs=x.T)

    def guide(x):
        with pyro.plate("data", len(x), dim=-1):
            pyro.sample("z", dist.Normal(x.mean(1), SMALL))

    return Pair(model, guide, **how)


@pytest.mark.parametrize("num_data", [8, 5])
@pytest.mark.parametrize("how", [{"x_shape": (8,)}, {}], ids=["given shape", "found shape"])
def test_data_at_the_right_of_their_values(num_data, how):
    pair, x = transposed(8, **how), torch.arange(float(num_data))[:, None].expand(num_data, 8).contiguous()
    torch.testing.assert_close(reconstruct(pair, x), x)
    drawn = samples(pair, num_data)
    assert drawn.shape == (num_data, 8)
    assert drawn.std(1).max() < 5 * SMALL < drawn.std(0).min()


def test_a_datum_that_is_observed_in_another_order_comes_back_in_its_own():
    """Rows and columns may be exchanged in the model, or the values observed from the last to the first."""

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(3, 2), 1.0).to_event(2))
            pyro.sample("x", dist.Normal(z, SMALL).to_event(2), obs=x.transpose(1, 2).flip(1))

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x.transpose(1, 2).flip(1), SMALL).to_event(2))

    x = torch.randn(4, 2, 3)
    torch.testing.assert_close(reconstruct(Pair(model, guide), x), x)


def sequences(dim):
    """x_t ~ N(z + x_{t-1}, small), read off the data (teacher forcing), data at dimension `dim`."""

    def model(x):
        data = pyro.plate("data", len(x), dim=dim)
        steps = pyro.plate("steps", 3, dim=-3 - dim)
        before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)
        with data:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with steps:
                pyro.sample("x", dist.Normal(z + before.movedim(0, dim), SMALL), obs=x.movedim(0, dim))

    return Pair(model, lambda x: None, x_shape=(3,))


@pytest.mark.parametrize("dim", [-1, -2])
def test_values_that_are_drawn_one_after_the_other(dim):
    drawn = samples(sequences(dim), 6)
    torch.testing.assert_close(drawn, drawn[:, :1] * torch.tensor([1.0, 2.0, 3.0]), rtol=0, atol=10 * SMALL)
    assert drawn[:, 0].std() > 0.3


def classes(dim):
    """y of 3 classes, x_l ~ N(10 y, small); the guide reads the class off the data."""

    def probs(x):
        return torch.nn.functional.one_hot((x.mean(1) / 10).round().long().clamp(0, 2), 3).float() + 1e-6

    def model(x, y=None):
        data, values = pyro.plate("data", len(x), dim=dim), pyro.plate("values", L, dim=-3 - dim)
        with data:
            seen = None if y is None else y if dim == -1 else y[:, None]
            y = pyro.sample("y", dist.Categorical(torch.ones(3)), obs=seen)
            z = pyro.sample("z", dist.Normal(0.0, SMALL))
            with values:
                pyro.sample("x", dist.Normal(10.0 * y + z, SMALL), obs=x.movedim(0, dim))

    def guide(x, y=None):
        with pyro.plate("data", len(x), dim=dim):
            if y is None:
                pyro.sample("y", dist.Categorical(probs(x) if dim == -1 else probs(x)[:, None]))
            pyro.sample("z", dist.Normal(0.0, SMALL))

    return Pair(model, guide, x_shape=(L,))


@pytest.mark.parametrize("dim", [-1, -2])
def test_classes_of_data_at_any_dimension(dim):
    drawn = class_samples(classes(dim), 5)
    expected = 10 * torch.arange(3.0)[:, None, None].expand(3, 5, L)
    torch.testing.assert_close(drawn, expected, rtol=0, atol=10 * SMALL)
    x = 10 * torch.tensor([2.0, 0.0, 1.0, 1.0])[:, None].expand(4, L)
    torch.testing.assert_close(reconstruct(classes(dim), x), x)
    assert class_probabilities(classes(dim), x).argmax(1).tolist() == [2, 0, 1, 1]


@pytest.mark.parametrize("dim", [-1, -2, -3])
@pytest.mark.parametrize("num_data", [L, 3])
def test_imputed_values_stand_where_they_were_missing(dim, num_data):
    """x_ij ~ N(z, 1), z ~ N(0, 10): 7 observed values of n have the posterior N(7 n / 7.01, 1 / 7.01)."""

    def model(x, observed=None):
        data, (rows, columns) = plates_of(x, dim)
        with data:
            z = pyro.sample("z", dist.Normal(0.0, 10.0))
            with rows, columns, pyro.poutine.mask(mask=observed.movedim(0, dim)):
                pyro.sample("x", dist.Normal(z, 1.0), obs=x.movedim(0, dim))

    def guide(x, observed=None):
        mean = (x * observed).sum((1, 2)) / 7.01
        with plates_of(x, dim)[0]:
            pyro.sample("z", dist.Normal(mean.reshape(-1, *[1] * (-1 - dim)), 7.01**-0.5))

    x = torch.arange(float(num_data))[:, None, None].expand(num_data, 2, L).contiguous()
    observed = torch.ones_like(x, dtype=torch.bool)
    observed[:, 0, 1] = False
    pair = Pair(model, guide, x_shape=(2, L), data_plate="data")
    found = impute(pair, x.where(observed, torch.tensor(0.0)), observed, num_samples=400).x
    torch.testing.assert_close(found[observed], x[observed])
    error = 5 * (7.01 * 400) ** -0.5
    torch.testing.assert_close(found[:, 0, 1], x[:, 0, 1] * 7 / 7.01, rtol=0, atol=error)
