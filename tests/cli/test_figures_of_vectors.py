"""The command line's figures of a run on vectors: their columns, by their names."""

import numpy as np
import pytest
from small_runs import pyrovae, train_by_words

from pyrovae.cli import figures
from pyrovae.data import load
from pyrovae.errors import InputError
from pyrovae.recipes import Run

NAMES = ["height", "weight", "age"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vectors")
    x = np.random.default_rng(0).normal(size=(60, 3))
    np.savez(folder / "table.npz", x=x, column_names=np.array(NAMES))
    train_by_words(folder / "run", "vae", "--likelihood", "gaussian", "--data", folder / "table.npz")
    return folder / "run"


@pytest.fixture
def drawn(monkeypatch):
    found = {}
    monkeypatch.setattr(figures, "draw", lambda run, figure, name, site=None: found.update({name: figure}))
    return found


def test_columns_are_drawn_by_name_where_there_are_no_images(run, drawn):
    for command in ("sample", "reconstruct", "pairs", "traverse", "overview"):
        pyrovae(command, run)
    test_data = len(Run.open(run).scored.x)
    assert [axes.get_xlabel() for axes in drawn["samples"].axes] == NAMES
    assert f"1,000 draws from the model and of {test_data} data" in drawn["samples"].get_suptitle()
    titles = [axes.get_title() for axes in drawn["reconstructions"].axes]
    assert [title.split(":")[0] for title in titles] == NAMES
    assert len(drawn["reconstructions"].axes[0].collections[0].get_offsets()) == test_data
    assert {axes.get_xlabel() for axes in drawn["pairs"].axes} - {""} == {*NAMES}
    ticks = [label.get_text() for label in drawn["traversals"].axes[0].get_xticklabels()]
    assert ticks == NAMES
    assert "height" in [axes.get_xlabel() for axes in drawn["overview"].axes]


def test_a_run_whose_data_have_gone_is_drawn_alone(run, drawn):
    table = run.parent / "table.npz"
    table.rename(run.parent / "moved.npz")
    try:
        pyrovae("sample", run, "--count", 20)
    finally:
        (run.parent / "moved.npz").rename(table)
    assert "20 draws from the model" in drawn["samples"].get_suptitle()
    assert [axes.get_xlabel() for axes in drawn["samples"].axes] == ["x[0]", "x[1]", "x[2]"]


def test_names_of_columns_must_fit_the_data(tmp_path):
    x = np.random.default_rng(0).normal(size=(20, 3))
    for names, message in (
        (["a", "b"], r"names 2 columns, but one datum has shape \(3,\): give a name for each"),
        ([1, 2, 3], "column_names has shape .* expected text of shape .*names of the columns"),
    ):
        np.savez(tmp_path / "table.npz", x=x, column_names=np.array(names))
        with pytest.raises(InputError, match=message):
            load(tmp_path / "table.npz")
