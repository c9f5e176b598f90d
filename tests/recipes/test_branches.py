"""A branch begins at the parameters of another run."""

import numpy as np
import pytest
import torch
from small_runs import pyrovae

from pyrovae.errors import CheckpointError, InputError
from pyrovae.recipes import Data, Run, Training, train
from pyrovae.training.checkpoints import checkpoints_in


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    np.savez(folder / "mine.npz", x=np.random.default_rng(0).integers(0, 2, (50, 6)))
    return train(
        "vae",
        folder / "first",
        options={"width": 8, "latent_dim": 2},
        training=Training(epochs=2),
        data=Data(data=str(folder / "mine.npz")),
        progress=False,
    )


def test_it_begins_at_the_runs_parameters_with_another_objective(run, tmp_path):
    begun = run.pair.state_dict()
    branch = run.branch(
        tmp_path / "iwae",
        options={"objective": "iwae", "particles": 3},
        epochs=1,
        learning_rate=1e-30,
        validation_fraction=0.0,
        progress=False,
    )
    assert branch.plan.options["objective"] == "iwae"
    for name, value in branch.pair.state_dict().items():
        torch.testing.assert_close(value, begun[name])
    assert branch.config.begun_from == f"{run.checkpoint} of run {run.config.run}"
    assert branch.config.run != run.config.run
    assert len(branch.history.rows) == 1
    more = branch.resume(epochs=2, progress=False)
    assert more.config.begun_from == branch.config.begun_from


def test_other_shapes_and_folders_in_use_are_refused(run, tmp_path):
    with pytest.raises(CheckpointError, match="another model's"):
        run.branch(tmp_path / "wide", options={"width": 9}, progress=False)
    with pytest.raises(InputError, match="in use"):
        run.branch(run.folder, progress=False)
    assert not (tmp_path / "wide").exists()


def test_a_run_whose_data_have_moved_is_branched_where_they_lie_now(run, tmp_path):
    file = tmp_path.parent / "elsewhere.npz"
    np.savez(tmp_path / "others.npz", x=np.zeros((50, 6), dtype=int))
    moved = run.folder.parent / "mine.npz"
    moved.rename(file)
    try:
        with pytest.raises(CheckpointError, match="a run goes on with its own data alone"):
            Run.open(run.folder, data=tmp_path / "others.npz").branch(tmp_path / "b", progress=False)
        words = ("--data", file, "--out", tmp_path / "b", "--epochs", 1, "--quiet")
        pyrovae("branch", run.folder, *words)
        branch = Run.open(tmp_path / "b")
        assert branch.data.data == str(file)
        assert branch.resume(epochs=2, progress=False).epochs == 2
    finally:
        file.rename(moved)


def test_a_branch_without_a_checkpoint_does_not_begin_elsewhere(run, tmp_path):
    branch = run.branch(tmp_path / "b", epochs=1, progress=False)
    for file in checkpoints_in(branch.folder / "checkpoints"):
        file.path.unlink()
    with pytest.raises(CheckpointError, match="ended before its first checkpoint"):
        Run.open(tmp_path / "b").resume(epochs=2, progress=False)
