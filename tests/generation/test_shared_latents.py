"""A latent that all data share has one value: its posterior mean, or one draw of its posterior."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from generated_programs import nothing_changes
from pyro.infer.autoguide import AutoDelta, AutoNormal
from torch import nn

from pyrovae import generation
from pyrovae.errors import InputError
from pyrovae.models import BayesianNetwork
from pyrovae.networks import MLP, WithWeights
from pyrovae.posteriors import FreeNormal
from pyrovae.priors import IndependentNormal
from pyrovae.programs import Pair

W = torch.tensor([[1.0, -2.0, 0.5, 3.0], [0.0, 1.0, -1.0, 2.0]])
X = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))


class Factors(nn.Module):
    """w of all data, z ~ N(0, 1) of each datum, x ~ N(z w, 1). By decree, q(w) is N(W, 0.1)."""

    def model(self, x):
        w = pyro.sample("w", dist.Normal(torch.zeros(2, 4), 1.0).to_event(2))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z @ w, 1.0).to_event(1), obs=x)

    def guide(self, x):
        pyro.sample("w", self.posterior(x).to_event(2))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(x[:, :2], 1.0).to_event(1))

    def posterior(self, x):
        return dist.Normal(W, 0.1)


class OfTheData(Factors):
    """The guide computes w from all data."""

    def posterior(self, x):
        return dist.Normal(x.mean(0).expand(2, 4), 0.1)


def test_all_samples_share_one_draw_of_the_posterior():
    with nothing_changes(Factors()):
        draws = generation.draw_latents(Factors(), 1500, seed=3)
        images = generation.sample_images(Factors(), 1500, seed=3)
    assert draws["w"].shape == (2, 4)
    torch.testing.assert_close(images, draws["z"] @ draws["w"])  # more rows than run at a time
    z = draws["z"]
    assert (z.mean(0).abs() < 4 / 1500**0.5).all()
    assert ((z.var(0) - 1).abs() < 4 * (2 / 1500) ** 0.5).all()
    many = torch.stack([generation.draw_latents(Factors(), 1, seed=seed)["w"] for seed in range(30)])
    noise = (many - W).flatten() / 0.1  # 240 standard normal numbers
    assert abs(noise.mean()) < 4 / 240**0.5
    assert abs(noise.var() - 1) < 4 * (2 / 240) ** 0.5


def test_reconstructions_and_codes_are_at_the_posterior_mean():
    means = X[:, :2]
    with nothing_changes(Factors()):
        torch.testing.assert_close(generation.reconstruct(Factors(), X), means @ W)
    codes = generation.latent_codes(Factors(), X)
    assert torch.equal(codes["w"], W)
    assert torch.equal(codes["z"], means)
    assert torch.equal(generation.latent_means(Factors(), X), means)  # z, though w comes last in no order
    assert torch.equal(generation.latent_means(Factors(), X, "w"), W)
    torch.testing.assert_close(generation.decode(Factors(), means), means @ W)
    line = generation.interpolate(Factors(), X[:1], X[1:2], 3)
    torch.testing.assert_close(line[0, 1], (means[0] + means[1]) / 2 @ W)
    moved = generation.traverse(Factors(), X[0], levels=(0.5,))
    assert moved.shape == (2, 1, 4)
    assert generation.manifold(Factors(), 3).shape == (3, 3, 4)


def test_a_value_of_it_is_given_once():
    z, w = X[:, :2], torch.ones(2, 4)
    torch.testing.assert_close(generation.images_of(Factors(), {"w": w, "z": z}), z @ w)
    torch.testing.assert_close(generation.images_of(Factors(), {"z": z}), z @ W)
    assert torch.equal(generation.images_of(Factors(), {"w": w}), torch.zeros(1, 4))  # z at its mean, 0
    with pytest.raises(InputError, match=r"the code of 'w' has shape \(5, 2, 4\), and all data share one"):
        generation.images_of(Factors(), {"z": z, "w": w.expand(5, 2, 4)})
    with pytest.raises(InputError, match=r"codes has 'v', and the latents of Factors are 'w', 'z'"):
        generation.images_of(Factors(), {"v": z})


def test_what_needs_a_value_for_each_datum_refuses_it():
    message = r"all data share 'w' of Factors.*latent_means\(pair, x, site='w'\).*draw_latents\(pair, 1\)"
    for call in (
        lambda: generation.decode(Factors(), W, site="w"),
        lambda: generation.posterior_draws(Factors(), X, "w"),
        lambda: generation.prior_quantiles(Factors(), (0.5,), "w"),
        lambda: generation.interpolate(Factors(), X[:1], X[1:2], site="w"),
        lambda: generation.traverse(Factors(), X[0], site="w"),
    ):
        with pytest.raises(InputError, match=message):
            call()
    assert generation.draw_latents(Factors(), 1)["w"].shape == (2, 4)  # the remedy


def test_one_that_the_guide_computes_from_the_data_needs_all_of_them():
    x = torch.randn(1300, 4) + 1  # more than run at a time
    w = x.mean(0).expand(2, 4)
    torch.testing.assert_close(generation.latent_codes(OfTheData(), x)["w"], w)
    torch.testing.assert_close(generation.reconstruct(OfTheData(), x), x[:, :2] @ w)
    for call in (generation.sample_images, generation.draw_latents):
        with pytest.raises(InputError, match=r"the guide of OfTheData computes 'w', which all data share"):
            call(OfTheData(), 3)
    z = torch.randn(3, 2)
    torch.testing.assert_close(generation.images_of(OfTheData(), {"z": z, "w": W}), z @ W)  # the remedy


def test_a_scalar_that_all_data_share():
    def model(x):
        loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x[:, 0])

    pair = Pair(model, lambda x: pyro.sample("loc", dist.Normal(3.0, 0.1)), x_shape=(1,))
    x = torch.randn(4, 1)
    assert torch.equal(generation.reconstruct(pair, x), torch.full((4, 1), 3.0))
    assert generation.latent_means(pair, x) == 3.0
    images = generation.sample_images(pair, 6)
    assert torch.equal(images, generation.draw_latents(pair, 6)["loc"].expand(6, 1))
    assert abs(images[0, 0] - 3) < 0.5
    alone = Pair(model, lambda x: None, x_shape=(1,))  # without a posterior it has its prior
    assert torch.equal(generation.reconstruct(alone, x), torch.zeros(4, 1))


@pytest.mark.parametrize("one_hot", [True, False], ids=["one-hot", "index"])
def test_a_mixture_with_means_of_all_data(one_hot):
    """A class is the only latent of a datum; its weights and the components' means belong to all data."""
    family = dist.OneHotCategorical if one_hot else dist.Categorical
    concentration, centres = torch.tensor([200.0, 600.0, 200.0]), torch.tensor([-5.0, 0.0, 7.0])

    def model(x):
        weights = pyro.sample("weights", dist.Dirichlet(torch.ones(3)))
        with pyro.plate("components", 3):
            means = pyro.sample("means", dist.Normal(0.0, 10.0))
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", family(weights))
            pyro.sample("x", dist.Normal(c @ means if one_hot else means[c], 1.0), obs=x[:, 0])

    def guide(x):
        weights = pyro.sample("weights", dist.Dirichlet(concentration))
        with pyro.plate("components", 3):
            means = pyro.sample("means", dist.Normal(centres, 0.1))
        with pyro.plate("data", len(x)):
            pyro.sample("c", family(logits=weights.log() - (x - means).square() / 2))

    pair, x = Pair(model, guide, x_shape=(1,)), torch.tensor([[-4.0], [6.0], [0.5]])
    codes = generation.latent_codes(pair, x)
    torch.testing.assert_close(codes["weights"], concentration / 1000)
    assert torch.equal(codes["means"], centres)
    nearest = torch.tensor([0, 2, 1])
    assert torch.equal(codes["c"], torch.eye(3)[nearest] if one_hot else nearest)
    assert torch.equal(generation.reconstruct(pair, x)[:, 0], centres[nearest])
    images, draws = generation.class_samples(pair, 4), generation.draw_latents(pair, 4)
    assert torch.equal(images, images[:, :1].expand(3, 4, 1))  # one draw of the means for all
    assert ((images[:, 0, 0] - centres).abs() < 0.5).all()
    assert draws["means"].shape == (3,)
    samples, n = generation.sample_images(pair, 4000)[:, 0], 4000
    share = generation.draw_latents(pair, 4000)["weights"]
    found = torch.stack([((samples - centre).abs() < 1).double().mean() for centre in centres])
    assert ((found - share).abs() < 4 * (share * (1 - share) / n).sqrt()).all()
    assert torch.equal(generation.analogies(pair, x)[0, :, 0], centres)


def test_the_weights_of_a_bayesian_network():
    network = WithWeights(MLP((1, 4, 4), 3, hidden=()))
    w = network.initial_weights()
    bnn = BayesianNetwork(network, IndependentNormal(len(w), 0.1), FreeNormal(w, 0.02))
    bnn.x_shape = (1, 4, 4)
    codes = generation.latent_codes(bnn, torch.rand(5, 1, 4, 4))
    torch.testing.assert_close(codes, {"w": w})
    drawn = generation.draw_latents(bnn, 3)["w"]
    assert drawn.shape == w.shape
    noise = (drawn - w) / 0.02
    assert abs(noise.var() - 1) < 4 * (2 / len(w)) ** 0.5


def test_one_without_a_mean_is_one_draw_and_has_no_posterior_mean():
    class Heavy(Factors):
        def posterior(self, x):
            return dist.Cauchy(W, 0.1)

    with pytest.raises(InputError, match=r"'w' \(Cauchy\) has no mean .* draw_latents\(pair, 1\)\['w'\]"):
        generation.latent_means(Heavy(), X, "w")
    assert generation.draw_latents(Heavy(), 1)["w"].shape == (2, 4)  # the remedy
    assert torch.equal(generation.latent_means(Heavy(), X), X[:, :2])  # q(z | x) does not depend on w
    with pytest.warns(UserWarning, match=r"'w' \(Cauchy\) of Heavy has no mean, so one draw"):
        images = generation.reconstruct(Heavy(), X)
    assert torch.linalg.matrix_rank(images) == 2  # one w for all: the images lie in a plane


class Regression(nn.Module):
    """x ~ N(w c + b, 1): two latents, and all data share both."""

    x_shape = (1,)

    def __init__(self, autoguide):
        super().__init__()
        self.guide = autoguide(self.model)

    def model(self, x):
        w, b = (pyro.sample(name, dist.Normal(0.0, 1.0)) for name in ("w", "b"))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(w + b, 1.0), obs=x[:, 0])


@pytest.mark.parametrize("autoguide", [AutoNormal, AutoDelta])
def test_means_are_copies_that_can_be_edited(autoguide):
    pair, x = Regression(autoguide), torch.randn(5, 1)
    pair.guide(x)
    before = {name: values.clone() for name, values in generation.latent_codes(pair, x).items()}
    for found in (generation.latent_codes(pair, x), generation.draw_latents(pair, 2)):
        for values in (*found.values(), generation.latent_means(pair, x, "b")):
            assert not values.requires_grad
            values.fill_(100.0)
    assert generation.latent_codes(pair, x) == before
    pyro.clear_param_store()


def test_one_of_several_is_asked_for_by_name():
    pair, x = Regression(AutoNormal), torch.randn(5, 1)
    with pytest.raises(InputError, match=r"share each of the latents 'w', 'b' of Regression: latent_codes"):
        generation.latent_means(pair, x)
    assert list(generation.latent_codes(pair, x)) == ["w", "b"]  # the remedy
    pyro.clear_param_store()
