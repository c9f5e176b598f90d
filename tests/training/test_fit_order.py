"""The order in which fit goes through the data, and its random draws."""

import itertools

import pyro
import pytest
import torch
from torch import nn
from training_helpers import X_SHAPE, SpyELBO, same, snapshot, train

from pyrovae.data import binarise
from pyrovae.models import PPCA

pytestmark = pytest.mark.cpu


def test_one_seed_gives_one_result_bit_for_bit(make_vae, binary_images):
    results = []
    for seed in (5, 5, 6):
        vae = make_vae()
        train(vae, binary_images, seed=seed)
        torch.rand(7)  # the caller's stream is elsewhere at the next call
        results.append(snapshot(vae))
    assert same(results[0], results[1])
    assert not same(results[0], results[2])


def test_the_callers_random_stream_and_parameter_store_stay_in_place(make_vae, binary_images, tmp_path):
    before = torch.get_rng_state()
    train(make_vae(), binary_images, transform=binarise, validation=binary_images, folder=tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
    assert not pyro.get_param_store().keys()


def test_every_datum_is_presented_once_in_each_epoch_and_the_order_changes(make_vae, binary_images):
    numbered = binary_images.clone()
    codes = torch.arange(24)[:, None].bitwise_and(2 ** torch.arange(5)).ne(0).float()
    numbered.view(24, -1)[:, :5] = codes
    spy = SpyELBO()
    train(make_vae(), numbered, batch_size=10, epochs=3, objective=spy)
    steps = spy.batches[-9:]
    assert [len(batch[0]) for batch in steps] == [10, 10, 4] * 3
    seen = [batch[0].flatten(1)[:, :5] @ (2.0 ** torch.arange(5)) for batch in steps]
    epochs = [torch.cat(seen[n : n + 3]).tolist() for n in (0, 3, 6)]
    assert all(sorted(epoch) == list(range(24)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_dynamic_binarisation_draws_afresh_at_each_presentation(make_vae):
    grey = torch.full((6, *X_SHAPE), 0.5)
    spy = SpyELBO()
    train(make_vae(), grey, batch_size=6, epochs=4, transform=binarise, objective=spy)
    drawn = [batch[0] for batch in spy.batches[-4:]]
    assert all(set(x.unique().tolist()) == {0.0, 1.0} for x in drawn)
    assert not any(torch.equal(one, other) for one, other in itertools.combinations(drawn, 2))


def test_classes_reach_the_program_with_their_data(binary_images):
    pairs = []

    class Labelled(PPCA):
        def model(self, x, y=None):
            super().model(x)

        def guide(self, x, y=None):
            pairs.append((x, y))
            super().guide(x)

    x = binary_images.clone()
    y = x.flatten(1).sum(1).long()
    train(Labelled(X_SHAPE, 2), x, y=y, validation=(x[:5], y[:5]))
    assert len(pairs) > 6
    assert any(len(x) == 5 for x, _ in pairs)
    assert all(torch.equal(x.flatten(1).sum(1).long(), y) for x, y in pairs)


def test_submodules_are_in_training_mode_while_training_and_put_back_after(binary_images):
    modes = []

    class Spy(nn.Dropout):
        def forward(self, x):
            modes.append(self.training)
            return super().forward(x)

    ppca = PPCA(X_SHAPE, 2)
    ppca.likelihood.network.layers.append(Spy(0.1))
    ppca.eval()
    train(ppca, binary_images, batch_size=12, epochs=1)
    assert modes[-2:] == [True, True]
    assert not any(part.training for part in ppca.modules())
