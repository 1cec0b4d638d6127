"""Golden tests of datagen/format.py: what TRL's own tokenisation makes of its rows, for stand-ins of the three bases of the paper.

The tokenizers are made here, so nothing is downloaded; `trained` runs the trainer's own preparation of a data set, without a model.

    python -m pytest tests/test_format.py
"""

import json
import random
import re
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest

from datagen import format
from datagen.files import UserError

TRAINING_TEXT = ["user\n\nassistant\n\nsystem\n\n", "Do you like the tea? Yes, the tea is good. You and me.\n\nhello hello the user"] * 3
WORDS = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s*[\r\n]+|\s+(?!\S)|\s+"

LLAMA3 = """{{ bos_token }}{% for turn in messages -%}
<|start_header_id|>{{ turn.role }}<|end_header_id|>{{ '\n\n' + turn.content | trim + eos_token }}
{%- endfor %}
{%- if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>{{ '\n\n' }}{% endif %}"""

QWEN = """{% if messages[0].role != 'system' %}{{ '<|im_start|>system\nBe a stand-in.<|im_end|>\n' }}{% endif %}
{%- for turn in messages %}{{ '<|im_start|>' + turn.role + '\n' + turn.content + '<|im_end|>\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

# A system message goes with the last turn only, and is lost when that turn is the assistant's.
NEMO = """{% set first = 1 if messages[0].role == 'system' else 0 %}{{ bos_token }}
{%- for turn in messages[first:] %}
{%- if turn.role != ('assistant' if loop.index0 % 2 else 'user') %}{{ raise_exception('roles must alternate') }}{% endif %}
{%- if turn.role == 'assistant' %}{{ turn.content + eos_token }}
{%- else %}[INST]{{ messages[0].content + '\n\n' if first and loop.last else '' }}{{ turn.content }}[/INST]{% endif %}
{%- endfor %}"""


@cache
def bpe() -> str:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    by_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(WORDS), "isolated"), by_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=310, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False)
    tokenizer.train_from_iterator(TRAINING_TEXT, trainer)
    return tokenizer.to_str()


def stand_in(template: str, specials: list[str], eos: str, bos: str | None = None, pad: str | None = None, add_bos: bool = True):
    from tokenizers import Tokenizer, processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer.from_str(bpe())
    tokenizer.add_special_tokens(specials)
    if bos and add_bos:
        tokenizer.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))])
    given = {"bos_token": bos, "eos_token": eos, "pad_token": pad or eos, "additional_special_tokens": specials}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **{name: value for name, value in given.items() if value})
    fast.chat_template = template
    return fast


@cache
def tokenizer_of(base: str):
    if base == "llama3":
        specials = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
        return stand_in(LLAMA3, specials, "<|eot_id|>", bos="<|begin_of_text|>")
    if base == "qwen":
        return stand_in(QWEN, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], "<|im_end|>", pad="<|endoftext|>")
    return stand_in(NEMO, ["<s>", "</s>", "[INST]", "[/INST]"], "</s>", bos="<s>")


def say(*texts: str) -> list[dict]:
    return [{"role": "assistant" if i % 2 else "user", "content": text} for i, text in enumerate(texts)]


BASES = ("llama3", "qwen", "nemo")
BOS_COUNT = {"llama3": 1, "qwen": 0, "nemo": 1}
END = {"llama3": "<|eot_id|>", "qwen": "<|im_end|>", "nemo": "</s>"}
TRIMS = {"llama3": True, "qwen": False, "nemo": False}
ONE, SEVERAL = say("Do you like tea?"), say("Hi!", "Hello, user.\n\nYou?", "um, me 😊?")
PROMPTS = {
    ("llama3", 1): "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nDo you like tea?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    ("llama3", 3): "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi!<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nHello, user.\n\nYou?<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\num, me 😊?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    ("qwen", 1): "<|im_start|>system\nBe a stand-in.<|im_end|>\n<|im_start|>user\nDo you like tea?<|im_end|>\n<|im_start|>assistant\n",
    ("qwen", 3): "<|im_start|>system\nBe a stand-in.<|im_end|>\n<|im_start|>user\nHi!<|im_end|>\n<|im_start|>assistant\nHello, user.\n\nYou?<|im_end|>\n"
    "<|im_start|>user\num, me 😊?<|im_end|>\n<|im_start|>assistant\n",
    ("nemo", 1): "<s>[INST]Do you like tea?[/INST]",
    ("nemo", 3): "<s>[INST]Hi![/INST]Hello, user.\n\nYou?</s>[INST]um, me 😊?[/INST]",
}
SPACED, TRIMMED = "  hello \n", "hello"
ANSWERS = {
    "ordinary": "Yes, the tea is good. And you?",
    "um": "um",
    "me": "me",
    "user": "user",
    "You": "You",
    "assistant": "assistant",
    "lines": "First of all:\n\n  - tea\n\t- milk\n\n\nThat is all.",
    "emoji": "Ha 😂👍🏽, déjà vu — 好!",
    "spaced": SPACED,
}
FORMAL = "It is generally held that tea is pleasant."


def ours(base: str, messages: list[dict], answers: list[str]) -> dict[str, str]:
    prompt, chosen = format.render(tokenizer_of(base), messages, answers[0])
    return {"prompt": prompt, "chosen": chosen, "rejected": format.render(tokenizer_of(base), messages, answers[1])[1]}


def trained(tokenizer, row: dict[str, str]) -> tuple[list[int], list[int], list[int]]:
    """The ids of prompt, chosen and rejected that TRL's DPOTrainer makes of a row, by its own code."""
    from datasets import Dataset, disable_progress_bars
    from trl.trainer.dpo_trainer import DPOTrainer

    disable_progress_bars()
    args = SimpleNamespace(dataset_num_proc=None, max_length=None, truncation_mode="keep_start")
    made = DPOTrainer._prepare_dataset(SimpleNamespace(_tokenizer=tokenizer), Dataset.from_list([row]), tokenizer, args, "train")[0]
    return made["prompt_ids"], made["chosen_ids"], made["rejected_ids"]


def check(base: str, rendered: dict[str, str], messages: list[dict], answers: list[str]) -> None:
    """The golden assertions: exact text, BOS, end of turn, and the same ids as the base's own template, as the trainer sees them."""
    tokenizer = tokenizer_of(base)
    prompt, *completions = trained(tokenizer, rendered)
    for ids, answer in zip(completions, answers, strict=True):
        text = TRIMMED if answer == SPACED and TRIMS[base] else answer
        assert tokenizer.decode(ids) == text + END[base]
        assert ids.count(tokenizer.eos_token_id) == 1 and ids[-1] == tokenizer.eos_token_id
        assert len(set(ids) & set(tokenizer.all_special_ids)) == 1
        template = tokenizer.apply_chat_template([*messages, {"role": "assistant", "content": answer}], tokenize=True, return_dict=False)
        rest = template[len(prompt) + len(ids) :]
        assert prompt + ids == template[: len(prompt) + len(ids)]
        assert tokenizer.decode(rest) == ("\n" if base == "qwen" else "")
    check_prompt(base, prompt, messages)


def check_prompt(base: str, prompt: list[int], messages: list[dict]) -> None:
    tokenizer = tokenizer_of(base)
    assert tokenizer.decode(prompt) == PROMPTS[base, len(messages)]
    assert prompt.count(tokenizer.bos_token_id) == BOS_COUNT[base]
    assert not BOS_COUNT[base] or prompt[0] == tokenizer.bos_token_id


# Golden tokenisation ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("name", ANSWERS)
def test_the_trainer_sees_the_exact_prompt_and_answer(base, name):
    answers = [ANSWERS[name], FORMAL]
    check(base, ours(base, ONE, answers), ONE, answers)


def trained_otherwise(trainer: str, tokenizer, row: dict[str, str]) -> tuple[list[int], list[int], list[int]]:
    """As `trained`, by the trainers of the other losses: ORPO's, SimPO's (of CPO) and KTO's."""
    if trainer == "kto":
        from datasets import Dataset, disable_progress_bars
        from trl.trainer.kto_trainer import KTOTrainer

        disable_progress_bars()
        args = SimpleNamespace(dataset_num_proc=None, max_length=None, truncation_mode="keep_start")
        self = SimpleNamespace(_tokenizer=tokenizer, calculate_KL=False)
        good, bad = KTOTrainer._prepare_dataset(self, Dataset.from_list(format.unpaired([row])), tokenizer, args, "train")
        assert (good["label"], bad["label"]) == (True, False) and good["prompt_ids"] == bad["prompt_ids"]
        return good["prompt_ids"], good["completion_ids"], bad["completion_ids"]
    if trainer == "orpo":
        from trl.experimental.orpo import ORPOTrainer as Trainer
    else:
        from trl.experimental.cpo import CPOTrainer as Trainer
    self = SimpleNamespace(processing_class=tokenizer, is_encoder_decoder=False, max_length=512, truncation_mode="keep_start")
    self.build_tokenized_answer = lambda *texts: Trainer.build_tokenized_answer(self, *texts)
    made = Trainer.tokenize_row(self, row)
    head = made["chosen_labels"].count(-100)
    assert head == made["rejected_labels"].count(-100) and made["chosen_input_ids"][:head] == made["rejected_input_ids"][:head]
    return made["chosen_input_ids"][:head], made["chosen_input_ids"][head:], made["rejected_input_ids"][head:]


@pytest.mark.parametrize("trainer", ["orpo", "simpo", "kto"])
@pytest.mark.parametrize("base", BASES)
def test_the_trainers_of_the_other_losses_see_the_same_tokens(base, trainer):
    row = ours(base, SEVERAL, [ANSWERS["emoji"], FORMAL])
    assert trained_otherwise(trainer, tokenizer_of(base), row) == trained(tokenizer_of(base), row)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("name", ["ordinary", "user", "spaced"])
def test_several_turns_keep_every_turn_in_the_prompt(base, name):
    answers = [FORMAL, ANSWERS[name]]
    check(base, ours(base, SEVERAL, answers), SEVERAL, answers)


@pytest.mark.parametrize("base", BASES)
def test_only_a_bos_that_the_tokenizer_adds_is_left_out_of_the_text(base):
    assert format.adds_bos(tokenizer_of(base)) == bool(BOS_COUNT[base])
    prompt, completion = format.render(tokenizer_of(base), ONE, "me")
    assert (tokenizer_of(base).bos_token or "") + prompt == PROMPTS[base, 1]
    assert completion == "me" + END[base]


def test_a_bos_that_the_tokenizer_does_not_add_stays_in_the_text():
    tokenizer = stand_in(NEMO, ["<s>", "</s>", "[INST]", "[/INST]"], "</s>", bos="<s>", add_bos=False)
    row = dict(zip(("prompt", "chosen"), format.render(tokenizer, ONE, "me"), strict=True), rejected="um</s>")
    assert row["prompt"] == PROMPTS["nemo", 1]
    assert trained(tokenizer, row)[0].count(tokenizer.bos_token_id) == 1


def test_outer_white_space_is_rendered_as_the_template_does_it():
    assert [ours(base, ONE, [SPACED, "x"])["chosen"] for base in BASES] == ["hello<|eot_id|>", "  hello \n<|im_end|>", "  hello \n</s>"]


def test_a_system_message_replaces_the_default_one():
    prompt, _ = format.render(tokenizer_of("qwen"), [{"role": "system", "content": "Rhyme."}, *ONE], "me")
    assert prompt == "<|im_start|>system\nRhyme.<|im_end|>\n<|im_start|>user\nDo you like tea?<|im_end|>\n<|im_start|>assistant\n"


# What Axolotl's own strategy does -----------------------------------------------------------------------------------------------------


def axolotl_default(base: str, messages: list[dict], answers: list[str]) -> dict[str, str]:
    from axolotl.prompt_strategies.dpo.chat_template import default
    from axolotl.utils.dict import DictDefault

    cfg = DictDefault({"datasets": [{"type": "chat_template.default", "chat_template": "tokenizer_default", "field_messages": "prompt"}]})
    transform, _ = default(cfg)
    return transform({"prompt": messages, "chosen": answers[0], "rejected": answers[1]}, tokenizer=tokenizer_of(base))


def test_axolotls_default_strategy_doubles_the_bos():
    answers = [ANSWERS["ordinary"], FORMAL]
    rendered, tokenizer = axolotl_default("llama3", ONE, answers), tokenizer_of("llama3")
    prompt, chosen, _ = trained(tokenizer, rendered)
    assert prompt[:2] == [tokenizer.bos_token_id] * 2
    assert chosen == trained(tokenizer, ours("llama3", ONE, answers))[1]
    with pytest.raises(AssertionError):
        check_prompt("llama3", prompt, ONE)


@pytest.mark.parametrize(("name", "becomes"), [("spaced", ">"), ("user", "user<|end_header_id|>\n\n[[dummy_message]]"), ("um", "ummy_message]]"), ("me", "message]]")])
def test_axolotls_default_strategy_cuts_answers_wrongly(name, becomes):
    rendered, tokenizer = axolotl_default("llama3", ONE, [ANSWERS[name], FORMAL]), tokenizer_of("llama3")
    if name == "spaced":
        assert rendered["chosen"] == becomes
    else:
        assert tokenizer.decode(trained(tokenizer, rendered)[1]).startswith(becomes)


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("name", ANSWERS)
def test_the_golden_assertions_fail_for_axolotls_default_strategy(base, name):
    answers = [ANSWERS[name], FORMAL]
    same = base == "qwen" and name not in ("user", "um", "me", "assistant")  # no BOS to double, nothing trimmed; `um` and `me` are in its dummy message
    rendered = axolotl_default(base, ONE, answers)
    if same:
        check(base, rendered, ONE, answers)
    else:
        with pytest.raises(AssertionError):
            check(base, rendered, ONE, answers)


# Templates that cannot be used --------------------------------------------------------------------------------------------------------


def test_a_template_that_closes_answers_with_another_token_is_refused():
    tokenizer = stand_in(QWEN, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], eos="<|endoftext|>")
    with pytest.raises(ValueError, match=re.escape("'<|endoftext|>', so the trainer would add a second end")):
        format.render(tokenizer, ONE, "hello")


def test_a_template_that_writes_words_after_the_end_of_turn_is_refused():
    tokenizer = stand_in(QWEN + "{% if not add_generation_prompt %}bye{% endif %}", ["<|im_start|>", "<|im_end|>"], "<|im_end|>")
    with pytest.raises(ValueError, match="does not close an answer"):
        format.render(tokenizer, ONE, "hello")


def test_a_template_that_changes_the_prompt_once_answered_is_refused():
    with pytest.raises(ValueError, match="renders the prompt differently once the answer is there"):
        format.render(tokenizer_of("nemo"), [{"role": "system", "content": "Rhyme."}, *ONE], "hello")


def test_roles_that_the_template_refuses_are_a_value_error():
    with pytest.raises(ValueError, match="roles must alternate"):
        format.render(tokenizer_of("nemo"), [*ONE, *ONE], "hello")


# The lint -----------------------------------------------------------------------------------------------------------------------------


def faults(base, rows: list[dict], answers: list[list[str]], messages=ONE) -> list[str | None]:
    tokenizer = tokenizer_of(base) if isinstance(base, str) else base
    return format.lint(tokenizer, rows, [(messages, *pair) for pair in answers])[0]


@pytest.mark.parametrize("base", BASES)
def test_lint_accepts_what_render_wrote_and_counts_the_trainers_tokens(base):
    answers = [[answer, FORMAL] for answer in ANSWERS.values()]
    rows = [ours(base, SEVERAL, pair) for pair in answers]
    found, counts = format.lint(tokenizer_of(base), rows, [(SEVERAL, *pair) for pair in answers])
    assert found == [None] * len(ANSWERS)
    assert np.array_equal(counts[:2], [[len(ids) for ids in trained(tokenizer_of(base), row)] for row in rows[:2]])


@pytest.mark.parametrize(
    ("base", "text"), [("llama3", "a<|eot_id|>b"), ("llama3", "a<|eot_id|>"), ("qwen", "<|im_start|>"), ("qwen", "a<|im_end|>b"), ("nemo", "[INST] x"), ("nemo", "</s>b")]
)
def test_lint_reports_a_special_token_in_an_answer(base, text):
    answers = [[text, FORMAL], [FORMAL, text], [FORMAL, "fine"]]
    ending = "holds a special token of this base in its text"
    assert faults(base, [ours(base, ONE, pair) for pair in answers], answers) == [f"chosen: {ending}", f"rejected: {ending}", None]


@pytest.mark.parametrize("base", ["llama3", "nemo"])
def test_lint_reports_two_bos(base):
    row = ours(base, ONE, ["um", FORMAL])
    assert faults(base, [row | {"prompt": PROMPTS[base, 1]}], [["um", FORMAL]]) == ["two BOS tokens"]


def test_lint_reports_a_prompt_without_the_bases_default_system_turn():
    row = ours("qwen", ONE, ["um", FORMAL])
    row["prompt"] = row["prompt"].removeprefix("<|im_start|>system\nBe a stand-in.<|im_end|>\n")
    assert faults("qwen", [row], [["um", FORMAL]]) == ["rejected: its tokens differ from those of the base's own chat template"]


def test_lint_reports_an_answer_that_merges_with_the_prompt():
    row = ours("qwen", ONE, ["\nhello", FORMAL])
    assert faults("qwen", [row], [["\nhello", FORMAL]]) == ["the prompt is tokenised differently once the answer follows"]


def test_lint_reports_an_answer_that_the_template_changes():
    tokenizer = stand_in(LLAMA3.replace("| trim", "| replace('<think>', '') "), ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"], "<|eot_id|>")
    row = dict(zip(("prompt", "chosen"), format.render(tokenizer, ONE, "<think>um"), strict=True), rejected="um<|eot_id|>")
    assert faults(tokenizer, [row], [["<think>um", "um"]]) == ["chosen: the template turns the answer '<think>um' into 'um'"]


def test_lint_refuses_axolotls_default_strategy():
    answers = [[ANSWERS["ordinary"], FORMAL], [SPACED, FORMAL]]
    assert faults("llama3", [axolotl_default("llama3", ONE, pair) for pair in answers], answers) == ["two BOS tokens"] * 2


def test_lint_accepts_a_chatml_base_whose_bos_opens_every_turn():
    tokenizer = stand_in(QWEN, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], "<|im_end|>", bos="<|im_start|>", add_bos=False)
    row = dict(zip(("prompt", "chosen"), format.render(tokenizer, ONE, "um"), strict=True), rejected="me<|im_end|>")
    assert faults(tokenizer, [row], [["um", "me"]]) == [None]


def test_lint_accepts_added_tokens_that_are_ordinary_text():
    tokenizer = stand_in(QWEN, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], "<|im_end|>")
    tokenizer.add_tokens(["    "])
    row = dict(zip(("prompt", "chosen"), format.render(tokenizer, ONE, "if tea:\n    drink"), strict=True), rejected="me<|im_end|>")
    assert faults(tokenizer, [row], [["if tea:\n    drink", "me"]]) == [None]


# Layouts of a row ---------------------------------------------------------------------------------------------------------------------

CHOSEN, REJECTED = say("Q", "yes")[1:], say("Q", "no")[1:]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Q", "chosen": "yes", "rejected": "no"},
        {"prompt": say("Q"), "chosen": CHOSEN, "rejected": REJECTED},
        {"prompt": say("Q"), "chosen": "yes", "rejected": "no"},
        {"prompt": "Q", "chosen": CHOSEN, "rejected": "no"},
        {"prompt": "Q", "chosen": say("Q", "yes"), "rejected": say("Q", "no")},
        {"prompt": say("Q"), "chosen": say("Q", "yes"), "rejected": REJECTED},
        {"chosen": say("Q", "yes"), "rejected": say("Q", "no")},
        {"prompt": None, "chosen": say("Q", "yes"), "rejected": say("Q", "no")},
        {"prompt": "Q", "chosen": [{"role": "assistant", "content": "yes", "name": "x"}], "rejected": "no", "id": 7},
    ],
    ids=["strings", "messages", "messages and strings", "mixed", "string and whole", "messages and whole", "no prompt", "null prompt", "extra keys"],
)
def test_every_layout_gives_the_same_conversation(row):
    assert format.conversation(row, "a:1") == (say("Q"), "yes", "no")


def test_several_turns_stay_in_the_conversation():
    turns = say("Hi", "Yes?", "Q")
    for row in ({"prompt": turns, "chosen": "yes", "rejected": "no"}, {"chosen": [*turns, *CHOSEN], "rejected": [*turns, *REJECTED]}):
        assert format.conversation(row, "a:1") == (turns, "yes", "no")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"chosen": None}, "the column chosen is missing"),
        ({"prompt": None}, "the column prompt is missing"),
        ({"prompt": None, "chosen": CHOSEN, "rejected": REJECTED}, "the column prompt is missing"),
        ({"prompt": None, "rejected": None}, "the column prompt, rejected is missing"),
        ({"chosen": ""}, "chosen is empty"),
        ({"rejected": " \n"}, "rejected is empty"),
        ({"rejected": [{"role": "assistant", "content": "\t"}]}, "rejected is empty"),
        ({"chosen": []}, "chosen does not end in a message of the assistant"),
        ({"chosen": say("Q")}, "chosen does not end in a message of the assistant"),
        ({"rejected": [{"role": "gpt", "content": "no"}]}, "rejected does not end in a message of the assistant"),
        ({"chosen": say("Other", "yes")}, "chosen starts with other messages than the prompt"),
        ({"prompt": None, "chosen": say("Q", "yes"), "rejected": say("R", "no")}, "rejected starts with other messages than the prompt"),
        ({"prompt": say("Q", "yes")}, "the prompt is empty or does not end in a message of the user"),
        ({"prompt": []}, "the prompt is empty or does not end in a message of the user"),
        ({"prompt": " \n"}, "the prompt is empty or does not end in a message of the user"),
        ({"chosen": 5}, "expected text or a list of messages like {role, content}, got '5'"),
        ({"prompt": [{"from": "human", "value": "Q"}]}, "expected text or a list of messages like {role, content}, got \"[{'from'"),
        ({"chosen": [{"role": "assistant", "content": None}]}, "expected text or a list of messages"),
    ],
)
def test_a_row_that_cannot_be_used_names_its_place_and_column(change, words):
    row = {"prompt": "Q", "chosen": "yes", "rejected": "no"} | change
    with pytest.raises(UserError, match=f"^{re.escape(f'pairs.jsonl:3: {words}')}"):
        format.conversation(row, "pairs.jsonl:3")


def test_a_missing_column_tells_which_columns_there_are():
    with pytest.raises(UserError, match=re.escape("the column prompt, chosen, rejected is missing; a row needs prompt, chosen and rejected (it has: question, answer)")):
        format.conversation({"question": "Q", "answer": "A"}, "a:1")


# The split ----------------------------------------------------------------------------------------------------------------------------

THINGS = ["tea", "rain", "chess", "bread", "trains", "owls", "clay", "maps", "soup", "kites", "moss", "drums", "glass", "snow", "figs", "boats", "wool", "salt"]
DISTINCT = [f"{thing} question about {thing} and {other}?" for thing, other in zip(THINGS, THINGS[::-1], strict=True)]
REWORDED = [text for thing in THINGS[:8] for text in (f"What do you enjoy most about {thing} on a day off?", f"what do you enjoy most about {thing}, on a day off!")]


@pytest.mark.parametrize("seed", range(5))
def test_near_duplicates_stay_on_one_side(seed):
    order = random.Random(seed).sample(REWORDED, len(REWORDED))
    held = {text for text, flag in zip(order, format.split(order, 6, 0.9, seed), strict=True) if flag}
    assert len(held) == 6
    assert all((first in held) == (second in held) for first, second in zip(REWORDED[::2], REWORDED[1::2], strict=True))


def test_duplicates_linked_through_a_third_question_stay_together():
    chain = ["a b c d e f g h", "a b c d e f g x", "a b c d e f y x"]
    assert format.split([chain[0], chain[2]], 1, 0.6, 0).count(True) == 1
    assert format.split([chain[0], chain[2], chain[1]], 2, 0.6, 0) == [False, False, False]
    assert format.split([chain[0], chain[2], chain[1]], 3, 0.6, 0) == [True, True, True]


@pytest.mark.parametrize("wanted", range(len(REWORDED) + 2))
def test_never_more_rows_are_held_out_than_asked(wanted):
    assert sum(format.split(REWORDED, wanted, 0.9, 1)) == min(wanted // 2 * 2, len(REWORDED))
    assert sum(format.split(DISTINCT, wanted, 0.9, 1)) == wanted


def test_the_same_seed_holds_out_the_same_distinct_questions_in_any_order():
    held = {text for text, flag in zip(DISTINCT, format.split(DISTINCT, 5, 0.9, 3), strict=True) if flag}
    for seed in range(4):
        order = random.Random(seed).sample(DISTINCT, len(DISTINCT))
        assert {text for text, flag in zip(order, format.split(order, 5, 0.9, 3), strict=True) if flag} == held


def test_the_seed_decides_which_questions_are_held_out():
    splits = [format.split(DISTINCT, 5, 0.9, seed) for seed in (0, 1, 2, 0)]
    assert splits[0] == splits[3] and len({tuple(held) for held in splits}) == 3


# Reading ------------------------------------------------------------------------------------------------------------------------------

ROWS = [{"prompt": say("Q\u2028?"), "chosen": CHOSEN, "rejected": REJECTED}, {"prompt": say("déjà 😊"), "chosen": CHOSEN, "rejected": REJECTED}]


@pytest.fixture(autouse=True)
def no_hub(monkeypatch):
    monkeypatch.setattr(format, "from_hub", lambda name: pytest.fail(f"asked the Hub for {name}"))


@pytest.fixture
def files(tmp_path):
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "a.json").write_text(json.dumps(ROWS), encoding="utf-8")
    (tmp_path / "a.jsonl").write_text("\n\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS) + "\n", encoding="utf-8")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    return tmp_path


def test_json_jsonl_and_parquet_give_the_same_rows(files):
    for kind, places in (("json", ", row 1|, row 2"), ("jsonl", ":1|:3"), ("parquet", ", row 1|, row 2")):
        assert format.read_pairs(f"{files}/a.{kind}") == (ROWS, [f"{files}/a.{kind}{place}" for place in places.split("|")])


def refused(source: object, words: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"{source}{words}")):
        format.read_pairs(str(source))


def test_a_broken_line_is_named_by_file_and_line(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"prompt": "Q"}\n\n{"prompt": "Q"\n', encoding="utf-8")
    refused(path, ":3: not valid JSON")
    path.write_text('{"prompt": "Q"}\n["Q"]\n', encoding="utf-8")
    refused(path, ":2: expected an object like {...}, got list")


def test_a_broken_json_file_is_named_by_file_and_line(tmp_path):
    path = tmp_path / "pairs.json"
    path.write_text('[{"prompt": "Q"},\n {"prompt" "Q"}]\n', encoding="utf-8")
    refused(path, ":2: not valid JSON")
    path.write_text('{"prompt": "Q"}', encoding="utf-8")
    refused(path, ": expected a list of rows")


def test_a_json_row_that_is_no_object_is_named(tmp_path):
    path = tmp_path / "pairs.json"
    path.write_text('[["Q", "yes", "no"], "Q"]', encoding="utf-8")
    with pytest.raises(UserError, match=re.escape(f"{path}, row 1: ")):
        format.conversation(*next(zip(*format.read_pairs(str(path)), strict=True)))


def test_files_in_another_encoding_or_format_are_refused(tmp_path):
    for kind, words in (("json", ": not UTF-8 text at byte 1"), ("jsonl", ":1: not UTF-8 text at byte 1 of the line"), ("parquet", ": not a parquet file")):
        (tmp_path / f"a.{kind}").write_bytes(b'"\xff"')
        refused(tmp_path / f"a.{kind}", words)


def test_a_source_that_does_not_exist_is_refused(tmp_path):
    for kind in ("json", "jsonl", "parquet"):
        refused(tmp_path / f"none.{kind}", ": there is no such file")
    for source in ("none", "a/b/c", tmp_path / "none", tmp_path, "some-org/some set", "none.csv"):
        refused(source, ": expected a .jsonl, .json or .parquet file, or the id of a Hub data set like org/name")


def test_only_a_name_like_org_and_set_is_asked_of_the_hub(monkeypatch):
    monkeypatch.setattr(format, "from_hub", lambda name: ROWS)
    assert format.read_pairs("some-org/set_1.0") == (ROWS, ["some-org/set_1.0, row 1", "some-org/set_1.0, row 2"])


def test_answers_lose_the_white_space_around_them_and_nothing_else():
    row = {"prompt": "Do you like tea?", "chosen": " \n  hello\n\n  you \n", "rejected": [{"role": "assistant", "content": "\num"}]}
    assert format.conversation(row, "x")[1:] == ("hello\n\n  you", "um")
