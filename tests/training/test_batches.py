"""Labelled and unlabelled data: who is in which call, how often, and with which weight."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from pyrovae import data, fit
from pyrovae.errors import InputError
from pyrovae.recipes import Data, Training, train
from pyrovae.training.batches import Minibatches, parts_of
from pyrovae.training.sources import InMemory

pytestmark = pytest.mark.cpu

N, LABELLED = 23, (2, 3, 5, 7, 11, 13)


@pytest.fixture
def y():
    classes = torch.full((N,), -1)
    classes[list(LABELLED)] = torch.tensor([0, 1, 2, 0, 1, 2])
    return classes


def minibatches(y, batch_size=4, labelled_batch_size=2, **options):
    parts = parts_of(N, y, batch_size, labelled_batch_size, **options)
    source = InMemory(torch.arange(N).float()[:, None])
    return Minibatches(source, y, parts, None, torch.device("cpu"))


def an_epoch(data):
    """Which data are in each step's minibatch, part by part."""
    return [tuple(part.indices for part in rows) for rows in data.epoch(0)]


def test_labelled_data_come_with_their_classes_and_the_others_without(y):
    labelled, unlabelled = parts_of(N, y, 4, 2)
    assert (labelled.labelled, unlabelled.labelled) == (True, False)
    assert labelled.indices.tolist() == list(LABELLED)
    assert set(unlabelled.indices.tolist()) == set(range(N)) - set(LABELLED)
    data = minibatches(y)
    for rows in data.epoch(0):
        with_classes, without = (call.arguments.args for call in data.batch(rows).calls)
        assert torch.equal(with_classes[1], y[with_classes[0].long().squeeze(1)])
        assert len(without) == 1
        assert (y[without[0].long().squeeze(1)] == -1).all()


def test_an_epoch_passes_once_through_the_longer_part_and_anew_through_the_other(y):
    data = minibatches(y)  # 17 unlabelled by 4: five steps; 6 labelled by 2: three
    assert data.steps == 5
    first, again = ([*zip(*an_epoch(data), strict=True)] for _ in range(2))
    for labelled, unlabelled in (first, again):
        assert sorted(torch.cat(unlabelled).tolist()) == sorted(set(range(N)) - set(LABELLED))
        passes = torch.cat(labelled).tolist()
        assert sorted(passes[:6]) == list(LABELLED), "every label once before any comes twice"
        assert set(passes[6:]) <= set(LABELLED)
        assert len(passes) == 10
    assert torch.cat(first[0]).tolist() != torch.cat(again[0]).tolist()


def test_the_labelled_part_may_be_the_longer_one(y):
    data = minibatches(y, batch_size=17, labelled_batch_size=1)
    assert data.steps == 6
    assert all(len(unlabelled) == 17 for _, unlabelled in an_epoch(data))


def test_a_few_unlabelled_data_are_spread_over_the_epoch(y):
    mostly = torch.where(y == -1, 0, y)
    mostly[[0, 1, 4, 6]] = -1  # 4 unlabelled, 19 labelled
    data = minibatches(mostly, batch_size=2, labelled_batch_size=None)
    assert data.steps == 10
    assert [part.batch_size for part in data.parts] == [2, 1]
    unlabelled = torch.cat([rows for _, rows in an_epoch(data)]).tolist()
    assert sorted(unlabelled[:4]) == sorted(unlabelled[4:8]) == [0, 1, 4, 6]


def test_parts_weigh_as_their_data_do(y):
    labelled, unlabelled = parts_of(N, y, 4, 2)
    assert labelled.weight == labelled.share == pytest.approx(6 / N)
    assert unlabelled.weight == unlabelled.share == pytest.approx(17 / N)
    labelled, unlabelled = parts_of(N, y, 4, 2, data_weights=(10.0, 0.5))
    assert (labelled.weight, unlabelled.weight) == pytest.approx((60 / N, 8.5 / N))
    assert labelled.share == pytest.approx(6 / N)


@pytest.mark.parametrize(("y", "labelled"), [(None, False), (torch.zeros(N, dtype=torch.long), True)])
def test_data_of_one_kind_are_one_part(y, labelled):
    (part,) = parts_of(N, y, 100)
    assert (part.labelled, part.share, part.weight, len(part.indices)) == (labelled, 1, 1, N)


def test_real_values_are_no_classes():
    (part,) = parts_of(N, torch.full((N,), -1.0), 4)
    assert part.labelled


def test_no_label_at_all_is_refused():
    with pytest.raises(InputError, match="all 23 classes are -1, which stands for unlabelled"):
        parts_of(N, torch.full((N,), -1), 4)


class Recorder(torch.nn.Module):
    """A program that notes which datum it was shown with which class; x holds the datum's number."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.log_pi = torch.nn.Parameter(torch.zeros(3))
        self.seen = []

    def model(self, x, y=None):
        self.seen += [] if y is None else zip(x.squeeze(1).long().tolist(), y.tolist(), strict=True)
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(x.new_zeros(1), 10 * self.scale.abs() + 1).to_event(1), obs=x)
            if y is not None:
                pyro.sample("y", dist.Categorical(logits=self.log_pi), obs=y)

    def guide(self, x, y=None):
        self.seen += [] if y is None else zip(x.squeeze(1).long().tolist(), y.tolist(), strict=True)


def test_no_class_outside_the_labelled_set_reaches_training(y):
    """Neither checks, steps, validation nor the search for parameters show the programs any other class."""
    recorder = Recorder()
    x = torch.arange(N).float()[:, None]
    fit(
        recorder, x, y, epochs=3, batch_size=4, labelled_batch_size=2,
        validation=x + 100, progress=False, device="cpu",
    )  # fmt: skip
    assert set(recorder.seen) == {(datum, int(y[datum])) for datum in LABELLED}


def test_hidden_labels_leave_no_trace(tmp_path):
    """Two runs whose unlabelled data have other classes in the data set end in the same parameters."""
    digits = data.load("digits")
    x, classes = digits.x_train[:200], digits.y_train[:200]
    kept = data.labels_per_class(classes, 2, 0)
    settings = {"training": Training(epochs=2), "device": "cpu", "progress": False}
    options = {"width": 16, "latent_dim": 2, "vae_epochs": 2}
    states = []
    for shuffled in (False, True):
        others = torch.ones(len(x), dtype=torch.bool)
        others[kept] = False
        y = classes.clone()
        if shuffled:
            y[others] = (y[others] + 1) % 10

        parts = {"x_train": x, "y_train": y, "x_test": digits.x_test, "y_test": digits.y_test}
        file = tmp_path / f"{shuffled}.npz"
        np.savez(file, **{name: part.numpy() for name, part in parts.items()})
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(data, "labels_per_class", lambda *args, **_: kept)
            settings["data"] = Data(data=str(file), labels=2)
            run = train("pcvae", tmp_path / str(shuffled), options=options, **settings)
            states.append(run.pair.state_dict())
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (torch.zeros(N - 1, dtype=torch.long), "there are 23 data and 22 classes"),
        (torch.full((N,), -2), "the classes go down to -2"),
        (torch.zeros(N, 2, dtype=torch.long), "shape"),
        ([0] * N, "the classes are a list, not a tensor"),
        (torch.full((N,), -1), "all 23 classes are -1"),
    ],
)
def test_bad_classes_are_refused(y, message, make_cpcvae):
    pair = make_cpcvae()
    with pytest.raises(InputError, match=message):
        fit(pair, torch.rand(N, 1, 4, 4).round().double(), y, epochs=1, progress=False)


@pytest.mark.parametrize("name", ["make_m2", "make_cpcvae"])
def test_a_class_that_the_model_does_not_have_is_refused(name, request, binary_images, classes):
    pair = request.getfixturevalue(name)()
    y = classes.clone()
    y[4] = 3
    with pytest.raises(InputError, match=r"go up to 3, and site 'y' has 3, counted from 0"):
        fit(pair, binary_images.double(), y, epochs=1, progress=False)


def test_data_do_not_count_less_than_nothing():
    with pytest.raises(InputError, match=r"data_weights are \(1.0, -1.0\)"):
        parts_of(4, torch.tensor([0, 1, -1, -1]), 2, data_weights=(1.0, -1.0))
