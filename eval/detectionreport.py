"""The report of a detection study: every table and figure, as HTML, Markdown and JSON, from the statistics of `eval.detection`.

    python -m eval.detectionreport out/detect/NAME        # report.json, report.md, report.html and figures beside the answers; `make detect-report`

Where participants were simulated (`study.lock.json`), every title says so.
"""

import argparse
from pathlib import Path

import numpy as np

from datagen.files import entry, read_text, templates, write_json, write_text
from eval.compare import embedded
from eval.detection import CONFIDENCE, OUTCOMES, statistics
from eval.detectstore import joined
from eval.mixed import ADJUSTMENTS
from eval.studyreport import FEW, chance, number, of, plain, shown
from train.monitor import BLUE, GREEN, ORANGE, VERMILLION, canvas, save

PAPER_TABLES = 3  # the first effects are those of the paper's Table 10
COLOURS = {"detected": BLUE, "fooled": VERMILLION, "unsure": "#999999"}


def spread(found: dict | None) -> str:
    """Mean (standard deviation), number: as the paper prints them."""
    return "–" if found is None else f"{found['mean']:.2f}" + (f" ({found['sd']:.2f})" if found["sd"] is not None else "") + f", {found['n']}"


def fit_of(one: dict) -> str:
    """What is said of a mixed model's fit."""
    p = chance(one["p"]) if one["p"] < 1e-3 else f"= {chance(one['p'])}"
    sds = ", ".join(f"{factor} {sd:.2f}" for factor, sd in one["sds"].items()) + (f", rest {one['residual']:.2f}" if one["residual"] else "")
    test = f"chi2({one['df']}) = {one['chi2']:.2f} (F = {one['chi2'] / one['df']:.2f}), p {p}"
    best = "lowest" if one["best"] == "low" else "highest"
    return f"~ {one['formula']}, {one['n']} answers. Wald test of the model: {test}. A: {best}. Standard deviations: {sds}."


def tables(found: dict) -> list[dict]:
    """All tables as text, each {title, head, rows, notes}; `head` columns that end in an asterisk hold numbers."""
    models, whose, made = found["models"], found["whose"], []

    def table(title: str, head: list[str], rows: list[list], *notes: str) -> None:
        if rows:
            made.append({"title": f"{title} ({whose})", "head": head, "rows": [[str(cell) for cell in row] for row in rows], "notes": [note for note in notes if note]})

    letters = next((one["letters"] for one in found["effects"][:1] if one["note"] is None), None)
    few = found["participants"] < FEW or found["persons"] < FEW
    alike = [model for model, one in models.items() if one["undetected"]["alike"]]
    table(
        "How often the simulated dialogue was not detected",
        ["model", "undetected*", "letters*", "named the natural one*", "not sure*", "answers*", "participants*", "design effect*"],
        [
            [
                model,
                of(one["undetected"]),
                letters["none"].get(model, "–") if letters else "–",
                of(one["fooled"]),
                of(one["unsure"]),
                one["n"],
                one["undetected"]["participants"],
                number(one["undetected"]["design effect"]),
            ]
            for model, one in [*models.items(), *([("all", found["all"])] if len(models) > 1 else [])]
        ],
        "Not sure counts as undetected, as in the paper, so guessing gives more than 50 %: see the next table. Intervals count answers of one participant, and on "
        "dialogues of one person, together (clustered, logit scale, Student's t). Letters: A is detected least; models that share one do not differ at 5 %, "
        "without correction for their number, by the mixed model below.",
        f"Fewer than {FEW} participants or persons: the intervals are a rough guide." if few else "",
        f"All participants alike: {', '.join(alike)}. There the interval is Wilson's with participants in the place of answers." if alike else "",
    )
    verdict = {True: "yes", False: "no", None: "–"}
    table(
        "Without the unsure",
        [
            "model",
            "spotted of decided answers*",
            "decided*",
            "p, of guessing*",
            f"within {100 * found['margin']:g} points of guessing",
            "undetected by guessing*",
            "unsure as one half*",
        ],
        [
            [
                model,
                of(one["spotted of decided"]),
                *(([d["n"], chance(d["p"])]) if d else ["0", "–"]),
                verdict[one["equivalent"]],
                f"{100 * one['guessing']:.1f} %",
                of(one["unsure as half"]),
            ]
            for model, one in models.items()
            for d in [one["spotted of decided"]]
        ],
        "Of decided answers, guessing spots 50 %. That a share does not differ from 50 % significantly says little; that its whole interval lies within the margin, "
        "which was fixed before the study, says that people do no better than guessing by more than that.",
    )
    table(
        "Beside the paper's Table 3",
        ["model", "the paper's, if answers were independent*", "answers*", "the paper's letters"],
        [[row["model"], shown(row["undetected"][0], row["undetected"][1:]), row["n"], row["letters"]] for row in found["paper"]],
        "20 participants, 200 pairs for each inquirer; intervals are Wilson's, since the single answers are not published, and too narrow as far as people differ.",
    )
    for one in found["effects"]:
        title = f"{one['name'].capitalize()}: model {'and its letters' if one['note'] is None else ''}".strip()
        if one["note"]:
            table(title, ["formula", "why there is no fit", "answers*"], [[f"~ {one['formula']}", one["note"], one["n"]]])
            continue
        scale = "logit" if one["kind"] == "logistic" else "estimate"
        table(
            title,
            ["model", f"{scale}, 95 % interval*", *(f"letters, {how}" for how in ADJUSTMENTS)],
            [[model, plain(values), *(one["letters"][how][model] for how in ADJUSTMENTS)] for model, values in zip(one["models"], one["estimates"], strict=True)],
            fit_of(one),
            f"No variance was found for {', '.join(one['singular'])}: the fit is one without it." if one["singular"] else "",
        )
    table(
        "Contrasts of models",
        ["outcome", "models", "difference, 95 % interval*", "z*", *(f"p, {how}*" for how in ADJUSTMENTS)],
        [
            [
                one["name"],
                f"{row['first']} less {row['second']}",
                plain([row["value"], *row["interval"]]),
                f"{row['z']:+.2f}",
                *(chance(row["p"][how]) for how in ADJUSTMENTS),
            ]
            for one in found["effects"]
            if one["note"] is None
            for row in one["contrasts"]
        ],
        "Differences of logits, or in the units of the outcome; intervals are not corrected for their number. The paper states no correction, and its letters need none; "
        "in its design at least one of six contrasts without correction is a false alarm in about a quarter of studies (benchmarks/detection.py).",
    )
    parts = [("all", "total"), ("detected", "detected"), ("undetected", "undetected")]
    table(
        "Confidence, time and utterances, as the paper's Table 3",
        ["model", "answers", *(f"{name}*" for name in CONFIDENCE.values()), "seconds, mean (sd), n*", "utterance number, mean (sd), n*"],
        [
            [
                model,
                name,
                *(f"{part['confidence'][level]} of {part['n']}" for level in CONFIDENCE),
                spread(part["seconds"]),
                spread(part["utterance"]) if key != "undetected" else "–",
            ]
            for model, one in models.items()
            for name, key in parts
            for part in [one["table 3"][key]]
        ],
        "These describe, and carry no interval: the mixed models above do. Utterance numbers count both sides, from 1, of detected pairs whose utterance lies in the "
        f"simulated dialogue; in {found['elsewhere']} detected pairs people pointed into the natural one.",
    )
    s, agreement, checks = found["sides"], found["agreement"], found["attention"]
    table(
        "Sides, agreement and attention",
        ["measure", "value*", "answers*"],
        [
            ["the left dialogue was named, of decided answers", of(s["left"]), s["left"]["n"] if s["left"] else 0],
            ["the simulated dialogue stood left", of(s["simulated left"]), s["simulated left"]["n"]],
            *([["two participants agree on a pair", plain([100 * x for x in agreement["raw"]], ".1f") + " %", agreement["votes"]]] if agreement["raw"] else []),
            *([["Krippendorff's alpha, blind labels", plain(agreement["alpha blind"], ".2f"), agreement["votes"]]] if agreement["alpha blind"] else []),
            *([["attention checks judged rightly", of(checks["gold"]), checks["gold"]["n"]]] if checks["gold"] else []),
        ],
        "" if agreement["raw"] else "Each pair was judged once, so agreement cannot be measured; votes_per_item in the design is how often.",
    )
    table(
        "Without careless participants",
        ["model", "undetected, everybody*", "without careless*", "answers left*"],
        [[model, of(models[model]["undetected"]), of(one["undetected"]), one["n"]] for model, one in checks["without"].items()],
        f"{len(checks['careless'])} of {found['participants']} participants; rule, fixed before data: {checks['rule']['gold_failed'] or 'no'} failed checks or more, "
        f"or a median time below {checks['rule']['median_seconds']:g} s by the browser's clock.",
    )
    return made


def figures(found: dict, folder: Path) -> dict[str, str]:
    """Writes undetected, outcomes and effects as .svg and .png; returns what each shows."""
    whose, models = found["whose"], found["models"]
    letters = next((one["letters"]["none"] for one in found["effects"][:1] if one["note"] is None), {})
    rows = [(f"{row['model']} (the paper)", row["undetected"][0], row["undetected"][1:], row["letters"], ORANGE) for row in reversed(found["paper"])]
    rows += [(model, one["undetected"]["value"], one["undetected"]["interval"], letters.get(model, ""), BLUE) for model, one in reversed(models.items())]
    fig, axes = canvas(1, 1, (7, 1.3 + 0.36 * len(rows)))
    axis = axes[0, 0]
    for y, (_, value, interval, letter, colour) in enumerate(rows):
        axis.plot([100 * x for x in interval], [y, y], color=colour, lw=2, solid_capstyle="butt")
        axis.plot([100 * value], [y], "o", color=colour, ms=6)
        axis.annotate(letter, (100 * interval[1], y), xytext=(6, 0), textcoords="offset points", va="center", fontsize=9)
    axis.set_yticks(range(len(rows)), [row[0] for row in rows])
    axis.set_xlim(0, 100)
    axis.set_ylim(-0.7, len(rows) - 0.3)
    axis.set_xlabel("undetected, %, 95 % intervals (paper: Wilson's)\nmodels that share a letter do not differ at 5 %, uncorrected")
    axis.set_title(f"{found['study']}: simulated dialogues that were not detected ({whose})", loc="left", fontsize=10)
    save(fig, folder / "undetected")

    fig, axes = canvas(1, 1, (7, 1.4 + 0.5 * len(models)))
    axis = axes[0, 0]
    for y, (_, one) in enumerate(reversed(models.items())):
        left = 0.0
        for outcome in OUTCOMES:
            for level, alpha in zip(reversed(CONFIDENCE), (1.0, 0.65, 0.35), strict=True):
                width = 100 * one["table 3"][outcome]["confidence"][level] / one["n"]
                axis.barh(y, width, 0.7, left, color=COLOURS[outcome], alpha=alpha, lw=0)
                left += width
    axis.set_yticks(range(len(models)), list(reversed(models)))
    axis.set_xlim(0, 100)
    axis.set_xlabel("answers, %: blue named the simulated dialogue, red the natural one, grey not sure;\nthe stronger the colour, the more confident")
    axis.set_title(f"{found['study']}: outcomes and confidence ({whose})", loc="left", fontsize=10)
    save(fig, folder / "outcomes")

    fitted = [one for one in found["effects"][:PAPER_TABLES] if one["note"] is None]
    made = {
        "undetected": f"Share of simulated dialogues that were not detected, with intervals and letters, beside the paper's ({whose})",
        "outcomes": f"Outcomes of each model by confidence ({whose})",
    }
    if fitted:
        fig, axes = canvas(1, len(fitted), (3.2 * len(fitted) + 0.8, 1.4 + 0.4 * len(models)))
        for axis, one in zip(axes.flat, fitted, strict=True):
            for y, (model, (value, low, high)) in enumerate(zip(one["models"], one["estimates"], strict=True)):
                axis.plot([low, high], [y, y], color=GREEN, lw=2)
                axis.plot([value], [y], "o", color=GREEN, ms=5)
                axis.annotate(one["letters"]["none"][model], (high, y), xytext=(5, 0), textcoords="offset points", va="center", fontsize=9)
            axis.set_yticks(range(len(one["models"])), one["models"])
            axis.set_ylim(-0.6, len(one["models"]) - 0.4)
            span = np.ptp([x for values in one["estimates"] for x in values])
            axis.set_xlim(min(low for _, low, _ in one["estimates"]) - 0.05 * span, max(high for *_, high in one["estimates"]) + 0.2 * span)
            axis.set_xlabel("logit" if one["kind"] == "logistic" else "estimate")
            axis.set_title(one["name"], loc="left", fontsize=9)
        save(fig, folder / "effects")
        made["effects"] = f"Estimates of the mixed models for detection, utterance and duration, 95 % intervals and letters ({whose})"
    return made


def write(folder: Path) -> dict:
    """Computes and writes the report of a study."""
    rows, lock = joined(folder)
    whose = "simulated participants" if lock["simulated"] else "people's answers"
    facts = {"study": lock["study"], "folder": str(folder), "simulated": lock["simulated"], "whose": whose, "left out": lock["left out"]}
    found = facts | statistics(rows, lock["settings"]["margin"], lock["settings"]["careless"])
    for one in [*found["models"].values(), found["all"]]:
        one["undetected"]["participants"] = one["undetected"]["raters"]
    figure = figures(found, folder)
    values, here = {"found": found, "tables": tables(found)}, Path(__file__).parent
    write_text(
        folder / "report.md",
        templates(here, False).get_template("detection_report.md.j2").render(**values, figures=[(f"{name}.svg", alt) for name, alt in figure.items()]),
    )
    pictures = [(embedded(read_text(folder / f"{name}.svg", "a figure")), alt) for name, alt in figure.items()]
    write_text(folder / "report.html", templates(here, True).get_template("detection_report.html.j2").render(**values, figures=pictures))
    write_json(folder / "report.json", found)
    print(f"{found['study']} ({whose}): {found['answers']:,} answers of {found['participants']} participants on dialogues of {found['persons']} persons")
    for model, one in found["models"].items():
        print(f"{model}: undetected {of(one['undetected'])}, {one['n']} answers; spotted of decided {of(one['spotted of decided'])}")
    print(f"{folder / 'report.html'}, .md and .json")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="out/detect/NAME")
    write(parser.parse_args().folder)


if __name__ == "__main__":
    entry(main)
