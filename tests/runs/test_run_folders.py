"""Run folders: what is in them, how data reach the model, and what is refused."""

import json
import shutil

import pytest
import torch
from small_runs import files, train_small

from pyrovae import data
from pyrovae.errors import CheckpointError, InputError
from pyrovae.recipes import RECIPES, About, Data, Run, Training, load_recipe, train
from pyrovae.recipes.measuring import evaluate
from pyrovae.recipes.presentation import Presentation
from pyrovae.recipes.settings import plain_values
from pyrovae.training.checkpoints import load_checkpoint

pytestmark = pytest.mark.cpu

# What a run folder holds


def test_config_json_holds_options_versions_commit_and_command(trained):
    config = json.loads((trained.folder / "config.json").read_text())
    assert config["format"] == 4
    asked = config["config"]
    assert asked["recipe"] == "vae"
    assert asked["options"].items() >= {"width": 8, "latent_dim": 2, "likelihood": "bernoulli"}.items()
    assert asked["training"] == plain_values(Training(epochs=2))
    assert asked["data"] == plain_values(Data(data="digits"))
    assert asked["data"]["split_seed"] == 0
    assert asked["class_names"] == [str(digit) for digit in range(10)]
    assert asked["scale"] == 1, "digits are divided by 16, their white"
    assert asked["about"]["x_shape"] == [1, 8, 8]
    assert config["versions"]["torch"] == torch.__version__.split("+")[0]
    assert config["versions"].keys() >= {"python", "pyrovae", "pyro-ppl", "numpy"}
    assert config["git_commit"] is None or len(config["git_commit"].removesuffix("-dirty")) == 40
    assert config["command"].startswith("pyrovae")


def test_history_json_holds_a_row_for_each_epoch_as_the_checkpoint_does(trained):
    history = json.loads((trained.folder / "history.json").read_text())
    assert [row["epoch"] for row in history["rows"]] == [1, 2]
    assert history["rows"] == trained.history.rows
    assert all("validation_elbo" in row for row in history["rows"])


def test_the_model_that_is_evaluated_is_the_best_epochs(run):
    content = load_checkpoint(run.folder / "checkpoints")
    expected = content["best_state"]["modules"]["0"]
    assert all(torch.equal(value, expected[name]) for name, value in run.pair.state_dict().items())
    assert not run.pair.training
    without = train_small(run.folder.parent / "without", training={"validation_fraction": 0.0})
    content = load_checkpoint(without.folder / "checkpoints")
    assert content["best_state"] is None
    expected = content["state"]["modules"]["0"]
    assert all(torch.equal(value, expected[name]) for name, value in without.pair.state_dict().items())


def test_the_same_config_gives_the_same_run_and_another_seed_another(trained, tmp_path):
    def weights(folder):
        return load_checkpoint(folder / "checkpoints")["state"]["modules"]["0"]

    again = train_small(tmp_path / "again")
    other = train_small(tmp_path / "other", training={"seed": 1})
    expected = weights(trained.folder)
    assert all(torch.equal(value, expected[name]) for name, value in weights(again.folder).items())
    assert not any(
        torch.equal(value, expected[name])
        for name, value in weights(other.folder).items()
        if "weight" in name
    )


def test_evaluating_twice_gives_the_same_numbers_and_files(run):
    first = evaluate(run, num_samples=20, limit=30, progress=False)
    first.write()
    written = files(run.folder)
    second = evaluate(Run.open(run.folder), num_samples=20, limit=30, progress=False)
    second.write()
    assert first.metrics == second.metrics
    assert files(run.folder) == written
    assert run.metrics["log_likelihood"] == first.result.mean
    assert run.metrics["num_samples"] == 20


def test_a_run_folder_can_be_moved(run, trained):
    moved = run.folder.parent / "elsewhere" / "moved"
    moved.parent.mkdir()
    shutil.move(run.folder, moved)
    scores = [
        evaluate(r, num_samples=5, limit=10, progress=False).metrics for r in (Run.open(moved), trained)
    ]
    assert scores[0] == scores[1]
    shutil.rmtree(moved)


def test_a_run_on_a_file_is_found_again_from_another_working_directory(vectors, tmp_path, monkeypatch):
    monkeypatch.chdir(vectors.parent)
    run = train_small(tmp_path / "run", "ppca", data={"data": vectors.name})
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert evaluate(Run.open(run.folder), num_samples=5, progress=False).result.mean < 0


def test_ppca_is_evaluated_beside_its_exact_evidence(vectors, tmp_path):
    training = {"epochs": 300, "learning_rate": 0.02}
    run = train_small(tmp_path / "run", "ppca", data={"data": str(vectors)}, training=training)
    found = evaluate(run, num_samples=500, progress=False)
    assert found.metrics["exact_log_likelihood"] == pytest.approx(found.result.mean, abs=0.05)


# How the data reach the model


@pytest.mark.parametrize(
    ("model", "options", "binarise", "pixels"),
    [
        ("vae", {}, "auto", "dynamic"),
        ("vae", {}, "static", "static"),
        ("vae", {"likelihood": "gaussian"}, "auto", "none"),
        ("vae", {"likelihood": "gaussian"}, "dynamic", "dynamic"),
        ("vae", {"likelihood": "categorical"}, "auto", "levels"),
        ("vae", {"likelihood": "continuous-bernoulli"}, "auto", "none"),
        ("ppca", {}, "auto", "none"),
        ("autoencoder", {}, "auto", "dynamic"),
    ],
    ids=str,
)
def test_pixels_are_what_the_likelihood_needs(model, options, binarise, pixels):
    plan = load_recipe(model)(About((1, 8, 8)), **options)
    assert Presentation.of(plan.pixels, Data(binarise=binarise)).pixels == pixels


def test_training_and_validation_images_are_apart_and_the_test_images_not_among_them(run):
    images = data.load("digits")
    x, y, held_out = run.training_data()
    assert y is None
    assert len(x) + len(held_out) == len(images.x_train)
    assert len(held_out) == pytest.approx(0.1 * len(images.x_train), abs=1)
    assert x.unique().numel() > 2, "grey values are binarised in each minibatch"
    together = torch.cat([x, held_out]).flatten(1)
    assert torch.equal(together.sum(0), images.x_train.flatten(1).sum(0))


def test_levels_are_whole_numbers_and_shown_as_grey_values():
    levels = Presentation("levels")
    x = levels.fixed(torch.tensor([0.0, 0.5, 1.0]))
    assert x.tolist() == [0, 128, 255]
    assert levels.shown(x).max() == 1


def test_binary_pixels_are_evaluated_on_one_draw_and_encoded_at_their_means():
    x, dynamic = torch.full((1, 1, 8, 8), 0.5), Presentation("dynamic", seed=1)
    assert torch.equal(dynamic.fixed(x), dynamic.fixed(x))
    assert set(dynamic.fixed(x).unique().tolist()) == {0, 1}
    assert torch.equal(dynamic.encoded(x), x)
    static = Presentation("static", seed=1)
    assert torch.equal(static.for_training(x), dynamic.fixed(x))


# What is refused


@pytest.mark.parametrize(
    ("model", "given", "message"),
    [
        ("vaee", {}, "model 'vaee'.*'vae'"),
        ("vae", {"data": {"data": "digit"}}, "'digit' is neither a data set.*'digits'"),
        ("vae", {"likelihood": "bernouli"}, "likelihood 'bernouli'.*'bernoulli'"),
        ("vae", {"data": {"binarise": "yes"}}, "binarise 'yes'"),
        ("vae", {"latent_dim": -2}, "latent_dim is -2"),
        ("vae", {"training": {"epochs": 0}}, "epochs is 0"),
        ("vae", {"training": {"batch_size": -1}}, "batch_size is -1"),
        ("vae", {"training": {"learning_rate": 0.0}}, "learning_rate is 0"),
        ("vae", {"training": {"beta": -1.0}}, "beta is -1"),
        ("vae", {"training": {"beta": float("inf")}}, "inf"),
        ("vae", {"training": {"warm_up": -1.0}}, "warm_up is -1"),
        ("vae", {"training": {"warm_up": 1.0, "cycle": 1.0}}, "warm_up is 1.0 and cycle is 1.0"),
        ("vae", {"training": {"validation_fraction": 1.0}}, "validation_fraction is 1"),
        ("vae", {"training": {"validation_fraction": 0.0, "patience": 3}}, "patience is 3, but no data"),
        ("vae", {"training": {"clip_norm": 0.0}}, "clip_norm is 0"),
        ("vae", {"training": {"seed": -1}}, "seed is -1"),
        ("vae", {"data": {"binarise": "none"}}, "outside the support of the Bernoulli.*--binarise"),
        ("vae", {"data": {"labels": 3}}, "labels is 3, but vae learns no classes.*classify"),
        ("m2", {"data": {"shift": -1}}, "shift is -1"),
        ("m2", {"data": {"labels": 0}}, "labels is 0"),
        ("m2", {"data": {"labels": 500}}, "labels is 500, but class 0 has 142 members"),
        ("pcvae", {"constraint_delay": -1.0}, "constraint_delay is -1.0"),
    ],
    ids=str,
)
def test_options_that_do_not_fit_are_refused_and_leave_nothing_behind(model, given, message, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    for folder in (tmp_path / "new" / "run", empty):
        with pytest.raises(InputError, match=message):
            train_small(folder, model, **given) if model in RECIPES else train(model, folder)
    assert list(tmp_path.rglob("*")) == [empty]


def test_a_folder_in_use_is_refused_and_left_as_it_is(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    for folder in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(InputError, match="is in use: name another folder"):
            train_small(folder)
    assert files(tmp_path) == {(tmp_path / "notes.txt").relative_to(tmp_path): b"mine"}


DAMAGED = {
    "cut off": '{"format": 3, "config": {"recipe": "vae", "da',
    "empty": "",
    "no JSON": "hello",
    "a list": "[]",
    "no config": "{}",
    "another format": '{"format": 2, "versions": {"pyrovae": "0.2.0"}, "config": {}}',
    "bytes": b"\xff\xfe\x00",
}
CHANGED = {
    "config is a list": lambda config: [],
    "no recipe": lambda config: {name: value for name, value in config.items() if name != "recipe"},
    "another recipe": lambda config: config | {"recipe": "vaee"},
    "null": lambda config: config | {"recipe": None},
    "unknown option": lambda config: config | {"options": {"gamma": 1}},
    "text for a number": lambda config: config | {"options": {"latent_dim": "ten"}},
    "fraction of an epoch": lambda config: config | {"training": {"epochs": 1.5}},
    "no facts about the data": lambda config: config | {"about": {}},
    "facts of another type": lambda config: config | {"about": {"x_shape": ["a"]}},
    "options are a list": lambda config: config | {"options": []},
}


@pytest.mark.parametrize("text", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_config_is_refused_by_name(text, run):
    path = run.folder / "config.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=r"config\.json"):
        Run.open(run.folder)


@pytest.mark.parametrize("change", CHANGED.values(), ids=CHANGED)
def test_a_config_that_holds_something_else_is_refused_by_name(change, run):
    path = run.folder / "config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"config": change(content["config"])}))
    with pytest.raises(InputError, match=r"config\.json"):
        Run.open(run.folder)


def test_a_run_of_version_0_1_is_refused_by_its_version(run):
    content = {"versions": {"pyrovae": "0.1.0"}, "config": {"model": "vae"}, "x_shape": [1, 8, 8]}
    (run.folder / "config.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"written by pyrovae 0\.1\.0.* train again"):
        Run.open(run.folder)


def test_numbers_that_a_person_wrote_without_a_point_are_taken(run):
    path = run.folder / "config.json"
    content = json.loads(path.read_text())
    content["config"]["training"] |= {"beta": 1, "clip_norm": 1}
    path.write_text(json.dumps(content))
    assert Run.open(run.folder).training == Training(epochs=2, clip_norm=1.0)


def test_a_folder_without_config_is_no_run(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(InputError, match=r"is not a run folder: .*config\.json"):
            Run.open(folder)


def test_another_models_checkpoints_in_a_run_are_refused(run):
    path = run.folder / "config.json"
    path.write_text(path.read_text().replace('"latent_dim": 2', '"latent_dim": 3'))
    with pytest.raises(CheckpointError, match=r"options\.latent_dim was 2 in the training, and is 3 now"):
        _ = Run.open(run.folder).pair
