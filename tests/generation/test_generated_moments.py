"""Draws of each of the library's models, and of programs of other kinds, have the models' moments."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from generated_programs import (
    Conditional,
    LabelledMixture,
    Linear,
    Mixture,
    SignOfZ,
    TwoSites,
    cauchy,
    nothing_changes,
)
from torch.distributions import SigmoidTransform

from pyrovae import generation
from pyrovae.errors import InputError
from pyrovae.likelihoods import Bernoulli
from pyrovae.models import CVAE, Autoencoder, BayesianNetwork, HierarchicalVAE
from pyrovae.networks import MLP, Joined, WithWeights
from pyrovae.posteriors import DiagonalNormal, FreeNormal
from pyrovae.priors import IndependentNormal, StandardNormal
from pyrovae.programs import Pair

N = 4000
SHAPE = (1, 4, 4)


def make_hierarchical():
    torch.manual_seed(2)
    return HierarchicalVAE(
        prior=StandardNormal(2),
        latent=DiagonalNormal(MLP(2, 5, hidden=(4,)), 3),
        likelihood=Bernoulli(Joined(MLP(3 + 2, SHAPE, hidden=(6,)), None, None)),
        posterior2=DiagonalNormal(MLP(SHAPE, 5, hidden=()), 2),
        posterior1=DiagonalNormal(Joined(MLP(5 + 2, 5, hidden=()), MLP(SHAPE, 5, hidden=()), None), 3),
    )


def make_conditional():
    torch.manual_seed(2)
    return CVAE(
        prior=DiagonalNormal(MLP(3, 5, hidden=(4,)), 2),
        likelihood=Bernoulli(Joined(MLP(2 + 3, SHAPE, hidden=(6,)), None, None)),
        posterior=DiagonalNormal(Joined(MLP(5 + 3, 5, hidden=()), MLP(SHAPE, 5, hidden=()), None), 2),
    )


C = torch.eye(3)[torch.arange(N) % 3]  # the conditions of the CVAE


def images_by_components(name, model):
    """Draw E[x | latents] by the components of the model, without a program."""
    if name == "cvae":
        return model.likelihood.mean(model.prior(C).sample(), C)
    if name == "m2":
        y = model.class_prior().sample((N,))
        return model.likelihood.mean(model.prior().sample((N,)), y)
    if name == "m1m2":
        y = model.m2.class_prior().sample((N,))
        z1 = model.m2.likelihood(model.m2.prior().sample((N,)), y).sample()
        return model.vae.likelihood.mean(z1)
    z = model.prior().sample((N,))
    if name == "hvae":
        return model.likelihood.mean(model.latent(z).sample(), z)
    return model.likelihood.mean(z)


@pytest.fixture
def make(make_vae, make_m2, make_m1m2, make_cpcvae, make_ppca):
    makers = {
        "vae": make_vae,
        "m2": make_m2,
        "m1m2": make_m1m2,
        "cpcvae": make_cpcvae,  # its model and guide are those of a PC-VAE
        "ppca": make_ppca,
        "hvae": make_hierarchical,
        "cvae": make_conditional,
    }
    return lambda name: makers[name]()


@pytest.mark.parametrize("name", ["vae", "m2", "m1m2", "cpcvae", "ppca", "hvae", "cvae"])
def test_samples_of_the_librarys_models_have_their_moments(name, make):
    model, given = make(name).train(), {"c": C} if name == "cvae" else None
    with nothing_changes(model):
        images = generation.sample_images(model, N, seed=3, given=given)
        assert torch.equal(images, generation.sample_images(model, N, seed=3, given=given))
    torch.manual_seed(7)
    with torch.no_grad():
        expected = images_by_components(name, model.eval())
    for moment in (lambda x: x, lambda x: x.square()):
        found, known = moment(images), moment(expected)
        error = ((found.var(0) + known.var(0)) / N).sqrt()
        assert ((found.mean(0) - known.mean(0)).abs() < 4.5 * error + 1e-6).all()


def test_models_without_a_prior_or_without_data_are_refused():
    autoencoder = Autoencoder(MLP(SHAPE, 2, hidden=(8,)), Bernoulli(MLP(2, SHAPE, hidden=(8,))))
    with pytest.raises(InputError, match="Autoencoder has no prior over z, so it cannot generate"):
        generation.sample_images(autoencoder, 3)
    network = WithWeights(MLP(SHAPE, 3, hidden=()))
    w = network.initial_weights()
    bnn = BayesianNetwork(network, IndependentNormal(len(w), 0.1), FreeNormal(w, 0.02))
    with pytest.raises(InputError, match="BayesianNetwork observes nothing when it is called with data"):
        generation.reconstruct(bnn, torch.rand(3, *SHAPE))


@pytest.mark.parametrize("one_hot", [True, False], ids=["one-hot", "index"])
@pytest.mark.parametrize("kind", [Mixture, LabelledMixture])
def test_a_mixtures_samples_have_its_class_frequencies(kind, one_hot):
    model = kind(one_hot)
    with nothing_changes(model):
        draws = generation.draw_latents(model, N)
    c = draws["kind"].argmax(-1) if one_hot else draws["kind"]
    share = c.bincount(minlength=3) / N
    assert ((share - model.probs).abs() < 4 * (model.probs * (1 - model.probs) / N).sqrt()).all()
    images = generation.sample_images(model, N)
    torch.testing.assert_close(images, draws["z"] + model.centres[c])
    centre = model.probs @ model.centres
    variance = 1 + model.probs @ (model.centres - centre).square()
    assert ((images.mean(0) - centre).abs() < 4 * (variance / N).sqrt()).all()


def test_several_observed_sites_come_back_by_name_and_a_factor_is_none():
    x = torch.randn(3, 4)
    with nothing_changes(TwoSites()):
        images = generation.sample_images(TwoSites(), N)
    assert set(images) == {"x1", "x2"}
    assert ((images["x1"].var(0) - 1).abs() < 4 * (2 / N) ** 0.5).all()
    torch.testing.assert_close(images["x2"], -2 * images["x1"])
    for function, shape in ((generation.reconstruct, (3,)), (generation.decode, (2,))):
        given = x if function is generation.reconstruct else x[:2, :2]
        found = function(TwoSites(), given)
        torch.testing.assert_close(found["x1"], given[:, :2])
        torch.testing.assert_close(found["x2"], -2 * given[:, :2])
        assert found["x1"].shape == (*shape, 2)
    line = generation.interpolate(TwoSites(), x[:1], x[1:2], 3)
    torch.testing.assert_close(line["x2"][0, 1], -(x[0, :2] + x[1, :2]))
    assert generation.traverse(TwoSites(), x[0], levels=(0.1, 0.9))["x2"].shape == (2, 2, 2)
    assert generation.manifold(TwoSites(), 3)["x1"].shape == (3, 3, 2)
    with pytest.raises(InputError, match=r'several sites, x1, x2, .* such as images\["x1"\]'):
        generation.only_site(images)


def test_a_site_that_observes_a_condition_or_a_constant_is_no_data():
    class Censored(Conditional):
        def model(self, x, c):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                pyro.sample("c", dist.Normal(torch.zeros(2), 1.0).to_event(1), obs=c)
                pyro.sample("x", dist.Normal(z + c, 1.0).to_event(1), obs=x)
                pyro.sample("seen", dist.Bernoulli(0.5), obs=torch.ones(len(x)))

    c = torch.randn(3, 2)
    torch.testing.assert_close(generation.decode(Censored(), c, given={"c": c}), 2 * c)


def test_the_mean_of_a_likelihood_without_a_closed_form_is_an_average():
    """The logistic distribution of Pyro's transforms, as in PixelCNN++."""

    def logistic(z):
        uniform = dist.Uniform(torch.zeros_like(z), 1.0)
        return dist.TransformedDistribution(
            uniform, [SigmoidTransform().inv, dist.transforms.AffineTransform(z, 0.1)]
        )

    pair, x = Linear(lambda x: dist.Normal(x, 1.0).to_event(1), logistic), torch.randn(4, 2)
    with nothing_changes(pair):
        images = generation.reconstruct(pair, x)
    assert torch.equal(images, generation.reconstruct(pair, x))
    assert ((images - x).abs() < 4 * 0.1 * 1.82 / 10).all()


FAMILIES = {
    "Laplace": lambda z: dist.Laplace(z, 1.0),
    "Exponential": lambda z: dist.Exponential(z.exp()),
    "Weibull": lambda z: dist.Weibull(z.exp(), 1.5),
    "Pareto": lambda z: dist.Pareto(z.exp(), 3.0),
    "Geometric": lambda z: dist.Geometric(logits=z),
    "Multinomial": lambda z: dist.Multinomial(5, logits=z),
    "DirichletMultinomial": lambda z: dist.DirichletMultinomial(z.exp(), 5),
    "Poisson": lambda z: dist.Poisson(z.exp()),
    "Beta": lambda z: dist.Beta(z.exp(), 1.0),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_likelihoods_of_any_family_have_their_means(family):
    def likelihood(z):
        fn = FAMILIES[family](z)
        return fn if fn.event_dim else fn.to_event(1)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", likelihood(z), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 1.0).to_event(1))

    x = torch.tensor([[1.0, 4.0], [3.0, 2.0]])
    torch.testing.assert_close(generation.reconstruct(Pair(model, guide), x), likelihood(x / 2).mean)
    z = generation.draw_latents(Pair(model, guide), 3)["z"]
    torch.testing.assert_close(generation.sample_images(Pair(model, guide), 3), likelihood(z).mean)


def test_what_is_to_be_predicted_is_no_latent_and_no_data():
    def model(x, y=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(4), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)
            pyro.sample("y", dist.Normal(z.sum(-1), 1.0), obs=y)
            pyro.sample("late", cauchy(z), obs=None)

    def guide(x, y=None):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x / 2, 0.5**0.5).to_event(1))

    pair, x = Pair(model, guide), torch.randn(3, 4)
    torch.testing.assert_close(generation.latent_means(pair, x), x / 2)
    assert set(generation.latent_codes(pair, x)) == {"z"} == set(generation.draw_latents(pair, 2))
    torch.testing.assert_close(generation.reconstruct(pair, x), x / 2)
    torch.testing.assert_close(generation.decode(pair, x), x)
    assert generation.traverse(pair, x[0]).shape == (4, 9, 4)
    known = generation.reconstruct(pair, x, given={"y": torch.zeros(3)})  # given, but not the data
    torch.testing.assert_close(known, x / 2)


def test_draws_of_a_class_are_of_that_class_one_or_many():
    for label, sign in ((0, -1), (1, 1)):
        one = torch.cat([generation.draw_latents(SignOfZ(), 1, label, seed=s)["z"] for s in range(20)])
        many = generation.draw_latents(SignOfZ(), 200, label)["z"]
        for z in (one, many):
            assert abs((z * sign > 0).double().mean() - 0.97) < 4 * (0.97 * 0.03 / len(z)) ** 0.5
    y = torch.arange(200) % 2
    images = generation.samples_of_classes(SignOfZ(), y, seed=1)
    assert ((images[:, 0] > 0) == y.bool()).double().mean() > 0.97 - 4 * 0.012
    singles = torch.cat([generation.class_samples(SignOfZ(), 1, seed=2 * s) for s in range(10)], 1)
    assert abs((singles[0] < 0).double().mean() - 0.97) < 4 * (0.97 * 0.03 / 10) ** 0.5


def test_too_few_draws_of_a_class_give_a_warning():
    class Rare(SignOfZ):
        def model(self, x, y=None):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)
                if y is not None:  # 1.3 of 1,000 draws are above 3
                    right = torch.where(z > 3, 1 - 1e-6, 1e-6)
                    pyro.sample("y", dist.Categorical(torch.cat([1 - right, right], -1)), obs=y)

    for seed in range(2):  # of 1,000 draws none, or one, is above 3
        with pytest.warns(UserWarning, match="1000 draws .*candidates, which is 100, above 1000"):
            generation.draw_latents(Rare(), 1, 1, seed=seed)
    assert (generation.draw_latents(Rare(), 1, 1, candidates=20_000)["z"] > 3).all()  # the remedy


def test_a_predicted_class_is_drawn_for_each_row_of_what_is_given():
    """z ~ N(c, 1) and the class is the sign of z: given the class, |z - c| is cut at 0."""

    class Given(SignOfZ):
        def model(self, x, y=None, *, c):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(c, 0.1).to_event(1))
                pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)
                if y is not None:
                    up = (z > 0).float()
                    pyro.sample("y", dist.Categorical(torch.cat([1 - up, up], -1)), obs=y)

        def guide(self, x, y=None, *, c):
            raise NotImplementedError

    c = torch.tensor([[0.05], [-0.05], [0.3], [0.1]])
    z = generation.draw_latents(Given(), 4, 1, given={"c": c})["z"]
    assert (z > 0).all()
    assert ((z - c).abs() < 0.4).all()  # each near its own centre
    with pytest.raises(InputError, match="class 1 was asked for, and none of 1000 draws can be of it"):
        generation.draw_latents(Given(), 4, 1, given={"c": c - 9})


def test_a_class_that_is_predicted_from_the_data_cannot_be_chosen():
    class FromData(SignOfZ):
        def model(self, x, y=None):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)
                if y is not None:
                    pyro.sample("kind", dist.Categorical(logits=torch.cat([x, -x], -1)), obs=y)

    with pytest.raises(InputError, match="the class 'kind' of FromData is predicted from the data"):
        generation.draw_latents(FromData(), 4, 1)
