"""The gradient by the score function: the same mean, and more noise."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from by_hand import draw_by_hand, gradients, log_weights_by_hand, value_and_gradients
from pyro import poutine
from small_programs import assert_same_mean, mixture, mixture_guide, parameter, points

from pyrovae.errors import InputError
from pyrovae.evaluation.gradients import gradient_variance
from pyrovae.objectives import ELBO, ScoreFunctionELBO
from pyrovae.programs.pair import Pair

pytestmark = pytest.mark.cpu


def test_the_score_function_has_the_same_mean_gradient_and_more_noise(vae, x):
    x = x[:2].repeat(1000, 1, 1, 1)
    score, path = (
        gradient_variance(objective, vae, x, repeats=60) for objective in (ScoreFunctionELBO(), ELBO())
    )
    assert_same_mean(score, path)
    assert score.of("posterior").total_variance > 5 * path.of("posterior").total_variance
    assert score.of("posterior").signal_to_noise < path.of("posterior").signal_to_noise
    assert score.of("posterior").signal_to_noise * 60**0.5 > 5  # it is a mean, not noise


def test_the_score_functions_gradient_is_the_datums_own_bound_times_its_score(vae, x):
    loss, found = value_and_gradients(ScoreFunctionELBO(), vae, x)
    (z,), q = draw_by_hand(vae, x, 1)
    z = z.detach()
    bound = log_weights_by_hand(vae, x, z[None], q)[0]
    torch.testing.assert_close(loss, -bound.sum())
    log_q = dist.Normal(q.loc, q.scale).log_prob(z).sum(-1)
    # E[d log q] = 0: Pyro leaves that term of the entropy out.
    expected = gradients(-(bound + (1 + bound.detach()) * log_q).sum(), vae)
    torch.testing.assert_close(found, expected)


def test_a_flow_is_scored_at_the_value_and_not_by_its_draw():
    x = points(200)
    stretch = torch.tensor(0.3).double().requires_grad_()

    def guide(x):
        transform = dist.transforms.AffineTransform(parameter("a", 0.2), stretch.exp(), cache_size=1)
        with pyro.plate("data", len(x)):
            base = dist.Normal(torch.zeros(len(x)).double(), 1.0)
            pyro.sample("z", dist.TransformedDistribution(base, [transform]))

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 0.8), obs=x[:, 0])

    score, path = (
        gradient_variance(objective, Pair(model, guide), x, repeats=100)
        for objective in (ScoreFunctionELBO(), ELBO())
    )
    assert_same_mean(score, path)
    assert path.mean["a"].abs() > 0.1


def test_discrete_latents_are_drawn_and_enumerated_ones_refused(make_m2, x):
    m2 = make_m2()
    with pytest.raises(InputError, match=r"\['y'\] is enumerated, .*score function"):
        ScoreFunctionELBO().differentiable_loss(m2.model, m2.guide, x)

    def drawn_guide(x):
        with poutine.infer_config(config_fn=lambda site: {"enumerate": None}):
            mixture_guide(x)

    score = gradient_variance(ScoreFunctionELBO(), Pair(mixture, drawn_guide), points(200))
    exact = gradient_variance(ELBO(), Pair(mixture, mixture_guide), points(200))
    assert_same_mean(score, exact)
    assert exact.mean["lean"].abs().max() > 0.1
