"""The facts about a pair that generation asks for."""

import pytest
import torch

from pyrovae.errors import InputError
from pyrovae.generation import (
    Generator,
    code_site,
    draw_latents,
    latent_means,
    num_classes,
)
from pyrovae.likelihoods import Bernoulli
from pyrovae.models import Autoencoder
from pyrovae.networks import MLP
from pyrovae.programs.pair import Pair


@pytest.fixture
def x(binary_images):
    return binary_images.double()


@pytest.fixture
def autoencoder():
    return Autoencoder(MLP((1, 4, 4), 2, hidden=(8,)), Bernoulli(MLP(2, (1, 4, 4), hidden=(8,))))


def test_the_facts_are_read_off_the_program(make_vae, make_m2, make_m1m2, make_cpcvae, autoencoder):
    vae = Generator(make_vae())
    assert (vae.data_sites, vae.structure.latents, vae.code_names) == (("x",), ("z",), ("z",))
    assert (vae.classes, vae.class_site) == (frozenset(), None)
    assert vae.unobserved.generative_edges == {("z", "x")}
    m2 = Generator(make_m2())
    assert (m2.structure.latents, m2.classes, m2.class_site) == (("y", "z"), {"y"}, ("y", 3))
    stack = Generator(make_m1m2())
    assert stack.structure.latents == ("y", "z2", "z1")
    assert stack.unobserved.generative_edges == {("y", "z1"), ("z2", "z1"), ("z1", "x")}
    pcvae = Generator(make_cpcvae())
    assert (pcvae.structure.latents, pcvae.class_site) == (("z",), ("y", 3))
    plain = Generator(autoencoder)
    assert (plain.structure.latents, plain.code_names, plain.data_sites) == ((), ("z",), ("x",))


def test_what_depends_on_what(make_m1m2):
    generator = Generator(make_m1m2())
    assert generator.descendants("y") == {"z1", "x"}
    assert generator.descendants("z1") == {"x"}
    assert generator.unobserved.ancestors("x") == {"z1", "z2", "y"}
    assert generator.classes_behind("z1") == set()
    assert generator.classes_behind("z2") == {"y"}


def test_a_joined_pair_generates_as_its_owner_does(make_vae, binary_images):
    vae = make_vae()
    joined = Pair(vae.model, vae.guide)
    assert torch.equal(latent_means(joined, binary_images), latent_means(vae, binary_images))
    assert torch.equal(draw_latents(joined, 5)["z"], draw_latents(vae, 5)["z"])
    with pytest.raises(InputError, match="VAE has no classes"):
        num_classes(joined)
    with pytest.raises(InputError, match=r"latent_means\(vae, x, ...\)"):
        latent_means(vae.model, vae.guide, binary_images)


def test_the_default_latent_is_the_one_next_to_the_data(make_m2, make_m1m2, make_vae):
    assert code_site(make_m2()) == "z"
    assert code_site(make_m1m2()) == "z1"
    assert code_site(make_m1m2(), "z2") == "z2"
    for model, site in ((make_m2(), "y"), (make_m1m2(), "z"), (make_vae(), "z1")):
        with pytest.raises(InputError, match=f"has no continuous latent '{site}'; there are: 'z"):
            code_site(model, site)


def test_the_number_of_classes(make_m2, make_vae):
    assert num_classes(make_m2(classes=5)) == 5
    with pytest.raises(InputError, match="VAE has no classes: train m2, m1m2, pcvae or cpcvae"):
        num_classes(make_vae())
