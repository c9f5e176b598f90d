"""What a figure shows, and histories to draw."""

import numpy as np

from pyrovae.training import History


def drawn(figure):
    """The pixels of the figure's image."""
    (axes,) = figure.axes
    (image,) = axes.images
    return np.asarray(image.get_array())


def history(epochs=5, validation=True):
    rows = [{"epoch": n + 1, "elbo": -50.0 + n} for n in range(epochs)]
    for row in rows if validation else ():
        row["validation_elbo"] = row["elbo"] - 1
    return History(rows, best_epoch=4 if validation else None)


def labels_of(axes):
    return [t.get_text() for t in axes.get_xticklabels()], [t.get_text() for t in axes.get_yticklabels()]


def semi_supervised_history():
    whole = history()
    for number, row in enumerate(whole.rows):
        row |= {
            "q(y | x)": -2.0 + number / 10,
            "consistency": -3.0,
            "weight of consistency": 5.0,
            "new": -1.0,
        }
        row |= {
            "kl": 5.0,
            "reconstruction": row["elbo"] + 5,
            "beta": 1.0,
            "seconds": 2.0,
            "validation_error": 3.0,
        }
    return whole
