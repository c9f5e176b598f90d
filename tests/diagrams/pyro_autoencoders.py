"""Programs with amortised guides: autoencoders, topic models, attend-infer-repeat."""

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro import poutine
from pyro_programs import chain, example
from torch import nn

N, D = 4, 6
X = torch.arange(N * D).reshape(N, D).float() / (N * D)


@example("z > x", X, inference="x > z")
def vae():
    encoder, decoder = nn.Linear(D, 4), nn.Sequential(nn.Linear(2, 8), nn.Softplus(), nn.Linear(8, D))

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", x.shape[0]):
            z = pyro.sample("z", dist.Normal(x.new_zeros((len(x), 2)), x.new_ones((len(x), 2))).to_event(1))
            pyro.sample("x", dist.Bernoulli(logits=decoder(z)).to_event(1), obs=x.reshape(-1, D).round())

    def guide(x):
        with pyro.plate("data", x.shape[0]):
            loc, scale = encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, scale.exp()).to_event(1))

    return model, guide


def of_classes(labelled):
    to_class, encoder, decoder = nn.Linear(D, 3), nn.Linear(D + 3, 2), nn.Linear(5, D)

    def model(xs, ys=None):
        with pyro.plate("data"):
            z = pyro.sample("z", dist.Normal(xs.new_zeros(len(xs), 2), xs.new_ones(len(xs), 2)).to_event(1))
            ys = pyro.sample("y", dist.OneHotCategorical(xs.new_ones(len(xs), 3) / 3), obs=ys)
            pyro.sample("x", dist.Bernoulli(decoder(torch.cat([z, ys], -1)).sigmoid()).to_event(1), obs=xs)

    def guide(xs, ys=None):
        with pyro.plate("data"):
            if ys is None:
                ys = pyro.sample("y", dist.OneHotCategorical(logits=to_class(xs)))
            pyro.sample("z", dist.Normal(encoder(torch.cat([xs, ys], -1)), 1.0).to_event(1))

    def classify(xs, ys=None):
        with pyro.plate("data"):
            pyro.sample("y_aux", dist.OneHotCategorical(logits=to_class(xs)), obs=ys)

    return {"unlabelled": (model, guide), "labelled": (model, guide), "auxiliary": classify}[labelled]


@example("z, y > x", X.round(), inference="x > y; x, y > z")
def ss_vae_unlabelled():
    return of_classes("unlabelled")


@example("z, y > x", X.round(), F.one_hot(torch.arange(N) % 3, 3).float(), inference="x, y > z")
def ss_vae_labelled():
    return of_classes("labelled")


@example("xs > y_aux", X, F.one_hot(torch.arange(N) % 3, 3).float())
def ss_vae_auxiliary_loss():
    return of_classes("auxiliary")


HALF = torch.cat([torch.full((N, 3), -1.0), X[:, 3:]], -1)


@example("xs > z; z, xs > y", HALF, X.round(), inference="xs, y > z")
def cvae():
    prior, recognition, decoder = nn.Linear(D, 2), nn.Linear(2 * D, 2), nn.Linear(2, D)

    def model(xs, ys=None):
        with pyro.plate("data"):
            z = pyro.sample("z", dist.Normal(prior(xs), 1.0).to_event(1))
            loc = decoder(z).sigmoid()
            missing = xs == -1
            loc, ys = loc[missing].view(len(xs), -1), ys[missing].view(len(xs), -1)
            pyro.sample("y", dist.Bernoulli(loc, validate_args=False).to_event(1), obs=ys)

    def guide(xs, ys=None):
        with pyro.plate("data"):
            pyro.sample("z", dist.Normal(recognition(torch.cat([xs, ys], -1)), 1.0).to_event(1))

    return model, guide


@example("x > y", X, X.round())
def cvae_baseline():
    net = nn.Linear(D, D)

    def model(x, y):
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Bernoulli(logits=net(x)).to_event(1), obs=y)

    return model


OBJECTS = ["z_pres_0 > z_pres_1", *chain(2, "z_pres_{t} > z_where_{t}", "z_pres_{t} > z_what_{t}")]


@example(
    [*OBJECTS, *chain(2, "z_pres_{t}, z_where_{t}, z_what_{t} > obs")],
    torch.rand(N, 3),
    inference=[
        *OBJECTS,
        *chain(2, "obs > z_pres_{t}, z_where_{t}, z_what_{t}", "z_where_{t} > z_what_{t}"),
        "z_pres_0, z_where_0, z_what_0 > z_pres_1, z_where_1",
    ],
)
def air():
    rnn, where_net, glimpse = nn.GRUCell(6, 4), nn.Linear(4, 3), nn.Linear(4, 2)
    places = torch.arange(3.0)

    def model(data):
        with pyro.plate("data", len(data)):
            present, canvas = data.new_ones(len(data), 1), data.new_zeros(len(data), 3)
            for t in range(2):
                present = pyro.sample(f"z_pres_{t}", dist.Bernoulli(0.5 * present).to_event(1))
                prior = dist.Normal(0.0, 1.0).expand([len(data), 1]).mask(present).to_event(1)
                where = pyro.sample(f"z_where_{t}", prior)
                what = pyro.sample(f"z_what_{t}", prior)
                canvas = canvas + present * what * (-((places - where) ** 2)).exp()
            pyro.sample("obs", dist.Normal(canvas, 0.3).to_event(1), obs=data)

    def guide(data):
        with pyro.plate("data", len(data)):
            h = data.new_zeros(len(data), 4)
            present, where = data.new_ones(len(data), 1), data.new_zeros(len(data), 1)
            what = torch.zeros_like(where)
            for t in range(2):
                h = rnn(torch.cat([data, present, where, what], -1), h)
                odds, loc, scale = where_net(h).chunk(3, -1)
                present = pyro.sample(f"z_pres_{t}", dist.Bernoulli(odds.sigmoid() * present).to_event(1))
                q = dist.Normal(loc, scale.exp()).mask(present).to_event(1)
                where = pyro.sample(f"z_where_{t}", q)
                loc, scale = glimpse(torch.cat([data * where, where], -1)).chunk(2, -1)
                what = pyro.sample(f"z_what_{t}", dist.Normal(loc, scale.exp()).mask(present).to_event(1))

    return model, guide


@example(
    "z1, y > z2; z2, l > x",
    torch.ones(N, D),
    torch.arange(N) % 3,
    inference="x > l, z2; z2, y > z1, classification_loss",
)
def scanvi():
    z2_net, rates, encoder = nn.Linear(4, 2), nn.Linear(1, D), nn.Linear(D, 4)
    classifier, z1_net = nn.Linear(1, 3), nn.Linear(4, 2)

    def model(x, y=None):
        y = None if y is None else F.one_hot(y, 3).float()
        with pyro.plate("batch", len(x)), poutine.scale(scale=0.1):
            z1 = pyro.sample("z1", dist.Normal(x.new_zeros(1), x.new_ones(1)).to_event(1))
            y = pyro.sample("y", dist.OneHotCategorical(logits=x.new_zeros(3)), obs=y)
            loc, scale = z2_net(torch.cat([z1, y], -1)).chunk(2, -1)
            z2 = pyro.sample("z2", dist.Normal(loc, scale.exp()).to_event(1))
            size = pyro.sample("l", dist.LogNormal(x.new_full((1,), 2.0), 0.5).to_event(1))
            theta = F.softplus(pyro.param("theta", x.new_ones(D)))
            mean = size * rates(z2).softmax(-1)
            count = dist.NegativeBinomial(total_count=theta, logits=mean.log() - theta.log())
            pyro.sample("x", count.to_event(1), obs=x)

    def guide(x, y=None):
        with pyro.plate("batch", len(x)), poutine.scale(scale=0.1):
            loc, scale, size, spread = encoder(x.log1p()).chunk(4, -1)
            pyro.sample("l", dist.LogNormal(size, spread.exp()).to_event(1))
            z2 = pyro.sample("z2", dist.Normal(loc, scale.exp()).to_event(1))
            q = dist.OneHotCategorical(logits=classifier(z2))
            if y is None:
                y = pyro.sample("y", q)
            else:
                y = F.one_hot(y, 3).float()
                pyro.factor("classification_loss", -50.0 * q.log_prob(y), has_rsample=False)
            loc, scale = z1_net(torch.cat([z2, y], -1)).chunk(2, -1)
            pyro.sample("z1", dist.Normal(loc, scale.exp()).to_event(1))

    return model, guide


@example(
    "z > x, t; z, t > y",
    torch.rand(N, 3),
    torch.ones(N),
    torch.rand(N),
    inference="x > t; x, t > y; x, y, t > z",
)
def cevae():
    x_net, t_net, y_net = nn.Linear(2, 3), nn.Linear(2, 1), nn.Linear(3, 1)
    q_t, q_y, q_z = nn.Linear(3, 1), nn.Linear(4, 1), nn.Linear(5, 2)

    def model(x, t=None, y=None):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
            pyro.sample("x", dist.Normal(x_net(z), 1.0).to_event(1), obs=x)
            t = pyro.sample("t", dist.Bernoulli(logits=t_net(z).squeeze(-1)), obs=t)
            pyro.sample("y", dist.Normal(y_net(torch.cat([z, t[:, None]], -1)).squeeze(-1), 1.0), obs=y)

    def guide(x, t=None, y=None):
        auxiliary = {"is_auxiliary": True}
        with pyro.plate("data", len(x)):
            t = pyro.sample("t", dist.Bernoulli(logits=q_t(x).squeeze(-1)), obs=t, infer=auxiliary)
            loc = q_y(torch.cat([x, t[:, None]], -1)).squeeze(-1)
            y = pyro.sample("y", dist.Normal(loc, 1.0), obs=y, infer=auxiliary)
            both = torch.cat([x, t[:, None], y[:, None]], -1)
            pyro.sample("z", dist.Normal(q_z(both), 1.0).to_event(1))

    return model, guide


@example("logtheta > obs", torch.ones(N, 5), inference="obs > logtheta")
def prodlda():
    beta, encoder = (
        nn.Linear(3, 5, bias=False),
        nn.Sequential(nn.Linear(5, 6), nn.Softplus(), nn.Dropout(0.1)),
    )

    def model(docs):
        pyro.module("beta", beta)
        with pyro.plate("documents", docs.shape[0]):
            prior = dist.Normal(docs.new_zeros((len(docs), 3)), docs.new_ones((len(docs), 3)))
            logtheta = pyro.sample("logtheta", prior.to_event(1))
            words = beta(logtheta.softmax(-1)).softmax(1)
            total = int(docs.sum(-1).max())
            pyro.sample("obs", dist.Multinomial(total, words), obs=docs)

    def guide(docs):
        with pyro.plate("documents", docs.shape[0]):
            loc, scale = encoder(docs).chunk(2, -1)
            pyro.sample("logtheta", dist.Normal(loc, scale.exp()).to_event(1))

    return model, guide


@example(
    "topic_weights > doc_topics; doc_topics > word_topics; word_topics, topic_words > doc_words",
    torch.zeros(7, 3).long(),
    inference="doc_words > doc_topics",
)
def lda():
    predictor = nn.Linear(4, 2)

    def model(data):
        with pyro.plate("topics", 2):
            topic_weights = pyro.sample("topic_weights", dist.Gamma(1.0, 1.0))
            topic_words = pyro.sample("topic_words", dist.Dirichlet(torch.ones(4)))
        with pyro.plate("documents", data.shape[1]):
            doc_topics = pyro.sample("doc_topics", dist.Dirichlet(topic_weights))
            with pyro.plate("words", data.shape[0]):
                topics = pyro.sample("word_topics", dist.Categorical(doc_topics))
                pyro.sample("doc_words", dist.Categorical(topic_words[topics]), obs=data)

    def guide(data):
        topics = pyro.plate("topics", 2)
        with topics:
            pyro.sample("topic_weights", dist.Gamma(pyro.param("a", torch.ones(2)), 1.0))
            pyro.sample("topic_words", dist.Dirichlet(pyro.param("b", torch.ones(2, 4))))
        counts = torch.zeros(4, data.shape[1]).scatter_add(0, data, torch.ones(data.shape))
        with pyro.plate("documents", data.shape[1]):
            pyro.sample("doc_topics", dist.Delta(predictor(counts.t()).softmax(-1), event_dim=1))

    return model, guide


@example("w_top, z_top > z_mid; w_mid, z_mid > z_bottom; w_bottom, z_bottom > obs", torch.ones(N, 5))
def sparse_gamma_def():
    widths = {"top": 2, "mid": 3, "bottom": 4}

    def model(x):
        with pyro.plate("weights", 1):
            of = {
                name: pyro.sample(f"w_{name}", dist.Gamma(0.1, 0.3).expand([width, below]).to_event(2))
                for (name, width), below in zip(widths.items(), (3, 4, 5), strict=True)
            }
        with pyro.plate("data", len(x)):
            top = pyro.sample("z_top", dist.Gamma(0.1, 0.1).expand([2]).to_event(1))
            mid = pyro.sample("z_mid", dist.Gamma(0.1, 0.1 / (top @ of["top"][0])).to_event(1))
            low = pyro.sample("z_bottom", dist.Gamma(0.1, 0.1 / (mid @ of["mid"][0])).to_event(1))
            pyro.sample("obs", dist.Poisson(low @ of["bottom"][0]).to_event(1), obs=x)

    return model
