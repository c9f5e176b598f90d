"""What is about GPUs alone: `pytest -m cuda`. Without a GPU, see `test_another_device.py`."""

import pytest
import torch

from pyrovae import evaluation, generation, recipes
from pyrovae.errors import InputError
from pyrovae.evaluation.pareto import pareto_khat
from pyrovae.training import fit

pytestmark = pytest.mark.cuda

X = torch.rand(120, 1, 4, 4, generator=torch.Generator().manual_seed(0)).round()
Y = torch.arange(120) % 3


@pytest.mark.filterwarnings("ignore:k-hat")
@pytest.mark.parametrize(
    "recipe", ["vae", "hvae", "cvae", "ppca", "autoencoder", "m2", "m1m2", "pcvae", "cpcvae", "bnn"]
)
def test_a_recipe_trains_on_cuda_and_is_used_with_data_from_anywhere(recipe):
    build = getattr(recipes, recipe)
    known = recipes.options_of(build)
    small = {"width": 8, "latent_dim": 2, "vae_epochs": 1, "condition": "class"}
    with_classes = recipe in ("cvae", "m2", "m1m2", "pcvae", "cpcvae", "bnn")
    y = (Y if recipe in ("cvae", "bnn") else Y.where(X[:, 0, 0, 0] > 0, -1)) if with_classes else None
    plan = build(recipes.About.of(X, y), **{n: v for n, v in small.items() if n in known})
    fitted = plan.fit(
        X, y, training=recipes.Training(epochs=2, batch_size=50), device="cuda", progress=False
    )
    assert {value.device.type for value in fitted.pair.parameters()} == {"cuda"}
    if recipe in ("cvae", "bnn"):
        return
    for x in (X[:5], X[:5].cuda()):
        assert generation.reconstruct(fitted.pair, x).device == x.device
        if recipe != "autoencoder":
            found = evaluation.marginal_likelihood(fitted.pair, x, num_samples=40)
            assert found.log_px.device.type == "cpu"
            assert generation.samples(fitted.pair, 3).shape == (3, 1, 4, 4)


def test_khat_on_cuda_is_that_on_the_cpu():
    log_weights = 3 * torch.randn(1000, 300).double()
    log_weights[:, :20] = log_weights[:, :20].round()
    found = pareto_khat(log_weights.cuda())
    assert found.is_cuda
    torch.testing.assert_close(found.cpu(), pareto_khat(log_weights), atol=1e-9, rtol=1e-9, equal_nan=True)


def test_the_evidence_on_cuda_is_the_closed_forms(make_ppca, draw):
    ppca = make_ppca()
    x = draw(ppca, 1500)  # more than the data that are evaluated at once
    exact = ppca.log_evidence(x).detach()
    torch.testing.assert_close(ppca.cuda().log_evidence(x).detach(), exact)
    found = evaluation.marginal_likelihood(ppca, x, num_samples=500)
    errors = (found.log_px - exact) / found.std_error
    assert errors.abs().mean().item() == pytest.approx((2 / torch.pi) ** 0.5, abs=0.1)
    assert abs(found.mean - exact.mean()) < 4 * found.mean_std_error


def test_a_class_out_of_range_leaves_the_device_in_order(make_m2, binary_images, classes):
    m2, x = make_m2().cuda(), binary_images.double()
    classes[20] = 3
    for y in (classes, classes.cuda()):
        with pytest.raises(InputError, match="go up to 3"):
            fit(m2, x, y, epochs=1, device="cuda", progress=False)
        with pytest.raises(InputError, match="go up to 3"):
            evaluation.marginal_likelihood(m2, x, y, num_samples=40)
    assert torch.ones(3, device="cuda").sum().item() == 3
