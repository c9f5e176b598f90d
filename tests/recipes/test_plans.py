"""Plans from Python: what they train, and the folder they write."""

import json

import pytest
import torch

from pyrovae import data, recipes
from pyrovae.errors import InputError
from pyrovae.generation import latent_means
from pyrovae.recipes import About, Data, Plan, Run, Stage, Training, recipe
from pyrovae.schedules import cosine_decay
from pyrovae.semi_supervised import only_labels_of, spread_labels

SMALL = {"latent_dim": 2, "width": 8}


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.fixture(scope="module")
def few(digits):
    return only_labels_of(data.labels_per_class(digits.y_train, 5), digits.y_train)


@pytest.fixture(scope="module")
def fitted(digits, few, tmp_path_factory):
    """An M2 on labels that spread, and its folder."""
    folder = tmp_path_factory.mktemp("plans") / "m2"
    plan = recipes.m2(About.of(digits.x_train, few), vae_epochs=3, **SMALL)
    return plan.fit(digits.x_train, few, training=Training(epochs=2), folder=folder, device="cpu"), folder


def test_about_tells_shapes_and_classes(digits, few):
    assert About.of(digits.x_train) == About((1, 8, 8), 0, True)
    assert About.of(digits.x_train, digits.y_train) == About((1, 8, 8), 10, False)
    assert About.of(digits.x_train, few, seed=3) == About((1, 8, 8), 10, True, 3)


def test_a_plan_trains_its_stages_in_order(fitted):
    result, _ = fitted
    assert [*result.histories] == ["vae", "model"]
    assert [len(history.rows) for history in result.histories.values()] == [3, 2]
    assert result.history is result.histories["model"]
    assert result.histories["vae"]["beta"][-1] == 0.1
    assert result.history["beta"][-1] == 1.0


def test_each_stage_has_schedules_of_its_own_length(fitted):
    steps = 15  # of 100 data, from 1,437
    for name, epochs in (("vae", 3), ("model", 2)):
        rate = cosine_decay(epochs, 2e-3, warm_up=10 / steps)
        expected = [rate(epoch + (steps - 1) / steps) for epoch in range(epochs)]
        assert fitted[0].histories[name]["learning_rate"] == pytest.approx(expected)


def test_labels_spread_over_the_vae_that_was_trained_first(fitted, digits, few):
    plan = fitted[0].plan
    learned = plan.stages[-1].labels(digits.x_train, few)
    assert torch.equal(learned, spread_labels(latent_means(plan.stages[0].pair, digits.x_train), few, 7))
    assert (learned >= 0).float().mean() > 0.9


def test_the_folder_holds_what_was_asked_and_every_stage(fitted):
    _, folder = fitted
    config = json.loads((folder / "config.json").read_text())["config"]
    assert config["recipe"] == "m2"
    assert config["options"].items() >= (SMALL | {"alpha": 25.0, "vae_epochs": 3}).items()
    assert config["training"].items() >= {"epochs": 2, "learning_rate": 2e-3, "decay": "cosine"}.items()
    about = {"x_shape": [1, 8, 8], "num_classes": 10, "unlabelled": True, "seed": 0}
    assert config["about"] == about | {"in_unit_interval": True, "column_names": []}
    assert len(json.loads((folder / "vae" / "history.json").read_text())["rows"]) == 3


def test_the_folder_opens_as_the_model_that_was_trained(fitted):
    result, folder = fitted
    opened = Run.open(folder).pair.state_dict()
    assert all(torch.equal(value, opened[name]) for name, value in result.pair.state_dict().items())


def test_all_given_labels_need_no_vae_beneath(digits):
    about = About.of(digits.x_train, digits.y_train)
    assert [stage.name for stage in recipes.m2(about, **SMALL).stages] == ["model"]
    assert [stage.name for stage in recipes.m1m2(about, **SMALL).stages] == ["vae", "model"]


def test_hidden_labels_are_chosen_by_the_settings_of_the_data(digits):
    about = About.of(digits.x_train, digits.y_train)
    plan = recipes.pcvae(about, spread=False, **SMALL)
    seen = []

    def supervised(y):
        seen.append(y)
        return {}

    plan = plan.with_stage(0, supervised=supervised)
    plan.fit(digits.x_train, digits.y_train, training=Training(epochs=1), data=Data(labels=3), device="cpu")
    assert seen[0][seen[0] >= 0].bincount().tolist() == [3] * 10


def test_the_same_plan_gives_the_same_parameters_with_and_without_a_folder(digits, tmp_path):
    def trained(folder):
        plan = recipes.vae(About.of(digits.x_train), **SMALL)
        training = Training(epochs=1)
        return plan.fit(digits.x_train, training=training, folder=folder, device="cpu").pair.state_dict()

    one, other = trained(None), trained(tmp_path / "run")
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_classes_and_folders_that_are_missing_are_named(digits):
    plan = recipes.m2(About((1, 8, 8), 10), **SMALL)
    with pytest.raises(InputError, match=r"m2 learns classes.*pass y"):
        plan.fit(digits.x_train)
    with pytest.raises(InputError, match="folder"):
        recipes.vae(About((1, 8, 8)), **SMALL).fit(digits.x_train, resume=True)


def test_a_recipe_of_ones_own_is_used_from_python(digits, make_vae):
    @recipe(epochs=3)
    def build(about, *, latent_dim: int = 2) -> Plan:
        """Mine."""
        vae = make_vae(x_shape=about.x_shape, latent_dim=latent_dim)
        return Plan([Stage(vae, start=vae.likelihood.start_at_marginals)], pixels="binary")

    fitted = build(About.of(digits.x_train), latent_dim=3).fit(digits.x_train[:200], device="cpu")
    assert len(fitted.history.rows) == 3
    assert fitted.pair.prior().event_shape == (3,)
