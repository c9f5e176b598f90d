"""What fit refuses before training."""

import math

import pytest
import torch
from torch import nn
from training_helpers import X_SHAPE, same, snapshot, train, vae_with

from pyrovae.errors import InputError
from pyrovae.likelihoods import Categorical, ContinuousBernoulli
from pyrovae.objectives import IWAE
from pyrovae.schedules import linear_warm_up

pytestmark = pytest.mark.cpu


def refused(module, x, message, folder, **settings):
    with pytest.raises(InputError, match=message):
        train(module, x, folder=folder / "run", **settings)
    assert not list(folder.iterdir())


def test_a_parameter_that_is_never_used_is_named(make_vae, binary_images, tmp_path):
    vae = make_vae()
    vae.spare = nn.Linear(2, 3)
    refused(vae, binary_images, r"no gradient reaches spare\.weight, spare\.bias", tmp_path)
    vae.spare.requires_grad_(False)
    before = snapshot(vae.spare)
    train(vae, binary_images)
    assert same(vae.spare.state_dict(), before)


def test_a_frozen_part_is_left_as_it_is(make_vae, binary_images):
    vae = make_vae()
    vae.posterior.requires_grad_(False)
    before = snapshot(vae)
    train(vae, binary_images)
    changed = {
        name.split(".")[0] for name, value in vae.state_dict().items() if not value.equal(before[name])
    }
    assert changed == {"likelihood"}


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(5, 1, 4, 3), r"shape \(\*, 1, 4, 4\).*\(5, 1, 4, 3\)"),
        (torch.zeros(5, 16), r"shape \(\*, 1, 4, 4\).*\(5, 16\)"),
        (
            torch.full((5, *X_SHAPE), 0.5),
            "Bernoulli likelihood at site 'x'.*transform=pyrovae.data.binarise",
        ),
        (torch.tensor(math.nan).expand(5, *X_SHAPE), "5 of 5 data hold values that are not finite"),
        (torch.zeros(0, *X_SHAPE), r"shape \(0, 1, 4, 4\); expected at least one datum"),
        (torch.zeros(5, *X_SHAPE, dtype=torch.int64), r"type torch\.int64; expected floating point"),
        ([[0.0]], r"a list, not a tensor"),
    ],
    ids=["height", "vectors", "grey", "nan", "empty", "integers", "list"],
)
def test_data_that_do_not_fit_are_refused_and_nothing_is_written(x, message, make_vae, tmp_path):
    refused(make_vae(), x, message, tmp_path)


def test_one_grey_pixel_in_the_last_of_many_data_is_found(make_vae, tmp_path):
    x = torch.zeros(2100, *X_SHAPE)
    x[-1, 0, 0, 0] = 0.5
    refused(make_vae(), x, "1 of 20 data lie outside the support of the Bernoulli", tmp_path)


def test_validation_data_are_checked_as_well(make_vae, binary_images, tmp_path):
    refused(make_vae(), binary_images, "Bernoulli", tmp_path, validation=binary_images / 2)
    refused(make_vae(), binary_images, "not finite", tmp_path, validation=binary_images / 0)
    refused(
        make_vae(), binary_images, "expects data of shape", tmp_path, validation=torch.zeros(3, 1, 5, 5)
    )


@pytest.mark.parametrize("level", [256.0, -1.0, 3.5])
def test_levels_that_a_categorical_does_not_have_are_refused(level, tmp_path):
    x = torch.zeros(5, *X_SHAPE)
    x[2, 0, 1, 1] = level
    vae = vae_with(Categorical, levels=256)
    refused(vae, x, "Categorical likelihood at site 'x'.*pyrovae.data.to_levels", tmp_path)


def test_pixels_above_1_are_refused_under_a_continuous_bernoulli(tmp_path):
    refused(vae_with(ContinuousBernoulli), torch.full((5, *X_SHAPE), 2.0), "scale them", tmp_path)


def test_classes_of_another_number_are_refused(make_vae, binary_images, tmp_path):
    refused(make_vae(), binary_images, "24 data and 3 classes", tmp_path, y=torch.zeros(3))


@pytest.mark.parametrize("name", ["epochs", "batch_size", "patience"])
@pytest.mark.parametrize("value", [0, -1, 2.5, "3", True])
def test_settings_that_are_no_counts_are_refused(name, value, make_vae, binary_images, tmp_path):
    settings = {"validation": binary_images, name: value}
    message = f"{name} is {value!r}; it must be a whole number of at least 1"
    refused(make_vae(), binary_images, message, tmp_path, **settings)


def test_a_norm_that_is_not_above_0_is_refused(make_vae, binary_images, tmp_path):
    refused(
        make_vae(),
        binary_images,
        "clip_norm is 0; .* finite number above 0",
        tmp_path,
        clip_norm=0,
    )


@pytest.mark.parametrize("objective", [IWAE, "iwae", 5])
def test_what_is_no_objective_is_refused(objective, make_vae, binary_images, tmp_path):
    refused(make_vae(), binary_images, "expected an object such as ELBO", tmp_path, objective=objective)


def test_validation_data_of_three_parts_are_refused(make_vae, binary_images, tmp_path):
    refused(make_vae(), binary_images, "has 3 parts", tmp_path, validation=(binary_images,) * 3)


@pytest.mark.parametrize("compile", ["on", "off"])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": linear_warm_up(1)}, "beta is 0.0 at epoch 0, but IWAE"),
        ({"beta": lambda epoch: 1.0 if epoch < 1.5 else 0.5, "epochs": 3}, "beta is 0.5 at epoch 1.5, but"),
        ({"weights": {"x": 2.0}}, "the weight of 'x' is 2.0 at epoch 0, but"),
    ],
)
def test_weights_beside_importance_weights_are_refused(
    settings, message, compile, make_vae, binary_images, tmp_path
):
    settings |= {"objective": IWAE(5), "compile": compile}
    refused(make_vae(), binary_images, message, tmp_path, **settings)


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.5])
def test_a_schedule_that_goes_bad_is_named_before_training(value, make_vae, binary_images, tmp_path):
    refused(make_vae(), binary_images, f"beta is {value} at", tmp_path, beta=lambda e: value if e else 1.0)


@pytest.mark.parametrize("name", ["loss", "kl", "reconstruction", "elbo", "epoch", "bound"])
def test_a_weighted_site_that_is_named_as_a_column_of_the_history_is_refused(
    name, make_vae, binary_images, tmp_path
):
    message = f"the site '{name}' has a weight .*history"
    refused(make_vae(), binary_images, message, tmp_path, weights={name: 2.0})


@pytest.mark.parametrize("setting", ["folder", "tensorboard"])
@pytest.mark.parametrize("below", [".", "runs/first"])
def test_a_file_in_the_place_of_a_folder_is_named(setting, below, make_vae, binary_images, tmp_path):
    (file := tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"notes.txt is a file, and a folder is needed: name another path"):
        train(make_vae(), binary_images, **{setting: file / below})


def test_patience_without_validation_data_is_refused(make_vae, binary_images, tmp_path):
    refused(make_vae(), binary_images, "patience is 2, .*validation=", tmp_path, patience=2)


@pytest.mark.parametrize("beta", [-1, math.nan, math.inf, "1"])
def test_a_beta_that_is_no_weight_is_refused(beta, make_vae, binary_images, tmp_path):
    refused(make_vae(), binary_images, f"the weight is {beta!r}; .*at least 0", tmp_path, beta=beta)
