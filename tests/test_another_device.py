"""Models on one device and data on another: everything runs, and results come back; see `elsewhere`."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from elsewhere import DEVICE, DeviceSideAssertion, another_device
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import nn

from pyrovae import evaluation, generation, plots, recipes
from pyrovae.diagrams import plate_diagram
from pyrovae.errors import InputError
from pyrovae.objectives import ELBO, IWAE
from pyrovae.priors import VampPrior
from pyrovae.programs import Pair, Whole
from pyrovae.programs.devices import move_to
from pyrovae.programs.structure import structure
from pyrovae.semi_supervised import decoder_scales, spread_labels
from pyrovae.training import fit

CPU = torch.device("cpu")
WAYS = pytest.mark.parametrize("of_model", [CPU, DEVICE], ids=["model here", "model there"])


@pytest.fixture(autouse=True)
def there():
    with another_device() as device:
        yield device


def other(device):
    return DEVICE if device == CPU else CPU


def train(pair, x, y=None, **settings):
    return fit(pair, x, y, **({"epochs": 1, "batch_size": 8, "progress": False} | settings))


# Data on one device, the model on the other


FIGURES = {
    "evidence": lambda m, x: evaluation.marginal_likelihood(m, x, num_samples=40).khat,
    "evidence by the prior": lambda m, x: evaluation.prior_marginal_likelihood(m, x, num_samples=40).ess,
    "gaps": lambda m, x: evaluation.inference_gaps(m, x, num_samples=40, steps=2).khat,
    "units": lambda m, x: evaluation.active_units(m, x).variances["z"],
    "gradients": lambda m, x: evaluation.gradient_variance(ELBO(), m, x, repeats=2).mean[
        "posterior.loc.bias"
    ],
    "the exact evidence": lambda m, x: m.log_evidence(x),
}


@pytest.mark.parametrize("figure", FIGURES)
@pytest.mark.filterwarnings("ignore:k-hat")
def test_figures_are_64_bit_numbers_on_the_cpu(figure, make_ppca, draw):
    ppca = make_ppca().float()
    x = draw(ppca, 6).float()
    found = FIGURES[figure](ppca.to(DEVICE), x)
    assert (found.device, found.dtype) == (CPU, torch.float64)


VALUES = {
    "codes": lambda m, x: generation.latent_codes(m, x)["z"],
    "draws of the posterior": generation.posterior_draws,
    "reconstructions": generation.reconstruct,
    "lines": lambda m, x: generation.interpolate(m, x[:2], x[2:4].cpu(), 3),
    "a traversal": lambda m, x: generation.traverse(m, x[0]),
    "grey values": generation.as_grey,
    "images of codes": lambda m, x: generation.images_of(m, {"z": x.new_zeros(3, 2)}),
    "decoded": lambda m, x: generation.decode(m, x.new_zeros(3, 2)),
    "the prior's density": lambda m, x: generation.prior_density(m, x[:, 0]),
    "scales": lambda m, x: decoder_scales(m, x.new_zeros(3, 2)),
    "imputed": lambda m, x: evaluation.impute(m, x, x.cpu() > -1, num_samples=30, num_draws=2).draws,
}


@WAYS
@pytest.mark.parametrize("value", VALUES)
@pytest.mark.filterwarnings("ignore:k-hat")
def test_values_come_back_to_where_the_data_were(of_model, value, make_ppca, draw):
    ppca = make_ppca()
    x = draw(ppca, 6)
    expected = VALUES[value](ppca, x)
    found = VALUES[value](ppca.to(of_model), x.to(other(of_model)))
    assert found.device == other(of_model)
    torch.testing.assert_close(found.cpu(), expected)


@WAYS
def test_parts_of_the_kl_are_those_on_one_device(of_model, make_vae, binary_images):
    vae, x = make_vae(), binary_images[:6]
    expected = evaluation.kl_decomposition(vae, x, num_samples=2)
    found = evaluation.kl_decomposition(vae.to(of_model), x.to(other(of_model)), num_samples=2)
    assert found.average_kl == pytest.approx(expected.average_kl, rel=1e-5)
    torch.testing.assert_close(found.per_dimension, expected.per_dimension)


def test_what_is_drawn_without_data_is_on_the_cpu(make_vae):
    vae = make_vae().to(DEVICE)
    assert generation.samples(vae, 2).device == CPU
    assert generation.draw_latents(vae, 2)["z"].device == CPU
    assert generation.prior_quantiles(vae, [0.5], draws=10).device == CPU


@WAYS
def test_a_model_of_classes_takes_data_and_classes_from_anywhere(of_model, make_m2, binary_images, classes):
    x, y = binary_images[:6].double().to(other(of_model)), classes[:6]
    m2 = make_m2().to(of_model)
    assert evaluation.class_probabilities(m2, x).device == x.device
    assert evaluation.classify(m2, x, y).probabilities.device == CPU
    assert evaluation.class_posterior(m2, x, 3, num_samples=30).device == CPU
    assert structure(m2, x, y).observed == ("y", "x")
    assert plots.confusion(m2, x, y).axes


def test_images_of_classes_come_back_to_where_the_data_were(make_m2, binary_images, classes):
    m2, x = make_m2().to(DEVICE), binary_images[:3].double().to(DEVICE)
    assert generation.analogies(m2, x).device == DEVICE
    assert generation.samples_of_classes(m2, classes[:2].to(DEVICE)).device == DEVICE
    assert "y" in str(plate_diagram(m2, x, classes[:3]))
    assert plots.analogies(m2, x).axes


@WAYS
def test_figures_are_drawn_of_data_anywhere(of_model, make_vae, binary_images):
    vae, x = make_vae().to(of_model), binary_images.to(other(of_model))
    y = torch.arange(24, device=x.device) % 3
    assert plots.reconstructions(vae, x, 2, original=x).axes
    assert plots.latents(vae, x, y).axes
    assert plots.histograms(vae, x, y).axes
    assert plots.traversal(vae, x, dimensions=1).axes
    assert plots.image_grid(x[None, :3]).axes
    assert plots.confusion_matrix(y, y.cpu()).axes


def test_results_of_models_on_two_devices_are_compared(make_ppca, draw):
    here, there = make_ppca(), make_ppca(spread=1.5).to(DEVICE)
    x = draw(here, 6)
    results = {
        str(n): evaluation.marginal_likelihood(m, x, num_samples=60) for n, m in enumerate((here, there))
    }
    assert evaluation.compare(results).num_data == 6


@WAYS
def test_the_closed_form_is_fitted_to_data_anywhere(of_model, make_ppca, draw):
    ppca = make_ppca()
    x = draw(ppca, 50)
    ppca.fit_closed_form(x)
    expected = ppca.log_evidence(x)
    ppca.to(of_model).fit_closed_form(x.to(other(of_model)))
    torch.testing.assert_close(ppca.log_evidence(x.to(other(of_model))), expected)


def test_labels_spread_and_dimensions_are_ranked_on_any_device():
    z, y = torch.randn(12, 2), torch.tensor([0, 1, *[-1] * 10])
    assert spread_labels(z.to(DEVICE), y.to(DEVICE), 3).device == DEVICE
    y = torch.arange(12) % 2
    assert evaluation.most_telling_dimensions(z.to(DEVICE), y, 2) == evaluation.most_telling_dimensions(
        z, y, 2
    )


# Training moves what belongs to the programs


def test_training_leaves_pyros_svi_with_data_on_the_cpu(make_vae, binary_images, param_store):
    vae = make_vae()
    train(vae, binary_images, device=DEVICE)
    for loss in (Trace_ELBO(), IWAE(3)):
        svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), loss)
        assert svi.step(binary_images) > 0


@pytest.mark.parametrize(
    ("recipe", "options"),
    [
        ("vae", {"prior": "vamp", "components": 5}),
        ("bnn", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_steps_of_a_recipe_and_its_gradients_keep_to_one_device(recipe, options):
    x, y = torch.rand(20, 1, 4, 4).round(), torch.arange(20) % 3
    labels = y if recipe == "bnn" else None
    plan = getattr(recipes, recipe)(recipes.About.of(x, labels), width=8, **options)
    fitted = plan.fit(
        x, labels, training=recipes.Training(epochs=1, batch_size=10), device=str(DEVICE), progress=False
    )
    assert {value.device for value in fitted.pair.parameters()} == {DEVICE}
    assert fitted.history.rows[0]["loss"] > 0


def test_the_modules_of_a_transform_move_too(make_m1m2, binary_images, classes):
    stack = make_m1m2().float()
    assert stack.draw_z1(binary_images).device == CPU
    classes[::2] = -1
    train(stack.m2, binary_images, classes, transform=stack.draw_z1, device=DEVICE, batch_size=12)
    assert next(stack.vae.parameters()).device == DEVICE
    assert stack.draw_z1(binary_images).device == CPU
    small = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).requires_grad_(False)
    train(stack.m2, binary_images, classes, transform=small, device=DEVICE, batch_size=12)
    assert small[1].weight.device == DEVICE


def test_a_prior_that_has_the_posterior_moves(make_vae, binary_images):
    vae = make_vae()
    vae.prior = VampPrior(vae.posterior, (1, 4, 4), 5)
    vae.prior.start_at(binary_images)
    train(vae, binary_images, device=DEVICE)
    vae.prior.start_at(binary_images)
    vae.likelihood.start_at_marginals(binary_images)
    assert vae.prior.free.device == DEVICE


@pytest.mark.filterwarnings("ignore:k-hat")
def test_the_network_of_ones_own_guide_moves(make_vae, binary_images):
    vae, head = make_vae(), nn.Linear(16, 4)

    def guide(x):
        loc, log_scale = head(x.flatten(1)).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))

    pair = Pair(vae.model, guide)
    train(pair, binary_images, device=DEVICE)
    assert head.weight.device == DEVICE
    assert evaluation.marginal_likelihood(pair, binary_images[:3], num_samples=40).log_px.device == CPU
    assert generation.reconstruct(pair, binary_images).device == CPU


def regression(x, y, table=None):
    scale = 1.0 if table is None else table["scales"][0]
    w = pyro.sample("w", dist.LogNormal(x.new_zeros(2), x.new_ones(2)).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x @ w, scale), obs=y)


def test_an_autoguide_that_remembers_a_run_elsewhere_goes_on(param_store):
    x = torch.randn(20, 2)
    guide = AutoNormal(regression)
    guide(x, x.sum(1))
    scales = {name: value.clone().detach() for name, value in guide.named_parameters()}
    train(Pair(regression, guide), x, x.sum(1), device=DEVICE, batch_size=20)
    assert {value.device for value in guide.parameters()} == {DEVICE}
    assert max((v.cpu() - scales[n]).abs().max() for n, v in guide.named_parameters()) < 0.01


def test_tensors_in_what_is_given_whole_move(param_store):
    x = torch.randn(20, 2)
    guide = AutoNormal(regression)
    given = {"table": Whole({"scales": [torch.tensor(0.5)]})}
    train(Pair(regression, guide), x, x.sum(1), given=given, device=DEVICE, batch_size=20)


def test_parameters_in_pyros_store_move(param_store):
    def model(x):
        mean = pyro.param("mean", lambda: x.new_zeros(2))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)

    x = torch.randn(20, 2)
    pair = Pair(model, lambda x: None)
    train(pair, x, device="cpu")
    move_to(torch.device("cpu"), pair)
    assert pyro.param("mean").device == CPU


def test_a_tensor_that_stays_behind_is_told_of(make_vae, binary_images):
    vae, shift = make_vae(), torch.ones(1, 4, 4)
    pair = Pair(lambda x: vae.model(x * shift.to(x)), lambda x: vae.guide(x + shift))
    with pytest.raises(InputError, match=r"another tensor that the programs use: make it from the data"):
        train(pair, binary_images, device=DEVICE)


# Indices


class WithTable(nn.Module):
    """A model of one's own that looks up a table by what is given."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(3, 2)

    def model(self, x, c):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.table(c), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(self, x, c):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal((x + self.table.weight[c]) / 2, 0.7).to_event(1))


CALLS = {
    "training": lambda m, x, c: train(m, x, given={"c": c}, device=DEVICE),
    "evidence": lambda m, x, c: evaluation.marginal_likelihood(m, x, given={"c": c}, num_samples=40),
    "kl": lambda m, x, c: evaluation.kl_decomposition(m, x, given={"c": c}),
    "units": lambda m, x, c: evaluation.active_units(m, x, given={"c": c}),
    "samples": lambda m, x, c: generation.samples(m, len(c), given={"c": c}),
    "means": lambda m, x, c: generation.latent_means(m, x, given={"c": c}),
}


@pytest.mark.parametrize("call", CALLS)
def test_an_index_out_of_range_reaches_no_kernel(call):
    module, x, c = WithTable(), torch.randn(40, 2), torch.arange(40) % 3
    move_to(DEVICE, module)
    c[37] = 3
    with pytest.raises((InputError, IndexError), match=r"indices go from \d to 3, and there are 3 places"):
        CALLS[call](module, x, c)


LABELLED = {
    "training": lambda m, x, y: train(m, x, y, device=DEVICE),
    "evidence": lambda m, x, y: evaluation.marginal_likelihood(m, x, y, num_samples=40),
    "gaps": lambda m, x, y: evaluation.inference_gaps(m, x, y, num_samples=40, steps=1),
    "classification": evaluation.classify,
    "images": lambda m, x, y: generation.samples_of_classes(m, y),
    "validation": lambda m, x, y: train(m, x, y % 3, validation=(x, y), device=DEVICE),
    "images of codes": lambda m, x, y: generation.images_of(m, {"z": torch.zeros(len(y), 2), "y": y}),
}


@pytest.mark.parametrize(
    ("call", "of_labels"), [*((call, DEVICE) for call in LABELLED), ("training", CPU), ("evidence", CPU)]
)
def test_a_class_out_of_range_reaches_no_kernel(call, of_labels, make_m2, binary_images, classes):
    classes[20] = 3
    m2 = make_m2().to(DEVICE)
    with pytest.raises((InputError, IndexError), match=r"class|index"):
        LABELLED[call](m2, binary_images.double(), classes.to(of_labels))


def test_pyros_svi_refuses_a_class_out_of_range(make_m2, binary_images, classes, param_store):
    classes[20] = 3
    m2 = make_m2().to(DEVICE)
    svi = SVI(m2.model, m2.guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
    with pytest.raises(InputError, match="the classes go from 0 to 3"):
        svi.step(binary_images.double(), classes)


def test_a_kernel_that_is_given_such_an_index_ends_the_test():
    table = torch.zeros(3, 2, device=DEVICE)
    with pytest.raises(DeviceSideAssertion):
        nn.functional.embedding(torch.tensor([3], device=DEVICE), table)
