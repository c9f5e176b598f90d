"""Models and posteriors of one's own, each in one file, from the command line alone."""

import json

import pytest
from small_runs import PNG, pyrovae, refused

FILE = '''
import pyro
import pyro.distributions as dist
import torch
from torch import nn

from pyrovae.recipes import Plan, Stage


class FactorAnalysis(nn.Module):
    """w ~ N(0, I), x ~ N(W w + b, diag(s^2))."""

    def __init__(self, x_shape, width):
        super().__init__()
        size = torch.Size(x_shape).numel()
        self.x_shape, self.width = x_shape, width
        self.loading, self.scale = nn.Linear(width, size), nn.Parameter(torch.zeros(size))
        self.encoder = nn.Linear(size, 2 * width)

    def model(self, x):
        with pyro.plate("data", len(x)):
            w = pyro.sample("w", dist.Normal(x.new_zeros(self.width), 1.0).to_event(1))
            mean, scale = self.loading(w), self.scale.exp().expand(len(self.scale))
            pixels = dist.Normal(mean.unflatten(-1, self.x_shape), scale.reshape(self.x_shape))
            pyro.sample("x", pixels.to_event(len(self.x_shape)), obs=x)

    def guide(self, x):
        loc, log_scale = self.encoder(x.flatten(1)).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("w", dist.Normal(loc, log_scale.exp()).to_event(1))


def build(about, *, width: int = 64) -> Plan:
    """Factor analysis of my own.

    Args:
        width: The number of factors.
    """
    return Plan([Stage(FactorAnalysis(about.x_shape, width))])


class Mine(nn.Module):
    """A posterior of my own.

    Args:
        sharpness: The factor by which the scale is divided.
    """

    def __init__(self, network, latent_dim, *, sharpness: float = 1.0):
        super().__init__()
        self.network, self.sharpness = network, sharpness
        self.head = nn.Linear(*network.out_shape, 2 * latent_dim)

    def forward(self, *context):
        loc, scale = self.head(self.network(*context)).chunk(2, -1)
        return dist.Normal(loc, scale.exp() / self.sharpness).to_event(1)
'''
SMALL = ["--epochs", 2, "--batch-size", 500, "--device", "cpu", "--quiet"]
RECIPE, POSTERIOR = ["--recipe", "mine.py:build"], ["--posterior", "mine.py:Mine"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the file and two runs: of the recipe, and of a VAE with the posterior."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "mine.py").write_text(FILE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        pyrovae("train", "mine.py:build", "--width", 3, "--out", "runs/mine", *SMALL)
        words = [*POSTERIOR, "--sharpness", 2, "--width", 8, "--latent-dim", 2]
        pyrovae("train", "vae", *words, "--out", "runs/vae", *SMALL)
    return folder


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


def test_help_shows_the_options_of_ones_own_recipe(here):
    printed = " ".join(pyrovae("train", "mine.py:build", "--help").split())
    assert "Factor analysis of my own." in printed
    assert "--width INT The number of factors. [default: 64]" in printed
    assert "--epochs" in printed
    assert "--latent-dim" not in printed
    assert "--labels" not in printed


def test_help_shows_the_options_of_ones_own_posterior(here):
    printed = " ".join(pyrovae("train", "vae", *POSTERIOR, "--help").split())
    assert "--sharpness FLOAT The factor by which the scale is divided." in printed
    assert "[default: 1.0]" in printed


@pytest.mark.filterwarnings("ignore:k-hat is above")
@pytest.mark.parametrize(("run", "own"), [("mine", RECIPE), ("vae", POSTERIOR)])
def test_a_run_is_evaluated_sampled_and_drawn(run, own, here):
    run = here / "runs" / run
    assert "log p(x) =" in pyrovae("evaluate", run, *own, "--num-samples", 20, "--limit", 20, "--quiet")
    for command, name in {
        "sample": "samples",
        "reconstruct": "reconstructions",
        "interpolate": "interpolation",
        "traverse": "traversals",
        "latent": "latent_pca",
        "overview": "overview",
    }.items():
        assert pyrovae(command, run, *own).endswith(f"{name}.png\n")
        assert (run / "figures" / f"{name}.png").read_bytes().startswith(PNG)
    assert "x" in pyrovae("plates", run, *own)
    assert "trained 3 epochs" in pyrovae("resume", run, *own, "--epochs", 3, "--quiet")


def test_the_recipes_diagram_is_drawn_without_a_run(here):
    assert "latent w ~ Normal" in pyrovae("plates", "mine.py:build")


def test_the_file_has_to_be_named_again(here, tmp_path):
    log = tmp_path / "log"
    refused("--recipe mine.py:build", "sample", "runs/mine", log=log)
    refused("--posterior mine.py:Mine", "evaluate", "runs/vae", log=log)


def test_options_and_digests_are_in_the_run_folder(here):
    mine, vae = (
        json.loads((here / f"runs/{n}/config.json").read_text())["config"] for n in ("mine", "vae")
    )
    assert (mine["recipe"], mine["options"]) == ("mine.py:build", {"width": 3})
    assert vae["options"].items() >= {"posterior": "mine.py:Mine", "sharpness": 2.0}.items()
    assert mine["files"]["mine.py:build"] == vae["files"]["mine.py:Mine"]


def test_an_option_that_ones_own_recipe_lacks_is_refused(here, tmp_path):
    words = ["train", "mine.py:build", "--widht", "3", "--out", tmp_path / "run"]
    refused("mine.py:build 'widht'.*'width'", *words, log=tmp_path / "log", status=2)
