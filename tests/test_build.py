"""Models by name: what is built, from which seed, and which names are refused."""

import pyro
import pytest
import torch
from pyrovae.recipes.build import (
    CLASSED,
    FLOWS,
    LIKELIHOODS,
    MODELS,
    NETWORKS,
    OBJECTIVES,
    POSTERIORS,
    PRIORS,
    build_model,
    build_objective,
)

from pyrovae import likelihoods, networks
from pyrovae.errors import InputError, check_choice
from pyrovae.models import CPCVAE, M1M2, M2, PCVAE, PPCA, VAE, Autoencoder, HierarchicalVAE
from pyrovae.objectives import SupervisedELBO
from pyrovae.semi_supervised import Supervision, training_task
from pyrovae.training import fit

X_SHAPE = (3, 4, 4)


def build(model="vae", x_shape=X_SHAPE, **options):
    return build_model(model, x_shape, **{"latent_dim": 2, "width": 8, "num_classes": 3} | options)


KINDS = {
    "vae": VAE, "hvae": HierarchicalVAE, "ppca": PPCA, "autoencoder": Autoencoder,
    "m2": M2, "m1m2": M1M2, "pcvae": PCVAE, "cpcvae": CPCVAE,
}  # fmt: skip


@pytest.mark.parametrize(("name", "kind"), KINDS.items())
def test_each_name_builds_its_model(name, kind):
    assert type(build(name)) is kind
    assert KINDS.keys() == MODELS.keys()


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("model", ["vae", "autoencoder"])
def test_every_combination_makes_data_of_the_given_shape(model, likelihood, network):
    built = build(model, likelihood=likelihood, network=network)
    assert type(built.likelihood) is LIKELIHOODS[likelihood]
    assert built.likelihood(torch.zeros(5, 2)).event_shape == X_SHAPE
    encoder = built.encoder if model == "autoencoder" else built.posterior
    code = encoder(torch.zeros(5, *X_SHAPE))
    assert (code if model == "autoencoder" else code.mean).shape == (5, 2)


@pytest.mark.parametrize(
    ("network", "kinds"),
    [
        ("mlp", (networks.MLP, networks.MLP)),
        ("gated", (networks.GatedMLP, networks.GatedMLP)),
        ("residual", (networks.ResidualMLP, networks.ResidualMLP)),
        ("conv", (networks.ConvEncoder, networks.ConvDecoder)),
    ],
)
def test_each_network_name_builds_its_networks(network, kinds):
    vae = build(network=network)
    assert (type(vae.posterior.network), type(vae.likelihood.network)) == kinds


@pytest.mark.parametrize("network", ["mlp", "residual"])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_vectors_have_the_same_models(network, likelihood):
    vae = build(x_shape=(6,), network=network, likelihood=likelihood)
    assert vae.likelihood(torch.zeros(5, 2)).event_shape == (6,)


def test_a_convolution_of_vectors_is_refused():
    with pytest.raises(InputError, match=r"\(6,\)|image"):
        build(x_shape=(6,), network="conv")


def test_parameters_depend_on_the_seed_alone_and_the_callers_stream_stays():
    before = torch.get_rng_state()
    one, two, other = build(seed=1), build(seed=1), build(seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(map(torch.equal, one.parameters(), two.parameters()))
    assert not torch.equal(next(one.parameters()), next(other.parameters()))


def test_sizes_are_those_asked_for():
    vae = build(latent_dim=5, width=16)
    assert vae.prior().event_shape == (5,)
    assert vae.likelihood.network.layers[0].weight.shape == (16, 5)
    assert vae.posterior.network.out_shape == (16,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"model": "vea"},
            "unknown model 'vea'; there are vae, hvae, .*, cpcvae. Did you mean 'vae'",
        ),
        ({"likelihood": "gauss"}, "unknown likelihood 'gauss'.*Did you mean 'gaussian'"),
        ({"network": "transformer"}, "unknown network 'transformer'; there are mlp, gated, residual, conv"),
        ({"posterior": "planr"}, "unknown posterior 'planr'; there are normal, .*Did you mean 'planar'"),
        ({"prior": "vampire"}, "unknown prior 'vampire'; there are normal, .*Did you mean 'vamp'"),
        ({"components": 0}, "components is 0; it must be at least 1"),
        ({"posterior": "iaf", "flow_steps": 0}, "steps is 0; it must be a whole number of at least 1"),
        ({"model": "ppca", "posterior": "iaf"}, "posterior is 'iaf', but ppca has its own: leave"),
        ({"model": "autoencoder", "prior": "vamp"}, "prior is 'vamp', but autoencoder has its own: leave"),
        ({"posterior": "normal", "flow_steps": 3}, "flow_steps is 3, but the posterior 'normal' has no"),
        ({"prior": "realnvp", "components": 7}, "components is 7, but the prior 'realnvp' has none"),
        ({"latent_dim": 0}, "latent_dim is 0; it must be at least 1"),
        ({"width": -3}, "width is -3; it must be at least 1"),
    ],
    ids=str,
)
def test_unknown_names_and_sizes_below_1_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        build(**options)


def test_nothing_is_suggested_where_nothing_is_near():
    with pytest.raises(InputError) as caught:
        check_choice("model", "xyzzy", MODELS)
    assert "Did you mean" not in str(caught.value)


def test_a_default_gaussian_starts_with_a_scale_of_1():
    assert build(likelihood="gaussian").likelihood(torch.zeros(1, 2)).stddev.unique().item() == 1
    assert isinstance(build("ppca").likelihood, likelihoods.Gaussian)


@pytest.mark.parametrize("model", MODELS)
def test_no_parameter_of_a_built_model_is_idle(model):
    """fit refuses parameters that no gradient reaches."""
    built = build(model, likelihood="gaussian")
    y = torch.arange(8) % 3 if model in CLASSED else None
    x = torch.rand(8, *X_SHAPE)
    history = fit(
        built, x, y, epochs=2, progress=False, device="cpu",
        objective=SupervisedELBO(1.0) if model in ("m2", "m1m2") else None,
    )  # fmt: skip
    assert len(history.rows) == 2


@pytest.mark.parametrize("model", CLASSED)
def test_models_with_classes_need_two(model):
    with pytest.raises(InputError, match=f"num_classes is 1; {model} needs at least 2"):
        build(model, num_classes=1)


def test_the_class_prior_is_learned_when_asked():
    assert not build("m2").class_prior.logits.requires_grad
    assert build("m2", learn_class_prior=True).class_prior.logits.requires_grad


@pytest.mark.parametrize("model", ["vae", "m2", "pcvae", "cpcvae"])
@pytest.mark.parametrize("posterior", POSTERIORS)
def test_each_posterior_goes_into_each_model(model, posterior):
    built = build(model, posterior=posterior, latent_dim=4)
    context = (torch.rand(5, *X_SHAPE), torch.zeros(5, dtype=torch.long))[: 2 if model == "m2" else 1]
    q = built.posterior(*context)
    assert (q.batch_shape, q.event_shape) == ((5,), (4,))
    assert q.log_prob(q.rsample()).shape == (5,)
    if posterior in FLOWS:
        assert type(built.posterior.flow) is type(FLOWS[posterior](4))


@pytest.mark.parametrize("model", ["vae", "m2", "pcvae", "cpcvae", "hvae"])
@pytest.mark.parametrize("prior", PRIORS)
def test_each_prior_goes_into_each_model(model, prior):
    few = {"components": 7} if prior in ("mixture", "vamp") else {}
    built = build(model, prior=prior, latent_dim=4, **few)
    assert type(built.prior) is PRIORS[prior]
    p = built.prior()
    assert (p.batch_shape, p.event_shape) == ((), (4,))
    assert p.log_prob(torch.zeros(5, 4)).shape == (5,)
    if prior == "vamp":
        assert built.prior.pseudo_inputs.shape == (7, *X_SHAPE)
        assert built.prior.posterior is (built.posterior2 if model == "hvae" else built.posterior)


@pytest.mark.parametrize("flow", FLOWS)
def test_a_flow_has_as_many_steps_as_asked_for(flow):
    few, many = (
        sum(p.numel() for p in build(posterior=flow, latent_dim=4, flow_steps=steps).parameters())
        for steps in (1, 3)
    )
    assert few < many


def test_a_vampprior_of_grey_levels_has_pseudo_inputs_among_them():
    prior = build(prior="vamp", likelihood="categorical", components=7).prior
    assert 0 < prior.pseudo_inputs.min() < 127 < prior.pseudo_inputs.max() < 255


# What an objective cannot do without.
NUMBERS = {
    "iwae": {"particles": 3},
    "dreg": {"particles": 3},
    "free-bits": {"free_bits": 0.5},
    "free-bits-total": {"free_bits": 0.5},
}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_each_objective_trains(objective):
    vae = build(likelihood="gaussian")
    history = fit(
        vae,
        torch.rand(8, *X_SHAPE),
        epochs=2,
        objective=build_objective(objective, **NUMBERS.get(objective, {})),
        progress=False,
        device="cpu",
    )
    assert len(history.rows) == 2


def test_the_importance_weighted_bound_has_as_many_draws_as_asked_for():
    iwae, dreg = build_objective("iwae", particles=7), build_objective("dreg", particles=3)
    assert (iwae.num_particles, iwae.doubly_reparameterised) == (7, False)
    assert (dreg.num_particles, dreg.doubly_reparameterised) == (3, True)
    floors = [build_objective(f"free-bits{of}", free_bits=0.3) for of in ("", "-total")]
    assert [(floor.nats, floor.per) for floor in floors] == [(0.3, "dimension"), (0.3, "site")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "iwea"}, "unknown objective 'iwea'; there are elbo, .*Did you mean 'iwae'"),
        ({"objective": "iwae", "particles": 0}, "particles is 0; it must be at least 1"),
        (
            {"objective": "elbo", "free_bits": 0.1},
            "free_bits is 0.1, which the objective 'elbo' has no use",
        ),
        ({"objective": "iwae"}, "'iwae' with one draw is the ELBO: set particles"),
        ({"objective": "dreg"}, "'dreg' with one draw is the ELBO: set particles"),
        ({"objective": "free-bits"}, "'free-bits' needs its floor: set free_bits"),
        ({"objective": "free-bits-total"}, "'free-bits-total' needs its floor: set free_bits"),
        ({"objective": "free-bits", "free_bits": -1.0}, "nats is -1.0; a floor"),
        ({"objective": "free-bits", "particles": 2}, "particles is 2; the objective 'free-bits' takes one"),
    ],
    ids=str,
)
def test_objectives_that_there_are_not_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        build_objective(**options)


EVERYTHING = [{"model": name} for name in MODELS]
EVERYTHING += [{"posterior": name} for name in POSTERIORS] + [{"prior": name} for name in PRIORS]
EVERYTHING += [{"likelihood": name} for name in LIKELIHOODS] + [{"network": name} for name in NETWORKS]
EVERYTHING += [{"objective": name} for name in OBJECTIVES]


@pytest.mark.parametrize("choice", EVERYTHING, ids=lambda choice: "-".join(*choice.items()))
def test_everything_computes_where_the_data_are(choice):
    """On torch's device without memory, whose tensors do not mix with the CPU's, as a GPU's do not."""
    options = {"model": "vae", "objective": "elbo"} | choice
    name = options.pop("objective")
    objective = build_objective(name, **NUMBERS.get(name, {}))
    built = build(options.pop("model"), (1, 8, 8), **options).to("meta")
    x, y = torch.zeros(6, 1, 8, 8, device="meta"), torch.zeros(6, dtype=torch.long)
    task = training_task(built, y if choice.get("model") in CLASSED else None, Supervision(), jointly=True)
    calls = [(x,), (x, y.to("meta"))] if choice.get("model") in CLASSED else [(x,)]
    for call in calls:
        with pyro.validation_enabled(False):
            bound = (task.objective or objective).evaluate(task, *call)
        for name, value in {"loss": bound.loss, **bound.terms}.items():
            assert value.device.type == "meta", name
