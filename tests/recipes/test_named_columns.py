"""Messages name the columns of a table where their names are known, and point to the user's own line."""

import numpy as np
import pytest
import torch
from small_runs import train_small

from pyrovae import VAETransformer
from pyrovae.errors import InputError
from pyrovae.recipes import About, ppca, vae

NAMES = ["height", "ones", "weight"]
SAID = r"column 1 \(ones\) is constant in the training data \(counted from 0\)"


def table(count=40):
    x = 3 * torch.randn(count, 3, generator=torch.Generator().manual_seed(0))
    x[:, 1] = 1
    return x


def test_a_run_and_a_plan_name_a_constant_column(tmp_path):
    np.savez(tmp_path / "mine.npz", x=table().numpy(), column_names=np.array(NAMES))
    with pytest.warns(UserWarning, match=SAID):
        run = train_small(tmp_path / "run", data={"data": str(tmp_path / "mine.npz")})
    assert run.about.column_names == tuple(NAMES)
    with pytest.warns(UserWarning, match=SAID):
        run.resume(epochs=3, device="cpu", progress=False)
    for recipe in (vae, ppca):
        plan = recipe(About.of(table(), column_names=NAMES), latent_dim=1)
        with pytest.warns(UserWarning, match=SAID):
            plan.stages[0].start(table())
    with pytest.warns(UserWarning, match="column 1 is constant"):
        ppca(About.of(table()), latent_dim=1).stages[0].start(table())


def test_an_estimator_names_the_columns_of_a_frame_and_the_users_line():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(table().numpy(), columns=NAMES)
    with pytest.warns(UserWarning, match=SAID) as caught:
        VAETransformer(latent_dim=1, width=4, epochs=1, random_state=0).fit(frame)
    (warning,) = (w for w in caught if "constant" in str(w.message))
    assert warning.filename == __file__
    frame["weight"] = np.nan
    with pytest.raises(InputError, match=r"feature 2 \(weight\) has no value in any of the 40 data"):
        VAETransformer(epochs=1, random_state=0).fit(frame)
