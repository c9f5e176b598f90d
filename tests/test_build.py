"""Models by name: what is built, from which seed, and which names are refused."""

import pytest
import torch

from pyrovae import likelihoods, networks
from pyrovae.build import CLASSED, LIKELIHOODS, MODELS, NETWORKS, build_model, check_choice
from pyrovae.errors import InputError
from pyrovae.models import CPCVAE, M1M2, M2, PCVAE, PPCA, VAE, Autoencoder
from pyrovae.objectives import SupervisedELBO
from pyrovae.training import fit

X_SHAPE = (3, 4, 4)


def build(model="vae", x_shape=X_SHAPE, **options):
    return build_model(model, x_shape, **{"latent_dim": 2, "width": 8, "num_classes": 3} | options)


KINDS = {
    "vae": VAE, "ppca": PPCA, "autoencoder": Autoencoder,
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
            "unknown model 'vea'; there are vae, ppca, .*, cpcvae. Did you mean 'vae'",
        ),
        ({"likelihood": "gauss"}, "unknown likelihood 'gauss'.*Did you mean 'gaussian'"),
        ({"network": "transformer"}, "unknown network 'transformer'; there are mlp, residual, conv"),
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
        built.model, built.guide, x, y, epochs=2, progress=False, device="cpu",
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
