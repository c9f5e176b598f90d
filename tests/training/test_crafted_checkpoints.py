"""Checkpoints with right digests whose content cannot be a run's: each ends in CheckpointError."""

import copy
import io

import pytest
import torch

from pyrovae.errors import CheckpointError
from pyrovae.training import fit
from pyrovae.training.checkpoints import checkpoints_in, load_checkpoint, save_checkpoint
from pyrovae.training.state import load_state

pytestmark = pytest.mark.cpu

SETTINGS = {"progress": False, "device": "cpu", "batch_size": 12, "resume": True}


def to(kind):
    def change(content):
        weights = content["state"]["modules"]["0"]
        weights["posterior.loc.weight"] = weights["posterior.loc.weight"].to(kind)

    return change


def without(*path):
    def change(content):
        *inside, last = path
        for name in inside:
            content = content[name]
        del content[last]

    return change


def put(value, *path):
    def change(content):
        *inside, last = path
        for name in inside:
            content = content[name]
        content[last] = value

    return change


CRAFTED = {
    "int8": (
        to(torch.int8),
        r"weight: \(2, 6\) int8 in the checkpoint, \(2, 6\) float32 here",
    ),
    "double": (to(torch.float64), r"posterior\.loc\.weight: \(2, 6\) float64 .* float32 here"),
    "complex": (to(torch.complex64), r"posterior\.loc\.weight: \(2, 6\) complex64"),
    "bfloat16": (to(torch.bfloat16), r"posterior\.loc\.weight: \(2, 6\) bfloat16"),
    "no state": (put(None, "state"), "is refused: it is not a checkpoint"),
    "no modules": (put({}, "state", "modules"), r"absent in the checkpoint"),
    "no parameters": (without("state", "parameters"), "is refused: it is not a checkpoint"),
    "no settings": (put(None, "settings"), "is refused: it is not a checkpoint"),
    "empty settings": (put({}, "settings"), "cannot be restored"),
    "history without bytes": (without("history", "bytes"), "is refused: it is not a checkpoint"),
    "history of another length": (
        put(5, "history", "epochs"),
        r"it is of epoch 5, and of epoch 1 by its name",
    ),
    "history beyond its file": (
        put(10**9, "history", "bytes"),
        "its first lines are not those of the checkpoint",
    ),
    "optimizer": (put({}, "optimizer"), "cannot be restored"),
    "optimizer's groups": (put([], "optimizer", "param_groups"), "cannot be restored"),
    "rng of another size": (put(torch.zeros(3, dtype=torch.uint8), "rng", "cpu"), "cannot be restored"),
    "rng of another type": (put("seed", "rng", "cpu"), "cannot be restored"),
    "no rng": (put({}, "rng"), "cannot be restored"),
    "frozen": (put(None, "trained", "frozen"), "is refused: it is not a checkpoint"),
    "step": (put(3, "step"), "is refused: it is not a checkpoint"),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_a_crafted_checkpoint_is_refused_and_nothing_changed(name, make_vae, binary_images, tmp_path):
    change, named = CRAFTED[name]
    vae = make_vae()
    fit(vae, binary_images, epochs=1, folder=tmp_path, **SETTINGS)
    file = checkpoints_in(tmp_path)[0]
    content = torch.load(io.BytesIO(file.path.read_bytes()), weights_only=True)
    change(content)
    save_checkpoint(tmp_path, 1, content)
    assert len(checkpoints_in(tmp_path)) == 1, "it has taken the place of the whole one"
    before = copy.deepcopy(vae.state_dict())
    with pytest.raises(CheckpointError, match=named) as caught:
        fit(vae, binary_images, epochs=2, folder=tmp_path, **SETTINGS)
    assert "\n" not in str(caught.value)
    if "restored" not in named:
        assert all(torch.equal(value, before[n]) for n, value in vae.state_dict().items())


def test_a_checkpoint_of_another_epoch_than_its_name_says_is_passed_over(make_vae, binary_images, tmp_path):
    vae = make_vae()
    fit(vae, binary_images, epochs=2, folder=tmp_path, **SETTINGS)
    newest, older = checkpoints_in(tmp_path)
    older.path.rename(older.path.with_name(older.path.name.replace("epoch-00001", "epoch-00099")))
    with pytest.warns(UserWarning, match="of epoch 1, and of epoch 99 by its name"):
        history = fit(vae, binary_images, epochs=3, folder=tmp_path, **SETTINGS)
    assert len(history.rows) == 3
    assert newest.epoch == 2


def test_a_model_in_another_precision_does_not_take_the_parameters(make_vae, binary_images, tmp_path):
    fit(make_vae(), binary_images, epochs=1, folder=tmp_path, **SETTINGS)
    saved = load_checkpoint(tmp_path)["state"]
    with pytest.raises(CheckpointError, match=r"float32 in the checkpoint, \(.*\) float64 here"):
        load_state(make_vae().double(), {}, saved)


def test_training_leaves_no_gradients(make_vae, binary_images):
    vae = make_vae()
    fit(vae, binary_images, epochs=1, progress=False, device="cpu")
    assert all(value.grad is None for value in vae.parameters())
