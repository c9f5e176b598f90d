"""How labels spread, against the diffusion solved exactly, and how they weigh in training."""

import numpy as np
import pytest
import torch

from pyrovae import data, fit
from pyrovae.errors import InputError
from pyrovae.objectives import SupervisedELBO
from pyrovae.recipes.build import build_model
from pyrovae.semi_supervised import (
    M1_CLASSIFIERS,
    LocalNeighbours,
    Supervision,
    fit_m1_classifier,
    label_spreading,
    only_labels_of,
    spread_labels,
    training_task,
)


@pytest.fixture
def moons():
    """Two interleaved half circles, which no straight line separates: z (300, 2), classes (300,)."""
    from sklearn.datasets import make_moons

    z, y = make_moons(300, noise=0.06, random_state=0)
    return torch.as_tensor(z).float(), torch.as_tensor(y)


def weights_by_hand(z, k):
    distances = np.linalg.norm(z[:, None] - z[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    nearest = np.argsort(distances, 1)[:, :k]
    scale = np.take_along_axis(distances, nearest, 1)[:, -1]
    weights = np.zeros_like(distances)
    for i, row in enumerate(nearest):
        for j in row:
            weights[i, j] = weights[j, i] = np.exp(-(distances[i, j] ** 2) / (scale[i] * scale[j]))
    return weights


def test_the_graph_is_the_one_written_out():
    z = np.random.default_rng(0).normal(size=(40, 3))
    np.testing.assert_allclose(LocalNeighbours(4)(z).toarray(), weights_by_hand(z, 4), rtol=1e-9)


def test_weights_to_other_data_are_those_of_their_nearest():
    rng = np.random.default_rng(0)
    z, other = rng.normal(size=(40, 3)), rng.normal(size=(5, 3))
    weights = LocalNeighbours(4)(z, other).toarray()
    assert weights.shape == (40, 5)
    distances = np.linalg.norm(z[:, None] - other[None], axis=-1)
    among = np.sort(np.linalg.norm(z[:, None] - z[None], axis=-1), 1)[:, 4]
    for column in range(5):
        near = np.argsort(distances[:, column])[:4]
        assert set(np.flatnonzero(weights[:, column])) == set(near)
        own = distances[near[-1], column]
        expected = np.exp(-(distances[near, column] ** 2) / (own * among[near]))
        np.testing.assert_allclose(weights[near, column], expected, rtol=1e-9)


def test_spread_labels_are_the_diffusions_limit(moons):
    """F = (1 - a) (I - a S)^-1 Y with S = D^-1/2 W D^-1/2 (Zhou et al. 2004, equation 5)."""
    z, y = moons
    given = only_labels_of(torch.tensor([3, 50, 120, 200]), y)
    weights = weights_by_hand(z.double().numpy(), 10)
    degree = weights.sum(1) ** -0.5
    smooth = degree[:, None] * weights * degree[None]
    labels = np.zeros((len(z), 2))
    labels[given != -1, given[given != -1]] = 1
    limit = np.linalg.solve(np.eye(len(z)) - 0.99 * smooth, labels)
    fitted = label_spreading().fit(z.double().numpy(), given.numpy())
    clear = np.abs(np.diff(limit / limit.sum(1, keepdims=True), axis=1))[:, 0] > 0.02
    assert clear.mean() > 0.95
    assert (fitted.transduction_ == limit.argmax(1))[clear].all()


def test_labels_follow_the_data_round_the_bend(moons):
    z, y = moons
    given = only_labels_of(data.labels_per_class(y, 3, 0), y)
    assert (spread_labels(z, given) == y).float().mean() > 0.97
    straight = fit_m1_classifier("logistic", z.numpy(), given.numpy()).predict(z.numpy())
    assert (straight == y.numpy()).mean() < 0.93


def test_given_labels_stay_and_the_unreached_stay_unlabelled():
    z = torch.cat([torch.randn(30, 2), torch.randn(30, 2) + 100])
    y = torch.full((60,), -1)
    y[:2] = torch.tensor([0, 1])
    spread = spread_labels(z, y, neighbours=8)
    assert spread[:2].tolist() == [0, 1]
    assert (spread[:30] >= 0).all()
    assert (spread[30:] == -1).all(), "no label reaches the second cloud"


def test_data_that_are_all_alike_do_not_stop_it():
    z, y = torch.zeros(12, 2), torch.full((12,), -1)
    y[0] = 1
    assert (spread_labels(z, y, neighbours=3) != 0).all()


def test_known_frequencies_hold_back_the_class_that_floods(moons):
    z, y = moons
    keep = (y == 0) | (torch.arange(len(y)) % 3 == 0)  # three times as many of class 0
    z, y = z[keep] + 0.15 * torch.randn(int(keep.sum()), 2), y[keep]
    given = only_labels_of(data.labels_per_class(y, 2, 0), y)
    prior = y.bincount() / len(y)

    def off(spread):
        return (spread.bincount(minlength=2) / len(y) - prior).abs().max()

    assert off(spread_labels(z, given, class_prior=prior)) < off(spread_labels(z, given))
    reversed_prior = prior.flip(0)
    assert off(spread_labels(z, given, class_prior=reversed_prior)) > off(spread_labels(z, given))


def test_a_class_without_a_frequency_is_refused():
    y = torch.tensor([0, 3, -1, -1])
    with pytest.raises(InputError, match="class 3 is given; class_prior has 2, from 0"):
        spread_labels(torch.randn(4, 2), y, class_prior=torch.tensor([0.5, 0.5]))


def test_no_label_to_spread_is_refused():
    with pytest.raises(InputError, match="all 5 classes are -1: there is no label to spread"):
        spread_labels(torch.zeros(5, 2), torch.full((5,), -1))


@pytest.mark.parametrize("name", M1_CLASSIFIERS)
def test_every_classifier_of_m1_learns_from_few_labels(name):
    z, y = data.load("digits").x_train.flatten(1), data.load("digits").y_train
    given = only_labels_of(data.labels_per_class(y, 10, 0), y).numpy()
    predicted = fit_m1_classifier(name, z[:1000].numpy(), given[:1000]).predict(z[1000:].numpy())
    error = (predicted != y[1000:].numpy()).mean()
    assert error < (0.06 if name == "label-spreading" else 0.2)


def test_only_the_labels_of_the_chosen_stay():
    y = torch.tensor([4, 5, 6, 7])
    assert only_labels_of(torch.tensor([1, 3]), y).tolist() == [-1, 5, -1, 7]
    assert y.tolist() == [4, 5, 6, 7]
    with pytest.raises(InputError, match="indices from 1 to 4 do not point into 4 classes"):
        only_labels_of(torch.tensor([1, 4]), y)


# What a label weighs


@pytest.fixture
def y():
    """4 labelled of 20."""
    return torch.cat([torch.arange(4) % 2, torch.full((16,), -1)])


def built(name):
    return build_model(name, (6,), latent_dim=2, width=4, num_classes=2)


def test_weights_are_of_means_over_the_labelled(y):
    task = training_task(built("m2"), y, Supervision(alpha=0.1))
    assert isinstance(task.objective, SupervisedELBO)
    assert task.objective.alpha == pytest.approx(0.1 * 20 / 4)
    weights = training_task(built("pcvae"), y, Supervision(prediction=3.0)).weights
    assert {name: weight(0.0) for name, weight in weights.items()} == {"y": pytest.approx(15)}


def test_the_cpcvae_is_constrained_and_the_pcvae_is_not(y):
    supervision = Supervision(prediction=2.0, consistency=3.0, aggregate=4.0)
    model = built("cpcvae")
    task = training_task(model, y, supervision)
    assert task.model == model.constrained_model
    weights = {name: weight(0.0) for name, weight in task.weights.items()}
    assert weights == {"y": 10, "y_again": 10, "consistency": 3, "aggregate": 4}
    every = training_task(model, torch.zeros(20, dtype=torch.long), supervision).weights
    assert every.keys() == {"y", "y_again"}, "the others are for unlabelled data"


def test_of_m1m2_the_upper_model_is_trained_and_of_a_vae_all(y):
    stack, vae = built("m1m2"), built("vae")
    assert training_task(stack, y, Supervision()).model == stack.m2.model
    assert training_task(stack, y, Supervision(), jointly=True).model == stack.model
    task = training_task(vae, None, Supervision())
    assert (task.model, task.objective, task.weights) == (vae.model, None, None)


def test_both_layers_of_m1m2_learn_jointly(y):
    stack = built("m1m2")
    before = {name: value.clone() for name, value in stack.state_dict().items()}
    task = training_task(stack, y, Supervision(), jointly=True)
    fit(task, torch.rand(20, 6).round(), y, epochs=2, progress=False, **task.options())
    moved = {
        name.split(".")[0] for name, value in stack.state_dict().items() if (value != before[name]).any()
    }
    assert moved == {"vae", "m2"}


def test_constraints_wait_and_rise():
    weight = Supervision(delay=2, warm_up=4).schedule(8.0)
    assert [weight(epoch) for epoch in (0, 2, 3, 6, 9)] == [0, 0, 2, 8, 8]
    step = Supervision(delay=2).schedule(8.0)
    assert [step(epoch) for epoch in (0, 1.9, 2, 9)] == [0, 0, 8, 8]


@pytest.mark.parametrize("classes", [None, torch.full((20,), -1)])
@pytest.mark.parametrize("name", ["m2", "m1m2", "pcvae", "cpcvae"])
def test_a_model_with_classes_needs_some(name, classes):
    with pytest.raises(InputError, match="learns classes: give the class of some data"):
        training_task(built(name), classes, Supervision())
