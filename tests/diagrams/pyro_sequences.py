"""Programs over time: hidden Markov models, state-space models, epidemics, capture and recapture."""

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro import poutine
from pyro_programs import chain, example
from torch import nn

T = 3
TUNES = torch.zeros(2, T, 2)  # two sequences of two notes; many are equal
TWO = torch.eye(2) * 0.8 + 0.1


def transitions(*names):
    return [pyro.sample(name, dist.Dirichlet(TWO).to_event(1)) for name in names]


def rates():
    return pyro.sample("probs_y", dist.Beta(0.1, 0.9).expand([2, 2]).to_event(2))


ROWS = ["probs_x > x_0, x_1, x_2", "probs_y > y_0, y_1, y_2"]


@example([*ROWS, *chain(T, "x_{t} > x_{u}", "x_{t} > y_{t}")], TUNES)
def hmm_1():
    def model(tunes):
        probs_x, probs_y = *transitions("probs_x"), rates()
        with pyro.plate("sequences", len(tunes)):
            x = torch.zeros(len(tunes)).long()
            for t in pyro.markov(range(tunes.shape[1])):
                x = pyro.sample(f"x_{t}", dist.Categorical(probs_x[x]))
                pyro.sample(f"y_{t}", dist.Bernoulli(probs_y[x]).to_event(1), obs=tunes[:, t])

    return model


@example([*ROWS, *chain(T, "x_{t} > x_{u}", "x_{t} > y_{t}", "y_{t} > y_{u}")], TUNES)
def hmm_2():
    def model(tunes):
        probs_x, probs_y = *transitions("probs_x"), rates()
        with pyro.plate("sequences", len(tunes)):
            x, y = torch.zeros(len(tunes)).long(), torch.zeros(len(tunes), 2)
            for t in pyro.markov(range(tunes.shape[1])):
                x = pyro.sample(f"x_{t}", dist.Categorical(probs_x[x]))
                probs = 0.5 * (probs_y[x] + y)
                y = pyro.sample(f"y_{t}", dist.Bernoulli(probs).to_event(1), obs=tunes[:, t])

    return model


FACTORIAL = [*ROWS, "probs_w > w_0, w_1, w_2"]


@example([*FACTORIAL, *chain(T, "w_{t} > w_{u}", "x_{t} > x_{u}", "w_{t}, x_{t} > y_{t}")], TUNES)
def hmm_3():
    def model(tunes):
        (probs_w, probs_x), probs_y = transitions("probs_w", "probs_x"), rates()
        with pyro.plate("sequences", len(tunes)):
            w = x = torch.zeros(len(tunes)).long()
            for t in pyro.markov(range(tunes.shape[1])):
                w = pyro.sample(f"w_{t}", dist.Categorical(probs_w[w]))
                x = pyro.sample(f"x_{t}", dist.Categorical(probs_x[x]))
                pyro.sample(f"y_{t}", dist.Bernoulli(probs_y[w] * probs_y[x]).to_event(1), obs=tunes[:, t])

    return model


@example(
    [*FACTORIAL, *chain(T, "w_{t} > w_{u}, x_{t}", "x_{t} > x_{u}", "w_{t}, x_{t} > y_{t}"), "w_2 > x_2"],
    TUNES,
)
def hmm_4():
    def model(tunes):
        (probs_w, probs_x), probs_y = transitions("probs_w", "probs_x"), rates()
        with pyro.plate("sequences", len(tunes)):
            w = x = torch.zeros(len(tunes)).long()
            for t in pyro.markov(range(tunes.shape[1])):
                w = pyro.sample(f"w_{t}", dist.Categorical(probs_w[w]))
                x = pyro.sample(f"x_{t}", dist.Categorical((probs_x[w] + probs_x[x]) / 2))
                pyro.sample(f"y_{t}", dist.Bernoulli(probs_y[w] * probs_y[x]).to_event(1), obs=tunes[:, t])

    return model


@example(["probs_x > x_0, x_1, x_2", *chain(T, "x_{t} > x_{u}", "x_{t} > y_{t}", "y_{t} > y_{u}")], TUNES)
def hmm_5_with_a_network():
    tones = nn.GRUCell(3, 2)

    def model(tunes):
        pyro.module("tones", tones)
        (probs_x,) = transitions("probs_x")
        with pyro.plate("sequences", len(tunes)):
            x, y = torch.zeros(len(tunes)).long(), torch.zeros(len(tunes), 2)
            for t in pyro.markov(range(tunes.shape[1])):
                x = pyro.sample(f"x_{t}", dist.Categorical(probs_x[x]))
                logits = tones(torch.cat([x[:, None].float(), y], -1))
                y = pyro.sample(f"y_{t}", dist.Bernoulli(logits=logits).to_event(1), obs=tunes[:, t])

    return model


@example([*ROWS, *chain(T, "x_{t} > x_{u}", "x_{t} > x_{v}", "x_{t} > y_{t}")], TUNES)
def hmm_6_of_second_order():
    def model(tunes):
        with pyro.plate("first", 2, dim=-2), pyro.plate("second", 2, dim=-1):
            probs_x = pyro.sample("probs_x", dist.Dirichlet(torch.ones(2)))
        probs_y = rates()
        with pyro.plate("sequences", len(tunes)):
            before = last = torch.zeros(len(tunes)).long()
            for t in pyro.markov(range(tunes.shape[1]), history=2):
                x = pyro.sample(f"x_{t}", dist.Categorical(probs_x[before, last]))
                pyro.sample(f"y_{t}", dist.Bernoulli(probs_y[x]).to_event(1), obs=tunes[:, t])
                before, last = last, x

    return model


@example("probs_x, probs_y, probs_0 > y", torch.zeros(2, T).long())
def hmm_7_vectorised():
    def model(tunes):
        initial = pyro.sample("probs_0", dist.Dirichlet(torch.ones(2)))
        (probs_x,), probs_y = (
            transitions("probs_x"),
            pyro.sample("probs_y", dist.Dirichlet(TWO).to_event(1)),
        )
        with pyro.plate("sequences", len(tunes)):
            hmm = dist.DiscreteHMM(initial.log(), probs_x.log(), dist.Categorical(probs_y), duration=T)
            pyro.sample("y", hmm, obs=tunes)

    return model


def dmm_model(x, lengths):
    transition, emission = dmm_model.nets
    with pyro.plate("z_minibatch", len(x)):
        z = torch.zeros(2)
        for t in pyro.markov(range(1, x.shape[1] + 1)):
            with poutine.mask(mask=t <= lengths):
                z = pyro.sample(f"z_{t}", dist.Normal(transition(z), 1.0).expand([len(x), 2]).to_event(1))
                pyro.sample(f"obs_x_{t}", dist.Bernoulli(logits=emission(z)).to_event(1), obs=x[:, t - 1])


dmm_model.nets = nn.Linear(2, 2), nn.Linear(2, 2)
MARKOV = ["z_1 > z_2", "z_2 > z_3"]
BACKWARDS = [f"obs_x_{s} > z_{t}" for t in (1, 2, 3) for s in range(t, 4)]


@example(
    [*MARKOV, *(f"z_{t} > obs_x_{t}" for t in (1, 2, 3))],
    TUNES,
    torch.tensor([3, 3]),
    inference=[*MARKOV, *BACKWARDS],
)
def dmm():
    rnn, combine = nn.RNN(2, 4, batch_first=True), nn.Linear(2, 4)

    def guide(x, lengths):
        states = rnn(x.flip(1), torch.zeros(1, 1, 4).expand(1, len(x), 4).contiguous())[0].flip(1)
        with pyro.plate("z_minibatch", len(x)):
            z = torch.zeros(2)
            for t in pyro.markov(range(1, x.shape[1] + 1)):
                with poutine.mask(mask=t <= lengths):
                    h = 0.5 * (combine(z).tanh() + states[:, t - 1])
                    z = pyro.sample(f"z_{t}", dist.Normal(h[:, :2], h[:, 2:].exp()).to_event(1))

    return dmm_model, guide


@example(
    [*MARKOV, *(f"z_{t} > obs_x_{t}" for t in (1, 2, 3))],
    TUNES,
    torch.tensor([3, 2]),
    inference=[*MARKOV, *BACKWARDS, "lengths > z_1, z_2, z_3"],
)
def dmm_of_ragged_sequences_with_iaf():
    rnn, combine = nn.GRU(2, 4, batch_first=True), nn.Linear(2, 4)
    flow = dist.transforms.affine_autoregressive(2, hidden_dims=[4])

    def reverse(x, lengths):
        turned = torch.zeros_like(x)
        for row, length in enumerate(lengths.tolist()):
            turned[row, :length] = x[row, :length].flip(0)
        return turned

    def guide(x, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(reverse(x, lengths), lengths, batch_first=True)
        states, _ = nn.utils.rnn.pad_packed_sequence(rnn(packed)[0], batch_first=True)
        states = reverse(states, lengths)
        with pyro.plate("z_minibatch", len(x)):
            z = torch.zeros(2)
            for t in pyro.markov(range(1, x.shape[1] + 1)):
                with poutine.mask(mask=t <= lengths):
                    h = 0.5 * (combine(z).tanh() + states[:, t - 1])
                    base = dist.Normal(h[:, :2], h[:, 2:].exp())
                    z = pyro.sample(f"z_{t}", dist.TransformedDistribution(base, [flow]))

    return dmm_model, guide


CAPTURES = torch.tensor([[1.0, 0, 0], [0, 1, 1], [0, 0, 0]])
ALIVE = chain(3, "z_{t} > z_{u}", "z_{t} > y_{t}", "phi_{t} > z_{u}")
CAUGHT = ["y_0 > z_1, z_2", "y_1 > z_2"]


def cjs(phi_by_time):
    def model(captures):
        rho = pyro.sample("rho", dist.Uniform(0.0, 1.0))
        phi = None if phi_by_time else pyro.sample("phi", dist.Uniform(0.0, 1.0))
        z, first = torch.ones(len(captures)), torch.zeros(len(captures)).bool()
        animals = pyro.plate("animals", len(captures), dim=-1)
        for t in pyro.markov(range(captures.shape[1])):
            if phi_by_time and t:
                phi = pyro.sample(f"phi_{t - 1}", dist.Uniform(0.0, 1.0))
            with animals, poutine.mask(mask=first):
                of_last = 0.5 if phi is None else phi
                z = pyro.sample(f"z_{t}", dist.Bernoulli(first.float() * of_last * z + (1 - first.float())))
                pyro.sample(f"y_{t}", dist.Bernoulli(rho * z), obs=captures[:, t])
            first |= captures[:, t].bool()

    return model


@example([*chain(3, "z_{t} > z_{u}", "z_{t} > y_{t}", "rho > y_{t}", "phi > z_{t}"), *CAUGHT], CAPTURES)
def capture_recapture_1():
    return cjs(phi_by_time=False)


@example([*ALIVE, *CAUGHT, "rho > y_0, y_1, y_2"], CAPTURES)
def capture_recapture_2():
    return cjs(phi_by_time=True)


@example(
    [
        *chain(T, "R0, tau > S2I_{t}", "tau > I2R_{t}", "rho, S2I_{t} > obs_{t}"),
        *chain(T, "S2I_{t}, I2R_{t} > S2I_{u}, I2R_{u}", "S2I_{t}, I2R_{t} > S2I_{v}, I2R_{v}"),
    ],
    torch.tensor([0.0, 1.0, 0.0]),
)
def sir_epidemic():
    def model(data):
        tau = pyro.sample("tau", dist.LogNormal(1.0, 0.2))
        R0 = pyro.sample("R0", dist.LogNormal(0.0, 1.0))
        rho = pyro.sample("rho", dist.Uniform(0.0, 1.0))
        well, ill = torch.tensor(20.0), torch.tensor(2.0)
        for t, datum in enumerate(data):
            infected = pyro.sample(
                f"S2I_{t}", dist.Binomial(well, (-R0 / tau * ill / 22).exp().clamp(0.01, 0.99))
            )
            recovered = pyro.sample(f"I2R_{t}", dist.Binomial(ill, 1 / (1 + tau)))
            well, ill = (well - infected).clamp(min=0), (ill + infected - recovered).clamp(min=0)
            pyro.sample(f"obs_{t}", dist.ExtendedBinomial(infected, rho), obs=datum)

    return model


@example("drift_scale > drift; drift, weight, noise, covariates > y", torch.zeros(4, 1), torch.ones(4, 2))
def forecast_of_a_trend():
    def model(data, covariates):
        weight = pyro.sample("weight", dist.Normal(0.0, 0.1).expand([2]).to_event(1))
        scale = pyro.sample("drift_scale", dist.LogNormal(-2.0, 1.0))
        time = pyro.plate("time", len(data), dim=-1)
        with time:
            drift = pyro.sample("drift", dist.Normal(0.0, scale))
        noise = pyro.sample("noise", dist.LogNormal(-1.0, 1.0))
        level = drift.cumsum(-1) + (weight * covariates).sum(-1)
        with time:
            pyro.sample("y", dist.Normal(level, noise), obs=data[:, 0])

    return model


@example(chain(T, "sigma > v_{t}", "v_{t} > v_{u}", "v_{t} > r_{t}"), torch.zeros(T))
def stochastic_volatility():
    def model(returns):
        sigma = pyro.sample("sigma", dist.HalfCauchy(1.0))
        v = 0.0
        for t in range(len(returns)):
            v = pyro.sample(f"v_{t}", dist.Normal(v, sigma))
            pyro.sample(f"r_{t}", dist.StudentT(4.0, 0.0, (v / 2).exp()), obs=returns[t])

    return model


@example(
    [
        *chain(T, "position_{t} > position_{u}, seen_{t}", "speed, noise > position_{u}"),
        "position_2 > seen_2",
    ],
    torch.zeros(T),
)
def tracking():
    def model(seen):
        noise = pyro.sample("noise", dist.HalfNormal(1.0))
        speed = pyro.sample("speed", dist.Normal(0.0, 1.0))
        position = None
        for t in range(len(seen)):
            if position is None:
                position = pyro.sample("position_0", dist.Normal(0.0, 1.0))
            else:
                position = pyro.sample(f"position_{t}", dist.Normal(position + speed, noise))
            pyro.sample(f"seen_{t}", dist.Normal(position, 0.1), obs=seen[t])

    return model


@example("trans_noise, obs_noise > y", torch.zeros(2, 4, 1))
def gaussian_hmm():
    def model(y):
        transition = pyro.sample("trans_noise", dist.LogNormal(0.0, 1.0))
        noise = pyro.sample("obs_noise", dist.LogNormal(0.0, 1.0))
        eye = torch.eye(1)

        def normal(scale):
            return dist.Normal(torch.zeros(1), scale).to_event(1)

        hmm = dist.GaussianHMM(normal(1.0), eye, normal(transition), eye, normal(noise), duration=4)
        with pyro.plate("series", len(y)):
            pyro.sample("y", hmm, obs=y)

    return model


@example("insert, delete, letters > sequence", F.one_hot(torch.zeros(2, 3).long(), 2).float())
def profile_hmm():
    def model(sequence):
        insert = pyro.sample("insert", dist.Beta(1.0, 1.0))
        delete = pyro.sample("delete", dist.Beta(1.0, 1.0))
        letters = pyro.sample("letters", dist.Dirichlet(torch.ones(2, 2)).to_event(1))
        moves = torch.zeros(2, 2)
        moves[0, 0], moves[0, 1] = 1 - insert, insert
        moves[1, 0], moves[1, 1] = delete, 1 - delete
        with pyro.plate("sequences", len(sequence)):
            emission = dist.OneHotCategorical(letters)
            hmm = dist.DiscreteHMM(torch.zeros(2), moves.log(), emission, duration=3)
            pyro.sample("sequence", hmm, obs=sequence)

    return model
