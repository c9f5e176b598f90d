"""Limits: data are drawn at random, and what would not end or fit is refused."""

import json
import os

import numpy as np
import pytest
import torch
from small_runs import pyrovae, train_small

from pyrovae.errors import InputError
from pyrovae.evaluation import class_probabilities, inference_gaps, marginal_likelihood
from pyrovae.recipes import OptionError
from pyrovae.recipes.measuring import evaluate
from pyrovae.recipes.run_data import Choice

HUGE = 100_000_000_000
pytestmark = pytest.mark.filterwarnings("ignore:k-hat", "ignore:num_samples")


@pytest.fixture(scope="module")
def by_class(tmp_path_factory):
    """A run whose 90 test data are sorted by class, to be read only."""
    folder = tmp_path_factory.mktemp("sorted")
    y = np.repeat(np.arange(3), 30)
    x = np.random.default_rng(0).integers(0, 40, (90, 1, 4, 4)) + 100 * y[:, None, None, None]
    np.savez(folder / "x.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    return train_small(folder / "run", "m2", data={"data": str(folder / "x.npz")}, training={"epochs": 1})


def test_a_limit_draws_from_all_classes_and_the_result_says_so(by_class):
    printed = pyrovae("evaluate", by_class.folder, "--num-samples", 40, "--limit", 30, "--quiet")
    assert "measured : 30 of the 90 data, drawn at random with seed 0\n" in printed
    metrics = json.loads((by_class.folder / "metrics.json").read_text())
    assert metrics["limit"] == {"num_data": 30, "of": 90, "seed": 0}
    single = json.loads((by_class.folder / "marginal_likelihood.json").read_text())
    rows = single["limit"]["rows"]
    assert rows == sorted(set(rows))
    counts = np.bincount(by_class.images.y_test[rows], minlength=3)
    assert (counts >= 5).all(), "hypergeometric with mean 10 and variance 30/9 * 2 * 60/89 = 4.5"
    x = by_class.presentation.fixed(by_class.images.x_test)[rows]
    direct = marginal_likelihood(by_class.pair, x, num_samples=40)
    assert single["data"]["log_px"] == direct.log_px.tolist()
    wrong = class_probabilities(by_class.pair, by_class.presentation.encoded(by_class.images.x_test)[rows])
    truth = by_class.images.y_test[rows]
    assert metrics["test_error"] == pytest.approx(100 * (wrong.argmax(1) != truth).float().mean().item())


def test_another_seed_draws_others_and_a_larger_limit_contains_a_smaller_one():
    small, large, other = (set(Choice.among(90, n, s).rows.tolist()) for n, s in ((9, 0), (50, 0), (9, 1)))
    assert small < large
    assert small != other
    assert Choice.among(90, None).rows.tolist() == Choice.among(90, 90).rows.tolist() == [*range(90)]
    assert Choice.among(90, 90).content() == {}
    chances = torch.zeros(90)
    for seed in range(400):
        chances[Choice.among(90, 9, seed).rows] += 1 / 400
    assert (chances - 0.1).abs().max() < 5 * (0.1 * 0.9 / 400) ** 0.5, "each datum is as likely"


def test_an_evaluation_of_all_data_has_no_limit(by_class):
    found = evaluate(by_class, num_samples=5, limit=90, progress=False)
    assert "limit" not in found.metrics
    same = evaluate(by_class, num_samples=5, progress=False)
    assert torch.equal(found.result.log_px, same.result.log_px)


@pytest.mark.parametrize(
    "words",
    [
        ["diagnose", "--num-samples", 30, "--steps", 2, "--quiet"],
        ["latent"],
        ["histograms"],
        ["aggregate"],
        ["confusion"],
    ],
    ids=str,
)
def test_all_commands_with_a_limit_draw_and_say_so(words, by_class):
    printed = pyrovae(words[0], by_class.folder, *words[1:], "--limit", 20, "--limit-seed", 4)
    assert "20 of the 90 data, drawn at random with seed 4\n" in printed
    if words[0] == "diagnose":
        content = json.loads((by_class.folder / "active_units.json").read_text())
        assert content["limit"] == {"num_data": 20, "of": 90, "seed": 4}


# What would not end, or not fit


def test_numbers_of_draws_that_would_not_end_are_refused_with_their_limit(by_class, make_vae):
    with pytest.raises(
        InputError, match=r"num_samples = 200000000000 for 90 data .* draws, and at most 10,000,"
    ):
        pyrovae("evaluate", by_class.folder, "--num-samples", 2 * HUGE, "--quiet")
    x = torch.zeros(30, 1, 4, 4)
    with pytest.raises(InputError, match=r"choose num_samples of at most 333,333,333,333"):
        marginal_likelihood(make_vae(), x, num_samples=4 * HUGE)
    with pytest.raises(InputError, match=r"steps = 100000000000 with particles = 10 for 30 data .*fewer"):
        inference_gaps(make_vae(), x, steps=HUGE, num_samples=2)
    with pytest.raises(InputError, match=r"num_samples = 1000000000000 for 90 data"):
        class_probabilities(by_class.pair, by_class.images.x_test, num_samples=10 * HUGE)


def test_log_weights_that_do_not_fit_are_refused(make_vae, monkeypatch):
    monkeypatch.setattr("pyrovae.compute.memory._most", lambda: 10**9)
    with pytest.raises(InputError, match=r"num_samples = 100000000, with .* needs 1.6 GB, and"):
        marginal_likelihood(make_vae(), torch.zeros(3, 1, 4, 4), num_samples=10**8)


@pytest.mark.parametrize("device", ["/dev/zero", "fifo"])
def test_a_configuration_file_without_an_end_is_refused(device, tmp_path):

    if device == "fifo":
        device = str(tmp_path / "fifo")
        os.mkfifo(device)
    with pytest.raises(OptionError, match="is not an ordinary file: give a TOML file"):
        pyrovae("train", "vae", "--config", device, "--out", tmp_path / "run")


def test_a_large_configuration_file_is_refused(tmp_path):
    (tmp_path / "large.toml").write_bytes(b"#" * 1_000_001)
    with pytest.raises(OptionError, match=r"large\.toml has more than 1.0 MB: give a TOML file of options"):
        pyrovae("train", "vae", "--config", tmp_path / "large.toml", "--out", tmp_path / "run")


def test_a_recipe_in_a_file_without_an_end_is_refused(tmp_path):
    (tmp_path / "mine.py").symlink_to("/dev/zero")
    with pytest.raises(InputError, match=r"mine\.py is not an ordinary file"):
        pyrovae("train", f"{tmp_path / 'mine.py'}:build", "--out", tmp_path / "run")


def test_a_shift_out_of_sight_is_refused_before_training(tmp_path):
    with pytest.raises(InputError, match=r"images of 8x8 pixels cannot be shifted by 8.* at most 7"):
        train_small(tmp_path / "run", data={"shift": 8})
    assert not (tmp_path / "run").exists()
