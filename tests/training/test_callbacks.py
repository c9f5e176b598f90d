"""Callbacks: they look, log and stop, and change nothing in the run."""

import random

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training_helpers import Interruption, interrupt, same, train, without_seconds

from pyrovae.data import binarise
from pyrovae.errors import InputError
from pyrovae.evaluation import marginal_likelihood
from pyrovae.training.checkpoints import load_checkpoint

pytestmark = pytest.mark.cpu


class Notes:
    """A callback that notes what it sees."""

    def __init__(self):
        self.states = []

    def on_epoch_end(self, state):
        self.states.append(state)


def greedy(state):
    """Use every random stream there is, and the pair itself."""
    torch.rand(100)
    np.random.rand(100)
    random.random()
    assert not any(part.training for part in state.pair.modules())
    marginal_likelihood(state.pair, torch.ones(3, 1, 4, 4), num_samples=5, progress=False, compile="off")


@pytest.mark.filterwarnings("ignore:.*k-hat.*")
def test_callbacks_see_every_epoch_and_do_not_change_the_run(make_vae, binary_images):
    alone, watched, notes = make_vae(), make_vae(), Notes()
    expected = train(alone, binary_images, epochs=3, transform=binarise)
    history = train(watched, binary_images, epochs=3, transform=binarise, callbacks=[notes, greedy])
    assert same(alone.state_dict(), watched.state_dict())
    assert without_seconds(history) == without_seconds(expected)
    assert [state.epoch for state in notes.states] == [1, 2, 3]
    assert [dict(state.row) for state in notes.states] == history.rows
    assert all(state.pair is watched for state in notes.states)
    with pytest.raises(TypeError):
        notes.states[0].row["elbo"] = 0.0


def test_a_callbacks_own_draws_are_the_same_in_each_run_and_differ_between_epochs(make_vae, binary_images):
    drawn = []
    for _ in range(2):
        train(make_vae(), binary_images, callbacks=[lambda state: drawn.append(torch.rand(()).item())])
    assert drawn[:2] == drawn[2:]
    assert drawn[0] != drawn[1]


def test_the_epochs_checkpoint_is_there_before_its_callbacks(make_vae, binary_images, tmp_path):
    saved = []

    def look(state):
        saved.append(load_checkpoint(tmp_path)["history"]["rows"][-1])
        assert saved[-1] == dict(state.row)

    train(make_vae(), binary_images, epochs=3, folder=tmp_path, callbacks=[look])
    assert [row["epoch"] for row in saved] == [1, 2, 3]


def log_the_norm(state):
    state.log("norm", sum(p.square().sum() for p in state.pair.parameters()))


def test_what_is_logged_is_in_the_history_the_checkpoint_and_tensorboard(make_vae, binary_images, tmp_path):
    folders = {"folder": tmp_path / "run", "tensorboard": tmp_path / "board"}
    vae = make_vae()
    history = train(vae, binary_images, epochs=3, callbacks=[log_the_norm], **folders)
    norm = sum(p.square().sum() for p in vae.parameters()).item()
    assert history["norm"][-1] == pytest.approx(norm)
    assert all(type(value) is float for value in history["norm"])
    assert load_checkpoint(tmp_path / "run")["history"]["rows"] == history.rows
    assert len(list((tmp_path / "run").glob("*.pt"))) == 2, "an epoch has one checkpoint"
    events = EventAccumulator(str(tmp_path / "board"))
    events.Reload()
    assert [event.value for event in events.Scalars("norm")] == pytest.approx(history["norm"])


def test_a_resumed_run_has_logged_what_an_uninterrupted_one_has(make_vae, binary_images, tmp_path):
    expected = train(make_vae(), binary_images, epochs=4, callbacks=[log_the_norm])
    train(make_vae(), binary_images, epochs=2, callbacks=[log_the_norm], folder=tmp_path)
    settings = {"epochs": 4, "callbacks": [log_the_norm], "folder": tmp_path, "resume": True}
    history = train(make_vae(seed=1), binary_images, **settings)
    assert without_seconds(history) == without_seconds(expected)


@pytest.mark.parametrize("place", ["in the callbacks", "in the next epoch"])
def test_a_run_that_is_killed_has_logged_what_an_uninterrupted_one_has(
    place, make_vae, binary_images, tmp_path, monkeypatch
):
    def kill(state):
        if state.epoch == 2 and place == "in the callbacks":
            raise Interruption
        if state.epoch == 2:
            monkeypatch.setattr(torch.optim.Adam, "step", interrupt)

    expected = train(make_vae(), binary_images, epochs=4, callbacks=[log_the_norm])
    with pytest.raises(Interruption):
        train(make_vae(), binary_images, epochs=4, callbacks=[log_the_norm, kill], folder=tmp_path)
    monkeypatch.undo()
    calls = Notes()
    settings = {"epochs": 4, "callbacks": [log_the_norm, calls], "folder": tmp_path, "resume": True}
    history = train(make_vae(seed=1), binary_images, **settings)
    assert without_seconds(history) == without_seconds(expected)
    assert [state.epoch for state in calls.states] == [2, 3, 4]
    train(make_vae(seed=1), binary_images, **settings)
    assert len(calls.states) == 3  # they are not called again


def test_what_is_logged_in_some_epochs_only_is_nan_in_the_others(make_vae, binary_images):
    def second(state):
        if state.epoch == 2:
            state.log("second", 5)

    history = train(make_vae(), binary_images, epochs=3, callbacks=[second])
    assert np.isnan(history["second"]).tolist() == [True, False, True]
    with pytest.raises(KeyError):
        history["third"]


def test_a_column_of_the_history_is_not_logged_over(make_vae, binary_images):
    for name, value, message in (("elbo", 1.0, "'elbo'.*another name"), ("good", "yes", "'yes'.*number")):
        with pytest.raises(InputError, match=message):
            train(make_vae(), binary_images, callbacks=[lambda s, n=name, v=value: s.log(n, v)])


def stop_after_two(state):
    if state.epoch == 2:
        state.stop()


def test_a_callback_stops_the_run(make_vae, binary_images, tmp_path):
    vae, alone = make_vae(), make_vae()
    history = train(vae, binary_images, epochs=9, callbacks=[stop_after_two], folder=tmp_path)
    assert len(history.rows) == 2
    assert history.stopped_early
    train(alone, binary_images, epochs=2)
    assert same(vae.state_dict(), alone.state_dict())
    # It stays stopped, and goes on without callbacks.
    settings = {"epochs": 3, "folder": tmp_path, "resume": True}
    assert len(train(make_vae(), binary_images, callbacks=[stop_after_two], **settings).rows) == 2
    resumed, whole = make_vae(), make_vae()
    assert len(train(resumed, binary_images, **settings).rows) == 3
    train(whole, binary_images, epochs=3)
    assert same(resumed.state_dict(), whole.state_dict())


def test_what_a_callback_raises_ends_a_run_that_can_be_resumed(make_vae, binary_images, tmp_path):
    def fail(state):
        if state.epoch == 2:
            interrupt()

    with pytest.raises(Interruption):
        train(make_vae(), binary_images, epochs=4, folder=tmp_path, callbacks=[fail])
    assert len(load_checkpoint(tmp_path)["history"]["rows"]) == 2
    resumed, whole = make_vae(seed=1), make_vae()
    train(resumed, binary_images, epochs=4, folder=tmp_path, resume=True)
    train(whole, binary_images, epochs=4)
    assert same(resumed.state_dict(), whole.state_dict())


@pytest.mark.parametrize("callbacks", [Notes(), [5], [Notes]])
def test_what_is_no_callback_is_refused(callbacks, make_vae, binary_images):
    with pytest.raises(InputError, match="callback"):
        train(make_vae(), binary_images, callbacks=callbacks)
