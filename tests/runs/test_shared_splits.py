"""Runs with other seeds share their test and validation data, since the split has a seed of its own."""

import json
import re

import numpy as np
import pytest
import torch
from small_runs import files, train_small

from pyrovae.data import load
from pyrovae.data.transforms import binarise_static
from pyrovae.errors import CheckpointError, InputError
from pyrovae.recipes import Run
from pyrovae.recipes.run_data import values_of_split

pytestmark = pytest.mark.cpu


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """A run with another seed, and one with another seed of the split, to be read only."""
    folder = tmp_path_factory.mktemp("runs")
    first = {"epochs": 1, "seed": 3}
    return (
        train_small(folder / "seed", training=first),
        train_small(folder / "split", training=first, data={"split_seed": 5}),
    )


def test_runs_with_other_seeds_share_their_test_and_validation_data(trained, others):
    seed, split = others
    assert torch.equal(seed.images.x_test, trained.images.x_test)
    assert torch.equal(seed.training_data()[2], trained.training_data()[2])
    fixed = seed.presentation.fixed(seed.images.x_test)
    assert torch.equal(fixed, trained.presentation.fixed(trained.images.x_test))
    assert torch.equal(fixed, binarise_static(load("digits", seed=0).x_test, 0))
    parameters = [next(run.pair.parameters()) for run in (seed, trained)]
    assert not torch.equal(*parameters), "they differ in all else"
    assert values_of_split(split.images) == values_of_split(load("digits", seed=5))
    assert values_of_split(split.images) != values_of_split(seed.images)


def test_the_seed_of_the_split_is_recorded_and_compared(others, run):
    _, split = others
    path = run.folder / "config.json"
    content = json.loads(path.read_text())
    assert json.loads((split.folder / "config.json").read_text())["config"]["data"]["split_seed"] == 5
    content["config"]["data"]["split_seed"] = 5
    path.write_text(json.dumps(content))
    before = files(run.folder)
    with pytest.raises(CheckpointError, match=r"data\.split_seed was 0 in the training, and is 5 now"):
        _ = Run.open(run.folder).pair
    with pytest.raises(CheckpointError, match=r"data\.split_seed"):
        Run.open(run.folder).resume(epochs=3, device="cpu", progress=False)
    assert files(run.folder) == before


def test_a_run_of_an_older_format_is_not_read_wrongly(run):
    """There the seed of the training split the data."""
    path = run.folder / "config.json"
    content = json.loads(path.read_text())
    content["format"] = 3
    del content["config"]["data"]["split_seed"]
    content["config"]["binary"] = False
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match="in the format 3, and this version reads format 4 alone: train"):
        Run.open(run.folder)


def test_names_that_are_no_text_are_refused_where_they_are_needed_and_else_written_as_can_be(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("sys.argv", ["pyrovae", "train", "\udcff"])
    run = train_small(tmp_path / "r\udcffn", training={"epochs": 1, "batch_size": 1000})
    content = json.loads((run.folder / "config.json").read_text())
    assert content["command"] == r"pyrovae train \udcff"
    np.save(tmp_path / "x\udcff.npy", np.random.default_rng(0).random((20, 3)))
    with pytest.raises(InputError, match=r"bytes that are no UTF-8 text, .*: rename the file or folder"):
        train_small(tmp_path / "other", data={"data": str(tmp_path / "x\udcff.npy")})
    assert not (tmp_path / "other").exists()


# Names of classes


def change(folder, **values):
    path = folder / "config.json"
    content = json.loads(path.read_text())
    content["config"] |= values
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"class_names": ["1", "0", *map(str, range(2, 10))]}, r"class_names was \['0', '1',.*'1', '0'"),
        ({"class_names": []}, "class_names was"),
        ({"scale": 255}, "scale was 1 in the training, and is 255 now"),
    ],
    ids=["swapped", "none", "scale"],
)
def test_names_and_scale_that_were_edited_are_refused(run, values, named):
    change(run.folder, **values)
    for asked in (lambda: Run.open(run.folder).pair, lambda: Run.open(run.folder).resume(epochs=3)):
        with pytest.raises(CheckpointError, match=named):
            asked()


def test_classes_whose_names_have_changed_in_place_are_refused(tmp_path):
    y = np.arange(60) % 2
    x = np.random.default_rng(0).integers(0, 256, (60, 1, 4, 4), dtype=np.uint8)

    def save(name, **more):
        np.savez(tmp_path / name, x=x, y=y, **more)
        return tmp_path / name

    file = save("mine.npz", class_names=np.array(["cat", "dog"]))
    run = train_small(tmp_path / "run", data={"data": str(file)})
    assert run.class_names == ["cat", "dog"]
    save("mine.npz", class_names=np.array(["dog", "cat"]))
    named = re.escape(f"class 0 of {file} is called 'dog', and was called 'cat' when")
    with pytest.raises(CheckpointError, match=named):
        _ = Run.open(run.folder).pair
    swapped = save("moved.npz", class_names=np.array(["dog", "cat"]))
    with pytest.raises(CheckpointError, match="was called 'cat'"):
        _ = Run.open(run.folder, data=swapped).scored
    nameless = Run.open(run.folder, data=save("nameless.npz"))
    assert [*nameless.scored.class_names] == ["cat", "dog"], "the run keeps its names"
    longer = nameless.resume(epochs=3, device="cpu", progress=False)
    assert longer.class_names == ["cat", "dog"]
