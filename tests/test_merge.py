"""Which base an adapter belongs to, and that merging keeps what the model computes.  .venv/bin/python -m pytest tests/test_merge.py  (-m slow: real merges)"""

import json
import shutil
from hashlib import sha256
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, inside, one_line

from train import merge

HUB = "some-org/some-base"


def call(status=0):
    return inside("train.merge", "out/r", "--data", "data", cwd=Path.cwd(), status=status)


def digest(text):
    return sha256(text.encode()).hexdigest()


@pytest.fixture
def base(tmp_path, monkeypatch):
    """A base of a few bytes in two shards, and a run on it."""
    monkeypatch.chdir(tmp_path)
    Path("base").mkdir()
    texts = {
        "model-00001-of-00002.safetensors": "one",
        "model-00002-of-00002.safetensors": "two",
        "consolidated.safetensors": "onetwo",
        "config.json": '{"torch_dtype": "bfloat16"}',
    }
    texts |= {"tokenizer.json": "{}", "tokenizer_config.json": '{"chat_template": "a template"}', "model.safetensors.index.json": "{}"}
    for name, text in texts.items():
        Path("base", name).write_text(text)
    Path("out/r/adapter").mkdir(parents=True)
    Path("out/r/adapter/adapter_config.json").write_text("{}")
    Path("out/r/adapter/adapter_model.safetensors").write_text("adapter")
    Path("out/r/run.yaml").write_text(yaml.safe_dump({"base_model": "base", "adapter": "lora"}))
    return Path("base")


def test_a_base_is_known_by_its_weights_tokenizer_and_template(base):
    shards = {f"model-0000{i}-of-00002.safetensors": digest(text) for i, text in ((1, "one"), (2, "two"))}
    files = {"tokenizer.json": digest("{}"), "tokenizer_config.json": digest('{"chat_template": "a template"}')}
    assert merge.identify(base, {"base_model": "base"}) == {
        "base_model": "base",
        "revision": None,
        "dtype": "bfloat16",
        "weights": shards,
        "weights_sha256": digest(json.dumps(shards, separators=(",", ":"))),
        "tokenizer_sha256": digest(json.dumps(files, separators=(",", ":"))),
        "chat_template_sha256": digest("a template"),
    }


def test_one_file_of_weights_has_its_own_hash_and_a_large_one_is_read_in_pieces(base):
    for path in base.glob("model-*"):
        path.unlink()
    text = "x" * 9_000_000
    (base / "model.safetensors").write_text(text)
    assert merge.identify(base, {"base_model": "base"})["weights_sha256"] == digest(text)


def test_a_template_file_comes_before_that_of_the_settings(base):
    (base / "chat_template.jinja").write_text("another")
    assert merge.identify(base, {"base_model": "base"})["chat_template_sha256"] == digest("another")


@pytest.mark.parametrize(("name", "what"), [("model-00002-of-00002.safetensors", "weights"), ("tokenizer.json", "tokenizer"), ("tokenizer_config.json", "tokenizer")])
def test_another_base_is_refused_in_one_line(base, name, what):
    known = merge.identify(base, {"base_model": "base"})
    Path("out/r/adapter/base.json").write_text(json.dumps(known))
    assert merge.check_base(Path("out/r"), {"base_model": "base"}) == (base, known)
    (base / name).write_text('{"chat_template": "b"}')
    line = one_line(call(status=1))
    assert f"out/r: the adapter was trained on another base: {what} {known[f'{what}_sha256'][:12]}, and base now has" in line


def test_before_there_is_a_base_json_the_head_of_the_run_file_counts(base):
    path = Path("out/r/run.yaml")
    path.write_text(f"# base: base/model.safetensors sha256 {'0' * 64}\n" + path.read_text())
    line = one_line(call(status=1))
    assert "trained on another base: weights 000000000000, and base now has" in line and not Path("out/r/adapter/base.json").exists()


def test_a_base_of_another_name_is_refused(base):
    Path("out/r/adapter/base.json").write_text(json.dumps({"base_model": HUB}))
    assert f"the adapter was trained on {HUB}, and run.yaml names base; run `make train`" in one_line(call(status=1))


def test_a_base_that_is_not_here_is_taken_on_its_record_only(base):
    config = {"base_model": HUB}
    with pytest.raises(merge.UserError, match="is not on this machine; `make merge` writes it"):
        merge.check_base(Path("out/r"), config)
    known = config | {"revision": "0" * 40}
    Path("out/r/adapter/base.json").write_text(json.dumps(known))
    assert merge.check_base(Path("out/r"), config) == (None, known)


def test_data_rendered_with_another_template_are_refused(base):
    Path("data").mkdir()
    Path("data/stats.json").write_text(json.dumps({"chat_template_sha256": digest("another")}))
    assert "data: was rendered with another chat template than that of base" in one_line(call(status=1))


def test_a_merged_model_belongs_to_its_adapter_and_base(base):
    run = Path("out/r")
    (run / "merged").mkdir()
    (run / "adapter/base.json").write_text('{"weights_sha256": "1"}')
    (run / "merged/merge.json").write_text(json.dumps({"base_sha256": "1", "trained_sha256": digest("adapter")}))
    assert merge.merged_folder(run) == run / "merged"
    for path, text in ((run / "adapter/base.json", '{"weights_sha256": "2"}'), (run / "adapter/adapter_model.safetensors", "retrained")):
        was = path.read_text()
        path.write_text(text)
        with pytest.raises(merge.UserError, match="was merged from another adapter or base"):
            merge.merged_folder(run)
        path.write_text(was)


def test_a_run_without_adapter_is_one_line(base):
    Path("out/r/adapter/adapter_config.json").unlink()
    assert "holds no adapter; run `make train` first" in one_line(call(status=1))


# ---------------------------------------------------------------- real merges


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """The embedded model as base, a LoRA adapter of random weights on it, and its tokenizer with another pad token, as Axolotl would leave it."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "tiny/model", "base")
    torch.manual_seed(1)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained("base", dtype=torch.float32), LoraConfig(r=4, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    )
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.05)
    model.save_pretrained("out/r/adapter")
    tokenizer = AutoTokenizer.from_pretrained("base")
    tokenizer.pad_token = "<|end|>"
    tokenizer.save_pretrained("out/r/adapter")
    Path("out/r/run.yaml").write_text(yaml.safe_dump({"base_model": "base", "adapter": "lora"}))
    Path("data").mkdir()
    rows = [{"prompt": f"<|user|> Why {i}?<|end|><|assistant|>", "chosen": " Because it is.<|end|>", "rejected": " No.<|end|>"} for i in range(5)]
    Path("data/val.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return model, tokenizer


def same_files(names):
    return [name for name in names if Path("out/r/merged", name).read_bytes() == Path("base", name).read_bytes()]


FILES = ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"]


@pytest.mark.slow
def test_a_merge_carries_the_bases_own_tokenizer_and_writes_down_the_base_once(trained):
    done = call()
    check, base = (json.loads(Path("out/r", name).read_text()) for name in ("merged/merge.json", "adapter/base.json"))
    assert check["largest relative logit difference"] <= check["limit"] == 1e-4 < check["adapter moves logits by"] and check["prompts"] == 4
    assert check["pad token"] == {"in training": "<|end|>", "of the base": "<|pad|>"} and same_files(FILES) == FILES and "logits agree" in done.stdout
    assert merge.chat_template(Path("base")) == trained[1].chat_template
    assert json.loads(Path("out/r/merged/config.json").read_text())["pad_token_id"] == 5
    assert base["weights_sha256"] == check["base_sha256"] == digest_of("base/model.safetensors") and merge.merged_folder(Path("out/r"))
    before = Path("out/r/adapter/base.json").stat().st_mtime_ns
    call()
    assert Path("out/r/adapter/base.json").stat().st_mtime_ns == before and not Path("out/r/merged.partial").exists()


def digest_of(path):
    return sha256(Path(path).read_bytes()).hexdigest()


@pytest.mark.slow
def test_an_adapter_that_does_nothing_and_a_tokenizer_with_other_tokens_are_refused(trained):
    model, tokenizer = trained
    tokenizer.add_tokens(["[PAD]"])
    tokenizer.save_pretrained("out/r/adapter")
    assert "its tokenizer differs from the base's in vocabulary" in one_line(call(status=1))
    shutil.copy("base/tokenizer.json", "out/r/adapter")
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data.zero_()
    model.save_pretrained("out/r/adapter")
    assert "it has not learnt anything, and there is nothing to merge" in one_line(call(status=1))
    assert sorted(path.name for path in Path("out/r").iterdir()) == ["adapter", "run.yaml"] and not Path("out/r/adapter/base.json").exists()


@pytest.mark.slow
def test_a_full_fine_tuning_is_checked_and_written_in_the_same_way(trained):
    model, _ = trained
    full = model.merge_and_unload()
    full.config.use_cache, full.config.pad_token_id = False, 4
    shutil.rmtree("out/r/adapter/", ignore_errors=True)
    full.save_pretrained("out/r/adapter")
    for name in FILES[:3]:
        shutil.copy(Path("base", name), "out/r/adapter")
    Path("out/r/run.yaml").write_text(yaml.safe_dump({"base_model": "base"}))
    call()
    check, config = (json.loads(Path("out/r/merged", name).read_text()) for name in ("merge.json", "config.json"))
    assert (
        check["largest relative logit difference"] == 0.0
        and check["adapter moves logits by"] > 0.01
        and check["trained_sha256"] == digest_of("out/r/adapter/model.safetensors")
    )
    assert (config["use_cache"], config["pad_token_id"]) == (True, 5) and same_files(FILES) == FILES
