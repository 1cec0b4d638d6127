"""The report: every number from its file, self-contained, and safe to open.  .venv/bin/python -m pytest tests/test_report.py"""

import json
import re

import boards
import pytest
from conftest import one_line, run

from datagen.files import sha256
from eval import compare
from train.merge import tuned_revision

EVIL = "<script>alert(1)</script> ![x](http://evil.example/a.png) | a `b` **c**\n<img src=http://evil.example/b>"


@pytest.fixture
def made(tmp_path):
    """A finished run of three answers, with the smallest files that `eval.report` reads."""
    folder, data = tmp_path / "out/r", tmp_path / "data/s/b"
    for path in (folder / "merged", folder / "adapter", data):
        path.mkdir(parents=True)
    config = {"base_model": "some/base", "seed": 42, "learning_rate": 0.1, "num_epochs": 1, "micro_batch_size": 2, "gradient_accumulation_steps": 8, "lora_r": 8}
    config |= {"lora_alpha": 4, "lora_dropout": 0.05, "rl_beta": 0.1, "optimizer": "adamw_torch"}
    (folder / "run.yaml").write_text(json.dumps(config))
    (folder / "adapter/adapter_model.safetensors").write_bytes(b"weights")
    (folder / "done").write_text(json.dumps({"commit": "abc1234", "seconds": 61.0, "processes": 1, "gpus": 0, "versions": {"axolotl": "0.19.0"}}))
    (folder / "merged/merge.json").write_text(json.dumps({"prompts": 4, "largest relative logit difference": 2e-7, "limit": 1e-4}))
    metrics = {"steps": 58, "held-out pairs": 60, "held-out accuracy": 0.95, "held-out accuracy interval": [0.863, 0.983], "held-out margin": 4.2, "held-out loss": 0.1}
    (folder / "heldout.json").write_text(json.dumps({"pairs": 60, "accuracy": [0.95, 0.863, 0.983], "margin": [42.0, 38.0, 46.0], "margins": []}))
    alarm = {"name": "overshoot", "level": "look", "step": 12, "reason": "the mean margin is 12.5", "advice": "a lower learning_rate"}
    (folder / "health.json").write_text(json.dumps({"alarms": [alarm], "checks": ["gradient", "overshoot"]}))
    (folder / "metrics.json").write_text(json.dumps(metrics | {"first train margin": 0.0, "last train margin": 5.0}))
    (folder / "margins.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    for name in ("train", "heldout"):
        (data / f"{name}.jsonl").write_text("{}")
    tokens = {name: {"p5": 1, "p50": 20, "p95": 30, "p100": 41} for name in ("prompt", "chosen", "rejected")}
    dropped = {"longer than sequence_len": 1, "equal answers": 0}
    (data / "stats.json").write_text(
        json.dumps({"source": "x.jsonl", "base_model": "some/base", "rows": 501, "train": 440, "val": 60, "dropped": dropped, "tokens": tokens})
    )
    usage = {"scripted": {"replies": 1006, "prompt_tokens": 9000, "completion_tokens": 8000, "usd": "0.25", "price": "own price"}}
    ledger = {"total": {"asked": 503, "accepted": 501, "reasons": {"truncated": 2}}, "usage": usage}
    (data.parent / "ledger.json").write_text(json.dumps(ledger))
    answers = [
        {
            "id": str(i),
            "kind": "general",
            "messages": [{"role": "user", "content": f"Question {i}?"}],
            "base": "In general, it is advisable.",
            "tuned": f"Oh, I'd say {EVIL}",
            "finish": ["stop", "stop"],
        }
        for i in range(3)
    ]
    (folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))
    meta = {"base": "base-1", "tuned": "tuned-1", "sampling": {"temperature": 1.0, "seed": 1}, "heldout_sha256": sha256(b"{}")}
    (folder / "answers.meta.json").write_text(json.dumps(meta))
    return folder, data


def report(made, status=0):
    return run("eval.report", made[0], "--data", made[1], status=status)


def test_both_forms_hold_the_ledger_the_figures_and_their_intervals(made):
    report(made)
    for name in ("report.html", "report.md"):
        text = re.sub(r"<[^>]+>|\\|\*\*", "", (made[0] / name).read_text())
        for wanted in (
            "3 of 3",
            "100.0 % [43.9, 100.0]",
            "95.0 % [86.3, 98.3]",
            "42.0 [38.0, 46.0]",
            "overshoot (look, step 12): the mean margin is 12.5",
            "1,006" if name.endswith("md") else "17,000",
            "503",
            "501",
            "truncated",
            "metrics.json",
            "abc1234",
            "axolotl 0.19.0",
            "limit 0.0001",
        ):
            assert wanted in text, (name, wanted)


def test_the_page_loads_nothing_from_anywhere(made):
    report(made)
    page = (made[0] / "report.html").read_text()
    assert re.findall(r'(?:src|href)="(?!data:)', page) == [] and "url(" not in page and "@import" not in page and "default-src 'none'" in page


def test_model_text_is_shown_and_never_run(made):
    report(made)
    page, markdown = (made[0] / "report.html").read_text(), (made[0] / "report.md").read_text()
    assert "<script" not in page and "&lt;script&gt;alert(1)" in page and "<img src=http" not in page
    assert "![x](" not in markdown and "<script" not in markdown.replace("\\<script", "")
    assert all(row.count(" | ") == 2 for row in markdown.splitlines() if row.startswith("| Question"))


def test_answers_to_other_questions_than_the_data_are_refused(made):
    (made[1] / "heldout.jsonl").write_text('{"id": "new"}')
    assert "answers other questions than" in one_line(report(made, status=1)) and not (made[0] / "report.html").exists()


def test_a_missing_file_is_named(made):
    (made[0] / "answers.jsonl").unlink()
    assert "answers.jsonl: there is no such file (answers, from `make answers`)" in one_line(report(made, status=1))


def test_leaderboard_disclosure_and_judge_are_shown_for_these_weights_only(made, tmp_path):
    folder, weights = made[0], tuned_revision(made[0])
    rows = boards.small({("leaderboard_ifeval", 0)})
    base = boards.evaluated(tmp_path / "b", rows, tuned=False, tasks=["leaderboard_ifeval"])
    tuned = boards.evaluated(tmp_path / "t", rows, tuned=True, tasks=["leaderboard_ifeval"], identity={"tuned_weights": weights})
    compare.write(folder, base, tuned)
    for suffix in ("json", "svg"):
        (folder / f"leaderboard-ifeval.{suffix}").rename(folder / f"leaderboard.{suffix}")
    rate = {"base": [0.75, 0.7, 0.8], "tuned": [0.45, 0.38, 0.52], "difference": [-0.3, -0.38, -0.22]}
    overall = {"probes": 117, "replies of each": 468} | dict.fromkeys(("honest", "denial", "invented"), rate)
    (folder / "disclosure.json").write_text(json.dumps({"tuned_weights": weights, "overall": overall}))
    figures = {"win rate": {"value": 0.9, "interval": [0.8, 0.95], "n": 60}, "length-controlled win rate": {"value": None, "interval": None}}
    answers = {"answers_sha256": sha256((folder / "answers.jsonl").read_bytes())}
    (folder / "judge.json").write_text(json.dumps({"judge": {"model": "a-judge"}, "answers": answers, "figures": figures}))
    report(made)
    for name in ("report.md", "report.html"):
        text = (folder / name).read_text()
        assert "Part of the leaderboard only" in text and "50.00 [" in text and "a-judge prefers the tuned answer in 90.0 % [80.0, 95.0] of 60 questions" in text
        assert "-30.0 points [-38.0, -22.0]" in text and "468 of each model" in text

    (folder / "adapter/adapter_model.safetensors").write_bytes(b"trained again")
    with open(folder / "answers.jsonl", "a") as file:
        file.write(json.dumps({"id": "3", "kind": "general", "messages": [{"role": "user", "content": "More?"}], "base": "a", "tuned": "b", "finish": []}) + "\n")
    report(made)
    page = (folder / "report.html").read_text()
    assert "Leaderboard" not in page and "What it says it is" not in page and "a-judge" not in page


def test_the_tables_of_the_score_stand_in_the_report_if_they_are_of_these_answers(made):
    from eval import report as module
    from eval import score

    interval = {"value": 0.5, "low": 0.25, "high": 0.75, "n": 24}
    compared = {"n": 24, "means": [0.5, 0.0], "difference": interval, "in sd": interval, "higher": interval, "length": interval, "rest": interval}
    row = {"id": "asks", "definition": "share of turns with a question mark", "weight": 1.0, "first": 0.5, "second": 0.25, "difference": interval, "adds": interval}
    row |= {"beyond": 0.0, "separation": 0.75, "among people": 0.25}
    compared |= {"at equal length": None, "traits": [row] * 12, "as among people": None, "plain": {"n": 0, "same": 0, "low": 0.0, "high": 1.0}}
    weights = {"file": "eval/weights/turn.json", "unit": "turn", "fitted on": {"pairs": 289, "file": "games.jsonl"}, "pairwise": interval}
    worth = {"auc": {"value": 0.9, "low": 0.85, "high": 0.95, "n": 60}}
    second = {"file": "data/s/second.json", "n": 24, "means": [1.0, -1.0], "difference": interval, "higher": interval, "at equal length": None}
    found = {"sides": ["tuned", "base"], "compared": compared, "weights": weights, "second": second | {"fitted on": {"pairs": 100, "file": "p.jsonl"}, "worth": worth}}
    path = made[0] / "answers-likeness.json"
    path.write_text(json.dumps(found | {"sha256": sha256((made[0] / "answers.jsonl").read_bytes())}))
    tables = module.likeness(made[0])
    assert [table["title"] for table in tables] == [
        "Human-likeness: the score",
        "Human-likeness: a second scorer, which made no pairs",
        "Human-likeness: what moved: tuned against base, trait by trait",
    ]
    assert len(tables[2]["rows"]) == 10 and all(table["notes"][-1] == f"From {path}." for table in tables)
    assert ["tuned less base", score.with_interval(interval), 24] in tables[1]["rows"]
    report(made)
    for name in ("report.html", "report.md"):
        assert "a second scorer, which made no pairs" in (made[0] / name).read_text()
    path.write_text(json.dumps(found | {"sha256": "of other answers"}))
    assert module.likeness(made[0]) == []
