"""The leaderboard's six scores: against published ones, clustering, intervals.  .venv/bin/python -m pytest tests/test_scores.py"""

import json

import boards
import numpy as np
import pytest
from conftest import inside, one_line

from eval import scores
from eval.scores import AVERAGE, MODERN, WITHOUT, Board, scaled

BASE, TUNED = boards.OFFICIAL.values()


@pytest.fixture(scope="module")
def official():
    return Board(boards.whole(BASE), boards.whole(TUNED))


def test_official_raw_runs_give_the_published_scores_to_a_hundredth(official):
    got = {name: [round(float(x), 2) for x in pair] for name, pair in official.scores.items()}
    assert got == {
        "IFEval": [74.08, 64.98],
        "BBH": [28.24, 28.01],
        "MATH Lvl 5": [8.69, 8.46],
        MODERN: [0.0, 10.27],
        "GPQA": [1.23, 0.78],
        "MuSR": [1.6, 2.0],
        "MMLU-Pro": [29.6, 30.02],
        AVERAGE: [23.91, 22.38],
        WITHOUT: [13.87, 13.86],
    }


def test_the_true_change_of_the_papers_llama_is_a_point_and_a_half(official):
    base, tuned = official.scores[AVERAGE]
    assert round(tuned - base, 2) == -1.53
    base, tuned = official.scores[WITHOUT]
    assert round(tuned - base, 2) == -0.02


def test_the_leaderboard_has_39_tasks_and_21606_items():
    assert len(scores.ITEMS) == 39 and sum(scores.ITEMS.values()) == 21_606
    assert sum(n for task, n in scores.ITEMS.items() if "bbh" in task) == 5_761
    assert sum(n for task, n in scores.ITEMS.items() if "math" in task) == 1_324


def test_accuracy_at_and_below_chance_scores_nothing():
    assert scaled(0.25, 0.25) == 0 and scaled(0.1, 0.25) == 0 and scaled(1.0, 0.25) == 100 and scaled(0.625, 0.25) == 50


def test_gpqa_has_1192_rows_of_546_questions(official):
    assert official.sizes("GPQA") == (1192, 546) and official.sizes("IFEval") == (541, 541) and official.sizes(AVERAGE) == (21_606, 20_960)


def test_a_question_that_stands_in_three_sets_widens_the_interval():
    rows = [row for row in boards.whole(BASE) if "gpqa" in row["task"]]
    alone = [row | {"cluster": f"{row['task']}/{row['doc']}"} for row in rows]
    nested, loose = (np.ptp(scores.interval(Board(part).resampled["GPQA"][0])) for part in (rows, alone))
    assert nested > 1.1 * loose


def test_the_same_answers_differ_by_nothing_in_every_resample():
    rows = boards.small({("leaderboard_ifeval", 0), ("leaderboard_mmlu_pro", 1)}, items=4)
    for column in scores.compare(rows, rows).values():
        assert column["difference"][0] == column["below zero"] == column["detectable"] == 0.0
    assert scores.compare(rows, rows)[AVERAGE]["difference"] == [0.0, 0.0, 0.0]


def test_none_right_is_not_certainty():
    """0 of 28 in MATH: the bootstrap alone would say [0, 0]; Wilson's interval reaches to 12.06 %, and Newcombe's of the difference as far either way."""
    rows = boards.small(items=4)
    column = scores.compare(rows, rows)["MATH Lvl 5"]
    assert [round(x, 2) for x in column["tuned"]] == [0.0, 0.0, 12.06] and [round(x, 2) for x in column["difference"]] == [0.0, -12.06, 12.06]


def test_a_column_needs_all_of_its_tasks_and_the_average_all_six():
    rows = [row for row in boards.small() if row["task"] not in ("leaderboard_bbh_snarks", "leaderboard_mmlu_pro")]
    assert list(Board(rows).scores) == ["IFEval", "MATH Lvl 5", MODERN, "GPQA", "MuSR"]


def test_intervals_of_the_difference_cover_the_truth():
    """500 simulated comparisons on 150 narratives of two questions each, right together in 8 of 10; the true difference is known from 500,000."""
    rng, covered, truth = np.random.default_rng(7), 0, None

    def draw(n):
        """(base, tuned) hits of n narratives of three kinds, two questions each."""
        easy = rng.beta(2, 2, (n, 1))
        same = rng.random((n, 1)) < 0.8
        u = np.where(same, rng.random((n, 1)), rng.random((n, 2)))
        return u < 0.55 * easy + 0.3, np.where(rng.random((n, 1)) < 0.7, u, rng.random((n, 2))) < 0.55 * easy + 0.38

    def part(hits):
        return scores.Part(np.stack([side.sum(axis=1) for side in hits]).astype(float), np.full(len(hits[0]), 2.0), 0.5, "x")

    truth = np.diff(part(draw(500_000)).at(np.ones((1, 500_000)))[:, 0])[0]
    for _ in range(500):
        one = part(draw(150))
        base, tuned = one.at(scores.resample(rng, 150, 300))
        low, high = scores.interval(tuned - base)
        covered += low <= truth <= high
    assert covered == 472  # 94.4 %; benchmarks/compare.py prints it for the whole leaderboard


def sample(doc_id: int, metric: dict, **doc) -> dict:
    return {"doc_id": doc_id, "doc": doc, "metrics": list(metric), "doc_hash": "d", "prompt_hash": "p", "target_hash": "t"} | metric


def logs(folder, task, samples, count):
    folder.mkdir(exist_ok=True)
    (folder / "results_2026-11.json").write_text(json.dumps({"n-samples": {task: {"effective": count}}}))
    (folder / f"samples_{task}_2026-11.jsonl").write_text("".join(json.dumps(one) + "\n" for one in samples))
    return folder


def test_a_log_that_lost_an_item_is_refused_and_named(tmp_path):
    folder = logs(tmp_path / "x", "leaderboard_mmlu_pro", [sample(0, {"acc": 1.0}), sample(1, {"acc": 0.0})], 3)
    line = one_line(inside("eval.scores", folder, status=1))
    assert "holds 2 of the 3 items of leaderboard_mmlu_pro" in line and not (folder / "items.jsonl").exists()


def test_metrics_written_as_text_are_read_as_what_they_are(tmp_path):
    metric = {"prompt_level_strict_acc": "False", "inst_level_strict_acc": "[True, False]"}
    (row,) = scores.distil(logs(tmp_path / "x", "leaderboard_ifeval", [sample(7, metric, instruction_id_list=["a", "b"])], 1))
    assert row["prompt_level_strict_acc"] is False and row["inst_level_strict_acc"] == [True, False] and row["instructions"] == ["a", "b"] and row["doc"] == 7


def test_items_hold_no_text_of_a_question(tmp_path):
    folder = logs(tmp_path / "x", "leaderboard_gpqa_main", [sample(0, {"acc_norm": 1.0}, Question="A secret question?")], 1)
    scores.distil(folder)
    assert "secret" not in (folder / "items.jsonl").read_text()


def test_the_task_hash_changes_with_one_prompt_and_not_with_the_order():
    rows = [{"doc": i, "hash": f"h{i}"} for i in range(3)]
    assert scores.task_hash(rows) == scores.task_hash(rows[::-1]) != scores.task_hash([*rows[:2], {"doc": 2, "hash": "other"}])


def test_instructions_are_ordered_by_what_was_lost():
    names = ["a", "b"]
    base = [{"task": "leaderboard_ifeval", "doc": i, "instructions": names, "inst_level_strict_acc": [True, i < 2]} for i in range(4)]
    tuned = [row | {"inst_level_strict_acc": [row["doc"] < 1, True]} for row in base]
    a, b = scores.instructions(base, tuned)
    assert (a["instruction"], a["n"], a["base"], a["tuned"], a["difference"][0]) == ("a", 4, 1.0, 0.25, -0.75)
    assert (b["instruction"], b["base"], b["tuned"], b["difference"][0]) == ("b", 0.5, 1.0, 0.5)
