"""The settings are fit's keyword arguments, and a run's parts can be used by themselves."""

import dataclasses
import inspect
import math

import pytest
import torch
from training_helpers import snapshot

import pyrovae
import pyrovae.training
import pyrovae.training.fit
from pyrovae.errors import InputError
from pyrovae.schedules import cyclical, linear_warm_up
from pyrovae.training import Settings, TrainingRun, fit
from pyrovae.training.fit import fit as from_the_module
from pyrovae.training.fit import minibatches_of
from pyrovae.training.sources import source_of

pytestmark = pytest.mark.cpu


def test_the_fields_are_fits_keyword_arguments():
    parameters = inspect.signature(fit).parameters.values()
    parameters = [p for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "given"]  # data, as x is
    keywords = {p.name: p.default for p in parameters}
    fields = {field.name: field.default for field in dataclasses.fields(Settings)}
    assert list(fields.items()) == list(keywords.items())
    annotations = {p.name: p.annotation for p in parameters}
    assert {field.name: field.type for field in dataclasses.fields(Settings)} == annotations
    documented = {line.strip().split(":")[0] for line in fit.__doc__.splitlines()}
    assert set(fields) <= documented


def test_fit_is_the_function_however_it_is_imported():
    assert pyrovae.fit is fit is from_the_module is pyrovae.training.fit
    assert callable(fit)


def test_settings_do_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().epochs = 3


def test_numbers_are_those_of_the_time():
    settings = Settings(beta=linear_warm_up(2), weights={"y": 3.0}, epochs=4)
    numbers = settings.numbers(0.5, own_rate=0.1)
    assert (numbers.beta, numbers.weights, numbers.learning_rate) == (0.25, {"y": 3.0}, 0.1)
    assert Settings(learning_rate=linear_warm_up(2)).numbers(0.5, own_rate=0.1).learning_rate == 0.25
    assert Settings(beta=cyclical(2), epochs=4).final_numbers().beta == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"workers": -1}, "workers is -1"),
        ({"workers": 1.5}, "is 1.5"),
        ({"patience": 2}, "patience"),
    ],
)
def test_settings_that_are_not_possible_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        Settings(**settings)


def test_a_step_adds_to_its_sums(make_vae, binary_images, param_store):
    """On parameters that stay where they are, the sums of two half minibatches are those of both data."""
    settings = Settings(optimizer=lambda p: torch.optim.SGD(p, lr=0.0), batch_size=12, compile="off")
    data = minibatches_of(source_of(binary_images), None, settings, torch.device("cpu"))
    vae = make_vae()
    before = snapshot(vae)
    run = TrainingRun(vae, data, None, settings)
    step = run.build_step()
    losses = []
    for rows in data.epoch(0):
        step.begin(0)
        assert step(rows, run.numbers(0.0)) is None
        losses.append(step.read()["loss"])
        assert step.count == 12
    step.begin(0)
    torch.manual_seed(0)
    for rows in data.epoch(0):
        step(rows, run.numbers(0.0))
    sums = step.read()
    assert step.count == 24
    assert sums["loss"] == pytest.approx(sums["kl"] - sums["reconstruction"], rel=1e-5)
    assert sums["loss"] == pytest.approx(sum(losses), rel=0.05)
    assert all(math.isfinite(value) for value in sums.values())
    assert all(torch.equal(value, before[name]) for name, value in vae.state_dict().items())
    # A minibatch may also be given.
    step.begin(0)
    step(data.first(), run.numbers(0.0))
    assert step.count == 12
