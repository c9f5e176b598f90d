"""A sweep trains all combinations, goes on where it ended, and tells what failed."""

import statistics

import numpy as np
import pytest

from pyrovae.errors import InputError
from pyrovae.recipes import Data, OptionError, Run, Training, sweep

pytestmark = pytest.mark.filterwarnings("ignore:k-hat")


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "mine.npz"
    np.savez(path, x=np.random.default_rng(0).integers(0, 2, (50, 6)))
    return Data(data=str(path))


def made(folder, file, over, jobs=1, epochs=1, **how):
    how = {"options": {"width": 8}, "training": Training(epochs=epochs), "progress": False} | how
    return sweep("vae", folder, over, data=file, jobs=jobs, num_samples=40, **how)


def test_each_combination_and_seed_is_a_run_with_its_evidence(tmp_path, file):
    found = made(
        tmp_path / "s",
        file,
        {"latent_dim": [1, 2], "posterior": ["normal", "full-covariance"]},
        seeds=[3, 4],
    )
    assert len(found.settings) == 4
    assert {path.name for path in (tmp_path / "s").iterdir() if path.is_dir()} == {
        f"latent_dim={m},posterior={q},seed={s}"
        for m in (1, 2)
        for q in ("normal", "full-covariance")
        for s in (3, 4)
    }
    first = found.settings[0]
    values = [
        Run.open(member.folder).evidence(num_samples=40).mean
        for member in found.members
        if member.values == first.values
    ]
    assert [*first.log_likelihoods.values()] == pytest.approx(values)
    assert first.mean == pytest.approx(statistics.fmean(values))
    assert first.deviation == pytest.approx(statistics.stdev(values))
    assert found.settings[-1].mean <= first.mean
    assert "latent_dim=1, posterior=full-covariance" in str(found)


def test_processes_of_their_own_give_the_same_and_finished_runs_stay(tmp_path, file):
    alone = made(tmp_path / "alone", file, {"latent_dim": [1, 2]}, seeds=[0])
    begun = made(tmp_path / "both", file, {"latent_dim": [1]}, seeds=[0])
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "both").glob("**/epoch-*.pt")}
    both = made(tmp_path / "both", file, {"latent_dim": [1, 2]}, jobs=2, seeds=[0])
    assert [each.log_likelihoods for each in both.settings] == [e.log_likelihoods for e in alone.settings]
    assert begun.settings[0] in both.settings
    assert len(before) == 1
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())


def test_a_sweep_that_goes_on_counts_its_finished_runs_and_leaves_them_alone(tmp_path, file, capsys):
    first = made(tmp_path / "s", file, {"latent_dim": [1]}, seeds=[0, 1])
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "s").glob("*/**/*")}
    again = made(tmp_path / "s", file, {"latent_dim": [1]}, seeds=[0, 1, 2], progress=True)
    bars = capsys.readouterr().err.splitlines()
    assert "2/3" in bars[0]
    assert "3/3" in bars[-1]
    assert all(path.stat().st_mtime_ns == time for path, time in before.items())
    assert before
    scores = again.settings[0].log_likelihoods
    assert {seed: scores[seed] for seed in (0, 1)} == first.settings[0].log_likelihoods
    (run,) = [member.folder for member in again.members if member.seed == 2]
    (run / "verdict.json").unlink()  # as if the sweep had been killed before
    made(tmp_path / "s", file, {"latent_dim": [1]}, seeds=[2])
    assert (run / "verdict.json").exists()


def test_more_epochs_go_on_with_the_runs(tmp_path, file):
    made(tmp_path / "s", file, {"latent_dim": [1]}, seeds=[0])
    found = made(tmp_path / "s", file, {"latent_dim": [1]}, seeds=[0], epochs=3)
    assert len(Run.open(found.members[0].folder).history.rows) == 3


def test_a_run_that_fails_is_told_and_the_others_go_on(tmp_path, file):
    with pytest.warns(UserWarning, match=r"learning_rate=1e\+30,seed=0 failed: .*not finite"):
        found = made(tmp_path / "s", file, {"learning_rate": [1e30, 1e-3]}, seeds=[0])
    assert [each.mean is None for each in found.settings] == [False, True]
    assert "failed" in str(found)
    assert "<td" in found._repr_html_()
    assert "failed" in found._repr_html_()


@pytest.mark.parametrize(
    ("over", "how", "message"),
    [
        ({"latent_dims": [1]}, {}, "no option latent_dims"),
        ({"latent_dim": ["two"]}, {}, "latent_dim is 'two'; it must be a whole number"),
        ({"latent_dim": 5}, {}, "give a list of values"),
        ({"posterior": "normal"}, {}, "give a list of values"),
        ({"seed": [1]}, {}, "give the seeds by seeds="),
        ({"width": [8]}, {}, "width is in options and in over"),
        ({"posterior": ["normal", "iaf"]}, {"options": {"flow_steps": 1}}, "no option flow_steps"),
        ({}, {"seeds": [0, 0]}, r"seeds is \[0, 0\]"),
        ({}, {"jobs": 0}, "jobs is 0"),
    ],
)
def test_what_cannot_be_swept_is_refused_before_any_training(tmp_path, file, over, how, message):
    with pytest.raises(InputError, match=message):
        made(tmp_path / "s", file, over, **how)
    assert not (tmp_path / "s").exists()


def test_a_folder_with_other_files_is_refused(tmp_path, file):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"'notes.txt', which is not of a sweep"):
        made(tmp_path, file, {})
    assert issubclass(OptionError, InputError)
