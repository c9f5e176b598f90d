"""The estimator's parameters are the recipes' options, and None stands for the model's own default."""

import inspect
from typing import get_args, get_type_hints

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pyrovae import SemiSupervisedVAEClassifier
from pyrovae.errors import InputError
from pyrovae.recipes import RECIPES, load_recipe, options_of
from pyrovae.recipes.declaration import declaration_of
from pyrovae.semi_supervised import M1_CLASSIFIERS
from pyrovae.sklearn.m1 import m1
from pyrovae.sklearn.parameters import recipes_with_classes

OWN = {
    "model": "m2",
    "likelihood": "auto",
    "image_shape": None,
    "device": "auto",
    "random_state": None,
    "verbose": False,
}
GIVEN_OTHERWISE = {"seed", "split_seed", "data", "labels"}


def test_every_recipe_that_learns_from_some_classes_is_a_model():
    with_classes = [name for name in RECIPES if declaration_of(load_recipe(name)).learns_from_some]
    assert [*recipes_with_classes()] == ["m1", *with_classes]


@pytest.mark.parametrize("model", recipes_with_classes())
def test_every_option_of_a_model_is_a_parameter(model):
    parameters = inspect.signature(SemiSupervisedVAEClassifier.__init__).parameters
    options = options_of(recipes_with_classes()[model])
    assert options.keys() - GIVEN_OTHERWISE <= parameters.keys()
    of_components = {
        name
        for option in options.values()
        if option.table is not None
        for row in option.table.values()
        for name in row.options
    }
    assert of_components <= parameters.keys()
    assert {"flow_steps", "components"} <= of_components


def test_every_parameter_is_none_by_default_or_the_estimators_own():
    estimator = SemiSupervisedVAEClassifier()
    assert {name: v for name, v in estimator.get_params().items() if v is not None or name in OWN} == OWN
    assert repr(SemiSupervisedVAEClassifier(alpha=3.0)) == "SemiSupervisedVAEClassifier(alpha=3.0)"


def test_every_parameter_has_help():
    for name in SemiSupervisedVAEClassifier().get_params():
        assert f"\n        {name}: " in SemiSupervisedVAEClassifier.__doc__
    assert "{options}" not in SemiSupervisedVAEClassifier.__doc__


def test_the_classifiers_of_m1_are_choices():
    choices = get_args(get_type_hints(inspect.unwrap(m1))["m1_classifier"])
    assert set(choices) == M1_CLASSIFIERS.keys()


@pytest.mark.parametrize("model", recipes_with_classes())
def test_none_stands_for_the_models_own_default(model, blobs, few):
    """All defaults written out give the same numbers, from no more than two epochs of all data."""
    X, _ = blobs
    options = options_of(recipes_with_classes()[model])
    own = {name: option.default for name, option in options.items() if name not in GIVEN_OTHERWISE}
    short = {"epochs": 2, "random_state": 0, "device": "cpu"} | ({} if model == "m1" else {"vae_epochs": 1})
    written_out = own | {"likelihood": "auto"} | short
    plain = SemiSupervisedVAEClassifier(model, **short).fit(X, few)
    same = SemiSupervisedVAEClassifier(model, **written_out).fit(X, few)
    np.testing.assert_array_equal(plain.predict_proba(X), same.predict_proba(X))
    np.testing.assert_array_equal(plain.sample(3), same.sample(3))


def test_parameters_are_set_and_cloned():
    estimator = SemiSupervisedVAEClassifier("pcvae", prediction=3.0, posterior="planar")
    estimator.set_params(flow_steps=2, prediction=None, likelihood="gaussian")
    copy = clone(estimator)
    assert copy.get_params() == estimator.get_params()
    given = {name: value for name, value in copy.get_params().items() if value is not None}
    assert given == {n: v for n, v in OWN.items() if v is not None} | {
        "model": "pcvae",
        "posterior": "planar",
        "flow_steps": 2,
        "likelihood": "gaussian",
    }
    with pytest.raises(ValueError, match="kappa"):
        estimator.set_params(kappa=1)


def test_a_grid_may_be_over_models_and_over_their_options(learner, blobs, few):
    """The search is of a pipeline, and its numbers are NumPy's, as those of `np.logspace` are."""
    X, y = blobs
    name = "semisupervisedvaeclassifier__"
    search = GridSearchCV(
        make_pipeline(StandardScaler(), learner("m2", epochs=8, vae_epochs=8)),
        [
            {name + "model": ["m2"], name + "alpha": np.array([25.0])},
            {name + "model": ["pcvae"], name + "prediction": np.array([0.0, 25.0])},
        ],
        cv=StratifiedKFold(2, shuffle=True, random_state=0),
        error_score="raise",
    ).fit(X, few)
    by_values = dict(
        zip(
            [(p[name + "model"], *p.values()) for p in search.cv_results_["params"]],
            search.cv_results_["mean_test_score"],
            strict=True,
        )
    )
    assert len(by_values) == 3
    unweighted, weighted = (by_values["pcvae", "pcvae", weight] for weight in (0.0, 25.0))
    assert weighted > max(unweighted, 0.85)
    assert search.best_score_ > 0.9
    assert search.score(X, y) > 0.9


def test_options_of_components_reach_them(quick, blobs, few):
    fitted = quick("m2", posterior="planar", flow_steps=3, prior="mixture", components=4).fit(blobs[0], few)
    shapes = {name: tuple(value.shape) for name, value in fitted.model_.state_dict().items()}
    assert any("planar" in str(type(module)).lower() for module in fitted.model_.modules())
    assert any(name.startswith("prior") and shape[:1] == (4,) for name, shape in shapes.items())


def test_shared_options_reach_the_training(quick, blobs, few):
    X, _ = blobs
    fitted = quick("m2", validation_fraction=0.2, warm_up=2.0, decay="none").fit(X, few)
    rows = fitted.history_.rows
    assert all("validation_elbo" in row or "validation_bound" in row for row in rows)
    assert rows[0]["beta"] < rows[-1]["beta"] <= 1
    assert rows[0]["learning_rate"] == rows[-1]["learning_rate"] == 0.01


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("m3", {}, "unknown model 'm3'.* m1, m2, m1m2, pcvae, cpcvae"),
        ("vae", {}, "unknown model 'vae'"),
        ("m1", {"m1_classifier": "svm"}, "'svm'.*linear-svm"),
        ("m2", {"epochs": 0}, "epochs is 0.*at least 1"),
        ("m2", {"epochs": 2.5}, "epochs is 2.5.*whole number"),
        ("m2", {"latent_dim": 0}, "latent_dim is 0.*at least 1"),
        ("m2", {"neighbours": 0}, "neighbours is 0.*at least 1"),
        ("m2", {"alpha": -1.0}, "alpha is -1.0.*at least 0"),
        ("m2", {"device": "abacus"}, "device 'abacus' cannot be used"),
        ("pcvae", {"alpha": 3.0}, "alpha is 3.0.*'pcvae' has no option alpha.* m2, m1m2"),
        ("m2", {"consistency": 0.0}, "consistency is 0.0.*'m2' has no option.* cpcvae"),
        ("m1", {"vae_epochs": 3}, "vae_epochs is 3.*'m1' has no option"),
        ("pcvae", {"m1_classifier": "logistic"}, "'pcvae' has no option m1_classifier.* m1"),
        ("m2", {"flow_steps": 3}, "flow_steps.*planar"),
        ("m2", {"prior": "mixed"}, "prior 'mixed'.*mixture"),
    ],
)
def test_options_that_do_not_fit_are_refused(model, options, message, quick, blobs, few):
    with pytest.raises(InputError, match=message):
        quick(model, **options).fit(blobs[0], few)


def test_what_is_no_parameter_is_refused_at_once():
    with pytest.raises(TypeError, match=r"no parameter alhpa.*'alpha'"):
        SemiSupervisedVAEClassifier(alhpa=3.0)
