"""The history's own file: each epoch adds a line, and a checkpoint's cost does not grow."""

import itertools
import json
import time

import pytest

from pyrovae.errors import InputError
from pyrovae.objectives import SupervisedELBO
from pyrovae.objectives.objective import description, weights_of
from pyrovae.training import fit
from pyrovae.training.checkpoints import checkpoints_in
from pyrovae.training.settings import Settings, moments

pytestmark = pytest.mark.cpu


def test_a_checkpoint_is_as_large_after_many_epochs_as_after_few(make_vae, binary_images, tmp_path):
    settings = {"progress": False, "device": "cpu", "batch_size": 24, "compile": "off"}
    sizes, lines = [], []

    def look(state):
        sizes.append(checkpoints_in(tmp_path)[0].path.stat().st_size)
        lines.append(next(tmp_path.glob("history-*.jsonl")).stat().st_size)

    fit(make_vae(), binary_images[:2], epochs=40, folder=tmp_path, callbacks=[look], **settings)
    assert max(sizes[1:]) - min(sizes[1:]) < 256
    added = [later - before for before, later in itertools.pairwise(lines)]
    assert max(added) < 1.5 * min(added), "each epoch adds one line"


def test_a_line_that_a_callback_changes_is_written_once_more(make_vae, binary_images, tmp_path):
    def log(state):
        state.log("twice", 2 * state.epoch)

    settings = {"progress": False, "device": "cpu", "epochs": 3, "folder": tmp_path}
    history = fit(make_vae(), binary_images, callbacks=[log], **settings)
    text = next(tmp_path.glob("history-*.jsonl")).read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in text] == [1, 1, 2, 2, 3, 3]
    again = fit(make_vae(), binary_images, resume=True, **settings)
    assert again.rows == history.rows
    assert again["twice"] == [2.0, 4.0, 6.0]


def test_what_stands_after_the_checkpoints_lines_is_cut_off(make_vae, binary_images, tmp_path):
    settings = {"progress": False, "device": "cpu", "folder": tmp_path, "resume": True}
    fit(make_vae(), binary_images, epochs=2, **settings)
    file = next(tmp_path.glob("history-*.jsonl"))
    with file.open("a") as lines:  # of an epoch whose checkpoint was never written
        lines.write('{"epoch": 3, "elbo": 1.0}\n{"epoch": 4, "el')
    history = fit(make_vae(), binary_images, epochs=4, **settings)
    found = [json.loads(line) for line in file.read_text().splitlines()]
    assert [row["epoch"] for row in found] == [1, 2, 3, 4]
    assert found == history.rows


@pytest.mark.parametrize(
    "damage", [lambda text: text[:-20], lambda text: text.replace("elbo", "elbe"), None]
)
def test_a_checkpoint_whose_lines_are_damaged_is_refused_by_file(damage, make_vae, binary_images, tmp_path):
    settings = {"progress": False, "device": "cpu", "folder": tmp_path, "resume": True}
    fit(make_vae(), binary_images, epochs=2, **settings)
    file = next(tmp_path.glob("history-*.jsonl"))
    file.write_text(damage(file.read_text())) if damage else file.unlink()
    if damage and "elbe" not in file.read_text():  # the last line alone
        with pytest.warns(UserWarning, match=rf"epoch-00002.*{file.name}.*Using epoch-00001"):
            assert len(fit(make_vae(), binary_images, epochs=2, **settings).rows) == 2
    else:
        with pytest.raises(RuntimeError, match=rf"{file.name}.*no sound one"):
            fit(make_vae(), binary_images, epochs=2, **settings)


def test_schedules_of_a_billion_epochs_are_looked_at_in_a_moment():
    begin = time.process_time()
    Settings(epochs=10**9, beta=lambda epoch: min(1.0, epoch / 5))
    assert time.process_time() - begin < 1
    assert len(moments(10**9)) < 1500
    assert moments(3) == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
    for epochs in (1, 249, 251, 10_000):
        assert moments(epochs) == [time for time in moments(10**6) if time < epochs]
    with pytest.raises(InputError, match=r"beta is -1\.0 at epoch"):
        Settings(epochs=10**6, beta=lambda epoch: 1.0 if epoch < 5e5 else -1.0)


def test_an_objectives_own_weights_are_told_apart_from_its_settings():
    one, two = SupervisedELBO(2.0, num_particles=3), SupervisedELBO(5.0, num_particles=3)
    assert description(one) == description(two) != description(SupervisedELBO(2.0))
    assert (weights_of(one), weights_of(two)) == ({"alpha": 2.0}, {"alpha": 5.0})
