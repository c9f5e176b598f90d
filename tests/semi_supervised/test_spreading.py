"""Labels spread as the diffusion does when it is solved exactly."""

import numpy as np
import pytest
import torch

from pyrovae import data
from pyrovae.errors import InputError
from pyrovae.semi_supervised import (
    LocalNeighbours,
    fit_m1_classifier,
    label_spreading,
    normalise_class_mass,
    only_labels_of,
    spread_labels,
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
    limit = np.linalg.solve(np.eye(len(z)) - 0.9 * smooth, labels)
    fitted = label_spreading(10, alpha=0.9).fit(z.double().numpy(), given.numpy())
    np.testing.assert_allclose(fitted.label_distributions_, limit / limit.sum(1, keepdims=True), atol=1e-6)
    assert (spread_labels(z, given, 10, alpha=0.9).numpy() == limit.argmax(1)).all()


def test_labels_follow_the_data_round_the_bend(moons):
    z, y = moons
    given = only_labels_of(data.labels_per_class(y, 5, 0), y)
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

    assert off(spread_labels(z, given, 10, prior)) < off(spread_labels(z, given, 10))
    reversed_prior = prior.flip(0)
    assert off(spread_labels(z, given, 10, reversed_prior)) > off(spread_labels(z, given, 10))


def test_class_mass_is_normalised_to_the_given_frequencies():
    probabilities = torch.rand(50, 3, dtype=torch.float64) + 0.1
    frequencies = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    weighted = normalise_class_mass(probabilities, frequencies, rounds=200)
    torch.testing.assert_close(weighted.sum(1), torch.ones(50, dtype=torch.float64))
    torch.testing.assert_close(weighted.mean(0), frequencies)
    # Each row is the old one times one weight for each class, up to the row's own normalisation.
    odds = weighted[:, 1:] / weighted[:, :1] / (probabilities[:, 1:] / probabilities[:, :1])
    torch.testing.assert_close(odds, odds[:1].expand(50, 2))


def test_a_class_without_a_frequency_is_refused():
    y = torch.tensor([0, 3, -1, -1])
    with pytest.raises(InputError, match=r"class 3 .* class_prior has 2"):
        spread_labels(torch.randn(4, 2), y, class_prior=torch.tensor([0.5, 0.5]))


def test_no_label_to_spread_is_refused():
    with pytest.raises(InputError, match=r"all 5 classes are -1.*no label"):
        spread_labels(torch.zeros(5, 2), torch.full((5,), -1))
