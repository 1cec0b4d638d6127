"""The small evaluation items, and the oracle proof on lm-eval's 39 stock tasks.  .venv/bin/python -m pytest tests/test_items.py -m 'slow or not slow' -n 0"""

import itertools
import json
import math
import re
import subprocess
from collections import Counter
from datetime import datetime, timedelta
from fractions import Fraction
from pathlib import Path

import pytest
from conftest import ROOT, inside, one_line

from eval import scores

BBH = {  # task -> number of options, as in lm_eval/tasks/leaderboard/bbh_mc
    "boolean_expressions": 2, "causal_judgement": 2, "date_understanding": 6, "disambiguation_qa": 3, "formal_fallacies": 2, "geometric_shapes": 11,
    "hyperbaton": 2, "logical_deduction_five_objects": 5, "logical_deduction_seven_objects": 7, "logical_deduction_three_objects": 3,
    "movie_recommendation": 6, "navigate": 2, "object_counting": 19, "penguins_in_a_table": 5, "reasoning_about_colored_objects": 18, "ruin_names": 6,
    "salient_translation_error_detection": 6, "snarks": 2, "sports_understanding": 2, "temporal_sequences": 4, "tracking_shuffled_objects_five_objects": 5,
    "tracking_shuffled_objects_seven_objects": 7, "tracking_shuffled_objects_three_objects": 3, "web_of_lies": 2,
}  # fmt: skip
WORDS = {"boolean_expressions": "False True", "formal_fallacies": "valid invalid", "sports_understanding": "yes no", "object_counting": " ".join(map(str, range(19)))}
MATH = ["algebra", "counting_and_probability", "geometry", "intermediate_algebra", "number_theory", "prealgebra", "precalculus"]
MUSR = {"murder_mysteries": 2, "object_placements": 5, "team_allocation": 3}
INSTRUCTIONS = {
    "change_case": ["capital_word_frequency", "english_capital", "english_lowercase"],
    "combination": ["repeat_prompt", "two_responses"],
    "detectable_content": ["number_placeholders", "postscript"],
    "detectable_format": ["constrained_response", "json_format", "multiple_sections", "number_bullet_lists", "number_highlighted_sections", "title"],
    "keywords": ["existence", "forbidden_words", "frequency", "letter_frequency"],
    "language": ["response_language"],
    "length_constraints": ["nth_paragraph_first_word", "number_paragraphs", "number_sentences", "number_words"],
    "punctuation": ["no_comma"],
    "startend": ["end_checker", "quotation"],
}


def read(folder: Path) -> dict[str, list[dict]]:
    """Data set and file, less the hash in its name -> rows."""
    return {
        re.sub(r"\.[0-9a-f]{8}(?=\.jsonl)", "", str(path.relative_to(folder))): [json.loads(line) for line in path.read_text().splitlines()]
        for path in sorted(folder.glob("*/*/*.jsonl"))
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("items")
    inside("eval.items", folder, "--per-task", 3)
    return folder, read(folder)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    folder = tmp_path_factory.mktemp("many")
    return inside("eval.items", folder, "--per-task", 20).stdout, read(folder)


def bbh(files, task):
    return [(row["input"], row["target"]) for row in files[f"SaylorTwift/bbh/{task}-test.jsonl"]]


def test_each_of_the_39_tasks_gets_exactly_its_items(made):
    counts = {name: len(rows) for name, rows in made[1].items()}
    expected = {f"SaylorTwift/bbh/{task}-test.jsonl": 3 for task in BBH}
    expected |= {f"DigitalLearningGmbH/MATH-lighteval/{subject}-{split}.jsonl": n for subject in MATH for split, n in (("train", 1), ("test", 4))}
    expected |= {f"Idavidrein/gpqa/gpqa_{name}-train.jsonl": n for name, n in (("diamond", 3), ("main", 4), ("extended", 5))}
    expected |= {f"TAUR-Lab/MuSR/default-{name}.jsonl": 3 for name in MUSR}
    expected |= {"TIGER-Lab/MMLU-Pro/default-validation.jsonl": 5, "TIGER-Lab/MMLU-Pro/default-test.jsonl": 3, "wis-k/instruction-following-eval/default-train.jsonl": 15}
    assert counts == expected and len(BBH) + len(MATH) + 3 + len(MUSR) + 2 == 39
    for subject in MATH:
        assert Counter(row["level"] for row in made[1][f"DigitalLearningGmbH/MATH-lighteval/{subject}-test.jsonl"]) == {"Level 5": 3, "Level 4": 1}


def test_the_same_seed_gives_the_same_bytes(made, tmp_path):
    inside("eval.items", tmp_path, "--per-task", 3)
    files = [{str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("*/*/*")} for folder in (made[0], tmp_path)]
    assert files[0] == files[1] and len(files[0]) == 47 + 6


def test_items_that_change_change_their_names_and_leave_nothing_old(made, tmp_path):
    inside("eval.items", tmp_path, "--per-task", 2)
    inside("eval.items", tmp_path, "--per-task", 3)
    names = [sorted(str(path.relative_to(folder)) for path in folder.glob("*/*/*")) for folder in (made[0], tmp_path)]
    assert names[0] == names[1]
    inside("eval.items", tmp_path, "--per-task", 2)
    same = {str(path.relative_to(tmp_path)).split(".")[0] for path in tmp_path.glob("*/*/*.jsonl")} & {name.split(".")[0] for name in names[0]}
    kept = {str(path.relative_to(tmp_path)) for path in tmp_path.glob("*/*/*.jsonl")} & set(names[0])
    fixed = {f"DigitalLearningGmbH/MATH-lighteval/{subject}-train" for subject in MATH} | {
        "TIGER-Lab/MMLU-Pro/default-validation",
        "wis-k/instruction-following-eval/default-train",
    }
    assert len(same) == 47 and {name.split(".")[0] for name in kept} == fixed


def test_every_gold_answer_is_an_option_and_none_stands_on_more_than_half_of_the_items(made):
    for task, k in BBH.items():
        options = WORDS.get(task, "" if "Options:\n(A)" in bbh(made[1], task)[0][0] else "Yes No").split() or [f"({chr(65 + i)})" for i in range(k)]
        golds = [target for _, target in bbh(made[1], task)]
        assert len(options) == k and set(golds) <= set(options) and max(Counter(golds).values()) <= 2, task
    for name, k in MUSR.items():
        rows = made[1][f"TAUR-Lab/MuSR/default-{name}.jsonl"]
        choices = [json.loads(row["choices"].replace("'", '"')) for row in rows]
        assert all(len(c) == k and c[row["answer_index"]] == row["answer_choice"] for c, row in zip(choices, rows, strict=True))
        assert max(Counter(row["answer_index"] for row in rows).values()) <= 2
    for split in ("validation", "test"):
        rows = made[1][f"TIGER-Lab/MMLU-Pro/default-{split}.jsonl"]
        assert all(len(set(row["options"])) == 10 and row["answer"] == "ABCDEFGHIJ"[row["answer_index"]] for row in rows)
        assert len({row["answer"] for row in rows}) > 1
    for row in made[1]["Idavidrein/gpqa/gpqa_extended-train.jsonl"]:
        assert len({row["Correct Answer"], *(row[f"Incorrect Answer {i}"] for i in (1, 2, 3))}) == 4


def test_rows_to_learn_from_differ_from_rows_to_test_on(many):
    shown, asked = ({row["question"] for row in many[1][f"TIGER-Lab/MMLU-Pro/default-{split}.jsonl"]} for split in ("validation", "test"))
    assert not shown & asked and (len(shown), len(asked)) == (5, 20)
    for subject in MATH:
        train, test = ({row["problem"] for row in many[1][f"DigitalLearningGmbH/MATH-lighteval/{subject}-{split}.jsonl"]} for split in ("train", "test"))
        assert not train & test


def test_gpqa_sets_are_nested_as_the_real_ones(made):
    diamond, main, extended = (made[1][f"Idavidrein/gpqa/gpqa_{name}-train.jsonl"] for name in ("diamond", "main", "extended"))
    assert extended[:4] == main and main[:3] == diamond


def test_every_kind_of_instruction_is_asked_for(made):
    rows = made[1]["wis-k/instruction-following-eval/default-train.jsonl"]
    kinds = [f"{group}:{kind}" for group, kinds in INSTRUCTIONS.items() for kind in kinds]
    assert sorted(kind for row in rows for kind in row["instruction_id_list"]) == kinds and len(kinds) == 25
    assert all(len(row["instruction_id_list"]) == len(row["kwargs"]) for row in rows)


def test_a_larger_number_gives_more_of_what_is_computed_and_says_what_is_short(many):
    short = {"causal_judgement": 6, "disambiguation_qa": 6, "salient_translation_error_detection": 12, "snarks": 6}
    assert re.sub(r"\.[0-9a-f]{8}", "", many[0]).splitlines()[1:] == [
        f"  SaylorTwift/bbh/{task}-test.jsonl: {n}, all that the texts in eval/items.yaml give" for task, n in short.items()
    ]
    assert {task: len(bbh(many[1], task)) for task in BBH} == {task: short.get(task, 20) for task in BBH}


def test_no_number_below_one_is_accepted(tmp_path):
    assert one_line(inside("eval.items", tmp_path / "x", "--per-task", 0, status=1)) == "error: --per-task 0: expected 1 or more"


# ---------------------------------------------------------------- gold answers, worked out anew from the texts


def option(text: str, letter: str) -> str:
    return re.search(rf"^{re.escape(letter)} (.*)$", text, re.M)[1]


def test_dates_and_counts_are_right(many):
    for text, target in bbh(many[1], "date_understanding"):
        today, n, unit, way = re.match(r"Today is (.*\d{4})\. What is the date (\d+) (day|week)s (ago|from now)", text).groups()
        then = datetime.strptime(today, "%B %d, %Y") + timedelta(**{unit + "s": int(n)}) * (-1 if way == "ago" else 1)
        assert option(text, target) == f"{then:%m/%d/%Y}"
    kinds = {"fruits": "apple plum pear banana orange", "animals": "cat goat snail duck rabbit", "musical instruments": "flute violin drum trumpet clarinet"}
    for text, target in bbh(many[1], "object_counting"):
        asked = re.search(r"How many (.*) do I have", text)[1]
        number = {"a": 1, "an": 1, "two": 2, "three": 3}
        assert int(target) == sum(number[n] for n, thing in re.findall(r"(an?|two|three) (\w+?)s?[,.]", text) if thing in kinds[asked].split())


def test_walks_and_liars_are_right(many):
    for text, target in bbh(many[1], "navigate"):
        x = y = 0
        dx, dy = 0, 1
        for move in re.findall(r"Turn (\w+)|Take (\d+)", text):
            dx, dy = {"left": (-dy, dx), "right": (dy, -dx), "around": (-dx, -dy), "": (dx, dy)}[move[0]]
            x, y = x + dx * int(move[1] or 0), y + dy * int(move[1] or 0)
        assert target == ("Yes" if (x, y) == (0, 0) else "No")
    for text, target in bbh(many[1], "web_of_lies"):
        first, *claims = text.removeprefix("Question: ").split(". ")[:-1]
        lies = first.endswith("lies") + sum(claim.endswith("lies") for claim in claims)
        assert target == ("No" if lies % 2 else "Yes")


def test_shelves_have_one_order_and_swaps_end_where_said(many):
    for task in ("three", "five", "seven"):
        for text, target in bbh(many[1], f"logical_deduction_{task}_objects")[:6]:
            books = re.findall(r"an? (\w+) book", text)
            clues = re.findall(r"The (\w+) book is (?:number (\d)|to the (left|right) of the (\w+))", text.split("Options")[0])
            orders = [
                order
                for order in itertools.permutations(books)
                if all(order.index(a) + 1 == int(n) if n else (order.index(a) < order.index(b)) == (side == "left") for a, n, side, b in clues)
            ]
            assert len(orders) == 1
            book, where = re.match(r"The (\w+) book is (?:the )?(leftmost|rightmost|number \d)", option(text, target)).groups()
            assert orders[0].index(book) == {"leftmost": 0, "rightmost": len(books) - 1}.get(where, int(where[-1]) - 1 if where[-1].isdigit() else -1)
        for text, target in bbh(many[1], f"tracking_shuffled_objects_{task}_objects"):
            held = dict(re.findall(r"(\w+) has an? (\w+ ball)", text))
            for a, b in re.findall(r", (\w+) and (\w+) swap balls", text):
                held[a], held[b] = held[b], held[a]
            assert option(text, target) == held[re.search(r"In the end (\w+) holds", text)[1]]


def test_mathematics_is_right(many):
    def answers(subject, pattern):
        for row in many[1][f"DigitalLearningGmbH/MATH-lighteval/{subject}-test.jsonl"]:
            boxed = re.search(r"\\boxed\{(.*)\}\$\.$", row["solution"])[1]
            yield [int(n) for n in re.findall(pattern, row["problem"])], Fraction(re.sub(r"\\frac\{(\d+)\}\{(\d+)\}", r"\1/\2", boxed))

    for (base, power, modulus), answer in answers("number_theory", r"\d+"):
        assert answer == base**power % modulus
    for (s, p), answer in answers("algebra", r" - (\d+)"):
        roots = [(s + sign * (s * s + 4 * p) ** 0.5) / 2 for sign in (1, -1)]
        assert abs(sum(root**2 for root in roots) - answer) < 1e-9
    for sides, answer in answers("geometry", r"\d+"):
        half = sum(sides) / 2
        assert abs(2 * (half * (half - sides[0]) * (half - sides[1]) * (half - sides[2])) ** 0.5 / max(sides) - answer) < 1e-9  # Heron
    for (red, blue), answer in answers("counting_and_probability", r"\d+"):
        pairs = list(itertools.combinations("r" * red + "b" * blue, 2))
        assert answer == Fraction(sum(a == b for a, b in pairs), len(pairs))
    for (a, b), answer in answers("prealgebra", r"\d+"):
        assert answer / a + answer / b == 1
    for (p, *q), answer in answers("precalculus", r"\d+(?=[}$])"):
        assert abs(math.cos(2 * math.atan2(p, *(q or [1]))) - answer) < 1e-9


# ---------------------------------------------------------------- the oracle proof


@pytest.mark.slow
def test_an_oracle_scores_1_and_an_anti_oracle_0_on_all_39_stock_tasks(made, tmp_path):
    of_family = {
        "bbh": {"acc_norm"}, "gpqa": {"acc_norm"}, "musr": {"acc_norm"}, "mmlu": {"acc"}, "math": {"exact_match", "exact_match_original"},
        "ifeval": {"prompt_level_strict_acc", "inst_level_strict_acc", "prompt_level_loose_acc", "inst_level_loose_acc"},
    }  # fmt: skip
    inside("eval.items", tmp_path / "two", "--per-task", 2)  # another folder with the same cache of `datasets`, which must not answer for it
    for folder, n, flags, name, score in ((made[0], 3, [], "oracle", 1.0), (tmp_path / "two", 2, ["--anti"], "anti-oracle", 0.0)):
        subprocess.run([ROOT / ".venv-eval/bin/python", ROOT / "tests/oracle.py", folder, tmp_path, *flags], check=True, capture_output=True, timeout=300)
        (path,) = (tmp_path / name).glob("results_*.json")
        result = json.loads(path.read_text())
        assert len(result["configs"]) == 39 and len(list((tmp_path / name).glob("samples_leaderboard_*.jsonl"))) == 39
        for task in result["configs"]:
            metrics = {key.removesuffix(",none"): value for key, value in result["results"][task].items() if key.endswith(",none") and "stderr" not in key}
            assert metrics == dict.fromkeys(of_family[task.split("_")[1]], score), task
        more = {"leaderboard_gpqa_main": n + 1, "leaderboard_gpqa_extended": n + 2, "leaderboard_ifeval": 15}
        assert {task: count["effective"] for task, count in result["n-samples"].items()} == {task: more.get(task, n) for task in result["configs"]}
        board = scores.Board(scores.distil(tmp_path / name))  # what eval.compare makes of these logs
        assert {column: float(value[0]) for column, value in board.scores.items()} == dict.fromkeys(scores.COLUMNS, 100 * score)
