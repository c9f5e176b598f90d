"""The table and the figure of `benchmark.py`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

Row = dict[str, Any]
MODELS = {"vae": "VAE", "pcvae": "PC-VAE", "m2": "M2", "iaf": "VAE + IAF"}
CONTESTANTS = (
    "handwritten, eager",
    "handwritten, torch.compile",
    "pyrovae, eager",
    "pyrovae, compiled",
    "pyro.infer",
    "NumPyro",
    "pythae",
)


def table(rows: list[Row]) -> str:
    """Return the Markdown report: training, evaluation, whole epochs, memory, start-up and scaling."""
    lines = ["# Benchmark", "", _conditions(rows), "", "## Training step", ""]
    lines += _header(
        "model", "contestant", "ms/step", "/ handwritten", "/ handwritten, compiled", "/ SVI", "/ floor"
    )
    for row in _of(rows, "training_ratio"):
        compiled, svi, floor = (row[k] for k in ("to_compiled_handwritten", "to_svi", "to_floor"))
        lines.append(
            f"| {row['model']} | {row['contestant']} | {row['milliseconds']:.2f} | {row['value']:.2f} | "
            f"{compiled:.2f} | {svi:.2f} | {floor:.2f} |"
        )
    lines += ["", "## Comparison of a compiled step with the programs", ""]
    lines += _header("model", "ms", "/ 500 steps")
    for row in _of(rows, "comparison_ratio"):
        lines.append(f"| {row['model']} | {row['milliseconds']:.2f} | {row['value']:.4f} |")
    lines += ["", "## Evaluation of log p(x), K = 5,000", ""]
    lines += _header("size", "contestant", "draws/s", "/ pythae", "draws/s / floor")
    for row in _of(rows, "evaluation_ratio"):
        lines.append(
            f"| {row['size']} | {row['contestant']} | {row['draws_per_second']:,.0f} | "
            f"{row['value']:.2f} | {row['of_floor']:.2f} |"
        )
    lines += ["", "## Whole epochs, with data loading and bookkeeping", ""]
    lines += _header("size", "contestant", "ms/step", "/ pyrovae")
    for row in _of(rows, "end_to_end_ratio"):
        lines.append(
            f"| {row['size']} | {row['contestant']} | {row['milliseconds']:.2f} | {row['value']:.2f} |"
        )
    lines += ["", "## Memory and start-up, one process for each contestant", ""]
    lines += _header("model", "contestant", "peak memory, MB", "seconds to the end of the first step")
    for row in _of(rows, "peak_memory"):
        lines.append(
            f"| {row['model']} | {row['contestant']} | {row['megabytes']:,.0f} | "
            f"{row['seconds_to_first_step']:.1f} |"
        )
    lines += ["", "## Scaling", ""]
    lines += _header("growing size", "seconds", "exponent")
    for what, curve in _curves(rows).items():
        times = ", ".join(f"{amount}: {seconds:.3g}" for amount, seconds in curve)
        exponents = [row["value"] for row in _of(rows, "scaling_exponent") if row["contestant"] == what]
        lines.append(
            f"| {what} | {times} | {exponents[0]:.3f} |" if exponents else f"| {what} | {times} | |"
        )
    return "\n".join(lines) + "\n"


def figure(rows: list[Row]) -> Figure:
    """Draw three panels: time of a training step, speed of the evaluation, and scaling."""
    drawn, panels = plt.subplots(1, 3, figsize=(15, 5.2), layout="constrained", width_ratios=(1.5, 1, 1.2))
    _training(panels[0], [row for row in _of(rows, "training_ratio") if row["size"] == "small"])
    _evaluation(panels[1], [row for row in _of(rows, "evaluation_ratio") if row["size"] == "small"])
    _scaling(panels[2], _curves(rows))
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
    threads = sorted({row["threads"] for row in rows})
    return (
        f"CPU, {', '.join(map(str, threads))} threads. The contestants took turns within one run, and the "
        "numbers are medians. A column '/ name' is a ratio to that contestant; a ratio of times below 1 is "
        "faster. The floor is the time of a plain matrix product with the same number of floating-point "
        "operations on this machine, or of a plain copy of the bytes that Adam moves, whichever is longer."
    )
