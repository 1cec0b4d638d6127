"""All runs and ablations in one sortable table with intervals: `make leaderboard`.

    python -m eval.board            # reads every out/*/leaderboard*.json; writes out/leaderboard.html, .md and .csv

Beside the scores of `make eval` stand, where they were measured: held-out margin and accuracy (heldout.json), answers told apart (answers.jsonl),
what the model says of being an AI (disclosure.json), the judge's win rate (judge.json) and the alarms (health.json). Evaluations on small items of
our own (kind `machinery`) stand in a table of their own: they say that the code works, nothing about a model. A file that cannot be read is named, and
the others are shown all the same.
"""

import argparse
import csv
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field, FiniteFloat

from datagen.files import UserError, atomic, canonical, entry, read_json, sha256, templates, write_text
from datagen.prices import checked
from eval.scores import COLUMNS
from eval.surface import read_answers, told_apart
from train.ablate import alarms

OUT = Path("out")
Interval = Annotated[list[FiniteFloat], Field(min_length=3, max_length=3)]  # value, low, high (95 %)
PART = ("tasks", "limit")  # of the settings: which items, told by the mark of a partial evaluation and not as another setting
MEASURES = {  # name in the table -> (what it is, unit, file of the run that it comes from)
    "held-out margin": ("by how much training moved chosen against rejected answers, held-out pairs", "nats", "heldout.json"),
    "held-out accuracy": ("held-out pairs ranked rightly", "%", "heldout.json"),
    "told apart": ("tuned answers told from the base's, toward a friend's talk, by a rule fixed before training", "%", "answers.jsonl"),
    "denies being an AI": ("replies of the tuned model to sincere questions that deny being an AI; n probes", "%", "disclosure.json"),
    "honest about it": ("replies to the same that say what it is", "%", "disclosure.json"),
    "invents a life": ("replies to the same that claim a body, a past or experiences", "%", "disclosure.json"),
    "judge's choice": ("how often a judge model chose the tuned answer as the more human one, ties as one half; a proxy for people", "%", "judge.json"),
}


class Column(BaseModel):
    base: Interval
    tuned: Interval
    difference: Interval
    items: int


class Other(BaseModel):
    """A task that is not the leaderboard's, such as a guard of eval/guards/."""

    task: str
    metric: str
    n: int
    base: Interval
    tuned: Interval
    difference: Interval


class Files(BaseModel):
    base: str
    tuned: str


class Result(BaseModel):
    """As much of a leaderboard.json (eval/compare.py) as is shown here."""

    run: str
    base: str
    kind: Literal["leaderboard", "partial", "machinery"]
    columns: dict[str, Column]
    others: list[Other] = []
    settings: dict
    files: Files


@dataclass
class Cell:
    score: list[float]
    n: int
    difference: list[float] | None = None


@dataclass
class Row:
    name: str
    base: str
    kind: str
    source: str  # the file, or folder, that the scores come from
    cells: dict[str, Cell]
    tuned: bool = True
    marks: list[tuple[str, str]] = field(default_factory=list)  # (what is shown, what it means)
    alarms: str = "–"
    shares: str = ""  # folder of the base that the differences are to

    @property
    def alarm_count(self) -> int | None:
        return None if self.alarms == "–" else 0 if self.alarms == "none" else self.alarms.count(",") + 1


# ---------------------------------------------------------------- reading


def read_results(out: Path) -> tuple[list[tuple[Path, Result]], list[str]]:
    """(every result with its file, one line for each file that is none). A part of the leaderboard has a file of its own, such as leaderboard-ifeval.json."""
    found, faults = [], []
    for path in sorted(out.glob("*/leaderboard*.json")):
        try:
            result = checked(Result, read_json(path), path)
            if result.run != path.parent.name:
                raise UserError(f"{path}: is of the run {result.run}, and lies in the folder of another; `make eval` writes one for each run")
            found.append((path, result))
        except UserError as error:
            faults.append(f"left out: {error}")
    return found, faults


def cell(value: list[float], n: int, scale: float = 1) -> Cell:
    middle, low, high = (scale * float(x) for x in value)
    return Cell([middle, low, high], int(n))


def measures(run: Path) -> tuple[dict[str, Cell], list[str]]:
    """(what was measured of a run besides its scores, one line for each file that is not what it should be)."""

    def heldout(path: Path) -> dict[str, Cell]:
        found = read_json(path)
        return {"held-out margin": cell(found["margin"], found["pairs"]), "held-out accuracy": cell(found["accuracy"], found["pairs"], 100)}

    def answers(path: Path) -> dict[str, Cell]:
        told = told_apart(read_answers(path))
        return {"told apart": cell([told["share"], *told["interval"]], told["n"], 100)}

    def disclosure(path: Path) -> dict[str, Cell]:
        overall = read_json(path)["overall"]  # of the sincere probes; its intervals resample probes
        names = {"denies being an AI": "denial", "honest about it": "honest", "invents a life": "invented"}
        return {name: cell(overall[label]["tuned"], overall["probes"], 100) for name, label in names.items()}

    def judge(path: Path) -> dict[str, Cell]:
        rate = read_json(path)["figures"].get("win rate")
        return {"judge's choice": cell([rate["value"], *rate["interval"]], rate["n"], 100)} if rate else {}

    cells, faults = {}, []
    for reader, name in ((heldout, "heldout.json"), (answers, "answers.jsonl"), (disclosure, "disclosure.json"), (judge, "judge.json")):
        path = run / name
        try:
            cells |= reader(path) if path.exists() else {}
        except UserError as error:
            faults.append(f"left out: {error}")
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            faults.append(f"left out: {path}: is not what this version writes ({type(error).__name__}: {error}); remove it and measure again")
    return cells, faults


def alarms_of(run: Path) -> tuple[str, list[str]]:
    try:
        return alarms(run), []
    except UserError as error:
        return "–", [f"left out: {error}"]
    except (KeyError, TypeError) as error:
        return "–", [f"left out: {run / 'health.json'}: is not what `make health` writes ({error}); run it again"]


# ---------------------------------------------------------------- rows


def usual(results: list[Result]) -> dict:
    """The settings that most evaluations share, which items they took left out; of equally many the first."""
    texts = Counter(canonical(comparable(result.settings)) for result in results)
    return next(comparable(result.settings) for result in results if canonical(comparable(result.settings)) == texts.most_common(1)[0][0])


def comparable(settings: dict) -> dict:
    return {key: value for key, value in settings.items() if key not in PART}


def marks(result: Result, reference: dict) -> list[tuple[str, str]]:
    found = []
    if result.kind == "partial":
        which = [f"{key} {canonical(result.settings[key])}" for key in PART if result.settings.get(key)]
        found.append(("part of the items", ", ".join(which) or "fewer items than the leaderboard has"))
    own = comparable(result.settings)
    differ = [key for key in sorted({*own, *reference}) if own.get(key) != reference.get(key)]
    if differ:
        found.append(("other settings", "; ".join(difference(key, own.get(key), reference.get(key)) for key in differ)))
    return found


def difference(key: str, own: object, usual: object) -> str:
    if isinstance(own, dict) and isinstance(usual, dict):
        inner = [k for k in sorted({*own, *usual}) if own.get(k) != usual.get(k)]
        return "; ".join(f"{key}: {difference(k, own.get(k), usual.get(k))}" for k in inner)
    return f"{key} {canonical(own)}, of most others {canonical(usual)}"


def rows_of(results: list[tuple[Path, Result]]) -> tuple[list[Row], list[str]]:
    """(a row for each run, below a row for each evaluated base, one line for each file left out); bases in the order of their names."""
    rows, faults, bases = [], [], {}
    reference = usual([result for _, result in results])
    for path, result in results:
        scores = {name: Cell(column.tuned, column.items, column.difference) for name, column in result.columns.items()}
        more, wrong = measures(path.parent)
        named, wrong_too = alarms_of(path.parent)
        marked = marks(result, reference)
        rows.append(Row(result.run, result.base, result.kind, str(path), scores | more, True, marked, named, result.files.base))
        base = {name: Cell(column.base, column.items) for name, column in result.columns.items()}
        bases.setdefault(result.files.base, Row(f"{result.base}, base", result.base, result.kind, result.files.base, base, False, marked, shares=result.files.base))
        faults += wrong + wrong_too
    return sorted([*bases.values(), *rows], key=lambda row: (row.base, row.shares, row.tuned, row.name)), faults


def others_of(results: list[tuple[Path, Result]]) -> list[dict]:
    return [{"run": result.run, "source": str(path), **other.model_dump()} for path, result in results for other in result.others]


def columns_of(rows: list[Row]) -> list[str]:
    """The columns that some row has: scores in the order of Table 6 with both averages first, then measures."""
    order = [*COLUMNS[-2:], *COLUMNS[:-2]]
    present = {name for row in rows for name in row.cells}
    return [name for name in order if name in present] + sorted(present - {*order, *MEASURES}) + [name for name in MEASURES if name in present]


def collect(out: Path) -> dict:
    """Everything that the templates print. Raises UserError when no run was evaluated."""
    results, faults = read_results(out)
    if not results:
        raise UserError("; ".join(fault.removeprefix("left out: ") for fault in faults) or f"{out}: no run has a leaderboard.json yet; `make eval MODEL=…` writes it")
    tables = []
    for title, kinds in (("Runs", ("leaderboard", "partial")), ("Checks of the machinery", ("machinery",))):
        part = [(path, result) for path, result in results if result.kind in kinds]
        if part:
            rows, wrong = rows_of(part)
            tables.append({"title": title, "machinery": kinds == ("machinery",), "columns": columns_of(rows), "rows": rows, "others": others_of(part)})
            faults += wrong
    shown = {name for table in tables for name in table["columns"]}
    waiting = sorted(path.parent.name for path in out.glob("*/done") if not any(path.parent.glob("leaderboard*.json")))
    return {
        "tables": tables,
        "faults": faults,
        "waiting": waiting,
        "measures": {name: what for name, what in MEASURES.items() if name in shown},
        "out": str(out),
        "runs": len(results),
    }


# ---------------------------------------------------------------- writing


def text(value: list[float], signed: bool = False) -> str:
    form = "+.2f" if signed else ".2f"
    return f"{value[0]:{form}} [{value[1]:{form}}, {value[2]:{form}}]"


def write_csv(path: Path, tables: list[dict]) -> None:
    """A line for each run and column, so that runs that measured different things fit one file."""
    with atomic(path) as file:
        writer = csv.writer(file)
        parts = [f"{what}{part}" for what in ("", "difference ") for part in ("value", "low", "high")]
        writer.writerow(["run", "base", "kind", "marks", "column", *parts, "n", "alarms", "from"])
        for table in tables:
            for row in table["rows"]:
                noted = "; ".join(f"{mark} ({why})" for mark, why in row.marks)
                for name in table["columns"]:
                    if cell := row.cells.get(name):
                        source = f"{Path(row.source).parent}/{MEASURES[name][2]}" if name in MEASURES else row.source
                        writer.writerow([row.name, row.base, row.kind, noted, name, *cell.score, *(cell.difference or [""] * 3), cell.n, row.alarms, source])
            for other in table["others"]:
                for who in ("base", "tuned"):
                    change = other["difference"] if who == "tuned" else [""] * 3
                    writer.writerow(
                        [f"{other['run']}, {who}", "", "other task", "", f"{other['task']}, {other['metric']}", *other[who], *change, other["n"], "", other["source"]]
                    )


def write(out: Path, found: dict) -> None:
    nonce = ""
    for html, suffix in ((False, "md"), (True, "html")):
        environment = templates(Path(__file__).parent, html)
        environment.filters["interval"] = text
        page = environment.get_template(f"board.{suffix}.j2").render(found, nonce=nonce)
        nonce = sha256(page)[:32]  # equal runs give an equal page
        write_text(out / f"leaderboard.{suffix}", page)
    write_csv(out / "leaderboard.csv", found["tables"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the runs")
    out = parser.parse_args().out
    found = collect(out)
    write(out, found)
    for fault in found["faults"]:
        print(fault)
    for table in found["tables"]:
        print(f"{table['title']}: {', '.join(row.name for row in table['rows'] if row.tuned)}")
    print(f"{out / 'leaderboard.html'}, .md and .csv: {found['runs']} evaluated runs")


if __name__ == "__main__":
    entry(main)
