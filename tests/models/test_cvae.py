"""The conditional VAE: where everything is linear and Gaussian, p(x | c) is a normal distribution."""

from functools import partial

import pyro
import pytest
import torch
from component_table import POSTERIORS
from pyro import poutine
from pyro.distributions import MultivariateNormal

from pyrovae import fit, plate_diagram
from pyrovae.errors import InputError
from pyrovae.evaluation import class_probabilities, kl_decomposition, marginal_likelihood
from pyrovae.likelihoods import Bernoulli, Gaussian
from pyrovae.models import CVAE
from pyrovae.networks import MLP, Joined
from pyrovae.posteriors import DiagonalNormal

pytestmark = pytest.mark.cpu

IMAGE, LATENT, CONDITION = (1, 4, 4), 2, 3
fast = partial(torch.optim.Adam, lr=0.02)


def make(posterior=DiagonalNormal, prior=DiagonalNormal):
    """For binary images of 4 x 4 pixels and vectors as conditions."""
    features = Joined(MLP(6 + CONDITION, 6, hidden=(8,)), MLP(IMAGE, 6), None)
    return CVAE(
        prior(MLP(CONDITION, 6, hidden=()), LATENT),
        Bernoulli(Joined(MLP(LATENT + CONDITION, IMAGE, hidden=(8,)), None, None)),
        posterior(features, LATENT),
    )


def linear_gaussian():
    """z ~ N(A c + a, S), x ~ N(W z + V c + b, 0.8^2 I), in 64-bit, and the matrices."""
    cvae = CVAE(
        DiagonalNormal(MLP(CONDITION, CONDITION, hidden=()), LATENT),
        Gaussian(Joined(MLP(LATENT + CONDITION, 4, hidden=()), None, None), scale=0.8),
        DiagonalNormal(Joined(MLP(4 + CONDITION, 4 + CONDITION, hidden=()), None, None), LATENT),
    ).double()
    with torch.no_grad():
        cvae.prior.scale.weight.zero_()  # so that S does not depend on c
        from_z = cvae.likelihood.network.network.output_layer.weight[:, :LATENT]
        from_z.copy_(torch.linalg.qr(from_z).Q * torch.tensor([1.5, 0.7]))
    return cvae.requires_grad_(False)


def set_to_exact_posterior(cvae):
    """The columns of W are orthogonal, so p(z | x, c) is a diagonal normal with an affine mean."""
    c = torch.randn(4 + CONDITION + 1, CONDITION).double()
    x = torch.randn(len(c), 4).double()
    prior, decoder = cvae.prior(c).base_dist, cvae.likelihood.network.network.output_layer
    from_z, from_c = decoder.weight.split([LATENT, CONDITION], 1)
    precision = prior.scale[0] ** -2 + from_z.square().sum(0) / 0.64
    assert torch.allclose(from_z.T @ from_z, from_z.square().sum(0).diag())
    mean = (prior.loc / prior.scale**2 + (x - c @ from_c.T - decoder.bias) @ from_z / 0.64) / precision
    # An affine map is known by its values at one more point than it has inputs.
    inputs = cvae.posterior.network(x, c)
    ones = torch.ones(len(c), 1).double()
    solution = torch.linalg.lstsq(torch.cat([inputs, ones], 1), mean).solution
    with torch.no_grad():
        cvae.posterior.loc.weight.copy_(solution[:-1].T)
        cvae.posterior.loc.bias.copy_(solution[-1])
        cvae.posterior.scale.weight.zero_()
        # positive(s) = log(1 + exp(s)) + 1e-4
        cvae.posterior.scale.bias.copy_((precision**-0.5 - 1e-4).expm1().log())


def moments(cvae, c):
    """The mean `(N, D)` and the covariance of x given c, from the parameters alone."""
    prior = cvae.prior(c)
    decoder = cvae.likelihood.network.network.output_layer
    from_z, from_c = decoder.weight.split([LATENT, CONDITION], 1)
    spread = prior.base_dist.scale[0].square().diag()
    mean = prior.mean @ from_z.T + c @ from_c.T + decoder.bias
    return mean, from_z @ spread @ from_z.T + 0.64 * torch.eye(4, dtype=torch.double)


def test_the_evidence_is_that_of_the_conditional_gaussian():
    """With the exact posterior as guide each draw has the weight p(x | c)."""
    cvae = linear_gaussian()
    set_to_exact_posterior(cvae)
    x, c = 2 * torch.randn(30, 4).double(), torch.randn(30, CONDITION).double()
    expected = MultivariateNormal(*moments(cvae, c)).log_prob(x)
    found = marginal_likelihood(cvae, x, given={"c": c}, num_samples=30)
    torch.testing.assert_close(found.log_px, expected)
    torch.testing.assert_close(found.datum_elbo, expected)


def test_samples_have_the_moments_of_the_conditional_gaussian():
    cvae, count = linear_gaussian(), 40_000
    for c in (torch.zeros(CONDITION), torch.tensor([1.0, -2.0, 0.5])):
        rows = c.double().expand(count, CONDITION)
        trace = poutine.trace(poutine.uncondition(cvae.model)).get_trace(torch.empty(count, 4), rows)
        x = trace.nodes["x"]["value"]
        mean, covariance = moments(cvae, rows[:1])
        error = (covariance.diagonal() / count).sqrt()
        assert ((x.mean(0) - mean[0]).abs() < 4.5 * error).all()
        # The variance of a sample covariance of normals is (s_ij^2 + s_ii s_jj) / N.
        variances = covariance.diagonal()
        error = ((covariance.square() + variances * variances[:, None]) / count).sqrt()
        assert ((x.T.cov() - covariance).abs() < 4.5 * error).all()


def test_training_finds_the_conditional_gaussian():
    """The data are of such a model, whose log density on average no other model exceeds but by chance."""
    truth, c = linear_gaussian(), torch.randn(1000, CONDITION).double()
    mean, covariance = moments(truth, c)
    x = MultivariateNormal(mean, covariance).sample()
    torch.manual_seed(1)
    cvae = linear_gaussian().requires_grad_()
    expected = MultivariateNormal(mean, covariance).log_prob(x).mean()
    before = MultivariateNormal(*moments(cvae, c)).log_prob(x).mean()
    fit(cvae, x, given={"c": c}, epochs=30, batch_size=200, optimizer=fast, progress=False)
    found = MultivariateNormal(*moments(cvae, c)).log_prob(x).mean()
    assert expected - before > 0.5
    assert found.item() == pytest.approx(expected.item(), abs=0.1)


@pytest.mark.filterwarnings("ignore:k-hat")
@pytest.mark.parametrize(
    ("posterior", "prior"),
    [
        ("full covariance normal", "full covariance normal"),
        ("planar", "diagonal normal"),
        ("inverse autoregressive", "spline coupling"),
        ("diagonal normal", "zuko spline"),
    ],
)
def test_a_swap_trains_and_is_scored(posterior, prior, binary_images):
    cvae = make(POSTERIORS[posterior].build, POSTERIORS[prior].build)
    given = {"c": torch.eye(CONDITION)[torch.arange(24) % CONDITION]}
    history = fit(cvae, binary_images, given=given, epochs=2, batch_size=6, progress=False)
    assert torch.tensor(history["elbo"]).isfinite().all()
    found = marginal_likelihood(cvae, binary_images, given=given, num_samples=20)
    assert (found.log_px > -30).all()  # 16 pixels at random have -11 nats


def test_its_diagram_is_that_of_its_docstring(binary_images):
    diagram = plate_diagram(make(), binary_images, given={"c": torch.zeros(24, CONDITION)})
    assert diagram.generative_edges == {("c", "z"), ("c", "x"), ("z", "x")}
    assert diagram.inference_edges == {("x", "z"), ("c", "z")}
    assert {name: node.plates for name, node in diagram.nodes.items()} == dict.fromkeys("czx", ("data",))
    assert diagram.nodes["c"].observed


NEEDED = (
    r"the model needs its argument 'c', which has no default: give it by given=\{\"c\": c\} \(classes y can"
)


def test_without_a_condition_it_is_refused_by_name(binary_images):
    with pytest.raises(InputError, match=NEEDED):
        fit(make(), binary_images, progress=False)
    with pytest.raises(InputError, match=NEEDED):
        marginal_likelihood(make(), binary_images)
    with pytest.raises(InputError, match=NEEDED):
        class_probabilities(make(), binary_images)
    with pytest.raises(InputError, match=NEEDED):
        kl_decomposition(make(), binary_images)


def test_pyro_trains_it_too(binary_images, param_store):
    cvae = make()
    svi = pyro.infer.SVI(cvae.model, cvae.guide, pyro.optim.Adam({"lr": 0.01}), pyro.infer.Trace_ELBO())
    c = torch.zeros(24, CONDITION)
    losses = [svi.step(binary_images, c=c) for _ in range(30)]
    assert losses[-1] < losses[0]
