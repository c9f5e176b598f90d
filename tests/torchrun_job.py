"""What several processes do together in `test_processes.py`: `torchrun torchrun_job.py JOB FOLDER`.

The draws of these guides are functions of the datum, so that they are the same in any process.
"""

import os
import sys
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pyro
import pyro.distributions as dist
import torch
from torch import nn

from pyrovae import fit
from pyrovae.compute import compilation, processes
from pyrovae.errors import InputError
from pyrovae.programs import Whole
from pyrovae.training.settings import adam


class FixedNoise(nn.Module):
    """z ~ N(0, I), x ~ N(W z, I); q(z | x) is drawn by noise that x itself decides."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(6, 4), nn.Linear(2, 6)

    def model(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)
        return z

    def guide(self, x, y=None):
        mean, log_scale = self.encoder(x).chunk(2, -1)
        z = mean + log_scale.exp() * torch.sin(100 * x[:, :2])
        log_q = dist.Normal(mean, log_scale.exp()).log_prob(z).sum(-1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Delta(z, log_density=log_q, event_dim=1))


class Classed(FixedNoise):
    """The same with y ~ Cat(V z) where it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(2, 3)

    def model(self, x, y=None):
        z = super().model(x)
        with pyro.plate("classed", len(x)):
            if y is not None:
                pyro.sample("y", dist.Categorical(logits=self.classifier(z)), obs=y)
        return z


class OfAll(Classed):
    """The classed one beside a shift m ~ N(0, I) of all data, of which the guide always draws the same."""

    def __init__(self) -> None:
        super().__init__()
        self.loc, self.log_scale = nn.Parameter(torch.ones(6)), nn.Parameter(torch.zeros(6))

    def model(self, x, y=None):
        m = pyro.sample("m", dist.Normal(x.new_zeros(6), 1.0).to_event(1))
        z = super().model(x, y)
        with pyro.plate("again", len(x)):
            pyro.sample("shifted", dist.Normal(self.decoder(z) + m, 1.0).to_event(1), obs=x)

    def guide(self, x, y=None):
        super().guide(x, y)
        m = self.loc + 0.5 * self.log_scale.exp()
        log_q = dist.Normal(self.loc, self.log_scale.exp()).log_prob(m).sum()
        pyro.sample("m", dist.Delta(m, log_density=log_q, event_dim=1))


class Conditional(FixedNoise):
    """x ~ N(W z + c + the sum of a table, I), given c for each datum and a table for all."""

    def model(self, x, c, table):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            loc = self.decoder(z) + c + table.sum(0)
            pyro.sample("x", dist.Normal(loc, 1.0).to_event(1), obs=x)

    def guide(self, x, c, table):
        super().guide(x - c - table.sum(0))


class Drawn(FixedNoise):
    """The first one with draws that differ."""

    def guide(self, x, y=None):
        mean, log_scale = self.encoder(x).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(mean, log_scale.exp()).to_event(1))


class DrawnConditional(Conditional):
    """The conditional one with draws that differ."""

    def guide(self, x, c, table):
        Drawn.guide(self, x - c - table.sum(0))


class DrawnAndClassed(Classed):
    """The classed one with draws that differ."""

    guide = Drawn.guide


def data():
    """101 data, so that an epoch of minibatches of 20 ends with a single one; 9 of them have a class."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(101, 6, generator=generator), torch.arange(101) % 3
    y[9:] = -1
    return x, y


def given():
    """A condition for each of the 101 data, and a table of as many rows that belongs to all of them."""
    x, _ = data()
    return {"c": x.roll(1, 0).sin(), "table": Whole(0.01 * x.cos())}


def pair(kind, seed=1):
    torch.manual_seed(seed)
    return kind()


def train(module, y=None, epochs=5, x=None, **options):
    history = fit(
        module,
        data()[0] if x is None else x,
        y,
        **({"epochs": epochs, "batch_size": 20, "progress": False} | options),
    )
    return {"state": module.state_dict(), "rows": history.rows}


def trained(kind, epochs=5, **options):
    """Training that must not depend on how many processes share it."""
    # Only the first process's parameters are to matter.
    kinds = {"given": Conditional, "labels": Classed, "one label": Classed, "latent of all data": OfAll}
    module = pair(kinds.get(kind, FixedNoise), seed=1 + processes.rank())
    if kind == "plain":
        return train(module, epochs=epochs, **options)
    if kind == "dataset":
        with_items = {"workers": 1, "epochs": epochs, **options}
        return train(module, x=torch.utils.data.TensorDataset(data()[0]), **with_items)
    if kind == "given":
        x, beside = data()[0], given()
        held_out = (x[:30], {"c": beside["c"][:30]})
        return train(module, epochs=epochs, given=beside, validation=held_out, **options)
    if kind == "compiled":
        with recorded_only():
            return train(module, epochs=epochs, compile="on", **options)
    if kind == "labels":  # 5 beside 20, of which 9 // 5 ends with 4; and one beside 20
        return train(module, data()[1], epochs, weights={"y": 3.0}, labelled_batch_size=5, **options)
    if kind == "latent of all data":
        return train(module, data()[1], epochs, labelled_batch_size=5, **options)
    if kind == "one label":
        return train(module, data()[1], epochs, weights={"y": 3.0}, labelled_batch_size=1, **options)
    assert kind == "validated"
    scheduler = partial(torch.optim.lr_scheduler.ReduceLROnPlateau, patience=0)
    options = {"validation": data()[0][:30], "patience": 2, "scheduler": scheduler} | options
    return train(module, epochs=epochs, **options)


KINDS = ("plain", "dataset", "given", "compiled", "labels", "one label", "latent of all data", "validated")


@contextmanager
def recorded_only():
    """Steps recorded, and the record not compiled, which takes long."""
    original = compilation.compile_function
    compilation.compile_function = partial(original, inductor=False)
    yield
    compilation.compile_function = original


def evaluated():
    from pyrovae.evaluation import class_posterior, marginal_likelihood

    x, _ = data()
    module, conditional = pair(Drawn), pair(DrawnConditional)
    for each in (module, conditional):
        nn.init.zeros_(each.encoder.weight)  # a wide guide, whose weights are reliable
        nn.init.zeros_(each.encoder.bias)
    classed = pair(DrawnAndClassed)
    result = marginal_likelihood(module, x, num_samples=5000, seed=3)
    classes = class_posterior(classed, x[:20], 3, num_samples=50)
    of_given = marginal_likelihood(conditional, x, given=given(), num_samples=1000, seed=3)
    found = {"log_px": result.log_px, "khat": result.khat, "bounds": result.bounds}
    return found | {"classes": classes, "given": of_given.log_px}


class Draws:
    """A transform that keeps a number of its own at each minibatch, and may kill its process."""

    def __init__(self, fatal=None):
        # Not a plain attribute, so a run is resumed with another one.
        self.seen, self.fatal = [], [fatal]

    def __call__(self, x):
        self.seen.append(torch.rand(()).item())
        if [len(self.seen)] == self.fatal and processes.rank() == 1:
            os._exit(9)
        return x


def drawn(epochs=5, folder=None):
    """Training with random numbers, and the last of those that each process drew for its data."""
    draws = Draws()
    result = train(pair(Drawn), transform=draws, epochs=epochs, folder=folder, resume=folder is not None)
    return result | {"draws": draws.seen[-6:]}


def called_back(folder):
    """Training that a callback stops after its third epoch, and what the callback has seen."""
    seen = []

    def look(state):
        seen.append(state.epoch)
        state.log("rank", processes.rank())
        if state.epoch == 3:
            state.stop()

    return train(pair(FixedNoise), callbacks=[look], folder=folder) | {"seen": seen}


def set_by_callback(change):
    """Training whose callback changes the model, or the error."""
    module = pair(FixedNoise)

    def call_back(state):
        if change == "value":
            with torch.no_grad():
                for value in state.pair.parameters():
                    value.mul_(0.5)
        else:
            state.pair.added = torch.nn.Linear(1, 1)

    try:
        return train(module, callbacks=[call_back], epochs=2)
    except InputError as error:
        return str(error)


def everything(folder):
    # Imported here, as it takes seconds, which a job without the command line need not wait for.
    from pyrovae.cli import app as cli

    results = {kind: trained(kind) for kind in KINDS}
    results["evaluated"] = evaluated()
    # To be gone on with by one process, and one's by these.
    trained("plain", epochs=2, folder=folder / "of-two")
    results["resumed"] = trained("plain", folder=folder / "of-one", resume=True)
    results["called back"] = called_back(folder / "called-back")
    results["set by a callback"] = {change: set_by_callback(change) for change in ("value", "module")}
    results["drawn"] = drawn()
    drawn(epochs=2, folder=folder / "drawn")
    results["drawn, resumed"] = drawn(folder=folder / "drawn")
    run = str(folder / "run")
    sys.argv[1:] = [
        "train",
        "m2",
        "--labels",
        "5",
        "--epochs",
        "2",
        "--width",
        "16",
        "--quiet",
        "--no-spread",
    ]
    sys.argv += ["--out", run]
    cli.main()
    sys.argv[1:] = ["classify", run, "--labels", "5"]
    cli.main()
    return results


sgd = partial(torch.optim.SGD, lr=0.01)


def commanded(*words):
    """Run the command line, whose words name the process."""
    from pyrovae.cli import app as cli

    sys.argv = ["pyrovae", *(word.replace("RANK", os.environ["RANK"]) for word in words)]
    cli.main()


def hang():
    """The second process has something else to do."""
    with processes.joined():
        if processes.rank() == 1:
            time.sleep(3)
            os._exit(0)
        processes.wait()


def unlike(what):
    """Train with something that differs between the processes."""
    x, y = data()
    rank = processes.rank()
    if what == "data":
        x[3, 3] += rank
    if what == "classes":
        y = y.roll(rank)
    if what == "evaluation":
        from pyrovae.evaluation import marginal_likelihood

        return marginal_likelihood(pair(Drawn), x, num_samples=10 + rank)
    options = {"options": {"batch_size": 20 + rank}, "optimiser": {"optimizer": (adam, sgd)[rank]}}
    return train(pair(Classed), y, x=x, **options.get(what, {}))


def refused():
    """Print what is refused, each with its message."""
    with processes.joined():
        for what in ("data", "classes", "options", "optimiser", "evaluation"):
            try:
                unlike(what)
            except InputError as error:
                print(f"{what}: {error}")


def main(job, folder):
    with processes.joined():
        if job == "everything":
            torch.save(everything(folder), folder / f"results-{processes.rank()}.pt")
        else:  # "dying", in the second epoch
            trained("plain", transform=Draws(fatal=10), folder=folder)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
