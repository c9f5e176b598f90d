"""The table of recipes: the models that can be trained by name."""

from pyrovae.tables import Component, Table

RECIPES = Table(
    "model",
    {
        "vae": Component("Variational autoencoder: z ~ p(z), x ~ p(x | z).", "pyrovae.recipes:vae"),
        "hvae": Component(
            "VAE with two levels of latents: z2 ~ p(z2), z1 ~ p(z1 | z2), x ~ p(x | z1, z2).",
            "pyrovae.recipes:hvae",
        ),
        "cvae": Component(
            "Conditional VAE: z ~ p(z | c), x ~ p(x | z, c), given a class or a part of the image.",
            "pyrovae.recipes:cvae",
        ),
        "ppca": Component(
            "Probabilistic PCA: z ~ N(0, I), x ~ N(W z + mu, sigma^2 I), with its exact evidence.",
            "pyrovae.recipes:ppca",
        ),
        "autoencoder": Component(
            "Deterministic autoencoder, for contrast: z = encoder(x), x ~ p(x | z).",
            "pyrovae.recipes:autoencoder",
        ),
        "m2": Component(
            "M2, a VAE with a class beside z: y ~ Cat(pi), x ~ p(x | y, z).", "pyrovae.recipes:m2"
        ),
        "m1m2": Component(
            "M1+M2, an M2 on the latents of a VAE: y, z2, z1 ~ p(z1 | y, z2), x ~ p(x | z1).",
            "pyrovae.recipes:m1m2",
        ),
        "pcvae": Component(
            "Prediction-constrained VAE: z predicts the class, y ~ p(y | z), weighted by lambda.",
            "pyrovae.recipes:pcvae",
        ),
        "cpcvae": Component(
            "Consistent PC-VAE: its predictions survive decoding and encoding again.",
            "pyrovae.recipes:cpcvae",
        ),
        "bnn": Component(
            "Bayesian neural network: w ~ N(0, s^2 I), y ~ Cat(softmax(f(x; w))), a classifier.",
            "pyrovae.recipes:bnn",
        ),
    },
)
