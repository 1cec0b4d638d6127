"""One self-contained HTML file, and the same as Markdown: data ledger, training, comparison, ten pairs of answers, provenance.

    python -m eval.report out/tiny --data data/tiny/tiny

Every number is read from a file of the run, named beside it. The page loads nothing from anywhere.
"""

import argparse
import json
import subprocess
from pathlib import Path

from datagen.config import read_yaml
from datagen.files import UserError, entry, read_json, read_text, sha256, templates, write_text
from eval import compare as leaderboard
from eval import score
from eval.surface import compare, read_answers, show, told_apart
from train.merge import tuned_revision

TOLD = ("honest", "denial", "invented")  # of eval.disclosure
SHOWN = 10  # pairs of answers side by side
HERE = Path(__file__).parent


def ledger(data: Path) -> dict | None:
    """The data set's own ledger; None for pairs that were not generated here."""
    path = data.parent / "ledger.json"
    return {"path": str(path), **read_json(path)} if path.exists() else None


def sample(answers: list[dict]) -> list[dict]:
    """Ten of the answers, in the order of the hashes of their questions: chosen by no one."""
    rows = sorted(answers, key=lambda row: sha256(json.dumps(row["messages"])))[:SHOWN]
    return [{"question": row["messages"][-1]["content"], "base": row["base"], "tuned": row["tuned"]} for row in rows]


def board(run: Path) -> dict | None:
    """The comparison that `make eval` made of these very weights; None where it made none."""
    path = run / "leaderboard.json"
    found = read_json(path) if path.exists() else {}
    return leaderboard.context(found) if found.get("tuned_weights") == tuned_revision(run) else None


def disclosure(run: Path) -> dict | None:
    """What `make disclosure` measured of these very weights; None where it did not."""
    path = run / "disclosure.json"
    found = read_json(path) if path.exists() else {}
    if not found or found["tuned_weights"] != tuned_revision(run):
        return None
    rows = [{"what": label} | {who: show(found["overall"][label][who], True, who == "difference") for who in ("base", "tuned", "difference")} for label in TOLD]
    return {"rows": rows, "probes": found["overall"]["probes"], "replies": found["overall"]["replies of each"], "file": str(path)}


def judged(run: Path) -> str | None:
    """The judge's figures in one sentence, where `make judge` judged these answers; a proxy, and called so."""
    path = run / "judge.json"
    found = read_json(path) if path.exists() else {}
    if not found or found["answers"]["answers_sha256"] != sha256((run / "answers.jsonl").read_bytes()) or "win rate" not in found["figures"]:
        return None
    rate, even = found["figures"]["win rate"], found["figures"]["length-controlled win rate"]
    shown = [show((figure["value"], *figure["interval"]), True) if figure["value"] is not None else "not defined" for figure in (rate, even)]
    return f"{found['judge']['model']} prefers the tuned answer in {shown[0]} of {rate['n']} questions, at equal length {shown[1]} ({path})"


def likeness(run: Path) -> list[dict]:
    """The tables of `make score` on these very answers: the score, the second scorer, and the ten traits that moved it most; none where it was not made."""
    path, answers = run / "answers-likeness.json", run / "answers.jsonl"
    found = read_json(path) if path.exists() else {}
    if found.get("sha256") != sha256(answers.read_bytes()) or "compared" not in found:
        return []
    tables = score.tables(found)[:-1]
    tables[-1] = tables[-1] | {
        "rows": tables[-1]["rows"][:10],
        "notes": ["The ten traits that add or take most; all of them, and those of people, in the page of the file below."],
    }
    return [table | {"title": f"Human-likeness: {table['title'][0].lower()}{table['title'][1:]}", "notes": [*table["notes"], f"From {path}."]} for table in tables]


def provenance(run: Path, data: Path, config: dict, meta: dict) -> list[tuple[str, str]]:
    done, merged = read_json(run / "done"), read_json(run / "merged" / "merge.json")
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip() or "not a git checkout"
    return [
        ("run", f"{run / 'run.yaml'}, sha256 {sha256((run / 'run.yaml').read_bytes())[:16]}"),
        ("base model", config["base_model"]),
        ("training data", f"{data / 'train.jsonl'}, sha256 {sha256((data / 'train.jsonl').read_bytes())[:16]}"),
        ("adapter", f"sha256 {sha256((run / 'adapter' / 'adapter_model.safetensors').read_bytes())[:16]}"),
        (
            "merge check",
            f"largest logit difference {merged['largest relative logit difference']:.1e} of the spread (limit {merged['limit']}), on {merged['prompts']} prompts",
        ),
        ("trained at commit", f"{done['commit'] or 'not a git checkout'}, {done['seconds']:.0f} s on {done['gpus'] or 'no'} GPU(s)"),
        ("reported at commit", commit),
        ("versions", ", ".join(f"{name} {version}" for name, version in done["versions"].items())),
        ("training seed", str(config["seed"])),
        ("answers", f"{meta['base']} against {meta['tuned']}, no system prompt, " + ", ".join(f"{k} {v}" for k, v in meta["sampling"].items())),
        ("held-out questions", f"{data / 'heldout.jsonl'}, sha256 {meta['heldout_sha256'][:16]}"),
    ]


def collect(run: Path, data: Path) -> dict:
    """Everything the templates print. Raises UserError for a missing file, naming the command that makes it."""
    answers = read_answers(run / "answers.jsonl")
    config = read_yaml(run / "run.yaml", "the run's configuration")
    meta, stats = read_json(run / "answers.meta.json"), read_json(data / "stats.json")
    if meta["heldout_sha256"] != sha256((data / "heldout.jsonl").read_bytes()):
        raise UserError(f"{run / 'answers.jsonl'} answers other questions than {data / 'heldout.jsonl'}; run `make answers` again")
    told, health = told_apart(answers), read_json(run / "health.json")
    return {
        "run": run.name,
        "folder": str(run),
        "data": str(data),
        "ledger": ledger(data),
        "stats": stats,
        "config": {
            k: config[k]
            for k in (
                "rl",
                "learning_rate",
                "num_epochs",
                "micro_batch_size",
                "gradient_accumulation_steps",
                "lora_r",
                "lora_alpha",
                "lora_dropout",
                "rl_beta",
                "optimizer",
            )
            if k in config
        },
        "metrics": read_json(run / "metrics.json"),
        "held": {k: v for k, v in read_json(run / "heldout.json").items() if k in ("pairs", "accuracy", "margin")},
        "alarms": health["alarms"],
        "checks": len(health["checks"]),
        "measures": [
            {"measure": row["measure"]} | {who: show(row[who], row["share"], who == "difference") for who in ("base", "tuned", "difference")} for row in compare(answers)
        ],
        "questions": len(answers),
        "told": {"count": told["told"], "n": told["n"], "text": show((told["share"], *told["interval"]), True)},
        "tables": likeness(run),
        "answers": sample(answers),
        "leaderboard": board(run),
        "disclosure": disclosure(run),
        "judge": judged(run),
        "provenance": provenance(run, data, config, meta),
    }


def render(context: dict, figure_svg: str) -> tuple[str, str]:
    """(HTML, Markdown). Model text is escaped in both: it is shown, never run."""
    html, markdown = templates(HERE, html=True), templates(HERE, html=False)
    html.filters["percent"] = markdown.filters["percent"] = lambda value: show(value, True)
    figures = {"margins": figure_svg} | (
        {"leaderboard": read_text(Path(context["folder"]) / "leaderboard.svg", "a figure, from `make eval`")} if context["leaderboard"] else {}
    )

    def page(environment, name: str, sources: dict[str, str]) -> str:
        found = context["leaderboard"] and context["leaderboard"] | {"figure": sources["leaderboard"]}
        return environment.get_template(name).render(context, figure=sources["margins"], board=found)

    inside = {name: leaderboard.embedded(svg) for name, svg in figures.items()}
    return page(html, "report.html.j2", inside), page(markdown, "report.md.j2", {name: f"{name}.svg" for name in figures})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the run: out/<run>")
    parser.add_argument("--data", type=Path, required=True, help="its rendered data: data/<set>/<base>")
    args = parser.parse_args()
    context = collect(args.run, args.data)
    html, markdown = render(context, read_text(args.run / "margins.svg", "the figure, from `make train`"))
    write_text(args.run / "report.md", markdown)
    write_text(args.run / "report.html", html)
    held, told = context["held"], context["told"]
    print(f"held-out pairs ranked rightly: {show(held['accuracy'], True)} of {held['pairs']}")
    print(f"tuned answers told from the base's, in the right direction: {told['count']} of {told['n']}, {told['text']}")
    print(f"{args.run / 'report.html'} and report.md")


if __name__ == "__main__":
    entry(main)
