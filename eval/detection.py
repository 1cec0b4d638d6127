"""Statistics of a detection study: how often a simulated dialogue passes for a person's, what gave it away, how long that took, and which models differ.

    python -m eval.detection out/detect/NAME        # the main table; the whole report: `make detect-report`

The study is that of LLM Roleplay (arXiv 2407.03974, section 3.4). Fixed before any data, and not fitted to them:
- *Undetected* is every answer that does not name the simulated dialogue, "not sure" included, as the paper counts (530 of its 800 pairs were spotted). Then
  50 % is not what guessing gives: with a share s of "not sure" it is (1 + s) / 2. So all three outcomes stand beside it, "not sure" is also tested as an outcome
  of its own, and *spotted of decided* leaves it out: there guessing is 50 %.
- Intervals of shares count answers of one participant together, and answers on dialogues of one person (eval.study.share): a person's goals lie within that.
- detected ~ model + (1|participant) + (1|person): logistic, Laplace (eval.glmm). Beside it with (1|participant:model), since a model that leaves that out finds a
  difference too often where participants differ in what they fall for.
- Position of the utterance that gave it away, of detected pairs whose utterance lies in the simulated dialogue: its number, as the paper takes it, and the number
  as a part of the dialogue's length, since long dialogues have later utterances. Duration: the logarithm of seconds by the server's clock; plain seconds, which a
  few long pauses decide, stand beside it. Both linear, REML (eval.mixed). Confidence, 1 to 3, is taken as a number.
- Wald tests; contrasts of all pairs of models without correction (which is what the paper's letters need), by Holm and by Tukey.

An answer is one row: participant, person, goal, model, item, kind (main, gold), position, simulated_left, choice (left, right, unsure), outcome (detected, fooled,
unsure), label (a, b, tie), confidence (1 to 3), side (simulated, natural, None) and utterance (from 1, or None) of what gave it away, utterances (of the simulated
dialogue), seconds (server), seconds_client (browser), gold_right.
"""

import argparse
from pathlib import Path

import numpy as np

from datagen.files import UserError, entry
from eval import glmm, mixed
from eval.study import agreement, share
from eval.surface import wilson

OUTCOMES = {"detected": "the simulated one", "fooled": "the natural one", "unsure": "not sure"}
CONFIDENCE = {1: "somewhat confident", 2: "confident", 3: "very confident"}
LEAST = 20  # answers on each model, below which no mixed model is fitted: its variances could not be told

# Table 3 of the paper: answers of 200 for each inquirer. Those that did not name the simulated dialogue; its "not sure" answers are not given apart.
PAPER = {"Llama-2": 67, "Mixtral": 88, "Vicuna": 45, "GPT4": 70}
PAPER_N = 200
# Table 10, detection probability; A is the model that is detected least.
PAPER_LETTERS = {"Llama-2": "B", "Mixtral": "A", "Vicuna": "C", "GPT4": "AB"}


def column(rows: list[dict], name: str) -> np.ndarray:
    return np.array([row[name] for row in rows])


def main_rows(rows: list[dict]) -> list[dict]:
    return [row for row in rows if row["kind"] == "main"]


# ---------------------------------------------------------------- one model


def rates(rows: list[dict]) -> dict:
    """Shares of one model's answers, each as eval.study.share gives it."""
    outcome, participant, person = (column(rows, name) for name in ("outcome", "participant", "person"))
    decided = outcome != "unsure"
    score = np.where(decided, outcome == "fooled", 0.5)
    return {
        "n": len(rows),
        "undetected": share(outcome != "detected", participant, person),
        **{name: share(outcome == name, participant, person) for name in OUTCOMES},
        "spotted of decided": share(outcome[decided] == "detected", participant[decided], person[decided]) if decided.any() else None,
        "unsure as half": share(score, participant, person),
        "wilson": list(wilson(int((outcome != "detected").sum()), len(rows))),
        "guessing": (1 + float((~decided).mean())) / 2,
    }


def equivalent(found: dict | None, margin: float) -> bool | None:
    """Whether the share lies within `margin` of one half: its whole 95 % interval does (two one-sided tests at 2.5 %). None where nothing was decided."""
    return None if found is None else bool(found["interval"][0] > 0.5 - margin and found["interval"][1] < 0.5 + margin)


def described(values: np.ndarray) -> dict | None:
    """Mean and standard deviation as the paper prints them; they describe, and carry no interval."""
    return {"n": len(values), "mean": float(values.mean()), "sd": float(values.std(ddof=1)) if len(values) > 1 else None} if len(values) else None


def positions(rows: list[dict]) -> list[dict]:
    """The answers that the model of utterance positions is about."""
    return [row for row in rows if row["outcome"] == "detected" and row["side"] == "simulated"]


def table3(rows: list[dict]) -> dict:
    """What the paper's Table 3 gives for one model, in all and by outcome: answers at each confidence, seconds, utterance numbers."""
    parts = {"total": rows} | {name: [row for row in rows if row["outcome"] == name] for name in OUTCOMES}
    parts["undetected"] = parts["fooled"] + parts["unsure"]
    return {
        name: {
            "n": len(part),
            "confidence": {level: sum(row["confidence"] == level for row in part) for level in CONFIDENCE},
            "seconds": described(column(part, "seconds")),
            "utterance": described(column(positions(part), "utterance")),
        }
        for name, part in parts.items()
    }


# ---------------------------------------------------------------- models against each other


def effect(name: str, y: np.ndarray, rows: list[dict], kind: str, best: str, interaction: bool = False) -> dict:
    """y ~ model + (1|participant) + (1|person): estimates, Wald test, contrasts and letters. kind: logistic or linear; best: low or high, who gets the A.

    `note` says why there is no fit. Estimates are logits, or in the units of y."""
    models = sorted({row["model"] for row in rows})
    factors = {"participant": column(rows, "participant"), "person": column(rows, "person")} if rows else {}
    if interaction:
        factors["participant:model"] = np.array([f"{row['participant']}\0{row['model']}" for row in rows])
    found = {
        "name": name,
        "n": len(rows),
        "models": models,
        "kind": kind,
        "best": best,
        "note": None,
        "formula": " + ".join(["model", *(f"(1|{factor})" for factor in factors)]),
    }
    counts = {model: sum(row["model"] == model for row in rows) for model in models}
    if len(models) < 2:
        return found | {"note": "there is nothing to compare: answers on fewer than two models"}
    if few := [model for model in models if counts[model] < LEAST]:
        return found | {"note": f"not fitted: fewer than {LEAST} answers on {', '.join(few)}"}
    if any(len(np.unique(factor)) < 3 for factor in factors.values()):
        return found | {"note": "not fitted: it needs three participants and three persons"}
    codes = column(rows, "model")
    x = np.stack([codes == model for model in models], axis=1).astype(float)
    if kind == "logistic":
        if alike := [model for model in models if np.ptp(y[codes == model]) == 0]:
            return found | {"note": f"not fitted: all answers on {', '.join(alike)} are alike, so no finite logit fits"}
        fitted = glmm.fit(y, x, list(factors.values()))
    else:
        if np.ptp(y) == 0:
            return found | {"note": "not fitted: all values are equal"}
        fitted = mixed.linear(y, x, list(factors.values()))
    if not fitted.converged:
        return found | {"note": "not fitted: the likelihood has no maximum that could be found"}
    chi2, df, p = mixed.wald(fitted.coefficients, fitted.covariance)
    pairs = mixed.contrasts(fitted.coefficients, fitted.covariance)
    order = np.argsort(fitted.coefficients if best == "low" else -fitted.coefficients).tolist()
    errors = fitted.errors
    return found | {
        "estimates": [[float(value), float(value - 1.959964 * error), float(value + 1.959964 * error)] for value, error in zip(fitted.coefficients, errors, strict=True)],
        "sds": dict(zip(factors, fitted.sds.tolist(), strict=True)),
        "residual": getattr(fitted, "residual", None),
        "singular": [factor for factor, sd in zip(factors, fitted.sds, strict=True) if sd < 1e-3],
        "chi2": chi2,
        "df": df,
        "p": p,
        "contrasts": [row | {"first": models[row["i"]], "second": models[row["j"]]} for row in pairs],
        "letters": {how: dict(zip(models, mixed.letters(order, mixed.differing(pairs, how)), strict=True)) for how in mixed.ADJUSTMENTS},
    }


def effects(rows: list[dict]) -> list[dict]:
    """All models of the study. The first three are the paper's Table 10."""
    outcome = column(rows, "outcome")
    decided, placed = [row for row in rows if row["outcome"] != "unsure"], positions(rows)
    seconds = np.maximum(column(rows, "seconds"), 1e-3)
    detected = (outcome == "detected").astype(float)
    return [
        effect("detection probability", detected, rows, "logistic", "low"),
        effect("utterance number", column(placed, "utterance").astype(float), placed, "linear", "high"),
        effect("duration, log seconds", np.log(seconds), rows, "linear", "high"),
        effect("detection probability, participants differ by model", detected, rows, "logistic", "low", interaction=True),
        effect("detection probability, not sure as one half", np.where(outcome == "unsure", 0.5, detected), rows, "logistic", "low"),
        effect("detection probability of decided answers", (column(decided, "outcome") == "detected").astype(float), decided, "logistic", "low"),
        effect("not sure", (outcome == "unsure").astype(float), rows, "logistic", "high"),
        effect("utterance as a part of the dialogue", np.array([row["utterance"] / row["utterances"] for row in placed]), placed, "linear", "high"),
        effect("duration, seconds", seconds, rows, "linear", "high"),
        effect("confidence, 1 to 3", column(rows, "confidence").astype(float), rows, "linear", "low"),
    ]


# ---------------------------------------------------------------- participants


def careless(rows: list[dict], rule: dict) -> list[str]:
    """Participants who failed `gold_failed` attention checks or more ("not sure" on one is a failure), or whose median time is below `median_seconds`. Both
    are frozen with the design; gold_failed None: checks make nobody careless."""
    found = []
    for name in sorted({row["participant"] for row in rows}):
        mine = [row for row in rows if row["participant"] == name]
        failed = sum(row["gold_right"] is False for row in mine)
        if (rule["gold_failed"] and failed >= rule["gold_failed"]) or np.median([row["seconds_client"] for row in mine]) < rule["median_seconds"]:
            found.append(name)
    return found


def sides(rows: list[dict]) -> dict:
    """How often the left dialogue was named, of decided answers, and how often the simulated one stood there."""
    decided = [row for row in rows if row["choice"] != "unsure"]
    return {
        "left": share(column(decided, "choice") == "left", column(decided, "participant")) if decided else None,
        "simulated left": share(column(rows, "simulated_left"), column(rows, "participant")),
    }


def agreed(rows: list[dict]) -> dict:
    """eval.study.agreement on pairs that several participants judged; with one judgement a pair, as in the paper, there is none to measure."""
    value = {"detected": 1.0, "fooled": 0.0, "unsure": 0.5}
    return agreement([{"pair": row["model"], "item": row["item"], "label": row["label"], "tuned_won": value[row["outcome"]]} for row in rows])


def statistics(rows: list[dict], margin: float, rule: dict) -> dict:
    """Everything that the report shows. margin: of `equivalent`; rule: of `careless`. Raises UserError where there is no answer on a pair yet."""
    answers = main_rows(rows)
    if not answers:
        raise UserError("there is no answer on a pair of dialogues yet; open the page with `make detect`, and run this again when people have taken part")
    models = sorted({row["model"] for row in answers})
    of = {model: [row for row in answers if row["model"] == model] for model in models}
    left_out = careless(rows, rule)
    kept = [row for row in answers if row["participant"] not in left_out]
    golds = [row for row in rows if row["kind"] == "gold"]
    return {
        "answers": len(answers),
        "participants": len({row["participant"] for row in answers}),
        "persons": len({row["person"] for row in answers}),
        "goals": len({row["goal"] for row in answers}),
        "margin": margin,
        "all": rates(answers),
        "models": {model: rates(part) | {"table 3": table3(part), "equivalent": equivalent(rates(part)["spotted of decided"], margin)} for model, part in of.items()},
        "effects": effects(answers),
        "sides": sides(answers),
        "agreement": agreed(answers),
        "attention": {
            "rule": rule,
            "gold": share(column(golds, "gold_right"), column(golds, "participant")) if golds else None,
            "careless": left_out,
            "without": {model: rates([row for row in kept if row["model"] == model]) for model in models if any(row["model"] == model for row in kept)}
            if left_out
            else {},
        },
        "elsewhere": sum(row["outcome"] == "detected" and row["side"] == "natural" for row in answers),
        "paper": [{"model": model, "n": PAPER_N, "undetected": [k / PAPER_N, *wilson(k, PAPER_N)], "letters": PAPER_LETTERS[model]} for model, k in PAPER.items()],
    }


def main() -> None:
    from eval.detectstore import joined
    from eval.studyreport import of

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="out/detect/NAME")
    folder = parser.parse_args().folder
    rows, lock = joined(folder)
    found = statistics(rows, lock["settings"]["margin"], lock["settings"]["careless"])
    print(f"{found['answers']:,} answers of {found['participants']} participants; undetected, with 95 % intervals:")
    for model, one in found["models"].items():
        print(f"{model:20} {of(one['undetected'])} of {one['n']}, not sure {of(one['unsure'])}")


if __name__ == "__main__":
    entry(main)
