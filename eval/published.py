"""The paper's Tables 6 and 7 as data, recomputed from their own rows: which of its sums hold, and what is known of the runs behind them.

    python -m eval.published        # both tables as printed and as recomputed, every sum that does not hold, and the notes

The paper (arXiv 2501.05032, section 5.2) cuts its scores off after two decimals. So a printed average may lie up to 0.01 from the mean of the
printed scores, and a printed difference, of two such numbers, up to 0.02; only what lies further off is called a fault. `eval.compare` prints
these tables beside ours.
"""

import argparse
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from datagen.config import read_yaml
from datagen.files import UserError, entry
from datagen.prices import checked

PATH = Path(__file__).with_name("published.yaml")
AVERAGE, WITHOUT = "Average", "Average without IFEval"
OFF = {"score": Decimal("0.01"), "difference": Decimal("0.02")}  # a printed number holds while it lies less than this from the recomputed one
Scores = Annotated[list[float], Field(min_length=6, max_length=6)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Place(Strict):
    line: int
    base: str
    tuned: str


class Row(Strict):
    average: float
    scores: Scores


class Changes(Strict):
    line: int
    including: float = Field(alias="including IFEval")
    without: float = Field(alias="without IFEval")


class Official(Row):
    model: str
    without: float = Field(alias="without IFEval")


class Pair(Strict):
    base: Official
    tuned: Official


class Base(Strict):
    table6: Place = Field(alias="table 6")
    table7: Changes = Field(alias="table 7")
    base: Row
    tuned: Row
    difference: Row
    official: Pair
    identical: int = Field(alias="identical prompts")
    notes: list[str]


class Facts(Strict):
    source: str
    columns: Annotated[list[str], Field(min_length=6, max_length=6)]
    tasks: int
    notes: list[str]
    bases: dict[str, Base]


class Fault(NamedTuple):
    base: str  # name in axolotl/
    place: str
    printed: Decimal
    recomputed: Decimal

    def __str__(self) -> str:
        return f"{self.place}: printed {self.printed}, its own six scores give {self.recomputed.normalize():f}"


@cache
def facts(path: Path = PATH) -> Facts:
    """The whole file. Raises UserError that names every fault of its form."""
    known = checked(Facts, read_yaml(path, "the paper's tables"), path)
    if known.columns[0] != "IFEval":
        raise UserError(f"{path}: the first of the columns has to be IFEval, which Table 7 leaves out; got {known.columns[0]}")
    return known


def exact(values: list[float]) -> list[Decimal]:
    return [Decimal(f"{value:.2f}") for value in values]


def means(scores: list[Decimal]) -> tuple[Decimal, Decimal]:
    """(mean of the six, mean without IFEval), to four decimals: sums of hundredths over 6 or 5."""
    return tuple(round(sum(part) / len(part), 4) for part in (scores, scores[1:]))


def faults(path: Path = PATH) -> list[Fault]:
    """Every printed average or difference that its own row of six scores does not give, in the order of the tables."""
    found = []
    for name, base in facts(path).bases.items():
        rows = {who: exact(getattr(base, who).scores) for who in ("base", "tuned")}
        changes = [t - b for b, t in zip(rows["base"], rows["tuned"], strict=True)]
        at6, at7 = f"Table 6 (line {base.table6.line})", f"Table 7 (line {base.table7.line}), {base.table6.tuned}"
        claims = [(f"{at6}, {getattr(base.table6, who)}, {AVERAGE}", getattr(base, who).average, means(rows[who])[0], "score") for who in ("base", "tuned")]
        for column, printed, change in zip(facts(path).columns, base.difference.scores, changes, strict=True):
            claims.append((f"{at6}, {base.table6.tuned}, difference in {column}", printed, change, "difference"))
        claims.append((f"{at6}, {base.table6.tuned}, difference in {AVERAGE}", base.difference.average, means(changes)[0], "difference"))
        claims += [(f"{at7}, {what}", printed, change, "difference") for what, printed, change in (
            ("including IFEval", base.table7.including, means(changes)[0]),
            ("without IFEval", base.table7.without, means(changes)[1]),
        )]  # fmt: skip
        found += [Fault(name, place, *exact([printed]), value) for place, printed, value, kind in claims if abs(exact([printed])[0] - value) >= OFF[kind]]
    return found


def published(base: str, path: Path = PATH) -> dict | None:
    """What the paper printed for a base of axolotl/, None for one that it did not have.

    `base`, `tuned`, `difference`: score by column name, 0 to 100, as printed (Average without IFEval only as a difference, from Table 7);
    `recomputed`: both averages of each, from those scores; `official`: the same columns from the leaderboard's raw run files; `models`; `notes`:
    sentences that belong beside the numbers, sums that do not hold among them; `source`.
    """
    known = facts(path)
    if base not in known.bases:
        return None
    one = known.bases[base]
    columns = known.columns

    def named(scores: list[float], average: float, **more: float) -> dict[str, float]:
        return dict(zip(columns, scores, strict=True)) | {AVERAGE: average} | more

    recomputed = {who: dict(zip((AVERAGE, WITHOUT), map(float, means(exact(getattr(one, who).scores))), strict=True)) for who in ("base", "tuned")}
    recomputed["difference"] = {key: round(recomputed["tuned"][key] - recomputed["base"][key], 4) for key in (AVERAGE, WITHOUT)}
    official = {who: named(row.scores, row.average, **{WITHOUT: row.without}) for who, row in (("base", one.official.base), ("tuned", one.official.tuned))}
    official["difference"] = {key: round(official["tuned"][key] - official["base"][key], 2) for key in official["base"]}
    return {
        "source": known.source,
        "models": {"base": one.table6.base, "tuned": one.table6.tuned},
        "base": named(one.base.scores, one.base.average),
        "tuned": named(one.tuned.scores, one.tuned.average),
        "difference": named(one.difference.scores, one.difference.average, **{WITHOUT: one.table7.without}),
        "recomputed": recomputed,
        "official": official,
        "notes": [
            *(f"A sum of the paper that does not hold. {fault}." for fault in faults(path) if fault.base == base),
            *elsewhere(one, columns),
            f"In the official runs that we found, {one.identical} of {known.tasks} tasks had the same prompts for base and tuned model (task hashes).",
            *one.notes,
            *known.notes,
        ],
    }


def elsewhere(one: Base, columns: list[str]) -> list[str]:
    """One sentence for each row whose scores the official run files that we found do not give (to 0.01: the paper cuts off)."""
    lines = []
    for who in ("base", "tuned"):
        run = getattr(one.official, who)
        pairs = list(zip(columns, exact(getattr(one, who).scores), exact(run.scores), strict=True))
        if differ := [f"{column} {theirs} (printed {ours})" for column, ours, theirs in pairs if abs(ours - theirs) > OFF["score"]]:
            lines.append(f"The official run of {run.model} that we found gives other scores: {', '.join(differ)}. There may be several runs of one model.")
    return lines


def table(base: str, path: Path = PATH) -> list[str]:
    """Lines for the terminal: the three rows of Table 6 as printed, with both averages as recomputed."""
    theirs, columns = published(base, path), facts(path).columns
    lines = [f"{base:33}" + "".join(f"{name:>11}" for name in [*columns, AVERAGE, "recomputed", "w/o IFEval"])]
    for who in ("base", "tuned", "difference"):
        sign = "+" if who == "difference" else ""
        name = theirs["models"].get(who, "difference")
        again = theirs["recomputed"][who]
        lines.append(
            f"{name:33}" + "".join(f"{theirs[who][key]:{sign}11.2f}" for key in [*columns, AVERAGE]) + f"{again[AVERAGE]:{sign}11.3f}{again[WITHOUT]:{sign}11.3f}"
        )
    return lines


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    known = facts()
    print(f"Tables 6 and 7 of {known.source}, and their averages recomputed ({PATH.relative_to(Path.cwd()) if PATH.is_relative_to(Path.cwd()) else PATH})\n")
    for name in known.bases:
        print("\n".join(table(name)), end="\n\n")
    wrong = faults()
    print(f"{len(wrong)} sums do not hold (averages to {OFF['score']}, differences to {OFF['difference']}: the paper cuts off after two decimals):")
    for fault in wrong:
        print(f"  {fault}")
    for name in known.bases:
        print(f"\n{name}")
        for note in published(name)["notes"]:
            print(f"  {note}")


if __name__ == "__main__":
    entry(main)
