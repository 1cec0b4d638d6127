"""The report of a voting study: every table and figure, as HTML, Markdown and JSON, from the statistics of `eval.study`.

    python -m eval.studyreport out/votes/NAME        # report.json, report.md, report.html and figures beside the votes; `make vote-report`

Where raters were simulated (`study.lock.json`), every title says so, and `out/<run>/votes.jsonl`, which `make judge` takes for people's votes, is not written.
"""

import argparse
from pathlib import Path

from datagen.files import entry, read_text, templates, write_json, write_jsonl, write_text
from eval.compare import embedded
from eval.study import DESIGN_EFFECTS, NEAR, PAPER_VOTES, RESAMPLES, by_pair, joined, result
from eval.surface import show
from train.monitor import BLUE, GREEN, ORANGE, VERMILLION, canvas, save

FEW = 10  # raters: with fewer, intervals are only a rough guide, and the report says so
FIVE = ("tuned, clearly", "tuned, rather", "no difference", "base, rather", "base, clearly")
CHECKS = {"gold": "Gold pairs judged rightly", "repeats": "Repeated pairs, sides swapped, judged the same"}


# ---------------------------------------------------------------- tables


def shown(value: float, interval: list[float] | None) -> str:
    return show((value, *interval), True) if interval else f"{100 * value:.1f} %"


def shares(values: list[float] | None) -> str:
    return show(values, True) if values else "–"


def plain(values: list[float] | None, form: str = "+.2f") -> str:
    return f"{values[0]:{form}} [{values[1]:{form}}, {values[2]:{form}}]" if values else "–"


def of(found: dict | None) -> str:
    return shown(found["value"], found["interval"]) if found else "–"


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def chance(p: float | None) -> str:
    return "–" if p is None else f"{p:.3f}" if p >= 0.001 else f"{p:.0e}" if p > 1e-300 else "< 1e-300"


def tables(found: dict) -> list[dict]:
    """All tables as text, each {title, head, rows, notes}; `head` columns that end in an asterisk hold numbers."""
    pairs, whose = found["pairs"], found["whose"]
    made = []

    def table(title: str, head: list[str], rows: list[list], *notes: str) -> None:
        if rows:
            made.append({"title": f"{title} ({whose})", "head": head, "rows": [[str(cell) for cell in row] for row in rows], "notes": [note for note in notes if note]})

    few = [name for name, pair in pairs.items() if pair["selection"]["raters"] < FEW]
    alike = [name for name, pair in pairs.items() if pair["selection"]["alike"]]
    table(
        "How often the tuned model was chosen",
        ["pair", "chosen, 95 % interval*", "votes*", "raters*", "questions*", "ties*", "design effect*", "p*", "p, Holm*"],
        [
            [name, of(s), s["n"], s["raters"], s["questions"], of(s["ties share"]), number(s["design effect"]), chance(s["p"]), chance(s["p holm"])]
            for name, s in ((name, pair["selection"]) for name, pair in pairs.items())
        ],
        "A tie is half a vote for each. The interval counts votes of one rater and votes on one question together (clustered, logit scale, Student's t); design effect: "
        "how many times the variance of as many independent votes, below 1 only by chance. p: two-sided, of no preference; Holm: for the number of pairs.",
        f"Fewer than {FEW} raters: {', '.join(few)}. Such intervals are a rough guide." if few else "",
        f"All raters alike: {', '.join(alike)}. There the interval is Wilson's with raters in the place of votes." if alike else "",
    )
    table(
        "The same by other methods",
        ["pair", "by rater alone, t(G - 1)*", "Wilson, if votes were independent*", "exact binomial, if independent, without ties*", "exact p*"],
        [
            [name, shown(s["value"], s["by rater alone"]) if s["by rater alone"] else "–", shown(s["value"], s["wilson"]), shares(s["exact"]), chance(s["exact p"])]
            for name, s in ((name, pair["selection"]) for name, pair in pairs.items())
        ],
        "Wilson's and the exact interval are too narrow as far as raters differ from each other: see the design effect.",
    )
    ours = {name.partition("+")[0].partition("@")[0]: name for name in reversed(pairs)}
    table(
        "Beside the paper's Table 5",
        ["model", "the paper's*", "if design effect 1.5*", "if design effect 3.5*", f"here ({whose})*"],
        [
            [
                row["run"],
                *(shown(row["value"], row["wilson"][str(effect)]) for effect in DESIGN_EFFECTS),
                of(pairs[ours[row["run"]]]["selection"]) if row["run"] in ours else "not voted on",
            ]
            for row in found["paper"]
        ],
        f"The paper gives 2,000 votes over three pairs on 500 questions, and neither votes per pair nor raters: {PAPER_VOTES} votes a pair is an assumption (an equal "
        "split), and the intervals are Wilson's on that number divided by the design effect. 1.5 and 3.5 are assumptions too: 100 raters of equal activity, and a few "
        "who cast most votes.",
    )
    table(
        "Mixed model: raters and questions as random intercepts",
        ["pair", "model", "typical rater and question*", "over all*", "less the raw share, points*", "sd of raters*", "sd of questions*", "votes*"],
        [
            [
                name,
                m["model"],
                shares(m["typical"]),
                shares(m["over all"]),
                f"{100 * m['changes']:+.1f}",
                *(number(m["sds"].get(k)) for k in ("rater", "question")),
                m["n"],
            ]
            if m["typical"]
            else [name, m["model"], m["note"], "–", "–", "–", "–", m["n"]]
            for name, m in ((name, pair["mixed"]) for name, pair in pairs.items())
        ],
        *dict.fromkeys(pair["mixed"]["note"] for pair in pairs.values() if pair["mixed"]["typical"] and pair["mixed"]["note"]),
        "Laplace approximation (eval/glmm.py), Wald intervals; sds on the logit scale. Over all: the typical logit averaged over raters and questions, the quantity "
        "that the raw share estimates. Every other effect in this report is over all raters and questions too: on the logit scale it lies nearer to 0 than a typical "
        "rater's, the more so the more raters and questions differ.",
    )
    scaled = {name: pair["five"] for name, pair in pairs.items() if pair["five"]}
    table(
        "Five points",
        ["pair", "mean, -2 to 2*", "p*", *(f"{what}*" for what in FIVE), "location, logit*", "of a typical rater and question*", "of the side alone, logit*", "votes*"],
        [
            [
                name,
                plain([f["mean"]["value"], *f["mean"]["interval"]]),
                chance(f["mean"]["p"]),
                *(f"{100 * n / f['n']:.1f} %" for n in f["counts"].values()),
                *(plain(f[k]) for k in ("location", "typical", "dichotomised")),
                f["n"],
            ]
            for name, f in scaled.items()
        ],
        "Mean: clustered by rater and question; 0: no preference. Location: of a cumulative logit model with cuts that mirror each other, so that 0 is no preference "
        "too; over all raters and questions (clustered), and of a typical rater on a typical question (random intercepts, Laplace approximation, Wald "
        "interval), which is further from 0. Of the side alone: the logit of the share in the first table, for comparison. The shares of points describe the votes "
        "and carry no interval.",
        *(f"{name}: {f['note']}." for name, f in scaled.items() if f["note"]),
    )
    everywhere = {"all pairs": found["sides"]} if len(pairs) > 1 else {}
    table(
        "Sides",
        ["pair", "left was chosen*", "votes that are no tie*", "tuned shown left*", "effect of standing left, logit*", "chosen with sides equal*"],
        [
            [name, of(s["left"]), s["left"]["n"] if s["left"] else 0, of(s["tuned shown left"]), plain(s["effect"]), shares(s["level"])]
            for name, s in ({name: pair["sides"] for name, pair in pairs.items()} | everywhere).items()
        ],
        "On phones, left is above. 50 %: no bias. The effect is of the tuned answer standing left instead of right.",
    )
    table(
        "What is left at equal style",
        [
            "pair",
            "chosen*",
            "chosen at equal style*",
            "explained by style, logit*",
            "part of the logit left*",
            f"votes within {NEAR:g} of equal on all*",
            "chosen among these*",
        ],
        [
            [
                name,
                shares(s["raw"]["share"]),
                shares(s["controlled"]["share"]),
                plain(s["difference"]),
                plain(s["left"], ".2f"),
                f"{s['near zero on all']} of {s['n']}",
                of(s["share there"]),
            ]
            for name, s in ((name, pair["style"]) for name, pair in pairs.items())
        ],
        "logit P(tuned wins) on uncentred style differences, tuned less base, as (t - o) / (t + o), counted before emoji were removed; at equal style all are 0. "
        "A weak prior (standard deviation 5) keeps it finite. Where few pairs of answers are of equal style, it is extrapolated.",
        *(f"{name}: {note}." for name, pair in pairs.items() for note in pair["style"]["notes"]),
    )
    table(
        "Style differences and their effects",
        ["pair", "measure", "mean difference*", "tuned has more*", "equal*", "tuned has fewer*", f"within {NEAR:g} of equal*", "effect, logit*"],
        [
            [name, row["measure"], f"{row['mean']:+.2f}", *(f"{100 * row[k] / row['n']:.0f} %" for k in ("more", "equal", "fewer", "near")), plain(row["effect"])]
            for name, pair in pairs.items()
            for row in pair["style"]["measures"]
        ],
        "Shares of votes, not of questions; these describe the answers that were shown and carry no interval.",
    )
    ranked = found["ranking"]
    bound = lambda x: "unbounded" if x is None else f"{x:+.2f}"  # noqa: E731
    controlled = ranked["controlled"] or {}
    table(
        "Bradley-Terry strengths",
        ["model", "strength, logit*", "at equal style*", "votes*"],
        [
            [row["model"], f"{row['strength']:+.2f} [{bound(row['interval'][0])}, {bound(row['interval'][1])}]", plain(controlled.get(row["model"])), row["n"]]
            for row in ranked["models"] or []
        ]
        or [["–", ranked["note"], "–", "–"]],
        f"Mean 0; ties half; intervals by resampling raters, {RESAMPLES:,} times. With two models it repeats the first table on another scale."
        if ranked["models"]
        else "",
    )
    table(
        "Agreement where several raters saw one item",
        ["pair", "alpha, blind labels*", "alpha, models as labels*", "raw agreement*", "Gwet's AC1*", "items*", "votes*"],
        [
            [name, *(plain(a[k], ".2f") for k in ("alpha blind", "alpha models")), shares(a["raw"]), plain(a["ac1"], ".2f"), a["items"], a["votes"]]
            for name, a in found["agreement"].items()
        ],
        "Krippendorff's nominal alpha; intervals by resampling items. Raters are blind, so blind labels (a or b, random for each item) measure reliability; "
        "with models as labels alpha is near 0 whenever one model nearly always wins, however well raters agree.",
    )
    checks = found["attention"]
    table(
        "Attention, and the results without careless raters",
        ["pair", "raters", "chosen*", "difference*", "chosen at equal style*", "left was chosen*", "alpha, blind labels*", "votes*", "raters*"],
        [
            row
            for name, pair in pairs.items()
            for w in [pair["without careless"]]
            for row in (
                [
                    *(name, "all", of(pair["selection"]), "", shares(pair["style"]["controlled"]["share"]), of(pair["sides"]["left"])),
                    *(plain(found["agreement"][name]["alpha blind"], ".2f"), pair["selection"]["n"], pair["selection"]["raters"]),
                ],
                [
                    *(
                        name,
                        f"without {w['left out']} careless",
                        of(w),
                        show(w["difference"], True, True) if w["left out"] else "–",
                        shares(w["equal style"]),
                        of(w["left"]),
                    ),
                    *(plain(w["alpha blind"], ".2f"), w["n"], w["raters"]),
                ]
                if w
                else [name, "without careless", *["–"] * 5, 0, 0],
            )
        ],
        f"Careless, by the rule that was frozen with the study before its first vote: {found['careless rule']}.",
        *(f"{what}: {of(checks[k])} of {checks[k]['n']}." for k, what in CHECKS.items() if checks[k]),
    )
    table(
        "Raters who failed a check",
        ["rater", "votes*", "gold failed*", "repeats changed*", "median seconds*", "left out because"],
        [
            [
                row["rater"][:8],
                row["votes"],
                f"{row['gold failed']} of {row['gold']}",
                f"{row['repeats changed']} of {row['repeats']}",
                f"{row['median seconds']:.1f}",
                row["careless"] or "kept",
            ]
            for row in checks["raters"]
            if row["careless"] or row["gold failed"] or row["repeats changed"]
        ],
    )
    table(
        "Subgroups",
        ["pair", "question", "answer", "chosen*", "votes*", "raters*"],
        [[name, row["key"], row["answer"], of(row), row["n"], row["raters"]] for name, pair in pairs.items() for row in pair["subgroups"]],
        "Raters chose to answer so; nothing is adjusted for the number of groups looked at. A difference between groups is a question for a new study.",
    )
    table(
        "Each rater left out in turn",
        ["pair", "all*", "lowest*", "highest*", "raters*", "most influential", "of their votes for tuned*", "without them*"],
        [
            [
                name,
                *(f"{100 * o[k]:.1f} %" for k in ("all", "low", "high")),
                o["raters"],
                o["most"][:8],
                f"{100 * o['own']:.1f} % of {o['votes']}",
                f"{100 * o['without']:.1f} %",
            ]
            for name, pair in pairs.items()
            for o in [pair["one rater left out"]]
            if o
        ],
        "A range over raters, no interval: the first table has that.",
    )
    table(
        "Time per vote",
        ["position in the session", "median seconds*", "votes*", "raters*"],
        [
            [row["positions"], plain([row["value"], *row["interval"]], ".1f") if row["interval"] else f"{row['value']:.1f}", row["n"], row["raters"]]
            for row in found["times"]
        ],
        "Seconds between showing and choosing, by the server's clock; intervals by resampling raters.",
    )
    return made


# ---------------------------------------------------------------- figures


def figures(found: dict, folder: Path) -> dict[str, str]:
    """Writes shares, raters and times as .svg and .png; returns what each shows."""
    whose, pairs = found["whose"], found["pairs"]
    rows = [(f"{row['run']} (the paper)", row["value"], row["wilson"]["1.0"], row["wilson"]["3.5"], ORANGE) for row in reversed(found["paper"])]
    rows += [(name, pair["selection"]["value"], pair["selection"]["wilson"], pair["selection"]["interval"], BLUE) for name, pair in reversed(pairs.items())]
    fig, axes = canvas(1, 1, (7, 1.3 + 0.36 * len(rows)))
    axis = axes[0, 0]
    for y, (_, value, narrow, wide, colour) in enumerate(rows):
        axis.plot([100 * x for x in wide], [y, y], color=colour, lw=1.4, solid_capstyle="butt")
        axis.plot([100 * x for x in narrow], [y, y], color=colour, lw=5, alpha=0.35, solid_capstyle="butt")
        axis.plot([100 * value], [y], "o", color=colour, ms=6)
    axis.axvline(50, color="#777777", lw=0.8)
    axis.set_xlim(0, 100)
    axis.set_yticks(range(len(rows)), [row[0] for row in rows])
    axis.set_ylim(-0.7, len(rows) - 0.3)
    axis.set_xlabel("tuned model chosen, %, 95 % intervals\nthick: Wilson's, if votes were independent; thin: clustered (paper: design effect 3.5)")
    axis.set_title(f"{found['study']}: how often the tuned model was chosen ({whose})", loc="left", fontsize=10)
    save(fig, folder / "shares")

    fig, axes = canvas(1, len(pairs), (max(4.5, 3.4 * len(pairs)), 3.2))
    for axis, (name, pair) in zip(axes.flat, pairs.items(), strict=True):
        ranked = sorted(pair["shares of raters"], key=lambda row: row["value"])
        for careless, colour in ((False, BLUE), (True, VERMILLION)):
            mine = [(x, row) for x, row in enumerate(ranked, 1) if row["careless"] == careless]
            axis.scatter([x for x, _ in mine], [100 * row["value"] for _, row in mine], [3 * row["n"] for _, row in mine], color=colour, alpha=0.6, lw=0)
        axis.axhline(100 * pair["selection"]["value"], color="#777777", lw=0.8)
        axis.set_ylim(-4, 104)
        axis.set_title(name, loc="left", fontsize=9)
        axis.set_xlabel("raters in order; area: votes")
    axes[0, 0].set_ylabel("tuned model chosen, %")
    axes[0, 0].set_title(f"{next(iter(pairs))}; orange-red: careless" if found["attention"]["careless"] else next(iter(pairs)), loc="left", fontsize=9)
    fig.suptitle(f"{found['study']}: each rater ({whose})", fontsize=10, x=0.01, ha="left")
    save(fig, folder / "raters")

    bins = [row for row in found["times"] if row["positions"] != "all"]
    fig, axes = canvas(1, 1, (4.5, 3))
    axis = axes[0, 0]
    for x, row in enumerate(bins):
        if row["interval"]:
            axis.plot([x, x], row["interval"], color=GREEN, lw=2)
        axis.plot([x], [row["value"]], "o", color=GREEN, ms=6)
    axis.set_xticks(range(len(bins)), [row["positions"] for row in bins])
    axis.set_ylim(bottom=0)
    axis.set_xlabel("position in the session")
    axis.set_ylabel("median seconds per vote")
    axis.set_title(f"{found['study']}: time ({whose})", loc="left", fontsize=10)
    save(fig, folder / "times")
    return {
        "shares": f"How often the tuned model of each pair was chosen, with intervals, beside the paper's Table 5 ({whose})",
        "raters": f"Each rater's share of votes for the tuned model, in order ({whose})",
        "times": f"Median seconds per vote by position, 95 % intervals ({whose})",
    }


def votes_for_judge(folder: Path, rows: list[dict], simulated: bool) -> list[str]:
    """Writes out/<run>/votes.jsonl of each run for `make judge`; returns what is to be said of it. The folder of a study is out/votes/NAME."""
    said = []
    for run, votes in by_pair(rows).items():
        place = folder.resolve().parent.parent / run
        if simulated:
            said.append(f"{run}: no votes.jsonl for `make judge`, which would take simulated raters for people")
        elif not place.is_dir():
            said.append(f"{run}: no votes.jsonl for `make judge`: there is no folder {place}")
        else:
            names = {0.0: "base", 0.5: "tie", 1.0: "tuned"}
            write_jsonl(place / "votes.jsonl", [{"id": row["question"], "preferred": names[row["tuned_won"]]} for row in votes])
            said.append(f"{place / 'votes.jsonl'}: {len(votes)} votes, for `make judge`")
    return said


def write(folder: Path) -> dict:
    """Computes and writes the report of a study."""
    found = result(folder)
    figure = figures(found, folder)
    values = {"found": found, "tables": tables(found)}
    here = Path(__file__).parent
    markdown = templates(here, False).get_template("votes_report.md.j2")
    write_text(folder / "report.md", markdown.render(**values, figures=[(f"{name}.svg", alt) for name, alt in figure.items()]))
    page = templates(here, True).get_template("votes_report.html.j2")
    pictures = [(embedded(read_text(folder / f"{name}.svg", "a figure")), alt) for name, alt in figure.items()]
    write_text(folder / "report.html", page.render(**values, figures=pictures))
    said = votes_for_judge(folder, joined(folder), found["simulated"])
    write_json(folder / "report.json", found)
    print(f"{found['study']} ({found['whose']}): {found['votes']:,} votes of {found['raters']} raters on {found['questions']} questions")
    for name, pair in found["pairs"].items():
        s = pair["selection"]
        print(f"{name}: tuned model chosen {of(s)}, {s['n']} votes, {s['ties']} ties; at equal style {shares(pair['style']['controlled']['share'])}")
    print("\n".join(said))
    print(f"{folder / 'report.html'}, .md and .json")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="out/votes/NAME")
    write(parser.parse_args().folder)


if __name__ == "__main__":
    entry(main)
