"""The commands about several runs: compare, sweep and branch."""

import json

import pytest
from small_runs import PNG, pyrovae, train_by_words

from pyrovae.errors import CheckpointError, InputError
from pyrovae.recipes import OptionError, Run

IWAE = ("--objective", "iwae", "--particles", 3)
SMALL = ("--epochs", 1, "--width", 8, "--quiet")

pytestmark = pytest.mark.filterwarnings("ignore:k-hat")


def test_runs_are_compared_on_their_test_data(trained, tmp_path):
    train_by_words(tmp_path / "other", "vae", "--latent-dim", 1)
    words = ("--num-samples", 40, "--limit", 30, "--quiet")
    out = ("--out", tmp_path / "c.json", "--figure", tmp_path / "c.png")
    text = pyrovae("compare", trained, tmp_path / "other", *words, *out)
    assert str(trained) in text
    assert "dse" in text
    rows = json.loads((tmp_path / "c.json").read_text())["models"]
    expected = Run.open(trained).evidence(num_samples=40, limit=30).mean
    assert {row["name"]: row["mean"] for row in rows}[str(trained)] == pytest.approx(expected)
    assert (tmp_path / "c.png").read_bytes().startswith(PNG)
    with pytest.raises(InputError, match="name at least two, each once"):
        pyrovae("compare", trained, trained)


def test_a_sweep_writes_runs_and_a_table(tmp_path):
    words = ("--over", "latent-dim=1,2", "--seeds", 1, "--seed", 5, "--num-samples", 40, "--jobs", 1)
    text = pyrovae("sweep", "vae", "--data", "digits", *words, *SMALL, "--out", tmp_path / "s")
    assert "latent_dim=2" in text
    table = json.loads((tmp_path / "s" / "sweep.json").read_text())
    assert [[*row["log_likelihoods"]] for row in table["settings"]] == [["5"], ["5"]]
    assert Run.open(tmp_path / "s" / "latent_dim=2,seed=5").training.seed == 5
    for over, message in (("latent-dim", "write NAME=VALUE,VALUE"), ("latent-dim=a", "must be a whole")):
        with pytest.raises(OptionError, match=message):
            pyrovae("sweep", "vae", "--over", over, *SMALL, "--out", tmp_path / "t")


def test_a_branch_has_the_options_of_its_run(trained, tmp_path):
    pyrovae("branch", trained, "--out", tmp_path / "b", *IWAE, "--epochs", 1, "--quiet")
    branch, first = Run.open(tmp_path / "b"), Run.open(trained)
    assert branch.plan.options == first.plan.options | branch.plan.options
    assert branch.plan.options["objective"] == "iwae"
    assert branch.plan.options["width"] == first.plan.options["width"]
    with pytest.raises(CheckpointError, match="another model's"):
        pyrovae("branch", trained, "--out", tmp_path / "c", "--latent-dim", 7, "--quiet")
    with pytest.raises(InputError, match="is not a run folder"):
        pyrovae("branch", tmp_path / "none", "--out", tmp_path / "c")
    with pytest.raises(OptionError, match="branch needs the folder of a run first"):
        pyrovae("branch", "--out", tmp_path / "c")
    with pytest.raises(OptionError, match="binarise"):
        pyrovae("branch", trained, "--out", tmp_path / "c", "--binarise", "static")
