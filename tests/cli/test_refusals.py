"""Commands that are refused: in one line, with status 2 for a command line that cannot be read, else 1."""

from pathlib import Path

import numpy as np
import pytest
from small_runs import files, pyrovae, refused, train_by_words


@pytest.mark.parametrize(
    ("words", "message", "status"),
    [
        (["vaee"], "model 'vaee'.*'vae'", 2),
        ([], "name of a model.*vae", 2),
        (["--epochs", "3"], "name of a model", 2),
        (["vae", "--likelihood", "bernouli"], "likelihood 'bernouli'.*'bernoulli'", 2),
        (["vae", "--network", "cnn"], "network 'cnn'.* mlp, gated, residual, conv", 2),
        (["vae", "--posterior", "iff"], "posterior 'iff'.* normal, full-covariance", 2),
        (["vae", "--flow-steps", "3"], "flow_steps needs posterior planar", 2),
        (["vae", "--alpha", "3"], "vae has no option alpha.* m2 or m1m2", 2),
        (["vae", "--labels", "3"], "vae has no option labels.* m2", 2),
        (["m2", "--objective", "iwae"], "m2 has no option objective", 2),
        (["vae", "--compile", "maybe"], "maybe.*auto.*on.*off", 2),
        (["vae", "--latent-dim", "-2"], "latent_dim is -2.*at least 1", 2),
        (["vae", "--epochs", "0"], "epochs is 0.*at least 1", 2),
        (["vae", "--epochs", "many"], "--epochs.*many", 2),
        (["vae", "--batch-size", "0"], "batch_size is 0", 2),
        (["vae", "--depth", "3"], "vae 'depth'", 2),
        (["vae", "--clip-norm", "nan"], "clip_norm is nan", 2),
        (["vae", "--warm-up", "-1"], "warm_up is -1.0.*at least 0", 2),
        (["vae", "--beta", "nan"], "beta is nan", 2),
        (["vae", "--data", "mnits"], "'mnits' is neither a data set.*'mnist'", 1),
        (
            ["vae", "--posterior", "planar", "--prior", "vamp"],
            "VampPrior.*planar|VampPrior.*Planar|VampPrior",
            1,
        ),
        (["vae", "--objective", "iwae"], "set particles", 1),
        (["vae", "--objective", "iwae", "--particles", "3", "--beta", "2"], "IWAE|importance weights", 1),
        (["vae", "--prior", "vamp", "--components", "5000"], "5000 pseudo-inputs", 1),
        (["vae", "--device", "gpu"], "device 'gpu' cannot be used", 1),
        (["vae", "--binarise", "none"], "outside the support of the Bernoulli.*--binarise", 1),
        (["mine.py:build"], "mine.py cannot be read", 1),
    ],
    ids=str,
)
def test_training_that_cannot_be_is_refused_in_one_line_and_leaves_nothing(
    words, message, status, log, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    out = ["--quiet", "--out", tmp_path / "new" / "run"]
    refused(message, "train", *words, *out, log=log, status=status)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message", "status"),
    [
        (["trian"], "trian.*train", 2),
        (["evaluate"], "RUN", 2),
        (["evaluate", "nowhere", "--limt", "3"], "limt", 2),
        (["train", "vae"], "--out", 2),
        (["plates", "nothing"], "model 'nothing'", 2),
        (["evaluate", "nowhere"], r"nowhere is not a run folder.*config\.json", 1),
        (["resume", "nowhere"], "nowhere is not a run folder", 1),
        (["sample", "nowhere"], "nowhere is not a run folder", 1),
        (["plates", "vae", "--out", "vae.docx"], "docx", 1),
    ],
    ids=str,
)
def test_commands_that_cannot_be_are_refused_in_one_line(
    words, message, status, log, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    refused(message, *words, log=log, status=status)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "message", "status"),
    [
        (["evaluate", "--num-samples", 0], "at least 1 sample|num_samples is 0", 1),
        (["evaluate", "--limit", 0], "limit is 0", 1),
        (["sample", "--count", 0], "count is 0", 1),
        (["reconstruct", "--count", 100000], "100000 test data were asked for", 1),
        (["interpolate", "--steps", 1], "steps is 1", 1),
        (["interpolate", "--count", 0], "0 test data were asked for", 1),
        (["resume", "--epochs", 0], "epochs is 0", 2),
        (["resume", "--compile", "of"], '"of" for --compile.*Did you mean "off"', 2),
        (["resume", "--device", "cuda:99"], "device 'cuda:99' cannot be used", 1),
        (["sample", "--posterior", "iaf"], "posterior is 'iaf'.*FILE.py", 1),
        (["sample", "--posterior", "mine.py:Mine"], "not trained with a posterior of your own", 1),
    ],
    ids=str,
)
def test_what_a_run_cannot_give_is_refused_and_the_run_left_as_it_was(words, message, status, run, log):
    before = files(run)
    refused(message, words[0], run, *words[1:], log=log, status=status)
    assert files(run) == before


def test_resume_for_fewer_epochs_is_refused_and_leaves_the_run_as_it_was(run, log):
    pyrovae("resume", run, "--epochs", 2, "--quiet")
    before = {path: path.read_bytes() for path in run.rglob("*.json")}
    refused("has 2 epochs already, and 1 are asked for", "resume", run, "--epochs", 1, log=log)
    assert {path: path.read_bytes() for path in run.rglob("*.json")} == before


def test_an_autoencoder_is_neither_evaluated_nor_sampled(autoencoder, log):
    before = files(autoencoder)
    refused("no latent site, so there is nothing to integrate out", "evaluate", autoencoder, log=log)
    refused("no prior over z, so it cannot generate", "sample", autoencoder, log=log)
    assert files(autoencoder) == before


def test_damaged_run_folders_are_refused_in_one_line(run, log):
    (checkpoint,) = (run / "checkpoints").glob("*.pt")
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[:-10])
    for command in ("evaluate", "resume", "sample", "overview"):
        refused(r"does not match the digest.*no sound one to fall back on", command, run, log=log)
    checkpoint.unlink()
    refused("no checkpoint in .*train first", "evaluate", run, log=log)
    (run / "config.json").write_text('{"format": 3, "config": {"recipe":')
    refused(r"config\.json cannot be read as a run's configuration", "evaluate", run, log=log)


def test_an_output_folder_in_use_is_refused_and_left_alone(log, tmp_path):
    (tmp_path / "notes").write_text("mine")
    for out in (tmp_path, tmp_path / "notes"):
        refused("is in use: name another folder", "train", "vae", "--out", out, log=log)
    refused(
        "notes is a file, and a folder is needed",
        "train",
        "vae",
        "--out",
        tmp_path / "notes" / "run",
        log=log,
    )
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
    train_by_words(tmp_path / "run", "ppca", "--data", tmp_path / "x.npy")
    before = files(tmp_path / "run")
    np.save(tmp_path / "x.npy", x[:, :5])
    for command in ("resume", "evaluate"):
        refused(r"the values of .*x\.npy \(data\) are not those", command, tmp_path / "run", log=log)
    np.save(tmp_path / "x.npy", np.where(x > 2, np.nan, x))
    refused("NaN or infinite values", "resume", tmp_path / "run", log=log)
    assert files(tmp_path / "run") == before
