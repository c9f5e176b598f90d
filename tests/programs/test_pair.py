"""The type of a pair: what is one, what is refused, and the line to write instead."""

import dataclasses

import pyro
import pyro.distributions as dist
import pytest
import torch

import pyrovae
from pyrovae.errors import InputError
from pyrovae.evaluation import gradient_variance, marginal_likelihood
from pyrovae.generation import latent_means, sample_images
from pyrovae.objectives import ELBO
from pyrovae.programs.checks import check_pair
from pyrovae.programs.pair import Pair, data_plate_of, is_pair, name_of_pair, programs_of, with_programs

pytestmark = pytest.mark.cpu


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def guide(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(x / 2, 0.5**0.5).to_event(1))


X = torch.tensor([[1.0, 2.0], [-1.0, 0.5]])


def test_whatever_has_model_and_guide_is_a_pair(make_vae):
    class Plain:
        model = staticmethod(model)
        guide = staticmethod(guide)

    assert is_pair(make_vae())
    assert is_pair(Pair(model, guide))
    assert is_pair(Plain)
    for other in (model, None, X, "vae", torch.nn.Linear(2, 2)):
        assert not is_pair(other)
    exact = torch.distributions.Normal(0.0, 2.0**0.5).log_prob(X).sum(1)
    for pair in (Pair(model, guide), Plain(), Plain):
        log_px = marginal_likelihood(pair, X, num_samples=5).log_px
        torch.testing.assert_close(log_px.float(), exact)  # the guide is exact


def test_a_joined_pair_does_not_change_and_keeps_its_plate():
    pair = Pair(model, guide, data_plate="data")
    with pytest.raises(dataclasses.FrozenInstanceError):
        pair.model = guide
    assert with_programs(pair, guide=model) == Pair(model, model, "data")
    assert (data_plate_of(pair), data_plate_of(model)) == ("data", None)
    assert programs_of(pair) == (model, guide)
    assert programs_of(model) == (model, None)


def test_a_pair_goes_by_the_name_of_its_model(make_vae):
    vae = make_vae()
    assert name_of_pair(vae) == name_of_pair(Pair(vae.model, guide)) == "VAE"


@pytest.mark.parametrize("role", ["model", "guide"])
def test_what_cannot_be_called_is_no_program(role):
    programs = {"model": model, "guide": guide} | {role: 3}
    with pytest.raises(InputError, match=f"the {role} of a Pair is a int; expected a Pyro program"):
        Pair(**programs)


def test_the_call_with_two_programs_is_answered_with_the_new_line(make_vae, binary_images):
    vae = make_vae()
    with pytest.raises(InputError, match=r"write fit\(vae, x, ...\) instead of fit\(vae.model, vae.guide,"):
        pyrovae.fit(vae.model, vae.guide, binary_images)
    with pytest.raises(InputError, match=r"marginal_likelihood\(Pair\(model, guide\), x, ...\)"):
        marginal_likelihood(model, guide, X)
    with pytest.raises(InputError, match=r"write sample_images\(vae, x, ...\)"):
        sample_images(vae.model, 3)
    with pytest.raises(InputError, match=r"latent_means takes a pair, .* a Tensor"):
        latent_means(X, vae)
    with pytest.raises(InputError, match=r"gradient_variance\(objective, Pair\(model, guide\), x, ...\)"):
        gradient_variance(ELBO(), model, guide, X)


def test_programs_in_each_others_place_are_named():
    with pytest.raises(InputError, match="in this order: model, guide"):
        check_pair(Pair(guide, model), X)
