"""The table and the figure of `benchmark.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

Row = dict[str, Any]
MODELS = {"vae": "VAE", "pcvae": "PC-VAE", "m2": "M2", "iaf": "VAE + IAF"}
CONTESTANTS = (
    "handwritten, eager",
    "handwritten, torch.compile",
    "handwritten, captured",
    "pyrovae, eager",
    "pyrovae, compiled",
    "pyro.infer",
    "NumPyro",
    "pythae",
)

WHO = {"model": ("model", ""), "contestant": ("contestant", "")}
SECTIONS: list[tuple[str, str, dict[str, tuple[str, str]]]] = [
    ("Training step", "training_ratio", WHO | {
        "ms/step": ("milliseconds", ".2f"),
        "/ handwritten": ("value", ".2f"),
        "/ handwritten, compiled": ("to_compiled_handwritten", ".2f"),
        "/ SVI": ("to_svi", ".3f"),
        "/ floor": ("to_floor", ".2f"),
        "/ handwritten, captured": ("to_limit", ".2f"),
    }),
    ("Comparison of a compiled step with the programs", "comparison_ratio", {
        "model": ("model", ""), "ms": ("milliseconds", ".2f"), "/ 500 steps": ("value", ".4f"),
    }),
    ("Evaluation of log p(x), K = 5,000", "evaluation_ratio", {
        "size": ("size", ""), "contestant": ("contestant", ""),
        "draws/s": ("draws_per_second", ",.0f"), "/ pythae": ("value", ".2f"),
        "draws/s / floor": ("of_floor", ".2f"),
    }),
    ("Evaluation of 10,000 images, K = 5,000, k-hat included", "evaluation_seconds", WHO | {
        "ms": ("milliseconds", ",.0f"), "/ handwritten, without k-hat": ("value", ".2f"),
    }),
    ("Whole epochs, with data loading and bookkeeping", "end_to_end_ratio", {
        "size": ("size", ""), "contestant": ("contestant", ""),
        "ms/step": ("milliseconds", ".2f"), "/ pyrovae": ("value", ".2f"),
    }),
    ("Several seeds, whole epochs of compiled steps", "many_seeds", WHO | {
        "ms/step": ("milliseconds", ".2f"), "/ one seed": ("value", ".2f"),
    }),
    ("A call on a small model, 20 data and 10 draws", "call", {
        "function": ("contestant", ""), "ms": ("milliseconds", ".1f"), "first call, ms": ("first", ".0f"),
    }),
    ("The ways to run copies", "way", WHO | {
        "ms": ("milliseconds", ".1f"), "/ leading dimensions": ("value", ".2f"),
    }),
    ("Memory and start-up, one process for each contestant", "peak_memory", WHO | {
        "peak memory, MB": ("megabytes", ",.0f"),
        "seconds to the end of the first step": ("seconds_to_first_step", ".1f"),
    }),
]  # fmt: skip
"""The sections of the report: title, metric, and the fields and their forms by the columns' heads."""


def table(rows: list[Row]) -> str:
    """Return the Markdown report, with a section for each kind of measurement that there is."""
    lines = ["# Benchmark", "", _conditions(rows)]
    for title, metric, columns in SECTIONS:
        found = _of(rows, metric)
        shown = {head: field for head, field in columns.items() if any(field[0] in row for row in found)}
        if found:
            lines += ["", f"## {title}", "", *_header(*shown)]
            lines += [
                "| " + " | ".join(_cell(row, *field) for field in shown.values()) + " |" for row in found
            ]
    if curves := _curves(rows):
        lines += ["", "## Scaling", "", *_header("growing size", "seconds", "exponent")]
        for what, curve in curves.items():
            times = ", ".join(f"{amount}: {seconds:.3g}" for amount, seconds in curve)
            exponents = [row["value"] for row in _of(rows, "scaling_exponent") if row["contestant"] == what]
            lines.append(
                f"| {what} | {times} | {exponents[0]:.3f} |" if exponents else f"| {what} | {times} | |"
            )
    return "\n".join(lines) + "\n"


def _cell(row: Row, field: str, form: str) -> str:
    """Return a value of a row as text; nothing for one that is not a number."""
    value = row.get(field)
    return "" if value is None or value != value else format(value, form)


def figure(rows: list[Row]) -> Figure:
    """Draw three panels: time of a training step, speed of the evaluation, and scaling."""
    drawn, panels = plt.subplots(1, 3, figsize=(15, 5.2), layout="constrained", width_ratios=(1.5, 1, 1.2))
    small = [row for row in rows if row["size"] == "small"]
    drawings: list[tuple[Any, Callable[[Any, Any], None], Any]] = [
        (panels[0], _training, _of(small, "training_ratio")),
        (panels[1], _evaluation, _of(small, "evaluation_ratio")),
        (panels[2], _scaling, _curves(rows)),
    ]
    for panel, draw, found in drawings:
        if found:
            draw(panel, found)
        else:
            panel.set_axis_off()
    return drawn


def _training(panel: Any, rows: list[Row]) -> None:
    contestants = list(dict.fromkeys(row["contestant"] for row in rows))
    names = [name for name in MODELS if any(row["model"].startswith(f"{name},") for row in rows)]
    height = 0.8 / len(contestants)
    for number, contestant in enumerate(contestants):
        for place, name in enumerate(names):
            for row in rows:
                if row["contestant"] == contestant and row["model"].startswith(f"{name},"):
                    y = place + number * height
                    panel.barh(y, row["value"], height, color=f"C{number}", label=contestant)
                    panel.text(row["value"] + 0.02, y, f"{row['value']:.2f}", va="center", fontsize=7)
    panel.axvline(1.0, color="black", linewidth=0.8)
    panel.set_yticks([place + 0.4 - height / 2 for place in range(len(names))], [MODELS[n] for n in names])
    panel.invert_yaxis()
    handles, labels = panel.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    below: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.11), "frameon": False}
    panel.legend(unique.values(), unique.keys(), fontsize=8, ncols=3, **below)
    panel.set_xlim(0, 1.1 * max(row["value"] for row in rows))
    panel.set(
        xlabel="time of a training step / handwritten eager PyTorch", title="Training (lower is better)"
    )


def _evaluation(panel: Any, rows: list[Row]) -> None:
    for place, row in enumerate(rows):
        rate = row["draws_per_second"] / 1000
        panel.barh(place, rate, color="C3" if row["contestant"].startswith("pyrovae") else "C7")
        panel.text(rate, place, f" {rate:.0f}", va="center", fontsize=8)
    floor = rows[0]["draws_per_second"] / rows[0]["of_floor"] / 1000
    panel.axvline(floor, color="black", linestyle="--", label="floor: float32 matrix products alone")
    panel.set_yticks(range(len(rows)), [row["contestant"] for row in rows])
    panel.invert_yaxis()
    panel.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.11), frameon=False)
    panel.set_xlim(0, 1.2 * max(floor, *(row["draws_per_second"] / 1000 for row in rows)))
    panel.set(xlabel="thousand draws scored per second, K = 5,000", title="Evaluation (higher is better)")


def _scaling(panel: Any, curves: dict[str, list[tuple[int, float]]]) -> None:
    for what, curve in curves.items():
        amounts, seconds = zip(*curve, strict=True)
        kind = "evaluation" if what in ("N", "K") else "step"
        panel.loglog(
            [n / amounts[0] for n in amounts],
            [s / seconds[0] for s in seconds],
            "o-",
            label=f"{kind}: {what} from {amounts[0]:,} to {amounts[-1]:,}",
        )
    longest = max(curve[-1][0] / curve[0][0] for curve in curves.values())
    panel.plot(
        [1, longest], [1, longest], color="black", linewidth=0.8, linestyle="--", label="proportional"
    )
    panel.legend(fontsize=8)
    panel.set(xlabel="size / smallest size", ylabel="time / time at the smallest size", title="Scaling")


def _of(rows: Iterable[Row], metric: str) -> list[Row]:
    found = [row for row in rows if row["metric"] == metric]
    return sorted(found, key=lambda row: (row["size"] != "small", _place(row["model"], MODELS), _who(row)))


def _who(row: Row) -> int:
    return _place(row["contestant"], CONTESTANTS)


def _place(name: str, order: Iterable[str]) -> int:
    """Return the position of the first entry of `order` with which `name` begins."""
    return next((i for i, begins in enumerate(order) if name.startswith(begins)), 99)


def _curves(rows: Iterable[Row]) -> dict[str, list[tuple[int, float]]]:
    curves: dict[str, list[tuple[int, float]]] = {}
    for row in _of(rows, "scaling"):
        curves.setdefault(row["contestant"], []).append((row["amount"], row["value"]))
    return {what: sorted(curve) for what, curve in curves.items()}


def _header(*columns: str) -> list[str]:
    return [f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]


def _conditions(rows: list[Row]) -> str:
    if cards := sorted({row["card"] for row in rows if row.get("card")}):
        return (
            f"{', '.join(cards)}. Each contestant ran in a process of its own, without TF32, and the "
            "numbers are medians. A column '/ name' is a ratio to that contestant; a ratio of times below "
            "1 is faster. The captured handwritten step is one CUDA graph with minibatch, gradients and "
            "optimiser, the limit of what is possible."
        )
    threads = sorted({row["threads"] for row in rows})
    return (
        f"CPU, {', '.join(map(str, threads))} threads. The contestants took turns within one run, and the "
        "numbers are medians. A column '/ name' is a ratio to that contestant; a ratio of times below 1 is "
        "faster. The floor is the time of a plain matrix product with the same number of floating-point "
        "operations on this machine, or of a plain copy of the bytes that Adam moves, whichever is longer."
    )
