"""Images in each class are what the components say."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from generated_programs import EncodingMixture, LabelledMixture, Mixture

from pyrovae.errors import InputError
from pyrovae.evaluation import active_units, class_probabilities
from pyrovae.generation import (
    analogies,
    class_samples,
    classes_behind,
    code_site,
    decode,
    draw_latents,
    images_of,
    interpolate,
    latent_codes,
    latent_means,
    num_classes,
    reconstruct,
    sample_images,
    samples_of_classes,
)
from pyrovae.likelihoods import Bernoulli
from pyrovae.models import Autoencoder
from pyrovae.networks import MLP
from pyrovae.programs import Pair

X_SHAPE = (1, 4, 4)


@pytest.fixture
def autoencoder():
    return Autoencoder(MLP(X_SHAPE, 2, hidden=(8,)), Bernoulli(MLP(2, X_SHAPE, hidden=(8,))))


@pytest.fixture
def x(binary_images):
    return binary_images.double()


def test_decoding_in_a_class_is_the_likelihoods_mean(make_m2, make_m1m2):
    m2, z = make_m2(), torch.randn(6, 2).double()
    y = torch.arange(6) % 3
    torch.testing.assert_close(decode(m2, z, y), m2.likelihood.mean(z, y).detach())
    stack, z2 = make_m1m2(), torch.randn(6, 1).double()
    z1 = stack.m2.likelihood(z2, y).mean
    torch.testing.assert_close(decode(stack, z2, y, site="z2"), stack.vae.likelihood(z1).mean.detach())
    torch.testing.assert_close(decode(stack, z1.detach()), stack.vae.likelihood(z1).mean.detach())


def test_a_class_is_asked_for_where_x_depends_on_one_and_only_there(make_m2, make_m1m2, make_cpcvae):
    z, y = torch.zeros(3, 2).double(), torch.zeros(3, dtype=torch.long)
    with pytest.raises(InputError, match="x depends on the class 'y' as well as on 'z'"):
        decode(make_m2(), z)
    with pytest.raises(InputError, match="x depends on the class 'y' as well as on 'z2'"):
        decode(make_m1m2(), z[:, :1], site="z2")
    for model in (make_cpcvae(), make_m1m2()):
        with pytest.raises(InputError, match="x does not depend on a class"):
            decode(model, z, y)
    with pytest.raises(InputError, match="the classes go from 3 to 3; there are 3"):
        decode(make_m2(), z, y + 3)
    assert classes_behind(make_m2()) == {"y"} == classes_behind(make_m1m2(), "z2")
    assert classes_behind(make_m1m2()) == set() == classes_behind(make_cpcvae())


def test_class_samples_are_decoded_from_draws_given_the_class(make_m2, make_m1m2, make_cpcvae):
    m2 = make_m2()
    images = class_samples(m2, 4, seed=3)
    assert images.shape == (3, 4, *X_SHAPE)
    for label in range(3):
        z = draw_latents(m2, 4, label, seed=3 + label)["z"]
        expected = m2.likelihood.mean(z, torch.full((4,), label)).detach()
        torch.testing.assert_close(images[label], expected)
    assert class_samples(make_m1m2(), 4).shape == class_samples(make_cpcvae(), 4).shape == images.shape


def test_analogies_hold_the_style_and_set_the_class(make_m2, make_m1m2, x):
    m2 = make_m2()
    images = analogies(m2, x[:5])
    assert images.shape == (5, 3, *X_SHAPE)
    z = m2.posterior(x[:5], m2.classifier(x[:5]).probs.argmax(-1)).mean
    for label in range(3):
        expected = m2.likelihood.mean(z, torch.full((5,), label)).detach()
        torch.testing.assert_close(images[:, label], expected)
    stack = make_m1m2()
    z1 = stack.vae.posterior(x[:5]).mean
    z2 = stack.m2.posterior(z1, stack.m2.classifier(z1).probs.argmax(-1)).mean
    followed = stack.m2.likelihood(z2, torch.full((5,), 1)).mean
    torch.testing.assert_close(analogies(stack, x[:5])[:, 1], stack.vae.likelihood(followed).mean.detach())


def test_analogies_need_a_class_that_makes_x(make_vae, make_cpcvae, x):
    with pytest.raises(InputError, match="VAE has no classes: train m2"):
        analogies(make_vae(), x.float())
    with pytest.raises(InputError, match="the class 'y' is predicted from the latents"):
        analogies(make_cpcvae(), x)
    with pytest.raises(InputError, match="VAE has no classes"):
        class_samples(make_vae())


@pytest.mark.parametrize(
    ("kind", "one_hot"),
    [
        (Mixture, True),
        (Mixture, False),
        (LabelledMixture, True),
        (LabelledMixture, False),
        (EncodingMixture, True),
    ],
)
def test_classes_in_any_form_at_a_site_of_any_name(kind, one_hot):
    mixture = kind(one_hot)
    centres, x = mixture.centres, torch.tensor([[0.3, 0.2], [5.0, 1.0], [-1.0, 8.0], [2.9, 0.0]])
    nearest = torch.tensor([0, 1, 2, 0])
    form = torch.eye(3)[nearest] if one_hot else nearest
    means = (x - centres[nearest]) / 2
    assert num_classes(mixture) == 3
    assert classes_behind(mixture) == {"kind"}
    assert code_site(mixture) == "z"
    codes = latent_codes(mixture, x)
    assert torch.equal(codes["kind"], form)
    torch.testing.assert_close(codes["z"], means)
    torch.testing.assert_close(reconstruct(mixture, x), means + centres[nearest])
    torch.testing.assert_close(decode(mixture, x, nearest), x + centres[nearest])
    with pytest.raises(InputError, match="x depends on the class 'kind' as well as on 'z'"):
        decode(mixture, x)
    styles = analogies(mixture, x)
    torch.testing.assert_close(styles, means[:, None] + centres)
    images = class_samples(mixture, 40)
    z = draw_latents(mixture, 40, 2, seed=2)["z"]
    torch.testing.assert_close(images[2], z + centres[2])
    y = torch.arange(40) % 3
    torch.testing.assert_close(
        samples_of_classes(mixture, y)[y == 1], draw_latents(mixture, 13, 1, seed=1)["z"] + centres[1]
    )
    lines = interpolate(mixture, x[:1], x[1:2], 4)[0] - centres[[0, 0, 1, 1]]  # in one class, never between
    weights = torch.linspace(0, 1, 4)[:, None]
    torch.testing.assert_close(lines, (1 - weights) * means[0] + weights * means[1])
    assert active_units(mixture, x).counts == {"z": 2}
    probabilities = class_probabilities(mixture, x)
    torch.testing.assert_close(probabilities, (-torch.cdist(x, centres).square() / 4).softmax(-1))


def test_the_class_that_the_guide_lacks_is_the_most_probable_one():
    """p(c | x, z) is proportional to p(c) N(x; z + centre of c, 1), where the guide has z at x / 2."""

    class WithoutClass(Mixture):
        def guide(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(x / 2, 1.0).to_event(1))

    x = torch.tensor([[1.0, 1.0], [12.5, 0.1], [0.0, 17.0], [6.1, 0.0]])
    for one_hot in (True, False):
        mixture = WithoutClass(one_hot)
        distance = torch.cdist(x / 2, mixture.centres).square()
        best = (mixture.probs.log() - distance / 2).argmax(-1)
        assert best.tolist() == [0, 1, 2, 1]
        codes = latent_codes(mixture, x)
        assert torch.equal(codes["kind"], torch.eye(3)[best] if one_hot else best)
        torch.testing.assert_close(reconstruct(mixture, x), x / 2 + mixture.centres[best])


def test_a_block_of_classes_is_at_its_modes():
    """Eight classes for each datum, as in a VAE with discrete codes."""
    logits = torch.randn(8, 5)

    def model(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", dist.Categorical(torch.ones(8, 5)).to_event(1))
            pyro.sample("x", dist.Normal(c.float(), 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("c", dist.Categorical(logits=logits).to_event(1))

    pair, modes = Pair(model, guide), logits.argmax(-1).expand(3, 8)
    assert torch.equal(latent_codes(pair, torch.zeros(3, 8))["c"], modes)
    assert torch.equal(reconstruct(pair, torch.zeros(3, 8)), modes.float())
    with pytest.raises(InputError, match="has no continuous latent; there are: none"):
        latent_means(pair, torch.zeros(3, 8))


def test_several_latents_of_classes_are_given_by_name():
    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            a = pyro.sample("a", dist.Categorical(torch.ones(2)))
            b = pyro.sample("b", dist.OneHotCategorical(torch.ones(3)))
            pyro.sample("x", dist.Normal(z + a[:, None] + 10 * b, 1.0).to_event(1), obs=x)

    pair, z = Pair(model, lambda x: None), torch.ones(2, 1)
    with pytest.raises(
        InputError, match=r"several latents of classes, a, b: give .* images_of\(pair, codes\)"
    ):
        num_classes(pair)
    images = images_of(pair, {"z": z, "a": torch.tensor([0, 1]), "b": torch.eye(3)[:2]})
    assert images.tolist() == [[11, 1, 1], [2, 12, 2]]


@pytest.mark.parametrize("one_hot", [True, False], ids=["one-hot", "index"])
def test_a_class_may_be_the_only_latent(one_hot):
    family = dist.OneHotCategorical if one_hot else dist.Categorical
    probs, centres = torch.tensor([0.2, 0.3, 0.5]), torch.tensor([[0.0, 1.0], [6.0, 0.0], [0.0, 9.0]])

    def model(x):
        with pyro.plate("data", len(x)):
            c = pyro.sample("c", family(probs))
            pyro.sample("x", dist.Normal(c @ centres if one_hot else centres[c], 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", len(x)):
            pyro.sample("c", family(logits=-torch.cdist(x, centres).square() / 2))

    pair, x = Pair(model, guide), torch.tensor([[5.0, 1.0], [0.0, 8.0]])
    images = sample_images(pair, 3000)
    share = torch.stack([(images == centre).all(1).float().mean() for centre in centres])
    assert ((share - probs).abs() < 4 * (probs * (1 - probs) / 3000).sqrt()).all()
    assert torch.equal(class_samples(pair, 2), centres[:, None].expand(3, 2, 2))
    assert torch.equal(samples_of_classes(pair, torch.tensor([2, 0])), centres[[2, 0]])
    assert torch.equal(analogies(pair, x), centres.expand(2, 3, 2))
    assert torch.equal(reconstruct(pair, x), centres[[1, 2]])
    assert torch.equal(interpolate(pair, x[:1], x[1:], 2)[0], centres[[1, 2]])
    with pytest.raises(InputError, match=r"no continuous latent; .*ones are 'c': latent_codes.* images_of"):
        decode(pair, x)
    values = torch.eye(3)[:2] if one_hot else torch.arange(2)
    assert torch.equal(images_of(pair, {"c": values}), centres[:2])  # the remedy


def test_classes_to_draw_are_whole_numbers():
    for call in (
        lambda y: samples_of_classes(Mixture(), y),
        lambda y: decode(Mixture(), torch.zeros(3, 2), y),
    ):
        with pytest.raises(InputError, match=r"type torch.float32 and shape \(3, 3\).* give y.argmax\(1\)"):
            call(torch.eye(3))
        with pytest.raises(InputError, match="the classes go from 0 to 3; there are 3"):
            call(torch.tensor([0, 1, 3]))
        assert call(torch.eye(3).argmax(1)).shape == (3, 2)  # the remedy
