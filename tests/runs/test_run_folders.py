"""Run folders: what is in them, and that a killed run ends as one that was left in peace."""

import json
import os
import random
import shutil
import signal
import time

import numpy as np
import pytest
import torch
from processes import done, finish, start
from pyrovae.recipes.runs import Config, Run

from pyrovae import data
from pyrovae.errors import CheckpointError, InputError
from pyrovae.recipes import runs as runs
from pyrovae.training.checkpoints import load_checkpoint

SMALL = {"epochs": 2, "width": 8, "latent_dim": 2}


def small(**options):
    return Config(**{"model": "vae"} | SMALL | options)


def train(config, folder, **options):
    return runs.train(config, folder, progress=False, device="cpu", **options)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on digits, to be read only."""
    return train(small(), tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def run(trained, tmp_path):
    """A copy of it that a test may change."""
    shutil.copytree(trained.folder, tmp_path / "run")
    return Run.open(tmp_path / "run")


@pytest.fixture
def vectors(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32))
    return path


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# What a run folder holds


def test_config_json_holds_options_versions_commit_and_command(trained):
    config = json.loads((trained.folder / "config.json").read_text())
    assert config["config"] == vars(small())
    assert config["x_shape"] == [1, 8, 8]
    assert config["versions"]["torch"] == torch.__version__.split("+")[0]
    assert config["versions"].keys() >= {"python", "pyrovae", "pyro-ppl", "numpy"}
    assert config["git_commit"] is None or len(config["git_commit"].removesuffix("-dirty")) == 40
    assert config["command"].startswith("pyrovae")


def test_history_json_holds_a_row_for_each_epoch_as_the_checkpoint_does(trained):
    history = json.loads((trained.folder / "history.json").read_text())
    assert [row["epoch"] for row in history["rows"]] == [1, 2]
    assert history["rows"] == trained.history.rows
    assert all("validation_elbo" in row for row in history["rows"])


def test_the_model_that_is_evaluated_is_the_best_epochs(run):
    content = load_checkpoint(run.folder / "checkpoints")
    expected = content["best_state"]["modules"]["0"]
    assert all(torch.equal(value, expected[name]) for name, value in run.model.state_dict().items())
    assert not run.model.training
    without = train(small(validation_fraction=0.0), run.folder.parent / "without")
    content = load_checkpoint(without.folder / "checkpoints")
    assert content["best_state"] is None
    expected = content["state"]["modules"]["0"]
    assert all(torch.equal(value, expected[name]) for name, value in without.model.state_dict().items())


def test_the_same_config_gives_the_same_run_and_another_seed_another(trained, tmp_path):
    def weights(folder):
        return load_checkpoint(folder / "checkpoints")["state"]["modules"]["0"]

    again = train(small(), tmp_path / "again")
    other = train(small(seed=1), tmp_path / "other")
    expected = weights(trained.folder)
    assert all(torch.equal(value, expected[name]) for name, value in weights(again.folder).items())
    assert not any(
        torch.equal(value, expected[name])
        for name, value in weights(other.folder).items()
        if "weight" in name
    )


def test_evaluating_twice_gives_the_same_numbers_and_files(run):
    first = run.evaluate(num_samples=20, limit=30, progress=False)
    written = files(run.folder)
    second = Run.open(run.folder).evaluate(num_samples=20, limit=30, progress=False)
    assert first.summary() == second.summary()
    assert files(run.folder) == written
    assert run.metrics["log_likelihood"] == first.mean
    assert run.metrics["num_samples"] == 20


def test_a_run_folder_can_be_moved(run, trained):
    moved = run.folder.parent / "elsewhere" / "moved"
    moved.parent.mkdir()
    shutil.move(run.folder, moved)
    scores = [
        r.evaluate(num_samples=5, limit=10, progress=False).summary() for r in (Run.open(moved), trained)
    ]
    assert scores[0] == scores[1]
    shutil.rmtree(moved)


def test_a_run_on_a_file_is_found_again_from_another_working_directory(vectors, tmp_path, monkeypatch):
    monkeypatch.chdir(vectors.parent)
    run = train(small(model="ppca", data=vectors.name), tmp_path / "run")
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert Run.open(run.folder).evaluate(num_samples=5, progress=False).mean < 0


def test_ppca_is_evaluated_beside_its_exact_evidence(vectors, tmp_path):
    run = train(small(model="ppca", data=str(vectors), epochs=300, learning_rate=0.02), tmp_path / "run")
    result = run.evaluate(num_samples=500, progress=False)
    assert run.metrics["exact_log_likelihood"] == pytest.approx(result.mean, abs=0.05)


# How the data are presented


@pytest.mark.parametrize(
    ("options", "pixels"),
    [
        ({}, "dynamic"),
        ({"binarise": "static"}, "static"),
        ({"likelihood": "gaussian"}, "none"),
        ({"likelihood": "gaussian", "binarise": "dynamic"}, "dynamic"),
        ({"likelihood": "categorical"}, "levels"),
        ({"likelihood": "continuous-bernoulli"}, "none"),
        ({"model": "ppca"}, "none"),
        ({"model": "autoencoder"}, "dynamic"),
    ],
    ids=str,
)
def test_pixels_are_presented_as_the_likelihood_needs_them(options, pixels):
    assert small(**options).pixels == pixels


def test_training_and_validation_images_are_apart_and_the_test_images_not_among_them(trained):
    images = data.load("digits")
    x, _, held_out = Run(trained.folder, small(binarise="none")).training_data(images)
    assert len(x) + len(held_out) == len(images.x_train)
    assert len(held_out) == pytest.approx(0.1 * len(images.x_train), abs=1)
    assert x.unique().numel() > 2
    together = torch.cat([x, held_out]).flatten(1)
    assert torch.equal(together.sum(0), images.x_train.flatten(1).sum(0))


def test_levels_are_whole_numbers_and_shown_as_grey_values(trained):
    run = Run(trained.folder, small(likelihood="categorical"))
    x = run.presented(torch.tensor([0.0, 0.5, 1.0]))
    assert x.tolist() == [0, 128, 255]
    assert run.shown(x).max() == 1


def test_beta_schedules_are_those_of_the_options():
    assert small(beta=4.0).beta_schedule()(0) == 4
    assert small(beta=4.0, warm_up=8.0).beta_schedule()(2) == 1
    assert small(cycle=4.0).beta_schedule()(5) == 0.5


# What is refused


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "vaee"}, "unknown model 'vaee'.*Did you mean 'vae'"),
        ({"data": "digit"}, "'digit' is neither a data set.*Did you mean 'digits'"),
        ({"likelihood": "bernouli"}, "unknown likelihood.*Did you mean 'bernoulli'"),
        ({"network": "resnet"}, "unknown network 'resnet'; there are mlp, gated, residual, conv"),
        ({"binarise": "yes"}, "unknown binarisation 'yes'"),
        ({"latent_dim": -2}, "latent_dim is -2"),
        ({"width": 0}, "width is 0"),
        ({"epochs": 0}, "epochs is 0"),
        ({"batch_size": -1}, "batch_size is -1"),
        ({"learning_rate": 0.0}, "learning_rate is 0"),
        ({"beta": -1.0}, "a weight of -1"),
        ({"warm_up": -1.0}, "warm_up is -1"),
        ({"warm_up": 1.0, "cycle": 1.0}, "choose one"),
        ({"validation_fraction": 1.0}, "validation_fraction is 1"),
        ({"validation_fraction": 0.0, "patience": 3}, "patience is 3, but no data are held out"),
        ({"clip_norm": 0.0}, "clip_norm is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"binarise": "none"}, "outside the support of the Bernoulli.*--binarise"),
    ],
    ids=str,
)
def test_options_that_do_not_fit_are_refused_and_leave_nothing_behind(options, message, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    for folder in (tmp_path / "new" / "run", empty):
        with pytest.raises(InputError, match=message):
            train(small(**options), folder)
    assert list(tmp_path.rglob("*")) == [empty]


def test_a_folder_in_use_is_refused_and_left_as_it_is(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for folder in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(InputError, match="is in use: name another folder"):
            train(small(), folder)
    assert files(tmp_path) == {(tmp_path / "notes.txt").relative_to(tmp_path): b"mine"}


DAMAGED = {
    "cut off": '{"config": {"model": "vae", "da',
    "empty": "",
    "no JSON": "hello",
    "a list": "[]",
    "no config": "{}",
    "config is a list": '{"config": []}',
    "no model": '{"config": {}}',
    "unknown option": '{"config": {"model": "vae", "gamma": 1}}',
    "text for a number": '{"config": {"model": "vae", "latent_dim": "ten"}}',
    "fraction of an epoch": '{"config": {"model": "vae", "epochs": 1.5}}',
    "null": '{"config": {"model": null}}',
    "bytes": b"\xff\xfe\x00",
}


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_config_is_refused_by_name(text, run):
    path = run.folder / "config.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=r"config\.json"):
        Run.open(run.folder)


def test_numbers_that_a_person_wrote_without_a_point_are_taken(run):
    values = {"model": "vae", "beta": 1, "clip_norm": 1, "patience": None}
    (run.folder / "config.json").write_text(json.dumps({"config": values}))
    assert Run.open(run.folder).config == Config(model="vae", clip_norm=1.0)


def test_a_folder_without_config_is_no_run(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(InputError, match=r"is no run folder: there is no config\.json"):
            Run.open(folder)


def test_another_models_checkpoints_in_a_run_are_refused(run):
    path = run.folder / "config.json"
    path.write_text(path.read_text().replace('"latent_dim": 2', '"latent_dim": 3'))
    with pytest.raises(
        CheckpointError, match=r"posterior\.loc\.weight: \(2, 8\) in the checkpoint, \(3, 8\)"
    ):
        Run.open(run.folder).model  # noqa: B018


# Resuming


def test_a_run_can_be_extended(run, tmp_path):
    longer = train(small(epochs=4), run.folder, resume=True)
    whole = train(small(epochs=4), tmp_path / "whole")
    assert [row["elbo"] for row in longer.history.rows] == [row["elbo"] for row in whole.history.rows]
    assert Run.open(run.folder).config.epochs == 4
    assert len(json.loads((run.folder / "history.json").read_text())["rows"]) == 4


def test_an_evaluation_is_of_the_parameters_that_it_saw(run):
    run.evaluate(num_samples=5, limit=10, progress=False)
    assert run.metrics["epochs"] == len(run.history.rows)
    assert train(small(epochs=4), run.folder, resume=True).metrics is None


def test_config_json_keeps_how_the_run_was_begun_and_adds_how_it_went_on(run, monkeypatch):
    begun = json.loads((run.folder / "config.json").read_text())
    for epochs in (3, 4):
        monkeypatch.setattr("sys.argv", ["pyrovae", "resume", "--epochs", str(epochs)])
        train(small(epochs=epochs), run.folder, resume=True)
    now = json.loads((run.folder / "config.json").read_text())
    assert now["command"] == begun["command"]
    assert now["config"] == begun["config"] | {"epochs": 4}
    assert [part["command"] for part in now["resumed"]] == [f"pyrovae resume --epochs {n}" for n in (3, 4)]
    assert now["resumed"][0].keys() == {"command", "versions", "git_commit", "processes"}


def test_a_folder_in_which_a_run_was_killed_at_its_very_start_can_be_used(tmp_path):
    (tmp_path / ".partial-0123").write_bytes(b"half a configuration")
    train(small(), tmp_path)
    assert not list(tmp_path.glob(".partial-*"))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"batch_size": 64}, "batch_size = 128, not 64"),
        ({"seed": 2}, "seed = 0, not 2"),
        ({"epochs": 0}, "epochs is 0"),
    ],
    ids=str,
)
def test_resuming_with_what_does_not_fit_is_refused_and_the_run_left_as_it_was(change, named, run):
    before = files(run.folder)
    with pytest.raises((CheckpointError, InputError), match=named):
        train(small(**change), run.folder, resume=True)
    assert files(run.folder) == before


@pytest.mark.parametrize(
    ("array", "named"),
    [
        (np.zeros((60, 7), np.float32), "data = "),
        (np.zeros((60, 5), np.float32), "data = "),
        (np.full((60, 5), np.nan, np.float32), "300 NaN"),
        (np.zeros((0, 5), np.float32), "is empty"),
    ],
    ids=["shape", "values", "nan", "empty"],
)
def test_resuming_on_a_file_that_has_changed_is_refused(array, named, vectors, tmp_path):
    config = small(model="ppca", data=str(vectors))
    run = train(config, tmp_path / "run")
    before = files(run.folder)
    np.save(vectors, array)
    with pytest.raises((CheckpointError, InputError), match=named):
        train(config, run.folder, resume=True)
    assert files(run.folder) == before


def test_a_killed_run_ends_with_the_same_checkpoint_as_one_left_in_peace(tmp_path):
    options = ["--epochs", 20, "--width", 12, "--latent-dim", 2, "--batch-size", 40, "--warm-up", 5]
    options += ["--clip-norm", 1, "--patience", 50, "--seed", 3, "--device", "cpu", "--quiet"]
    whole, parts, log = tmp_path / "whole", tmp_path / "parts", tmp_path / "log"
    assert finish(["train", "vae", "--out", whole, *options], log).status == 0
    chance = random.Random(1)
    process = start(["train", "vae", "--out", parts, *options], log)
    for _ in range(4):
        seconds = wait_for_checkpoint(process, parts) and wait_for_checkpoint(process, parts)
        time.sleep(chance.uniform(0, 1.2 * seconds))  # into any point of a step, a validation or a save
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        process = start(["resume", parts, "--device", "cpu", "--quiet"], log)
    process.join()
    assert done(process, log).status == 0
    assert done(process, log).err == ""
    one, other = (load_checkpoint(folder / "checkpoints") for folder in (whole, parts))
    for part in ("state", "best_state", "optimizer", "rng"):
        assert_same(one[part], other[part])
    for content in (one, other):
        assert [row.pop("seconds") > 0 for row in content["history"]["rows"]] == [True] * 20
    assert one["history"] == other["history"]
    assert not list(parts.rglob(".partial-*"))


def wait_for_checkpoint(process, folder):
    """How long it took until there was another checkpoint."""
    begin, before = time.perf_counter(), set(folder.rglob("*.pt"))
    while set(folder.rglob("*.pt")) <= before:
        assert process.is_alive(), "it ended before it could be killed"
        time.sleep(0.001)
    return time.perf_counter() - begin


def assert_same(one, other):
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            assert_same(one[name], other[name])
    else:
        assert one == other
