"""Programs whose class is a one-hot vector: they get classes in this form, all of them or some."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.nn.functional import one_hot

from pyrovae import fit
from pyrovae.errors import InputError
from pyrovae.evaluation import class_posterior, marginal_likelihood

pytestmark = pytest.mark.cpu

PROBS = torch.tensor([0.2, 0.3, 0.5])
CENTRES = torch.tensor([[0.0, 0.0], [6.0, 0.0], [0.0, 9.0]])
X = torch.randn(12, 2, generator=torch.Generator().manual_seed(1)) + CENTRES[torch.arange(12) % 3]
Y = torch.arange(12) % 3


class Mixture(nn.Module):
    """y ~ Cat(PROBS), z ~ N(0, I), x ~ N(z + centre of y, I), with the exact posterior as guide."""

    def __init__(self, family=dist.OneHotCategorical):
        super().__init__()
        self.family, self.centres = family, nn.Parameter(CENTRES.clone())

    def centre(self, y):
        return self.centres[y] if self.family is dist.Categorical else y @ self.centres

    def model(self, x, y=None):
        with pyro.plate("data", len(x)):
            y = pyro.sample("kind", self.family(PROBS), obs=y)
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z + self.centre(y), 1.0).to_event(1), obs=x)

    def guide(self, x, y=None):
        with pyro.plate("data", len(x)):
            if y is None:
                logits = PROBS.log() - (x[:, None] - self.centres).square().sum(-1) / 4
                y = pyro.sample("kind", self.family(logits=logits), infer={"enumerate": "parallel"})
            pyro.sample("z", dist.Normal((x - self.centre(y)) / 2, 0.5**0.5).to_event(1))


ONE_HOT = (dist.OneHotCategorical, dist.OneHotCategoricalStraightThrough)


def log_joint(x, y):
    """log p(x, y) = log PROBS_y + log N(x; centre of y, 2 I)."""
    return PROBS[y].log() + dist.Normal(CENTRES[y], 2**0.5).log_prob(x).sum(-1)


@pytest.mark.parametrize("family", ONE_HOT)
def test_some_labels_train_the_model_as_those_of_whole_numbers_do(family):
    y = torch.where(torch.arange(12) < 4, Y, -1)
    options = {"epochs": 3, "batch_size": 6, "progress": False, "validation": (X, Y)}
    one_hot, whole = Mixture(family), Mixture(dist.Categorical)
    rows, expected = fit(one_hot, X, y, **options).rows, fit(whole, X, y, **options).rows
    torch.testing.assert_close(one_hot.centres, whole.centres)
    assert not torch.equal(whole.centres, CENTRES)
    for row, known in zip(rows, expected, strict=True):
        assert row["validation_elbo"] == pytest.approx(known["validation_elbo"], rel=1e-5)


@pytest.mark.parametrize("family", [*ONE_HOT, dist.Categorical])
def test_evidence_with_classes_is_exact(family):
    found = marginal_likelihood(Mixture(family), X, Y, num_samples=30).log_px
    torch.testing.assert_close(found, log_joint(X, Y).double(), rtol=0, atol=1e-4)
    posterior = class_posterior(Mixture(family), X, 3, num_samples=30)
    expected = torch.stack([log_joint(X, torch.full((12,), label)) for label in range(3)], -1).softmax(-1)
    torch.testing.assert_close(posterior, expected.double(), rtol=0, atol=1e-4)


def test_one_hot_rows_are_taken_where_the_programs_take_them():
    rows = one_hot(Y, 3).float()
    found = marginal_likelihood(Mixture(), X, rows, num_samples=30).log_px
    torch.testing.assert_close(found, log_joint(X, Y).double(), rtol=0, atol=1e-4)
    for call in (
        lambda: marginal_likelihood(Mixture(dist.Categorical), X, rows, num_samples=30),
        lambda: fit(Mixture(dist.Categorical), X, rows, epochs=1, progress=False),
    ):
        with pytest.raises(
            InputError, match=r"one-hot rows of shape \(12, 3\).*'kind': give y.argmax\(1\)"
        ):
            call()
    assert torch.equal(rows.argmax(1), Y)  # the remedy


def test_a_class_that_the_model_does_not_have_is_refused():
    for call in (
        lambda: marginal_likelihood(Mixture(), X, Y + 1, num_samples=30),
        lambda: fit(Mixture(), X, Y + 1, epochs=1, progress=False),
    ):
        with pytest.raises(
            InputError, match="the classes y go up to 3, and site 'kind' has 3, counted from 0"
        ):
            call()
