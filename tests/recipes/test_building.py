"""Models by name: what recipes build, from which seed, and what they refuse."""

import pyro
import pytest
import torch

from pyrovae import likelihoods, networks
from pyrovae.errors import InputError
from pyrovae.likelihoods.table import LIKELIHOODS
from pyrovae.models import (
    CPCVAE,
    CVAE,
    M1M2,
    M2,
    PCVAE,
    PPCA,
    VAE,
    Autoencoder,
    BayesianNetwork,
    HierarchicalVAE,
)
from pyrovae.networks.table import NETWORKS
from pyrovae.objectives.table import OBJECTIVES
from pyrovae.posteriors.table import POSTERIORS
from pyrovae.priors.table import PRIORS
from pyrovae.recipes import RECIPES, About, Training, load_recipe, make_objective, options_of
from pyrovae.recipes.declaration import declaration_of
from pyrovae.training import fit

X_SHAPE = (3, 4, 4)
CLASSED = [name for name in RECIPES if declaration_of(load_recipe(name)).classes]


def plan(model="vae", x_shape=X_SHAPE, num_classes=3, seed=0, **options):
    recipe = load_recipe(model)
    known = options_of(recipe, options)
    small = {name: value for name, value in {"latent_dim": 2, "width": 8}.items() if name in known}
    return recipe(About(x_shape, num_classes, seed=seed), **(small | options))


def build(model="vae", *args, **options):
    return plan(model, *args, **options).pair


KINDS = {
    "vae": VAE, "hvae": HierarchicalVAE, "ppca": PPCA, "autoencoder": Autoencoder,
    "cvae": CVAE, "m2": M2, "m1m2": M1M2, "pcvae": PCVAE, "cpcvae": CPCVAE, "bnn": BayesianNetwork,
}  # fmt: skip


@pytest.mark.parametrize(("name", "kind"), KINDS.items())
def test_each_name_builds_its_model(name, kind):
    assert type(build(name)) is kind
    assert KINDS.keys() == RECIPES.keys()


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("likelihood", sorted({*LIKELIHOODS} - {"auto"}))
@pytest.mark.parametrize("model", ["vae", "autoencoder"])
def test_every_combination_makes_data_of_the_given_shape(model, likelihood, network):
    built = build(model, likelihood=likelihood, network=network)
    assert type(built.likelihood).__name__.lower() == likelihood.replace("-", "")
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
@pytest.mark.parametrize("likelihood", sorted({*LIKELIHOODS} - {"auto"}))
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


def test_the_vae_beneath_a_model_is_the_one_that_its_recipe_builds():
    options = {"latent_dim": 3, "width": 4}
    beneath = plan("m2", seed=5, **options).stages[0].pair
    alone = plan("vae", seed=5, **options).pair
    assert all(map(torch.equal, beneath.parameters(), alone.parameters()))


def test_sizes_are_those_asked_for():
    vae = build(latent_dim=5, width=16)
    assert vae.prior().event_shape == (5,)
    assert vae.likelihood.network.layers[0].weight.shape == (16, 5)
    assert vae.posterior.network.out_shape == (16,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "vea"}, "'vea'.* vae, hvae, .*, cpcvae.*'vae'"),
        ({"likelihood": "gauss"}, "likelihood 'gauss'.*'gaussian'"),
        ({"network": "transformer"}, "network 'transformer'.* mlp, gated, residual, conv"),
        ({"posterior": "planr"}, "posterior 'planr'.* normal, .*'planar'"),
        ({"prior": "vampire"}, "prior 'vampire'.* normal, .*'vamp'"),
        ({"prior": "vamp", "components": 0}, "components is 0.*at least 1"),
        ({"posterior": "iaf", "flow_steps": 0}, "flow_steps is 0.*at least 1"),
        ({"model": "ppca", "posterior": "iaf"}, "ppca has no option posterior"),
        ({"model": "autoencoder", "prior": "vamp"}, "autoencoder has no option prior"),
        ({"posterior": "normal", "flow_steps": 3}, "flow_steps needs posterior planar or "),
        ({"prior": "realnvp", "components": 7}, "components needs prior mixture or vamp"),
        ({"alpha": 3.0}, "vae has no option alpha.* m2 or m1m2"),
        ({"model": "m2", "prediction": 3.0}, "m2 has no option prediction.* pcvae or cpcvae"),
        ({"model": "pcvae", "consistency": 3.0}, "pcvae has no option consistency.* cpcvae"),
        ({"model": "cpcvae", "consistency": -1.0}, "consistency is -1.0.*at least 0"),
        ({"latent_dim": 0}, "latent_dim is 0.*at least 1"),
        ({"latent_dim": 2.5}, "latent_dim is 2.5.*whole number"),
        ({"width": -3}, "width is -3.*at least 1"),
        ({"depth": 3}, "vae 'depth'.*latent_dim"),
    ],
    ids=str,
)
def test_unknown_names_and_values_that_do_not_fit_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        build(**options)


def test_a_default_gaussian_starts_with_a_scale_of_1():
    assert build(likelihood="gaussian").likelihood(torch.zeros(1, 2)).stddev.unique().item() == 1
    assert isinstance(build("ppca").likelihood, likelihoods.Gaussian)


@pytest.mark.parametrize("model", RECIPES)
def test_no_parameter_of_a_built_model_is_idle(model):
    """fit refuses parameters that no gradient reaches."""
    options = {} if model in ("ppca", "bnn") else {"likelihood": "gaussian"}
    stages = plan(model, **options).stages
    y = torch.arange(8) % 3
    x = torch.rand(8, *X_SHAPE)
    for stage in stages:
        settings = stage.supervised(y) if stage.supervised else {}
        if stage.given is not None:
            settings["given"] = stage.given(x, y)
        history = fit(
            stage.pair,
            x if stage.transform is None else stage.transform(x),
            y if stage.classes else None,
            epochs=2,
            progress=False,
            device="cpu",
            **settings,
        )
        assert len(history.rows) == 2


@pytest.mark.parametrize("model", CLASSED)
def test_models_with_classes_need_two(model):
    with pytest.raises(InputError, match=f"num_classes is 1; {model} .* at least 2"):
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


@pytest.mark.parametrize("model", ["vae", "m2", "pcvae", "cpcvae", "hvae"])
@pytest.mark.parametrize("prior", PRIORS)
def test_each_prior_goes_into_each_model(model, prior):
    few = dict.fromkeys(PRIORS[prior].options, 7)
    built = build(model, prior=prior, latent_dim=4, **few)
    p = built.prior()
    assert (p.batch_shape, p.event_shape) == ((), (4,))
    assert p.log_prob(torch.zeros(5, 4)).shape == (5,)
    if prior == "vamp":
        assert built.prior.pseudo_inputs.shape == (7, *X_SHAPE)
        assert built.prior.posterior is (built.posterior2 if model == "hvae" else built.posterior)


@pytest.mark.parametrize("flow", [name for name, row in POSTERIORS.items() if row.options])
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
    bound = plan(likelihood="gaussian", objective=objective, **NUMBERS.get(objective, {}))
    history = bound.fit(
        torch.rand(8, *X_SHAPE), training=Training(epochs=2, validation_fraction=0.0), device="cpu"
    ).history
    assert len(history.rows) == 2


def test_the_importance_weighted_bound_has_as_many_draws_as_asked_for():
    iwae, dreg = make_objective("iwae", {"particles": 7}), make_objective("dreg", {"particles": 3})
    assert (iwae.num_particles, iwae.doubly_reparameterised) == (7, False)
    assert (dreg.num_particles, dreg.doubly_reparameterised) == (3, True)
    floors = [make_objective(f"free-bits{of}", {"free_bits": 0.3}) for of in ("", "-total")]
    assert [(floor.nats, floor.per) for floor in floors] == [(0.3, "dimension"), (0.3, "site")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "iwea"}, "objective 'iwea'.* elbo, .*'iwae'"),
        ({"objective": "iwae", "particles": 0}, "particles is 0.*at least 1"),
        ({"objective": "elbo", "free_bits": 0.1}, "free_bits needs objective free-bits or "),
        ({"objective": "iwae"}, "'iwae'.*set particles"),
        ({"objective": "dreg"}, "'dreg'.*set particles"),
        ({"objective": "free-bits"}, "'free-bits' .*set free_bits"),
        ({"objective": "free-bits-total"}, "'free-bits-total' .*set free_bits"),
        ({"objective": "free-bits", "free_bits": -1.0}, "free_bits is -1.0.*at least 0"),
        ({"objective": "free-bits", "particles": 2}, "particles needs objective elbo or "),
        ({"model": "m2", "objective": "iwae"}, "m2 has no option objective"),
    ],
    ids=str,
)
def test_objectives_that_there_are_not_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        build(**options)


EVERYTHING = [{"model": name} for name in RECIPES]
EVERYTHING += [{"posterior": name} for name in POSTERIORS] + [{"prior": name} for name in PRIORS]
EVERYTHING += [{"likelihood": name} for name in LIKELIHOODS] + [{"network": name} for name in NETWORKS]
EVERYTHING += [{"objective": name} | NUMBERS.get(name, {}) for name in OBJECTIVES]


@pytest.mark.parametrize("choice", EVERYTHING, ids=lambda choice: "-".join(map(str, choice.values())))
def test_everything_computes_where_the_data_are(choice):
    """On torch's device without memory, whose tensors do not mix with the CPU's, as a GPU's do not."""
    made = plan(x_shape=(1, 8, 8), **choice)
    made.pair.to("meta")
    x, y = torch.zeros(6, 1, 8, 8, device="meta"), torch.zeros(6, dtype=torch.long)
    stage = made.stages[-1]
    settings = stage.supervised(y) if stage.supervised else {}
    objective = settings.get("objective") or stage.objective or make_objective("elbo", {})
    pair = stage.pair if stage.transform is None else made.pair  # M1+M2: both layers, on images
    given = {} if stage.given is None else stage.given(torch.zeros(6, 1, 8, 8), y)
    given = {name: value.to("meta") for name, value in given.items()}
    for call in [(x,), (x, y.to("meta"))] if stage.classes else [(x,)]:
        with pyro.validation_enabled(False):
            bound = objective.evaluate(pair, *call, **given)
        for name, value in {"loss": bound.loss, **bound.terms}.items():
            assert value.device.type == "meta", name
