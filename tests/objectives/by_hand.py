"""A VAE's draws and importance weights written by hand, on the noise that follows from one seed."""

import torch

SEED = 5
K = 4


def evaluated(objective, pair, *args):
    """The bound on the draws that follow from the seed."""
    torch.manual_seed(SEED)
    return objective.evaluate(pair, *args)


def value_and_gradients(objective, pair, *args):
    """On the draws that follow from the seed."""
    torch.manual_seed(SEED)
    loss = objective.differentiable_loss(pair.model, pair.guide, *args)
    return loss, gradients(loss, pair)


def gradients(loss, module):
    parameters = {name: value for name, value in module.named_parameters() if value.requires_grad}
    found = torch.autograd.grad(loss, list(parameters.values()), materialize_grads=True)
    return dict(zip(parameters, found, strict=True))


def noise(*shape):
    torch.manual_seed(SEED)
    return torch.randn(*shape, dtype=torch.double)


def draw_by_hand(vae, x, num_samples=K):
    """z = loc + scale * noise, `(K, B, M)`, and its posterior."""
    q = vae.posterior(x).base_dist
    return q.loc + q.scale * noise(num_samples, *q.loc.shape), q


def log_weights_by_hand(vae, x, z, q):
    log_q = (-0.5 * ((z - q.loc) / q.scale).square() - q.scale.log()).sum(-1)
    log_p = (-0.5 * z.square()).sum(-1)  # the normalising constants cancel
    logits = vae.likelihood.network(z)
    log_px = x * logits.sigmoid().log() + (1 - x) * (-logits).sigmoid().log()
    return log_px.flatten(2).sum(-1) + log_p - log_q


def divergences(vae, x):
    """KL_j of each dimension, averaged over the batch, by hand."""
    q = vae.posterior(x).base_dist
    return (0.5 * (q.loc.square() + q.scale.square() - 1) - q.scale.log()).mean(0)
