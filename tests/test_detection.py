"""The statistics of detection studies: known effects are found, and the paper's letters follow from its counts.  .venv/bin/python -m pytest tests/test_detection.py"""

import numpy as np
import pytest
from scipy import stats

from benchmarks.detection import Setting, simulate
from datagen.files import UserError
from eval import detection
from eval.surface import wilson

RULE, KEPT = {"gold_failed": 2, "median_seconds": 0}, {"gold_failed": None, "median_seconds": 0}
MODELS = ("Llama-2", "Mixtral", "Vicuna", "GPT4")
# Tables 3 and 10 of the paper: detected of 200, and mean and standard deviation of utterance number (detected) and seconds (detected, undetected).
DETECTED = dict(zip(MODELS, (133, 112, 155, 130), strict=True))
UTTERANCE = dict(zip(MODELS, ((1.72, 0.78), (2.38, 1.35), (2.50, 1.84), (3.72, 2.35)), strict=True))
SECONDS = {
    "Llama-2": ((86.10, 157.14), (120.44, 139.93)),
    "Mixtral": ((99.45, 98.81), (114.93, 157.46)),
    "Vicuna": ((94.63, 150.70), (62.24, 62.37)),
    "GPT4": ((124.88, 227.36), (94.52, 124.03)),
}


def spread(n, mean, sd, rng):
    """n numbers with this mean and standard deviation."""
    values = rng.permutation(stats.norm.ppf((np.arange(n) + 0.5) / n))
    return mean + sd * (values - values.mean()) / values.std(ddof=1)


@pytest.fixture(scope="module")
def papers():
    """800 answers in the paper's design with its published marginals; participants and persons differ no more than chance has it."""
    rng, rows = np.random.default_rng(4), simulate(np.random.default_rng(1), Setting())
    for m, model in enumerate(MODELS):
        mine = [row for row in rows if row["model"] == f"m{m}"]
        detected = rng.permutation(np.arange(200) < DETECTED[model])
        utterance, seconds = spread(detected.sum(), *UTTERANCE[model], rng), np.empty(200)
        for part, numbers in zip((True, False), SECONDS[model], strict=True):
            seconds[detected == part] = spread((detected == part).sum(), *numbers, rng)
        for row, found, time in zip(mine, detected, seconds, strict=True):
            row |= {"model": model, "outcome": "detected" if found else "fooled", "seconds": float(time)}
            row |= {"side": "simulated" if found else None, "utterance": None}
        for row, number in zip([row for row in mine if row["outcome"] == "detected"], utterance, strict=True):
            row["utterance"] = float(number)
    return rows


def outcomes(rows):
    return np.array([row["outcome"] == "detected" for row in rows], float)


def test_the_letters_of_table_10_follow_from_its_counts_without_correction_and_only_so(papers):
    found = detection.effect("x", outcomes(papers), papers, "logistic", "low")
    assert found["letters"]["none"] == detection.PAPER_LETTERS == {"Llama-2": "B", "Mixtral": "A", "Vicuna": "C", "GPT4": "AB"}
    assert found["letters"]["Tukey"] == found["letters"]["Holm"] == {"Llama-2": "AB", "Mixtral": "A", "Vicuna": "B", "GPT4": "A"}
    assert found["df"] == 3 and found["chi2"] == pytest.approx(20.9, abs=1.5)  # the paper prints 21.49


def test_the_letters_of_table_10_for_utterances_and_seconds(papers):
    placed = detection.positions(papers)
    found = detection.effect("x", np.array([row["utterance"] for row in placed]), placed, "linear", "high")
    assert found["n"] == 530 and found["letters"]["none"] == {"Llama-2": "C", "Mixtral": "B", "Vicuna": "B", "GPT4": "A"}
    assert found["chi2"] / 3 == pytest.approx(31.73, abs=2.5)  # F of the paper
    found = detection.effect("x", np.array([row["seconds"] for row in papers]), papers, "linear", "high")
    assert set(found["letters"]["none"].values()) == {"A"} and found["p"] > 0.05


def test_the_rates_of_table_3_follow_from_its_counts(papers):
    found = {model: detection.rates([row for row in papers if row["model"] == model]) for model in MODELS}
    assert [round(100 * found[model]["undetected"]["value"], 1) for model in MODELS] == [33.5, 44.0, 22.5, 35.0]
    assert found["Mixtral"]["wilson"] == list(wilson(88, 200)) and {model: 200 - n for model, n in DETECTED.items()} == detection.PAPER


@pytest.mark.slow
def test_known_effects_are_found_and_their_letters_are_right():
    setting = Setting((-1.0, 0.3, 0.3, 1.6), sd_participant=0.3, sd_person=0.3, later=(0, 2, 2, 4), slower=(0.0, 0.0, 0.0, 0.5))
    rows = simulate(np.random.default_rng(3), setting)  # at 5 %, one study in some tells equal models apart: benchmarks.detection counts them
    found = {one["name"]: one for one in detection.effects(rows)}
    for name in ("detection probability", "detection probability, participants differ by model"):
        one = found[name]
        assert one["p"] < 1e-10 and all(low < truth < high for (_, low, high), truth in zip(one["estimates"], setting.logits, strict=True))
        for how in ("none", "Holm", "Tukey"):
            assert one["letters"][how] == {"m0": "A", "m1": "B", "m2": "B", "m3": "C"}
    assert found["utterance number"]["letters"]["Holm"] == {"m0": "C", "m1": "B", "m2": "B", "m3": "A"}
    assert [value for value, *_ in found["utterance number"]["estimates"]] == pytest.approx([4, 6, 6, 8], abs=0.6)
    assert found["duration, log seconds"]["letters"]["Holm"] == {"m0": "B", "m1": "B", "m2": "B", "m3": "A"}
    [last] = [row for row in found["duration, log seconds"]["contrasts"] if (row["first"], row["second"]) == ("m0", "m3")]
    assert last["interval"][0] < -0.5 < last["interval"][1]
    assert set(found["confidence, 1 to 3"]["letters"]["none"].values()) == {"A"}  # drawn without regard to the model


def test_where_no_model_differs_all_have_the_same_letter():
    rows = simulate(np.random.default_rng(1), Setting((0.6,) * 4))
    for one in (detection.effect("x", outcomes(rows), rows, "logistic", "low"), detection.effect("x", np.log([row["seconds"] for row in rows]), rows, "linear", "high")):
        assert set(one["letters"]["Tukey"].values()) == {"A"} and one["p"] > 0.05


def row(**values):
    base = {"participant": "p", "person": "u", "goal": "g", "model": "m", "item": "i", "kind": "main", "position": 1, "simulated_left": True, "choice": "left"}
    base |= {
        "outcome": "detected",
        "label": "a",
        "confidence": 2,
        "side": "simulated",
        "utterance": 3,
        "utterances": 6,
        "seconds": 10.0,
        "seconds_client": 9.0,
        "gold_right": None,
    }
    return base | values


def many(model, detected, fooled, unsure):
    names = ["detected"] * detected + ["fooled"] * fooled + ["unsure"] * unsure
    return [
        row(model=model, outcome=name, participant=f"p{i % 7}", person=f"u{i % 5}", item=f"{model}{i}", choice="unsure" if name == "unsure" else "left")
        for i, name in enumerate(names)
    ]


def test_not_sure_counts_as_undetected_and_stands_apart_too():
    found = detection.rates(many("m", 5, 3, 2))
    value = lambda name: found[name]["value"]  # noqa: E731
    assert [value(name) for name in ("undetected", "detected", "fooled", "unsure", "spotted of decided", "unsure as half")] == [0.5, 0.5, 0.3, 0.2, 0.625, 0.4]
    assert found["guessing"] == 0.6 and found["spotted of decided"]["n"] == 8
    assert detection.rates(many("m", 0, 0, 4))["spotted of decided"] is None


def test_equivalence_needs_the_whole_interval_within_the_margin():
    wide, narrow = ({"interval": interval} for interval in ([0.38, 0.56], [0.45, 0.56]))
    assert [detection.equivalent(one, 0.1) for one in (wide, narrow, None)] == [False, True, None]


def test_a_model_that_is_always_detected_is_said_and_spoils_nothing_else():
    rows = many("m", 20, 10, 3) + many("n", 30, 0, 0)
    found = {one["name"]: one for one in detection.statistics(rows, 0.1, RULE)["effects"]}
    assert found["detection probability"]["note"] == "not fitted: all answers on n are alike, so no finite logit fits"
    assert found["duration, log seconds"]["note"] == "not fitted: all values are equal"
    rows = many("m", 20, 10, 3) + many("n", 3, 0, 0)
    assert detection.effects(rows)[0]["note"] == "not fitted: fewer than 20 answers on n"
    assert detection.effects(many("m", 20, 10, 3))[0]["note"] == "there is nothing to compare: answers on fewer than two models"


def test_positions_are_those_of_detected_pairs_within_the_simulated_dialogue():
    rows = [row(), row(side="natural"), row(outcome="fooled"), row(outcome="unsure", side=None, utterance=None)]
    assert detection.positions(rows) == [rows[0]]
    assert detection.statistics(rows, 0.1, RULE)["elsewhere"] == 1


def test_who_fails_checks_is_left_out_beside_everybody():
    golds = [row(kind="gold", participant=f"p{i}", gold_right=right) for i in (0, 1) for right in (False, i == 1)]
    found = detection.statistics(many("m", 14, 7, 0) + golds, 0.1, RULE)
    assert found["attention"]["careless"] == ["p0"] and found["attention"]["gold"]["value"] == 0.25
    assert (found["models"]["m"]["n"], found["attention"]["without"]["m"]["n"]) == (21, 18)
    assert detection.careless(golds, KEPT) == [] and detection.careless(golds, KEPT | {"median_seconds": 9.1}) == ["p0", "p1"]


def test_agreement_is_measured_where_several_judged_one_pair():
    rows = [row(item=f"i{i}", participant=f"p{k}", label="ab"[i % 2]) for i in range(6) for k in range(3)]
    assert detection.agreed(rows)["raw"][0] == 1 and detection.agreed(rows)["items"] == 6
    assert detection.agreed(rows[::3])["raw"] is None


def test_without_an_answer_there_is_one_line_that_says_what_to_do():
    with pytest.raises(UserError, match="no answer on a pair of dialogues yet; open the page with `make detect`"):
        detection.statistics([row(kind="gold", gold_right=True)], 0.1, RULE)
