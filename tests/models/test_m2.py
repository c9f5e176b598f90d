"""M2 and M1+M2 against their bounds written out class by class."""

import math

import pytest
import torch
from pyro.infer import SVI, TraceEnum_ELBO
from pyro.optim import Adam

from pyrovae import data, fit
from pyrovae.errors import InputError
from pyrovae.evaluation import class_posterior, class_probabilities, error_rate, marginal_likelihood
from pyrovae.objectives import ELBO, SupervisedELBO
from pyrovae.recipes import About
from pyrovae.recipes import m2 as m2_recipe
from pyrovae.semi_supervised import only_labels_of

pytestmark = pytest.mark.cpu

SEED, CLASSES = 5, 3


@pytest.fixture
def m2(make_m2):
    return make_m2()


@pytest.fixture
def x(binary_images):
    return binary_images.double()


def bernoulli(logits, x):
    return (x * logits.sigmoid().log() + (1 - x) * (-logits).sigmoid().log()).flatten(1).sum(1)


def normal(value, loc=0.0, scale=1.0):
    scale = torch.as_tensor(scale, dtype=value.dtype)
    return (-0.5 * ((value - loc) / scale).square() - scale.log() - 0.5 * math.log(2 * math.pi)).sum(-1)


def labelled_bound(m2, x, y, noise):
    """log p(x, y, z) - log q(z | x, y) at z = loc + scale * noise, for each datum: (B,)."""
    one_hot = torch.eye(CLASSES, dtype=x.dtype)[y]
    features = m2.posterior.network.features(x)
    h = m2.posterior.network.network(torch.cat([features, one_hot], -1))
    loc = m2.posterior.loc(h)
    scale = torch.nn.functional.softplus(m2.posterior.scale(h)) + 1e-4
    z = loc + scale * noise
    logits = m2.likelihood.network.network(torch.cat([z, one_hot], -1))
    log_p = m2.class_prior.logits.log_softmax(-1)[y] + normal(z) + bernoulli(logits, x)
    return log_p - normal(z, loc, scale)


def unlabelled_bound(m2, x, noise):
    """sum_y q(y | x) [labelled bound - log q(y | x)], term by term: (B,)."""
    log_q = m2.classifier.network(x).log_softmax(-1)
    total = 0.0
    for label in range(CLASSES):
        y = torch.full((len(x),), label)
        q = log_q[:, label]
        total = total + q.exp() * (labelled_bound(m2, x, y, noise[label]) - q)
    return total


def noise_for(*shape):
    torch.manual_seed(SEED)
    return torch.randn(*shape, dtype=torch.float64)


def gradients(loss, module):
    learned = [value for value in module.parameters() if value.requires_grad]
    return torch.autograd.grad(loss, learned, allow_unused=True, retain_graph=True)


def assert_same_loss_and_gradients(one, other, module):
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
    for a, b in zip(gradients(one, module), gradients(other, module), strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


def test_the_unlabelled_bound_is_the_sum_over_classes_written_out(m2, x):
    by_hand = -unlabelled_bound(m2, x, noise_for(CLASSES, len(x), 2)).sum()
    torch.manual_seed(SEED)
    assert_same_loss_and_gradients(ELBO().differentiable_loss(m2.model, m2.guide, x), by_hand, m2)


def test_the_unlabelled_bound_is_pyros(m2, x):
    torch.manual_seed(SEED)
    ours = ELBO().differentiable_loss(m2.model, m2.guide, x)
    torch.manual_seed(SEED)
    pyros = TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(m2.model, m2.guide, x)
    assert_same_loss_and_gradients(ours, pyros, m2)


def test_the_labelled_bound_is_the_one_written_by_hand(m2, x, classes):
    by_hand = -labelled_bound(m2, x, classes, noise_for(len(x), 2)).sum()
    torch.manual_seed(SEED)
    loss = ELBO().differentiable_loss(m2.model, m2.guide, x, classes)
    assert_same_loss_and_gradients(loss, by_hand, m2)


def test_the_classification_term_counts_each_labelled_datum_alpha_times(m2, x, classes):
    log_q = m2.classifier.network(x).log_softmax(-1).gather(1, classes[:, None]).sum()
    by_hand = -labelled_bound(m2, x, classes, noise_for(len(x), 2)).sum() - 7.0 * log_q
    torch.manual_seed(SEED)
    objective = SupervisedELBO(alpha=7.0)
    bound = objective.evaluate(m2, x, classes)
    assert_same_loss_and_gradients(bound.loss, by_hand, m2)
    torch.testing.assert_close(bound.terms["q(y | x)"], log_q.detach())
    assert bound.added == ("q(y | x)",)
    torch.manual_seed(SEED)
    unlabelled = objective.differentiable_loss(m2.model, m2.guide, x)
    torch.manual_seed(SEED)
    torch.testing.assert_close(unlabelled, ELBO().differentiable_loss(m2.model, m2.guide, x))


def test_the_terms_are_expectations_over_the_classes(m2, x):
    objective = ELBO()
    torch.manual_seed(SEED)
    bound = objective.evaluate(m2, x)
    torch.testing.assert_close(bound.terms["reconstruction"] - bound.terms["kl"], -bound.loss.detach())
    noise, q = noise_for(CLASSES, len(x), 2), m2.classifier.network(x).softmax(-1)
    by_hand = 0.0
    for label in range(CLASSES):
        y = torch.full((len(x),), label)
        posterior = m2.posterior(x, y).base_dist
        z = posterior.loc + posterior.scale * noise[label]
        by_hand += (q[:, label] * bernoulli(m2.likelihood.network(z, y), x)).sum()
    torch.testing.assert_close(bound.terms["reconstruction"], by_hand.detach())


@pytest.mark.parametrize("vectorize", [False, True])
def test_particles_average_the_enumerated_bound(m2, x, vectorize):
    objective = ELBO(num_particles=2000, vectorize_particles=vectorize)
    if not vectorize:
        objective.num_particles = 200
    torch.manual_seed(0)
    with torch.no_grad():
        loss = objective.differentiable_loss(m2.model, m2.guide, x[:2])
        noise = torch.randn(4000, CLASSES, 2, 2, dtype=torch.float64)
        draws = torch.vmap(lambda each: unlabelled_bound(m2, x[:2], each).sum())(noise)
    error = draws.std() * (1 / objective.num_particles + 1 / len(draws)) ** 0.5
    assert abs(-loss - draws.mean()) < 4 * error


def test_loss_is_the_same_number_without_a_graph(m2, x):
    torch.manual_seed(SEED)
    loss = ELBO().loss(m2.model, m2.guide, x)
    torch.manual_seed(SEED)
    assert loss == pytest.approx(ELBO().differentiable_loss(m2.model, m2.guide, x).item(), rel=1e-12)


def test_two_minibatches_at_the_right_ratio_give_the_loss_of_the_whole(m2, x, classes):
    """With the noise held fixed, the mean of fit's loss over an epoch is the loss of all data."""
    labelled = torch.arange(len(x)) < 6
    y = classes.where(labelled, torch.tensor(-1))
    history = fit(
        m2, x, y, epochs=1, batch_size=6, labelled_batch_size=2, progress=False,
        objective=SupervisedELBO(alpha=2.0), optimizer=lambda p: torch.optim.SGD(p, lr=0.0), seed=3,
    )  # fmt: skip
    # The terms that do not depend on the noise are exact at any batch size, the others in expectation.
    log_q = m2.classifier.network(x[labelled]).log_softmax(-1)
    expected = log_q.gather(1, classes[labelled][:, None]).mean().item()
    assert history["q(y | x)"][0] == pytest.approx(expected, rel=1e-6)
    with torch.no_grad():
        totals = []
        for _ in range(400):
            noise = torch.randn(CLASSES, len(x), 2, dtype=torch.float64)
            given = labelled_bound(m2, x[labelled], classes[labelled], noise[0, labelled]).sum()
            totals.append((given + unlabelled_bound(m2, x[~labelled], noise[:, ~labelled]).sum()) / len(x))
        bound = torch.stack(totals)
    loss = -bound.mean() - 2.0 * expected * 6 / len(x)
    assert history["loss"][0] == pytest.approx(loss.item(), abs=4 * bound.std().item())


def log_joint_exact(m2, x, grid=400, reach=7.0):
    """log p(x, y) of each datum and class by a grid over the two latents: (B, C)."""
    axis = torch.linspace(-reach, reach, grid, dtype=torch.float64)
    z = torch.cartesian_prod(axis, axis)
    cell = (axis[1] - axis[0]) ** 2
    columns = []
    with torch.no_grad():
        for label in range(CLASSES):
            logits = m2.likelihood.network(z, torch.full((len(z),), label)).flatten(1)
            log_px = x.flatten(1) @ logits.T - torch.nn.functional.softplus(logits).sum(1)
            log_prior = m2.class_prior.logits.log_softmax(-1)[label]
            columns.append(log_prior + (log_px + normal(z)).logsumexp(1) + cell.log())
    return torch.stack(columns, 1)


@pytest.mark.filterwarnings("ignore:k-hat")
@pytest.mark.parametrize("enumerate", [True, False])
def test_the_marginal_likelihood_is_exact_with_the_class_summed_out_or_drawn(m2, x, enumerate):
    exact = log_joint_exact(m2, x[:6]).logsumexp(1)
    result = marginal_likelihood(m2, x[:6], num_samples=4000, enumerate=enumerate)
    assert ((result.log_px - exact).abs() < 4 * result.std_error).all()
    assert result.mean_std_error < 0.1


@pytest.mark.filterwarnings("ignore:k-hat")
def test_summing_the_class_out_lowers_the_error(m2, x):
    summed, drawn = (
        marginal_likelihood(m2, x, num_samples=2000, enumerate=enumerate).mean_std_error
        for enumerate in (True, False)
    )
    assert summed < drawn


@pytest.mark.filterwarnings("ignore:k-hat")
def test_with_classes_the_same_function_gives_the_joint(m2, x, classes):
    exact = log_joint_exact(m2, x[:6]).gather(1, classes[:6, None]).squeeze(1)
    result = marginal_likelihood(m2, x[:6], classes[:6], num_samples=4000)
    assert ((result.log_px - exact).abs() < 4 * result.std_error).all()


def test_the_class_posterior_is_bayes_rule(m2, x):
    exact = log_joint_exact(m2, x[:6]).softmax(1)
    estimate = class_posterior(m2, x[:6], CLASSES, num_samples=4000)
    torch.testing.assert_close(estimate, exact, atol=0.02, rtol=0)
    assert (estimate.sum(1) - 1).abs().max() < 1e-12
    q = m2.classifier(x[:6]).probs.detach()
    assert (q - exact).abs().max() > 0.05, "the guide is off here, or the test shows nothing"


def test_a_class_posterior_of_other_classes_than_the_models_is_refused(m2, x, make_vae):
    with pytest.raises(InputError, match="num_classes is 1"):
        class_posterior(m2, x, 1)
    with pytest.raises(InputError, match="num_classes is 2; site 'y' has 3 classes"):
        class_posterior(m2, x, 2)
    vae = make_vae().double()
    with pytest.raises(InputError, match="the same for every class y"):
        class_posterior(vae, x, 3, num_samples=10)


@pytest.mark.parametrize("kind", [torch.uint8, torch.int16, torch.bool])
def test_classes_of_any_whole_type_are_the_same_classes(m2, x, classes, kind):
    y = (classes > 0).to(kind)
    torch.manual_seed(SEED)
    loss = ELBO().differentiable_loss(m2.model, m2.guide, x, y)
    torch.manual_seed(SEED)
    assert loss == ELBO().differentiable_loss(m2.model, m2.guide, x, y.long())


def test_classes_that_are_no_whole_numbers_are_refused(m2, x, classes, make_cpcvae):
    with pytest.raises(InputError, match=r"type torch.float64; expected whole numbers: use y.long\(\)"):
        fit(m2, x, classes.double(), epochs=1)
    pcvae = make_cpcvae().double()
    with pytest.raises(InputError, match=r"torch.float64, where -1 is not unlabelled: use y.long\(\)"):
        fit(pcvae, x, only_labels_of(torch.arange(9), classes).double(), epochs=1)


def test_alpha_weighs_a_classifier_of_the_guide(m2, x, classes, make_cpcvae):
    with pytest.raises(InputError, match="alpha is -1"):
        SupervisedELBO(-1)
    pcvae = make_cpcvae().double()
    with pytest.raises(InputError, match=r"the guide has no site 'y'.*weights=\{'y': lambda_\}"):
        fit(pcvae, x, classes, objective=SupervisedELBO(1.0), epochs=1)
    with pytest.raises(InputError, match=r"no gradient reaches classifier.*SupervisedELBO"):
        fit(m2, x, classes, epochs=1)


def test_only_known_classes_are_right_or_wrong(m2, x, classes):
    probabilities = torch.eye(3)
    assert error_rate(probabilities, torch.tensor([0, 1, 0])) == pytest.approx(100 / 3)
    with pytest.raises(InputError, match="1 of 3 classes are -1"):
        error_rate(probabilities, torch.tensor([0, 1, -1]))
    with pytest.raises(InputError, match="3 data and 2 classes"):
        error_rate(probabilities, torch.tensor([0, 1]))
    with pytest.raises(InputError, match="15 of 24 classes are -1"):
        marginal_likelihood(m2, x, only_labels_of(torch.arange(9), classes))


@pytest.mark.filterwarnings("ignore:k-hat")
def test_the_stacked_model_scores_as_one_program(make_m1m2, x, classes):
    stack = make_m1m2()
    torch.manual_seed(SEED)
    ours = ELBO().differentiable_loss(stack.model, stack.guide, x)
    torch.manual_seed(SEED)
    pyros = TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(stack.model, stack.guide, x)
    assert_same_loss_and_gradients(ours, pyros, stack)
    summed = marginal_likelihood(stack, x[:5], num_samples=5000)
    drawn = marginal_likelihood(stack, x[:5], num_samples=5000, enumerate=False, seed=1)
    error = (summed.std_error.square() + drawn.std_error.square()).sqrt()
    assert ((summed.log_px - drawn.log_px).abs() < 4 * error).all()
    joint = marginal_likelihood(stack, x[:5], classes[:5], num_samples=5000)
    assert (joint.log_px < summed.log_px).all()


def test_the_stacked_bound_is_the_one_written_out(make_m1m2, x):
    """E_q(z1 | x) [log p(x | z1) - log q(z1 | x) + sum_y q(y | z1) (M2's bound on z1 - log q(y | z1))]."""
    stack = make_m1m2()
    first, second = noise_for(len(x) * 2 + CLASSES * len(x)).split([len(x) * 2, CLASSES * len(x)])
    q1 = stack.vae.posterior(x).base_dist
    z1 = q1.loc + q1.scale * first.view(len(x), 2)
    bound = bernoulli(stack.vae.likelihood.network(z1), x) - normal(z1, q1.loc, q1.scale)
    log_q = stack.m2.classifier.network(z1).log_softmax(-1)
    for label in range(CLASSES):
        y = torch.full((len(x),), label)
        q2 = stack.m2.posterior(z1, y).base_dist
        z2 = q2.loc + q2.scale * second.view(CLASSES, len(x), 1)[label]
        p1 = stack.m2.likelihood(z2, y).base_dist
        upper = normal(z1, p1.loc, p1.scale) + normal(z2) - normal(z2, q2.loc, q2.scale) - math.log(CLASSES)
        bound = bound + log_q[:, label].exp() * (upper - log_q[:, label])
    torch.manual_seed(SEED)
    loss = ELBO().differentiable_loss(stack.model, stack.guide, x)
    assert_same_loss_and_gradients(loss, -bound.sum(), stack)


def test_classes_are_predicted_by_the_guides_classifier(m2, make_m1m2, x):
    stack = make_m1m2()
    torch.testing.assert_close(class_probabilities(m2, x), m2.classifier(x).probs.detach())
    expected = stack.m2.classifier(stack.vae.posterior(x).mean).probs.detach()
    torch.testing.assert_close(class_probabilities(stack, x), expected)


def test_a_pair_without_classes_has_none_to_predict(make_vae, x):
    vae = make_vae().double()
    with pytest.raises(InputError, match="no categorical site to classify by"):
        class_probabilities(vae, x)


def test_the_upper_model_trains_on_draws_of_the_lower_ones_latents(make_m1m2, x, classes):
    stack = make_m1m2()
    frozen = {name: value.clone() for name, value in stack.vae.state_dict().items()}
    y = classes.where(torch.arange(len(x)) < 6, torch.tensor(-1))
    history = fit(
        stack.m2, x, y, transform=stack.draw_z1, epochs=30, progress=False,
        objective=SupervisedELBO(1.0), optimizer=lambda p: torch.optim.Adam(p, lr=1e-2),
    )  # fmt: skip
    assert history["elbo"][-1] > history["elbo"][0]
    assert all(torch.equal(frozen[name], value) for name, value in stack.vae.state_dict().items())
    assert stack.draw_z1(x).shape == (len(x), 2)


def test_m2_learns_the_classes_of_real_digits_from_ten_of_each():
    digits = data.load("digits")
    m2 = m2_recipe(About((1, 8, 8), 10), latent_dim=4, width=64, spread=False).pair
    labelled = data.labels_per_class(digits.y_train, 10)
    y = torch.full_like(digits.y_train, -1)
    y[labelled] = digits.y_train[labelled]

    def error():
        return (m2.classifier(digits.x_test).logits.argmax(-1) != digits.y_test).float().mean()

    assert error() > 0.7
    fit(
        m2, digits.x_train, y, transform=data.binarise, epochs=15, progress=False,
        objective=SupervisedELBO(0.1 * len(y) / len(labelled)),
        optimizer=lambda p: torch.optim.Adam(p, lr=3e-3),
    )  # fmt: skip
    assert error() < 0.25


def test_pyros_svi_trains_the_classifier_on_labels_too(make_m2, binary_images, param_store):
    """A labelled call's bound has no q(y | x) in it: only the classification term moves the classifier."""
    x, y = binary_images.double(), torch.arange(24) % 3

    def classifier_after_a_step(alpha):
        m2 = make_m2()
        before = m2.classifier.network.layers[-1].bias.detach().clone()
        SVI(m2.model, m2.guide, Adam({"lr": 0.1}), SupervisedELBO(alpha)).step(x, y)
        return m2.classifier.network.layers[-1].bias - before

    assert classifier_after_a_step(0.0).abs().max() == 0
    assert classifier_after_a_step(1.0).abs().min() > 0.05
