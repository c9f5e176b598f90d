"""Random inputs of four kinds, most of them faulty, and what may become of them.

An attack is a kind and plain values, from which `act` makes calls. It may succeed, or end in an error that
says what is wrong: `InputError`, `CheckpointError`, `NonFiniteError`, an error of usage, an `OSError` that
names a file, or Python's own `TypeError` for a keyword that a function lacks. Nothing is left behind.
"""

import contextlib
import io
import json
import os
import re
import shutil
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cyclopts import CycloptsError
from hypothesis import strategies as st
from PIL import Image

from pyrovae import data, fit, recipes
from pyrovae.cli.app import run as run_words
from pyrovae.errors import CheckpointError, InputError, NonFiniteError
from pyrovae.evaluation import active_units, class_probabilities, kl_decomposition, marginal_likelihood
from pyrovae.generation import latent_means, manifold, posterior_draws, sample_images
from pyrovae.likelihoods import Bernoulli
from pyrovae.models import PPCA, VAE
from pyrovae.networks import MLP
from pyrovae.posteriors import DiagonalNormal
from pyrovae.priors import MixtureOfGaussians, StandardNormal
from pyrovae.recipes import Data, Run, Training
from pyrovae.storage import is_partial

BOUND = 20.0
"""The number of seconds within which an attack must end, without those in which others had the core."""

Attack = tuple[str, Any]

# Values

_WORDS = [
    *("0", "1", "2", "3", "-1", "-0", "1.5", "nan", "inf", "-inf", "1e400", "1e-400", "true", "none", ""),
    *(
        "abc",
        "٣",
        "0x10",
        "1_000",
        " 7",
        str(2**63),
        str(2**64),
        str(10**30),
        "a\nb",
        "\x1b[31m",
        "ÿ\udcff",
    ),
    *("mine.py:build", "~nosuchuser", "-", "=", "/dev/null", "/", "x" * 300),
]
_NUMBERS: list[Any] = [
    *(0, 1, 2, 3, -1, 1.0, 1.5, 2**62, 2**63, 2**64, 10**30, float("nan"), float("inf")),
    *(True, None, "3", [2], (1, 2), np.int32(2), np.float64(2.5), np.array([1, 2]), torch.tensor(2)),
    *(torch.tensor([1, 2]), b"2", 2 + 0j, object),
]


def _array(kind: str, shape: tuple[int, ...], values: str) -> np.ndarray:
    rng = np.random.default_rng(0)
    array = rng.integers(0, 2, shape) if values == "binary" else rng.normal(size=shape)
    array = np.asarray(array * {"large": 1e38, "huge": 1e300}.get(values, 1.0))
    if values in ("nan", "inf") and array.size:
        array.flat[0] = float(values)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return array.astype(kind)


_KINDS = ["f2", "f4", "f8", ">f4", "u1", "i1", "i8", "u8", "?", "c8", "U3", "S2", "M8[s]", "O", "f16"]
_SHAPES = [
    (6, 16),
    (6, 1, 4, 4),
    (6, 4, 4),
    (6, 4, 4, 3),
    (6,),
    (),
    (0, 16),
    (6, 0),
    (1, 16),
    (6, 2, 2, 2, 2),
]
arrays = st.builds(
    _array,
    st.sampled_from([*["f4", "u1"] * 8, *_KINDS]),
    st.sampled_from([*[(6, 16), (6, 4, 4), (6,)] * 5, *_SHAPES]),
    st.sampled_from([*["binary"] * 8, "normal", "large", "huge", "nan", "inf"]),
)


def _tensor(array: np.ndarray, form: str) -> Any:
    try:
        x = torch.from_numpy(np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="))))
    except TypeError:
        return array
    forms = {
        "grad": lambda: x.float().requires_grad_(),
        "half": lambda: x.to(torch.bfloat16),
        "list": lambda: x.tolist(),
        "array": lambda: array,
        "masked": lambda: np.ma.masked_array(array, mask=np.zeros(array.shape, bool) | True),
        "sparse": lambda: x.float().to_sparse(),
        "meta": lambda: x.to("meta"),
        "expanded": lambda: x[:1].expand(6, *x.shape[1:]) if x.dim() and len(x) else x,
        "none": lambda: None,
        "good": lambda: torch.ones(6, 1, 4, 4),
    }
    return forms.get(form, lambda: x)()


_FORMS = ["tensor", "good", "good", "good", "grad", "half", "list", "array", "masked", "sparse", "meta"]
tensors = st.builds(_tensor, arrays, st.sampled_from([*_FORMS, "expanded", "none"]))
numbers = st.sampled_from(_NUMBERS)

# Kinds of attack

_TRAIN = [
    *(
        "epochs",
        "batch-size",
        "learning-rate",
        "decay",
        "beta",
        "warm-up",
        "cycle",
        "clip-norm",
        "patience",
    ),
    *(
        "validation-fraction",
        "seed",
        "compile",
        "data",
        "labels",
        "binarise",
        "shift",
        "latent-dim",
        "width",
    ),
    *("posterior", "prior", "likelihood", "network", "objective", "config", "device", "nonsense", "out"),
    *("flow-steps", "components", "particles", "free-bits", "steps", "tensorboard-images"),
]
_COMMANDS = [
    "evaluate",
    "sample",
    "classify",
    "diagnose",
    "resume",
    "plates",
    "encode",
    "nonsense",
    "models",
]
_OPTIONS = [
    "num-samples",
    "limit",
    "count",
    "seed",
    "site",
    "out",
    "epochs",
    "device",
    "compile",
    "recipe",
    "data",
    "learning-rate",
    "tensorboard-images",
]
_MODELS = ["vae", "m2", "ppca", "hvae", "bnn", "m1m2", "", "nonsense", "mine.py:build"]
_given = st.tuples(st.sampled_from(_TRAIN), st.sampled_from(_WORDS))
commands = st.one_of(
    st.tuples(st.just("train"), st.sampled_from(_MODELS), st.lists(_given, max_size=3)),
    st.tuples(
        st.sampled_from(_COMMANDS),
        st.sampled_from(["run", "run", "vae", "nowhere", "", "~nosuchuser", "odd\n", "run/config.json"]),
        st.lists(st.tuples(st.sampled_from(_OPTIONS), st.sampled_from(_WORDS)), max_size=2),
    ),
)
CALLS: dict[str, tuple[str, ...]] = {
    "marginal_likelihood": ("x", "num_samples", "seed", "bounds", "precision", "compile", "y"),
    "sample_images": ("count", "seed"),
    "latent_means": ("x", "site"),
    "posterior_draws": ("x", "site", "seed"),
    "active_units": ("x", "threshold", "num_samples", "seed"),
    "kl_decomposition": ("x", "num_samples", "seed"),
    "class_probabilities": ("x", "num_samples", "batch_size"),
    "manifold": ("steps",),
    "fit": ("x", "y", "batch_size", "seed", "clip_norm", "beta", "patience", "validation", "folder"),
    "stratified_split": ("y", "test_fraction", "seed"),
    "labels_per_class": ("y", "per_class", "seed"),
    "random_shift": ("x", "pixels"),
    "binarise_static": ("x", "seed"),
    "StandardNormal": ("latent_dim",),
    "MixtureOfGaussians": ("latent_dim", "components"),
    "closed form": ("x",),
}
calls = st.sampled_from([*CALLS]).flatmap(
    lambda name: st.tuples(
        st.just(name),
        st.dictionaries(
            st.sampled_from([*CALLS[name], *CALLS[name], "nonsense"]),
            st.one_of(numbers, tensors),
            min_size=1,
            max_size=3,
        ),
    )
)
_damages = st.sampled_from(
    [*["none"] * 9, "cut", "flip", "grow", "fifo", "folder", "link", "text", "claims"]
)
files = st.tuples(
    st.just("file"),
    st.sampled_from([".npz", ".npy", ".txt", ""]),
    st.dictionaries(
        st.sampled_from(["x", "y", "x_train", "x_test", "y_train", "y_test", "z"]), arrays, max_size=4
    ),
    _damages,
    st.integers(0, 2**16),
)
images = st.tuples(
    st.just("images"),
    st.lists(
        st.tuples(
            st.sampled_from(
                ["", "a/", "b/", "train/", "test/", "train/a/", "test/b/", "val/", "a/b/", ".h/"]
            ),
            st.sampled_from(
                ["1.png", "2.png", "3.jpg", "4.gif", "5.jp2", "notes.txt", "\udcff.png", "n\n.png"]
            ),
            st.sampled_from(["L", "RGB", "RGBA", "P", "I;16", "F", "1", "CMYK"]),
            st.sampled_from([(4, 4), (4, 4), (4, 4), (5, 4)]),
            _damages,
        ),
        max_size=8,
    ),
    st.integers(0, 2**16),
)
folders = st.tuples(
    st.sampled_from(["config.json", "checkpoints", "metrics.json", "history", "all"]),
    st.sampled_from(["delete", "json", *["cut", "flip", "grow", "fifo", "folder", "link", "text"]]),
    st.integers(0, 2**16),
    st.sampled_from(["open", "pair", "history", "metrics", "sample", "resume", "evaluate"]),
)
attacks: Any = st.one_of(
    st.tuples(st.just("command line"), commands),
    st.tuples(st.just("library"), calls),
    st.tuples(st.just("data"), st.one_of(files, images)),
    st.tuples(st.just("run folder"), folders),
)

# What they do


def make_run(folder: Path) -> Path:
    """Train a small run to be attacked, on data of its own."""
    np.savez(folder / "own.npz", x=np.arange(40 * 16).reshape(40, 4, 4) % 2, y=np.arange(40) % 2)
    recipes.train(
        "vae",
        folder / "run",
        options={"width": 4, "latent_dim": 2},
        training=Training(epochs=1, compile="off"),
        data=Data(data=str(folder / "own.npz")),
        device="cpu",
        progress=False,
    )
    return folder / "run"


def small_vae() -> VAE:
    """Return a VAE of images of 4 x 4 pixels."""
    posterior = DiagonalNormal(MLP((1, 4, 4), 4, hidden=(4,)), 2)
    return VAE(StandardNormal(2), Bernoulli(MLP(2, (1, 4, 4), hidden=(4,))), posterior)


def _command(attack: Any, folder: Path) -> None:
    command, target, options = attack
    words = [command, *([target] if target else [])]
    if command == "train":
        words += ["--out=new", "--data=own.npz", "--quiet", "--epochs=1", "--validation-fraction=0.2"]
        words += [] if target == "ppca" else ["--width=4"]
    if command in ("evaluate", "diagnose"):
        words += ["--num-samples", "3", "--limit", "3"]
    words += [f"--{name}={value}" for name, value in options]
    with contextlib.redirect_stdout(io.StringIO()):
        run_words(words)


def _call(attack: Any, folder: Path) -> None:
    name, given = attack
    x = torch.ones(6, 1, 4, 4)
    vae = small_vae()
    functions: dict[str, Any] = {
        "marginal_likelihood": lambda **k: marginal_likelihood(vae, **{"x": x, "num_samples": 3, **k}),
        "sample_images": lambda **k: sample_images(vae, **{"count": 2, **k}),
        "latent_means": lambda **k: latent_means(vae, **{"x": x, **k}),
        "posterior_draws": lambda **k: posterior_draws(vae, **{"x": x, **k}),
        "active_units": lambda **k: active_units(vae, **{"x": x, "num_samples": 3, **k}),
        "kl_decomposition": lambda **k: kl_decomposition(vae, **{"x": x, "num_samples": 2, **k}),
        "class_probabilities": lambda **k: class_probabilities(vae, **{"x": x, **k}),
        "manifold": lambda **k: manifold(vae, **k),
        "fit": lambda **k: fit(vae, **{"x": x, "epochs": 1, "progress": False, "device": "cpu", **k}),
        "stratified_split": lambda **k: data.stratified_split(**{"y": [0, 1] * 6, **k}),
        "labels_per_class": lambda **k: data.labels_per_class(**{"y": [0, 1] * 6, "per_class": 1, **k}),
        "random_shift": lambda **k: data.random_shift(**{"x": x, "pixels": 1, **k}),
        "binarise_static": lambda **k: data.binarise_static(**{"x": x, **k}),
        "StandardNormal": StandardNormal,
        "MixtureOfGaussians": lambda **k: MixtureOfGaussians(**{"latent_dim": 2, "components": 2, **k}),
        "closed form": lambda x=x, **k: PPCA((16,), 2, **k).fit_closed_form(x),
    }
    functions[name](**given)


def _load(attack: Any, folder: Path) -> None:
    if attack[0] == "file":
        _, suffix, stored, damage, number = attack
        path = folder / f"attack{suffix}"
        if suffix == ".npy":
            np.save(path, next(iter(stored.values()), np.zeros(3)), allow_pickle=True)
        else:
            with open(path, "wb") as file:
                np.savez(file, **stored)
        _damage(path, damage, number)
        data.load(path)
        return
    _, entries, number = attack
    root = folder / "attack"
    root.mkdir()
    for place, name, mode, size, damage in entries:
        (root / place).mkdir(parents=True, exist_ok=True)
        path = root / place / name
        if path.exists():
            continue
        kind = {"F": "TIFF", "I;16": "PNG", "CMYK": "JPEG"}.get(
            mode, "GIF" if name.endswith("gif") else "PNG"
        )
        buffer = io.BytesIO()
        Image.new(mode, size).save(buffer, format=kind)
        path.write_bytes(buffer.getvalue())
        _damage(path, damage, number)
    data.load(root)


def _attack_run(attack: Any, folder: Path) -> None:
    place, damage, number, use = attack
    found = sorted(path for path in (folder / "run").rglob("*") if path.is_file())
    chosen = [path for path in found if place == "all" or place in str(path.relative_to(folder / "run"))]
    for path in chosen if place != "all" else chosen[number % len(chosen) :][:1]:
        _damage(path, damage, number)
    run = Run.open(folder / "run")
    uses = {
        "open": lambda: str(run),
        "pair": lambda: run.pair,
        "history": lambda: run.histories,
        "metrics": lambda: run.metrics,
        "sample": lambda: sample_images(run.pair, 2),
        "resume": lambda: run.resume(device="cpu", progress=False, epochs=2),
        "evaluate": lambda: run_quietly(
            ["evaluate", "run", "--num-samples", "3", "--limit", "3", "--quiet"]
        ),
    }
    uses[use]()


def run_quietly(words: list[str]) -> None:
    """Run a command without its output."""
    with contextlib.redirect_stdout(io.StringIO()):
        run_words(words)


def _damage(path: Path, damage: str, number: int) -> None:
    content = bytearray(path.read_bytes())
    if damage == "flip" and content:
        content[number % len(content)] ^= 1 << number % 8
    changed = {
        "cut": content[: number % max(1, len(content))],
        "flip": content,
        "grow": content + bytes(number % 99),
        "text": b"nothing that it should be \xff\x00",
        "claims": content[:10] + bytes(str(10**12), "ascii") + content[10:],
        "json": json.dumps([None, {}, {"config": {}, "format": 3}, "[" * 99, 1e400][number % 5]).encode(),
    }
    if damage in changed:
        path.write_bytes(changed[damage])
    elif damage != "none":
        path.unlink()
        if damage == "fifo":
            os.mkfifo(path)
        elif damage == "folder":
            path.mkdir()
        elif damage == "link":
            path.symlink_to(path.parent / "nothing")


ACTS = {"command line": _command, "library": _call, "data": _load, "run folder": _attack_run}

# What became of them


def outcome(attack: Attack, run: Path, folder: Path) -> str:
    """Act in an empty folder beside a copy of a run, and return what became of it.

    Returns:
        "success", the name of an allowed error, or a description of anything else.
    """
    shutil.copytree(run, folder / "run")
    shutil.copy(run.parent / "own.npz", folder / "own.npz")
    before, start, here = set(_names(folder)), _seconds(), Path.cwd()
    os.chdir(folder)
    kind, values = attack
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            ACTS[kind](values, folder)
        result = "success"
    except Exception as error:
        result = _judged(error)
    finally:
        os.chdir(here)
        torch.manual_seed(0)
    left = [name for name in _names(folder) if name not in before and "attack" not in name]
    if any(is_partial(Path(name)) for name in left):
        return f"left behind: {left}"
    if kind == "command line" and result in ("InputError", "usage") and left:
        return f"left behind by a refusal: {left}"
    return result if (seconds := _seconds() - start) < BOUND else f"took {seconds:.0f} s"


def _seconds() -> float:
    """The time, without what this thread has waited for a core so far."""
    try:
        waited = int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):  # not on Linux
        waited = 0.0
    return time.monotonic() - waited


def _names(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob("*")]


def _judged(error: Exception) -> str:
    for allowed in (CheckpointError, NonFiniteError):
        if isinstance(error, allowed):
            return allowed.__name__
    if isinstance(error, CycloptsError):
        return "usage"
    if isinstance(error, InputError):
        return "InputError" if type(error) is InputError else "usage"
    if isinstance(error, OSError) and error.filename is not None:
        return "OSError with a file"
    if isinstance(error, TypeError) and re.search(
        "unexpected keyword|missing .* required|no parameter", str(error)
    ):
        return "TypeError of Python for a keyword"
    frames = []
    trace = error.__traceback__
    while trace is not None:
        if "pyrovae/" in (name := trace.tb_frame.f_code.co_filename):
            frames.append(f"{Path(name).name}:{trace.tb_lineno}")
        trace = trace.tb_next
    return (
        f"{type(error).__name__}: {str(error).splitlines()[0][:80] if str(error) else ''} at {frames[-1:]}"
    )
