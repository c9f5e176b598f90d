"""What is given beside the data in training: cut with the data if it has a row for each, else whole."""

import copy
import re
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from given_programs import B, LinearGaussian, N, condition_of, conditions, data
from pyro.infer.autoguide import AutoNormal
from torch import nn
from torch.utils.data import DataLoader, Dataset
from training_helpers import frozen, same, train, without_seconds

from pyrovae.data import binarise
from pyrovae.errors import CheckpointError, InputError
from pyrovae.objectives import ELBO, IWAE, SupervisedELBO
from pyrovae.programs import Pair

pytestmark = pytest.mark.cpu


class Watching(nn.Module):
    """A pair that looks at each call: the condition must be the one of its datum, and the table whole.

    With `flat` its network treats dimension 0 as the data, so that copies are rows.
    """

    def __init__(self, flat=False, table=B):
        super().__init__()
        self.loc, self.flat, self.table, self.calls = nn.Linear(1, 1), flat, table, []

    def seen(self, x, y, c, table, factor):
        assert torch.equal(c, condition_of(x)), "a condition of another datum"
        assert table.shape == (self.table, 1), "the table was cut or repeated"
        assert factor == 3
        self.calls.append((len(x), y is not None))

    def layer(self, z):
        return self.loc(z.view(len(z), 1) if self.flat else z)

    def model(self, x, y=None, *, c, table, factor):
        self.seen(x, y, c, table, factor)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(table[0] + c[..., :1], 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.layer(z), 1.0).to_event(1), obs=x)

    def guide(self, x, y=None, *, c, table, factor):
        self.seen(x, y, c, table, factor)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.loc(x) + c[..., :1], 1.0).to_event(1))


def given_to_watching(table=B):
    return {"c": condition_of(data()), "table": torch.ones(table, 1), "factor": 3}


@pytest.mark.parametrize("table", [B, N % B, 1])
@pytest.mark.parametrize("objective", [ELBO(), IWAE(3)])
@pytest.mark.parametrize("flat", [False, True])
def test_rows_follow_their_data_and_all_else_is_whole(flat, objective, table):
    """Also a table that has as many rows as a minibatch, or as the last minibatch, has data."""
    pair = Watching(flat, table)
    train(pair, data(), given=given_to_watching(table), objective=objective)
    assert {size for size, _ in pair.calls} >= {B, N % B}


def test_rows_follow_their_data_in_both_parts_of_partly_labelled_data():
    pair = Watching()
    y = torch.where(torch.arange(N) % 3 == 0, 1, -1)
    train(pair, data(), y=y, given=given_to_watching(), batch_size=5)
    assert {(5, True), (5, False)} <= {*pair.calls}


def test_the_loss_is_the_evidence_given_the_condition():
    """With the exact posterior as guide the ELBO of each datum is log p(x | c), whatever is drawn."""
    pair, (x, c) = LinearGaussian(), (data(), conditions())
    held_out = data(6) - 1, conditions(6).flip(0)
    history = train(
        pair, x, given={"c": c}, optimizer=frozen, epochs=1, validation=(held_out[0], {"c": held_out[1]})
    )
    assert history["elbo"] == pytest.approx([pair.log_px(x, c).mean().item()], abs=1e-5)
    expected = pair.log_px(*held_out).mean().item()
    assert history["validation_elbo"] == pytest.approx([expected], abs=1e-5)


def test_maximum_likelihood_finds_the_regression_on_the_condition():
    """x given c is N((a b + d) c, b^2 + 1/4): its slope is that of least squares without a constant."""
    pair, c = LinearGaussian(a=0.0, b=1.0, d=0.0), conditions(400)
    x = 1.3 * c + 1.5 * torch.randn(400, 1)
    fast = partial(torch.optim.Adam, lr=0.1)
    train(pair, x, given={"c": c}, batch_size=400, epochs=100, optimizer=fast)
    slope = (x * c).sum() / c.square().sum()
    residual = (x - slope * c).square().mean()
    assert (pair.a * pair.b + pair.d).item() == pytest.approx(slope.item(), abs=0.01)
    assert (pair.b**2 + 0.25).item() == pytest.approx(residual.item(), abs=0.03)


class ConditionalM2(nn.Module):
    """y ~ Cat(softmax(c, 0)), x ~ N(2 y + c, 1), with q(y | x, c) of one parameter."""

    def __init__(self):
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(0.3))

    def model(self, x, y=None, *, c):
        with pyro.plate("data", len(x)):
            y = pyro.sample("y", dist.Categorical(logits=torch.cat([c, 0 * c], -1)), obs=y)
            pyro.sample("x", dist.Normal(2.0 * y[..., None] + c, 1.0).to_event(1), obs=x)

    def q(self, x, c):
        return dist.Categorical(logits=self.slope * torch.cat([c - x, x - c], -1))

    def guide(self, x, y=None, *, c):
        if y is None:
            with pyro.plate("data", len(x)):
                pyro.sample("y", self.q(x, c), infer={"enumerate": "parallel"})


def test_labelled_and_unlabelled_data_each_have_their_condition():
    """The loss of SupervisedELBO, summed by hand: -log p(x, y) - alpha log q(y | x), or -ELBO."""
    pair, x, c = ConditionalM2(), data(), conditions()
    y = torch.where(torch.arange(N) % 3 == 0, 1, -1)
    alpha = 2.0
    history = train(
        pair,
        x,
        y=y,
        given={"c": c},
        epochs=1,
        batch_size=N,
        optimizer=frozen,
        objective=SupervisedELBO(alpha),
    )
    prior = torch.cat([c, 0 * c], -1).log_softmax(-1)
    joint = prior + dist.Normal(torch.tensor([0.0, 2.0]) + c, 1.0).log_prob(x)
    log_q = pair.q(x, c).logits.detach()
    elbo = (log_q.exp() * (joint - log_q)).sum(-1)
    expected = torch.where(y == 1, joint[:, 1] + alpha * log_q[:, 1], elbo).mean()
    assert history["loss"] == pytest.approx([-expected.item()], abs=1e-5)


class Pairs(Dataset):
    """Items of the given form, made of a datum, its class and its condition."""

    def __init__(self, form, x, y, c):
        self.form, self.parts = form, (x, y, c)

    def __len__(self):
        return len(self.parts[0])

    def __getitem__(self, index):
        return self.form(*(part[index] for part in self.parts))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_item_of_a_dataset_ends_with_what_is_given(workers):
    x, c, y = data(), conditions(), torch.zeros(N, dtype=torch.long)
    plain, other = LinearGaussian(), LinearGaussian()
    expected = train(plain, x, given={"c": c}, validation=(x[:5], {"c": c[:5]}))
    stream = Pairs(lambda x, y, c: (x, {"c": c}), x, y, c)
    held_out = Pairs(lambda x, y, c: (x, {"c": c.numpy()}), x[:5], y[:5], c[:5])
    history = train(other, stream, validation=held_out, workers=workers)
    assert same(plain.state_dict(), other.state_dict())
    assert without_seconds(history) == without_seconds(expected)
    batch = next(iter(DataLoader(stream, batch_size=4)))
    assert torch.equal(batch[1]["c"], c[:4]), "a DataLoader's minibatch has the same form"


def test_a_dataset_may_have_classes_and_conditions_or_leave_the_conditions_to_given():
    x, y = data(), torch.zeros(N, dtype=torch.long)
    given = given_to_watching()
    c = given.pop("c")
    pair = Watching()
    train(pair, Pairs(lambda x, y, c: (x, y, {"c": c}), x, y, c), given=given)
    assert {labelled for _, labelled in pair.calls} == {True}
    train(Watching(), Pairs(lambda x, y, c: (x, y), x, y, c), given={**given, "c": c})


def test_recorded_steps_get_it_too(recorded):
    x, c = data(), conditions()
    eager, other = LinearGaussian(), LinearGaussian()
    train(eager, x, given={"c": c}, compile="off")
    train(other, x, given={"c": c}, compile="on")
    for one, two in zip(eager.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two)
    # A record takes the whole table and the number from Python.
    pair = Watching()
    pair.seen = lambda *args: None
    train(pair, x, given=given_to_watching(), compile="on")


def test_a_resumed_run_is_tied_to_what_was_given(tmp_path):
    x, c = data(), conditions()
    whole, parts, again = LinearGaussian(), LinearGaussian(), LinearGaussian()
    train(whole, x, given={"c": c}, epochs=4)
    train(parts, x, given={"c": c}, epochs=2, folder=tmp_path)
    other = c.clone()
    other[-1] += 1
    for wrong in ({"c": other}, {"c": c[:1]}):
        with pytest.raises(CheckpointError, match=r"begun with given = .*the same given"):
            train(copy.deepcopy(parts), x, given=wrong, epochs=4, folder=tmp_path, resume=True)
    train(again, x, given={"c": c}, epochs=4, folder=tmp_path, resume=True)
    assert same(whole.state_dict(), again.state_dict())


def test_a_resumed_run_is_tied_to_what_passes_whole(tmp_path):
    given = given_to_watching()
    train(Watching(), data(), given=given, epochs=1, folder=tmp_path)
    changed = given | {"table": 2 * given["table"]}
    with pytest.raises(CheckpointError, match="begun with given = "):
        train(Watching(), data(), given=changed, epochs=2, folder=tmp_path, resume=True)


def test_a_transform_changes_the_data_alone():
    images = torch.full((N, 1), 0.5)
    pair = LinearGaussian()
    history = train(pair, images, given={"c": images}, transform=binarise, optimizer=frozen, epochs=1)
    draws = torch.tensor([[0.0], [1.0]])
    low, high = sorted(pair.log_px(draws, torch.full((2, 1), 0.5)).tolist())
    assert low < history["elbo"][0] < high


def test_an_autoguide_gets_it_from_its_own_model():
    def model(x, c, scale):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(w * c, scale).to_event(1), obs=x)

    x, c = data(), conditions()
    guide = AutoNormal(model)
    fast = partial(torch.optim.Adam, lr=0.1)
    train(Pair(model, guide), x, given={"c": c, "scale": 0.5}, epochs=120, batch_size=N, optimizer=fast)
    precision = 1 + c.square().sum() / 0.25
    assert guide.median()["w"].item() == pytest.approx(((x * c).sum() / 0.25 / precision).item(), abs=0.05)


X, C = data(), conditions()
REFUSALS = {
    "no mapping": ({"given": C}, r"given is a Tensor; expected a mapping .*given=\{\"c\": c\}"),
    "no names": ({"given": {0: C}}, r"given is a dict; expected a mapping"),
    "unknown name": (
        {"given": {"c": C, "k": C}},
        r"given has 'k', which the model does not take \(its arguments are x, c\).*leave it out",
    ),
    "the data's name": ({"given": {"x": X}}, r"given has 'x', but the model gets the data as its argument"),
    "the classes' place": (
        {"given": {"c": C}, "y": torch.zeros(N)},
        r"gets the classes y as its argument 'c', by position.*write model\(x, y, \.\.\.\)",
    ),
    "an array": ({"given": {"c": C.numpy()}}, r"given\['c'\] is a ndarray of 24 values.*torch.as_tensor"),
    "a list": ({"given": {"c": C.tolist()}}, r"given\['c'\] is a list of 24 values"),
    "a gradient": (
        {"given": {"c": C.clone().requires_grad_()}},
        r"given\['c'\] requires a gradient.*detach",
    ),
    "NaN": (
        {"given": {"c": torch.cat([C[:4], torch.full((20, 1), torch.nan)])}},
        r"given\['c'\] has 20 NaN, the first at index 4: fill them in by c.nan_to_num",
    ),
    "too few rows": (
        {"given": {"c": C[:-1]}},
        r"do not run on data of shape \(10, 1\), given 'c' \(23, 1\) as a whole",
    ),
    "nothing for validation": (
        {"given": {"c": C}, "validation": X},
        r"c is given beside the training data, but nothing beside the validation data.*\(x, \{\"c\": c\}\)",
    ),
    "twice": (
        {"given": {"c": C}, "x": Pairs(lambda x, y, c: (x, {"c": c}), X, X, C)},
        "'c' is given twice, by the dataset's items and by given",
    ),
    "NaN in an item": (
        {"x": Pairs(lambda x, y, c: (x, {"c": c / 0 * 0}), X, X, C)},
        r"given\['c'\] has 10 NaN",
    ),
    "unknown in an item": (
        {"x": Pairs(lambda x, y, c: (x, {"k": c}), X, X, C)},
        "given has 'k', which the model does not take",
    ),
    "items without": (
        {"x": Pairs(lambda x, y, c: (x, {"c": c}) if x < 2 else x, X, X, C)},
        "some of the dataset's items have a class or a given value, and some have none",
    ),
}


@pytest.mark.parametrize(("settings", "message"), REFUSALS.values(), ids=REFUSALS)
def test_what_cannot_be_given_is_refused_by_name(settings, message, tmp_path):
    pair = LinearGaussian()
    before = copy.deepcopy(pair.state_dict())
    x = settings.get("x", X)
    with pytest.raises(InputError, match=message):
        train(pair, x, folder=tmp_path / "run", **{n: v for n, v in settings.items() if n != "x"})
    assert same(before, pair.state_dict())
    assert not (tmp_path / "run").exists()


def test_the_remedies_work():
    missing = torch.cat([C[:4], torch.full((20, 1), torch.nan)])

    class WithMask(LinearGaussian):
        def model(self, x, c, missing):
            super().model(x, c.where(~missing, self.d))

        def guide(self, x, c, missing):
            super().guide(x, c.where(~missing, self.d))

    train(WithMask(), X, given={"c": missing.nan_to_num(), "missing": missing.isnan()})
    train(LinearGaussian(), X, given={"c": torch.as_tensor(C.numpy())})
    train(LinearGaussian(), X, given={"c": C}, validation=(X, {"c": C}))


def test_what_the_programs_need_is_named():
    pair = LinearGaussian()
    with pytest.raises(InputError, match=r"the model needs its argument 'c', .* \(classes y can be given"):
        train(pair, X)
    third = Pair(lambda x, y, c: pair.model(x, c), lambda x, y, c: pair.guide(x, c))
    with pytest.raises(InputError, match=r"needs its argument 'c', .* give it by given=\{\"c\": c\}\.$"):
        train(third, X, y=torch.zeros(N))
    train(third, X, y=torch.zeros(N), given={"c": C})


def test_both_programs_get_it():
    pair = LinearGaussian()

    def guide(x):
        return pair.guide(x, x)

    with pytest.raises(InputError, match=re.escape("the guide does not take (its arguments are x)")):
        train(Pair(pair.model, guide), X, given={"c": C})
    train(Pair(pair.model, lambda x, **given: pair.guide(x, given["c"])), X, given={"c": C})
