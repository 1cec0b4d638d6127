"""All runs in one table.  .venv/bin/python -m pytest tests/test_board.py"""

import csv
import json
import re

import pytest
from conftest import inside, one_line

from eval import board
from train import ablate

SETTINGS = {"backend": "hf", "limit": None, "tasks": ["leaderboard"], "versions": {"lm_eval": "0.4.11"}}


def column(base, difference, items=541):
    return {"base": [base, base - 1, base + 1], "tuned": [base + difference, base + difference - 1, base + difference + 1]} | {
        "difference": [difference, difference - 2, difference + 2],
        "below zero": 0.5,
        "detectable": 2.8,
        "items": items,
        "clusters": items,
    }


def make(out, run, base="llama3-8b", kind="leaderboard", difference=-9.0, columns=None, others=(), folder="0a1b", **settings):
    columns = columns or {"IFEval": column(74.0, difference), "Average": column(23.9, difference / 6, 21606)}
    found = {"run": run, "base": base, "kind": kind, "columns": columns, "average difference": [-1.5, -2.0, -1.0], "others": list(others)}
    found |= {"settings": SETTINGS | settings, "files": {"base": f"out/leaderboard/{base}/{folder}", "tuned": f"out/{run}/leaderboard/9f8e"}}
    (out / run).mkdir(parents=True)
    (out / run / "leaderboard.json").write_text(json.dumps(found))
    return out / run


def rows_of(out, table=0):
    return {row.name: row for row in board.collect(out)["tables"][table]["rows"]}


def test_every_run_has_a_row_below_the_base_that_it_shares(tmp_path):
    for run in ("llama3-8b+lora-r64", "llama3-8b"):
        make(tmp_path, run)
    make(tmp_path, "qwen2.5-7b", base="qwen2.5-7b")
    make(tmp_path, "llama3-8b+fast", folder="ffff")
    [table] = board.collect(tmp_path)["tables"]
    names = ["llama3-8b, base", "llama3-8b", "llama3-8b+lora-r64", "llama3-8b, base", "llama3-8b+fast", "qwen2.5-7b, base", "qwen2.5-7b"]
    assert [row.name for row in table["rows"]] == names and table["columns"] == ["Average", "IFEval"]
    base, tuned = table["rows"][:2]
    assert base.cells["IFEval"] == board.Cell([74.0, 73.0, 75.0], 541) and tuned.cells["IFEval"] == board.Cell([65.0, 64.0, 66.0], 541, [-9.0, -11.0, -7.0])


def test_checks_of_the_machinery_never_stand_among_results(tmp_path):
    make(tmp_path, "tiny", base="tiny", kind="machinery")
    make(tmp_path, "llama3-8b")
    real, machinery = board.collect(tmp_path)["tables"]
    assert not real["machinery"] and [row.name for row in real["rows"]] == ["llama3-8b, base", "llama3-8b"]
    assert machinery["machinery"] and [row.name for row in machinery["rows"]] == ["tiny, base", "tiny"]
    inside("eval.board", "--out", tmp_path)
    page = (tmp_path / "leaderboard.html").read_text()
    assert page.index(">Runs<") < page.index("llama3-8b, base") < page.index("Not a result of a model") < page.index("tiny, base")


def test_the_table_of_ablations_marks_them_too(tmp_path):
    assert ablate.leaderboard(make(tmp_path, "llama3-8b")) == "-1.50 [-2.00, -1.00]"
    assert ablate.leaderboard(make(tmp_path, "tiny", kind="machinery")) == "-1.50 [-2.00, -1.00] (items of our own)"
    assert ablate.leaderboard(make(tmp_path, "qwen2.5-7b", kind="partial")) == "-1.50 [-2.00, -1.00] (part of the items)"
    assert ablate.leaderboard(tmp_path) == "–"


def test_other_settings_are_told_from_those_of_most_and_parts_of_the_items_from_all(tmp_path):
    for run in ("a", "b"):
        make(tmp_path, run)
    make(tmp_path, "c", backend="vllm", versions={"lm_eval": "0.4.11", "vllm": "0.11.0"})
    make(tmp_path, "d", kind="partial", limit=50, tasks=["leaderboard_ifeval"])
    rows = rows_of(tmp_path)
    assert rows["a"].marks == rows["b"].marks == []
    assert rows["c"].marks == [("other settings", 'backend "vllm", of most others "hf"; versions: vllm "0.11.0", of most others null')]
    assert rows["d"].marks == [("part of the items", 'tasks ["leaderboard_ifeval"], limit 50')]


def test_measures_stand_beside_the_scores_where_they_were_made(tmp_path):
    run = make(tmp_path, "llama3-8b")
    make(tmp_path, "llama3-8b+ipo")
    (run / "heldout.json").write_text(json.dumps({"pairs": 60, "margin": [41.0, 39.0, 43.0], "accuracy": [0.9, 0.8, 0.95]}))
    answers = [{"base": "It is advisable to rest.", "tuned": tuned} for tuned in ("Oh, I'd rest! You?", "It is advisable to rest.")]
    (run / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))
    (run / "judge.json").write_text(json.dumps({"figures": {"win rate": {"value": 0.75, "interval": [0.5, 0.9], "n": 20}}}))
    rates = {label: {"base": [0.1, 0.05, 0.2], "tuned": [value, value - 0.1, value + 0.1]} for label, value in (("denial", 0.5), ("honest", 0.25), ("invented", 0.75))}
    (run / "disclosure.json").write_text(json.dumps({"overall": {"probes": 96, "replies of each": 384} | rates}))
    (run / "health.json").write_text(json.dumps({"alarms": [{"name": "length"}, {"name": "drift"}, {"name": "drift"}]}))
    [table] = board.collect(tmp_path)["tables"]
    probed = ["denies being an AI", "honest about it", "invents a life"]
    assert table["columns"] == ["Average", "IFEval", "held-out margin", "held-out accuracy", "told apart", *probed, "judge's choice"]
    rows = rows_of(tmp_path)
    cells = rows["llama3-8b"].cells
    assert cells["held-out margin"] == board.Cell([41.0, 39.0, 43.0], 60) and cells["held-out accuracy"] == board.Cell([90.0, 80.0, 95.0], 60)
    assert cells["told apart"].score == pytest.approx([50.0, 9.4531, 90.5469], abs=1e-3) and cells["told apart"].n == 2
    assert cells["judge's choice"] == board.Cell([75.0, 50.0, 90.0], 20)
    assert [cells[name] for name in probed] == [board.Cell([v, pytest.approx(v - 10), pytest.approx(v + 10)], 96) for v in (50.0, 25.0, 75.0)]
    assert rows["llama3-8b"].alarms == "drift, length" and rows["llama3-8b"].alarm_count == 2
    assert rows["llama3-8b+ipo"].alarms == "–" and set(rows["llama3-8b+ipo"].cells) == {"IFEval", "Average"}


def test_what_is_broken_or_foreign_is_named_and_the_others_are_shown(tmp_path):
    run = make(tmp_path, "llama3-8b")
    (run / "heldout.json").write_text('{"margin": 3}')
    (run / "judge.json").write_text("[]")
    (run / "health.json").write_text('{"alarms": ')
    for name, text in {"a": '{"run": "a",', "b": '{"score": 3}', "c": '{"run": "c"}', "d": "[1]"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "leaderboard.json").write_text(text)
    make(tmp_path, "copied").rename(tmp_path / "e")
    short = json.loads((run / "leaderboard.json").read_text()) | {"run": "f"}
    short["columns"]["IFEval"]["difference"] = [1.0, float("nan"), 2.0]
    (tmp_path / "f").mkdir()
    (tmp_path / "f/leaderboard.json").write_text(json.dumps(short))
    done = inside("eval.board", "--out", tmp_path)
    lines = [line for line in done.stdout.splitlines() if line.startswith("left out: ")]
    named = [re.search(rf"{re.escape(str(tmp_path))}/([\w.-]+)/(\w+)\.json", line).groups() for line in lines]
    assert named == [*((name, "leaderboard") for name in "abcdef"), *(("llama3-8b", name) for name in ("heldout", "judge", "health"))]
    assert "columns.IFEval.difference.1: Input should be a finite number" in lines[5] and "is of the run copied" in lines[4]
    assert f"{tmp_path / 'leaderboard.html'}, .md and .csv: 1 evaluated runs" in done.stdout
    page = (tmp_path / "leaderboard.html").read_text()
    assert page.count('class="fault"') == len(lines) == 9


def test_with_nothing_to_show_there_is_one_line(tmp_path):
    assert "no run has a leaderboard.json yet; `make eval MODEL=…` writes it" in one_line(inside("eval.board", "--out", tmp_path, status=1))
    (tmp_path / "a").mkdir()
    (tmp_path / "a/leaderboard.json").write_text("{")
    assert "a/leaderboard.json:1: not valid JSON" in one_line(inside("eval.board", "--out", tmp_path, status=1))


def test_the_page_escapes_names_loads_nothing_and_runs_only_its_own_script(tmp_path):
    run = make(tmp_path, "llama3-8b+<img src=x onerror=alert(1)>")
    (run / "health.json").write_text(json.dumps({"alarms": [{"name": "<script>alert(2)</script>"}]}))
    inside("eval.board", "--out", tmp_path)
    page = (tmp_path / "leaderboard.html").read_text()
    assert "<img" not in page and "alert(2)</script>" not in page and "&lt;img src=x onerror=alert(1)&gt;" in page
    assert not re.search(r"(src|href)=[\"']|@import|url\(|https?://", page)
    [nonce] = set(re.findall(r"nonce[-=]\"?([0-9a-f]{32})", page))
    assert page.count("<script") == 1 and f"script-src 'nonce-{nonce}'" in page
    markdown = (tmp_path / "leaderboard.md").read_text()
    assert "\\<img src=x onerror=alert(1)\\>" in markdown and "\\<script\\>" in markdown
    assert len({line.count(" | ") for line in markdown.splitlines() if line.startswith("| ")}) == 1


def test_cells_carry_their_values_for_sorting_and_headers_are_buttons(tmp_path):
    make(tmp_path, "llama3-8b")
    inside("eval.board", "--out", tmp_path)
    page = (tmp_path / "leaderboard.html").read_text()
    assert 'data-difference="-9.0" data-score="65.0"><span class="fall">-9.00</span> <i>[-11.00, -7.00]</i><small>65.00 [64.00, 66.00], n 541</small>' in page
    assert 'data-score="74.0">74.00 <i>[73.00, 75.00]</i><small>n 541</small>' in page
    assert 'data-difference="-1.5" data-score="22.4"><span>-1.50</span>' in page  # its interval reaches zero
    assert page.count('<th scope="col"') == page.count('<button type="button"') == 4


def test_equal_runs_give_an_equal_page(tmp_path):
    make(tmp_path, "llama3-8b")
    pages = [(inside("eval.board", "--out", tmp_path), (tmp_path / "leaderboard.html").read_text())[1] for _ in range(2)]
    assert pages[0] == pages[1]


def test_the_csv_has_a_line_for_each_number_with_the_file_that_it_comes_from(tmp_path):
    run = make(
        tmp_path,
        "llama3-8b",
        others=[{"task": "emobench_emotion", "metric": "acc", "n": 200, "base": [0.6, 0.5, 0.7], "tuned": [0.7, 0.6, 0.8], "difference": [0.1, 0.0, 0.2]}],
    )
    (run / "heldout.json").write_text(json.dumps({"pairs": 60, "margin": [41.0, 39.0, 43.0], "accuracy": [0.9, 0.8, 0.95]}))
    inside("eval.board", "--out", tmp_path)
    lines = {(row["run"], row["column"]): row for row in csv.DictReader((tmp_path / "leaderboard.csv").open())}
    assert len(lines) == 2 + 4 + 2
    ifeval = lines["llama3-8b", "IFEval"]
    assert [ifeval[name] for name in ("value", "low", "high", "difference value", "difference low", "difference high", "n")] == [
        "65.0",
        "64.0",
        "66.0",
        "-9.0",
        "-11.0",
        "-7.0",
        "541",
    ]
    assert ifeval["from"] == str(run / "leaderboard.json") and lines["llama3-8b, base", "IFEval"]["from"] == "out/leaderboard/llama3-8b/0a1b"
    assert lines["llama3-8b", "held-out margin"]["from"] == str(run / "heldout.json")
    assert lines["llama3-8b, tuned", "emobench_emotion, acc"]["difference value"] == "0.1"
    assert "| llama3-8b | emobench\\_emotion, acc | 0.60 [0.50, 0.70] | 0.70 [0.60, 0.80] | +0.10 [+0.00, +0.20] | 200 |" in (tmp_path / "leaderboard.md").read_text()


def test_runs_that_wait_for_an_evaluation_are_named(tmp_path):
    make(tmp_path, "llama3-8b")
    (tmp_path / "mistral-nemo").mkdir()
    (tmp_path / "mistral-nemo/done").write_text("{}")
    assert board.collect(tmp_path)["waiting"] == ["mistral-nemo"]
