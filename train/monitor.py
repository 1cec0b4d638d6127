"""Reads what the trainer logged and writes it as numbers and as a figure (the paper's Figure 3), without any tracking service.

    python -m train.monitor out/tiny

Writes `metrics.csv` (every logged step), `metrics.json` (where it ended, with intervals) and `margins.svg` and `.png`.
"""

import argparse
import csv
import json
from pathlib import Path

from datagen.files import UserError, atomic, entry, read_json, write_json
from eval.surface import wilson

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


def read_log(adapter: Path) -> list[dict]:
    """Rows (step, epoch, split, COLUMNS…) of the newest trainer_state.json below `adapter`. Raises UserError when there is none."""
    states = sorted(adapter.glob("checkpoint-*/trainer_state.json"), key=lambda path: int(path.parent.name.split("-")[1]))
    if not states:
        raise UserError(f"{adapter}: no checkpoint with a trainer_state.json; the training has not ended, or saved nothing")
    rows = []
    for entry_ in json.loads(states[-1].read_text())["log_history"]:
        prefix = "eval_" if "eval_loss" in entry_ else ""
        if f"{prefix}loss" in entry_:
            values = {column: entry_.get(prefix + name, "") for column, name in COLUMNS.items()}
            rows.append({"step": entry_["step"], "epoch": round(entry_["epoch"], 4), "split": "val" if prefix else "train", **values})
    return rows


def summary(rows: list[dict], val_rows: int) -> dict:
    """Where the run ended. The accuracy on the held-out pairs carries its Wilson interval."""
    val = [row for row in rows if row["split"] == "val"]
    train = [row for row in rows if row["split"] == "train"]
    if not val or not train:
        raise UserError("the trainer logged no validation or no training step; evals_per_epoch and logging_steps must be set")
    accuracy = float(val[-1]["accuracy"])
    return {
        "steps": train[-1]["step"],
        "held-out pairs": val_rows,
        "held-out accuracy": accuracy,
        "held-out accuracy interval": wilson(round(accuracy * val_rows), val_rows),
        "held-out margin": float(val[-1]["margin"]),
        "held-out loss": float(val[-1]["loss"]),
        "first train margin": float(train[0]["margin"]),
        "last train margin": float(train[-1]["margin"]),
    }


def figure(rows: list[dict], title: str, out: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    plt.rcParams.update({"font.size": 9, "svg.hashsalt": "margins", "axes.spines.top": False, "axes.spines.right": False})
    panels = [("margin", "reward margin (chosen - rejected)"), ("accuracy", "pairs ranked rightly"), ("loss", "DPO loss")]
    fig, axes = plt.subplots(1, 3, figsize=(10, 3), layout="constrained")
    for axis, (column, label) in zip(axes, panels, strict=True):
        for split, style in (
            ("train", dict(color="#0072B2", lw=1.3, label="training batches")),
            ("val", dict(color="#D55E00", marker="o", ms=4, lw=1.3, label="held-out pairs")),
        ):
            points = [(row["step"], float(row[column])) for row in rows if row["split"] == split]
            axis.plot(*zip(*points, strict=True), **style)
        axis.set_title(label, fontsize=9, loc="left")
        axis.set_xlabel("step")
        axis.grid(alpha=0.25, lw=0.5)
    axes[1].set_ylim(-0.03, 1.05)
    axes[0].legend(frameon=False, fontsize=8)
    fig.suptitle(title, fontsize=10, x=0.01, ha="left")
    for suffix in ("svg", "png"):
        with atomic(out.with_suffix(f".{suffix}"), "wb") as file:
            fig.savefig(file, format=suffix, dpi=150, metadata={"Date": None} if suffix == "svg" else None)
    plt.close(fig)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the run: out/<run>")
    parser.add_argument("--data", type=Path, required=True, help="its data folder, for the number of held-out pairs")
    args = parser.parse_args()
    rows = read_log(args.run / "adapter")
    end = summary(rows, read_json(args.data / "stats.json")["val"])
    with atomic(args.run / "metrics.csv") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    figure(rows, f"{args.run.name}: {end['steps']} steps", args.run / "margins")
    write_json(args.run / "metrics.json", end)
    low, high = end["held-out accuracy interval"]
    accuracy, margin = f"{end['held-out accuracy']:.3f} [{low:.3f}, {high:.3f}]", f"{end['held-out margin']:.2f}"
    print(f"held-out accuracy {accuracy} on {end['held-out pairs']} pairs, margin {margin}; {args.run / 'margins.svg'}")


if __name__ == "__main__":
    entry(main)
