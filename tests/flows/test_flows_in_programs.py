"""Every flow posterior in training, evaluation, diagrams and checkpoints."""

import math
from functools import partial

import pyro
import pytest
import torch
from component_table import FLOWS
from flow_cases import (
    X_SHAPE,
    build,
    data,
    draw,
    every_flow,
    every_posterior,
    few_samples,
    make_vae,
    posterior_of,
)
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.inspect import get_model_relations

from pyrovae import fit, plate_diagram
from pyrovae.classifiers import Classifier
from pyrovae.distributions import Pushforward
from pyrovae.evaluation import marginal_likelihood
from pyrovae.likelihoods import Bernoulli
from pyrovae.models import M2, PPCA
from pyrovae.networks import MLP, WithClass
from pyrovae.priors import Classes, StandardNormal
from pyrovae.programs.distributions import MEAN_DRAWS
from pyrovae.programs.running import at_means

pytestmark = pytest.mark.cpu

fast = partial(torch.optim.Adam, lr=0.02)


@pytest.fixture
def no_inverse(monkeypatch):
    """Fails whatever scores a value other than the draw."""

    def refuse(*_):
        raise AssertionError("an inverse was run")

    monkeypatch.setattr(Pushforward, "score_by_inverse", refuse)


class Calls:
    """How often modules ran."""

    def __init__(self, *modules):
        self.counts = dict.fromkeys(modules, 0)
        for module in modules:
            module.register_forward_hook(self._count)

    def _count(self, module, *_):
        self.counts[module] += 1


def networks_of(flow):
    return [module.hyper for module in flow.modules() if hasattr(module, "hyper")]


@few_samples
@every_flow
def test_sampling_and_scoring_run_every_network_once(name, binary_images, no_inverse):
    vae = make_vae(name)
    calls = Calls(vae.posterior, vae.posterior.flow, *networks_of(vae.posterior.flow))
    fit(vae, binary_images, epochs=1, batch_size=8, progress=False)
    marginal_likelihood(vae, binary_images, num_samples=30)
    before = dict(calls.counts)
    # A check runs the guide on given draws, which no network of a flow needs.
    assert max(before.values()) == before[vae.posterior], "at most once whenever the guide ran"
    Trace_ELBO().differentiable_loss(vae.model, vae.guide, binary_images)
    assert calls.counts == {module: count + 1 for module, count in before.items()}


def test_the_networks_that_are_counted_are_there():
    assert len(networks_of(FLOWS["inverse autoregressive"](3))) == 3
    assert len(networks_of(FLOWS["spline coupling"](3))) == 3


@every_posterior
def test_a_vae_trains_by_fit_and_by_svi(name, binary_images, param_store, no_inverse):
    vae = make_vae(name)
    before = {key: value.clone() for key, value in vae.named_parameters()}
    history = fit(vae, binary_images, epochs=15, batch_size=12, optimizer=fast, progress=False)
    assert history["elbo"][-1] > history["elbo"][0]
    assert all(not torch.equal(value, before[key]) for key, value in vae.named_parameters())
    middle = {key: value.clone() for key, value in vae.named_parameters()}
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO(num_particles=2))
    assert math.isfinite(svi.step(binary_images))
    assert all(not torch.equal(value, middle[key]) for key, value in vae.named_parameters())


@every_posterior
def test_the_marginal_likelihood_is_the_exact_one_on_ppca(name, no_inverse):
    torch.manual_seed(0)
    ppca = PPCA(5, 2, posterior_of(name, MLP(5, 8, hidden=(8,)), 2)).double()
    with torch.no_grad():
        ppca.weight.normal_(std=0.25)
        if name in FLOWS:
            ppca.posterior.scale.bias.fill_(1.0)  # wide enough a proposal
        else:
            for parameter in ppca.posterior.parameters():
                parameter.mul_(0.5)  # the flow nearer to the identity
        x = ppca.likelihood(ppca.prior().sample((6,))).sample()
    result = marginal_likelihood(ppca, x, num_samples=4000)
    assert result.num_unreliable == 0
    difference = (result.log_px - ppca.log_evidence(x)).abs()
    assert (difference < 4 * result.std_error + 1e-9).all()


@few_samples
@every_posterior
def test_an_enumerated_class_stands_beside_a_flow(name, binary_images, classes, no_inverse):
    torch.manual_seed(0)
    m2 = M2(
        class_prior=Classes(3),
        prior=StandardNormal(2),
        likelihood=Bernoulli(WithClass(MLP(2 + 3, X_SHAPE, hidden=(8,)), 3)),
        classifier=Classifier(MLP(X_SHAPE, 3, hidden=(8,))),
        posterior=posterior_of(name, WithClass(MLP(6 + 3, 7), 3, MLP(X_SHAPE, 6)), 2),
    )
    y = torch.where(torch.arange(24) < 6, classes, -1)
    history = fit(m2, binary_images, y, epochs=2, progress=False)
    assert math.isfinite(history["elbo"][-1])
    assert marginal_likelihood(m2, binary_images, num_samples=20).log_px.isfinite().all()


@every_posterior
def test_a_flow_has_no_mean_so_that_an_average_of_draws_stands_for_it(name, binary_images):
    vae = make_vae(name)
    with pytest.raises(NotImplementedError):
        _ = vae.posterior(binary_images).mean
    guide = pyro.poutine.trace(at_means(vae.guide))
    one, two = (guide.get_trace(binary_images).nodes["z"]["value"] for _ in range(2))
    assert torch.equal(one, two)
    with torch.no_grad():
        draws = torch.stack([vae.posterior(binary_images).sample() for _ in range(400)])
    error = draws.std(0) * (1 / MEAN_DRAWS + 1 / 400) ** 0.5
    assert ((one - draws.mean(0)).abs() / error).max() < 6


@every_posterior
def test_the_plate_diagram_is_read_off_a_flow(name, binary_images):
    vae = make_vae(name)
    diagram = plate_diagram(vae, binary_images)
    assert ("x", "z") in {(a, b) for a, b in diagram.inference_edges}
    assert get_model_relations(vae.guide, (binary_images,))["sample_sample"] == {"z": []}


@every_posterior
def test_a_saved_posterior_draws_and_scores_the_same_when_loaded(name, tmp_path):
    posterior, x = build(name, strength=0.3), data(4)
    torch.save(posterior.state_dict(), tmp_path / "posterior.pt")
    loaded = build(name, seed=1)
    loaded.load_state_dict(torch.load(tmp_path / "posterior.pt", weights_only=True))
    for found, expected in zip(draw(loaded(x)), draw(posterior(x)), strict=True):
        assert torch.equal(found, expected)


@every_posterior
def test_the_parameters_of_one_datum_can_be_set_free(name):
    distribution = build(name, strength=0.3)(data(4)).expand((2, 4))
    start = distribution.free_parameters()
    leaves = {key: value.detach().clone().requires_grad_() for key, value in start.items()}
    assert set(leaves) == ({"loc", "scale", "context"} if name in FLOWS else {"context"})
    assert all(leaf.shape[:2] == (2, 4) for leaf in leaves.values())
    free = distribution.with_parameters(leaves)
    for found, expected in zip(draw(free), draw(distribution), strict=True):
        torch.testing.assert_close(found, expected)
    z, log_prob, _ = draw(free)
    (log_prob + z.square().sum(-1)).sum().backward()
    assert all(leaf.grad.abs().amax(-1).min() > 0 for leaf in leaves.values()), "each datum has its own"
