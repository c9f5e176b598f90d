"""The verdict at the end of a training, against closed forms and on models that have collapsed."""

import json

import pytest
import torch
from small_runs import pyrovae, train_by_words, train_small
from torch import nn
from torch.distributions import Normal, kl_divergence

from pyrovae.likelihoods import Gaussian
from pyrovae.models import PPCA, VAE
from pyrovae.networks import MLP, Standardisation
from pyrovae.posteriors import DiagonalNormal
from pyrovae.priors import StandardNormal
from pyrovae.recipes import About, Plan, Run, Stage, Training, fitting, load_recipe, ppca
from pyrovae.recipes.verdict import Verdict, verdict_of

pytestmark = pytest.mark.verdict

FEW = Training(epochs=1, batch_size=50)


def data(num_data=200):
    """Six columns that two latents explain."""
    torch.manual_seed(2)
    return torch.randn(num_data, 2) @ (3 * torch.randn(2, 6)) + torch.randn(num_data, 6)


@pytest.fixture
def fitted():
    x = data()
    pair = PPCA(6, 3, standardisation=Standardisation(6))
    pair.fit_closed_form(x)
    return pair, x


def test_bound_kl_and_information_are_those_in_closed_form(fitted):
    pair, x = fitted
    found = verdict_of(pair, x)
    # With the exact posterior as guide, the ELBO is the evidence.
    assert found.elbo == pytest.approx(pair.log_evidence(x).mean().item(), abs=1e-4)
    q = pair.posterior(x)
    marginals = kl_divergence(Normal(q.mean, q.stddev), Normal(0.0, 1.0)).sum(-1)
    # The posterior's covariance is diagonal, since the columns of W are orthogonal.
    assert found.kl == pytest.approx(marginals.mean().item(), abs=0.15)
    information = 0.5 * torch.log1p(q.mean.var(0) / q.variance[0])
    assert found.information["z"] == pytest.approx(information.sum().item(), abs=0.15)
    assert (found.units, found.num_data, found.held_out) == ({"z": 3}, 200, False)
    assert found.informative["z"] == int((information >= 0.1).sum())
    assert not found.warnings
    assert str(found).startswith(f"verdict on 200 training data: ELBO {found.elbo:.2f} nats per datum; KL ")


class IgnoresLatents(nn.Module):
    """A decoder that gives the same means whatever z is."""

    out_shape = (6,)

    def __init__(self):
        super().__init__()
        self.output_bias = nn.Parameter(torch.zeros(6))

    def forward(self, z):
        return self.output_bias.expand(*z.shape[:-1], 6)


def test_a_decoder_that_ignores_the_latents_is_warned_about():
    likelihood = Gaussian(IgnoresLatents())
    vae = VAE(StandardNormal(2), likelihood, DiagonalNormal(MLP(6, 8, hidden=()), 2))
    training = Training(epochs=60, batch_size=100, learning_rate=0.03, validation_fraction=0.2, warm_up=0)
    fitted = Plan([Stage(vae, start=likelihood.start_at_marginals)]).fit(data(), training=training)
    verdict = fitted.verdict
    assert verdict.kl < 0.1
    assert verdict.informative == {"z": 0}
    assert verdict.held_out
    (warning,) = verdict.warnings
    assert "z carries almost nothing" in warning
    assert "warm_up=10" in warning
    assert f"warning: {warning}" in str(verdict) in str(fitted)


@pytest.mark.parametrize(("beta", "collapsed"), [(1.0, False), (200.0, True)])
def test_a_large_beta_is_warned_about_and_beta_1_is_not(beta, collapsed):
    x = data()
    training = Training(epochs=40, batch_size=60, learning_rate=0.03, beta=beta)
    verdict = ppca(About.of(x), latent_dim=2).fit(x, training=training).verdict
    assert (verdict.information["z"] < 0.3) is collapsed
    assert bool(verdict.warnings) is collapsed
    if collapsed:
        assert "choose a smaller beta than 200, such as beta=1" in verdict.warnings[0]


def test_after_a_warm_up_the_remedy_is_another_one(make_vae, binary_images):
    vae = make_vae()
    nn.init.zeros_(vae.posterior.loc.weight)  # so that z tells nothing
    for training in (Training(warm_up=5), Training()):  # by default beta rises
        (warning,) = verdict_of(vae, binary_images, training=training).warnings
        assert "train for more epochs" in warning
        assert "free_bits=0.5" in warning


def test_the_remedy_is_one_that_the_model_has():
    """Noise has nothing in common, so the latents of all models carry nothing."""
    torch.manual_seed(0)
    x, y = torch.randn(60, 6), torch.arange(60) % 3

    def warning(model, **options):
        about, training = About.of(x, y), FEW.changed(epochs=2)
        plan = load_recipe(model)(about, width=8, latent_dim=2, likelihood="gaussian", **options)
        verdict = plan.fit(x, y, training=training).verdict
        assert verdict.kl >= 0
        return next(text for text in verdict.warnings if text.startswith("z carries"))

    m2, cvae, vae = warning("m2", spread=False), warning("cvae"), warning("vae")
    assert "free-bits" not in m2
    assert "(--beta 0.5). If" in m2
    assert m2.endswith("What the model knows about a datum is then in the class.")
    assert "free-bits" in cvae
    assert cvae.endswith("is then in what is given, c.")
    assert "free-bits" in vae
    assert vae.endswith("that latents could carry.")


def test_each_latent_has_its_own_warning():
    x = data()
    build = load_recipe("hvae")
    plan = build(About.of(x), likelihood="gaussian", latent_dim=2, width=8)
    plan.stages[0].start(x)
    nn.init.zeros_(plan.pair.posterior1.loc.weight)
    nn.init.normal_(plan.pair.posterior2.loc.weight, std=50)
    assert [text.split()[0] for text in verdict_of(plan.pair, x).warnings] == ["z1"]


def test_models_say_what_applies():
    x, y = data(60), torch.arange(60) % 3
    small = {"width": 8}

    def verdict(model, **options):
        return load_recipe(model)(About.of(x, y), **small, **options).fit(x, y, training=FEW).verdict

    gaussian = {"likelihood": "gaussian", "latent_dim": 2}
    code = verdict("autoencoder", **gaussian)
    assert (code.kl, code.units, code.warnings) == (None, {}, ())
    assert "log p(x | z) " in str(code)
    assert "KL" not in str(code)
    assert str(verdict("bnn")) == ""
    assert verdict("m2", vae_epochs=1, spread=False, **gaussian).units == {"z": 2}
    assert verdict("m1m2", vae_epochs=1, spread=False, **gaussian).units == {"z1": 2, "z2": 2}
    assert verdict("cvae", **gaussian).kl is not None


def test_it_is_measured_on_few_data_and_leaves_streams_and_modes_alone(fitted):
    pair, x = fitted
    pair.train()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first = verdict_of(pair, x)
    assert torch.equal(torch.rand(2), expected)
    assert verdict_of(pair, x) == first
    assert pair.training
    many = ppca(About.of(x), latent_dim=2).fit(
        x.repeat(10, 1), training=FEW.changed(validation_fraction=0.4)
    )
    assert many.verdict.num_data == 500


def test_a_verdict_that_cannot_be_measured_costs_no_training(monkeypatch):
    def fails(*args, **kwargs):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(fitting, "verdict_of", fails)
    x = data(60)
    fitted = ppca(About.of(x), latent_dim=2).fit(x, training=FEW)
    assert len(fitted.history.rows) == 1
    assert str(fitted.verdict) == "warning: no verdict could be measured: out of luck."


def test_training_and_resuming_print_it_and_write_it_beside_the_checkpoint(tmp_path):
    run = tmp_path / "run"
    printed = train_by_words(run)
    assert "verdict on 144 validation data: ELBO" in printed
    assert "warning: z carries almost nothing" in printed
    first = Run.open(run).verdict
    assert isinstance(first, Verdict)
    assert str(first) in printed
    again = pyrovae("resume", run, "--epochs", 2, "--quiet")
    assert str(Run.open(run).verdict) in again
    written = json.loads((run / "verdict.json").read_text())
    (run / "verdict.json").write_text(json.dumps(written | {"checkpoint": "another"}))
    assert Run.open(run).verdict is None
    (run / "verdict.json").unlink()
    assert Run.open(run).verdict is None


def test_a_plan_in_python_has_the_verdict_of_its_run(tmp_path):
    assert train_small(tmp_path / "run", "m1m2").verdict.units == {"z1": 2, "z2": 2}


def test_without_a_verdict_the_training_is_the_same():
    def trained(verdict):
        plan = load_recipe("vae")(About.of(data(60)), latent_dim=1, width=4, likelihood="gaussian")
        return plan.fit(data(60), training=FEW, verdict=verdict)

    one, other = trained(verdict=True), trained(verdict=False)
    assert str(one.verdict)
    assert other.verdict == Verdict()
    for name, value in one.pair.state_dict().items():
        assert torch.equal(value, other.pair.state_dict()[name]), name
