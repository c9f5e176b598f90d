"""Programs with global latents: regressions, hierarchies, mixtures, processes, designs of experiments."""

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroSample
from pyro_programs import example
from torch import nn

HITS = torch.tensor([[45.0, 18.0], [45.0, 12.0], [40.0, 10.0]])  # at bats, hits


@example("phi, at_bats > obs", HITS[:, 0], HITS[:, 1])
def baseball_pooled():
    def model(at_bats, hits):
        phi = pyro.sample("phi", dist.Uniform(0.0, 1.0))
        with pyro.plate("players", len(at_bats)):
            pyro.sample("obs", dist.Binomial(at_bats, phi), obs=hits)

    return model


@example("phi, at_bats > obs", HITS[:, 0], HITS[:, 1])
def baseball_not_pooled():
    def model(at_bats, hits):
        with pyro.plate("players", len(at_bats)):
            phi = pyro.sample("phi", dist.Uniform(0.0, 1.0))
            pyro.sample("obs", dist.Binomial(at_bats, phi), obs=hits)

    return model


@example("m, kappa > phi; phi, at_bats > obs", HITS[:, 0], HITS[:, 1])
def baseball_partly_pooled():
    def model(at_bats, hits):
        m = pyro.sample("m", dist.Uniform(0.0, 1.0))
        kappa = pyro.sample("kappa", dist.Pareto(1.0, 1.5))
        with pyro.plate("players", len(at_bats)):
            phi = pyro.sample("phi", dist.Beta(m * kappa, (1 - m) * kappa))
            pyro.sample("obs", dist.Binomial(at_bats, phi), obs=hits)

    return model


@example("loc, scale > alpha; alpha, at_bats > obs", HITS[:, 0], HITS[:, 1])
def baseball_partly_pooled_with_logits():
    def model(at_bats, hits):
        loc = pyro.sample("loc", dist.Normal(-1.0, 1.0))
        scale = pyro.sample("scale", dist.HalfCauchy(1.0))
        with pyro.plate("players", len(at_bats)):
            alpha = pyro.sample("alpha", dist.Normal(loc, scale))
            pyro.sample("obs", dist.Binomial(at_bats, logits=alpha), obs=hits)

    return model


@example("linear.weight, linear.bias, sigma, x > obs", torch.rand(5, 2), torch.rand(5))
def bayesian_regression():
    class Regression(PyroModule):
        def __init__(self):
            super().__init__()
            self.linear = PyroModule[nn.Linear](2, 1)
            self.linear.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 2]).to_event(2))
            self.linear.bias = PyroSample(dist.Normal(0.0, 10.0).expand([1]).to_event(1))

        def forward(self, x, y=None):
            sigma = pyro.sample("sigma", dist.Uniform(0.0, 10.0))
            mean = pyro.deterministic("mean", self.linear(x).squeeze(-1))
            with pyro.plate("data", len(x)):
                pyro.sample("obs", dist.Normal(mean, sigma), obs=y)

    return Regression()


@example("a, b_africa, b_rugged, b_both, sigma, africa, rugged > log_gdp", *torch.rand(3, 6))
def ruggedness():
    def model(africa, rugged, log_gdp=None):
        a = pyro.sample("a", dist.Normal(0.0, 10.0))
        by = [pyro.sample(f"b_{name}", dist.Normal(0.0, 1.0)) for name in ("africa", "rugged", "both")]
        sigma = pyro.sample("sigma", dist.Uniform(0.0, 10.0))
        mean = a + by[0] * africa + by[1] * rugged + by[2] * africa * rugged
        with pyro.plate("data", len(africa)):
            pyro.sample("log_gdp", dist.Normal(mean, sigma), obs=log_gdp)

    def guide(africa, rugged, log_gdp=None):
        for name in ("a", "b_africa", "b_rugged", "b_both"):
            pyro.sample(name, dist.Normal(pyro.param(f"{name}_loc", torch.zeros(())), 1.0))
        pyro.sample("sigma", dist.Delta(pyro.param("sigma_loc", torch.ones(()))))

    return model, guide


@example("mu, tau > theta; theta, sigma > y", torch.ones(8), torch.linspace(9.0, 18.0, 8))
def eight_schools():
    def model(y, sigma):
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = pyro.sample("tau", dist.HalfCauchy(5.0))
        with pyro.plate("schools", 8):
            theta = pyro.sample("theta", dist.Normal(mu, tau))
            pyro.sample("y", dist.Normal(theta, sigma), obs=y)

    return model


@example("weights > assignment; locs, scale, assignment > obs", torch.tensor([0.0, 1.0, 10.0, 11.0]))
def gaussian_mixture():
    def model(data):
        weights = pyro.sample("weights", dist.Dirichlet(0.5 * torch.ones(2)))
        scale = pyro.sample("scale", dist.LogNormal(0.0, 2.0))
        with pyro.plate("components", 2):
            locs = pyro.sample("locs", dist.Normal(0.0, 10.0))
        with pyro.plate("data", len(data)):
            assignment = pyro.sample("assignment", dist.Categorical(weights))
            pyro.sample("obs", dist.Normal(locs[assignment], scale), obs=data)

    return model


@example("beta > z; mu, z > obs", torch.rand(6, 2))
def dirichlet_process_mixture():
    def sticks(beta):
        left = torch.ones(len(beta) + 1)
        left[1:] = (1 - beta).cumprod(-1)
        return torch.cat([beta, torch.ones(1)]) * left

    def model(data):
        with pyro.plate("beta_plate", 3):
            beta = pyro.sample("beta", dist.Beta(1.0, 1.1))
        with pyro.plate("mu_plate", 4):
            mu = pyro.sample("mu", dist.MultivariateNormal(torch.zeros(2), 5 * torch.eye(2)))
        with pyro.plate("data", len(data)):
            z = pyro.sample("z", dist.Categorical(sticks(beta)))
            pyro.sample("obs", dist.MultivariateNormal(mu[z], torch.eye(2)), obs=data)

    def guide(data):
        with pyro.plate("beta_plate", 3):
            pyro.sample("beta", dist.Beta(1.0, pyro.param("kappa", torch.ones(3))))
        with pyro.plate("mu_plate", 4):
            pyro.sample("mu", dist.MultivariateNormal(pyro.param("tau", torch.zeros(4, 2)), torch.eye(2)))
        with pyro.plate("data", len(data)):
            pyro.sample("z", dist.Categorical(pyro.param("phi", torch.ones(6, 4) / 4)))

    return model, guide


def kernel(x, variance, length):
    return variance * (-((x[:, None] - x) ** 2) / length**2).exp() + 0.1 * torch.eye(len(x))


@example("variance, lengthscale, X > y", torch.linspace(0.0, 1.0, 4), torch.rand(4))
def gaussian_process_regression():
    def model(X, y):
        variance = pyro.sample("variance", dist.LogNormal(0.0, 1.0))
        length = pyro.sample("lengthscale", dist.LogNormal(0.0, 1.0))
        zero = X.new_zeros(len(X))
        pyro.sample(
            "y", dist.MultivariateNormal(zero, covariance_matrix=kernel(X, variance, length)), obs=y
        )

    return model


@example("f, noise > y; X > f", torch.linspace(0.0, 1.0, 4), torch.rand(4), inference="X > f")
def sparse_gaussian_process():
    def model(X, y):
        f = pyro.sample("f", dist.MultivariateNormal(torch.zeros(len(X)), kernel(X, 1.0, 0.5)))
        noise = pyro.sample("noise", dist.HalfNormal(1.0))
        with pyro.plate("data", len(X)):
            pyro.sample("y", dist.Normal(f, noise), obs=y)

    def guide(X, y):
        inducing = torch.linspace(0.0, 1.0, 2)
        weights = (-((X[:, None] - inducing) ** 2)).exp() @ pyro.param("u_loc", torch.zeros(2))
        pyro.sample("f", dist.MultivariateNormal(weights, torch.eye(len(X))))
        pyro.sample("noise", dist.LogNormal(0.0, 1.0))

    return model, guide


@example("sigma, eta1, lambda, xisq, X > Y; msq > xisq", torch.rand(5, 3), torch.rand(5))
def sparse_regression():
    def model(X, Y):
        sigma = pyro.sample("sigma", dist.HalfNormal(3.0))
        lam = pyro.sample("lambda", dist.HalfCauchy(torch.ones(3)).to_event(1))
        eta1 = pyro.sample("eta1", dist.HalfCauchy(0.5 * torch.ones(())))
        msq = pyro.sample("msq", dist.InverseGamma(3.0, 1.0))
        xisq = pyro.sample("xisq", dist.InverseGamma(3.0, msq))
        scaled = X * (eta1 * xisq.sqrt() * lam / (xisq + (eta1 * lam) ** 2).sqrt())
        covariance = scaled @ scaled.t() + sigma.square() * torch.eye(len(X))
        pyro.sample("Y", dist.MultivariateNormal(torch.zeros_like(Y), covariance), obs=Y)

    return model


@example("loc > obs", torch.rand(5))
def minimal_normal():
    def model(data):
        loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(data)):
            pyro.sample("obs", dist.Normal(loc, 1.0), obs=data)

    def guide(data):
        loc, scale = pyro.param("guide_loc", torch.zeros(())), pyro.param("guide_scale", torch.ones(()))
        pyro.sample("loc", dist.Normal(loc, scale))

    return model, guide


@example("theta, L_omega, mu > obs; eta > L_omega", torch.rand(4, 3))
def lkj_correlations():
    def model(y):
        theta = pyro.sample("theta", dist.HalfCauchy(torch.ones(3)).to_event(1))
        eta = pyro.sample("eta", dist.LogNormal(0.0, 1.0))
        L_omega = pyro.sample("L_omega", dist.LKJCholesky(3, eta))
        mu = pyro.sample("mu", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        L = theta.sqrt().diag() @ L_omega
        with pyro.plate("observations", len(y)):
            pyro.sample("obs", dist.MultivariateNormal(mu, scale_tril=L), obs=y)

    return model


@example("mu > obs_0, obs_1, obs_2", torch.tensor([1.0, 1.0, 1.0]))
def inclined_plane():
    def time_to_slide(mu):
        speed = torch.zeros(())
        for _ in range(3):
            speed = speed + 0.1 * (1 - mu).clamp(min=0.01)
        return 1 / speed

    def model(times):
        mu = pyro.sample("mu", dist.Uniform(0.0, 1.0))
        for i in pyro.plate("trials", len(times)):
            pyro.sample(f"obs_{i}", dist.Normal(time_to_slide(mu), 0.1), obs=times[i])

    return model


@example("y > x")
def neals_funnel():
    def model():
        y = pyro.sample("y", dist.Normal(0.0, 3.0))
        with pyro.plate("dimensions", 9):
            pyro.sample("x", dist.Normal(0.0, (y / 2).exp()))

    return model


@example("weight > measurement", torch.tensor(9.5))
def weighing():
    def model(measurement):
        weight = pyro.sample("weight", dist.Normal(8.5, 1.0))
        pyro.sample("measurement", dist.Normal(weight, 0.75), obs=measurement)

    return model


@example("latent_fairness > obs_0, obs_1, obs_2", [torch.tensor(1.0), torch.tensor(1.0), torch.tensor(0.0)])
def coin():
    def model(flips):
        fairness = pyro.sample("latent_fairness", dist.Beta(10.0, 10.0))
        for i in range(len(flips)):
            pyro.sample(f"obs_{i}", dist.Bernoulli(fairness), obs=flips[i])

    def guide(flips):
        a, b = (pyro.param(name, torch.tensor(15.0)) for name in ("alpha", "beta"))
        pyro.sample("latent_fairness", dist.Beta(a, b))

    return model, guide


@example("x_axis, y_axis > obs", torch.zeros(3, 2))
def overlapping_plates():
    def model(data):
        rows, columns = pyro.plate("rows", 3, dim=-2), pyro.plate("columns", 2, dim=-1)
        with rows:
            u = pyro.sample("x_axis", dist.Normal(0.0, 1.0))
        with columns:
            v = pyro.sample("y_axis", dist.Normal(0.0, 1.0))
        with rows, columns:
            pyro.sample("obs", dist.Normal(u + v, 1.0), obs=data)

    return model


@example("length, theta > y", torch.tensor([[5.0, 7.0]]))
def working_memory():
    def model(length):
        with pyro.plate_stack("designs", length.shape):
            theta = pyro.sample("theta", dist.Normal(7.0, 2.0))
            pyro.sample("y", dist.Bernoulli(logits=theta - length))

    return model


@example("alpha, design, w > y; sigma > w", torch.rand(4, 2), torch.ones(4))
def ab_test():
    def model(design, y=None):
        alpha = pyro.sample("alpha", dist.Normal(0.0, 1.0))
        sigma = pyro.sample("sigma", dist.Gamma(3.0, 3.0))
        w = pyro.sample("w", dist.Normal(torch.zeros(2), sigma).to_event(1))
        with pyro.plate("designs", len(design)):
            pyro.sample("y", dist.Normal(alpha + design @ w, 1.0), obs=y)

    return model


@example("state, utterance > truth; state > utterance")
def pragmatic_speaker():
    def model():
        state = pyro.sample("state", dist.Categorical(torch.ones(4)))
        utterance = pyro.sample("utterance", dist.Categorical(logits=-(state - torch.arange(4.0)).abs()))
        pyro.factor("truth", torch.where(utterance == state, 0.0, -9.0))

    return model


@example("mu > z_0, z_1; z_0 > x_0; z_1 > x_1", torch.rand(2), inference="x_0 > z_0; x_1 > z_1")
def compiled_inference():
    nets = nn.ModuleList([nn.Linear(1, 2), nn.Linear(1, 2)])

    def model(x):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        for i in range(2):
            z = pyro.sample(f"z_{i}", dist.Normal(mu, 1.0))
            pyro.sample(f"x_{i}", dist.Normal(z, 1.0), obs=x[i])

    def guide(x):
        pyro.sample("mu", dist.Normal(0.0, 1.0))
        for i, net in enumerate(nets):
            loc, scale = net(x[i].reshape(1, 1)).squeeze(0)
            pyro.sample(f"z_{i}", dist.Normal(loc, scale.exp()))

    return model, guide
