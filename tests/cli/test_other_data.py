"""Runs that are asked about other data, or whose data have moved or gone: --data, and encode."""

import json
import re

import numpy as np
import pytest
import torch
from small_runs import PNG, files, pyrovae, train_small

from pyrovae.data.labels import numbered
from pyrovae.data.loading import Rows
from pyrovae.data.transforms import binarise_static
from pyrovae.errors import CheckpointError, InputError
from pyrovae.evaluation import marginal_likelihood
from pyrovae.generation import latent_means
from pyrovae.recipes import About, Run, Training, vae
from pyrovae.recipes.measuring import evaluate
from pyrovae.recipes.run_data import other_data

WORDS = ("--num-samples", 20, "--quiet", "--device", "cpu")
pytestmark = pytest.mark.filterwarnings("ignore:k-hat is above")


def write(path, count, seed, classes=2, **more):
    x = np.random.default_rng(seed).integers(0, 256, (count, 1, 4, 4), dtype=np.uint8)
    x[0, 0, 0, :2] = 0, 255
    np.savez(path, x=x, y=np.arange(count) % classes, **more)
    return x


@pytest.fixture
def folder(tmp_path):
    """A run on 60 images of two classes in mine.npz, with other images in new.npz."""
    write(tmp_path / "mine.npz", 60, seed=0)
    write(tmp_path / "new.npz", 17, seed=1)
    return train_small(tmp_path / "run", data={"data": str(tmp_path / "mine.npz")}).folder


def result_of(folder, pattern):
    (path,) = folder.glob(pattern)
    return json.loads(path.read_text())


def test_all_rows_of_other_data_are_scored_as_the_runs_are_and_the_result_names_them(folder):
    new = folder.parent / "new.npz"
    printed = pyrovae("evaluate", folder, "--data", new, *WORDS)
    run = Run.open(folder)
    x = torch.from_numpy(np.load(new)["x"]).float() / 255
    direct = marginal_likelihood(run.pair, binarise_static(x, 0), num_samples=20, seed=0)
    found = result_of(folder, "metrics_new_*.json")
    assert found["num_data"] == 17
    assert found["log_likelihood"] == direct.mean
    assert (found["data_file"], found["checkpoint"]) == (str(new), run.checkpoint)
    single = result_of(folder, "marginal_likelihood_new_*.json")
    assert single["data"]["log_px"] == direct.log_px.tolist(), "in the file's order"
    assert f"{folder}/metrics_new_" in printed
    assert run.metrics is None, "these are not of its test data"


def test_results_of_files_of_one_name_with_other_classes_lie_apart(folder, tmp_path):
    arrays, marks = dict(np.load(tmp_path / "new.npz")), set()
    for number, y in enumerate((arrays["y"], 1 - arrays["y"], None)):
        place = tmp_path / str(number)
        place.mkdir()
        np.savez(place / "new.npz", x=arrays["x"], **({} if y is None else {"y": y}))
        marks.add(Run.open(folder, data=place / "new.npz").scored.mark)
    assert len(marks) == 3


def test_own_data_are_known_by_their_values_wherever_they_lie(folder):
    pyrovae("evaluate", folder, *WORDS)
    before = files(folder)
    moved = (folder.parent / "mine.npz").rename(folder.parent / "moved.npz")
    pyrovae("evaluate", folder, "--data", moved, *WORDS)
    assert files(folder) == before, "the same split and the same result"
    arrays = dict(np.load(moved))
    np.savez(moved, x=arrays["x"].astype(np.float32) / 255, y=arrays["y"])
    pyrovae("evaluate", folder, "--data", moved, *WORDS)
    assert files(folder) == before, "the values as they are read are the same"
    np.savez(moved, x=arrays["x"][::-1], y=arrays["y"])
    pyrovae("evaluate", folder, "--data", moved, *WORDS)
    assert result_of(folder, "metrics_moved_*.json")["num_data"] == 60


def test_a_run_whose_data_have_gone_is_sampled_and_asked_about_other_data(folder):
    (folder.parent / "mine.npz").unlink()
    new, latents = folder.parent / "new.npz", folder.parent / "z.npz"
    pyrovae("sample", folder, "--count", 2)
    pyrovae("encode", folder, "--data", new, "--out", latents)
    pyrovae("overview", folder, "--data", new)
    pyrovae("plates", folder)
    for command in (["evaluate", folder, *WORDS], ["latent", folder], ["resume", folder, "--epochs", 3]):
        with pytest.raises(InputError, match=r"mine\.npz' is neither .*--data FILE"):
            pyrovae(*command)
    assert len(list((folder / "figures").glob("overview_new_*.png"))) == 1


def test_resume_goes_on_with_the_runs_own_data_alone(folder):
    new, moved = folder.parent / "new.npz", folder.parent / "moved.npz"
    before = files(folder)
    with pytest.raises(
        CheckpointError, match=r"the values of .*new\.npz \(data\) are not those .*own data"
    ):
        pyrovae("resume", folder, "--epochs", 3, "--data", new)
    assert files(folder) == before
    (folder.parent / "mine.npz").rename(moved)
    pyrovae("resume", folder, "--epochs", 3, "--data", moved, "--quiet")
    run = Run.open(folder)
    assert len(run.history.rows) == 3
    assert run.data.data == str(moved)
    assert len(run.images.x_train) == 48, "it is found there from now on"


def test_encode_writes_the_means_in_the_order_of_the_data(folder):
    new, out, run = folder.parent / "new.npz", folder.parent / "z.npz", Run.open(folder)
    assert pyrovae("encode", folder, "--data", new, "--out", out) == f"written: {out}\n"
    found, given = np.load(out), np.load(new)
    x = torch.from_numpy(given["x"]).float() / 255
    assert np.array_equal(found["z"], latent_means(run.pair, x).numpy())
    assert np.array_equal(found["y"], given["y"])
    assert (str(found["data_file"]), str(found["checkpoint"])) == (str(new), run.checkpoint)
    pyrovae("encode", folder, "--out", out)
    own = np.load(out)
    assert sorted(own.files) == ["checkpoint", "class_names", "y_test", "y_train", "z_test", "z_train"]
    assert own["class_names"].tolist() == ["0", "1"]
    assert np.array_equal(own["z_test"], latent_means(run.pair, run.images.x_test).numpy())
    assert np.array_equal(own["y_train"], run.images.y_train.numpy())
    assert len(own["z_train"]) == 48


@pytest.mark.parametrize("named", ["mine.npz", "new.npz", "run/config.json", "run/checkpoints/*.pt"])
def test_no_result_replaces_data_or_a_file_of_the_run(named, folder):
    out = min(folder.parent.glob(named))
    before = out.read_bytes()
    for words in (
        ("encode", folder, "--data", folder.parent / "new.npz", "--out", out),
        ("evaluate", folder, "--data", folder.parent / "new.npz", "--out", out, *WORDS),
    ):
        with pytest.raises(InputError, match="would be lost: name another file"):
            pyrovae(*words)
    assert out.read_bytes() == before


def test_a_data_set_is_named_as_in_train(tmp_path):
    folder = train_small(tmp_path / "run", data={"shift": 1}).folder
    found = evaluate(Run.open(folder, data="digits"), num_samples=2, limit=5, progress=False)
    assert "data_file" not in found.metrics, "digits are its own"
    x = np.random.default_rng(0).random((9, 1, 8, 8), dtype=np.float32)
    np.savez(tmp_path / "a b\n.npz", x=x)
    other = train_small(tmp_path / "other", data={"data": str(tmp_path / "a b\n.npz")}).folder
    run = Run.open(other, data="digits")
    assert (len(run.scored.x), run.scored.file, run.scored.y) == (1797, "digits", None)
    odd = Run.open(folder, data=tmp_path / "a b\n.npz").scored.mark
    assert re.fullmatch(r"_a-b-_[0-9a-f]{8}", odd)


def scored(folder, name, x):
    np.savez(folder.parent / name, x=x)
    return Run.open(folder, data=folder.parent / name).scored.x


@pytest.mark.parametrize("kind", [np.int32, np.float32, np.float64, ">f4"])
def test_the_same_numbers_in_another_type_are_the_same_data(kind, folder):
    x = np.load(folder.parent / "new.npz")["x"]
    expected = torch.from_numpy(x).float() / 255
    assert torch.equal(scored(folder, "as_bytes.npz", x), expected)
    assert torch.equal(scored(folder, "other_type.npz", x.astype(kind)), expected)
    divided = scored(folder, "divided.npz", x / 255)  # what a user would do by hand
    assert torch.allclose(divided, expected)
    own = np.load(folder.parent / "mine.npz")
    np.savez(folder.parent / "moved.npz", x=own["x"].astype(kind), y=own["y"])
    assert Run.open(folder, data=folder.parent / "moved.npz").scored.file is None, "its own test data"


@pytest.mark.parametrize("kind", [np.uint8, np.int64, np.float64])
def test_vectors_that_were_not_divided_are_taken_as_they_are(kind, tmp_path):
    rng = np.random.default_rng(0)
    np.save(tmp_path / "mine.npy", rng.integers(0, 40, (50, 3)) + 0.5)
    how = {"data": {"data": str(tmp_path / "mine.npy")}, "likelihood": "gaussian"}
    folder = train_small(tmp_path / "run", **how).folder
    assert Run.open(folder).config.scale == 1
    x = rng.integers(0, 200, (7, 3))
    assert torch.equal(scored(folder, "new.npz", x.astype(kind)), torch.from_numpy(x).float())


def test_data_whose_scale_is_not_known_are_refused(folder, tmp_path):
    """0 and 1 as floats may be nearly black and black, or black and white."""
    dark = np.zeros((4, 1, 4, 4))
    dark[:, 0, 0, 0] = 1
    for kind in (np.float32, bool):
        with pytest.raises(InputError, match=r"holds 0 and 1 alone.* Save grey levels as integers"):
            scored(folder, "dark.npz", dark.astype(kind))
    assert scored(folder, "dark.npz", (255 * dark).astype(np.uint8)).max() == 1, "the remedy"
    for bad in (dark * 300, dark * 1.5, dark - 0.5):
        with pytest.raises(InputError, match=r"dark: x \(float64\) lies in .*, expected \[0, "):
            scored(folder, "dark.npz", bad)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_whole_numbers_are_scaled_as_the_runs_are(dtype, folder, tmp_path):
    dark = np.zeros((4, 1, 4, 4), dtype)
    dark[:, 0, 0, 0] = 1  # of 255, since the run's images are grey
    np.savez(tmp_path / "dark.npz", x=dark)
    assert Run.open(folder, data=tmp_path / "dark.npz").scored.x.max() == pytest.approx(1 / 255)
    np.savez(tmp_path / "binary.npz", x=np.random.default_rng(0).integers(0, 2, (50, 1, 4, 4)))
    binary = train_small(tmp_path / "binary", data={"data": str(tmp_path / "binary.npz")}).folder
    assert Run.open(binary, data=tmp_path / "dark.npz").scored.x.max() == 1


def test_classes_go_by_their_names(tmp_path):
    image = pytest.importorskip("PIL.Image")
    grey = {"ant": 10, "bee": 90, "cat": 170}
    for place, names in (("mine", ["ant", "bee", "cat"]), ("new", ["bee", "cat"])):
        for name in names:
            (tmp_path / place / name).mkdir(parents=True)
            for number in range(6):
                pixels = np.full((4, 4), grey[name] + number, np.uint8)
                image.fromarray(pixels).save(tmp_path / place / name / f"{number}.png")
    folder = train_small(tmp_path / "run", data={"data": str(tmp_path / "mine")}).folder
    scored = Run.open(folder, data=tmp_path / "new").scored
    assert [*scored.class_names] == ["ant", "bee", "cat"]
    assert scored.y.tolist() == [1] * 6 + [2] * 6
    (tmp_path / "new" / "dog").mkdir()
    image.fromarray(np.full((4, 4), 7, np.uint8)).save(tmp_path / "new" / "dog" / "0.png")
    with pytest.raises(InputError, match=r"holds the class 'dog', but the classes of the run are ant, bee"):
        _ = Run.open(folder, data=tmp_path / "new").scored


@pytest.mark.parametrize(
    ("own", "other", "expected"),
    [
        ([1, 3, 5], [5, 1, 3], [2, 0, 1]),
        ([1, 3, 5], [3, 5, 3], [1, 2, 1]),
        ([1, 3, 5], [0, 1, 0], "holds the class '0', but the classes of the run are 1, 3, 5"),
        ([0, 1, 2], [2, 1, 1], [2, 1, 1]),
        ([*"abc"], [*"bcb"], [1, 2, 1]),
        ([*"abc"], [2, 1, 1], [2, 1, 1]),
        ([*"abc"], [3, 1, 1], "holds the class '3', but the classes of the run are 0, 1, 2"),
    ],
)
def test_numbers_mean_the_classes_that_are_called_so(own, other, expected):
    found = numbered({"y": np.array(other)}, (), "new")
    y = torch.from_numpy(found.ys["y"])
    rows = Rows("new", torch.zeros(3, 2), y, found.names, None, 1, (), found.called_by_numbers)
    about = About((2,), num_classes=3)
    if isinstance(expected, list):
        assert other_data(None, rows, about, [*map(str, own)]).y.tolist() == expected
    else:
        with pytest.raises(InputError, match=expected):
            other_data(None, rows, about, [*map(str, own)])


def test_a_run_knows_its_own_data_by_classes_of_any_name(tmp_path):
    x, y = np.random.default_rng(0).random((40, 4)), np.array([*"ab"] * 20)
    for name in ("mine.npz", "moved.npz"):
        np.savez(tmp_path / name, x=x, y=y)
    folder = train_small(tmp_path / "run", "m2", data={"data": str(tmp_path / "mine.npz")}).folder
    run = Run.open(folder, data=tmp_path / "moved.npz")
    assert (run.scored.file, run.class_names) == (None, ["a", "b"])


@pytest.mark.parametrize("count", [1, 2])
def test_few_rows_are_scored(count, folder):
    write(folder.parent / "few.npz", count, seed=3)
    found = evaluate(Run.open(folder, data=folder.parent / "few.npz"), num_samples=5, progress=False)
    assert found.metrics["num_data"] == count


def test_a_split_of_their_own_does_not_matter_for_other_data(folder):
    parts, x = folder.parent / "parts.npz", np.load(folder.parent / "new.npz")["x"]
    np.savez(parts, x_train=x[:5], x_test=x[5:])
    whole = Run.open(folder, data=folder.parent / "new.npz").scored.x
    assert torch.equal(Run.open(folder, data=parts).scored.x, whole)


DARK = np.zeros((5, 1, 5, 4), np.uint8)


@pytest.mark.parametrize(
    ("arrays", "named"),
    [
        ({"x": DARK}, r"of .*bad\.npz has shape \(1, 5, 4\), .* of shape \(1, 4, 4\)"),
        ({"x": DARK[:, :, :4], "y": np.array([0, 1, 2, 0, 0])}, "class '2', but the .* are 0, 1:"),
    ],
    ids=["shape", "class"],
)
def test_data_that_do_not_fit_are_refused(arrays, named, folder):
    np.savez(folder.parent / "bad.npz", **arrays)
    with pytest.raises(InputError, match=named):
        pyrovae("evaluate", folder, "--data", folder.parent / "bad.npz", *WORDS)


def test_figures_of_other_data_name_them(folder):
    new = folder.parent / "new.npz"
    for command in ("reconstruct", "latent", "histograms", "aggregate"):
        printed = pyrovae(command, folder, "--data", new)
        path = re.fullmatch(rf"written: ({folder}/figures/\w+_new_[0-9a-f]{{8}}\.png)\n", printed)[1]
        with open(path, "rb") as file:
            content = file.read()
        assert content.startswith(PNG)
        assert f"{Run.open(folder).checkpoint} on {new}".encode() in content


def test_a_classifier_is_measured_on_other_data_also_when_the_runs_have_gone(tmp_path):
    write(tmp_path / "mine.npz", 60, seed=0)
    write(tmp_path / "new.npz", 17, seed=1)
    folder = train_small(tmp_path / "run", "m2", data={"data": str(tmp_path / "mine.npz")}).folder
    printed = pyrovae("classify", folder, "--data", tmp_path / "new.npz", "--device", "cpu")
    assert [line.split("  ")[0] for line in printed.splitlines()[:2]] == ["own classifier", "logistic"]
    (tmp_path / "mine.npz").unlink()
    again = pyrovae("classify", folder, "--data", tmp_path / "new.npz", "--device", "cpu")
    assert again.splitlines()[0] == printed.splitlines()[0]
    run = Run.open(folder, data=tmp_path / "new.npz")
    wrong = run.pair.classifier(run.scored.x).probs.argmax(-1) != run.scored.y
    found = result_of(folder, "classification_new_*.json")["test_errors"]
    assert found == {"own classifier": pytest.approx(100 * wrong.float().mean().item())}


def test_a_run_on_data_from_python_is_asked_about_files(folder, tmp_path):
    x = torch.from_numpy(np.load(folder.parent / "new.npz")["x"]).float() / 255
    plan = vae(About.of(x), latent_dim=2, width=8)
    plan.fit(x, training=Training(epochs=1), folder=tmp_path / "python", device="cpu")
    with pytest.raises(InputError, match="data that were given in Python"):
        evaluate(Run.open(tmp_path / "python"), num_samples=5, progress=False)
    run = Run.open(tmp_path / "python", data=folder.parent / "new.npz")
    assert run.scored.file is None, "known again as the data that were divided by 255"
    assert evaluate(run, num_samples=5, progress=False).metrics["num_data"] == 17
    pyrovae("sample", tmp_path / "python", "--count", 1)
    write(tmp_path / "bytes.npz", 9, seed=5)
    with pytest.raises(InputError, match="not known whether they were divided by 255: save floats"):
        _ = Run.open(tmp_path / "python", data=tmp_path / "bytes.npz").scored
    np.savez(tmp_path / "floats.npz", x=np.load(tmp_path / "bytes.npz")["x"] / 255)
    assert len(Run.open(tmp_path / "python", data=tmp_path / "floats.npz").scored.x) == 9
