"""What checkpoints hold: plain values, a program's random streams, and everything that a module keeps."""

import datetime
import json
import random
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR, MultiStepLR, SequentialLR, StepLR
from training_helpers import same, snapshot, train, vae_with, without_seconds

from pyrovae.errors import CheckpointError
from pyrovae.schedules import linear_warm_up
from pyrovae.training.checkpoints import load_checkpoint

pytestmark = pytest.mark.cpu

adam = partial(torch.optim.Adam, lr=0.01)


def split(make, x, folder, epochs=4, at=2, **settings):
    """Train in one piece and in two, and return both modules and histories."""
    whole, first, second = make(), make(), make()
    one = train(whole, x, epochs=epochs, folder=folder / "whole", **settings)
    train(first, x, epochs=at, folder=folder / "parts", **settings)
    two = train(second, x, epochs=epochs, folder=folder / "parts", resume=True, **settings)
    return whole, second, one, two


NUMBERS = {
    "rate": {"optimizer": partial(torch.optim.Adam, lr=np.logspace(-4, -2, 3)[1])},
    "32-bit rate": {"optimizer": partial(torch.optim.Adam, lr=np.float32(0.003))},
    "tensor rate": {"optimizer": partial(torch.optim.Adam, lr=torch.tensor(0.003))},
    "betas": {"optimizer": partial(torch.optim.Adam, lr=0.01, betas=tuple(np.array([0.8, 0.9])))},
    "beta": {"beta": np.float32(0.3)},
    "tensor beta": {"beta": torch.tensor(0.3)},
    "schedule": {"beta": lambda epoch: np.minimum(1.0, np.float32(epoch) / 3)},
    "tensor schedule": {"beta": lambda epoch: torch.tensor(epoch / 4)},
    "weights": {"weights": {"x": np.float32(0.5)}},
    "seed": {"seed": np.int64(3)},
    "sizes": {"batch_size": np.int64(7), "epochs": np.int32(4), "clip_norm": np.float64(0.3)},
    "tensor sizes": {"batch_size": torch.tensor(7), "clip_norm": torch.tensor(0.3)},
    "data weights": {"data_weights": (np.float32(1.0), np.float64(0.5))},
    "period": {"scheduler": partial(CosineAnnealingLR, T_max=np.int64(4), eta_min=np.float64(1e-5))},
    "tensor period": {"scheduler": partial(CosineAnnealingLR, T_max=torch.tensor(4))},
    "milestones": {
        "scheduler": partial(MultiStepLR, milestones=list(np.array([1, 3])), gamma=np.float32(0.5))
    },
    "function": {"scheduler": partial(LambdaLR, lr_lambda=lambda epoch: np.exp(-epoch))},
    "sequence": {
        "scheduler": lambda o: SequentialLR(
            o, [StepLR(o, np.int64(1)), CosineAnnealingLR(o, np.int64(3))], milestones=[np.int64(2)]
        )
    },
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_of_any_kind_are_saved_resumed_and_written(name, make_vae, binary_images, tmp_path):
    settings = {"optimizer": adam} | NUMBERS[name]
    epochs = settings.pop("epochs", 4)
    whole, parts, one, two = split(make_vae, binary_images, tmp_path, epochs=epochs, **settings)
    assert same(whole.state_dict(), parts.state_dict())
    assert without_seconds(one) == without_seconds(two)
    one.save(tmp_path / "history.json")
    assert json.loads((tmp_path / "history.json").read_text())["rows"] == one.rows
    assert all(type(value) in (int, float) for row in one.rows for value in row.values())


def test_a_setting_that_cannot_be_read_back_is_named_before_the_first_step(
    make_vae, binary_images, tmp_path
):
    class Dated(StepLR):
        def __init__(self, optimizer):
            self.begun = datetime.date(2026, 11, 27)
            super().__init__(optimizer, 2)

    vae = make_vae()
    before = snapshot(vae)
    with pytest.raises(CheckpointError, match=r"scheduler > begun is a date: convert it"):
        train(vae, binary_images, scheduler=Dated, folder=tmp_path)
    assert same(before, vae.state_dict())
    train(vae, binary_images, scheduler=Dated)  # without checkpoints nothing needs to be read


class Keeping(nn.Module):
    """A network that counts what it has seen in its extra state."""

    def __init__(self, network, state=lambda seen: {"seen": seen}):
        super().__init__()
        self.network, self.seen, self.state = network, 0, state

    def forward(self, x):
        self.seen += self.training
        return self.network(x) * (1 + 0.01 * self.seen)

    def get_extra_state(self):
        return self.state(self.seen)

    def set_extra_state(self, state):
        self.seen = state["seen"] if isinstance(state, dict) else int(state)


@pytest.mark.parametrize("state", [lambda n: {"seen": n}, torch.tensor, int, np.int64], ids="dtin")
def test_the_extra_state_of_a_module_is_kept(state, binary_images, tmp_path):
    def make():
        torch.manual_seed(0)
        vae = vae_with()
        vae.likelihood.network = Keeping(vae.likelihood.network, state)
        return vae

    validation = {"validation": binary_images[:5]}
    whole, parts, one, two = split(make, binary_images, tmp_path, optimizer=adam, **validation)
    assert same_with_extra(whole, parts)
    assert whole.likelihood.network.seen == parts.likelihood.network.seen > 0
    assert without_seconds(one) == without_seconds(two)


def same_with_extra(one, other):
    states = [m.state_dict() for m in (one, other)]
    extra = [{n: s.pop(n) for n in list(s) if n.endswith("_extra_state")} for s in states]
    return same(*states) and extra[0] == extra[1]


def test_an_extra_state_that_cannot_be_read_back_is_named(binary_images, tmp_path):
    vae = vae_with()
    vae.likelihood.network = Keeping(vae.likelihood.network, lambda seen: {"at": datetime.date.today()})
    with pytest.raises(CheckpointError, match=r"likelihood.network._extra_state > at is a date"):
        train(vae, binary_images, folder=tmp_path)


class Averaging(nn.Module):
    """A network that keeps a running mean of its results, in a buffer that its `state_dict` leaves out."""

    def __init__(self, network, lazy):
        super().__init__()
        self.network = network
        self.register_buffer("mean", None if lazy else torch.zeros(()), persistent=False)

    def forward(self, x):
        found = self.network(x)
        if self.training:
            mean = torch.zeros(()) if self.mean is None else self.mean
            self.mean = 0.9 * mean + 0.1 * found.detach().mean()
        return found if self.mean is None else found - self.mean


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("validated", [False, True])
def test_a_buffer_that_is_not_persistent_is_resumed(lazy, validated, binary_images, tmp_path):
    def make():
        torch.manual_seed(0)
        vae = vae_with()
        vae.likelihood.network = Averaging(vae.likelihood.network, lazy)
        return vae

    settings = {"validation": binary_images[:5]} if validated else {}
    whole, parts, one, two = split(make, binary_images, tmp_path, optimizer=adam, **settings)
    assert torch.equal(whole.likelihood.network.mean, parts.likelihood.network.mean)
    assert without_seconds(one) == without_seconds(two)


# Random streams


class Noisy(nn.Module):
    """A network that draws from the streams of Python, NumPy and torch."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        noise = random.gauss(0, 1) + np.random.normal() + torch.randn(()).item()
        return self.network(x) * (1 + 0.1 * noise)


@pytest.fixture
def make_noisy():
    def make():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            vae = vae_with()
            vae.likelihood.network = Noisy(vae.likelihood.network)
            return vae

    return make


def test_a_program_with_other_random_numbers_is_resumed_bit_for_bit(make_noisy, binary_images, tmp_path):
    settings = {"optimizer": adam, "validation": binary_images[:5]}
    whole, parts, one, two = split(make_noisy, binary_images, tmp_path, at=3, **settings)
    assert same(whole.state_dict(), parts.state_dict())
    assert without_seconds(one) == without_seconds(two)


def test_the_seed_alone_decides_all_random_numbers(make_noisy, binary_images):
    runs = []
    for number, validation in ((1, None), (2, binary_images[:5])):
        random.seed(number), np.random.seed(number), torch.manual_seed(number)
        vae = make_noisy()
        before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
        history = train(vae, binary_images, optimizer=adam, epochs=3, validation=validation)
        runs.append(history["loss"])
        assert random.getstate() == before[0]
        assert np.random.get_state()[1].tolist() == before[1]
        assert torch.equal(torch.get_rng_state(), before[2])
    assert runs[0] == runs[1], "validation draws from streams of its own"
    assert train(make_noisy(), binary_images, optimizer=adam, epochs=3, seed=1)["loss"] != runs[0]


def test_an_optimiser_that_computes_a_loss_twice_gets_the_same_random_numbers(make_noisy, binary_images):
    losses = []

    class Twice(torch.optim.SGD):
        def step(self, closure):
            losses.append([closure().item(), closure().item()])

    train(make_noisy(), binary_images, optimizer=partial(Twice, lr=0.0), epochs=1)
    assert all(one == other for one, other in losses)


def test_the_streams_are_saved_as_plain_values(make_noisy, binary_images, tmp_path):
    train(make_noisy(), binary_images, folder=tmp_path)
    assert load_checkpoint(tmp_path)["rng"]["numpy"][0] == "MT19937"


def test_a_warm_up_is_resumed_with_numbers_of_any_kind(make_vae, binary_images, tmp_path):
    settings = {"beta": linear_warm_up(np.float32(3)), "optimizer": adam}
    whole, parts, one, two = split(make_vae, binary_images, tmp_path, **settings)
    assert same(whole.state_dict(), parts.state_dict())
