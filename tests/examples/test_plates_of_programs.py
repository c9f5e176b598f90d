"""Plates as users write them: without a size, subsampled, two of one size, missing or on the other side."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from one_copy import assert_evidence, one_copy_at_a_time, trained, unless_refused
from torch import nn

from pyrovae.errors import InputError
from pyrovae.evaluation import inference_gaps, marginal_likelihood
from pyrovae.objectives import ELBO, IWAE
from pyrovae.programs import Pair, structure


class Linear(nn.Module):
    """z -> x; how its programs open their plates is given."""

    def __init__(self, plate, guide_plate=None):
        super().__init__()
        self.decoder, self.encoder = nn.Linear(1, 3), nn.Linear(3, 2)
        self.plates = plate, guide_plate or plate

    def model(self, x):
        with self.plates[0](x):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 0.7).to_event(1), obs=x)

    def guide(self, x):
        loc, scale = self.encoder(x).chunk(2, -1)
        with self.plates[1](x):
            pyro.sample("z", dist.Normal(loc, 0.5 + scale.sigmoid()).to_event(1))

    def log_px(self, x):
        weight = self.decoder.weight
        covariance = weight @ weight.T + 0.49 * torch.eye(3)
        return dist.MultivariateNormal(self.decoder.bias, covariance).log_prob(x).detach().double()


def data(num_data=5):
    return torch.randn(num_data, 3)


def assert_exact(pair, x, log_px):
    result = marginal_likelihood(pair, x, num_samples=2000)
    assert ((result.log_px - log_px).abs() < 4.5 * result.std_error + 1e-4).all()
    assert result.std_error.max() < 0.1


@pytest.mark.parametrize(
    "plate",
    [
        lambda x: pyro.plate("data"),
        lambda x: pyro.plate("data", len(x)),
        lambda x: pyro.plate("data", len(x), dim=-1),
        lambda x: pyro.plate("data", size=x.shape[0]),
    ],
    ids=["without a size", "len", "dim", "shape"],
)
def test_the_evidence_is_right_however_the_plate_is_opened(plate):
    pair, x = Linear(plate), data()
    assert trained(pair, x, epochs=1)["elbo"]
    assert_exact(pair, x, pair.log_px(x))


def test_without_any_plate_the_data_have_no_evidence_each():
    class NoPlate(Linear):
        def model(self, x):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0).to_event(2))
            pyro.sample("x", dist.Normal(self.decoder(z), 0.7).to_event(2), obs=x)

        def guide(self, x):
            loc, scale = self.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, 0.5 + scale.sigmoid()).to_event(2))

    pair, x = NoPlate(None), data(20)
    with pytest.raises(InputError, match=r"'[xz]'.*pyro\.plate"):
        marginal_likelihood(pair, x, num_samples=40)
    with pytest.raises(InputError, match=r"'x'.*pyro\.plate"):
        trained(pair, x, batch_size=10, epochs=1)
    trained(pair, x, batch_size=20, epochs=1)  # the whole data set as one


def test_a_plate_of_another_name_in_the_guide_changes_nothing():
    pair, x = Linear(lambda x: pyro.plate("data", len(x)), lambda x: pyro.plate("rows", len(x))), data()
    if unless_refused(lambda: marginal_likelihood(pair, x, num_samples=2000), "'data'", "'rows'"):
        assert_exact(pair, x, pair.log_px(x))


def test_a_local_latent_outside_of_the_plate_is_refused_by_name():
    class Outside(Linear):
        def model(self, x):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0).to_event(1))
            with pyro.plate("data", len(x)):
                pyro.sample("x", dist.Normal(self.decoder(z), 0.7).to_event(1), obs=x)

        def guide(self, x):
            loc, scale = self.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, 0.5 + scale.sigmoid()).to_event(1))

    with pytest.raises(InputError, match="'z'"):
        marginal_likelihood(Outside(None), data(), num_samples=40)


class TwoPlates(nn.Module):
    """Documents and features, each with a plate. Fewer data tell which of the two holds the data."""

    def __init__(self, features=3, fixed=True):
        super().__init__()
        self.features, self.fixed = features, fixed
        self.mean = nn.Parameter(torch.randn(features, 1))
        self.encoder = nn.Linear(features, 2)

    def model(self, x):
        documents = pyro.plate("documents", len(x), dim=-1)
        features = pyro.plate("features", self.features if self.fixed else len(x), dim=-2)
        with documents:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with features:
                pyro.sample("x", dist.Normal(self.mean + z, 0.7), obs=x.T)

    def guide(self, x):
        loc, scale = self.encoder(x).unbind(-1)
        with pyro.plate("documents", len(x), dim=-1):
            pyro.sample("z", dist.Normal(loc, 0.5 + scale.sigmoid()))

    def log_px(self, x):
        covariance = torch.ones(self.features, self.features) + 0.49 * torch.eye(self.features)
        return dist.MultivariateNormal(self.mean[:, 0], covariance).log_prob(x).detach().double()


def test_the_datas_plate_is_told_from_one_of_the_same_size():
    pair, x = TwoPlates(features=3), data(3)
    assert structure(pair, x).data_plate.name == "documents"
    assert_exact(pair, x, pair.log_px(x))


def test_two_plates_that_follow_the_data_are_refused_unless_one_is_named():
    pair, x = TwoPlates(features=3, fixed=False), data(3)
    with pytest.raises(InputError, match=r'data_plate="(documents|features)"') as error:
        marginal_likelihood(pair, x, num_samples=40)
    assert "'documents'" in str(error.value)
    assert "'features'" in str(error.value)
    named = Pair(pair.model, pair.guide, data_plate="documents")
    assert_exact(named, x, pair.log_px(x))


def test_the_datas_plate_may_be_the_outer_one():
    """Data at dimension -2, and an inner plate of repeats at -1, with a latent in each."""

    class Nested(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Linear(3, 2)

        def model(self, x):
            with pyro.plate("data", len(x), dim=-2):
                z = pyro.sample("z", dist.Normal(0.0, 1.0))
                with pyro.plate("repeats", 3, dim=-1):
                    w = pyro.sample("w", dist.Normal(z, 0.8))
                    pyro.sample("x", dist.Normal(w, 0.7), obs=x)

        def guide(self, x):
            loc, scale = self.encoder(x).chunk(2, -1)
            with pyro.plate("data", len(x), dim=-2):
                z = pyro.sample("z", dist.Normal(loc, 0.5 + scale.sigmoid()))
                with pyro.plate("repeats", 3, dim=-1):
                    pyro.sample("w", dist.Normal(0.5 * (x + z), 0.7))

    pair, x = Nested(), data()
    covariance = torch.ones(3, 3) + (0.64 + 0.49) * torch.eye(3)
    exact = dist.MultivariateNormal(torch.zeros(3), covariance).log_prob(x).double()
    result = marginal_likelihood(pair, x, num_samples=4000)
    assert ((result.log_px - exact).abs() < 4.5 * result.std_error + 1e-4).all()
    history = trained(pair, x.repeat(4, 1), batch_size=10, epochs=10)
    assert history["elbo"][-1] <= exact.mean() + 0.3


# Subsampling


class Subsampling(Linear):
    """The programs choose some of the data themselves."""

    def __init__(self, size):
        super().__init__(lambda x: pyro.plate("data", len(x), subsample_size=min(self.size, len(x))))
        self.size = size

    def model(self, x):
        with self.plates[0](x) as chosen:
            z = pyro.sample("z", dist.Normal(torch.zeros(len(chosen), 1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 0.7).to_event(1), obs=x[chosen])

    def guide(self, x):
        with self.plates[0](x) as chosen:
            loc, scale = self.encoder(x[chosen]).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, 0.5 + scale.sigmoid()).to_event(1))


def test_a_program_that_subsamples_its_data_reports_nats_per_datum():
    pair, x = Subsampling(10), data(60)
    exact = Linear(lambda x: pyro.plate("data", len(x)))
    exact.load_state_dict(pair.state_dict())
    elbo = one_copy_at_a_time(exact, x).elbo.mean().item()
    frozen = {"optimizer": lambda p: torch.optim.SGD(p, lr=0.0), "batch_size": 60, "epochs": 40}
    history = trained(pair, x, validation=x, **frozen)
    deviation = torch.tensor(history["elbo"]).std() / 40**0.5
    assert abs(torch.tensor(history["elbo"]).mean() - elbo) < 4.5 * deviation + 1e-3
    assert deviation < 0.4  # a factor of 6 or 10 would show
    found = torch.tensor(history["validation_elbo"])  # the same draws after each epoch
    assert abs(found[0] - elbo) < 6 * torch.tensor(history["elbo"]).std()
    torch.testing.assert_close(
        -torch.tensor(history["loss"]), torch.tensor(history["elbo"]), rtol=1e-4, atol=1e-4
    )


def test_the_evidence_of_a_program_that_subsamples_is_refused_unless_it_takes_all():
    pair, x = Subsampling(2), data(5)
    with pytest.raises(InputError, match="'data'") as error:
        marginal_likelihood(pair, x, num_samples=40)
    assert "subsample" in str(error.value)
    pair.size = 5
    assert_exact(pair, x, pair.log_px(x))


def test_a_plate_of_the_whole_data_set_with_the_minibatch_as_its_subsample_is_scored():
    """`plate("data", N, subsample_size=len(x))` puts N/B on each site, which no evidence may hold."""
    pair, x = Linear(lambda x: pyro.plate("data", 1000, subsample_size=len(x))), data()
    assert_exact(pair, x, pair.log_px(x))
    reference = one_copy_at_a_time(pair, x)
    history = trained(
        pair, x.repeat(10, 1), batch_size=5, epochs=40, optimizer=lambda p: torch.optim.SGD(p, lr=0.0)
    )
    elbos = torch.tensor(history["elbo"])
    assert abs(elbos.mean() - reference.elbo.mean()) < 4.5 * elbos.std() / 40**0.5 + 1e-3
    torch.testing.assert_close(-torch.tensor(history["loss"]), elbos, rtol=1e-4, atol=1e-4)


# Guides with parameters for each datum


class PerDatum(nn.Module):
    """A guide without an encoder: the parameters of ten data."""

    def __init__(self, num_data=10):
        super().__init__()
        self.decoder = nn.Linear(1, 3)
        self.loc = nn.Parameter(0.3 * torch.randn(num_data, 1))

    model, log_px = Linear.model, Linear.log_px
    plates = (lambda x: pyro.plate("data", len(x)),)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.loc, 1.0).to_event(1))


def test_a_guide_with_parameters_for_each_datum_is_scored_on_its_own_data():
    pair, x = PerDatum(), data(10)
    assert_exact(pair, x, pair.log_px(x))
    assert_evidence(pair, x, reference=one_copy_at_a_time(pair, x))
    gaps = inference_gaps(pair, x, num_samples=500, steps=20)
    assert ((gaps.log_px - pair.log_px(x)).abs() < 4.5 * gaps.std_error["log_px"] + 1e-3).all()


def test_it_trains_on_all_data_at_once_and_is_refused_in_minibatches():
    pair, x = PerDatum(), data(10)
    history = trained(pair, x, batch_size=10, epochs=20)
    assert history["elbo"][-1] > history["elbo"][0]
    with pytest.raises(InputError, match="'z'") as error:
        trained(pair, x, batch_size=5, epochs=1)
    assert "holds parameters for 10 data, train and evaluate it on these data at once" in str(error.value)
    assert "batch_size=10" in str(error.value)


def test_it_is_refused_on_other_data_in_the_users_own_numbers():
    pair, x = PerDatum(), data(7)
    with pytest.raises(InputError, match=r"'z'") as error:
        marginal_likelihood(pair, x, num_samples=40)
    assert "10" in str(error.value)
    assert "7" in str(error.value)
    assert "(2, 3)" not in str(error.value)  # a shape that the user never gave


def test_a_program_that_fails_is_shown_with_the_users_own_shape():
    class Fails(Linear):
        def model(self, x):
            raise ValueError("no such table")

    with pytest.raises(InputError, match="no such table") as error:
        marginal_likelihood(Fails(lambda x: pyro.plate("data", len(x))), data(7), num_samples=40)
    assert "(2, 3)" not in str(error.value)
    assert "(7, 3)" in str(error.value)


# Data that depend on one another


class GaussianProcess(nn.Module):
    """The data of a minibatch are one draw of a process over their first column."""

    def __init__(self, noise=0.5):
        super().__init__()
        self.noise = noise
        self.encoder = nn.Linear(2, 2)

    def covariance(self, t):
        return (-0.5 * (t[..., :, None] - t[..., None, :]).square()).exp() + 1e-4 * torch.eye(t.shape[-1])

    def model(self, x):
        prior = dist.MultivariateNormal(torch.zeros(len(x)), self.covariance(x[:, 0]))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x)), 1.0))
            mean = prior.scale_tril @ z if z.dim() == 1 else (prior.scale_tril @ z[..., None])[..., 0]
            pyro.sample("x", dist.Normal(mean, self.noise), obs=x[:, 1])

    def guide(self, x):
        loc, scale = self.encoder(x).unbind(-1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, scale.exp()))


class Centred(Linear):
    """The decoder subtracts the minibatch's mean."""

    def __init__(self):
        super().__init__(lambda x: pyro.plate("data", len(x)))

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 1), 1.0).to_event(1))
            mean = self.decoder(z)
            mean = mean - mean.mean(-2, keepdim=True)
            pyro.sample("x", dist.Normal(mean, 0.7).to_event(1), obs=x)


class Attending(Linear):
    """The encoder lets the data of a minibatch attend to one another."""

    def __init__(self):
        super().__init__(lambda x: pyro.plate("data", len(x)))

    def guide(self, x):
        x = (x @ x.T).softmax(-1) @ x
        loc, scale = self.encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, 0.5 + scale.sigmoid()).to_event(1))


@pytest.mark.parametrize("make", [GaussianProcess, Centred, Attending])
def test_a_density_that_depends_on_the_other_data_is_refused_by_name(make):
    pair, x = make(), data(6)[:, : 2 if make is GaussianProcess else 3]
    site = "'z'" if make is Attending else "'x'"
    with pytest.raises(InputError, match=site):
        marginal_likelihood(pair, x, num_samples=50)
    with pytest.raises(InputError, match=site):
        inference_gaps(pair, x, num_samples=50, steps=5)


def test_a_likelihood_over_all_data_is_not_trained_on_minibatches():
    class Process(GaussianProcess):
        def model(self, x):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            covariance = self.covariance(x[:, 0]) + 0.25 * torch.eye(len(x))
            pyro.sample("x", dist.MultivariateNormal(z.expand(len(x)), covariance), obs=x[:, 1])

        def guide(self, x):
            pyro.sample("z", dist.Normal(*self.encoder.bias.exp()))

    pair, x = Process(), data(8)[:, :2]
    pair.encoder.weight.requires_grad_(False)
    with pytest.raises(InputError, match="'x'"):
        trained(pair, x, batch_size=4, epochs=1)
    assert trained(pair, x, batch_size=8, epochs=2)["elbo"]


def test_objectives_agree_on_nested_plates():
    pair, x = TwoPlates(), data(4)
    reference = one_copy_at_a_time(pair, x)
    with torch.no_grad():
        many = x.repeat(500, 1)
        elbo = -float(ELBO().evaluate(pair, many).loss) / 500
        iwae = -float(IWAE(1).evaluate(pair, many).loss) / 500
    error = (reference.elbo_deviation.square().sum() / 500).sqrt()
    assert abs(elbo - reference.elbo.sum()) < 4.5 * error
    assert abs(iwae - reference.elbo.sum()) < 4.5 * error
