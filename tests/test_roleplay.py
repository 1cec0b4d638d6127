"""Role-played dialogues: personas, goals, prompts, extraction, detectors, the loop and its resumption.  .venv/bin/python -m pytest tests/test_roleplay.py"""

import asyncio
import json
import random
import re
import threading
from collections import Counter, defaultdict

import pytest
import yaml
from conftest import ROOT, inside, one_line

from datagen.client import Client, Request
from datagen.config import merge
from datagen.files import UserError, read_json
from datagen.roleplay import detect, extract
from datagen.roleplay.personas import Choice, Features, article, choose, describe, read_goals
from datagen.roleplay.record import END_REASONS, read
from datagen.roleplay.settings import FIELD, PLACEHOLDERS, Address, fill, load

CONFIG, GOALS = (yaml.safe_load((ROOT / f"datagen/roleplay/{name}.yaml").read_text()) for name in ("config", "goals"))
del CONFIG["profiles"]

# ---------------------------------------------------------------- personas and goals


def personas_file(tmp_path, **features):
    path = tmp_path / "personas.yaml"
    path.write_text(yaml.safe_dump({"noun": "person", "features": features}, sort_keys=False))
    return str(path)


ALL = dict(age="18-24", race="asian", gender="female", education="master", native_english="not-native")


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        (ALL, "an 18-to-24-year-old Asian or Pacific Islander woman who holds a Master's degree and is not a native speaker of English"),
        (ALL | {"age": "65+", "race": "white", "gender": "nonbinary", "education": "no-diploma"},
         "a White nonbinary person aged 65 or older who did not finish high school and is not a native speaker of English"),
        ({"age": "25-34"}, "a 25-to-34-year-old person"),
        ({"age": "65+"}, "a person aged 65 or older"),
        ({"race": "native"}, "an American Indian or Alaska Native person"),
        ({"gender": "male"}, "a man"),
        ({"education": "doctorate"}, "a person who holds a doctoral degree"),
        ({"native_english": "native"}, "a person who is a native speaker of English"),
        ({}, "a person"),
    ],
)  # fmt: skip
def test_a_persona_is_described_in_correct_english(chosen, said):
    values = yaml.safe_load((ROOT / "datagen/roleplay/personas.yaml").read_text())
    assert describe(Features(**values), chosen) == said


def test_the_article_follows_the_sound():
    an = ["18-to", "80-year", "8-year", "11-year", "hour", "honest", "unemployed", "uninterested", "Asian"]
    a = ["110-year", "35-to", "university", "European", "one-armed", "useful", "White"]
    assert [article(words) for words in an + a] == ["an"] * len(an) + ["a"] * len(a)


def test_all_combinations_are_as_many_as_the_product_and_distinct():
    personas = choose(Choice(use="all"))
    assert len(personas) == 6 * 5 * 3 * 6 * 2 == len({persona.id for persona in personas}) and {persona.index for persona in personas} == {0}


def test_a_sample_is_seeded_and_without_repetition():
    one, same, other = (choose(Choice(use="sample", count=20, seed=seed)) for seed in (1, 1, 2))
    assert one == same != other and len({persona.id for persona in one}) == 20


def test_equal_personas_of_a_list_share_the_id_and_differ_in_the_index():
    given = [{"age": "25-34", "gender": "male"}, {"gender": "male", "age": "25-34"}, {"age": "18-24", "gender": "male"}, {"age": "25-34", "gender": "male"}]
    found = choose(Choice(use="list", given=given))
    assert len({persona.id for persona in found}) == 2 and [persona.index for persona in found] == [0, 1, 0, 2]


def test_nobody_in_particular_is_as_many_persons_as_asked_for():
    assert [(persona.text, persona.index) for persona in choose(Choice(use="none", count=3))] == [("a person", 0), ("a person", 1), ("a person", 2)]


def test_ids_and_samples_do_not_depend_on_the_order_of_features(tmp_path):
    first = {"age": {"place": "before", "options": {"a": "young", "b": "old"}}, "gender": {"place": "noun", "options": {"f": "woman", "m": "man"}}}
    draw = [choose(Choice(file=personas_file(tmp_path, **dict(order)), use="sample", count=3, seed=4)) for order in (first.items(), reversed(first.items()))]
    assert [persona.id for persona in draw[0]] == [persona.id for persona in draw[1]]


def test_a_further_feature_needs_only_yaml(tmp_path):
    values = yaml.safe_load((ROOT / "datagen/roleplay/personas.yaml").read_text())["features"]
    path = personas_file(tmp_path, **values, home={"place": "phrase", "options": {"farm": "from a farm", "town": "from a town"}})
    [persona] = choose(Choice(file=path, use="list", given=[{"age": "65+", "gender": "female", "home": "farm", "education": "bachelor"}]))
    assert persona.text == "a woman aged 65 or older from a farm who holds a Bachelor's degree"


def test_a_fault_in_a_persona_is_named(tmp_path):
    with pytest.raises(UserError, match=r"persona 1: no feature 'agee' \(did you mean 'age'\?\); persona 2: age has no option '18-25' \(did you mean '18-24'\?\)"):
        choose(Choice(use="list", given=[{"agee": "x"}, {"age": "18-25"}]))
    with pytest.raises(UserError, match="a sample of 9 cannot be drawn from 2 combinations"):
        choose(Choice(file=personas_file(tmp_path, a={"place": "who", "options": {"x": "sings", "y": "paints"}}), use="sample", count=9, seed=1))
    with pytest.raises(UserError, match="a and b both give the noun"):
        choose(Choice(file=personas_file(tmp_path, a={"place": "noun", "options": {"x": "man"}}, b={"place": "noun", "options": {"x": "cook"}}), use="all"))


def test_our_goals_are_three_three_four_and_twenty():
    goals, tones = read_goals(ROOT / "datagen/roleplay/goals.yaml", None)
    assert Counter(goal.category for goal in goals) == {"mathematics": 3, "coding": 3, "general-knowledge": 4, "everyday": 20}
    assert tones["everyday"] == "neutral" and tones["coding"] == "demanding"


def test_a_goal_keeps_its_lines_and_its_code():
    goals, _ = read_goals(ROOT / "datagen/roleplay/goals.yaml", ["coding"])
    assert "```python\ndef average(values):\n    total = 0\n    for value in values:\n" in goals[0].text


# ---------------------------------------------------------------- prompts


def test_placeholders_are_filled_in_one_pass():
    assert fill("{response} {stop} {else}", response="{stop} <GOAL> {response}", stop="FINISH") == "{stop} <GOAL> {response} FINISH {else}"


def test_every_prompt_holds_the_placeholders_that_it_is_filled_with_and_no_other():
    folder = ROOT / "datagen/prompts/roleplay"
    assert {path.stem for path in folder.glob("*.txt")} == set(PLACEHOLDERS)
    for name, (known, _) in PLACEHOLDERS.items():
        assert set(FIELD.findall((folder / f"{name}.txt").read_text())) == set(known), name


def test_the_paper_is_not_copied():
    """No eight words in a row of the paper's appendix stand in our prompts or goals."""
    ours = " ".join(path.read_text() for path in [*(ROOT / "datagen/prompts/roleplay").glob("*.txt"), ROOT / "datagen/roleplay/goals.yaml"])
    theirs = "What prompt will you use to direct the assistant toward achieving your goal? Please provide the prompt within double quotes. Use simple language, "
    theirs += "keep the prompts brief, and be on point. If the assistant didn't help you achieve your goal, ask follow-up or clarification questions"
    assert not detect.echo(theirs, [ours])


# ---------------------------------------------------------------- extraction and stop (reference: the table of section 6 and 7)

EXTRACTED = [  # output, the paper's result and count, ours
    ('Sure! Here is the prompt: "How fast do I run?"', "How fast do I run?", 1, "How fast do I run?"),
    ('"Why 3 mph?" "And the other way around?"', "Why 3 mph?", 2, "Why 3 mph?"),
    ('I would ask about "speed" like this: "How do I calculate my speed?"', "speed", 2, "How do I calculate my speed?"),
    ('"Write a post saying "Technology is bad" for me"', "Write a post saying ", 2, 'Write a post saying "Technology is bad" for me'),
    ('"Explain "recursion""', "Explain ", 2, 'Explain "recursion"'),
    (r'"Make it print \"The factorial is 5\" please"', "Make it print \\", 2, 'Make it print "The factorial is 5" please'),
    ("“How fast do I run?”", None, 0, "How fast do I run?"),
    ('“What does "OOP" mean here?”', "OOP", 1, 'What does "OOP" mean here?'),
    ('“How fast do I run?"', None, 0, "How fast do I run?"),
    ('"How fast do I run? I ran', None, 0, None),
    ('"How tall is 6\'2" person?"', "How tall is 6'2", 1, "How tall is 6'2\" person?"),
    ('A 27" monitor. "Which cable do I need?"', " monitor. ", 1, "Which cable do I need?"),
    ('Sure: ""', "", 1, None),
    ('"""How fast do I run?"""', "", 3, "How fast do I run?"),
    ('```js\nconsole.log("hi")\n```', "hi", 1, None),
    ('"Fix this: print("hi") ok?"', "Fix this: print(", 2, 'Fix this: print("hi") ok?'),
    ('{"prompt": "How fast do I run?"}', "prompt", 2, "How fast do I run?"),
    ('"How fast?" "Of course! Your speed is 3."', "How fast?", 2, "How fast?"),
    ("« How fast? »", None, 0, "How fast?"),
    ("`How fast?`", None, 0, None),
    ("How fast?", None, 0, None),
    ('"Mend it:\n```python\nprint("hi")\n```\nok?"', "Mend it:\n```python\nprint(", 2, 'Mend it:\n```python\nprint("hi")\n```\nok?'),
    ('**"How fast?"**', "How fast?", 1, "How fast?"),
    ('"   "', "   ", 1, None),
]


def test_prompts_are_extracted_strictly_and_as_meant():
    for text, first, count, ours in EXTRACTED:
        assert (extract.strict(text), extract.tolerant(text).prompt) == ((first, count), ours), text


def test_reasoning_is_no_part_of_an_output():
    assert extract.strip_reasoning('<think>I could ask "foo bar"</think>"How fast?"') == '"How fast?"'
    assert extract.strip_reasoning('so "foo"?</think>"How fast?"') == '"How fast?"'
    assert extract.strip_reasoning('<think>I could ask "foo') is None


STOPS = [
    "FINISH",
    '"FINISH".',
    "**FINISH**",
    "<FINISH>",
    "I am done. FINISH",
    '"Ok now make it shorter." FINISH',
    'FINISH\n\n"One more: why?"',
    "finish",
    "Finished.",
    "“FINISH”",
    "Great, FINISH 👍",
    "```\nFINISH\n```",
    "FINISH</s>",
    "FINISH<|im_end|>",
    "FINISH—thanks",
    'Thanks. "FINISH" it is',
    'The goal is met, so I say "FINISH" now.',
    "<CONV_STOP>",
]
GOES_ON = [
    '"Finish the third quatrain in Poe\'s style."',
    '"Did I really Finish"',
    '"How do I FINISH"',
    "Finish the third quatrain.",
    'I would not say FINISH yet: "Why?"',
]


def test_the_stop_word_ends_a_dialogue_only_where_it_is_meant():
    assert [text for text in STOPS + GOES_ON if extract.stops(text)] == STOPS


# ---------------------------------------------------------------- detectors


def algorithm_2(text, max_n, r):
    """The definition, slowly: a word r + 2 times in a row, or an n-gram, 2 <= n <= max_n, r + 1 times back to back."""
    words = text.split()
    if any(len(set(words[i : i + r + 2])) == 1 and len(words[i : i + r + 2]) == r + 2 for i in range(len(words))):
        return True
    for n in range(2, max_n + 1):
        for i in range(len(words) - n * (r + 1) + 1):
            copies = {tuple(words[i + k * n : i + (k + 1) * n]) for k in range(r + 1)}
            if len(copies) == 1:
                return True
    return False


@pytest.mark.parametrize(("max_n", "r"), [(4, 2), (5, 2), (8, 2), (3, 3)])
def test_strict_incoherence_equals_its_definition_on_random_texts(max_n, r):
    rng, seen = random.Random(7), Counter()
    for _ in range(800):
        text = " ".join(rng.choice("abc"[: rng.randint(1, 3)]) for _ in range(rng.randint(0, 28)))
        seen[wanted := algorithm_2(text, max_n, r)] += 1
        assert detect.repeats_strict(text, max_n, r) == wanted, text
    assert min(seen.values()) > 150


PHRASE = {n: " ".join(f"w{i}" for i in range(n)) + " " for n in (5, 6, 7, 8)}
STRICT = [  # text, at (8, 2), (5, 2), (4, 2): the table of section 8.4
    ("a b a b b b", False, False, False),
    (PHRASE[5] * 4, True, True, False),
    (PHRASE[6] * 6, True, False, False),
    (PHRASE[8] * 6, True, False, False),
    (PHRASE[7] * 3, True, False, False),
    ("New York New York is great", False, False, False),
    ("t.forward(100)\nt.right(90)\n" * 4, True, True, True),
    ("| --- | --- | --- |", True, True, True),
    ("3 x 3 x 3 x 3 = 81", True, True, True),
    ("meow meow meow meow", True, True, True),
    ("FINISH FINISH FINISH FINISH", True, True, True),
]


def test_strict_incoherence_on_known_texts():
    assert [(text, *(detect.repeats_strict(text, n, 2) for n in (8, 5, 4))) for text, *_ in STRICT] == STRICT


TABLE_8 = "\"Okay, great! Let's a great idea! Let's a great! Let's a great! Let's a great! Let's a great! Let's a great! ..."
LOOPS = [
    TABLE_8,
    PHRASE[5] * 4,
    PHRASE[6] * 6,
    "this whole sentence has nine words in it today. " * 20,
    "a phrase of twelve words that goes on and on and on " * 50,
    " ".join(f"{i}. Go for a walk." for i in range(1, 40)),
    " ".join(f"Step {i}: go." for i in range(1, 40)),
    "haha" * 500,
    "😀" * 200,
    "我想知道怎么办，" * 40,
    "Here is how it is done. " + "and then you go home " * 20 + "and then",
]
NO_LOOPS = [
    "t.forward(100)\nt.right(90)\n" * 4,
    "Look:\n```\n" + "go north go north\n" * 20 + "```",
    "| a | b |\n| --- | --- |\n" + "| | |\n" * 8,
    "3 x 3 x 3 x 3 = 81",
    "1 + 1 + 1 + 1 = 4",
    "0 0 0 0",
    "meow meow meow meow",
    "Row on, row on, old bike. " * 3,
    "}\n}\n}\n}",
    "print('*')\n" * 4,
    "<br> <br> <br> <br>",
    "_ _ _ _ _",
    "This old bicycle of mine rolls home tonight\n" * 3,
    "\n".join(f"7 x {i} = {7 * i}" for i in range(1, 13)),
    "\n".join(f"{i} miles = {i * 1.6:.1f} km" for i in range(1, 11)),
    "You're welcome! Have a great day!",
    "FINISH FINISH FINISH FINISH",
    "",
]


def test_loops_are_told_from_code_tables_sums_and_refrains():
    assert [text for text in LOOPS + NO_LOOPS if detect.repeats(text)] == LOOPS


def test_our_own_code_and_documents_are_no_loops():
    """False positives on about 220 words at a time of this repository, where the strict form has some."""
    chunks = []
    for path in [*ROOT.glob("*/*.py"), ROOT / "Makefile", ROOT / "README.md", *(ROOT / "axolotl").glob("*.yaml")]:
        lines = path.read_text().splitlines()
        chunks += ["\n".join(lines[i : i + 25]) for i in range(0, len(lines), 25)]
    chunks = chunks[::6]
    assert len(chunks) > 100 and not [chunk for chunk in chunks if detect.repeats(chunk)]


def test_a_self_reply_is_cut_at_the_marker():
    assert detect.cut_at_marker('"How do I know?"[INST IN] "Of course! To calculate it"') == ('"How do I know?"', True)
    assert detect.cut_at_marker('"Why?"\nAssistant: because') == ('"Why?"', True)
    assert detect.cut_at_marker('User: "Why?"\n### Human: and') == ('"Why?"', True)
    assert detect.cut_at_marker("Assistant: Sure, here it is.") == ("", True)
    assert detect.cut_at_marker('"Why?"</s>') == ('"Why?"', False)


def test_other_self_replies_are_told_apart():
    found = extract.tolerant('"Why?" ' + "word " * 41)
    assert detect.structural('"Why?" ' + "word " * 41, found) and not detect.structural('"Why?" ' + "word " * 40, found)
    assert detect.echo("so one two three four five six seven eight", ["One two three four, five six seven eight."])
    assert not detect.echo("one two three four five six seven", ["one two three four five six seven"])
    assert detect.role_flip("Sure! Here is a plan.") and detect.role_flip("I’d be happy to help") and not detect.role_flip("Here I am stuck, can you help?")


def test_thanks_alone_are_a_failure_to_stop():
    assert detect.stop_failure("Haha, Thanks, big assistant! You're a lifesaver! I'm glad I could practice my goals with you.")
    assert not detect.stop_failure("Thanks, but how many calories is that?")
    assert not extract.stops('"Haha, Thanks, big assistant! You\'re a lifesaver!"')


# ---------------------------------------------------------------- the loop

SMALL = {
    "name": "test",
    "seeds": [1],
    "personas": {"use": "list", "given": [{"gender": "female"}], "count": None, "seed": None},
    "goals": {"categories": ["coding"]},
    "inquirer": {"model": "asks"},
    "responder": {"model": "answers"},
}


@pytest.fixture
def play(tmp_path, endpoint):
    """Runs `make roleplay` against a script: play(inquirer, responder, **changes) -> dialogues. Scripts get the messages and the number of the call."""
    calls = defaultdict(int)

    def run(
        asks=lambda messages, n: f'"How do I do part {n}?"',
        answers=lambda messages, n: f"Like so: {n}.",
        judges=lambda messages, n: "safe",
        status=0,
        goal="average",
        **changes,
    ):
        values = merge(CONFIG, merge(SMALL, changes))
        if goal:
            (tmp_path / "goals.yaml").write_text(yaml.safe_dump(GOALS | {"goals": [row for row in GOALS["goals"] if row["id"] == goal]}, allow_unicode=True))
            values["goals"] = {"file": str(tmp_path / "goals.yaml"), "categories": None}
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
        script = {"asks": asks, "answers": answers, "judges": judges}

        def reply(body):
            with endpoint.lock:
                calls[body["model"]] += 1
                n = calls[body["model"]]
            return script[body["model"]]([(m["role"], m["content"]) for m in body["messages"]], n)

        endpoint.script = reply
        run.done = inside("datagen.roleplay.run", "--config", tmp_path / "config.yaml", "--out", tmp_path / "out", "--store", tmp_path / "store", status=status)
        return read(tmp_path / "out" / "test" / "dialogues.jsonl") if not status else []

    run.folder = tmp_path / "out" / "test"
    return run


GUARD = {"guard": {"base_url": "OPENAI_BASE_URL", "api_key_env": "OPENAI_API_KEY", "model": "judges", "max_tokens": 16}}
REASONS = {  # one script for each reason for which a dialogue can end
    "finished": dict(asks=lambda m, n: "FINISH" if n == 3 else '"Why so?"'),
    "max_turns": dict(),
    "no_prompt": dict(asks=lambda m, n: "No quotes here."),
    "truncated": dict(asks=lambda m, n: ('"Half a', "length")),
    "inquirer_empty": dict(asks=lambda m, n: "  "),
    "inquirer_incoherent": dict(asks=lambda m, n: TABLE_8),
    "self_reply_only": dict(asks=lambda m, n: "Assistant: of course."),
    "responder_empty": dict(answers=lambda m, n: "<think>hm</think>"),
    "responder_incoherent": dict(answers=lambda m, n: "This goes round and round. " * 30),
    "appreciation_loop": dict(asks=lambda m, n: '"Thank you so much, bye!"', answers=lambda m, n: "You're welcome! Is there anything else I can help you with?"),
    "refusal_or_filter": dict(answers=lambda m, n: ("", "content_filter")),
    "toxic": dict(judges=lambda m, n: "unsafe\nS1" if n == 2 else "safe", **GUARD),
    "api_error": dict(answers=lambda m, n: (400, "no such thing")),
}


def test_there_is_a_script_for_every_end():
    assert set(REASONS) == set(END_REASONS) - {"given_up"}  # only a person gives up (eval.collect)


@pytest.mark.parametrize("reason", REASONS)
def test_every_end_can_be_reached_and_is_recorded(play, reason):
    [dialogue] = play(**REASONS[reason])
    assert dialogue.end_reason == reason
    assert read_json(play.folder / "done")["ended"] == {reason: 1}


def test_the_limit_counts_turn_0_and_all_turns_are_kept(play):
    [dialogue] = play()
    assert [turn.t for turn in dialogue.turns] == list(range(12)) and len(dialogue.exchanges) == 12
    assert dialogue.exchanges[0] == ("How do I do part 1?", "Like so: 1.")


def test_both_sides_see_alternating_roles_and_only_extracted_prompts(play, endpoint):
    failing = {2, 5}  # these outputs have no prompt and are asked for again
    play(asks=lambda m, n: "none" if n in failing else f'Well, I would say "What is {n}?" to it.', max_turns=4)
    for body in endpoint.bodies:
        roles = [message["role"] for message in body["messages"]]
        assert roles[0] == "system" and roles[1::2] == ["user"] * len(roles[1::2]) and roles[2::2] == ["assistant"] * len(roles[2::2]) and roles[-1] == "user"
    last = [body for body in endpoint.bodies if body["model"] == "asks"][-1]["messages"]
    assert [m["content"] for m in last if m["role"] == "assistant"] == ['"What is 1?"', '"What is 3?"', '"What is 4?"']
    last = [body for body in endpoint.bodies if body["model"] == "answers"][-1]["messages"]
    assert [m["content"] for m in last[1:]] == ["What is 1?", "Like so: 1.", "What is 3?", "Like so: 2.", "What is 4?", "Like so: 3.", "What is 6?"]


def test_a_failed_output_is_repeated_with_varied_sampling_and_both_are_kept(play, endpoint):
    [dialogue] = play(asks=lambda m, n: "none" if n in (1, 2) else '"Why?"', max_turns=1)
    first, second, third = dialogue.turns[0].attempts
    assert [first.failure, second.failure, third.failure] == ["no_prompt", "no_prompt", None] and dialogue.end_reason == "max_turns"
    assert (first.temperature, first.top_p) == (1.0, 1.0) and 0.5 <= second.temperature <= 1 and 0.8 <= second.top_p <= 1
    sent = [(body["temperature"], body["top_p"], body["seed"]) for body in endpoint.bodies[:3]]
    assert sent == [(attempt.temperature, attempt.top_p, attempt.seed) for attempt in (first, second, third)] and len(set(sent)) == 3
    assert dialogue.outputs == [first]


def test_no_try_is_repeated_where_tries_is_0(play):
    [dialogue] = play(asks=lambda m, n: "none", tries=0)
    assert len(dialogue.turns[0].attempts) == 1 and dialogue.end_reason == "no_prompt" and dialogue.exchanges == []


def test_a_cut_off_output_gets_more_room_the_second_time(play, endpoint):
    play(asks=lambda m, n: ('"Half', "length") if n == 1 else '"Whole?"', max_turns=1)
    assert [body["max_tokens"] for body in endpoint.bodies if body["model"] == "asks"] == [1000, 2000]


def test_nothing_empty_is_ever_sent(play, endpoint):
    play(asks=lambda m, n: ['""', '"  "', '"""', '"Why?"'][n % 4], tries=3, max_turns=3)
    assert all(message["content"].strip() for body in endpoint.bodies for message in body["messages"])


def test_what_a_model_says_fills_no_placeholder(play, endpoint):
    play(asks=lambda m, n: '"What is {goal} and {stop}?"', answers=lambda m, n: "Use {response}, {stop}, {goal} and {reminder}.", max_turns=2)
    [body] = [body for body in endpoint.bodies if body["model"] == "asks"][1:]
    assert body["messages"][-1]["content"].endswith('"Use {response}, {stop}, {goal} and {reminder}."')


def test_a_goal_with_code_reaches_the_inquirer_line_by_line(play, endpoint):
    play(max_turns=1)
    assert "```python\ndef average(values):\n    total = 0\n" in endpoint.bodies[0]["messages"][1]["content"]
    assert endpoint.bodies[0]["messages"][0]["content"].startswith("You are a woman.")


def test_everyday_talk_is_forwarded_in_a_neutral_tone_and_the_stop_word_only_if_asked_for(play, endpoint):
    play(goal="dog", max_turns=2, remind_stop=False)
    forwarded = [body for body in endpoint.bodies if body["model"] == "asks"][1]["messages"][-1]["content"]
    assert "hard to satisfy" not in forwarded and "FINISH" not in forwarded
    play(goal="paint", max_turns=2)
    forwarded = [body for body in endpoint.bodies if body["model"] == "asks"][3]["messages"][-1]["content"]
    assert "hard to satisfy" in forwarded and "FINISH" in forwarded


def test_a_full_context_loses_old_exchanges_but_never_persona_goal_or_the_last_exchange(play, endpoint):
    [dialogue] = play(
        answers=lambda m, n: f"Answer {n}. " + " ".join(f"word{i}" for i in range(90)), inquirer={"context": 2000}, responder={"context": 1500, "max_tokens": 600}
    )
    assert dialogue.end_reason == "max_turns" and dialogue.turns[-1].attempts[0].dropped > 0 and dialogue.responses[-1].dropped > 0
    last = [body for body in endpoint.bodies if body["model"] == "asks"][-1]["messages"]
    assert "a woman" in last[0]["content"] and "def average" in last[1]["content"] and "Answer 11." in last[-1]["content"] and len(last) < 24
    last = [body for body in endpoint.bodies if body["model"] == "answers"][-1]["messages"]
    assert last[0]["role"] == "system" and "Answer 11." in last[-2]["content"] and last[-1]["content"] == "How do I do part 12?"


def test_a_server_that_says_its_context_is_full_gets_less(play, endpoint):
    def answers(messages, n):
        return (400, "This model's maximum context length is 4 messages") if len(messages) > 4 else f"Answer {n}."

    [dialogue] = play(answers=answers, responder={"context": None}, max_turns=5)
    assert dialogue.end_reason == "max_turns" and [response.dropped for response in dialogue.responses] == [0, 0, 1, 2, 3]


def test_a_model_without_system_prompts_gets_it_in_the_first_message(play, endpoint):
    play(max_turns=2, inquirer={"fold_system": True}, responder={"fold_system": True})
    for body in endpoint.bodies:
        assert [m["role"] for m in body["messages"]] == (["user", "assistant", "user"] if len(body["messages"]) > 1 else ["user"])
    assert "You are a woman" in endpoint.bodies[0]["messages"][0]["content"] and "def average" in endpoint.bodies[0]["messages"][0]["content"]


def test_json_mode_needs_no_quotes_and_has_no_rates_of_them(play, endpoint):
    said = ['{"finish": false, "prompt": "Say \\"hi\\""}', "no json", '{"finish": true, "prompt": ""}']
    [dialogue] = play(asks=lambda m, n: said[n - 1], extraction="json")
    assert dialogue.end_reason == "finished" and dialogue.exchanges == [('Say "hi"', "Like so: 1.")]
    assert {(a.found, a.found_strict, a.prompt_strict) for turn in dialogue.turns for a in turn.attempts} == {(None, None, None)}
    asked = [body for body in endpoint.bodies if body["model"] == "asks"]
    assert asked[0]["response_format"]["type"] == "json_schema" and json.loads(asked[1]["messages"][2]["content"]) == {"finish": False, "prompt": 'Say "hi"'}
    assert "response_format" not in next(body for body in endpoint.bodies if body["model"] == "answers")


def test_strict_readings_are_kept_beside_ours(play):
    [dialogue] = play(asks=lambda m, n: 'About "speed" I ask: "How do I measure it?"', max_turns=1)
    [attempt] = dialogue.turns[0].attempts
    assert (attempt.prompt, attempt.found, attempt.prompt_strict, attempt.found_strict) == ("How do I measure it?", 1, "speed", 2)


def test_an_answer_in_a_loop_is_recorded_but_no_part_of_the_dialogue(play):
    [dialogue] = play(answers=lambda m, n: "Round and round it goes again. " * 30 if n == 2 else "Fine.")
    assert len(dialogue.turns) == 2 and len(dialogue.exchanges) == 1 and dialogue.responses[1].repeats and not dialogue.turns[1].complete


def test_reasoning_reaches_nobody(play, endpoint):
    [dialogue] = play(asks=lambda m, n: '<think>"No?"</think>"Yes?"', answers=lambda m, n: "<think>hidden</think>Said.", max_turns=2)
    assert dialogue.exchanges == [("Yes?", "Said.")] * 2 and "<think>" in dialogue.turns[0].attempts[0].raw
    assert not any("hidden" in m["content"] or "No?" in m["content"] for body in endpoint.bodies for m in body["messages"])


def test_the_guard_judges_each_utterance_and_says_which_is_unsafe(play):
    [dialogue] = play(**REASONS["toxic"])
    assert dialogue.guard.model_dump(exclude={"usage"}) == {"model": "judges", "verdict": "unsafe", "checked": 2, "turn": 0, "who": "responder", "said": "unsafe\nS1"}
    assert dialogue.exchanges == []


def test_without_a_guard_nothing_is_called_safe(play):
    assert play(max_turns=1)[0].guard is None


def test_an_unreadable_verdict_is_called_so(play):
    [dialogue] = play(judges=lambda m, n: "I think it is fine", max_turns=1, **GUARD)
    assert (dialogue.guard.verdict, dialogue.guard.checked, dialogue.end_reason) == ("unreadable", 2, "max_turns")


# ---------------------------------------------------------------- runs

MANY = {"personas": {"use": "list", "given": [{"gender": "female"}] * 2 + [{"gender": "male"}]}, "seeds": [7, 8], "max_turns": 3}


def steady(messages, n):
    """A reply that depends on what was asked alone, so that two runs can be compared."""
    return f'"And what about {sum(map(len, (m[1] for m in messages)))}?"'


def test_every_persona_goal_and_seed_has_its_dialogue_duplicates_too(play):
    dialogues = play(asks=steady, answers=steady, goal=None, **MANY | {"max_turns": 1})
    assert len(dialogues) == 3 * 3 * 2 == len({dialogue.id for dialogue in dialogues})
    assert {dialogue.id for dialogue in dialogues} == {f"{d.persona.id}-{d.persona.index}-{d.goal.id}-{d.seed}" for d in dialogues}
    assert len({a.seed for d in dialogues for t in d.turns for a in t.attempts}) == 18


def test_a_second_run_asks_nothing_and_a_lost_file_is_made_again_from_the_store(play, endpoint):
    dialogues, text = play(asks=steady, answers=steady, **MANY), (play.folder / "dialogues.jsonl").read_text()
    asked = len(endpoint.bodies)
    assert play(asks=steady, answers=steady, **MANY) == dialogues and len(endpoint.bodies) == asked
    lines = text.splitlines(keepends=True)
    (play.folder / "dialogues.jsonl").write_text("".join(lines[2:4]) + lines[1][:100])  # as after kill -9
    assert play(asks=steady, answers=steady, **MANY) == dialogues and len(endpoint.bodies) == asked
    assert (play.folder / "dialogues.jsonl").read_text() == text


def test_a_run_that_broke_off_goes_on_and_pays_for_nothing_twice(play, endpoint):
    broken = threading.Event()

    def answers(messages, n):
        return (401, "the key has expired") if n > 11 and not broken.is_set() else steady(messages, n)

    play(asks=steady, answers=answers, status=1, **MANY)
    assert "the key was refused" in one_line(play.done) and not (play.folder / "done").exists()
    broken.set()
    play(asks=steady, answers=answers, **MANY)
    good = Counter((body["model"], json.dumps(body["messages"]), body["seed"]) for body in endpoint.bodies)
    refused = len(endpoint.bodies) - len(good)
    assert set(good.values()) <= {1, 2} and refused <= 64 and all(model == "answers" for (model, _, _), n in good.items() if n == 2)


def test_changed_settings_make_the_dialogues_anew(play):
    play(asks=steady, answers=steady, max_turns=3)
    [dialogue] = play(asks=steady, answers=steady, max_turns=2)
    assert len(dialogue.exchanges) == 2 and "1 of 1 dialogues are of other settings" in play.done.stdout
    assert "0 replies paid for, 4 from the store" in play.done.stderr


def test_a_dialogue_that_got_no_reply_is_tried_again(play):
    [dialogue] = play(**REASONS["api_error"])
    assert dialogue.end_detail == "no such thing" and "again tries those" in play.done.stdout
    [dialogue] = play()
    assert dialogue.end_reason == "max_turns"


def test_the_two_parts_may_have_endpoints_and_keys_of_their_own_and_keys_stand_nowhere(play, endpoint, monkeypatch, tmp_path):
    monkeypatch.setenv("ASKS_KEY", "secret-one")
    monkeypatch.setenv("ANSWERS_KEY", "secret-two")
    monkeypatch.setenv("ANSWERS_URL", endpoint.url)
    play(max_turns=1, inquirer={"api_key_env": "ASKS_KEY"}, responder={"base_url": "ANSWERS_URL", "api_key_env": "ANSWERS_KEY"})
    assert dict(zip((body["model"] for body in endpoint.bodies), endpoint.keys, strict=True)) == {"asks": "Bearer secret-one", "answers": "Bearer secret-two"}
    written = "".join(path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file())
    assert "secret-" not in written + play.done.stdout + play.done.stderr


def test_both_endpoints_share_one_budget(play, endpoint, monkeypatch):
    monkeypatch.setenv("BUDGET_USD", "0.02")
    prices = {"asks": {"input": "0", "output": "1"}, "answers": {"input": "0", "output": "1"}}  # at worst 0.001 and 0.0015 a reply, in fact 0.000005
    [dialogue] = play(max_turns=3, prices=prices)
    assert len(dialogue.exchanges) == 3
    monkeypatch.setenv("BUDGET_USD", "0.0012")  # the inquirer's output fits, the answer then does not
    monkeypatch.setenv("ANSWERS_KEY", "k")
    play(max_turns=4, prices=prices, seeds=[2], status=1, responder={"api_key_env": "ANSWERS_KEY"})
    assert "the budget is reached" in one_line(play.done) and "of BUDGET_USD=0.0012" in play.done.stderr


def test_what_two_dialogues_ask_alike_at_the_same_time_is_paid_for_once(endpoint, tmp_path):
    address = Address(base_url=endpoint.url, api_key_env="NO_KEY")

    async def ask() -> list[str]:
        async with Client(load().client(address), tmp_path / "store") as client:
            same = Request("judges", (("user", "Is this safe?"),), 0.0, 1.0, 16)
            return [reply.text for reply in await asyncio.gather(*(client.reply(same) for _ in range(5)))]

    assert asyncio.run(ask()) == ["An answer."] * 5 and len(endpoint.bodies) == 1


def test_two_runs_into_one_folder_are_refused(play):
    from datagen.roleplay.run import locked

    play.folder.mkdir(parents=True)
    with locked(play.folder):
        play(status=1)
    assert "another run is writing there" in one_line(play.done)


def test_a_broken_record_is_named_with_its_line(play, tmp_path):
    play(max_turns=1)
    path = play.folder / "dialogues.jsonl"
    row = json.loads(path.read_text())
    row["goal"]["tezt"] = row["goal"].pop("text")
    path.write_text(path.read_text() + json.dumps(row) + "\n")
    with pytest.raises(UserError, match=r"dialogues.jsonl:2: no record of a dialogue \(goal.text: field required; goal.tezt: extra inputs are not permitted\)"):
        read(path)


# ---------------------------------------------------------------- settings


def changed(tmp_path, old, new):
    text = (ROOT / "datagen/roleplay/config.yaml").read_text()
    assert old in text
    (tmp_path / "c.yaml").write_text(text.replace(old, new, 1))
    return tmp_path / "c.yaml"


def test_all_faults_of_the_settings_are_named_at_once(tmp_path):
    path = changed(tmp_path, "max_turns: 12", "max_turn: 12\ntries: many")
    path.write_text(path.read_text().replace("tries: 2", "", 1).replace("seeds: [1, 2, 3]", "seeds: [1, 1]"))
    with pytest.raises(UserError) as caught:
        load(path)
    for words in (
        "unknown key max_turn (did you mean 'max_turns'?)",
        "max_turns: Field required",
        "tries: Input should be a valid integer, got 'many'",
        "seeds: a seed stands twice",
    ):
        assert words in str(caught.value)


def test_a_key_that_would_break_the_dialogue_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"inquirer\.extra: stop: has a key of its own, or would break the dialogue"):
        load(changed(tmp_path, "  extra: {}", "  extra: {stop: [FINISH]}"))


def test_prompts_of_ones_own_are_checked_before_anything_is_asked(tmp_path):
    folder = tmp_path / "prompts"
    folder.mkdir()
    for path in (ROOT / "datagen/prompts/roleplay").glob("*.txt"):
        (folder / path.name).write_text(path.read_text())
    (folder / "inquirer_system.txt").write_text("You are {person}.")
    (folder / "forward.txt").unlink()
    with pytest.raises(UserError) as caught:
        load(changed(tmp_path, "prompts: datagen/prompts/roleplay", f"prompts: {folder}"))
    for words in ("nothing fills {person} (did you mean 'persona'?)", "inquirer_system.txt: has no {persona}", "forward.txt: there is no such file"):
        assert words in str(caught.value)


def test_prompts_that_ask_for_no_form_and_no_reminder_need_no_such_file(tmp_path):
    """As with the paper's own prompts, which say in each what form is wanted."""
    texts = {"inquirer_system": "You are {persona}.", "inquirer_first": "Goal: {goal}.", "forward": 'Answer: "{response}".', "responder_system": "Be kind."}
    for name, text in texts.items():
        (tmp_path / f"{name}.txt").write_text(text)
    settings = load(changed(tmp_path, "prompts: datagen/prompts/roleplay", f"prompts: {tmp_path}"))
    assert settings.texts("demanding") == texts


def test_a_missing_address_names_the_variable(play, monkeypatch):
    monkeypatch.delenv("OPENAI_BASE_URL")
    play(status=1)
    assert one_line(play.done).startswith("error: inquirer: OPENAI_BASE_URL is not set; export it")


def test_the_shipped_profiles_can_be_read(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert len(load().plan()[0]) == 3 * 20 * 10 and len(load(profile="tiny").plan()[0]) == 3 * 3 * 10
    assert re.fullmatch("[0-9a-f]{16}", load().shape("neutral")) and load().shape("neutral") != load().shape("demanding")
