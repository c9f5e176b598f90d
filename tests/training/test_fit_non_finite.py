"""Numbers that go bad on the way."""

import math

import pyro.distributions as dist
import pytest
import torch
from torch import nn
from training_helpers import X_SHAPE, AtCall, presentations, train, vae_with

from pyrovae.errors import NonFiniteError
from pyrovae.networks import MLP
from pyrovae.posteriors import DiagonalNormal

pytestmark = pytest.mark.cpu


class Spoiled(nn.Module):
    """A component whose distribution's first mean is bad once `spoiled` is set."""

    def __init__(self, component, value):
        super().__init__()
        self.component, self.value, self.spoiled = component, value, False

    def forward(self, *context):
        normal = self.component(*context)
        if not self.spoiled:
            return normal
        loc = normal.mean.clone()
        loc[..., 0] = self.value
        return dist.Normal(loc, normal.stddev).to_event(normal.event_dim)


@pytest.mark.parametrize("value", [math.nan, math.inf], ids=["nan", "inf"])
@pytest.mark.parametrize(
    ("part", "role", "site"),
    [("posterior", "guide", "z"), ("prior", "model", "z"), ("likelihood", "model", "x")],
)
def test_a_loss_that_goes_bad_names_step_site_and_statistics(
    part, role, site, value, binary_images, tmp_path
):
    vae = vae_with()
    component = Spoiled(getattr(vae, part), value)
    setattr(vae, part, component)

    def beta(epoch):  # asked before each step
        component.spoiled |= abs(3 * epoch - 4) < 1e-6
        return 1.0

    with pytest.raises(NonFiniteError) as caught:
        train(vae, binary_images, beta=beta, folder=tmp_path, epochs=3)
    message = str(caught.value)
    assert (
        f"the loss of step 4 is not finite; the first bad numbers are at the {role}'s site '{site}'"
        in message
    )
    assert "(Normal)" in message
    bad = "NaN" if math.isnan(value) else "infinite"
    assert any(
        f" {bad}" in line and f" 0 {bad}" not in line for line in message.splitlines() if "loc: " in line
    )
    assert "Lower the learning rate, clip the gradient's norm" in message
    resumed = vae_with()
    setattr(resumed, part, Spoiled(getattr(resumed, part), value))
    history = train(resumed, binary_images, folder=tmp_path, resume=True, epochs=1)
    assert history["epoch"] == [1]
    assert all(value.isfinite().all() for value in resumed.state_dict().values())


def test_a_parameter_that_becomes_infinite_is_traced_to_its_site(make_vae, binary_images, tmp_path):
    vae = make_vae()

    @torch.no_grad()
    def break_decoder(x):
        vae.likelihood.network.layers[-1].bias[0] = math.inf
        return x

    transform = AtCall(presentations(binary_images, 10) + 5, break_decoder)
    with pytest.raises(NonFiniteError, match=r"step 4 .*the model's site 'x' \(Bernoulli\)"):
        train(vae, binary_images, transform=transform, folder=tmp_path)
    resumed = make_vae()
    harmless = AtCall(transform.number, lambda x: x)
    train(resumed, binary_images, transform=harmless, folder=tmp_path, resume=True, epochs=1)
    assert all(value.isfinite().all() for value in resumed.state_dict().values())


def test_a_validation_bound_that_goes_bad_stops_the_run(make_vae, binary_images, tmp_path):
    vae = make_vae()
    network, spoilt = vae.likelihood.network, []
    network.register_forward_hook(
        lambda module, args, output: output * math.nan if spoilt and not module.training else output
    )
    spoil = {"callbacks": [lambda state: spoilt.append(state.epoch)]}  # from the second epoch on
    with pytest.raises(NonFiniteError) as caught:
        train(vae, binary_images, validation=binary_images[:7], folder=tmp_path, epochs=5, **spoil)
    assert "the validation bound of epoch 2 is not finite" in str(caught.value)
    assert [path.name[:11] for path in tmp_path.glob("*.pt")] == ["epoch-00001"]


def test_a_nan_that_one_datum_causes_is_traced_to_its_site(binary_images):
    class Fragile(MLP):
        def forward(self, x):
            return super().forward(x) + 0 * (50 - x.flatten(1).sum(1, keepdim=True)).log()

    def brighten_one(x):
        return x + 100 * torch.arange(len(x)).eq(3)[:, None, None, None]

    vae = vae_with(posterior=DiagonalNormal(Fragile(X_SHAPE, 6, hidden=(4,)), 2))
    transform = AtCall(presentations(binary_images, 10) + 2, brighten_one)
    with pytest.raises(NonFiniteError, match=r"step 1 .*the guide's site 'z'.*\n.*2 NaN, 0 infinite of 20"):
        train(vae, binary_images, transform=transform)


class GradientNaN(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * math.nan


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_a_bad_gradient_under_a_finite_loss_is_caught_before_it_is_saved(
    clip_norm, make_vae, binary_images, tmp_path
):
    vae = make_vae()
    network, clean = vae.likelihood.network, True
    network.register_forward_hook(lambda module, args, out: out if clean else GradientNaN.apply(out))

    def beta(epoch):
        nonlocal clean
        clean = round(3 * epoch) != 5  # the last step of the second epoch
        return 1.0

    with pytest.raises(
        NonFiniteError, match=r"after step 6 the parameters .*likelihood\.network.* not finite"
    ):
        train(vae, binary_images, beta=beta, folder=tmp_path, clip_norm=clip_norm, epochs=3)
    assert [path.name[:11] for path in tmp_path.glob("*.pt")] == ["epoch-00001"]
    resumed = make_vae()
    train(resumed, binary_images, folder=tmp_path, resume=True, clip_norm=clip_norm, epochs=1)
    assert all(value.isfinite().all() for value in resumed.state_dict().values())
