"""VAE and autoencoder: the programs' sites, and training by both paths without one model touching
another."""

import copy

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO

import pyrovae
from pyrovae.data import to_levels
from pyrovae.evaluation import marginal_likelihood
from pyrovae.likelihoods.table import LIKELIHOODS
from pyrovae.models import Autoencoder
from pyrovae.networks import MLP
from pyrovae.objectives import ELBO
from pyrovae.recipes import About
from pyrovae.recipes import vae as vae_recipe

pytestmark = pytest.mark.cpu


def values(module):
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def moved(before, module):
    after = values(module)
    return [name for name in before if not torch.equal(before[name], after[name])]


def svi_of(vae):
    return SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 0.01}), Trace_ELBO())


def svi_step(svi, x, seed):
    torch.manual_seed(seed)
    return svi.step(x)


def fit(vae, x, seed, epochs=2):
    pyrovae.fit(vae, x, epochs=epochs, batch_size=10, seed=seed, progress=False)


# The programs


@pytest.mark.parametrize("particles", [(), (3,)], ids=str)
def test_model_and_guide_have_the_sites_of_their_diagram(make_vae, binary_images, particles):
    vae, n = make_vae(), len(binary_images)
    with pyro.plate_stack("particles", particles, rightmost_dim=-2):
        guide = poutine.trace(vae.guide).get_trace(binary_images)
        model = poutine.trace(poutine.replay(vae.model, guide)).get_trace(binary_images)
    assert set(guide.stochastic_nodes) - {"data", "particles_0"} == {"z"}
    assert set(model.stochastic_nodes) - {"data", "particles_0"} == {"z"}
    assert model.observation_nodes == ["x"]
    assert torch.equal(model.nodes["x"]["value"], binary_images)
    for trace in (guide, model):
        trace.compute_log_prob()
    for site in (guide.nodes["z"], model.nodes["z"], model.nodes["x"]):
        assert site["log_prob"].shape == (*particles, n)
        assert [frame.name for frame in site["cond_indep_stack"] if frame.dim == -1] == ["data"]


def test_the_programs_densities_are_those_of_the_components(make_vae, binary_images):
    vae = make_vae().double()
    x = binary_images.double()
    guide = poutine.trace(vae.guide).get_trace(x)
    model = poutine.trace(poutine.replay(vae.model, guide)).get_trace(x)
    z = guide.nodes["z"]["value"]
    joint = vae.prior().log_prob(z) + vae.likelihood(z).log_prob(x)
    torch.testing.assert_close(model.log_prob_sum(), joint.sum())
    torch.testing.assert_close(guide.log_prob_sum(), vae.posterior(x).log_prob(z).sum())


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_every_likelihood_trains_and_scores(likelihood, binary_images):
    x = to_levels(binary_images) if likelihood == "categorical" else binary_images
    vae = vae_recipe(About((1, 4, 4)), latent_dim=2, width=8, likelihood=likelihood).pair
    before = values(vae)
    fit(vae, x.float(), seed=0)
    assert moved(before, vae) == list(before)
    assert marginal_likelihood(vae, x.float(), num_samples=20).log_px.isfinite().all()


def test_the_autoencoders_bound_is_its_reconstruction_term(binary_images):
    likelihood = vae_recipe(About((1, 4, 4)), latent_dim=2, width=8).pair.likelihood
    model = Autoencoder(MLP((1, 4, 4), 2, hidden=(8,)), likelihood)
    objective = ELBO()
    bound = objective.evaluate(model, binary_images)
    by_hand = likelihood(model.encoder(binary_images)).log_prob(binary_images).sum()
    torch.testing.assert_close(-bound.loss, by_hand)
    torch.testing.assert_close(bound.terms["reconstruction"], by_hand.detach())
    assert bound.terms["kl"] == 0
    before = values(model)
    fit(model, binary_images, seed=0)
    assert moved(before, model) == list(before)


# Both paths of training


def test_svi_moves_every_parameter_and_raises_the_bound(make_vae, binary_images, param_store):
    vae = make_vae()
    before, svi = values(vae), svi_of(vae)
    losses = [svi.step(binary_images) for _ in range(150)]
    assert moved(before, vae) == list(before)
    assert sum(losses[-20:]) < sum(losses[:20])


def test_two_models_trained_in_turns_by_svi_equal_each_trained_alone(make_vae, binary_images, param_store):
    other_images = 1 - binary_images
    alone = []
    for seed, x in ((1, binary_images), (2, other_images)):
        vae = make_vae(seed)
        svi = svi_of(vae)
        for step in range(4):
            svi_step(svi, x, seed=step)
        alone.append(values(vae))
    first, second = make_vae(1), make_vae(2)
    svi_first, svi_second = svi_of(first), svi_of(second)
    for step in range(4):
        svi_step(svi_first, binary_images, seed=step)
        svi_step(svi_second, other_images, seed=step)
    assert same(values(first), alone[0])
    assert same(values(second), alone[1])
    assert moved(values(make_vae(2)), second) == list(alone[1])


def test_two_models_trained_in_turns_by_fit_equal_each_trained_alone(make_vae, binary_images):
    alone = []
    for seed in (1, 2):
        vae = make_vae(seed)
        for step in range(3):
            fit(vae, binary_images, seed=step)
        alone.append(values(vae))
    first, second = make_vae(1), make_vae(2)
    for step in range(3):
        fit(first, binary_images, seed=step)
        fit(second, binary_images, seed=step)
    assert same(values(first), alone[0])
    assert same(values(second), alone[1])
    assert moved(values(make_vae(2)), second) == list(alone[1])


def test_fit_does_not_disturb_a_model_under_svi(make_vae, binary_images, param_store):
    reference, vae, other = make_vae(1), make_vae(1), make_vae(2)
    svi_reference, svi = svi_of(reference), svi_of(vae)
    for step in range(3):
        svi_step(svi_reference, binary_images, seed=step)
    for step in range(3):
        svi_step(svi, binary_images, seed=step)
        fit(other, binary_images, seed=step)
    assert same(values(vae), values(reference))


def test_a_model_goes_on_by_fit_after_svi(make_vae, binary_images, param_store):
    vae = make_vae()
    svi = svi_of(vae)
    svi.step(binary_images)
    before = values(vae)
    fit(vae, binary_images, seed=0)
    assert moved(before, vae) == list(before)
    before = values(vae)
    svi.step(binary_images)
    assert moved(before, vae) == list(before)


def test_a_deepcopy_trains_apart_from_its_original_under_svi(make_vae, binary_images, param_store):
    vae = make_vae()
    svi_of(vae).step(binary_images)
    twin = copy.deepcopy(vae)
    original, svi = values(vae), svi_of(twin)
    assert same(original, values(twin))
    svi.step(binary_images)
    assert same(original, values(vae))
    assert moved(original, twin) == list(original)


@pytest.mark.parametrize(
    "run",
    [
        lambda vae, x: fit(vae, x, seed=0),
        lambda vae, x: marginal_likelihood(vae, x, num_samples=10),
        lambda vae, x: poutine.trace(vae.model).get_trace(x),
        lambda vae, x: ELBO().differentiable_loss(vae.model, vae.guide, x),
    ],
    ids=["fit", "marginal_likelihood", "trace", "ELBO"],
)
def test_the_parameter_store_is_left_alone(make_vae, binary_images, run, param_store):
    pyro.param("the caller's", torch.ones(2))
    run(make_vae(), binary_images)
    assert list(param_store.keys()) == ["the caller's"]


def test_a_frozen_part_stays_as_it_is_without_a_warning_on_both_paths(make_vae, binary_images, param_store):
    vae = make_vae()
    vae.posterior.requires_grad_(False)
    frozen, free = values(vae.posterior), values(vae.likelihood)
    fit(vae, binary_images, seed=0)
    svi_of(vae).step(binary_images)
    assert same(frozen, values(vae.posterior))
    assert moved(free, vae.likelihood) == list(free)


def test_fit_and_evaluation_do_not_depend_on_pyros_setting_of_local_parameters(make_vae, binary_images):
    usual, local = make_vae(), make_vae()
    fit(usual, binary_images, seed=0)
    usual_score = marginal_likelihood(usual, binary_images, num_samples=10)
    with pyro.settings.context(module_local_params=True):
        fit(local, binary_images, seed=0)
        local_score = marginal_likelihood(local, binary_images, num_samples=10)
    assert same(values(usual), values(local))
    assert torch.equal(usual_score.log_px, local_score.log_px)
