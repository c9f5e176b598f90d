"""Beta and the learning rate of a recipe by default, over the first epochs and those of a resumed run."""

import json
import re
import shutil

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from small_runs import pyrovae
from torch import nn

from pyrovae import recipes
from pyrovae.recipes import About, Plan, Run, Stage, Training, recipe
from pyrovae.schedules import chained, cosine_decay
from pyrovae.training.checkpoints import checkpoints_in

X = torch.rand(100, 1, 4, 4, generator=torch.Generator().manual_seed(0)).round()
SMALL = {"latent_dim": 2, "width": 8}
STEPS = 9  # of 10 data, from 90 to learn: so few that the rises take half of the epochs
SHORT = {"batch_size": 10, "compile": "off"}


def fitted(build=recipes.vae, y=None, options=None, **training):
    plan = build(About.of(X, y), **(SMALL | (options or {})))
    return plan.fit(X, y, training=Training(**(SHORT | training)), device="cpu")


def last_steps(epochs):
    return [epoch + (STEPS - 1) / STEPS for epoch in range(epochs)]


def test_beta_rises_to_1_and_the_rate_rises_and_falls():
    history = fitted(epochs=4).history
    rate = cosine_decay(4, 5e-3, warm_up=10 / STEPS)
    assert history["learning_rate"] == pytest.approx([rate(time) for time in last_steps(4)])
    assert history["beta"] == pytest.approx([min(1, time / 2) for time in last_steps(4)])
    assert history["beta"][-1] == 1


@pytest.mark.parametrize(
    "model", ["hvae", "ppca", "cvae", "autoencoder", "m2", "m1m2", "pcvae", "cpcvae", "bnn"]
)
def test_each_recipe_warms_up(model):
    known = {**SMALL, "vae_epochs": 2, "spread": False}
    build = recipes.load_recipe(model)
    options = {name: value for name, value in known.items() if name in recipes.options_of(build)}
    y = torch.arange(100) % 3
    result = build(About.of(X, y), **options).fit(X, y, training=Training(epochs=4, **SHORT), device="cpu")
    for history in result.histories.values():
        beta, rates = history["beta"], history["learning_rate"]
        assert 0 < beta[0] < beta[-1]
        assert rates[-1] < max(rates)
    assert beta[-1] == 1


@pytest.mark.parametrize("objective", ["iwae", "dreg"])
def test_an_importance_weighted_bound_has_no_beta_to_warm_up(objective):
    history = fitted(options={"objective": objective, "particles": 2}, epochs=2).history
    assert history["beta"] == [1, 1]
    assert history["learning_rate"][0] > history["learning_rate"][1]


class Clusters(nn.Module):
    """k ~ Cat(3), x ~ Bernoulli(of k), where the guide need not have k."""

    def __init__(self, in_guide):
        super().__init__()
        self.logits = nn.Parameter(torch.randn(3, 16))
        self.in_guide = in_guide
        if in_guide:
            self.of_k = nn.Linear(16, 3)

    def model(self, x):
        with pyro.plate("data", len(x)):
            how = {} if self.in_guide else {"enumerate": "parallel"}
            k = pyro.sample("k", dist.Categorical(torch.ones(3)), infer=how)
            pyro.sample("x", dist.Bernoulli(logits=self.logits[k]).to_event(1), obs=x.flatten(1))

    def guide(self, x):
        with pyro.plate("data", len(x)):
            if self.in_guide:
                logits = self.of_k(x.flatten(1))
                pyro.sample("k", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})


@pytest.mark.parametrize("in_guide", [False, True])
def test_a_class_that_the_model_alone_enumerates_has_no_beta_to_warm_up(in_guide):
    @recipe()
    def build(about, *, latent_dim: int = 2, width: int = 8) -> Plan:
        return Plan([Stage(Clusters(in_guide))], pixels="binary")

    assert fitted(build, epochs=2).history["beta"] == ([8 / 9, 1] if in_guide else [1, 1])


# Resuming


@pytest.fixture(scope="module")
def two_epochs(tmp_path_factory):
    """The folder of a run of 2 epochs, to be copied."""
    folder = tmp_path_factory.mktemp("runs") / "two"
    file = folder.parent / "x.npz"
    np.savez(file, x=X.numpy())
    recipes.train(
        "vae",
        folder,
        options=SMALL,
        training=Training(epochs=2, **SHORT),
        data=recipes.Data(data=str(file)),
        device="cpu",
        progress=False,
    )
    return folder


def resumed(folder, **changes):
    """Resume a run without a warning, since its schedules have not changed."""
    return Run.open(folder).resume(device="cpu", progress=False, **changes)


@pytest.fixture(scope="module")
def six_epochs(two_epochs):
    folder = shutil.copytree(two_epochs, two_epochs.parent / "six")
    return resumed(folder, epochs=6)


def test_new_epochs_let_the_rate_rise_and_fall_again_and_beta_stay(six_epochs):
    steps = 8  # of 10 data, from 72 to learn, since a test part was split off
    times = [epoch + (steps - 1) / steps for epoch in range(6)]
    rate = chained([(2, cosine_decay(2, 5e-3, warm_up=1)), (4, cosine_decay(4, 5e-3, warm_up=10 / steps))])
    assert six_epochs.history["learning_rate"] == pytest.approx([rate(time) for time in times])
    assert six_epochs.history["beta"] == pytest.approx([7 / 8, 1, 1, 1, 1, 1])
    assert json.loads((six_epochs.folder / "config.json").read_text())["config"]["ends"] == [2, 6]


def test_a_run_cut_short_ends_its_first_schedule_and_is_the_same_bit_for_bit(
    two_epochs, six_epochs, tmp_path
):
    folder = shutil.copytree(two_epochs, tmp_path / "run")
    checkpoints_in(folder / "checkpoints")[0].path.unlink()  # as if it was killed in the second epoch
    resumed(folder, epochs=6)
    for _ in range(3):
        checkpoints_in(folder / "checkpoints")[0].path.unlink()
        run = resumed(folder)
    expected = six_epochs.pair.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in run.pair.state_dict().items())
    assert run.history["learning_rate"] == six_epochs.history["learning_rate"]


def test_fewer_epochs_than_at_first_leave_the_schedules_as_they_are(two_epochs, tmp_path):
    folder = shutil.copytree(two_epochs, tmp_path / "run")
    checkpoints_in(folder / "checkpoints")[0].path.unlink()
    assert (
        resumed(folder, epochs=1).history["learning_rate"]
        == Run.open(two_epochs).history["learning_rate"][:1]
    )
    assert (
        resumed(folder, epochs=2).history["learning_rate"] == Run.open(two_epochs).history["learning_rate"]
    )


def test_what_is_repeated_is_said_and_nothing_else(two_epochs, tmp_path, capfd):
    folder = shutil.copytree(two_epochs, tmp_path / "run")
    said = r"beyond its 2 epochs: the learning rate warms up and decays once more from epoch 3 to epoch 4"
    pyrovae("resume", folder, "--device", "cpu", "--epochs", 4, "--quiet")
    assert re.search(said, capfd.readouterr().err)
    Run.open(folder).resume(device="cpu", epochs=4)
    with pytest.warns(UserWarning, match=r"other settings .*learning_rate"):
        longer = Run.open(folder).resume(device="cpu", epochs=5, decay="none")
    assert longer.history["learning_rate"][-1] == 5e-3
    assert "once more" not in capfd.readouterr().err
