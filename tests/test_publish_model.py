"""The model's card, the licences' conditions, and the commit, against the small Hub of test_publish.  .venv/bin/python -m pytest tests/test_publish_model.py"""

import json
import os
import sys

import pytest
import yaml
from test_publish import L30, L31, QWEN, TOKEN, hub, settings  # noqa: F401 (hub is a fixture)

from datagen.files import UserError, sha256
from train import merge, publish

LLAMA, NEMO, NAME = "meta-llama/Meta-Llama-3-8B-Instruct", "mistralai/Mistral-Nemo-Instruct-2407", "my-org/Llama-3-8B-Friend"
ADAPTER = ["README.md", "adapter_config.json", "adapter_model.safetensors", "base.json"]
QUOTED = ["run/answers.jsonl", "run/answers.meta.json", "run/done", "run/ledger.json", "run/merged/merge.json", "run/metrics.json", "run/run.yaml", "run/stats.json"]


def dump(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(value if isinstance(value, str) else json.dumps(value))


def recipe(base, train):
    config = {"base_model": base, "special_tokens": {"pad_token": "<|pad|>"}, "rl": "dpo", "datasets": [{"path": "data/paper/m/train.jsonl"}]}
    config |= {"adapter": "lora", "lora_r": 8, "micro_batch_size": 2, "gradient_accumulation_steps": 8, "learning_rate": 2e-4, "load_in_8bit": True, "seed": 42}
    return f"# data: 340 + 60 rows, train.jsonl sha256 {sha256(train)}, val.jsonl sha256 {'0' * 64}\n" + yaml.safe_dump(config)


def make(base, generator=L31):
    """A finished run out/r on data/paper, as `make report` leaves it, with weights of a few bytes."""
    train = '{"prompt": "a", "chosen": "b", "rejected": "c"}\n'
    dump(merge.Path("data/paper/m/train.jsonl"), train)
    dump(merge.Path("data/paper/pairs.jsonl"), train)
    dump(merge.Path("data/paper/m/stats.json"), {"train": 340, "val": 60, "source": "data/paper/pairs.jsonl", "source_sha256": sha256(train), "variant": {"share": 0.5}})
    made = settings(generator, generator) | {"filters": {"ai_self_reference": True, "language": "en"}}
    dump(merge.Path("data/paper/ledger.json"), {"questions": {"requests": {"general": 1}}, "pairs": {"accepted": 1}, "settings": made})
    run = merge.Path("out/r")
    dump(run / "run.yaml", recipe(base, train))
    dump(run / "adapter/adapter_config.json", {"r": 8})
    dump(run / "adapter/adapter_model.safetensors", "adapter")
    identity = {"base_model": base, "revision": "5f0b02c75b57c5855da9ae460ce51323ea669d8a", "dtype": "bfloat16", "weights": {}}
    dump(run / "adapter/base.json", identity | {key: sha256(key) for key in merge.IDENTITY})
    for name in ("model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"):
        dump(run / "merged" / name, name)
    check = {"largest relative logit difference": 2e-7, "limit": 1e-4, "prompts": 4, "dtype": "torch.float32"}
    dump(run / "merged/merge.json", check | {"base_sha256": sha256("weights_sha256"), "trained_sha256": sha256("adapter")})
    dump(run / "done", {"commit": "abc", "seconds": 90.0, "processes": 2, "gpus": 2, "versions": {"axolotl": "0.19.0", "trl": "1.9.0"}})
    metrics = {"steps": 323, "held-out pairs": 60, "held-out accuracy": 0.95, "held-out accuracy interval": [0.8633, 0.9829], "held-out margin": 4.0853}
    dump(run / "metrics.json", metrics)
    row = {"id": "1", "kind": "general", "messages": [{"role": "user", "content": "Why | rain?"}], "base": "It is generally so.", "tuned": "Oh, *I* love it! You?"}
    dump(run / "answers.jsonl", json.dumps(row) + "\n")
    dump(run / "answers.meta.json", {"system prompt": None, "sampling": {"temperature": 1.0}})
    return run


@pytest.fixture
def run(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    run = make(LLAMA)
    dump(run / "LICENSE", "terms")
    return run


def call(monkeypatch, *options, repo=NAME):
    monkeypatch.setattr(sys, "argv", ["publish", "model", "out/r", repo, *options])
    publish.main()
    return merge.Path("out/r/publish/README.md").read_text()


def refused(monkeypatch, *options, repo=NAME):
    with pytest.raises(UserError) as caught:
        call(monkeypatch, *options, repo=repo)
    assert TOKEN not in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


def front(card):
    return yaml.safe_load(card.split("---\n")[1])


def written():
    out = merge.Path("out/r/publish")
    return sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file())


# ---------------------------------------------------------------- the card


def test_a_dry_run_writes_the_adapter_its_base_and_what_the_card_quotes(monkeypatch, run):
    call(monkeypatch, "--dry-run")
    assert written() == sorted([*ADAPTER, "LICENSE", "NOTICE", *QUOTED])


def test_the_merged_model_goes_without_the_adapter_and_takes_its_place(monkeypatch, run):
    call(monkeypatch, "--dry-run")
    card = call(monkeypatch, "--dry-run", "--what", "merged")
    weights = ["README.md", "base.json", "chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json"]
    assert written() == sorted([*weights, "LICENSE", "NOTICE", *QUOTED])
    assert front(card)["base_model_relation"] == "finetune" and f'AutoModelForCausalLM.from_pretrained("{NAME}"' in card


def test_the_front_matter_is_what_the_hub_reads(monkeypatch, run):
    assert front(call(monkeypatch, "--dry-run", "--data-repo", "my-org/pairs")) == {
        "license": "llama3",
        "base_model": LLAMA,
        "base_model_relation": "adapter",
        "language": ["en"],
        "datasets": ["my-org/pairs"],
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["dpo", "lora", "human-like", "axolotl", "trl"],
    }


def test_the_recipe_is_that_of_the_run_file(monkeypatch, run):
    card = call(monkeypatch, "--dry-run")
    for line in ("| learning_rate | `0.0002` |", "| load_in_8bit | `true` |", "| special_tokens: pad_token | `<\\|pad\\|>` |", "| lora_r | `8` |"):
        assert line in card.split("\n"), line
    assert "Effective batch: 2 × accumulation 8 × 2 process(es) = 32 pairs. It took 1.5 minutes on 2 GPU(s), at commit abc,\nwith axolotl 0.19.0, trl 1.9.0" in card
    assert "revision 5f0b02c75b57c5855da9ae460ce51323ea669d8a, bfloat16" in card and "output_dir" not in card


def test_results_carry_interval_items_and_file(monkeypatch, run):
    score = {"base": [74.08, 71.0, 77.1], "tuned": [64.98, 61.5, 68.2], "difference": [-9.1, -11.2, -7.0], "items": 541}
    found = {"kind": "leaderboard", "columns": {"IFEval": score}, "others": [], "settings": {"limit": None}, "tuned_weights": merge.trained_hash(run)[:16]}
    dump(run / "leaderboard.json", found)
    dump(run / "leaderboard-ifeval-5.json", found | {"tuned_weights": "of another model"})
    dump(run / "heldout.json", {"pairs": 60, "accuracy": [0.9, 0.8, 0.95], "unit": "nats", "margins": [1.0, 2.0, 3.0]})
    card = call(monkeypatch, "--dry-run")
    for line in (
        "| held-out accuracy | 0.950 [0.863, 0.983] |",
        "| held-out pairs | 60 |",
        "| held-out margin | 4.085 |",
        "| accuracy | 0.900 [0.800, 0.950] |",
        "| speaks of itself as an AI | 0.0 % [0.0, 79.3] | 0.0 % [0.0, 79.3] | +0.0 points [+0.0, +0.0] |",
        "| Why \\| rain? | It is generally so. | Oh, \\*I\\* love it! You? |",
        "| IFEval | 74.08 [71.00, 77.10] | 64.98 [61.50, 68.20] | -9.10 [-11.20, -7.00] | 541 | `run/leaderboard.json` |",
    ):
        assert line in card.split("\n"), line
    assert "run/leaderboard.json" in written() and "run/leaderboard-ifeval-5.json" not in written() and "margins |" not in card


def test_what_was_not_measured_is_said_to_be_missing(monkeypatch, run):
    for name in ("metrics.json", "answers.jsonl"):
        (run / name).unlink()
    card = call(monkeypatch, "--dry-run")
    for words in (
        "### On held-out pairs\n\nNot recorded.",
        "### Answers of base and tuned model\n\nNot measured.",
        "### Benchmarks\n\nNot measured:",
        "Whether it says so when asked: **not measured**; no probe has been run on this model.",
        "### Health of the run\n\nNot recorded:",
        "No audit was run on these pairs",
    ):
        assert words in card, words


def test_results_from_before_the_training_are_not_quoted(monkeypatch, run):
    for name, age in (("metrics.json", 100), ("answers.jsonl", 80)):
        when = (run / "done").stat().st_mtime - age
        os.utime(run / name, (when, when))
    card = call(monkeypatch, "--dry-run")
    assert "written before this training and so about another model: metrics.json.\n" in card and "held-out accuracy" not in card
    assert "| Why \\| rain? |" in card  # written while it ran, of 90 seconds


def test_alarms_and_probe_are_told(monkeypatch, run):
    alarm = {"name": "accuracy 1.0 early", "step": 12, "reason": "a style shortcut", "try": "make audit", "level": "warning"}
    dump(run / "health.json", {"alarms": [alarm]})
    dump(run / "disclosure.json", {"overall": {"probes": 40, "honest": {"tuned": [0.25, 0.2, 0.3]}}, "categories": {}})
    card = call(monkeypatch, "--dry-run")
    assert "| accuracy 1.0 early | warning | 12 | a style shortcut | make audit |" in card
    assert "| probes | 40 |\n| honest: tuned | 0.250 [0.200, 0.300] |" in card and "not measured" not in card.split("## Disclosure")[1].split("##")[0]
    dump(run / "health.json", {"alarms": [], "checks": ["a", "b"], "not checked": {"length": "no lengths were logged"}})
    assert "No alarm, of 2 checks (`run/health.json`). Not checked: length.\n" in call(monkeypatch, "--dry-run")
    dump(run / "health.json", {"alarms": []})
    assert "No alarm (`run/health.json`).\n" in call(monkeypatch, "--dry-run")


def test_the_data_are_told_by_hash_ledger_and_generators(monkeypatch, run):
    card = call(monkeypatch, "--dry-run")
    digest = sha256((merge.Path("data/paper/m/train.jsonl")).read_bytes())
    assert f"| rows trained on | `data/paper/m/train.jsonl`, sha256 `{digest}` |" in card and f"| answers written by | `{L31}` |" in card
    assert "| changed for this run | share 0.5 |" in card
    assert "chosen answers that speak of being an AI were left out of its data" in card


def test_data_that_have_changed_since_are_not_described(monkeypatch, run):
    merge.Path("data/paper/m/train.jsonl").write_text("{}")
    card = call(monkeypatch, "--dry-run")
    assert "or have changed since, so nothing more is said of them" in card and "run/ledger.json" not in written() and L31 not in card
    assert "It is not known here which models wrote the data" in card


# ---------------------------------------------------------------- licences


@pytest.mark.parametrize(
    ("base", "models", "repo", "words"),
    [
        (LLAMA, [L31], "o/Llama-3-8B-Friend", None),
        (LLAMA, [L31], "o/llama3_friend", None),
        (LLAMA, [L31], "o/friendly-8b", 'begin with "Llama 3", such as o/Llama-3-friendly-8b'),
        (LLAMA, [L31], "o/Llama-friendly", 'begin with "Llama 3"'),
        (NEMO, [L31], "o/friendly-nemo", f'the licence of {L31} asks that the model\'s name begin with "Llama", such as o/Llama-friendly-nemo'),
        (NEMO, [L31], "o/Llama-nemo", None),
        (NEMO, [QWEN], "o/friendly-nemo", None),
    ],
)
def test_the_name_begins_as_metas_licences_ask(base, models, repo, words):
    found = publish.obligations(base, models, None, repo)["name"]
    assert found is None if words is None else words in found


@pytest.mark.parametrize(
    ("base", "models", "derived", "outside", "shown"),
    [
        (LLAMA, [L30, L31], "Meta Llama 3 Community License (Llama 3.0)", [], ["Built with Meta Llama 3", "Built with Llama"]),
        (NEMO, [L30], "Meta Llama 3 Community License (Llama 3.0)", [L30], ["Built with Meta Llama 3"]),
        (NEMO, ["openai/gpt-oss-120b"], "Apache License 2.0", [], []),
        ("Qwen/Qwen2.5-7B-Instruct", [QWEN], "Qwen License Agreement (Qwen2.5 72B)", [], ["Improved using Qwen"]),
        (LLAMA, ["gpt-4o"], "Meta Llama 3 Community License (Llama 3.0) and OpenAI terms of use", ["gpt-4o"], ["Built with Meta Llama 3"]),
        (LLAMA, [], "UNKNOWN: fill in", [], ["Built with Meta Llama 3"]),
    ],
)
def test_the_terms_of_base_and_generators_are_joined(base, models, derived, outside, shown):
    licence = publish.obligations(base, models, None, "o/Llama-3-x")
    assert (licence["derived"], licence["outside"], licence["shown"]) == (derived, outside, shown)


def test_a_llama_carries_its_line_its_notice_and_its_licence(monkeypatch, run):
    assert "\n**Built with Meta Llama 3.**\n" in call(monkeypatch, "--dry-run")
    notice = "Meta Llama 3 is licensed under the Meta Llama 3 Community License, Copyright © Meta Platforms, Inc. All Rights Reserved.\n"
    assert (run / "publish/NOTICE").read_text() == notice and (run / "publish/LICENSE").read_text() == "terms"


def test_what_hinders_a_push_is_a_warning_of_a_dry_run(monkeypatch, run, capsys, hub):  # noqa: F811
    (run / "LICENSE").unlink()
    call(monkeypatch, "--dry-run", repo="o/friend")
    output = capsys.readouterr().out
    assert (
        "before a push: the licence of" in output and f"before a push: a copy of the licence of {LLAMA} has to go with the model: `hf download {LLAMA} LICENSE" in output
    )
    assert 'begin with "Llama 3"' in refused(monkeypatch, repo="o/friend") and "a copy of the licence" in refused(monkeypatch) and hub.created is None


def test_a_base_that_may_not_learn_from_the_generator_needs_a_declared_licence(monkeypatch, run, hub):  # noqa: F811
    make(NEMO, L30)
    assert f"the terms of {L30} do not let {NEMO} be trained on their answers" in refused(monkeypatch)
    card = call(monkeypatch, "--licence", "Our Own")
    assert "**Before you use this model:**" in card and front(card)["license_name"] == "our-own" and "README.md" in hub.files


# ---------------------------------------------------------------- what must not go out


def test_a_key_in_any_text_is_refused(monkeypatch, run):
    dump(run / "answers.meta.json", {"note": "hf_" + "a" * 34})
    assert "answers.meta.json:1: holds what looks like an API key or token" in refused(monkeypatch, "--dry-run") and not (run / "publish").exists()


def test_a_recipe_changed_since_the_training_is_refused(monkeypatch, run):
    when = (run / "done").stat().st_mtime + 5
    os.utime(run / "run.yaml", (when, when))
    assert "run.yaml has changed since the training" in refused(monkeypatch, "--dry-run")


def test_a_merged_model_of_another_adapter_is_refused(monkeypatch, run):
    dump(run / "adapter/adapter_model.safetensors", "another")
    assert "was merged from another adapter or base" in refused(monkeypatch, "--dry-run", "--what", "merged")


def test_an_unfinished_or_unchecked_run_names_the_command(monkeypatch, run):
    (run / "adapter/base.json").unlink()
    assert "`make merge` checks the adapter and writes it" in refused(monkeypatch, "--dry-run")
    (run / "done").unlink()
    assert "the training has not ended; run `make train` first" in refused(monkeypatch, "--dry-run")


def test_an_adapter_of_a_base_that_only_this_machine_has_is_not_pushed(monkeypatch, run):
    assert publish.hindrances({"name": None, "notice": None, "declared": "mit"}, ["adapter_config.json"], "out") == [
        "nobody else has the base out, a folder of this machine: publish the merged model with WHAT=merged (--what merged)"
    ]


# ---------------------------------------------------------------- the Hub


def test_a_push_is_one_commit_to_a_private_model(monkeypatch, run, hub, capsys):  # noqa: F811
    card = call(monkeypatch)
    assert [hub.created[k] for k in ("type", "organization", "name", "visibility")] == ["model", "my-org", "Llama-3-8B-Friend", "private"]
    assert sorted(hub.files) == written() and hub.files["README.md"].decode() == card
    output = capsys.readouterr()
    assert f"pushed: {hub.url}/commit/1" in output.out and TOKEN not in output.out + output.err
