"""A user's own files: they are loaded when they are named, and never because a run folder names them."""

import hashlib
import json
import textwrap

import pytest
import torch
from small_runs import train_small

from pyrovae.errors import InputError
from pyrovae.recipes import Run, load_recipe, options_of
from pyrovae.recipes.measuring import evaluate
from pyrovae.recipes.own_files import is_own, load_own

POSTERIOR = '''
from torch import nn
import pyro.distributions as dist


class Mine(nn.Module):
    """Mine.

    Args:
        sharpness: The factor of the scale.
    """

    def __init__(self, network, latent_dim, *, sharpness: float = 1.0):
        super().__init__()
        self.network, self.sharpness = network, sharpness
        self.head = nn.Linear(*network.out_shape, 2 * latent_dim)

    def forward(self, *context):
        loc, scale = self.head(self.network(*context)).chunk(2, -1)
        return dist.Normal(loc, scale.exp() / self.sharpness).to_event(1)
'''


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a file of one's own into the working directory."""
    monkeypatch.chdir(tmp_path)

    def write(text, name="mine.py"):
        path = tmp_path / name
        path.write_text(textwrap.dedent(text))
        return path

    return write


def test_names_of_own_files_are_told_from_others():
    assert is_own("mine.py:build")
    assert is_own("/a b/mine.py:Mine")
    assert not any(map(is_own, ("vae", "mine.py", "mine", 3, None)))


def test_a_file_is_loaded_with_its_siblings_and_dataclasses(write):
    write("FACTOR = 3", "my_sibling.py")
    path = write(
        """
        from __future__ import annotations
        from dataclasses import dataclass
        from my_sibling import FACTOR

        @dataclass
        class Size:
            width: int = FACTOR

        def build(about, *, width: int = 64):
            return Size(width)
        """
    )
    own = load_own("mine.py:build")
    assert own.value(None, width=3).width == 3
    assert load_own("mine.py:Size").value().width == 3
    assert own.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_file_is_executed_once_and_again_when_it_has_changed(write):
    write("import random\nnumber = random.random()\ndef f(): return number")
    first = load_own("mine.py:f").value()
    assert load_own("mine.py:f").value() == first
    write("def f(): return 2")
    assert load_own("mine.py:f").value() == 2


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        (None, "none.py:build", "none.py cannot be read"),
        ("x = 1", "mine.py:build", "mine.py has no function or class 'build'; it has none"),
        ("def other(): ...", "mine.py:build", "'build'; it has other"),
        ("build = 3", "mine.py:build", "'build'"),
        ("import nothing_of_that_name", "mine.py:build", r"mine.py:1: ModuleNotFoundError"),
        ("def f(:", "mine.py:build", "SyntaxError"),
    ],
)
def test_what_cannot_be_loaded_is_refused_by_file_and_reason(text, name, message, write):
    if text is not None:
        write(text)
    with pytest.raises(InputError, match=message):
        load_own(name)


def test_a_file_that_fails_is_executed_anew_when_it_is_mended(write):
    write("1 / 0")
    with pytest.raises(InputError, match="ZeroDivisionError"):
        load_own("mine.py:f")
    write("def f(): return 1")
    assert load_own("mine.py:f").value() == 1


def test_annotations_for_type_checkers_only_are_refused_clearly(write):
    write(
        """
        from __future__ import annotations
        from typing import TYPE_CHECKING
        if TYPE_CHECKING:
            from decimal import Decimal

        def build(about: Decimal, *, width: int = 3) -> Decimal: ...
        def wrong(about, *, width: Decimal = 3): ...
        """
    )
    assert options_of(load_recipe("mine.py:build"))["width"].default == 3
    with pytest.raises(InputError, match=r"'Decimal'.*TYPE_CHECKING"):
        options_of(load_recipe("mine.py:wrong"))


@pytest.fixture
def run(write):
    """The run of a VAE with a posterior of one's own."""
    write(POSTERIOR)
    return train_small("run", posterior="mine.py:Mine", sharpness=2.0)


def test_the_files_digest_is_recorded_and_the_run_opens_when_it_is_named_again(run, tmp_path):
    config = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    digest = hashlib.sha256((tmp_path / "mine.py").read_bytes()).hexdigest()
    assert config["files"] == {"mine.py:Mine": digest}
    assert config["options"].items() >= {"posterior": "mine.py:Mine", "sharpness": 2.0}.items()
    opened = Run.open("run", {"posterior": "mine.py:Mine"})
    assert type(opened.pair.posterior).__name__ == "Mine"
    assert opened.pair.posterior.sharpness == 2.0
    trained = run.pair.state_dict()
    assert all(torch.equal(value, trained[name]) for name, value in opened.pair.state_dict().items())


def test_a_file_that_only_the_run_folder_names_is_not_executed(run, write):
    write("raise AssertionError('it is executed')")
    with pytest.raises(InputError, match=r"name it again by --posterior mine.py:Mine") as refused:
        Run.open("run")
    assert "Run.open('run', own={'posterior': 'mine.py:Mine'})" in str(refused.value)


def test_a_file_that_has_changed_is_a_warning(run, write):
    write(f"# changed\n{POSTERIOR}", "other.py")
    with pytest.warns(UserWarning, match="other.py:Mine is not the file .*SHA-256"):
        opened = Run.open("run", {"posterior": "other.py:Mine"})
    assert opened.pair.posterior.sharpness == 2.0


def test_a_file_that_the_run_does_not_need_is_refused(run):
    with pytest.raises(InputError, match="not trained with a prior of your own, but with 'normal'"):
        Run.open("run", {"posterior": "mine.py:Mine", "prior": "mine.py:Mine"})
    with pytest.raises(InputError, match="not trained with a recipe of your own, but with 'vae'"):
        Run.open("run", {"posterior": "mine.py:Mine", "recipe": "mine.py:Mine"})


OTHERS = {
    "prior": "class Mine(StandardNormal):\n    def __init__(self, latent_dim, *, mine: int = 1):\n"
    "        super().__init__(latent_dim)\n",
    "likelihood": "class Mine(Likelihood):\n    def __init__(self, network, *, mine: int = 1):\n"
    "        super().__init__(network)\n"
    "    def forward(self, *context):\n"
    "        return dist.Normal(self.network(*context), 1.0).to_event(len(self.x_shape))\n",
    "network": "class Mine(MLP):\n    def __init__(self, in_shape, out_shape, *, width, mine: int = 1):\n"
    "        super().__init__(in_shape, out_shape, hidden=(width,))\n",
    "objective": "class Mine(ELBO):\n    def __init__(self, *, mine: int = 1):\n"
    "        super().__init__()\n",
}
IMPORTS = """
import pyro.distributions as dist
from pyrovae.likelihoods import Likelihood
from pyrovae.networks import MLP
from pyrovae.objectives import ELBO
from pyrovae.priors import StandardNormal
"""


@pytest.mark.parametrize("kind", OTHERS)
def test_other_components_of_ones_own_are_called_as_their_kind_is(kind, write, tmp_path):
    write(IMPORTS + OTHERS[kind])
    options = {kind: "mine.py:Mine", "mine": 3}
    run = train_small(tmp_path / "run", data={"binarise": "dynamic"}, **options)
    assert len(run.history.rows) == 2
    assert run.plan.options["mine"] == 3
    assert len(run.resume(epochs=3, device="cpu", progress=False).history.rows) == 3


def test_a_component_that_asks_for_a_part_that_is_not_given_is_refused(write, tmp_path):
    write(POSTERIOR.replace("sharpness: float = 1.0", "sharpness"))
    with pytest.raises(InputError, match=r"posterior mine.py:Mine asks for 'sharpness'.*default"):
        train_small(tmp_path / "run", posterior="mine.py:Mine")


GUIDE = """
import pyro
import pyro.distributions as dist
import torch
from pyrovae import Pair
from pyrovae.recipes import Plan, Stage
from pyrovae.recipes import vae as vae_recipe


def build(about, *, width: int = 8) -> Plan:
    plan = vae_recipe(about, width=width, latent_dim=2)
    vae, head = plan.pair, torch.nn.Linear(64, 4)

    def guide(x):
        pyro.module("my_head", head)
        scale = pyro.param("my_scale", torch.tensor(0.5), constraint=dist.constraints.positive)
        loc = head(x.flatten(1))[:, :2]
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, scale).to_event(1))

    return Plan([Stage(Pair(vae.model, guide))], pixels=plan.pixels)
"""


def test_the_parameters_of_plain_functions_are_in_the_run_too(write, tmp_path, param_store):
    write(GUIDE)
    run = train_small(tmp_path / "run", "mine.py:build")
    trained = param_store["my_scale"].item()
    assert trained != 0.5
    first = evaluate(run, num_samples=20, limit=30, progress=False)
    param_store.clear()
    again = Run.open(tmp_path / "run", {"recipe": "mine.py:build"})
    assert evaluate(again, num_samples=20, limit=30, progress=False).metrics == first.metrics
    assert param_store["my_scale"].item() == pytest.approx(trained)
