"""The learning rate of `fit`: a number or a schedule of the time, set before each step."""

from functools import partial

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import StepLR
from training_helpers import Interruption, frozen, interrupt, same, train, without_seconds

from pyrovae.errors import InputError
from pyrovae.schedules import chained, cosine_decay
from pyrovae.training.checkpoints import load_checkpoint

pytestmark = pytest.mark.cpu

RATE = cosine_decay(4, 0.02, warm_up=1)


class Noting(torch.optim.Adam):
    """Adam that notes the rates of its steps."""

    rates: list[float]

    def __init__(self, parameters):
        super().__init__(parameters, fused=True)
        self.rates = []
        type(self).last = self

    def step(self, closure=None):
        self.rates.append(self.param_groups[0]["lr"])
        return super().step(closure)


def test_a_schedule_sets_the_rate_before_each_step(make_vae, binary_images):
    steps = -(-len(binary_images) // 10)
    history = train(make_vae(), binary_images, epochs=4, optimizer=Noting, learning_rate=RATE)
    assert Noting.last.rates == [RATE(step / steps) for step in range(4 * steps)]
    assert Noting.last.rates[0] == 0
    assert max(Noting.last.rates) == 0.02
    assert history["learning_rate"] == pytest.approx(Noting.last.rates[steps - 1 :: steps])


@pytest.mark.parametrize(
    "rate", [3e-3, np.float32(0.25), torch.tensor(0.25)], ids=["float", "numpy", "tensor"]
)
def test_a_number_is_the_optimisers_own_rate(rate, make_vae, binary_images):
    one, other = make_vae(), make_vae()
    train(one, binary_images, learning_rate=rate)
    train(other, binary_images, optimizer=partial(torch.optim.Adam, lr=float(rate), fused=True))
    assert same(one.state_dict(), other.state_dict())


@pytest.mark.usefixtures("recorded")
def test_a_recorded_step_sees_the_moving_rate(make_vae, binary_images):
    eager, recorded = make_vae(), make_vae()
    settings = {"epochs": 4, "learning_rate": RATE, "optimizer": torch.optim.SGD}
    first = train(eager, binary_images, compile="off", **settings)
    second = train(recorded, binary_images, compile="on", **settings)
    assert first["learning_rate"] == second["learning_rate"]
    for name, value in eager.state_dict().items():
        assert torch.allclose(value, recorded.state_dict()[name], rtol=1e-5, atol=1e-7), name


def test_a_killed_run_goes_on_at_the_rate_of_the_time(make_vae, binary_images, tmp_path):
    def stop(state):
        if state.epoch == 2:
            interrupt()

    settings = {"epochs": 4, "learning_rate": lambda epoch: np.float32(RATE(epoch))}
    whole = make_vae()
    expected = train(whole, binary_images, **settings)
    with pytest.raises(Interruption):
        train(make_vae(), binary_images, folder=tmp_path, callbacks=[stop], **settings)
    (group,) = load_checkpoint(tmp_path)["optimizer"]["param_groups"]
    assert type(group["lr"]) is float
    resumed = make_vae()
    history = train(resumed, binary_images, folder=tmp_path, resume=True, **settings)
    assert without_seconds(history) == without_seconds(expected)
    assert same(resumed.state_dict(), whole.state_dict())


def test_a_longer_schedule_that_begins_alike_is_no_change(make_vae, binary_images, tmp_path):
    train(make_vae(), binary_images, epochs=2, folder=tmp_path, learning_rate=cosine_decay(2, 0.02))
    longer = chained([(2, cosine_decay(2, 0.02)), (3, cosine_decay(3, 0.02, warm_up=1))])
    history = train(make_vae(), binary_images, epochs=5, folder=tmp_path, resume=True, learning_rate=longer)
    steps = [epoch - 1 / 3 for epoch in (3, 4, 5)]  # the last ones of the new epochs
    assert history["learning_rate"][2:] == pytest.approx([longer(step) for step in steps])
    with pytest.warns(
        UserWarning, match=r"other settings .*: learning_rate from 0\.02 to 0\.0029\d* -> 0\.5\.$"
    ):
        train(make_vae(), binary_images, epochs=6, folder=tmp_path, resume=True, learning_rate=0.5)


def two_rates(parameters):
    first, *others = parameters
    return torch.optim.SGD([{"params": [first], "lr": 0.5}, {"params": others, "lr": 0.25}])


class Rateless(torch.optim.Optimizer):
    def __init__(self, parameters):
        super().__init__(parameters, {})

    def step(self, closure=None):
        return closure()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scheduler": partial(StepLR, step_size=1)}, "learning_rate is given, and so is a scheduler"),
        ({"optimizer": frozen}, r"learning_rate is given, and so is the optimiser's lr, 0\.0: leave one"),
        ({"optimizer": two_rates}, r"groups of parameters have rates of their own, 0\.5, 0\.25: leave"),
        ({"optimizer": Rateless}, r"Rateless has no learning rate \(lr\): leave learning_rate out"),
        ({"optimizer": torch.optim.SGD([torch.zeros(1)])}, "optimizer is a SGD object"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0; it must be a finite number of at least 0"),
        ({"learning_rate": 0.0}, "learning_rate is 0 all the time"),
        ({"learning_rate": "fast"}, "learning_rate is 'fast'; it must be a finite number"),
        ({"learning_rate": iter([1.0])}, "learning_rate is .*, an iterator"),
        ({"learning_rate": lambda epoch: 1 - epoch}, "learning_rate is -0.5 at epoch 1.5"),
        ({"learning_rate": iter([0.1, 0.2]).__next__}, "learning_rate is a schedule that cannot be called"),
    ],
)
def test_what_would_set_the_rate_twice_or_not_at_all_is_refused(settings, message, make_vae, binary_images):
    with pytest.raises(InputError, match=message):
        train(make_vae(), binary_images, **({"learning_rate": 0.1} | settings))
