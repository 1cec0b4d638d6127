"""Do the intervals and tests of `eval.detection` keep their promise? Simulated detection studies whose truth is known.

    python -m benchmarks.detection              # 300 studies a setting; --quick: 30

Each study has the paper's design: 20 participants, 20 persons, 10 goals, 4 models, 800 pairs, each judged once, nobody sees a person's goal twice. Participants
and persons have random effects on the logit scale (sd 0.3 and 0.4), and in some settings participants differ in how well they tell each model (sd 0.5).
Printed with Wilson's interval for the number of studies:
1. coverage of nominal 95 % intervals of a model's undetected share, the study's own and Wilson's, where a tenth of answers is "not sure";
2. coverage of 95 % intervals of contrasts, and their mean error, at effects of the paper's size;
3. no model differs: how often the Wald test at 5 % says so all the same, with and without (1|participant:model), and how often any contrast does, without
   correction, by Holm, by Tukey (family-wise error); the same for the linear models of position and duration.

Measured (300 studies a setting): the study's own intervals covered 94.3 to 97.3 %, Wilson's 74.7 % where participants and persons differ by 0.8; contrasts of the
paper's size were covered in 94.8 % [93.7, 95.8]; the difference between Llama-2 and Mixtral is found in 59.0 % [53.4, 64.4] of studies without
correction, in 29.7 % [24.8, 35.1] by Tukey; where no model differs, some uncorrected contrast of detection is significant in 26.3 % [21.7, 31.6],
by Tukey in 5.0 % [3.1, 8.1]. Where participants differ by model, the Wald test is wrong in 14.0 % [10.5, 18.4], with (1|participant:model) in 6.7 % [4.4, 10.1].
"""

import argparse
import time
from dataclasses import dataclass

import numpy as np
from scipy import optimize, special

from benchmarks.votes import NODES, WEIGHTS, told
from datagen.files import entry
from eval import detection, mixed
from eval.surface import wilson

SEED = 1
PARTICIPANTS, PERSONS, GOALS, MODELS = 20, 20, 10, 4
PAPER = tuple(float(special.logit(1 - k / 200)) for k in (67, 88, 45, 70))  # Llama-2, Mixtral, Vicuna, GPT4: logit of being detected


@dataclass(frozen=True)
class Setting:
    logits: tuple[float, ...] = (0.0,) * MODELS  # of being detected, typical participant and person
    sd_participant: float = 0.3
    sd_person: float = 0.4
    sd_both: float = 0.0  # participant by model
    unsure: float = 0.1  # share of the answers that do not name the simulated dialogue
    later: tuple[float, ...] = (0.0,) * MODELS  # added to the utterance number
    slower: tuple[float, ...] = (0.0,) * MODELS  # added to log seconds


def simulate(rng: np.random.Generator, setting: Setting) -> list[dict]:
    """The rows of one study, as eval.detection takes them; participant (u + 2 g + 5 m) mod 20 sees model m on goal g of person u."""
    participants = [setting.sd_participant * rng.normal(size=PARTICIPANTS), 0.4 * rng.normal(size=PARTICIPANTS), 0.5 * rng.normal(size=PARTICIPANTS)]
    persons = [setting.sd_person * rng.normal(size=PERSONS), 0.3 * rng.normal(size=PERSONS), 0.2 * rng.normal(size=PERSONS)]
    both = setting.sd_both * rng.normal(size=(PARTICIPANTS, MODELS))
    rows = []
    for u in range(PERSONS):
        for g in range(GOALS):
            for m in range(MODELS):
                p = (u + 2 * g + 5 * m) % PARTICIPANTS
                found = bool(rng.random() < special.expit(setting.logits[m] + participants[0][p] + persons[0][u] + both[p, m]))
                outcome = "detected" if found else "unsure" if rng.random() < setting.unsure else "fooled"
                left = bool(rng.random() < 0.5)
                number = 4 + setting.later[m] + participants[1][p] + persons[1][u] + rng.normal()
                row = {"participant": f"p{p:02}", "person": f"u{u:02}", "goal": f"g{g}", "model": f"m{m}", "item": f"{u}.{g}.{m}", "kind": "main", "position": 1}
                row |= {"outcome": outcome, "simulated_left": left, "choice": "unsure" if outcome == "unsure" else ("left" if found == left else "right")}
                row |= {"label": "tie" if outcome == "unsure" else "ab"[found], "confidence": int(rng.integers(1, 4)), "gold_right": None}
                row |= {"side": "simulated" if found else None, "utterance": number if found else None, "utterances": 10}
                seconds = float(np.exp(4 + setting.slower[m] + participants[2][p] + persons[2][u] + 0.7 * rng.normal()))
                rows.append(row | {"seconds": seconds, "seconds_client": seconds})
    return rows


def margin(logit: float, sd: float) -> float:
    """The share over all participants and persons."""
    return float(WEIGHTS @ special.expit(logit + sd * NODES) / WEIGHTS.sum())


def coverage(studies: int) -> None:
    for undetected in (0.44, 0.225, 0.05):
        for sds in ((0.0, 0.0), (0.3, 0.4), (0.8, 0.8)):
            sd = float(np.hypot(*sds))
            logit = optimize.brentq(lambda x, sd=sd, want=1 - undetected: margin(x, sd) - want, -20, 20)
            rng, hits, widths = np.random.default_rng(SEED), [0, 0], []
            for _ in range(studies):
                rows = [row for row in simulate(rng, Setting((logit,) * MODELS, *sds)) if row["model"] == "m0"]
                found = detection.rates(rows)["undetected"]
                for i, (low, high) in enumerate((found["interval"], wilson(round(found["value"] * found["n"]), found["n"]))):
                    hits[i] += low <= undetected <= high
                widths.append(found["interval"][1] - found["interval"][0])
            print(
                f"undetected {undetected:.3f}, sd {sds[0]:g}/{sds[1]:g}:  study's {told(hits[0], studies)}  Wilson {told(hits[1], studies)}  width {np.mean(widths):.3f}"
            )


def power(studies: int) -> None:
    rng, hits, off, significant = np.random.default_rng(SEED), 0, [], dict.fromkeys(mixed.ADJUSTMENTS, 0)
    for _ in range(studies):
        rows = simulate(rng, Setting(PAPER))
        found = detection.effect("x", np.array([row["outcome"] == "detected" for row in rows], float), rows, "logistic", "low")
        for row in found["contrasts"]:
            truth = PAPER[row["i"]] - PAPER[row["j"]]
            hits += row["interval"][0] <= truth <= row["interval"][1]
            off.append(row["value"] - truth)
        for how in significant:
            significant[how] += found["contrasts"][0]["p"][how] < 0.05
    print(f"contrasts covered {told(hits, 6 * studies)} (six of each study, not independent), mean error {np.mean(off):+.3f} logits")
    print("Llama-2 against Mixtral found: " + ", ".join(f"{how} {told(n, studies)}" for how, n in significant.items()))


def nothing(studies: int) -> None:
    for sd_both in (0.0, 0.5):
        rng, wald, any_, n = np.random.default_rng(SEED), {}, {}, {}
        for _ in range(studies):
            rows = simulate(rng, Setting((0.6,) * MODELS, sd_both=sd_both))
            detected = np.array([row["outcome"] == "detected" for row in rows], float)
            placed = detection.positions(rows)
            fits = {
                "detection": detection.effect("x", detected, rows, "logistic", "low"),
                "detection, participants differ by model": detection.effect("x", detected, rows, "logistic", "low", interaction=True),
                "utterance number": detection.effect("x", np.array([row["utterance"] for row in placed]), placed, "linear", "high"),
                "log seconds": detection.effect("x", np.log([row["seconds"] for row in rows]), rows, "linear", "high"),
            }
            for name, found in fits.items():
                if found["note"] is None:
                    n[name] = n.get(name, 0) + 1
                    wald[name] = wald.get(name, 0) + (found["p"] < 0.05)
                    for how in mixed.ADJUSTMENTS:
                        any_[name, how] = any_.get((name, how), 0) + any(row["p"][how] < 0.05 for row in found["contrasts"])
        print(f"participant by model sd {sd_both:g}")
        for name in wald:
            print(f"    {name:42} Wald {told(wald[name], n[name])}  any contrast: " + ", ".join(f"{how} {told(any_[name, how], n[name])}" for how in mixed.ADJUSTMENTS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="30 studies a setting instead of 300")
    studies, started = 30 if parser.parse_args().quick else 300, time.perf_counter()
    print(f"{studies} studies a setting; Wilson's 95 % intervals for that number\n\n1. coverage of nominal 95 % intervals of the undetected share")
    coverage(studies)
    print("\n2. effects of the paper's size")
    power(studies)
    print("\n3. no model differs: false alarms at 5 %")
    nothing(studies)
    print(f"\n{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    entry(main)
