"""A resumed run ends as if there had been no interruption."""

import random
from contextlib import suppress
from functools import partial

import pytest
import torch
from torch.optim.lr_scheduler import StepLR
from training_helpers import (
    X_SHAPE,
    AtCall,
    Interruption,
    interrupt,
    presentations,
    same,
    sgd,
    snapshot,
    train,
    without_seconds,
)

from pyrovae.compute import compilation
from pyrovae.data import binarise
from pyrovae.errors import CheckpointError, InputError
from pyrovae.objectives import ELBO, IWAE
from pyrovae.schedules import linear_warm_up

pytestmark = pytest.mark.cpu


def ambitious(folder, epochs=6):
    """Settings with everything that has a state of its own."""
    return {
        "epochs": epochs,
        "folder": folder,
        "batch_size": 7,
        "validation": torch.rand(9, *X_SHAPE, generator=torch.Generator().manual_seed(3)).mul(0.2),
        "optimizer": partial(torch.optim.AdamW, lr=0.03),
        "scheduler": partial(StepLR, step_size=2, gamma=0.5),
        "clip_norm": 0.3,
        "beta": linear_warm_up(4),
        "seed": 11,
    }


@pytest.fixture
def grey_images():
    """Bright images; the validation data of `ambitious` are dark, so the bound on them soon falls."""
    return torch.rand(24, *X_SHAPE, generator=torch.Generator().manual_seed(2)).mul(0.4).add(0.6)


@pytest.mark.parametrize("seed", range(4))
def test_an_interrupted_run_ends_as_if_it_had_not_been_interrupted(seed, make_vae, grey_images, tmp_path):
    whole = make_vae()
    expected = train(whole, grey_images, transform=binarise, **ambitious(tmp_path / "whole"))
    assert expected.best_epoch < 6  # so that the best state must be kept through the interruptions
    first = 1 + presentations(grey_images, 7, ambitious(None)["validation"])
    chance, folder, history = random.Random(seed), tmp_path / "parts", None
    while history is None:
        stop = AtCall(first + chance.randrange(18), interrupt)
        settings = ambitious(folder) | {"transform": lambda x, stop=stop: binarise(stop(x))}
        # Once there is a checkpoint, nothing may depend on the initial parameters.
        parts = make_vae(seed=chance.randrange(1, 99) if list(folder.glob("epoch-*")) else 0)
        with suppress(Interruption):
            history = train(parts, grey_images, resume=True, **settings)
    assert same(whole.state_dict(), parts.state_dict())
    assert without_seconds(history) == without_seconds(expected)


def test_interruptions_really_happen_in_the_test_above(make_vae, grey_images, tmp_path):
    stop = AtCall(presentations(grey_images, 7) + 6, interrupt)
    with pytest.raises(Interruption):
        train(make_vae(), grey_images, batch_size=7, folder=tmp_path, transform=lambda x: binarise(stop(x)))
    assert [path.name[:11] for path in tmp_path.glob("*.pt")] == ["epoch-00001"]


def test_a_run_can_be_extended_and_then_equals_one_that_was_long_from_the_start(
    make_vae, grey_images, tmp_path
):
    whole, parts = make_vae(), make_vae()
    expected = train(whole, grey_images, transform=binarise, **ambitious(tmp_path / "whole"))
    train(parts, grey_images, transform=binarise, **ambitious(tmp_path / "parts", epochs=3))
    again = make_vae(seed=1)
    settings = ambitious(tmp_path / "parts") | {"resume": True}
    history = train(again, grey_images, transform=binarise, **settings)
    assert same(whole.state_dict(), again.state_dict())
    assert without_seconds(history) == without_seconds(expected)


def test_resuming_a_finished_run_changes_nothing(make_vae, grey_images, tmp_path):
    vae, again = make_vae(), make_vae(seed=1)
    settings = ambitious(tmp_path) | {"patience": 1, "optimizer": partial(torch.optim.Adam, lr=0.3)}
    settings |= {"epochs": 50, "transform": binarise}
    history = train(vae, grey_images, **settings)
    assert history.stopped_early
    files = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert train(again, grey_images, resume=True, **settings).rows == history.rows
    assert same(vae.state_dict(), again.state_dict())
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == files


def test_a_run_that_stopped_early_goes_on_with_more_patience(make_vae, grey_images, tmp_path):
    settings = ambitious(None) | {"optimizer": partial(torch.optim.Adam, lr=0.3), "epochs": 30}
    settings |= {"transform": binarise}
    whole, parts = make_vae(), make_vae()
    expected = train(whole, grey_images, **settings)
    stopped = train(parts, grey_images, **settings | {"patience": 1, "folder": tmp_path})
    assert stopped.stopped_early
    assert len(stopped.rows) < 30
    again = make_vae(seed=1)
    history = train(again, grey_images, resume=True, **settings | {"folder": tmp_path})
    assert without_seconds(history) == without_seconds(expected)
    assert same(whole.state_dict(), again.state_dict())


def test_fewer_epochs_than_a_run_has_are_refused(make_vae, binary_images, tmp_path):
    train(make_vae(), binary_images, folder=tmp_path)
    vae = make_vae(seed=1)
    before = snapshot(vae)
    with pytest.raises(InputError, match="has 2 epochs already, and 1 are asked for"):
        train(vae, binary_images, folder=tmp_path, resume=True, epochs=1)
    assert same(vae.state_dict(), before)


def test_a_finished_run_is_not_compiled_again(make_vae, binary_images, tmp_path, monkeypatch):
    train(make_vae(), binary_images, folder=tmp_path)
    monkeypatch.setattr(compilation, "compile_function", interrupt)
    train(make_vae(), binary_images, folder=tmp_path, resume=True, compile="on")
    with pytest.raises(Interruption):
        train(make_vae(), binary_images, folder=tmp_path, resume=True, compile="on", epochs=3)


def test_a_folder_with_checkpoints_is_not_written_over(make_vae, binary_images, tmp_path):
    train(make_vae(), binary_images, folder=tmp_path)
    files = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match=r"already holds checkpoints.*resume=True"):
        train(make_vae(), binary_images, folder=tmp_path)
    assert sorted(tmp_path.iterdir()) == files


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"batch_size": 9}, "batch_size = 10, not 9"),
        ({"seed": 4}, "seed = 0, not 4"),
        ({"clip_norm": 2.0}, "clip_norm = None, not 2.0"),
        ({"optimizer": sgd}, "optimizer = Adam, not SGD"),
        ({"transform": torch.round}, "transform = None, not .*round"),
        ({"optimizer": partial(torch.optim.Adam, lr=1e-3, betas=(0.5, 0.9))}, r"optimizer's betas = \[0.9"),
        ({"validation": torch.ones(3, *X_SHAPE)}, "validation = None, not"),
        ({"objective": IWAE(5)}, r"objective = ELBO\(num_particles=1\), not IWAE\(num_particles=5"),
        ({"objective": ELBO(3)}, r"objective = ELBO\(num_particles=1\), not ELBO\(num_particles=3\)"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_resuming_with_other_settings_is_refused(change, named, make_vae, binary_images, tmp_path):
    train(make_vae(), binary_images, folder=tmp_path)
    vae = make_vae(seed=1)
    before = snapshot(vae)
    with pytest.raises(CheckpointError, match=named):
        train(vae, binary_images, folder=tmp_path, resume=True, epochs=4, **change)
    assert same(vae.state_dict(), before)


def test_resuming_with_other_data_is_refused(make_vae, binary_images, tmp_path):
    train(make_vae(), binary_images, folder=tmp_path)
    other = binary_images.clone()
    other[-1, 0, 3, 3] = 1 - other[-1, 0, 3, 3]
    with pytest.raises(CheckpointError, match=r"data = .*name another folder"):
        train(make_vae(), other, folder=tmp_path, resume=True)
