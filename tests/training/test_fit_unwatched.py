"""Steps whose losses nobody looks at, as on a GPU."""

import copy
import math
from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from training_helpers import (
    AtCall,
    presentations,
    same,
    train,
    without_seconds,
)

from pyrovae.data import binarise
from pyrovae.errors import NonFiniteError
from pyrovae.objectives import SupervisedELBO
from pyrovae.schedules import linear_warm_up
from pyrovae.training import step

pytestmark = pytest.mark.cpu


@pytest.fixture
def unwatched(monkeypatch):
    """Training leaves losses alone until the end of an epoch, as on a GPU."""
    monkeypatch.setattr(step, "reads_losses", lambda device: False)


class Reads(TorchDispatchMode):
    """Counts how often Python reads a tensor's value, for which a GPU would have to be waited for."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


def reads_of_an_epoch(pair, x, y, **settings):
    """The more there are in an epoch of more steps, with the same data; for one of each."""
    counts = []
    for batch_size in (12, 3):  # with both the checks take all data at once
        with Reads() as reads:
            train(copy.deepcopy(pair), x, y=y, epochs=1, batch_size=batch_size, **settings)
        counts.append(reads.count)
    return counts[1] - counts[0]


@pytest.mark.parametrize("name", ["vae", "m2"])
def test_unwatched_steps_read_no_value(
    name, make_vae, make_m2, binary_images, classes, unwatched, monkeypatch
):
    settings = {"beta": linear_warm_up(2.0), "clip_norm": 1.0, "transform": binarise, "y": None}
    settings["optimizer"] = partial(torch.optim.Adam, lr=1e-3, fused=True)
    pair, x = make_vae(), binary_images
    if name == "m2":
        pair, x, y = make_m2(), binary_images.double(), torch.where(classes == 0, -1, classes)
        settings |= {"y": y, "objective": SupervisedELBO(1.0)}
    assert reads_of_an_epoch(pair, x, **settings) == 0
    monkeypatch.undo()
    assert reads_of_an_epoch(pair, x, **settings) > 0, "a watched step reads its loss"


def test_unwatched_steps_train_as_watched_ones(make_vae, binary_images, unwatched, monkeypatch):
    def run():
        vae = make_vae()
        return train(vae, binary_images, transform=binarise, validation=binary_images[:6]), vae

    history, vae = run()
    monkeypatch.undo()
    watched_history, watched = run()
    assert same(vae.state_dict(), watched.state_dict())
    assert without_seconds(history) == without_seconds(watched_history)


def test_a_bad_step_that_nobody_watched_is_found_by_repeating_the_epoch(
    make_vae, binary_images, tmp_path, unwatched, monkeypatch
):
    settings = {"optimizer": partial(torch.optim.SGD, lr=1e6), "epochs": 50}

    def failure(folder):
        vae = make_vae()
        with pytest.raises(
            NonFiniteError, match=r"the loss of step \d+ .* at the guide's site 'z'"
        ) as caught:
            train(vae, binary_images, folder=folder, **settings)
        files = [path.name for path in folder.iterdir()] if folder.exists() else []
        return str(caught.value), vae.state_dict(), files

    unseen = failure(tmp_path / "unwatched")
    monkeypatch.undo()
    seen = failure(tmp_path / "watched")
    assert unseen[0] == seen[0]
    assert same(unseen[1], seen[1]), "the parameters are those before the bad step"
    assert unseen[2] == seen[2]


def test_a_bad_number_that_does_not_come_back_is_not_passed_over(make_vae, binary_images, unwatched):
    vae = make_vae()
    spoilt = AtCall(presentations(binary_images, 10) + 2, lambda x: x * math.nan)
    with pytest.raises(NonFiniteError, match=r"the loss of epoch 1 was not finite, .*repeated"):
        train(vae, binary_images, transform=spoilt)
