"""PC-VAE and CPC-VAE: their losses written out by hand, and what their constraints leave alone."""

import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO

from pyrovae import data, fit
from pyrovae.evaluation import class_probabilities, marginal_likelihood
from pyrovae.objectives import reweight
from pyrovae.programs.pair import Pair
from pyrovae.recipes import About
from pyrovae.recipes import cpcvae as cpcvae_recipe
from pyrovae.schedules import linear_warm_up

pytestmark = pytest.mark.cpu

SEED = 7


@pytest.fixture
def pcvae(make_cpcvae):
    """Its `model` is the PC-VAE's."""
    return make_cpcvae()


@pytest.fixture
def x(binary_images):
    return binary_images.double()


def elbo_by_hand(pair, x, noise):
    """Each datum's one-draw bound (B,), and z."""
    q = pair.posterior(x).base_dist
    z = q.loc + q.scale * noise
    log_q = (-0.5 * noise.square() - q.scale.log() - 0.5 * torch.tensor(2 * torch.pi).log()).sum(-1)
    log_p = (-0.5 * z.square() - 0.5 * torch.tensor(2 * torch.pi).log()).sum(-1)
    logits = pair.likelihood.network(z)
    log_px = (x * logits - torch.nn.functional.softplus(logits)).flatten(1).sum(1)
    return log_px + log_p - log_q, z


def log_softmax_at(pair, z):
    return pair.classifier.network(z).log_softmax(-1)


def gradients(loss, pair):
    learned = [value for value in pair.parameters() if value.requires_grad]
    found = torch.autograd.grad(loss, learned, allow_unused=True, retain_graph=True)
    return [torch.zeros_like(v) if g is None else g for g, v in zip(found, learned, strict=True)]


def assert_same(ours, by_hand, pair):
    torch.testing.assert_close(ours, by_hand, rtol=1e-10, atol=0)
    for got, expected in zip(gradients(ours, pair), gradients(by_hand, pair), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("weight", [0.0, 1.0, 25.0])
def test_the_loss_is_minus_the_elbo_less_the_weighted_prediction(pcvae, x, classes, weight):
    torch.manual_seed(SEED)
    model = reweight(pcvae.model, {"y": weight})
    ours = Trace_ELBO().differentiable_loss(model, pcvae.guide, x, classes)
    torch.manual_seed(SEED)
    elbo, z = elbo_by_hand(pcvae, x, torch.randn(len(x), 2, dtype=x.dtype))
    log_py = log_softmax_at(pcvae, z).gather(1, classes[:, None]).squeeze(1)
    assert_same(ours, -(elbo + weight * log_py).sum(), pcvae)


def test_without_classes_it_is_a_vae(pcvae, x):
    torch.manual_seed(SEED)
    ours = Trace_ELBO().differentiable_loss(pcvae.model, pcvae.guide, x)
    torch.manual_seed(SEED)
    elbo, _ = elbo_by_hand(pcvae, x, torch.randn(len(x), 2, dtype=x.dtype))
    assert_same(ours, -elbo.sum(), pcvae)


def test_the_constrained_loss_is_the_one_written_out(pcvae, x, classes):
    """Labelled data: y and y_again. Unlabelled data: consistency, and the aggregate term."""
    weights = {"y": 2.0, "y_again": 3.0, "consistency": 5.0, "aggregate": 7.0}
    model = reweight(pcvae.constrained_model, weights)

    def noises():
        torch.manual_seed(SEED)
        return torch.randn(2, len(x), 2, dtype=x.dtype)  # the guide's draw, then the second encoding's

    def parts():
        first, second = noises()
        elbo, z = elbo_by_hand(pcvae, x, first)
        again = pcvae.posterior(pcvae.likelihood.network(z).sigmoid()).base_dist
        z_again = again.loc + again.scale * second
        return elbo, log_softmax_at(pcvae, z), log_softmax_at(pcvae, z_again)

    elbo, log_p, log_p_again = parts()
    torch.manual_seed(SEED)
    ours = Trace_ELBO().differentiable_loss(model, pcvae.guide, x, classes)
    at = classes[:, None]
    assert_same(
        ours, -(elbo.sum() + 2 * log_p.gather(1, at).sum() + 3 * log_p_again.gather(1, at).sum()), pcvae
    )

    elbo, log_p, log_p_again = parts()
    torch.manual_seed(SEED)
    ours = Trace_ELBO().differentiable_loss(model, pcvae.guide, x)
    consistency = (log_p.exp() * log_p_again).sum()
    frequencies = log_p_again.exp().mean(0)
    aggregate = (frequencies * 3).log().sum() / 3
    assert_same(ours, -(elbo.sum() + 5 * consistency + 7 * len(x) * aggregate), pcvae)


def test_every_constraint_moves_encoder_decoder_and_classifier(pcvae, x, classes):
    for site, args in {"y_again": (x, classes), "consistency": (x,), "aggregate": (x,)}.items():
        only = dict.fromkeys(["x", "z", "y", "y_again", "consistency", "aggregate"], 0.0) | {site: 1.0}
        model, guide = reweight(pcvae.constrained_model, only), reweight(pcvae.guide, only)
        loss = Trace_ELBO().differentiable_loss(model, guide, *args)
        for part in (pcvae.posterior, pcvae.likelihood, pcvae.classifier):
            assert sum(g.abs().sum() for g in gradients(loss, part)) > 1e-6, (site, part)


def test_the_constraints_are_smooth(pcvae, x):
    """Central differences agree with autograd, as they could not across an argmax."""
    bias = pcvae.classifier.network.layers[-1].bias

    def loss():
        torch.manual_seed(SEED)
        return Trace_ELBO().differentiable_loss(pcvae.constrained_model, pcvae.guide, x)

    (slope,) = torch.autograd.grad(loss(), [bias])
    for index in range(len(bias)):
        ends = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                bias[index] += step
                ends.append(loss())
                bias[index] -= step
        assert ((ends[0] - ends[1]) / 2e-5).item() == pytest.approx(slope[index].item(), rel=1e-6)


@pytest.mark.filterwarnings("ignore:k-hat")
def test_the_marginal_likelihood_does_not_depend_on_the_prediction(pcvae, x, classes):
    def log_px():
        return marginal_likelihood(pcvae, x, num_samples=50).log_px

    before = log_px()
    for value in pcvae.classifier.parameters():
        torch.nn.init.normal_(value)
    torch.testing.assert_close(log_px(), before, rtol=0, atol=0)
    # A reweighted program scores the same: weights are the objective's and are left out of densities.
    heavy = reweight(pcvae.model, {"y": 1000.0})
    joint = marginal_likelihood(pcvae, x, classes, num_samples=50).log_px
    weighted = marginal_likelihood(Pair(heavy, pcvae.guide), x, classes, num_samples=50).log_px
    torch.testing.assert_close(weighted, joint, rtol=0, atol=0)
    assert (joint < before).any()


def test_labelled_and_unlabelled_batches_give_the_loss_of_the_whole(pcvae, x, classes):
    """Whatever the batch sizes, the mean over minibatches is the loss of the whole data."""
    labelled = torch.arange(len(x)) < 8
    y = classes.where(labelled, torch.tensor(-1))

    def mean_loss(batch_size, labelled_batch_size, data_weights=(1.0, 1.0)):
        history = fit(
            pcvae, x, y, epochs=40, batch_size=batch_size,
            labelled_batch_size=labelled_batch_size, weights={"y": 3.0}, data_weights=data_weights,
            optimizer=lambda p: torch.optim.SGD(p, lr=0.0), progress=False,
        )  # fmt: skip
        losses = torch.tensor(history["loss"])
        return losses.mean().item(), losses.std().item() / len(losses) ** 0.5

    def by_hand(data_weights=(1.0, 1.0)):
        torch.manual_seed(0)
        total = torch.zeros(())
        with torch.no_grad():
            for _ in range(300):
                elbo, z = elbo_by_hand(pcvae, x, torch.randn(len(x), 2, dtype=x.dtype))
                log_py = log_softmax_at(pcvae, z)[labelled].gather(1, classes[labelled][:, None])
                given = elbo[labelled].sum() + 3 * log_py.sum()
                total -= (data_weights[0] * given + data_weights[1] * elbo[~labelled].sum()) / len(x)
        return total.item() / 300

    expected = by_hand()
    for sizes in ((16, 8), (4, 2), (8, 1)):
        mean, error = mean_loss(*sizes)
        assert abs(mean - expected) < 4 * error + 0.04
    mean, error = mean_loss(4, 2, (5.0, 0.5))
    assert abs(mean - by_hand((5.0, 0.5))) < 4 * error + 0.1


def test_predictions_are_the_classifiers_at_the_posteriors_mean(pcvae, x):
    expected = log_softmax_at(pcvae, pcvae.posterior(x).mean).exp().detach()
    probabilities = class_probabilities(pcvae, x, batch_size=7)
    torch.testing.assert_close(probabilities, expected)


def test_the_guide_draws_the_same_with_and_without_classes(pcvae, x, classes):
    torch.manual_seed(SEED)
    with_classes = pyro.poutine.trace(pcvae.guide).get_trace(x, classes)
    torch.manual_seed(SEED)
    without = pyro.poutine.trace(pcvae.guide).get_trace(x)
    assert torch.equal(with_classes.nodes["z"]["value"], without.nodes["z"]["value"])


@pytest.mark.parametrize("constrained", [False, True])
def test_it_learns_the_classes_of_real_digits_from_ten_of_each(constrained):
    digits = data.load("digits")
    model = cpcvae_recipe(About((1, 8, 8), 10), latent_dim=8, width=64, spread=False).pair
    labelled = data.labels_per_class(digits.y_train, 10)
    y = torch.full_like(digits.y_train, -1)
    y[labelled] = digits.y_train[labelled]
    ramp = linear_warm_up(4, delay=4, end=25.0 if constrained else 5.0)
    ratio = len(y) / len(labelled)
    fit(
        Pair(model.constrained_model if constrained else model.model, model.guide), digits.x_train, y,
        epochs=20, batch_size=100, progress=False, optimizer=lambda p: torch.optim.Adam(p, lr=1e-2),
        weights=dict.fromkeys(["y", "y_again"], lambda epoch: ratio * ramp(epoch))
        | dict.fromkeys(["consistency", "aggregate"], ramp) if constrained
        else {"y": lambda epoch: ratio * ramp(epoch)},
        transform=data.binarise,
    )  # fmt: skip
    predicted = class_probabilities(model, digits.x_test).argmax(-1)
    assert (predicted != digits.y_test).float().mean() < (0.15 if constrained else 0.2)
