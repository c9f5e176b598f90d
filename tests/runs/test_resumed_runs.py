"""Runs that go on: for more epochs, after a kill, and what is refused then."""

import json
import os
import random
import signal
import time

import numpy as np
import pytest
import torch
from crashes import partial_of_a_dead_process
from processes import done, finish, start
from small_runs import files, train_small

from pyrovae.errors import CheckpointError, InputError
from pyrovae.recipes import Run
from pyrovae.recipes.measuring import evaluate
from pyrovae.training.checkpoints import load_checkpoint

pytestmark = pytest.mark.cpu


def resume(run, **changes):
    return run.resume(device="cpu", progress=False, **changes)


def test_a_run_can_be_extended(tmp_path):
    constant = {"warm_up": 0.0, "rate_warm_up": 0.0, "decay": "none"}  # whatever the epochs are
    run = train_small(tmp_path / "run", training=constant)
    longer = resume(run, epochs=4)
    whole = train_small(tmp_path / "whole", training={"epochs": 4} | constant)
    assert [row["elbo"] for row in longer.history.rows] == [row["elbo"] for row in whole.history.rows]
    assert Run.open(run.folder).training.epochs == 4
    assert len(json.loads((run.folder / "history.json").read_text())["rows"]) == 4


def test_an_evaluation_is_of_the_parameters_that_it_saw(run):
    evaluate(run, num_samples=5, limit=10, progress=False).write()
    assert run.metrics["epochs"] == len(run.history.rows)
    assert resume(run, epochs=4).metrics is None


def test_config_json_keeps_how_the_run_was_begun_and_adds_how_it_went_on(run, monkeypatch):
    begun = json.loads((run.folder / "config.json").read_text())
    for epochs in (3, 4):
        monkeypatch.setattr("sys.argv", ["pyrovae", "resume", "--epochs", str(epochs)])
        resume(run, epochs=epochs)
    now = json.loads((run.folder / "config.json").read_text())
    assert now["command"] == begun["command"]
    assert now["config"]["training"] == begun["config"]["training"] | {"epochs": 4}
    assert [part["command"] for part in now["resumed"]] == [f"pyrovae resume --epochs {n}" for n in (3, 4)]
    assert now["resumed"][0].keys() == {"command", "versions", "git_commit", "processes"}


def test_a_folder_in_which_a_run_was_killed_at_its_very_start_can_be_used(tmp_path):
    partial_of_a_dead_process(tmp_path, name="config.json")
    (tmp_path / ".writer.lock").write_text("pid=4194305\nhost=elsewhere\n")  # its owner has died
    train_small(tmp_path)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"batch_size": 64}, "batch_size = None, not 64"),
        ({"seed": 2}, "seed = 0, not 2"),
        ({"epochs": 0}, "epochs is 0"),
    ],
    ids=str,
)
def test_resuming_with_what_does_not_fit_is_refused_and_the_run_left_as_it_was(change, named, run):
    before = files(run.folder)
    with pytest.raises((CheckpointError, InputError), match=named):
        resume(run, **change)
    assert files(run.folder) == before


@pytest.mark.parametrize(
    ("array", "named"),
    [
        (np.zeros((60, 7), np.float32), r"the values of .*x\.npy \(data\) are not those"),
        (np.zeros((60, 5), np.float32), r"the values of .*x\.npy \(data\) are not those"),
        (np.full((60, 5), np.nan, np.float32), "300 NaN"),
        (np.zeros((0, 5), np.float32), "is empty"),
    ],
    ids=["shape", "values", "nan", "empty"],
)
def test_resuming_on_a_file_that_has_changed_is_refused(array, named, vectors, tmp_path):
    run = train_small(tmp_path / "run", "ppca", data={"data": str(vectors)})
    before = files(run.folder)
    np.save(vectors, array)
    with pytest.raises((CheckpointError, InputError), match=named):
        resume(run)
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
    elif isinstance(one, list):
        assert len(one) == len(other)
        for entry, of_other in zip(one, other, strict=True):
            assert_same(entry, of_other)
    else:
        assert one == other
