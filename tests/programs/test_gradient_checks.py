"""Parameters that a loss does not reach, and tensors that it reaches and that are no parameters."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyrovae
from pyrovae.errors import InputError
from pyrovae.evaluation import marginal_likelihood
from pyrovae.programs.gradient_checks import check_gradients
from pyrovae.programs.pair import Pair

pytestmark = pytest.mark.cpu


def test_idle_unknown_and_missing_parameters_are_told_apart():
    used, idle, unknown = (nn.Parameter(torch.ones(size)) for size in (1, 2, 3))
    frozen = nn.Parameter(torch.ones(4), requires_grad=False)
    assert check_gradients(lambda: used.sum(), {"used": used, "frozen": frozen}) == [used]
    with pytest.raises(InputError, match="no gradient reaches idle:"):
        check_gradients(lambda: used.sum(), {"used": used, "idle": idle})
    assert check_gradients(lambda: used.sum(), {"used": used, "idle": idle}, {id(idle)}) == [used]
    with pytest.raises(InputError, match=r"1 parameters .*\(shapes \(3,\)\)"):
        check_gradients(lambda: used.sum() + unknown.sum(), {"used": used})
    with pytest.raises(InputError, match="no parameter to train"):
        check_gradients(lambda: torch.ones(()), {"frozen": frozen})


def test_a_detached_loss_reaches_nothing():
    used = nn.Parameter(torch.ones(1))
    with pytest.raises(InputError, match="no gradient reaches used"):
        check_gradients(lambda: used.detach().sum(), {"used": used})


def test_a_tensor_that_the_program_makes_for_itself_is_no_parameter():
    used = nn.Parameter(torch.ones(1))
    loss = lambda: used.sum() + torch.ones(3).requires_grad_().sum()  # noqa: E731
    assert check_gradients(loss, {"used": used}) == [used]


class OwnGuide(nn.Module):
    """A guide from outside of the library."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(16, 3)

    def guide(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.head(x.flatten(1)), 0.5).to_event(1))


def test_a_guide_of_ones_own_takes_the_place_of_a_models(make_vae, binary_images):
    vae, own = make_vae(latent_dim=3), OwnGuide()
    parameters = dict(vae.named_parameters()) | dict(own.named_parameters())
    before = {name: value.clone() for name, value in parameters.items()}
    pyrovae.fit(Pair(vae.model, own.guide), binary_images, epochs=1, progress=False)
    moved = {name for name, value in parameters.items() if (value != before[name]).any()}
    assert moved == {name for name in parameters if not name.startswith("posterior.")}
    marginal_likelihood(Pair(vae.model, own.guide), binary_images[:3], num_samples=10)
