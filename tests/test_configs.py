"""Every YAML of the repository: found recursively, counted, and checked against what reads it.  .venv/bin/python -m pytest tests/test_configs.py"""

import pytest
import yaml
from conftest import ROOT, one_line, run

from datagen import config
from datagen.files import UserError
from train import recipe

YAMLS = sorted(path.relative_to(ROOT) for folder in ("axolotl", "datagen", "tiny", "train", "eval") for path in (ROOT / folder).rglob("*.y*ml"))
TRAINING = [path for path in YAMLS if path.parts[0] == "axolotl" and len(path.parts) == 2]
PAPER = [path for path in TRAINING if path.stem != "tiny"]

ABLATIONS = [
    "base-4bit",
    "base-bf16",
    "beta-0.01",
    "beta-0.5",
    "data-conversational",
    "data-deduplicated",
    "data-general",
    "data-half",
    "data-length-matched",
    "data-no-emoji",
    "fast",
    "full",
    "honest",
    "ipo",
    "kto",
    "length-normalised",
    "lora-r16",
    "lora-r64",
    "lr-x0.025",
    "lr-x0.1",
    "lr-x3",
    "orpo",
    "reward",
    "sft-term",
    "simpo",
]
GUARDS = [
    "all",
    "emobench",
    "emobench_application",
    "emobench_cause",
    "emobench_emotion",
    "ifeval",
    "refusals",
    "truthfulness",
    "xstest_safe",
    "xstest_unsafe",
]


def read(path):
    return yaml.safe_load((ROOT / path).read_text())


def test_there_are_as_many_yaml_files_as_we_think():
    assert list(map(str, YAMLS)) == [
        *(f"axolotl/ablations/{name}.yaml" for name in ABLATIONS),
        "axolotl/llama3-8b.yaml",
        "axolotl/mistral-nemo.yaml",
        "axolotl/qwen2.5-7b.yaml",
        *(f"axolotl/scale/{name}.yaml" for name in ("fsdp2", "ray", "zero2", "zero3")),
        "axolotl/tiny.yaml",
        *(f"datagen/{name}.yaml" for name in ("config", "identity", "models")),
        *(f"datagen/roleplay/{name}.yaml" for name in ("cards", "config", "goals", "personas", "prefer")),
        "datagen/topics.yaml",
        *(f"eval/{name}.yaml" for name in ("collection", "detection")),
        *(f"eval/guards/{name}.yaml" for name in GUARDS),
        *(f"eval/{name}.yaml" for name in ("items", "probes", "published", "study")),
        "tiny/people/goals.yaml",
    ]


def test_the_folder_axolotl_holds_no_python_that_could_shadow_the_package():
    assert not list((ROOT / "axolotl").rglob("*.py"))


@pytest.fixture(scope="module")
def schema():
    return recipe.schema()


@pytest.mark.parametrize("path", TRAINING, ids=str)
def test_every_key_is_known_to_axolotl(path, schema):
    assert recipe.unknown_keys(read(path), schema) == []


def test_axolotls_own_validation_takes_every_training_file(schema):
    from axolotl.utils.schemas.config import AxolotlInputConfig

    for path in TRAINING:
        AxolotlInputConfig(**read(path))


@pytest.mark.parametrize("path", PAPER, ids=str)
def test_tables_2_and_3_of_the_paper(path):
    table = {"learning_rate": 2e-4, "num_epochs": 1, "warmup_steps": 10, "gradient_accumulation_steps": 8, "micro_batch_size": 2, "optimizer": "adamw_bnb_8bit"}
    table |= {"lora_r": 8, "lora_alpha": 4, "lora_dropout": 0.05, "rl_beta": 0.1}
    assert {key: read(path)[key] for key in table} == table


@pytest.mark.parametrize("path", PAPER, ids=str)
def test_the_authors_other_published_keys(path):
    published = {"load_in_8bit": True, "rl": "dpo", "sequence_len": 8192, "sample_packing": False, "adapter": "lora", "lora_target_linear": True}
    published |= {"lr_scheduler": "cosine", "bf16": "auto", "gradient_checkpointing": True, "logging_steps": 1, "attn_implementation": "flash_attention_2"}
    published |= {"evals_per_epoch": 2, "saves_per_epoch": 1, "weight_decay": 0.0}
    assert {key: read(path)[key] for key in published} == published


def test_all_training_files_have_the_same_keys_in_the_same_order():
    assert len({tuple(read(path)) for path in TRAINING}) == 1


def test_bases_differ_only_in_the_base_its_padding_and_the_paths():
    def rest(path):
        return {k: v for k, v in read(path).items() if k not in ("base_model", "special_tokens", *recipe.DATA_KEYS)}

    assert rest(PAPER[0]) == rest(PAPER[1]) == rest(PAPER[2])


@pytest.mark.parametrize("path", TRAINING, ids=str)
def test_a_training_file_alone_reads_and_writes_where_make_does(path):
    values, data = read(path), f"data/{'tiny' if path.stem == 'tiny' else 'paper'}/{path.stem}"
    assert values["output_dir"] == f"out/{path.stem}/adapter" and values["dataset_prepared_path"] == f"out/{path.stem}/prepared"
    assert [values["datasets"][0]["path"], values["test_datasets"][0]["path"]] == [f"{data}/train.jsonl", f"{data}/val.jsonl"]
    assert values["datasets"][0]["type"] == values["test_datasets"][0]["type"] == "passthrough.default"
    assert values["excess_length_strategy"] == "raise"


def test_every_difference_of_the_tiny_file_states_its_reason():
    tiny, paper = read("axolotl/tiny.yaml"), read("axolotl/llama3-8b.yaml")
    lines = (ROOT / "axolotl/tiny.yaml").read_text().splitlines()
    for key in tiny:
        if tiny[key] != paper[key] and key not in ("base_model", "special_tokens", *recipe.DATA_KEYS):
            [i] = [i for i, line in enumerate(lines) if line.startswith(f"{key}:")]
            assert any(reason in " ".join(lines[i - 1 : i + 2]) for reason in ("(cpu)", "(size)")), key


def test_the_papers_scale_and_sampling_are_the_defaults():
    settings = config.load("paper")
    assert settings.pairs == 10884 and (settings.answers.temperature, settings.answers.top_p) == (1.0, 1.0)
    assert "405B" in settings.questions.model and "70B" in settings.answers.model


def test_the_tiny_profile_differs_only_in_endpoint_models_and_counts():
    paper, tiny = (config.load(name).model_dump() for name in ("paper", "tiny"))
    different = {f"{k}.{j}" for k in paper if isinstance(paper[k], dict) for j in paper[k] if paper[k][j] != tiny[k][j]}
    different |= {k for k in paper if not isinstance(paper[k], dict) and paper[k] != tiny[k]}
    changed = {"questions": ("model", "count", "held_out", "topics", "examples", "avoid"), "traits": ("model", "count", "pairs", "schemas")}
    assert different == {"endpoint.concurrency", "answers.model", "pairs", "held_out"} | {f"{part}.{key}" for part, keys in changed.items() for key in keys}


def write_config(tmp_path, old, new):
    text = (ROOT / "datagen/config.yaml").read_text()
    assert old in text
    path = tmp_path / "config.yaml"
    path.write_text(text.replace(old, new, 1))
    return path


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "  count: 12000",
            "  cuont: 12000",
            "unknown key questions.cuont (did you mean 'count'?); questions.count: field required|questions.count: field required; unknown key",
        ),
        ("pairs: 10884", "pairs: many", "pairs: input should be a valid integer, got 'many'"),
        ("seed: 1", "seed: 1\nseed: 2", "the key 'seed' stands twice"),
        ("seed: 1", "seed: [1", "not valid YAML"),
    ],
)
def test_a_fault_in_the_settings_is_named(tmp_path, old, new, words):
    with pytest.raises(UserError) as caught:
        config.load("paper", write_config(tmp_path, old, new))
    assert any(part in str(caught.value) for part in words.split("|"))


def test_all_faults_are_named_at_once(tmp_path):
    path = write_config(tmp_path, "pairs: 10884", "pairs: many\nheld: 3")
    with pytest.raises(UserError) as caught:
        config.load("paper", path)
    assert "pairs:" in str(caught.value) and "unknown key held" in str(caught.value)


def test_an_unknown_profile_lists_the_known(tmp_path):
    assert "there is no profile 'big'; profiles are: paper, tiny" in one_line(run("datagen.config", "--profile", "big", status=1))


def test_stage_keys_leave_out_what_does_not_change_the_result(tmp_path, monkeypatch):
    path = write_config(tmp_path, "timeout: 600", "timeout: 5")
    assert config.stage_key(config.load("paper", path), "questions") == config.stage_key(config.load("paper"), "questions")
    path = write_config(tmp_path, "near_duplicate: 0.7", "near_duplicate: 0.8")
    assert config.stage_key(config.load("paper", path), "questions") != config.stage_key(config.load("paper"), "questions")
