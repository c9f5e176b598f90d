"""The progress bar, TensorBoard, and devices."""

import math

import pytest
import torch
from training_helpers import needs_cuda, same, train

from pyrovae.compute.devices import resolve_device
from pyrovae.data import binarise
from pyrovae.errors import InputError
from pyrovae.evaluation import marginal_likelihood

pytestmark = pytest.mark.cpu

# What it shows


def test_the_progress_bar_shows_the_two_terms_and_can_be_left_out(make_vae, binary_images, capsys):
    train(make_vae(), binary_images, progress=True)
    shown = capsys.readouterr().err
    assert all(f"{name}=" in shown for name in ("elbo", "reconstruction", "kl"))
    assert "6/6" in shown
    train(make_vae(), binary_images, progress=False)
    assert capsys.readouterr().err == ""


def test_progress_in_a_log_is_lines_and_on_a_terminal_a_bar(make_vae, binary_images, capfd, monkeypatch):
    train(make_vae(), binary_images, progress=True)
    log = capfd.readouterr().err
    assert "\r" not in log
    lines = log.splitlines()
    assert 1 <= len(lines) <= 3, "one from time to time, and the last"
    assert "6/6" in lines[-1]
    assert log.endswith("\n")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    train(make_vae(), binary_images, progress=True)
    assert "\r" in capfd.readouterr().err


def scalars_in(folder):
    """The steps and values of each scalar, as TensorBoard reads them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    found = {name: events.Scalars(name) for name in events.Tags()["scalars"]}
    return {name: [(event.step, event.value) for event in each] for name, each in found.items()}


@pytest.mark.parametrize("killed", [0, 1], ids=["at its end", "before its last scalars"])
def test_scalars_of_a_resumed_run_go_on_without_a_gap_or_a_repetition(
    killed, make_vae, binary_images, tmp_path, monkeypatch
):
    board, how = tmp_path / "board", {"folder": tmp_path / "run", "tensorboard": tmp_path / "board"}
    train(make_vae(), binary_images, epochs=3 - killed, **how)
    if killed:  # when the checkpoint was written, and its scalars were not
        train(make_vae(), binary_images, epochs=3, folder=tmp_path / "run", resume=True)
    history = train(make_vae(), binary_images, epochs=5, resume=True, **how)
    found = scalars_in(board)
    assert found.keys() == history.rows[0].keys() - {"epoch", "step"}
    for name, values in found.items():
        assert [step for step, _ in values] == [3, 6, 9, 12, 15]
        assert [value for _, value in values] == pytest.approx(history[name], rel=1e-6)


def test_scalars_that_begin_later_have_all_epochs(make_vae, binary_images, tmp_path):
    train(make_vae(), binary_images, epochs=2, folder=tmp_path / "run")
    how = {"folder": tmp_path / "run", "resume": True, "tensorboard": tmp_path / "board"}
    history = train(make_vae(), binary_images, epochs=3, **how)
    assert [value for _, value in scalars_in(tmp_path / "board")["elbo"]] == pytest.approx(history["elbo"])


def test_tensorboard_holds_the_historys_scalars(make_vae, binary_images, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(make_vae(), binary_images, folder=tmp_path / "plain")
    assert not list(tmp_path.rglob("events.*"))
    history = train(make_vae(), binary_images, validation=binary_images, tensorboard=tmp_path / "board")
    events = EventAccumulator(str(tmp_path / "board"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == history.rows[0].keys() - {"epoch", "step"}
    for name in ("elbo", "validation_elbo", "beta"):
        assert [event.step for event in events.Scalars(name)] == [3, 6]
        assert [event.value for event in events.Scalars(name)] == pytest.approx(history[name], rel=1e-6)


# Devices


def test_an_unknown_device_is_refused_before_anything_is_written(make_vae, binary_images, tmp_path):
    for device in ("gpu", "cuda:x"):
        with pytest.raises(InputError, match=f"device '{device}' cannot be used.*'auto' or 'cpu'"):
            train(make_vae(), binary_images, device=device, folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_without_a_cuda_device_is_refused():
    with pytest.raises(InputError, match="device 'cuda' cannot be used"):
        resolve_device("cuda")
    assert resolve_device("auto") == torch.device("cpu")


@pytest.mark.cuda
@needs_cuda
def test_a_model_trains_resumes_and_is_evaluated_on_cuda(make_vae, binary_images, tmp_path):
    whole, parts = make_vae(), make_vae()
    settings = {"device": "cuda", "transform": binarise, "validation": binary_images}
    history = train(whole, binary_images, epochs=4, folder=tmp_path / "whole", **settings)
    assert next(whole.parameters()).device.type == "cuda"
    assert history["elbo"][-1] > history["elbo"][0]
    train(parts, binary_images, epochs=2, folder=tmp_path / "parts", **settings)
    train(parts, binary_images, epochs=4, folder=tmp_path / "parts", resume=True, **settings)
    assert same(whole.state_dict(), parts.state_dict())
    score = marginal_likelihood(whole, binary_images, num_samples=20, progress=False)
    assert math.isfinite(score.mean)
