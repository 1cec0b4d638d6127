"""Alarms on recorded and hand-made logs, data and answers, and a run that is ended by one.  .venv/bin/python -m pytest tests/test_health.py"""

import csv
import json
import os
import re
import time

import pytest
import yaml
from conftest import ROOT, inside, one_line

from train import health, launch
from train.health import Alarm, Facts, Watch, check
from train.monitor import log_rows, smooth

CONFIG = {"rl": "dpo", "rl_beta": 0.1, "micro_batch_size": 16, "gradient_accumulation_steps": 2, "learning_rate": 1e-3, "warmup_steps": 2, "logging_steps": 1}
RECIPE = CONFIG | {"effective batch": 32}
FRIEND, OFFICE = "Oh, I love tea! Don't you?<|end|>", "It is generally held that tea is pleasant to various individuals.<|end|>"


def settings(name: str) -> dict:
    """What a recorded run was trained with (tests/logs/README.md)."""
    config = yaml.safe_load((ROOT / "axolotl/tiny.yaml").read_text())
    return config | {"learning_rate": 0.35} if name == "hot" else config


def recorded(name: str) -> tuple[list[dict], Facts]:
    """A real training's log, and what else was known of it."""
    log = json.loads((ROOT / f"tests/logs/{name}.json").read_text())
    answers = {column: "x" * round(letters) for column, letters in log["letters of held-out answers"].items()}
    config = settings(name)
    stats = {"train": log["train"], "val": log["val"], "dropped": {}}
    return log_rows(log["log_history"]), Facts(config=config, recipe=config | {"effective batch": 16}, processes=1, stats=stats, val=[answers])


def fired(rows: list[dict], facts: Facts) -> list[tuple[str, str, int | None]]:
    return [(alarm.name, alarm.level, alarm.step) for alarm in check(rows, facts).alarms]


def test_the_log_of_a_healthy_run_fires_nothing():
    watch = check(*recorded("healthy"))
    assert watch.alarms == []
    assert {check.__name__ for check in (*health.STEP_CHECKS, *health.END_CHECKS, health.settings)} - watch.made == {"shortcut"}  # too small a set


def test_the_log_of_a_run_with_a_hundredfold_learning_rate_fires_the_moment_it_breaks():
    alarms = fired(*recorded("hot"))
    assert alarms[:2] == [("gradient-spike", "look", 4), ("gradient-explosion", "stop", 5)]
    assert {("overshoot", "stop", 7), ("both-falling", "stop", 7)} <= set(alarms)


def test_the_log_of_a_run_on_ten_rows_repeated_says_that_it_learnt_them_by_heart():
    assert fired(*recorded("duplicated")) == [("memorised", "look", 22)]


def test_the_log_of_a_run_with_swapped_columns_says_before_its_first_step_that_the_base_prefers_them():
    assert fired(*recorded("swapped")) == [("base-prefers-chosen", "look", 0), ("both-falling", "look", 14)]


# ---------------------------------------------------------------- hand-made logs: a run of 100 steps an epoch, sound but for what a test changes


def sound(step: int, **changes) -> dict:
    values = {"loss": 0.6, "margin": 0.2, "accuracy": 0.8, "reward_chosen": 0.1, "reward_rejected": -0.1, "logp_chosen": -49.0, "logp_rejected": -51.0}
    rate = 1e-3 * min(1, (step - 1) / 2)
    return {"step": step, "epoch": step / 100, "split": "train", **values, "grad_norm": 1.0, "learning_rate": rate} | changes


def held(step: int, **changes) -> dict:
    return sound(step) | {"split": "val", "grad_norm": "", "learning_rate": ""} | changes


def facts(**changes) -> Facts:
    known = dict(
        config=CONFIG, recipe=RECIPE, processes=1, stats={"rows": 3300, "train": 3200, "val": 100, "dropped": {}}, val=[{"chosen": "x" * 50, "rejected": "x" * 60}]
    )
    return Facts(**(known | changes))


def log(n: int = 8, **changes: dict) -> list[dict]:
    """n sound steps; `s3={...}` changes step 3."""
    return [sound(step, **changes.get(f"s{step}", {})) for step in range(1, n + 1)]


def only(alarms: list[tuple], *expected: tuple) -> None:
    assert alarms == list(expected), alarms


def test_a_sound_log_fires_nothing():
    only(fired([held(0), *log(20), held(20), *[sound(step) for step in range(21, 40)]], facts()))


@pytest.mark.parametrize("column", ["loss", "grad_norm", "margin", "logp_chosen"])
@pytest.mark.parametrize("value", ["nan", float("inf")])
def test_a_number_that_is_none_stops_the_run_whatever_its_column(column, value):
    assert ("not-finite", "stop", 5) in fired(log(s5={column: value}), facts())


def test_a_gradient_norm_that_jumps_once_is_looked_at_and_one_that_stays_up_is_grave():
    only(fired(log(s6={"grad_norm": 10.1}), facts()), ("gradient-spike", "look", 6))
    only(fired(log(s6={"grad_norm": 9.9}), facts()))
    only(fired(log(s6={"grad_norm": 11}, s7={"grad_norm": 11}), facts()), ("gradient-spike", "look", 6), ("gradient-explosion", "stop", 7))


def right(first: int, last: int) -> dict:
    return {f"s{step}": {"accuracy": 1.0} for step in range(first, last + 1)}


def test_a_hundred_pairs_ranked_rightly_before_a_tenth_of_an_epoch_are_a_shortcut():
    only(fired(log(10, **right(5, 8)), facts()), ("style-shortcut", "look", 8))
    only(fired(log(10, **right(5, 7)), facts()))  # three batches of 32 are 96 pairs
    only(fired(log(16, **right(11, 16)), facts()))  # late is no shortcut


def test_many_tiny_batches_make_a_window_and_one_lucky_batch_none():
    assert Facts(config={"micro_batch_size": 2}).window == 50 and Facts(config={"micro_batch_size": 200}).window == 3


def test_a_set_too_small_for_the_shortcut_check_says_so():
    watch = check(log(), facts(train=[{"prompt": str(i), "chosen": FRIEND, "rejected": OFFICE} for i in range(500)], stats=None))
    assert watch.skipped["shortcut"] == "a tenth of 500 rows is fewer than 100 pairs"


def fallen(chosen: float, rejected: float) -> dict:
    return {"reward_chosen": chosen, "reward_rejected": rejected, "margin": chosen - rejected, "logp_chosen": -50 + chosen / 0.1}


def test_both_log_probabilities_falling_is_told_by_how_far_the_chosen_answers_fell():
    def every(**changes):
        return [sound(step) | changes for step in range(1, 9)]

    only(fired(every(**fallen(-0.6, -1.5)), facts()), ("both-falling", "look", 4))
    only(fired(every(**fallen(-0.4, -1.5)), facts()))  # 4 of 50 nats
    only(fired(every(**fallen(-0.6, 0.1)), facts()))  # the other way round is no displacement
    only(fired(every(**fallen(-3.0, -4.0)), facts()), ("both-falling", "stop", 4))


def test_a_fall_within_its_noise_is_no_alarm():
    rows = [sound(step) | fallen(-4.0 if step % 4 == 0 else 0.5, -1.5) for step in range(1, 9)]
    only(fired(rows, facts()))


def test_a_margin_beyond_what_the_pairs_can_teach_is_an_overshoot():
    def every(margin):
        return [sound(step) | {"margin": margin} for step in range(1, 9)]

    only(fired(every(9.9), facts()))
    only(fired(every(12.0), facts()), ("overshoot", "look", 4))
    only(fired(every(40.0), facts()), ("overshoot", "stop", 4))
    assert "odds have moved by 400 nats" in check(every(40.0), facts()).alarms[0].reason


def test_rewards_of_another_loss_are_not_read_as_those_of_dpo():
    rows = [sound(step) | fallen(-3.0, -4.0) | {"margin": 40} for step in range(1, 9)]
    watch = check(rows, facts(config=CONFIG | {"rl": "orpo"}))
    assert (
        watch.alarms == [] and watch.skipped["overshoot"] == watch.skipped["both_falling"] == "rewards of rl: orpo with the loss ['sigmoid'] are not read as those of DPO"
    )


def test_held_out_pairs_that_get_worse_between_evaluations_are_told():
    def two(**second):
        return [held(0, accuracy=0.0), *log(8), held(8, accuracy=0.9, margin=0.2), *[sound(step) for step in range(9, 17)], held(16, **second)]

    only(fired(two(accuracy=0.7, margin=0.2), facts()), ("held-out-falling", "look", 16))
    only(fired(two(accuracy=0.85, margin=0.2), facts()))  # 90 and 85 of 100 are not told apart
    only(fired(two(accuracy=0.9, margin=0.15), facts()), ("held-out-falling", "look", 16))
    only(fired(two(accuracy=0.9, margin=0.19), facts()))  # a twentieth


def test_held_out_pairs_ranked_worse_than_chance_stop_the_run():
    only(fired([*log(8), held(8, accuracy=0.3, margin=-0.5)], facts()), ("held-out-reversed", "stop", 8))


def test_an_evaluation_no_better_than_chance_at_the_end_is_nothing_learnt():
    only(fired([*log(8), held(8, accuracy=0.55)], facts()), ("nothing-learnt", "look", 8))


def test_a_learning_rate_other_than_the_recipes_is_told_too_high_at_once_and_too_low_at_the_end():
    only(fired(log(s5={"learning_rate": 2e-3}), facts()), ("learning-rate", "stop", 5))
    low = {f"s{step}": {"learning_rate": 1e-4} for step in range(1, 9)}
    only(fired(log(**low), facts()), ("learning-rate", "stop", 8))
    only(fired(log(), facts(config=CONFIG | {"learning_rate": 2e-3})), ("learning-rate", "stop", None))


def stretched(steps: int) -> list[dict]:
    return [sound(step) | {"epoch": round(step / steps, 4)} for step in range(1, 41)]


def test_steps_that_do_not_fit_rows_and_batch_are_told_apart_by_how():
    only(fired(stretched(99), facts()))
    assert fired(stretched(200), facts())[0] == ("effective-batch", "stop", 3)  # half the batch
    assert fired(stretched(50), facts())[0] == ("effective-batch", "stop", 3)  # twice the batch
    alarm = check(stretched(80), facts()).alarms[0]
    assert (alarm.name, alarm.level) == ("rows-dropped", "stop") and "about 640 rows are not trained on" in alarm.reason


def test_an_effective_batch_other_than_the_recipes_is_told_before_the_first_step():
    only(fired([], facts(config=CONFIG | {"micro_batch_size": 8})), ("effective-batch", "stop", None))


# ---------------------------------------------------------------- data and answers


def pairs(n: int, chosen: str = FRIEND, rejected: str = OFFICE) -> list[dict]:
    return [{"prompt": f"question {i}", "chosen": chosen, "rejected": rejected} for i in range(n)]


def of_data(train: list[dict], /, **stats) -> list[tuple[str, str]]:
    made = facts(train=train, stats={"rows": len(train) + 10, "train": len(train), "val": 10, "dropped": {}} | stats)
    return [(alarm.name, alarm.level) for alarm in Watch(made).data()]


def test_sound_data_fires_nothing():
    assert of_data(pairs(40)) == []


@pytest.mark.parametrize("end", ["<|end|>", "<|eot_id|>", "</s>", "<|im_end|>\n"])
def test_an_answer_of_one_character_before_its_end_of_turn_is_found(end):
    assert of_data([*pairs(19), *pairs(1, chosen=f">{end}")[:1]]) == [("one-character-answers", "look")]
    assert of_data([*pairs(10), *pairs(5, chosen=f">{end}")])[0] == ("one-character-answers", "stop")


def test_copies_of_rows_are_counted():
    assert of_data(pairs(10) * 34) == [("duplicated-rows", "stop")]
    assert of_data([*pairs(40), *pairs(4)]) == [("duplicated-rows", "look")]
    assert of_data([*pairs(40), *pairs(2)]) == []
    assert of_data([row | {"chosen": f"Oh, {i} is fun!"} for i, row in enumerate(pairs(1) * 40)]) == []  # one question, many answers


def test_columns_that_are_equal_or_swapped_are_found():
    assert of_data([*pairs(39), *pairs(1, rejected=FRIEND)]) == [("identical-columns", "look")]
    assert of_data(pairs(40, OFFICE, FRIEND)) == [("swapped-columns", "stop")]
    assert of_data([*pairs(25), *pairs(40, OFFICE, FRIEND)[25:]]) == []  # 15 of 40 the other way: not beyond doubt


def test_rows_that_were_dropped_or_cut_off_are_told():
    assert of_data(pairs(40), rows=60, dropped={"longer than sequence_len": 10}) == [("rows-dropped", "look")]
    assert of_data(pairs(40), rows=90, dropped={"outside the half that was asked for": 40}) == []
    assert of_data(pairs(40), train=45) == [("rows-dropped", "stop")]


def of_answers(base: str, tuned: str, chosen: str) -> list[tuple[str, str]]:
    answers = [{"base": base, "tuned": tuned}] * 30
    return [(alarm.name, alarm.level) for alarm in Watch(facts(answers=answers, heldout=[{"chosen": chosen}] * 30)).answers()]


def test_answers_longer_than_the_bases_and_than_those_it_learnt_from_are_told():
    base, tuned = "word " * 40, "oh " * 60
    assert of_answers(base, tuned, "word " * 40) == [("longer-answers", "look")]
    assert of_answers(base, tuned, "word " * 60) == []  # as long as it was taught to be
    assert of_answers(base, "oh " * 42, "word " * 30) == []


def test_a_tuned_model_that_became_more_formal_is_told():
    assert of_answers(FRIEND, OFFICE, OFFICE) == [("formal-direction", "stop")]
    assert of_answers(OFFICE, FRIEND, FRIEND) == []


# ---------------------------------------------------------------- figures


def texts(figure) -> str:
    """The words of an SVG, which are comments there: the letters themselves are outlines."""
    return " ".join(re.findall(r"<!-- (.*?) -->", figure.read_text()))


def test_a_run_is_drawn_with_everything_the_trainer_measures(tmp_path):
    run = make_run(tmp_path)
    inside("train.monitor", "out/r", "--data", "data/d", cwd=tmp_path)
    shown = texts(run / "training.svg")
    for panel in ("margin", "rewards", "log-probabilities", "ranked rightly", "loss", "gradient norm", "learning rate", "r: 22 steps in 77 s"):
        assert panel in shown
    assert "not logged" not in shown and (run / "training.png").read_bytes()[:4] == b"\x89PNG" and (run / "margins.svg").exists()
    assert set(re.findall(r"stroke: #(\w{6})", (run / "training.svg").read_text())) - {"000000", "b0b0b0"} == {"0072b2", "009e73", "d55e00"}
    assert len((run / "metrics.csv").read_text().splitlines()) == 1 + 22 + 3 and json.loads((run / "metrics.json").read_text())["seconds"] == 77.3


def test_several_runs_are_drawn_together_over_their_epochs_with_the_numbers_beside(tmp_path):
    for name in ("healthy", "hot"):
        make_run(tmp_path / name, name).rename(tmp_path / f"out-{name}")
    done = inside("train.monitor", "--together", "out-healthy", "out-hot", "--out", "margins-together.svg", cwd=tmp_path)
    assert done.stdout == "the margins of 2 runs: margins-together.svg, with .png and .csv\n"
    assert "out-healthy" in texts(tmp_path / "margins-together.svg") and (tmp_path / "margins-together.png").read_bytes()[:4] == b"\x89PNG"
    rows = list(csv.DictReader((tmp_path / "margins-together.csv").open()))
    assert len(rows) == 2 * 25 and rows[-1] == {"run": "out-hot", "step": "22", "epoch": "1.0", "split": "val", "margin": "56.586"}


def test_two_runs_of_one_name_are_not_drawn_as_one(tmp_path):
    assert "two runs have the same name: r, r" in one_line(inside("train.monitor", "--together", "a/r", "b/r", cwd=tmp_path, status=1))


def test_a_crowd_of_values_is_shown_with_its_moving_mean():
    assert smooth([1.0, 2.0, 3.0]) == [1.0, 2.0, 3.0]
    assert smooth([0.0] * 40 + [3.0] + [0.0] * 39)[36:44] == [0.0, 0.0, 0.6, 0.6, 0.6, 0.6, 0.6, 0.0]


# ---------------------------------------------------------------- the commands


def make_run(folder, name: str = "healthy", rows: list[dict] | None = None):
    """A project folder with a run: its settings, its data and a recorded log."""
    recorded_log = json.loads((ROOT / f"tests/logs/{name}.json").read_text())
    rows = rows or pairs(recorded_log["train"])
    data, run = folder / "data/d", folder / "out/r"
    checkpoint = run / "adapter/checkpoint-22"
    for path in (data, checkpoint):
        path.mkdir(parents=True)
    for split, part in (("train", rows), ("val", [{"chosen": "x" * 164, "rejected": "x" * 254}] * 60)):
        (data / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    (data / "stats.json").write_text(json.dumps({"rows": len(rows) + 60, "train": len(rows), "val": 60, "dropped": {}}))
    (checkpoint / "trainer_state.json").write_text(json.dumps({"log_history": recorded_log["log_history"]}))
    config = settings(name)
    config["datasets"][0]["path"] = "data/d/train.jsonl"
    (folder / "axolotl").mkdir(exist_ok=True)
    (folder / "axolotl/tiny.yaml").write_text(yaml.safe_dump(settings(name)))
    (run / "run.yaml").write_text("# r: written by train.recipe from axolotl/tiny.yaml. Complete.\n" + yaml.safe_dump(config))
    (run / "done").write_text(json.dumps({"gpus": 0, "processes": 1, "seconds": 77.3}))
    return run


def test_the_command_says_what_it_checked_and_what_it_could_not(tmp_path):
    run = make_run(tmp_path)
    done = inside("train.health", "out/r", "--strict", cwd=tmp_path)
    assert "no alarm, 17 checks; out/r/health.json" in done.stdout and "not checked: longer (there is no answers.jsonl (`make answers`))" in done.stdout
    made = json.loads((run / "health.json").read_text())
    assert made["alarms"] == [] and len(made["checks"]) == 17 and set(made["not checked"]) == {"shortcut", "longer", "formal_direction"}


def test_the_command_ends_with_a_status_only_when_asked_to(tmp_path):
    make_run(tmp_path, "hot")
    done = inside("train.health", "out/r", "--data", "data/d", cwd=tmp_path)
    assert (
        "ALARM (stop) gradient-explosion at step 5: the median gradient norm of the last 3 logged steps is 14.7; the median of the first 3 is 0.391. Try: " in done.stdout
    )
    assert "grave alarm(s)" in one_line(inside("train.health", "out/r", "--strict", cwd=tmp_path, status=1))


def test_answers_that_stand_one_by_one_are_read_as_pairs_and_counted_as_rows(tmp_path):
    run = make_run(tmp_path)
    rows = [{"prompt": row["prompt"], "completion": row[column], "label": column == "chosen"} for row in pairs(30) for column in ("chosen", "rejected")]
    (tmp_path / "data/d/train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = health.gather(run, tmp_path / "data/d")
    assert (len(made.train), made.rows) == (30, 60) and Watch(made).ask([health.swapped], made) == []


def test_a_run_that_is_not_there_is_one_line(tmp_path):
    assert "there is no such run" in one_line(inside("train.health", "out/typo", cwd=tmp_path, status=1))


def stand_in(folder, monkeypatch, name: str, then: str) -> None:
    """A script in the trainer's place: says what the recorded run said, and goes on to `then`."""
    history = json.loads((ROOT / f"tests/logs/{name}.json").read_text())["log_history"]
    lines = [
        str({key: str(value) for key, value in step.items() if key not in ("step", "epoch")} | {"epoch": str(step["epoch"])})
        for step in history
        if "loss" in step or "eval_loss" in step
    ]
    (folder / "said").write_text("".join(f"{line}\n" for line in lines))
    script = folder / "trainer"
    script.write_text(f"#!/bin/sh\necho $$ > {folder}/trainer.pid\ncat {folder}/said\n{then}\n")
    script.chmod(0o755)
    monkeypatch.setattr(launch.sys, "executable", str(script))


def test_a_grave_alarm_ends_the_run_in_one_line_when_asked_to(tmp_path, monkeypatch):
    run = make_run(tmp_path, "hot")
    stand_in(tmp_path, monkeypatch, "hot", "sleep 60")
    monkeypatch.setenv("STOP_ON_ALARM", "1")
    started = time.monotonic()
    done = inside("train.launch", "out/r", "--gpus", "0", cwd=tmp_path, status=1)
    assert time.monotonic() - started < 30
    line = one_line(done)
    assert line.startswith("error: out/r: ended by STOP_ON_ALARM; what was finished is kept. ALARM (stop) gradient-explosion at step 5: the median gradient norm")
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "trainer.pid").read_text()), 0)
    assert not (run / "done").exists() and not (run / "train.pid").exists() and "'loss'" in (run / "train.log").read_text()
    made = json.loads((run / "health.json").read_text())
    assert made["stopped"] is True and [alarm["name"] for alarm in made["alarms"]] == ["gradient-spike", "gradient-explosion"]


def test_without_being_asked_to_an_alarm_is_said_once_and_the_run_goes_on(tmp_path, monkeypatch):
    run = make_run(tmp_path, "hot")
    stand_in(tmp_path, monkeypatch, "hot", f"mkdir -p {run}/adapter; touch {run}/adapter/adapter_config.json")
    done = inside("train.launch", "out/r", "--gpus", "0", cwd=tmp_path)
    said = [line.split(":")[0].strip() for line in done.stdout.splitlines() if "ALARM" in line]
    assert said[:2] == ["ALARM (look) gradient-spike at step 4", "ALARM (stop) gradient-explosion at step 5"]
    assert len(set(said)) == len(said) and (run / "done").exists()
    assert json.loads((run / "health.json").read_text())["stopped"] is False


def test_data_that_would_waste_a_run_stops_it_before_anything_of_an_earlier_one_is_touched(tmp_path, monkeypatch):
    run = make_run(tmp_path, rows=pairs(10) * 34)
    monkeypatch.setenv("STOP_ON_ALARM", "1")
    monkeypatch.setattr(launch.subprocess, "Popen", None)
    line = one_line(inside("train.launch", "out/r", "--gpus", "0", cwd=tmp_path, status=1))
    assert "ALARM (stop) duplicated-rows: 330 of 340 rows are copies of others (one stands there 34 times): the run sees 10 pairs, not 340" in line
    assert (run / "done").exists() and (run / "adapter/checkpoint-22").exists()


def test_a_healthy_run_is_not_ended_by_stop_on_alarm(tmp_path, monkeypatch):
    run = make_run(tmp_path)
    stand_in(tmp_path, monkeypatch, "healthy", f"mkdir -p {run}/adapter; touch {run}/adapter/adapter_config.json")
    monkeypatch.setenv("STOP_ON_ALARM", "1")
    assert "ALARM" not in inside("train.launch", "out/r", "--gpus", "0", cwd=tmp_path).stdout and (run / "done").exists()
    assert json.loads((run / "health.json").read_text())["alarms"] == []


def test_trainings_that_were_ended_never_take_the_place_of_the_last_whole_adapter(tmp_path, monkeypatch):
    run = make_run(tmp_path, "hot")
    (run / "adapter/adapter_config.json").touch()
    (run / "adapter/weights").write_text("whole")
    stand_in(tmp_path, monkeypatch, "hot", "sleep 60")
    script = (tmp_path / "trainer").read_text().replace("cat ", f"mkdir -p {run}/adapter; touch {run}/adapter/adapter_config.json; cat ")
    (tmp_path / "trainer").write_text(script)
    monkeypatch.setenv("STOP_ON_ALARM", "1")
    for _ in range(2):
        inside("train.launch", "out/r", "--gpus", "0", cwd=tmp_path, status=1)
        assert (run / "adapter.previous/weights").read_text() == "whole"


def test_a_training_that_goes_on_keeps_the_steps_before_in_view(tmp_path):
    watch = Watch(facts())
    for row in log(8):
        watch.step(row)
    assert (watch.next_step(evaluation=True), watch.next_step(evaluation=False)) == (8, 9)


def test_an_alarm_reads_as_one_line():
    assert str(Alarm("x", "look", 3, "why", "this")) == "ALARM (look) x at step 3: why. Try: this"
