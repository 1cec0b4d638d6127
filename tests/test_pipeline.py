"""Every stage end to end on a few rows against a scripted endpoint, through the Makefile.  .venv/bin/python -m pytest tests/test_pipeline.py"""

import json
import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, Endpoint, checkout, one_line, play, run
from filelock import FileLock

PROFILE = """
  test:
    endpoint: {concurrency: 4, retries: 0}
    questions: {held_out: 0, topics: 0, avoid: [], model: scripted, count: 12}
    answers: {model: scripted}
    pairs: 10
    held_out: 2
"""


def prepared(project):
    """The project with a profile of ten pairs, and the environment of these tests as .venv."""
    with open(project / "datagen/config.yaml", "a") as file:
        file.write(PROFILE)
    (project / ".venv/bin").mkdir(parents=True)
    # exec, not a link: a link would lose the environment's packages.
    (project / ".venv/bin/python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (project / ".venv/bin/python").chmod(0o755)
    (project / ".venv-eval").symlink_to(ROOT / ".venv-eval")
    make(project, "setup", "--touch")
    return project


@pytest.fixture
def place(project):
    return prepared(project)


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """A project whose ten pairs were made and formatted, by one of pytest's processes for all."""
    base = tmp_path_factory.getbasetemp()
    project = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "once/project"
    project.parent.mkdir(exist_ok=True)
    with FileLock(project.parent / "lock"):
        if not (project.parent / "asked").exists():
            server = Endpoint()
            server.script = play
            make(prepared(checkout(project)), "format", "PROFILE=test", OPENAI_BASE_URL=server.url)
            server.close()
            (project.parent / "asked").write_text(str(len(server.bodies)))
    return project


@pytest.fixture
def formatted(once, tmp_path):
    return shutil.copytree(once, tmp_path / "project", symlinks=True)  # the environments are links


def make(project, *arguments, status=0, **environment):
    done = subprocess.run(
        ["make", *arguments], cwd=project, capture_output=True, text=True, timeout=1200, env=os.environ | {"PYTHONPATH": str(project)} | environment
    )  # fmt: skip
    assert done.returncode == status, f"status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done


def rows(path):
    return [json.loads(line) for line in path.open()]


def test_data_and_format_make_ten_pairs_and_do_nothing_twice(formatted, once, endpoint):
    data = formatted / "data/test"
    assert len(rows(data / "questions.jsonl")) == 12 and len(rows(data / "pairs.jsonl")) == 10
    train, val = rows(data / "tiny/train.jsonl"), rows(data / "tiny/val.jsonl")
    assert (len(train), len(val)) == (8, 2) and set(train[0]) == {"prompt", "chosen", "rejected"}
    assert train[0]["prompt"].startswith("<|user|> ") and train[0]["prompt"].endswith("<|end|><|assistant|>") and train[0]["chosen"].endswith("😊<|end|>")
    assert (once.parent / "asked").read_text() == "22" and len(rows(data.parent / "responses/scripted.jsonl")) == 22  # 2 lists, 20 answers
    again = make(formatted, "format", "PROFILE=test")
    assert "== " not in again.stdout and not endpoint.bodies


def test_touching_files_pays_for_nothing(formatted, endpoint):
    before = (formatted / "data/test/pairs.jsonl").read_bytes()
    for path in formatted.rglob("*.*"):
        if path.is_file() and not {".venv", "data"} & set(path.parts):
            os.utime(path)
    done = make(formatted, "data", "PROFILE=test")
    assert "== pairs" in done.stdout and not endpoint.bodies and (formatted / "data/test/pairs.jsonl").read_bytes() == before


@pytest.mark.slow
def test_a_changed_setting_redoes_only_what_depends_on_it(formatted, endpoint):
    config = formatted / "datagen/config.yaml"
    for change, stages in ((("held_out: 2", "held_out: 1"), "format"), (("concurrency: 4", "concurrency: 2"), ""), (("  timeout: 600", "  timeout: 60"), "")):
        assert change[0] in config.read_text()
        config.write_text(
            config.read_text().replace(change[0] + "\n", change[1] + "\n").replace(change[0] + ",", change[1] + ",").replace(change[0] + "  ", change[1] + "  ")
        )
        done = make(formatted, "format", "PROFILE=test")
        assert [line[3:] for line in done.stdout.splitlines() if line.startswith("== ")] == stages.split(), change
    assert not endpoint.bodies


@pytest.mark.slow
def test_own_questions_and_own_pairs_get_folders_of_their_own(place, endpoint):
    endpoint.script = play
    (place / "mine.txt").write_text("What is amber good for?\nWho named the clouds and why?\nHow old is the game of marbles?\n")
    make(place, "data", "PROFILE=test", "QUESTIONS=mine.txt")
    assert {row["prompt"] for row in rows(place / "data/test-mine/pairs.jsonl")} == set((place / "mine.txt").read_text().splitlines())
    pairs = [{"prompt": f"Question {i} about {w}?", "chosen": f"Oh, {w}!", "rejected": f"Generally, {w}."} for i, w in enumerate(("amber", "clouds", "marbles", "rope"))]
    (place / "own.json").write_text(json.dumps(pairs))
    make(place, "format", "PAIRS=own.json")
    assert len(rows(place / "data/pairs-own/tiny/train.jsonl")) == 3 and not (place / "data/pairs-own/pairs.jsonl").exists()


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("broken.jsonl", '{"prompt": "a?", "chosen": "b", "rejected": "c"}\n{"prompt": "a?", "cho\n', "broken.jsonl:2: not valid JSON"),
        ("column.jsonl", '{"prompt": "a?", "chosen": "b", "rejected": "c"}\n{"prompt": "a?", "chosen": "b"}\n', "column.jsonl:2: the column rejected is missing"),
        ("empty.jsonl", '{"prompt": "a?", "chosen": " ", "rejected": "c"}\n{"prompt": "b?", "chosen": "b", "rejected": "c"}\n', "empty.jsonl:1: chosen is empty"),
        ("one.jsonl", '{"prompt": "a?", "chosen": "b", "rejected": "c"}\n', "one.jsonl: 1 rows; at least two"),
        pytest.param(
            "special.jsonl",
            '{"prompt": "a?", "chosen": "b<|end|>", "rejected": "c"}\n{"prompt": "b?", "chosen": "b", "rejected": "c"}\n',
            "special.jsonl:1: chosen: holds a special token",
            marks=pytest.mark.slow,  # loads a tokenizer
        ),
    ],
)
def test_a_wrong_pairs_file_is_one_line_and_makes_nothing(place, name, text, words):
    (place / name).write_text(text)
    done = make(place, "train", f"PAIRS={name}", status=2)
    assert words in one_line(done) and not list(place.glob("data/*/tiny/train.jsonl"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "MODEL=typo"], "there is no axolotl/typo.yaml; MODEL is one of: llama3-8b mistral-nemo qwen2.5-7b tiny"),
        (["train", "ABLATION=typo"], "there is no axolotl/ablations/typo.yaml"),
        (["train", "PAIRS=a b.jsonl"], "cannot hold a space"),
        (["train", "PAIRS=none.jsonl"], "none.jsonl: there is no such file"),
        (["data", "QUESTIONS=none.txt"], "none.txt: there is no such file"),
        (["data", "PROFILE=none"], "there is no profile 'none'; profiles are: paper, tiny, test"),
    ],
)
def test_a_wrong_name_lists_what_there_is(place, arguments, words):
    assert words in make(place, *arguments, status=2).stderr


def test_help_lists_every_target_and_every_variable_with_its_value(place):
    text = make(place, "help", "MODEL=mistral-nemo").stdout
    for target in ("setup", "demo", "data", "format", "train", "merge", "eval", "report", "test", "lint", "clean"):
        assert f"make {target} " in text
    for variable in ("MODEL", "ABLATION", "PAIRS", "QUESTIONS", "PROFILE", "GPUS", "BASE_MODEL", "TUNED_MODEL", "PYTHON"):
        assert f"  {variable} " in text
    assert "now: mistral-nemo" in text and "now: paper" in text and "data in data/paper, run in out/mistral-nemo" in text


def test_clean_keeps_what_was_paid_for_and_what_was_trained(place):
    keep = [
        "data/paper/pairs.jsonl",
        "data/paper/questions.jsonl",
        "data/responses/m.jsonl",
        "out/r/adapter/adapter_model.safetensors",
        "out/r/merged/model.safetensors",
        "out/r/done",
    ]
    drop = ["data/paper/llama3-8b/train.jsonl", "out/r/report.html", "out/r/margins.svg", "out/tiny-base.gguf"]
    for name in keep + drop:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_text("x")
    make(place, "clean")
    assert [name for name in keep + drop if (place / name).exists()] == keep


def test_distclean_asks_and_no_answer_deletes_nothing(place):
    (place / "out").mkdir()
    done = subprocess.run(["make", "distclean"], cwd=place, input="no\n", capture_output=True, text=True)
    assert done.returncode and "nothing deleted" in done.stdout and (place / ".venv").exists() and (place / "out").exists()


@pytest.mark.slow
def test_the_whole_chain_runs_through_axolotl_and_a_second_time_does_nothing(place, endpoint):
    endpoint.script = play
    arguments = ("report", "PROFILE=test")
    shutil.copytree(ROOT / "tiny/model", place / "tiny/model", dirs_exist_ok=True)
    base = place / "axolotl/tiny.yaml"
    base.write_text(base.read_text().replace("micro_batch_size: 16", "micro_batch_size: 2").replace("warmup_steps: 4", "warmup_steps: 1"))
    run("eval.items", place / "out/items", "--per-task", 1)  # a third of what make would write
    (place / "out/items.ready").touch()
    make(place, *arguments)
    run_ = place / "out/tiny@test"
    for name in (
        "run.yaml",
        "done",
        "train.log",
        "metrics.csv",
        "margins.svg",
        "margins.png",
        "merged/merge.json",
        "tuned.gguf",
        "answers.jsonl",
        "leaderboard.json",
        "report.html",
        "report.md",
    ):
        assert (run_ / name).exists(), name
    assert len(rows(run_ / "answers.jsonl")) == 2 and {"base", "tuned"} < set(rows(run_ / "answers.jsonl")[0])
    times = {path: path.stat().st_mtime for path in run_.rglob("*")}
    assert "== " not in make(place, *arguments).stdout
    assert {path: path.stat().st_mtime for path in run_.rglob("*")} == times
    base.write_text("# a comment\n" + base.read_text())
    assert "== train" not in make(place, *arguments).stdout
    base.write_text(base.read_text().replace("learning_rate: 3.5e-3", "learning_rate: 1.0e-3"))
    stages = [line for line in make(place, *arguments).stdout.splitlines() if line.startswith("== ")]
    assert stages == ["== train", "== merge", "== answers", "== leaderboard", "== report"]
    assert len(list((place / "out/leaderboard/tiny").glob("*/done"))) == 1  # of the base, for both trainings
    assert (run_ / "adapter.previous/adapter_model.safetensors").exists()


@pytest.mark.slow
def test_ablations_are_run_and_compared_and_a_second_time_nothing_is_done(place, endpoint):
    endpoint.script = play
    shutil.copytree(ROOT / "tiny/model", place / "tiny/model", dirs_exist_ok=True)
    base = place / "axolotl/tiny.yaml"
    base.write_text(base.read_text().replace("micro_batch_size: 16", "micro_batch_size: 2").replace("warmup_steps: 4", "warmup_steps: 1"))
    arguments = ("ablate", "PROFILE=test", "SET=beta-0.5 data-half")
    make(place, *arguments)
    table = (place / "out/ablations/tiny.md").read_text()
    steps = {
        line.split(" | ")[0].removeprefix("| "): line.split(" | ")[1]
        for line in table.splitlines()
        if line.startswith("| ") and "[" in line and not line.startswith("| |")
    }
    assert steps == {"tiny": "8, 4", "beta-0.5": "8, 4", "data-half": "4, 2"} and "n = 2 held-out pairs, 2 answers." in table
    made = {path: path.stat().st_mtime for path in place.glob("out/*/adapter/*.safetensors")}
    assert len(made) == 3
    make(place, *arguments)
    assert {path: path.stat().st_mtime for path in made} == made and (place / "out/ablations/tiny.md").read_text() == table


def test_the_base_and_the_tuned_model_get_the_same_questions_and_seeds(endpoint, tmp_path):
    endpoint.models = ["base", "tuned"]
    endpoint.script = lambda body: f"{body['model']} says hello."
    questions = [{"id": str(i), "kind": "general", "messages": [{"role": "user", "content": f"Why {i}?"}], "chosen": "a", "rejected": "b"} for i in range(3)]
    (tmp_path / "heldout.jsonl").write_text("".join(json.dumps(row) + "\n" for row in questions))
    more = ("--profile", "tiny", "--base-model", "base", "--tuned-model", "tuned", "--store", tmp_path / "store")
    run("eval.answers", tmp_path / "heldout.jsonl", tmp_path / "r", *more)
    answers = rows(tmp_path / "r/answers.jsonl")
    assert [(row["base"], row["tuned"]) for row in answers] == [("base says hello.", "tuned says hello.")] * 3
    sent = {name: sorted((b["seed"], b["messages"][0]["content"], b["temperature"]) for b in endpoint.bodies if b["model"] == name) for name in ("base", "tuned")}
    assert sent["base"] == sent["tuned"] and len(sent["base"]) == 3


def test_one_model_cannot_be_compared_with_itself(endpoint, tmp_path):
    (tmp_path / "heldout.jsonl").write_text('{"id": "1", "kind": "general", "messages": [{"role": "user", "content": "Why?"}]}\n')
    assert "base and tuned would be the same model" in one_line(run("eval.answers", tmp_path / "heldout.jsonl", tmp_path, "--profile", "tiny", status=1))
