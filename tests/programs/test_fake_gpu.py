"""Every model and component runs on a GPU that is not there; see `fake_gpu`."""

import copy
from functools import partial

import fake_gpu
import pytest
import torch
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from pyrovae import recipes
from pyrovae.compute.capture import on_device
from pyrovae.compute.compilation import decompositions
from pyrovae.likelihoods.table import LIKELIHOODS
from pyrovae.networks.table import NETWORKS
from pyrovae.posteriors.table import POSTERIORS
from pyrovae.priors.table import PRIORS
from pyrovae.programs.distributions import closed_mean
from pyrovae.programs.layout import layout_of
from pyrovae.programs.log_weights import scores
from pyrovae.programs.rows import Arguments
from pyrovae.programs.running import run_pair
from pyrovae.programs.sites import observed_sites
from pyrovae.recipes import About

ABOUT = About((1, 8, 8), 4, True, 0)
X = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0)).round()
Y = torch.arange(5) % 4
CASES = [
    *(("vae", {"posterior": name}) for name in POSTERIORS),
    *(("vae", {"prior": name}) for name in PRIORS if name != "normal"),
    *(("vae", {"likelihood": name}) for name in LIKELIHOODS if name != "bernoulli"),
    *(("vae", {"network": name}) for name in NETWORKS if name != "mlp"),
    *((name, {}) for name in ("hvae", "ppca", "m2", "m1m2", "pcvae", "cpcvae", "bnn")),
]
WITH_CLASSES = ("m2", "m1m2", "pcvae", "cpcvae")


def calls(recipe):
    """The arguments that the programs of a recipe are called with, on the CPU."""
    if recipe in WITH_CLASSES:
        return [(X,), (X, Y)]
    return [(X, Y)] if recipe == "bnn" else [(X,)]


def images_at(fn):
    """The mean of a site that observes data, as generation shows it; a draw where there is none."""
    mean = closed_mean(fn)
    return fn() if mean is None else mean


def densities(pair, *args):
    return [trace.log_prob_sum() for trace in run_pair(pair, *args)]


@pytest.mark.parametrize(
    ("recipe", "options"),
    CASES,
    ids=lambda value: value if isinstance(value, str) else "-".join(value.values()),
)
def test_programs_and_weights_keep_to_one_device(recipe, options):
    small = {} if recipe == "ppca" else {"width": 16}
    pair = getattr(recipes, recipe)(ABOUT, **options, **small).pair
    for args in calls(recipe):
        layout = layout_of(pair, Arguments(args), joint=recipe == "bnn")  # which reads values
        there = copy.deepcopy(pair)
        with fake_gpu.fake_gpu() as mode:
            fake_gpu.move(there)
            here = tuple(torch.zeros(value.shape, dtype=value.dtype) for value in args)
            on_gpu = tuple(value.to(fake_gpu.DEVICE) for value in here)
            for given in (here, on_gpu):  # programs take data from anywhere
                model, guide = run_pair(there, *given)
                loss = guide.log_prob_sum() - model.log_prob_sum()
                assert (loss.device, loss.requires_grad) == (fake_gpu.DEVICE, True)
                for site in observed_sites(model):
                    assert images_at(model.nodes[site]["fn"]).device == fake_gpu.DEVICE
            assert scores(there, Arguments(on_gpu), 3, layout).log_weights.device == fake_gpu.DEVICE
            if recipe == "bnn":  # a number becomes a tensor there, and a record needs a driver for that
                continue
            record = make_fx(partial(densities, there), decompositions(on_gpu))(*on_gpu)
            mode.allow_non_fake_inputs = True  # the record's constants
            on_device(record, fake_gpu.DEVICE)  # a CUDA graph can hold all of it


def test_a_mix_of_devices_is_found():
    layer = nn.Linear(2, 3)
    with fake_gpu.fake_gpu():
        inside = torch.zeros(5, 2)
        fake_gpu.move(layer)
        assert layer(inside.to(fake_gpu.DEVICE)).device == fake_gpu.DEVICE
        with pytest.raises(RuntimeError, match="on the same device"):
            layer(inside)
