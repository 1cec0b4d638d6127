"""Ablations: their files, how they are composed, what they do to the data, and the table.  .venv/bin/python -m pytest tests/test_ablations.py"""

import json

import pytest
import yaml
from conftest import ROOT, inside, one_line

from datagen import config, format
from datagen.files import UserError
from train import ablate, heldout, recipe

BASES = ("llama3-8b", "mistral-nemo", "qwen2.5-7b", "tiny")
FILES = sorted((ROOT / "axolotl/ablations").glob("*.yaml"))
NAMES = [path.stem for path in FILES]


@pytest.fixture(autouse=True)
def at_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def composed(base, name, gpus=1):
    return recipe.compose(base, name, recipe.Path("data/d"), "r", 0 if base == "tiny" else gpus)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("name", NAMES)
def test_every_ablation_composes_with_every_base_and_changes_it(base, name):
    before, after = composed(base, None), composed(base, name)
    assert before != after or config.load_variant(ROOT / f"axolotl/ablations/{name}.yaml") != config.Variant()


def test_axolotls_schema_and_validation_take_every_composed_file():
    from axolotl.utils.schemas.config import AxolotlInputConfig

    known = recipe.schema()
    for base in ("llama3-8b", "tiny"):  # the other bases differ from the first in their names only (tests/test_configs.py)
        for name in NAMES:
            made = composed(base, name)
            assert recipe.unknown_keys(made, known) == [], name
            AxolotlInputConfig(**made)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_key_of_an_ablation_changes_some_base(path):
    delta = yaml.safe_load(path.read_text())
    for key in delta.keys() - {"data"}:
        assert any(recipe.overlay(values, {key: delta[key]}) != values for values in (yaml.safe_load((ROOT / f"axolotl/{base}.yaml").read_text()) for base in BASES)), key
    if "data" in delta:
        assert config.load_variant(path).model_dump(exclude_defaults=True) == delta["data"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_ablation_opens_with_what_it_asks(path):
    assert path.read_text().startswith("# ")


@pytest.mark.parametrize("gpus", [1, 2, 4, 8, 16, 32])
def test_the_effective_batch_is_the_papers_in_every_ablation_on_any_number_of_gpus(gpus):
    for name in [None, *NAMES]:
        assert recipe.effective_batch(composed("llama3-8b", name, gpus), gpus) == 32, name
    assert {recipe.effective_batch(composed("tiny", name), 1) for name in [None, *NAMES]} == {16}


def test_a_delta_multiplies_takes_away_and_replaces():
    assert recipe.overlay({"a": 2e-4, "b": 1, "c": 1}, {"a": "x0.05", "b": None, "c": "x", "data": {}}) == {"a": 1e-5, "c": "x"}


def test_an_unknown_key_of_data_is_named(tmp_path):
    (tmp_path / "a.yaml").write_text("data: {shuffle: true, share: 2}\n")
    with pytest.raises(UserError, match="share: input should be less than or equal to 1, got 2; unknown key shuffle"):
        config.load_variant(tmp_path / "a.yaml")


# ---- data variants

THINGS = [f"{a} {b}" for a in ("amber", "clouds", "marbles", "rope", "salt") for b in ("in winter", "at sea", "on Mars", "for lunch", "by night", "in Rome")]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    rows = [
        {"id": str(i), "kind": ("general", "conversational")[i % 2], "prompt": f"Question {i} about {thing}?"}
        | {"chosen": f"Oh 😊, {thing}! " + "Nice. " * (i % 5), "rejected": f"Generally, {thing}. " + "Indeed. " * (i % 3)}
        for i, thing in enumerate(THINGS)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rendered(pairs, folder, **data):
    (folder / "v.yaml").write_text(yaml.safe_dump({"data": data}))
    inside("datagen.format", pairs, folder / "out", "--base", "axolotl/tiny.yaml", "--profile", "tiny", *(["--variant", folder / "v.yaml"] if data else []))
    return [[json.loads(line) for line in (folder / f"out/{name}.jsonl").open()] for name in ("train", "val", "heldout")]


@pytest.mark.slow
def test_a_variant_keeps_the_held_out_pairs_and_trains_on_fewer_or_other_ones(pairs, tmp_path):
    made = {}
    for name, data in {"all": {}, "half": {"share": 0.5}, "quarter": {"share": 0.25}, "general": {"kind": "general"}, "plain": {"emoji": "stripped"}}.items():
        (tmp_path / name).mkdir()
        made[name] = rendered(pairs, tmp_path / name, **data)
    everything = made["all"][0]
    assert all(val == made["all"][1] and heldout == made["all"][2] for _, val, heldout in made.values())
    prompts = {name: [row["prompt"] for row in train] for name, (train, *_) in made.items()}
    assert len(prompts["half"]) == len(everything) / 2 and set(prompts["quarter"]) < set(prompts["half"]) < set(prompts["all"])
    assert set(prompts["general"]) == {p for p in prompts["all"] if int(p.split()[2]) % 2 == 0}
    assert prompts["plain"] == prompts["all"] and [row["chosen"].replace(" 😊", "") for row in everything] == [row["chosen"] for row in made["plain"][0]]
    stats = json.loads((tmp_path / "half/out/stats.json").read_text())
    assert stats["train"] == len(prompts["half"]) and stats["dropped"]["not drawn"] == len(everything) - len(prompts["half"]) and stats["variant"] == {"share": 0.5}


def test_unpaired_rows_are_the_two_answers_of_each_pair_and_can_be_paired_again(pairs, tmp_path):
    train, val, _ = rendered(pairs, tmp_path, form="unpaired")
    assert [row["label"] for row in train[:4]] == [True, False, True, False] and set(train[0]) == {"prompt", "completion", "label"}
    whole = heldout.pairs_of(tmp_path / "out/val.jsonl")
    assert len(whole) == len(val) / 2 and format.unpaired(whole) == val


def test_a_kind_that_no_pair_has_is_one_line(pairs, tmp_path):
    rows = [{k: v for k, v in json.loads(line).items() if k != "kind"} for line in pairs.open()]
    (tmp_path / "own.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "v.yaml").write_text("data: {kind: general}\n")
    done = inside(
        "datagen.format", tmp_path / "own.jsonl", tmp_path / "out", "--base", "axolotl/tiny.yaml", "--profile", "tiny", "--variant", tmp_path / "v.yaml", status=1
    )
    assert "its data leaves none of 24 training pairs" in one_line(done) and not (tmp_path / "out/train.jsonl").exists()


def test_deduplication_keeps_the_first_of_near_equal_questions():
    originals = [
        ([{"role": "user", "content": text}], "a", "b") for text in ("What do you like about old boats?", "Why salt?", "What do you like about old boats, then?")
    ]
    kept, _, left = format.vary(config.Variant(deduplicated=True), [{}] * 3, originals, 0.6)
    assert kept == [0, 1] and left == {"near-duplicate question": 1}


# ---- one yardstick, one table


def test_log_probabilities_are_those_of_one_text_at_a_time():
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained("tiny/model"), AutoModelForCausalLM.from_pretrained("tiny/model", dtype=torch.float32).eval()
    texts = [("<|user|> Why?<|end|><|assistant|>", " Oh, well!<|end|>"), ("<|user|> What do you like about rain?<|end|><|assistant|>", " It smells good.<|end|>")]
    found = heldout.log_probabilities(model, tokenizer, texts)
    for (prompt, completion), value in zip(texts, found, strict=True):
        head, ids = len(tokenizer(prompt)["input_ids"]), torch.tensor([tokenizer(prompt + completion)["input_ids"]])
        with torch.no_grad():
            scores = model(ids).logits[0].log_softmax(-1)
        assert value == pytest.approx(sum(scores[i - 1, ids[0, i]].item() for i in range(head, ids.shape[1])), abs=1e-3)


def make_run(folder, margins, friendly):
    folder.mkdir(parents=True)
    (folder / "heldout.json").write_text(json.dumps({"margins": margins, "chosen": margins}))
    answers = [{"base": "It is advisable to rest.", "tuned": "Oh, I'd rest! You?" if f else "It is advisable to rest."} for f in friendly]
    (folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in answers))
    return ablate.values(folder)


def test_differences_are_paired_and_shares_have_wilson_intervals(tmp_path):
    base = make_run(tmp_path / "a", [1.0, 2.0, -3.0, 4.0], [True, True, False, False])
    other = make_run(tmp_path / "b", [2.0, 3.0, -2.0, 5.0], [True, True, True, False])
    row = ablate.compare(other, base)
    assert row["margin"][0] == 2.0 and row["margin difference"] == [1.0, 1.0, 1.0] and row["margin n"] == 4
    assert row["accuracy"][0] == 0.75 and row["accuracy"][1:] == pytest.approx([0.3006, 0.9544], abs=1e-4) and row["accuracy difference"][0] == 0.0
    assert row["friendlier"][0] == 0.75 and row["friendlier difference"][0] == 0.25
    assert "margin difference" not in ablate.compare(base, base)


def test_the_table_has_a_line_for_each_run_and_names_what_failed(tmp_path):
    base = make_run(tmp_path / "a", [1.0, 2.0, 3.0], [True, False, True])
    rows = {"tiny": ablate.compare(base, base), "beta-0.5": ablate.compare(make_run(tmp_path / "b", [2.0, 2.0, 2.0], [True] * 3), base)}
    for row in rows.values():
        row |= {"train": 40, "steps": 3, "leaderboard": "–", "alarms": "–"}
    text = ablate.table("tiny", rows, {"full": "out of memory"})
    lines = text.splitlines()
    [tiny] = [line for line in lines if line.startswith("| tiny ")]
    assert (
        tiny.startswith("| tiny | 40, 3 | 2.00 [1.00, 3.00] | 100.0 [43.9, 100.0] % |")
        and "full failed: out of memory" in lines
        and "n = 3 held-out pairs, 3 answers." in lines
    )
    difference = lines[lines.index(next(line for line in lines if line.startswith("| beta-0.5 "))) + 1]
    assert difference.startswith("| | | +0.00 [") and len({line.count("|") for line in lines if line.startswith("|")}) == 1


def test_with_several_gpus_runs_go_on_at_once_one_gpu_each_and_a_failure_stops_no_other(tmp_path, monkeypatch):
    import threading

    barrier, seen, lock = threading.Barrier(2, timeout=20), [], threading.Lock()

    def fake(variables, target, log, **environment):
        with lock:
            seen.append((variables[0], environment["CUDA_VISIBLE_DEVICES"], variables[-1]))
        barrier.wait()  # two are under way together, or this times out
        log.parent.mkdir(exist_ok=True)
        log.write_text("== train\nerror: out of memory\nmake: *** [done] Error 1\n")
        return type("Done", (), {"returncode": int(variables[0] == "b")})()

    monkeypatch.setattr(ablate, "make", fake)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    names = list("abcd")
    assert ablate.run_all({n: [n] for n in names}, {n: tmp_path / n for n in names}, 2) == {"b": "out of memory"}
    assert sorted(n for n, *_ in seen) == names and {gpu for _, gpu, _ in seen} == {"0", "1"} and {last for *_, last in seen} == {"GPUS=1"}


def test_an_unknown_ablation_in_the_set_is_one_line():
    assert "there is no axolotl/ablations/typo.yaml; SET takes: base-4bit, base-bf16" in one_line(inside("train.ablate", "tiny", "--set", "beta-0.5 typo", status=1))


def test_the_score_of_a_run_stands_in_the_table_if_it_is_of_its_answers_and_by_the_weights_of_the_repository(tmp_path):
    from datagen.files import sha256

    folder = tmp_path / "a"
    make_run(folder, [1.0, 2.0], [True, False])
    about = {"sha256": sha256((folder / "answers.jsonl").read_bytes()), "weights": {"sha256": sha256((ROOT / "eval/weights/turn.json").read_bytes())}}
    rows = [{"id": i, "side": side, "raw": raw, "second": 2 * raw} for i in "ab" for side, raw in (("tuned", 1.0), ("base", 0.75))]
    (folder / "answers-likeness.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "answers-likeness.json").write_text(json.dumps(about))
    found = ablate.values(folder)
    assert found["human-likeness"].tolist() == [0.25, 0.25] and found["second scorer"].tolist() == [0.5, 0.5]
    (folder / "answers-likeness.jsonl").write_text("".join(json.dumps({k: row[k] for k in ("id", "side", "raw")}) + "\n" for row in rows))
    assert "second scorer" not in ablate.values(folder) and "human-likeness" in ablate.values(folder)
    for change in ({"sha256": "other answers"}, {"weights": {"sha256": "other weights"}}):
        (folder / "answers-likeness.json").write_text(json.dumps(about | change))
        assert "human-likeness" not in ablate.values(folder)
