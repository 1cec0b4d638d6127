"""Reads what the trainer logged and writes it as numbers and as figures, without any tracking service.

    python -m train.monitor out/tiny --data data/tiny/tiny
    python -m train.monitor --together out/tiny out/tiny+beta-0.5 --out out/margins-together.svg

The first writes `metrics.csv` (every logged step), `metrics.json` (where the run ended, with intervals), and as .svg and .png `margins`
(margin, accuracy, loss) and `training` (everything the trainer measures). The second draws the reward margins of several runs over their
epochs into one figure, as the paper's Figure 3 does, with the numbers beside it as .csv. Colours: Okabe and Ito's, for all kinds of sight.
"""

import argparse
import csv
import json
import math
from pathlib import Path

from datagen.files import UserError, atomic, entry, read_json, write_json
from eval.surface import wilson

# Okabe and Ito's colours (2008), told apart by people with any of the common kinds of colour blindness; without yellow, too pale on white.
BLUE, ORANGE, GREEN, VERMILLION, PURPLE, SKY, BLACK = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000"
SERIES = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY, BLACK)
STYLES = ("-", "--", ":", "-.")  # for the runs after those
CROWDED = 60  # values a line: more are a thicket without their moving mean
WIDE = 100  # times the smallest value: then on a logarithmic axis
DEEP = 1e5  # times below the largest value: nothing is shown there of a loss or a gradient that has vanished

# column -> the trainer's name of it (validation rows carry the prefix eval_)
COLUMNS = {
    "loss": "loss",
    "margin": "rewards/margins",
    "accuracy": "rewards/accuracies",
    "reward_chosen": "rewards/chosen",
    "reward_rejected": "rewards/rejected",
    "logp_chosen": "logps/chosen",
    "logp_rejected": "logps/rejected",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
}


def log_row(values: dict, step: int) -> dict | None:
    """One row (step, epoch, split, COLUMNS…) of what the trainer said at a step; None where that was no training step and no evaluation."""
    prefix = "eval_" if "eval_loss" in values else ""
    if f"{prefix}loss" not in values:
        return None
    numbers = {column: values.get(prefix + name, "") for column, name in COLUMNS.items()}
    return {"step": step, "epoch": round(float(values["epoch"]), 4), "split": "val" if prefix else "train", **numbers}


def log_rows(history: list[dict]) -> list[dict]:
    """The rows of a trainer's `log_history`."""
    return [row for values in history if (row := log_row(values, values["step"]))]


def read_log(adapter: Path) -> list[dict]:
    """The rows of the newest trainer_state.json below `adapter`. Raises UserError when there is none."""
    states = sorted(adapter.glob("checkpoint-*/trainer_state.json"), key=lambda path: int(path.parent.name.split("-")[1]))
    if not states:
        raise UserError(f"{adapter}: no checkpoint with a trainer_state.json; the training has not ended, or saved nothing")
    return log_rows(json.loads(states[-1].read_text())["log_history"])


def summary(rows: list[dict], val_rows: int) -> dict:
    """Where the run ended. The accuracy on the held-out pairs carries its Wilson interval."""
    val = [row for row in rows if row["split"] == "val"]
    train = [row for row in rows if row["split"] == "train"]
    if not val or not train:
        raise UserError("the trainer logged no validation or no training step; evals_per_epoch and logging_steps must be set")
    accuracy = float(val[-1]["accuracy"]) if val[-1]["accuracy"] != "" else None  # KTO has no pairs to rank
    return {
        "steps": train[-1]["step"],
        "held-out pairs": val_rows,
        "held-out accuracy": accuracy,
        "held-out accuracy interval": None if accuracy is None else wilson(round(accuracy * val_rows), val_rows),
        "held-out margin": float(val[-1]["margin"]),
        "held-out loss": float(val[-1]["loss"]),
        "first train margin": float(train[0]["margin"]),
        "last train margin": float(train[-1]["margin"]),
    }


def points(rows: list[dict], column: str, split: str, x: str = "step") -> tuple[list[float], list[float]]:
    """What was logged of a column, ready to draw. NaN stays: matplotlib leaves a gap there."""
    there = [row for row in rows if row["split"] == split and row[column] != ""]
    return [float(row[x]) for row in there], [float(row[column]) for row in there]


def smooth(values: list[float]) -> list[float]:
    """The mean of a moving window of a twentieth of the values, of fewer at the ends."""
    half = len(values) // 40
    return [sum(part) / len(part) for i in range(len(values)) for part in [values[max(0, i - half) : i + half + 1]]]


def draw(axis, rows: list[dict], column: str, colour: str, held_out: str, x: str = "step", style: str = "-", label: str | None = None, pale: float = 0.3) -> None:
    """Training batches as a line (a pale one and its moving mean where there are many), held-out pairs as ringed dots."""
    at, values = points(rows, column, "train", x)
    crowded = len(values) >= CROWDED
    if crowded:
        axis.plot(at, values, color=colour, lw=0.6, alpha=pale)
    axis.plot(at, smooth(values) if crowded else values, color=colour, lw=1.6, ls=style, label=label)
    axis.plot(*points(rows, column, "val", x), color=held_out, marker="o", ms=5, mec="black", mew=0.7, ls="none", zorder=3)


def canvas(rows: int, columns: int, size: tuple[float, float]):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"font.size": 9, "svg.hashsalt": "margins", "axes.spines.top": False, "axes.spines.right": False})
    fig, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for axis in axes.flat:
        axis.grid(alpha=0.25, lw=0.5)
    return fig, axes


def save(fig, out: Path) -> None:
    import matplotlib.pyplot as plt

    fig.draw_without_rendering()  # the layout is found once, not for each file
    fig.set_layout_engine("none")
    for suffix in ("svg", "png"):
        with atomic(out.with_suffix(f".{suffix}"), "wb") as file:
            fig.savefig(file, format=suffix, dpi=150, metadata={"Date": None} if suffix == "svg" else None)
    plt.close(fig)


def legend(axis, entries: list[tuple[str, str, str]], **how) -> None:
    """(label, colour, kind) for each; kind is `line` or `dots`."""
    from matplotlib.lines import Line2D

    made = [
        Line2D([], [], color=colour, lw=1.6, label=label)
        if kind == "line"
        else Line2D([], [], color=colour, marker="o", ms=5, mec="black", mew=0.7, ls="none", label=label)
        for label, colour, kind in entries
    ]
    axis.legend(handles=made, frameon=False, fontsize=8, **how)


def figure(rows: list[dict], title: str, out: Path) -> None:
    panels = [("margin", "reward margin (chosen - rejected)"), ("accuracy", "pairs ranked rightly"), ("loss", "loss")]
    fig, axes = canvas(1, 3, (10, 3))
    for axis, (column, label) in zip(axes.flat, panels, strict=True):
        draw(axis, rows, column, BLUE, ORANGE)
        axis.set_title(label, fontsize=9, loc="left")
        axis.set_xlabel("step")
    axes[0, 1].set_ylim(-0.03, 1.05)
    legend(axes[0, 0], [("training batches", BLUE, "line"), ("held-out pairs", ORANGE, "dots")])
    fig.suptitle(title, fontsize=10, x=0.01, ha="left")
    save(fig, out)


def everything(rows: list[dict], title: str, out: Path) -> None:
    """All that the trainer measures, one panel a quantity; chosen and rejected share theirs."""
    panels = [
        ("reward margin (chosen - rejected)", [("margin", BLUE)]),
        ("rewards", [("reward_chosen", GREEN), ("reward_rejected", VERMILLION)]),
        ("log-probabilities of whole answers (nats)", [("logp_chosen", GREEN), ("logp_rejected", VERMILLION)]),
        ("pairs ranked rightly", [("accuracy", BLUE)]),
        ("loss", [("loss", BLUE)]),
        ("gradient norm, before clipping", [("grad_norm", BLUE)]),
        ("learning rate", [("learning_rate", BLUE)]),
    ]
    fig, axes = canvas(2, 4, (13, 5.6))
    for axis, (label, columns) in zip(axes.flat, panels, strict=False):
        for column, colour in columns:
            draw(axis, rows, column, colour, colour)
        axis.set_title(label, fontsize=9, loc="left")
        axis.set_xlabel("step")
        values = [abs(v) for column, _ in columns for v in points(rows, column, "train")[1] if v and math.isfinite(v)]
        if not values:
            axis.text(0.5, 0.5, "not logged", transform=axis.transAxes, ha="center", color="0.4")
        elif columns[0][0] in ("grad_norm", "loss") and max(values) > WIDE * min(values):
            axis.set_yscale("log")
            axis.set_ylim(bottom=max(0.7 * min(values), max(values) / DEEP))
    axes[0, 3].set_ylim(-0.03, 1.05)
    axes[1, 2].ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    axes[1, 3].axis("off")
    colours = {"all pairs": BLUE, "chosen": GREEN, "rejected": VERMILLION}
    entries = [(f"{name}, {split}", colour, kind) for name, colour in colours.items() for split, kind in (("training batches", "line"), ("held out", "dots"))]
    legend(axes[1, 3], entries, loc="center left")
    fig.suptitle(title, fontsize=10, x=0.01, ha="left")
    save(fig, out)


def together(runs: dict[str, list[dict]], out: Path) -> None:
    """The paper's Figure 3: the reward margins of several runs over their epochs, with the numbers beside it."""
    fig, axes = canvas(1, 1, (7.5, 4.2 + 0.1 * max(0, len(runs) - 8)))
    axis = axes[0, 0]
    for i, (name, rows) in enumerate(runs.items()):
        draw(axis, rows, "margin", SERIES[i % len(SERIES)], SERIES[i % len(SERIES)], "epoch", STYLES[i // len(SERIES) % len(STYLES)], name, 0.12)
    axis.set_xlabel("epoch")
    axis.set_ylabel("reward margin (chosen - rejected)")
    axis.set_title("lines: training batches; dots: held-out pairs", fontsize=9, loc="left")
    axis.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    save(fig, out)
    write_rows(out.with_suffix(".csv"), [{"run": name, **{key: row[key] for key in ("step", "epoch", "split", "margin")}} for name, rows in runs.items() for row in rows])


def write_rows(path: Path, rows: list[dict]) -> None:
    with atomic(path) as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", help="folder of the run: out/<run>")
    parser.add_argument("--data", type=Path, help="its data folder, for the number of held-out pairs")
    parser.add_argument("--together", type=Path, nargs="+", metavar="RUN", help="draw the margins of these runs into one figure instead")
    parser.add_argument("--out", type=Path, default=Path("out/margins-together.svg"), help="where to, with --together")
    args = parser.parse_args()
    if args.together:
        names = [run.name for run in args.together]
        if len(set(names)) < len(names):
            raise UserError(f"--together: two runs have the same name: {', '.join(names)}")
        runs = {run.name: read_log(run / "adapter") for run in args.together}
        together(runs, args.out)
        print(f"the margins of {len(runs)} runs: {args.out}, with .png and .csv")
        return
    if not args.run or not args.data:
        raise UserError("name a run and its --data, or several runs with --together")
    rows = read_log(args.run / "adapter")
    end = summary(rows, read_json(args.data / "stats.json")["val"])
    if (args.run / "done").exists():
        end["seconds"] = read_json(args.run / "done")["seconds"]
    write_rows(args.run / "metrics.csv", rows)
    title = f"{args.run.name}: {end['steps']} steps"
    everything(rows, title + (f" in {end['seconds']:.0f} s" if "seconds" in end else ""), args.run / "training")
    figure(rows, title, args.run / "margins")
    write_json(args.run / "metrics.json", end)
    accuracy = "not logged" if end["held-out accuracy"] is None else "{:.3f} [{:.3f}, {:.3f}]".format(end["held-out accuracy"], *end["held-out accuracy interval"])
    print(f"held-out accuracy {accuracy} on {end['held-out pairs']} pairs, margin {end['held-out margin']:.2f}; {args.run / 'margins.svg'}, {args.run / 'training.svg'}")


if __name__ == "__main__":
    entry(main)
