"""Base against tuned: what is refused, what is shown.  .venv/bin/python -m pytest tests/test_compare.py"""

import json
import shutil

import boards
import pytest
from conftest import inside, one_line

from eval import compare, scores

RIGHT = {("leaderboard_ifeval", 0), ("leaderboard_bbh_snarks", 1), ("leaderboard_musr_team_allocation", 0)}


@pytest.fixture
def pair(tmp_path):
    """(run, base folder, tuned folder) of small items; the tuned model lost one IFEval prompt and won one of MMLU-Pro."""
    for name in compare.DATA_SETS:
        (tmp_path / "items" / name).mkdir(parents=True)
    base = boards.evaluated(tmp_path / "base", boards.small(RIGHT), tuned=False)
    tuned = boards.evaluated(tmp_path / "tuned", boards.small(RIGHT - {("leaderboard_ifeval", 0)} | {("leaderboard_mmlu_pro", 1)}), tuned=True)
    return tmp_path / "out" / "tiny", base, tuned


def edit(folder, name, change):
    path = folder / name
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def rows_of(folder):
    return [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]


def refusal(pair):
    run, base, tuned = pair
    line = one_line(inside("eval.compare", run, "--base", base, "--tuned", tuned, status=1))
    assert line.startswith("error: no difference is shown, because base and tuned were not evaluated alike: ") and not run.exists()
    return line


def test_base_and_tuned_swapped_are_refused(pair):
    run, base, tuned = pair
    assert "base and tuned are swapped" in refusal((run, tuned, base))


def test_two_bases_are_refused(pair):
    run, base, _ = pair
    assert "one of the two has to be the base" in refusal((run, base, base))


def test_one_task_hash_that_differs_is_refused_and_named(pair):
    rows = rows_of(pair[2])
    rows[next(i for i, row in enumerate(rows) if row["task"] == "leaderboard_bbh_navigate")]["hash"] = "other"
    (pair[2] / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "leaderboard_bbh_navigate was asked with other items or prompts (hash " in refusal(pair)


def test_one_item_that_is_missing_is_refused_and_counted(pair):
    rows = [row for row in rows_of(pair[2]) if (row["task"], row["doc"]) != ("leaderboard_gpqa_main", 1)]
    (pair[2] / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "leaderboard_gpqa_main has 2 items against 1" in refusal(pair)


def test_a_task_that_is_missing_is_refused(pair):
    rows = [row for row in rows_of(pair[1]) if row["task"] != "leaderboard_mmlu_pro"]
    (pair[1] / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert "tasks of one only: leaderboard_mmlu_pro" in refusal(pair)


def test_the_wrong_antlr_is_refused_even_where_both_have_it(pair):
    for folder in pair[1:]:
        edit(folder, "settings.json", lambda value: value["versions"].update({"antlr4-python3-runtime": "4.13.2"}))
    assert "was scored with antlr 4.13.2, with which the paper's MATH column is silently 0" in refusal(pair)


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("settings.json", lambda v: v["versions"].update(lm_eval="0.4.13"), "version of lm_eval: 0.4.11 against 0.4.13"),
        ("settings.json", lambda v: v.update(seed=[1, 2, 3, 4]), "seed: [0, 1234, 1234, 1234] against [1, 2, 3, 4]"),
        ("settings.json", lambda v: v.update(limit=5), "limit: None against 5"),
        ("settings.json", lambda v: v.update(backend="vllm"), "backend: hf against vllm"),
        ("settings.json", lambda v: v.update(fewshot_as_multiturn=False), "fewshot_as_multiturn: True against False"),
        ("settings.json", lambda v: v["model_args"].update(dtype="bfloat16"), "dtype: float32 against bfloat16"),
        ("settings.json", lambda v: v["items"].update(hash="j"), "items: i against j"),
        ("settings.json", lambda v: v["identity"].update(base_weights="v"), "the base's weights: w against v"),
        ("results_2026.json", lambda v: v.update(chat_template_sha="u"), "chat_template_sha: t against u"),
        ("results_2026.json", lambda v: v["versions"].update(leaderboard_ifeval=2.0), "versions: {'leaderboard_ifeval': 3.0} against {'leaderboard_ifeval': 2.0}"),
    ],
)
def test_whatever_else_differs_is_refused_with_both_values(pair, file, change, said):
    edit(pair[2], file, change)
    assert said in refusal(pair)


def test_an_evaluation_that_has_not_ended_is_refused(pair):
    (pair[2] / "done").unlink()
    assert "has not come to its end" in one_line(inside("eval.compare", pair[0], "--base", pair[1], "--tuned", pair[2], status=1))


def test_too_few_items_of_the_real_leaderboard_are_refused(pair):
    for folder in pair[1:]:
        edit(folder, "settings.json", lambda value: value.update(items=None))
    assert "leaderboard_ifeval has 2 items, the leaderboard 541; " in refusal(pair) and "36 more tasks like this" in refusal(pair)


def test_what_was_made_before_stays_when_a_comparison_is_refused(pair):
    run, base, tuned = pair
    run.mkdir(parents=True)
    (run / "leaderboard.json").write_text("old")
    edit(tuned, "settings.json", lambda value: value.update(limit=3))
    inside("eval.compare", run, "--base", base, "--tuned", tuned, status=1)
    assert [path.name for path in run.iterdir()] == ["leaderboard.json"] and (run / "leaderboard.json").read_text() == "old"


def test_the_tables_hold_the_scores_the_intervals_and_where_they_came_from(pair):
    run, base, tuned = pair
    done = inside("eval.compare", run, "--base", base, "--tuned", tuned)
    found, text, page = json.loads((run / "leaderboard.json").read_text()), (run / "leaderboard.md").read_text(), (run / "leaderboard.html").read_text()
    assert list(found["columns"]) == list(scores.COLUMNS) and found["kind"] == "machinery"
    ifeval, mmlu = found["columns"]["IFEval"], found["columns"]["MMLU-Pro"]
    assert (ifeval["base"][0], ifeval["tuned"][0], ifeval["difference"][0], ifeval["items"]) == (50.0, 0.0, -50.0, 2)
    assert round(mmlu["difference"][0], 2) == 44.44  # one of two right, chance 1 in 10
    assert found["average difference"] == found["columns"]["Average"]["difference"] and found["files"] == {"base": str(base), "tuned": str(tuned)}
    for shown in (text, page):
        assert "check of the machinery" in shown and "-50.00 [-100.00, +0.00]" in shown and str(base) in shown
    assert "punctuation:no_comma" in page and "https://" not in page and 'src="data:image/svg' in page
    assert "IFEval" in done.stdout and (run / "leaderboard.csv").read_text().splitlines()[1].startswith("IFEval,50.0,")


def test_a_model_of_the_paper_gets_the_papers_numbers_beside_its_own(tmp_path):
    base = boards.evaluated(tmp_path / "b", boards.small(RIGHT), tuned=False, items=False, tasks=["leaderboard_ifeval"])
    tuned = boards.evaluated(tmp_path / "t", boards.small(RIGHT), tuned=True, items=False, tasks=["leaderboard_ifeval"])
    run = tmp_path / "llama3-8b+lora-r64"
    inside("eval.compare", run, "--base", base, "--tuned", tuned)
    text = (run / "leaderboard-ifeval.md").read_text()
    assert "| IFEval | 74.08 | 64.97 | -9.11 |" in text and "23.905" in text and json.loads((run / "leaderboard-ifeval.json").read_text())["kind"] == "partial"


def test_a_part_does_not_take_the_place_of_the_whole(pair):
    run, base, tuned = pair
    inside("eval.compare", run, "--base", base, "--tuned", tuned)
    whole = (run / "leaderboard.json").read_bytes()
    for folder in (base, tuned):
        edit(folder, "settings.json", lambda value: value.update(items=None, tasks=["leaderboard_ifeval", "/x/eval/guards/refusals.yaml"], limit=50))
    inside("eval.compare", run, "--base", base, "--tuned", tuned)
    assert (run / "leaderboard.json").read_bytes() == whole and (run / "leaderboard-ifeval-refusals-50.json").exists()


def test_the_real_leaderboard_is_called_so_only_at_its_full_size(tmp_path):
    counts = dict(scores.ITEMS)
    assert compare.kind({"items": None}, counts) == "leaderboard"
    assert compare.kind({"items": None}, counts | {"leaderboard_ifeval": 540}) == "partial"


def test_the_same_folders_give_the_same_files_byte_for_byte(pair):
    run, base, tuned = pair
    names = ("leaderboard.json", "leaderboard.md", "leaderboard.html", "leaderboard.csv", "leaderboard.svg")
    inside("eval.compare", run, "--base", base, "--tuned", tuned)
    first = {name: (run / name).read_bytes() for name in names}
    shutil.rmtree(run)
    inside("eval.compare", run, "--base", base, "--tuned", tuned)
    assert {name: (run / name).read_bytes() for name in names} == first


def test_other_tasks_are_compared_by_their_own_metrics(tmp_path):
    rows = [{"task": "truthfulqa_mc1", "doc": i, "hash": "h", "cluster": f"c{i}", "acc": float(i < 3)} for i in range(4)]
    base = boards.evaluated(tmp_path / "b", rows, tuned=False, tasks=["truthfulqa_mc1"])
    tuned = boards.evaluated(tmp_path / "t", [row | {"acc": 1.0} for row in rows], tuned=True, tasks=["truthfulqa_mc1"])
    found = compare.write(tmp_path / "tiny", base, tuned)
    (row,) = found["others"]
    assert (row["task"], row["metric"], row["n"], row["base"][0], row["tuned"][0], row["difference"][0]) == ("truthfulqa_mc1", "acc", 4, 0.75, 1.0, 0.25)
    assert found["columns"] == {} and found["average difference"] is None
