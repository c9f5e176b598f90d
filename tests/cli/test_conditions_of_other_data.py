"""A conditional model's run is asked about other data, whose classes are its conditions."""

import numpy as np
import pytest
import torch
from small_runs import pyrovae, train_small

from pyrovae.errors import InputError
from pyrovae.generation import latent_means
from pyrovae.recipes import Run


@pytest.mark.filterwarnings("ignore:k-hat is above")
def test_the_classes_of_other_data_are_given_to_the_model(tmp_path):
    rng = np.random.default_rng(0)
    for name, count in (("mine", 60), ("new", 11)):
        x, y = rng.random((count, 1, 4, 4), dtype=np.float32), np.arange(count) % 3
        np.savez(tmp_path / f"{name}.npz", x=x, y=y)
    np.savez(tmp_path / "unlabelled.npz", x=x)
    folder = train_small(tmp_path / "run", "cvae", data={"data": str(tmp_path / "mine.npz")}).folder
    (tmp_path / "mine.npz").unlink()
    new, out = tmp_path / "new.npz", tmp_path / "z.npz"
    words = ["--data", new, "--num-samples", 10, "--quiet", "--device", "cpu"]
    assert "over the 11 data" in pyrovae("evaluate", folder, *words)
    pyrovae("sample", folder, "--count", 2, "--data", new)
    pyrovae("reconstruct", folder, "--count", 2, "--data", new)
    pyrovae("encode", folder, "--data", new, "--out", out)
    pair = Run.open(folder, data=new).pair
    given = {"c": torch.eye(3)[torch.from_numpy(y)]}
    assert np.array_equal(np.load(out)["z"], latent_means(pair, torch.from_numpy(x), given=given).numpy())
    with pytest.raises(InputError, match="has the class of each datum as its condition"):
        pyrovae("encode", folder, "--data", tmp_path / "unlabelled.npz", "--out", out)
