"""Plans are trained on data that do not fit in memory."""

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from pyrovae import recipes
from pyrovae.errors import InputError
from pyrovae.recipes import About, Data, Training

TRAINING = Training(epochs=2, batch_size=20, validation_fraction=0.25, compile="off")


class Rows(Dataset):
    def __init__(self, x):
        self.x = x

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index]


@pytest.fixture
def x():
    return torch.rand(60, 6, generator=torch.Generator().manual_seed(0)).round()


def small(x, **options):
    return recipes.vae(About.of(x), latent_dim=2, width=8, **options)


def trained(x, data, **settings):
    plan = small(data)
    plan.fit(data, training=TRAINING, **settings)
    return plan.pair.state_dict()


@pytest.mark.parametrize("kind", ["dataset", "memory map"])
def test_a_plan_learns_from_a_stream_what_it_learns_from_a_tensor(kind, x, tmp_path):
    stream = Rows(x)
    if kind == "memory map":
        stream = np.memmap(tmp_path / "x", dtype=np.float32, mode="w+", shape=(60, 6))
        stream[:] = x.numpy()
    expected, found = trained(x, x), trained(x, stream)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0, msg=name)


def test_a_run_folder_of_a_stream_can_be_resumed(x, tmp_path):
    constant = TRAINING.changed(warm_up=0.0, rate_warm_up=0.0, decay="none")  # whatever the epochs are
    whole = small(x)
    whole.fit(Rows(x), training=constant.changed(epochs=4), folder=tmp_path / "whole")
    parts = small(x)
    parts.fit(Rows(x), training=constant, folder=tmp_path / "parts")
    parts = small(x)
    parts.fit(Rows(x), training=constant.changed(epochs=4), folder=tmp_path / "parts", resume=True)
    for name, value in whole.pair.state_dict().items():
        torch.testing.assert_close(parts.pair.state_dict()[name], value, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("data", [Data(binarise="static")])
def test_what_prepares_all_data_is_refused(data, x):
    with pytest.raises(InputError, match=r"'static'.*item by item.*dynamic"):
        small(x).fit(Rows(x), training=TRAINING, data=data)


def test_labels_cannot_spread_over_a_stream(x):
    y = torch.arange(60) % 2
    y[10:] = -1
    plan = recipes.m2(About.of(x, y), latent_dim=2, width=8, vae_epochs=1)
    with pytest.raises(InputError, match=r"spread over.*item by item.*spread=False"):
        plan.fit(Rows(x), y, training=TRAINING)


def test_training_starts_at_no_more_data_than_memory_is_meant_for(x, monkeypatch):
    """Wide data, such as counts of words, are read in part to set the first parameters."""
    seen = []
    monkeypatch.setattr("pyrovae.recipes.fitting.MOST_AT_START", 7 * x[0].numel())
    plan = recipes.vae(About.of(x), latent_dim=2, width=8).with_stage(0, start=seen.append)
    plan.fit(Rows(x), training=Training(epochs=1))
    assert [len(some) for some in seen] == [7]
