"""The command line: what each command writes, and how it refuses, in one line, with nothing left over."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import done, finish, start
from pyrovae.recipes.build import LIKELIHOODS, MODELS, NETWORKS
from pyrovae.recipes.runs import Run
from typer.testing import CliRunner

from pyrovae.cli import app as cli
from pyrovae.data import DATASETS
from pyrovae.errors import InputError

SMALL = ["--epochs", 1, "--width", 8, "--latent-dim", 2, "--batch-size", 500, "--device", "cpu"]
COMMANDS = [
    "train",
    "resume",
    "evaluate",
    "sample",
    "reconstruct",
    "interpolate",
    "overview",
    "plates",
    "models",
]
PNG = b"\x89PNG"


def pyrovae(*words):
    """Run a command in this process."""
    result = CliRunner().invoke(cli.app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def train(folder, model="vae", *options):
    return pyrovae("train", model, "--out", folder, *SMALL, "--quiet", *options)


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A VAE's run on digits, to be read only."""
    folder = tmp_path_factory.mktemp("cli") / "run"
    train(folder)
    return folder


@pytest.fixture(scope="module")
def autoencoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "autoencoder"
    train(folder, "autoencoder")
    return folder


@pytest.fixture
def run(trained, tmp_path):
    """A copy of it that a test may change."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


# Commands that work

COMBINATIONS = [
    *(("vae", likelihood, network) for likelihood in LIKELIHOODS for network in NETWORKS),
    *(("autoencoder", likelihood, "mlp") for likelihood in LIKELIHOODS),
    *(("autoencoder", "bernoulli", network) for network in NETWORKS[1:]),
    ("ppca", "gaussian", "mlp"),
]


@pytest.mark.filterwarnings("ignore:k-hat is above")
@pytest.mark.parametrize(("model", "likelihood", "network"), COMBINATIONS, ids=str)
def test_every_model_is_trained_evaluated_and_drawn(model, likelihood, network, tmp_path):
    folder = tmp_path / "run"
    printed = train(folder, model, "--likelihood", likelihood, "--network", network)
    assert "trained 1 epochs; best epoch 1: validation ELBO" in printed
    expected = {"config.json", "history.json", "figures/learning_curves.png", "figures/plate_diagram.png"}
    if model == "autoencoder":
        with pytest.raises(InputError, match="no latent site"):
            pyrovae("evaluate", folder, "--num-samples", 20, "--limit", 20, "--quiet")
    else:
        printed = pyrovae("evaluate", folder, "--num-samples", 20, "--limit", 20, "--quiet")
        metrics = json.loads((folder / "metrics.json").read_text())
        assert printed.startswith(f"log p(x) = {metrics['log_likelihood']:.3f} ")
        assert metrics["num_samples"] == 20
        assert metrics["num_data"] == 20
        expected |= {"metrics.json", "marginal_likelihood.json"}
    pyrovae("reconstruct", folder, "--count", 3)
    pyrovae("interpolate", folder, "--count", 2, "--steps", 4)
    expected |= {"figures/reconstructions.png", "figures/interpolation.png"}
    written = {str(path) for path in files(folder)}
    (checkpoint,) = written - expected
    assert written - {checkpoint} == expected
    assert re.fullmatch(r"checkpoints/epoch-00001-[0-9a-f]{16}\.pt", checkpoint)
    assert all(path.read_bytes().startswith(PNG) for path in folder.rglob("*.png"))


def test_the_command_and_its_options_are_kept(tmp_path, monkeypatch):
    words = ["pyrovae", "train", "vae", "--out", str(tmp_path / "run"), *map(str, SMALL), "--quiet"]
    monkeypatch.setattr(sys, "argv", [*words, "--beta", "2.5", "--warm-up", "3"])
    cli.app(sys.argv[1:], standalone_mode=False)
    content = json.loads((tmp_path / "run" / "config.json").read_text())
    assert content["command"] == " ".join(sys.argv)
    assert content["config"]["beta"] == 2.5
    assert content["config"]["warm_up"] == 3
    assert content["config"]["latent_dim"] == 2


def test_sample_and_overview_draw_a_trained_run(run):
    assert pyrovae("sample", run, "--count", 12) == f"written: {run}/figures/samples.png\n"
    pyrovae("evaluate", run, "--num-samples", 5, "--limit", 20, "--quiet")
    pyrovae("overview", run)
    for name in ("samples", "overview"):
        assert (run / "figures" / f"{name}.png").read_bytes().startswith(PNG)


def test_sampling_again_with_the_same_seed_draws_the_same(run):
    pyrovae("sample", run, "--count", 4, "--seed", 1)
    first = (run / "figures" / "samples.png").read_bytes()
    pyrovae("sample", run, "--count", 4, "--seed", 2)
    assert (run / "figures" / "samples.png").read_bytes() != first
    pyrovae("sample", run, "--count", 4, "--seed", 1)
    assert (run / "figures" / "samples.png").read_bytes() == first


def test_evaluating_twice_prints_and_writes_the_same_also_after_a_move(run):
    words = ["--num-samples", 20, "--limit", 20, "--quiet"]
    first = pyrovae("evaluate", run, *words), files(run)
    assert (pyrovae("evaluate", run, *words), files(run)) == first
    moved = run.rename(run.parent / "moved")
    assert pyrovae("evaluate", moved, *words).replace("moved", "run") == first[0]
    assert files(moved) == first[1]


@pytest.mark.filterwarnings("ignore:k-hat is above")
def test_evaluating_ppca_prints_its_exact_evidence(tmp_path):
    train(tmp_path / "run", "ppca")
    assert re.search(r"exact +=", pyrovae("evaluate", tmp_path / "run", "--num-samples", 50, "--quiet"))


def test_diagnose_prints_where_the_bound_is_lost_and_what_latents_carry(run):
    printed = pyrovae("diagnose", run, "--limit", "10", "--num-samples", "100", "--steps", "20", "--quiet")
    for line in ("units are active", "mutual information", "dimension-wise KL", "amortisation"):
        assert line in printed
    gaps = json.loads((run / "inference_gaps.json").read_text())
    assert len(gaps["data"]["elbo"]) == 10
    assert json.loads((run / "active_units.json").read_text())["summary"]["num_data"] == 10
    assert (run / "kl_decomposition.json").exists()


@pytest.mark.parametrize(
    ("options", "missing"),
    [
        (
            ["vae", "--posterior", "planar", "--flow-steps", "2"],
            "no kl decomposition of this guide: a Planar",
        ),
        (["hvae"], "no inference gaps of this guide: the guide's site 'z1' depends on"),
    ],
)
def test_diagnose_says_what_a_guide_cannot_be_asked(options, missing, tmp_path):
    train(tmp_path / "run", *options, "--compile", "off")
    printed = pyrovae(
        "diagnose", tmp_path / "run", "--limit", "5", "--num-samples", "20", "--steps", "5", "--quiet"
    )
    assert missing in printed
    assert printed.count("written: ") == 2


def test_posterior_prior_and_objective_are_options(tmp_path):
    options = ["--posterior", "planar", "--flow-steps", "3", "--prior", "mixture", "--components", "5"]
    train(tmp_path / "run", "vae", *options, "--objective", "iwae", "--particles", "4", "--compile", "off")
    config = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    chosen = {"posterior": "planar", "flow_steps": 3, "prior": "mixture", "components": 5}
    assert config.items() >= (chosen | {"objective": "iwae", "particles": 4}).items()
    model = Run.open(tmp_path / "run").model
    assert len(model.posterior.flow(torch.zeros(model.posterior.flow.context_dim))) == 3
    assert len(model.prior.loc) == 5
    assert "log p(x) =" in pyrovae("evaluate", tmp_path / "run", "--num-samples", "20", "--limit", "10")


def test_two_levels_are_trained_and_evaluated(tmp_path):
    train(tmp_path / "run", "hvae", "--prior", "vamp", "--components", "5")
    assert "log p(x) =" in pyrovae("evaluate", tmp_path / "run", "--num-samples", "20", "--limit", "10")
    pyrovae("sample", tmp_path / "run")
    pyrovae("reconstruct", tmp_path / "run")


def test_resume_goes_on_for_more_epochs(run):
    assert "trained 3 epochs" in pyrovae("resume", run, "--epochs", 3, "--quiet")
    assert len(json.loads((run / "history.json").read_text())["rows"]) == 3
    assert "trained 3 epochs" in pyrovae("resume", run, "--quiet")


def test_resume_for_fewer_epochs_is_refused_and_leaves_the_run_as_it_was(run, log):
    pyrovae("resume", run, "--epochs", 2, "--quiet")
    before = {path: path.read_bytes() for path in run.rglob("*.json")}
    refused("has 2 epochs already, and 1 are asked for", "resume", run, "--epochs", 1, log=log)
    assert {path: path.read_bytes() for path in run.rglob("*.json")} == before


def test_a_run_is_resumed_as_it_was_begun(tmp_path, recorded):
    """Compiled, for one, whose rounding is not that of a run that is not."""
    for name, epochs in (("whole", 2), ("part", 1)):
        train(tmp_path / name, "vae", "--epochs", epochs, "--compile", "on")
    pyrovae("resume", tmp_path / "part", "--epochs", 2, "--quiet")
    assert json.loads((tmp_path / "part" / "config.json").read_text())["config"]["compile"] == "on"
    whole, part = (Run.open(tmp_path / name).model.state_dict() for name in ("whole", "part"))
    assert all(torch.equal(whole[name], part[name]) for name in whole)
    pyrovae("evaluate", tmp_path / "part", "--num-samples", 20, "--limit", 10, "--compile", "on", "--quiet")
    pyrovae("resume", tmp_path / "part", "--epochs", 3, "--compile", "off", "--quiet")


def test_an_early_stop_is_told_in_one_line(tmp_path):
    options = ["--epochs", 60, "--learning-rate", 0.5, "--patience", 1]
    stopped = r"^trained (\d+) epochs \(stopped early\); best epoch \d+:"
    epochs = re.search(stopped, train(tmp_path / "r", "vae", *options))[1]
    assert re.search(stopped, pyrovae("resume", tmp_path / "r", "--quiet"))[1] == epochs
    more = pyrovae("resume", tmp_path / "r", "--patience", 4, "--quiet")
    assert int(re.search(r"trained (\d+) epochs", more)[1]) >= int(epochs) + 3


def test_tensorboard_is_written_when_asked_for(tmp_path):
    train(tmp_path / "run", "vae", "--tensorboard")
    assert list((tmp_path / "run" / "tensorboard").glob("events.*"))


def test_colour_images_of_the_users_own_are_trained_and_drawn(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", x=x)
    train(
        tmp_path / "run",
        "vae",
        "--data",
        tmp_path / "x.npz",
        "--likelihood",
        "categorical",
        "--network",
        "conv",
    )
    for command in ("sample", "reconstruct", "interpolate"):
        pyrovae(command, tmp_path / "run", "--count", 2)
    assert len(list((tmp_path / "run" / "figures").iterdir())) == 5


def test_a_data_set_with_few_test_images_has_an_overview(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((20, 8, 8)).astype(np.float32).round())
    train(tmp_path / "run", "vae", "--data", tmp_path / "x.npy")
    assert pyrovae("overview", tmp_path / "run").endswith("overview.png\n")


def test_vectors_are_trained_and_evaluated_but_not_drawn(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(50, 6)))
    train(tmp_path / "run", "vae", "--data", tmp_path / "x.npy", "--likelihood", "gaussian")
    assert "log p(x)" in pyrovae("evaluate", tmp_path / "run", "--num-samples", 20, "--quiet")
    before = files(tmp_path / "run")
    with pytest.raises(InputError, match=r"data of shape \(6,\) are not images"):
        pyrovae("sample", tmp_path / "run")
    assert files(tmp_path / "run") == before


@pytest.mark.parametrize("model", MODELS)
def test_plates_prints_a_models_diagram(model):
    printed = pyrovae("plates", model)
    assert "data" in printed
    assert "x" in printed


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf", "dot", "tex"])
def test_plates_draws_a_models_or_a_runs_diagram(suffix, trained, tmp_path):
    for number, source in enumerate(("vae", trained)):
        path = tmp_path / "new" / f"{number}.{suffix}"
        assert f"written: {path}" in pyrovae("plates", source, "--out", path)
        assert path.stat().st_size > 100


def test_models_lists_all_there_is():
    printed = pyrovae("models")
    for name in (*MODELS, *DATASETS, *LIKELIHOODS, *NETWORKS):
        assert name in printed


def test_help_lists_the_commands():
    printed = pyrovae("--help")
    assert all(re.search(rf"^  {command} ", printed, re.M) for command in COMMANDS)
    assert "Example: pyrovae train" in printed


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_each_command_shows_an_example(command):
    assert f"Example: pyrovae {command}" in pyrovae(command, "--help")


def test_help_shows_each_options_default():
    printed = " ".join(pyrovae("train", "--help").split())
    for option, default in cli.DEFAULTS.items():
        if default is None or default is False:  # said in words, or a flag
            continue
        text = printed[printed.index(f"--{option.replace('_', '-')} ") :]
        assert f"[default: {default}" in re.split(r" --(?=\w)", text, maxsplit=1)[0], option
    for command, default in {
        "evaluate": "5000",
        "sample": "100",
        "reconstruct": "10",
        "interpolate": "12",
    }.items():
        assert f"[default: {default}]" in pyrovae(command, "--help")


# Commands that are refused, in processes of their own


def refused(message, *words, log):
    result = finish(words, log)
    assert result.status == 1, result
    lines = result.err.splitlines()
    assert len(lines) == 1, result.err
    assert lines[0].startswith("error: ")
    assert re.search(message, lines[0]), lines[0]


@pytest.fixture
def log(tmp_path_factory):
    return tmp_path_factory.mktemp("log") / "log"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["vaee"], "unknown model 'vaee'.*Did you mean 'vae'"),
        (["vae", "--data", "mnits"], "'mnits' is neither a data set.*Did you mean 'mnist'"),
        (["vae", "--likelihood", "bernouli"], "unknown likelihood.*Did you mean 'bernoulli'"),
        (["vae", "--network", "cnn"], "unknown network 'cnn'; there are mlp, gated, residual, conv"),
        (["vae", "--posterior", "iff"], "unknown posterior 'iff'; there are normal, full-covariance"),
        (["vae", "--posterior", "planar", "--prior", "vamp"], "a VampPrior scores each z under"),
        (["m2", "--objective", "iwae"], "objective is 'iwae' with 1 particles; models with classes"),
        (["vae", "--objective", "iwae", "--beta", "2"], "'iwae' has no KL term for beta"),
        (["vae", "--objective", "free-bits", "--free-bits", "-1"], "nats is -1.0; a floor"),
        (["vae", "--prior", "vamp", "--components", "5000"], "5000 pseudo-inputs"),
        (["vae", "--compile", "maybe"], "unknown way to compile 'maybe'"),
        (["vae", "--latent-dim", "-2"], "latent_dim is -2; it must be at least 1"),
        (["vae", "--epochs", "0"], "epochs is 0; it must be a whole number"),
        (["vae", "--epochs", "many"], "Invalid value for '--epochs'"),
        (["vae", "--batch-size", "0"], "batch_size is 0"),
        (["vae", "--device", "gpu"], "device 'gpu' cannot be used"),
        (["vae", "--depth", "3"], "No such option: --depth"),
        (["vae", "--binarise", "none"], "outside the support of the Bernoulli.*--binarise"),
        (["vae", "--clip-norm", "nan"], "clip_norm is nan"),
        (["vae", "--warm-up", "-1"], "warm_up is -1.0; it must be at least 0"),
        (["vae", "--beta", "nan"], "a weight of nan is not possible"),
        (["vae", "--validation-fraction", "0.0001"], "with a fraction of 0.0001 held out"),
        (["vae", "--objective", "iwae"], "set particles"),
        ([], "Missing argument"),
    ],
    ids=str,
)
def test_training_that_cannot_be_is_refused_in_one_line_and_leaves_nothing(words, message, log, tmp_path):
    refused(message, "train", *words, "--quiet", "--out", tmp_path / "new" / "run", log=log)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trian"], "No such command 'trian'"),
        (["evaluate", "nowhere"], r"nowhere is no run folder: there is no config\.json"),
        (["resume", "nowhere"], "nowhere is no run folder"),
        (["sample", "nowhere"], "nowhere is no run folder"),
        (["plates", "nothing"], "unknown model 'nothing'"),
        (["plates", "vae", "--out", "vae.docx"], "docx"),
    ],
    ids=str,
)
def test_commands_that_cannot_be_are_refused_in_one_line(words, message, log, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(message, *words, log=log)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluate", "--num-samples", 0], "use at least 1 sample"),
        (["evaluate", "--limit", 0], "limit is 0"),
        (["sample", "--count", 0], "count is 0"),
        (["reconstruct", "--count", 100000], "100000 test images were asked for"),
        (["interpolate", "--steps", 1], "steps is 1"),
        (["interpolate", "--count", 0], "0 test images were asked for"),
        (["resume", "--epochs", 0], "epochs is 0"),
        (
            ["resume", "--compile", "of"],
            "unknown way to compile 'of'; there are auto, on, off. Did you mean 'of",
        ),
        (["resume", "--device", "cuda:99"], "device 'cuda:99' cannot be used"),
    ],
    ids=str,
)
def test_what_a_run_cannot_give_is_refused_and_the_run_left_as_it_was(words, message, run, log):
    before = files(run)
    refused(message, words[0], run, *words[1:], log=log)
    assert files(run) == before


def test_an_autoencoder_is_neither_evaluated_nor_sampled(autoencoder, log):
    before = files(autoencoder)
    refused("no latent site, so there is nothing to integrate out", "evaluate", autoencoder, log=log)
    refused("no prior over z, so it cannot generate", "sample", autoencoder, log=log)
    assert files(autoencoder) == before


def test_damaged_run_folders_are_refused_in_one_line(run, log):
    (checkpoint,) = (run / "checkpoints").iterdir()
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[:-10])
    for command in ("evaluate", "resume", "sample", "overview"):
        refused(r"does not match the digest.*no sound one to fall back on", command, run, log=log)
    checkpoint.unlink()
    refused("no checkpoint in .*train first", "evaluate", run, log=log)
    (run / "config.json").write_text('{"config": {"model":')
    refused(r"config\.json cannot be read as a run's configuration", "evaluate", run, log=log)


def test_an_output_folder_in_use_is_refused_and_left_alone(log, tmp_path):
    (tmp_path / "notes").write_text("mine")
    for out in (tmp_path, tmp_path / "notes"):
        refused("is in use: name another folder", "train", "vae", "--out", out, log=log)
    refused("Not a directory", "train", "vae", "--out", tmp_path / "notes" / "run", log=log)
    assert files(tmp_path) == {Path("notes"): b"mine"}


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc")
def test_an_output_folder_that_cannot_be_made_is_refused(log):
    refused("^error: /proc/pyrovae.*: .+", "train", "vae", "--out", "/proc/pyrovae/run", log=log)


def test_data_that_cannot_be_read_are_refused(log, tmp_path, monkeypatch):
    out = ["--quiet", "--out", tmp_path / "run"]
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.npy").write_text("no array")
    np.save(tmp_path / "nan.npy", np.full((9, 3), np.nan))
    for name, message in {
        "empty": "holds no images",
        "notes.npy": "cannot be read",
        "nan.npy": "27 NaN or infinite values",
        "absent": "is neither a data set",
    }.items():
        refused(message, "train", "ppca", "--data", tmp_path / name, *out, log=log)
    assert not (tmp_path / "run").exists()


def test_resuming_after_the_data_changed_is_refused(log, tmp_path):
    x = np.random.default_rng(0).normal(size=(50, 6))
    np.save(tmp_path / "x.npy", x)
    train(tmp_path / "run", "ppca", "--data", tmp_path / "x.npy")
    before = files(tmp_path / "run")
    np.save(tmp_path / "x.npy", x[:, :5])
    refused("was begun with data = .*not", "resume", tmp_path / "run", log=log)
    refused(r"\(.*6\) in the checkpoint, \(.*5\) here", "evaluate", tmp_path / "run", log=log)
    np.save(tmp_path / "x.npy", np.where(x > 2, np.nan, x))
    refused("NaN or infinite values", "resume", tmp_path / "run", log=log)
    assert files(tmp_path / "run") == before


# Disks, signals, and the program itself


def main_with(monkeypatch, capsys, *words):
    """Run main() in this process; return its status and what went to stderr."""
    monkeypatch.setattr(sys, "argv", ["pyrovae", *map(str, words)])
    monkeypatch.setattr("warnings.showwarning", None)  # main sets it; put back after
    with pytest.raises(SystemExit) as caught:
        cli.main()
    return caught.value.code, capsys.readouterr().err


@pytest.mark.parametrize("successes", [0, 1, 2])
def test_a_full_disk_ends_training_in_one_line_and_with_nothing_half_written(
    successes, tmp_path, monkeypatch, capsys
):
    calls = []

    def fsync(descriptor):
        calls.append(descriptor)
        if len(calls) > successes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", fsync)
        words = ["train", "vae", "--out", out, *SMALL, "--epochs", 3, "--quiet"]
        status, err = main_with(patch, capsys, *words)
    assert status == 1
    assert re.fullmatch(r"error: .*No space left on device\.\n", err)
    names = sorted(path.name[:11] for path in files(out))
    assert names == ["config.json", "epoch-00001"][:successes]
    if successes:
        assert "trained 3 epochs" in pyrovae("resume", out, "--quiet")


def test_a_read_only_folder_is_told_in_one_line(run, monkeypatch, capsys):
    def refuse(path, *rest):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    before = files(run)
    with monkeypatch.context() as patch:
        patch.setattr("os.open", refuse)
        status, err = main_with(patch, capsys, "sample", run)
    assert (status, err.count("\n")) == (1, 1)
    assert re.fullmatch(rf"error: {run}/figures/.*: Permission denied\.\n", err)
    assert files(run) == before


def test_a_loss_that_is_not_finite_ends_training_without_a_traceback(tmp_path, monkeypatch, capsys):
    words = [
        "train",
        "vae",
        "--out",
        tmp_path / "run",
        *SMALL,
        "--learning-rate",
        1e30,
        "--epochs",
        3,
        "--quiet",
    ]
    status, err = main_with(monkeypatch, capsys, *words)
    assert status == 1
    assert re.match(r"error: (the loss of|after) step \d", err)
    assert "Traceback" not in err


def test_ctrl_c_ends_training_in_one_line_and_resume_goes_on(log, tmp_path):
    words = ["train", "vae", "--out", tmp_path / "run", *SMALL, "--epochs", 100000, "--quiet"]
    process = start([*words, "--compile", "off"], log)
    while not list(tmp_path.rglob("epoch-*")):
        assert process.is_alive()
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)
    process.join(30)
    result = done(process, log)
    assert result.status == 1
    assert result.err == "error: interrupted; 'pyrovae resume' goes on from the last finished epoch.\n"
    epochs = len(Run.open(tmp_path / "run").history.rows)
    assert f"trained {epochs + 1} epochs" in pyrovae(
        "resume", tmp_path / "run", "--epochs", epochs + 1, "--quiet"
    )


def test_without_words_the_help_is_shown(log):
    result = finish([], log)
    assert result.status == 0
    assert "Commands:" in result.out


def test_a_warning_is_one_line(run, log):
    pyrovae("resume", run, "--epochs", 2, "--quiet")
    damaged = max((run / "checkpoints").iterdir())
    damaged.write_bytes(b"")
    result = finish(["sample", run], log)
    assert result.status == 0
    assert re.fullmatch(rf"warning: .*{damaged.name} is refused.*Using epoch-00001.*\n", result.err)


def test_the_program_that_is_installed_refuses_in_one_line(tmp_path):
    program = [sys.executable, "-c", "from pyrovae.cli.app import main; main()"]
    done = subprocess.run(
        [*program, "train", "vae", "--epochs", "0", "--out", str(tmp_path / "run")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr == "error: epochs is 0; it must be a whole number of at least 1.\n"
    assert done.stdout == ""
    assert not list(tmp_path.iterdir())
