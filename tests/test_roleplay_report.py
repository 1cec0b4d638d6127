"""The report on role-played dialogues: the paper's figures from its counts, ours from records.  .venv/bin/python -m pytest tests/test_roleplay_report.py"""

import random

import numpy as np
import pytest
from conftest import ROOT, inside, one_line

from datagen.files import read_json, write_json, write_text
from datagen.roleplay.record import Attempt, Dialogue, Goal, Persona, Player, Response, Turn, dialogue_id, line
from eval import roleplay
from eval.lexical import at_length, distinct, mattr
from eval.roleplay import FAILURES, PAPER, SIZES, cut, measure, over_seeds, pages

# ---------------------------------------------------------------- the paper's own arithmetic


def test_the_papers_table_1_follows_from_its_table_7():
    """Counts and totals of Table 7, divided and cut, are the rates and SDs of Table 1 (arXiv 2407.03974); the counts are means of three seeds, totals .34 are .33."""
    table_7 = {
        "Llama-2": [(27.67, 6.02, 405.67), (35.67, 3.86, 405.67), (12.67, 1.25, 405.67), (22.33, 13.20, 405.67), (1.67, 1.70, 296.67)],
        "Mixtral": [(5.00, 2.94, 511.67), (43.00, 7.79, 511.67), (0.67, 0.47, 511.67), (30.67, 7.32, 511.67), (5.00, 0.82, 428.34)],
        "Vicuna": [(59.33, 4.11, 750.34), (45.67, 3.09, 750.34), (6.00, 0.82, 750.34), (520.67, 43.32, 750.34), (56.33, 6.60, 702.67)],
        "GPT4": [(1.67, 0.47, 972.34), (381.33, 23.21, 972.34), (0.33, 0.47, 972.34), (53.33, 0.94, 972.34), (70.00, 3.27, 932.34)],
    }
    for model, rows in table_7.items():
        for (count, sd, total), (rate, rate_sd) in zip(rows, PAPER[model][3:], strict=True):
            exact = round(count * 3) / 3  # 27.67 is 83 / 3
            assert cut(100 * exact / (round(total * 3) / 3)) == f"{rate:.2f}", (model, count)
            assert abs(100 * sd / total - rate_sd) < 0.0151, (model, sd)


def test_the_sd_over_seeds_divides_by_their_number():
    found = over_seeds([52, 54, 54], [972, 972, 973])
    assert (cut(found["count"]), cut(found["sd"]), cut(100 * found["rate"]), cut(100 * found["rate sd"])) == ("53.33", "0.94", "5.48", "0.09")


@pytest.mark.parametrize(("value", "shown"), [(0.29, "0.29"), (5.9941, "5.99"), (8.0166, "8.01"), (0.7996, "0.79"), (2.0, "2.00")])
def test_figures_are_cut_and_not_rounded(value, shown):
    assert cut(value) == shown


# ---------------------------------------------------------------- lexical diversity


def test_the_moving_average_ratio_equals_its_definition():
    rng = random.Random(3)
    words = [f"w{rng.randint(0, 40)}" for _ in range(300)]
    windows = [len(set(words[i : i + 50])) / 50 for i in range(251)]
    assert mattr(words) == pytest.approx(sum(windows) / 251, abs=1e-12) and mattr(words[:49]) is None


def test_only_the_moving_average_ratio_does_not_move_with_the_length_of_a_text():
    """In a text of 12,000 words by Zipf's law, from pieces of 100 words to pieces of 4,000."""
    rng = np.random.default_rng(5)
    words = [f"w{rank}" for rank in rng.zipf(1.3, 12_000)]
    moved = [at_length(words, 4000, measure) / at_length(words, 100, measure) for measure in (mattr, distinct, lambda part: distinct(part, 2))]
    assert abs(moved[0] - 1) < 0.01 and moved[1] < 0.6 and moved[2] < 0.85


def test_distinct_n_counts_kinds_among_all():
    assert distinct(list("abab")) == 0.5 and distinct(list("abab"), 2) == pytest.approx(2 / 3) and distinct(["a"], 2) is None


# ---------------------------------------------------------------- records

PLAYER = Player(endpoint="http://127.0.0.1", model="asks", temperature=1, top_p=1, max_tokens=100)


def attempt(prompt="What is it?", failure=None, **changes):
    values = {"raw": f'"{prompt}"', "text": f'"{prompt}"', "prompt": None if failure else prompt, "prompt_strict": prompt, "found": 1, "found_strict": 1, "stop": False}
    values |= {"failure": failure, "self_reply": [], "stop_failure": False, "repeats_strict": False, "repeats": False, "finish": "stop"}
    return Attempt(**values | {"usage": {"completion_tokens": 7}, "seed": 1, "temperature": 1, "top_p": 1, "dropped": 0} | changes)


def response(text="It is this.", **changes):
    values = {"raw": text, "text": text, "repeats_strict": False, "repeats": False, "finish": "stop", "usage": {"completion_tokens": 20}, "seed": 1, "dropped": 0}
    return Response(**values | changes)


def dialogue(turns, seed=1, index=0, end="finished", features=None, goal="g", guard=None):
    persona, goal = Persona(id="p", index=index, features=features or {}, text="a person"), Goal(id=goal, category="everyday", text="You want <b>it</b>.")
    made = [Turn(t=t, attempts=attempts, response=answer, complete=complete) for t, (attempts, answer, complete) in enumerate(turns)]
    who = {"persona": persona, "goal": goal, "inquirer": PLAYER, "responder": PLAYER.model_copy(update={"model": "answers"})}
    said = {"turns": made, "end_reason": end, "end_detail": "", "guard": guard}
    return Dialogue(id=dialogue_id(persona, goal, seed), seed=seed, settings="s", versions={}, **who, **said)


ASKED = ([attempt()], response(), True)
STOPPED = ([attempt(stop=True, prompt=None, found=0, found_strict=0)], None, False)


def a_set(folder, dialogues, extraction="quotes"):
    write_text(folder / "dialogues.jsonl", "".join(map(line, dialogues)))
    settings = {"extraction": extraction, "inquirer": {"incoherent": {"max_n": 4, "r": 2}}, "responder": {"incoherent": {"max_n": 5, "r": 2}}}
    write_json(folder / "done", {"settings": settings, "usage": {}})
    return folder


def three_seeds():
    """Per seed one finished dialogue of two turns and one that failed; with 1, 2 and 2 outputs without a prompt."""
    for seed, extra in ((1, 0), (2, 1), (3, 1)):
        yield dialogue([ASKED, ASKED, STOPPED], seed=seed, features={"age": "18-24"})
        failed = attempt(failure="no_prompt", found=0, found_strict=0, prompt_strict=None)
        yield dialogue([([failed, failed], None, False)], seed=seed, index=1, end="no_prompt", features={"age": "65+"})
        yield from (dialogue([([failed, attempt()], response(), True), STOPPED], seed=seed, index=2, features={"age": "65+"}) for _ in range(extra))


def test_rates_are_counted_over_first_attempts_and_seeds(tmp_path):
    found = measure(a_set(tmp_path / "x", list(three_seeds())), roleplay.counter(None)[0])
    rate = found["failures"]["no prompt"]
    assert (rate["count"], rate["total"], rate["seeds"]) == (pytest.approx(5 / 3), pytest.approx(16 / 3), 3)
    assert rate["sd"] == pytest.approx(np.std([1, 2, 2])) and rate["rate"] == pytest.approx(5 / 16) and rate["interval"][0] < 5 / 16 < rate["interval"][1]
    assert (found["saved"]["value"], found["saved"]["n"]) == (0.4, 5)
    assert {reason: end["count"] for reason, end in found["ends"].items()} == {"finished": 5, "no_prompt": 3}


def test_turns_and_tokens_have_their_deviations_over_dialogues_and_utterances(tmp_path):
    some = [dialogue([ASKED, ASKED, STOPPED]), dialogue([([attempt(usage={"completion_tokens": 10})], response(), True), STOPPED], index=1)]
    sizes = measure(a_set(tmp_path / "x", some), roleplay.counter(None)[0])["sizes"]
    assert (sizes[SIZES[0]]["value"], sizes[SIZES[0]]["sd"]) == (1.5, 0.5)
    assert (sizes[SIZES[1]]["value"], sizes[SIZES[1]]["sd"], sizes[SIZES[1]]["n"]) == (8, pytest.approx(np.std([7, 7, 10])), 3)


def test_an_uncounted_reply_leaves_no_mean_of_tokens(tmp_path):
    some = [dialogue([ASKED, STOPPED]), dialogue([([attempt(usage={})], response(), True)], index=1)]
    assert measure(a_set(tmp_path / "x", some), roleplay.counter(None)[0])["sizes"][SIZES[1]] is None


def test_tokens_can_be_counted_by_a_tokenizer(tmp_path):
    count, said = roleplay.counter(ROOT / "tiny/model/tokenizer.json")
    [(asked, answered)] = count(dialogue([ASKED, STOPPED]))
    assert 2 <= asked <= 11 and 2 <= answered <= 11 and "tiny/model/tokenizer.json, sha256" in said


def test_each_failure_is_counted_where_the_paper_would_and_not_after_the_stop_word(tmp_path):
    some = [
        dialogue([([attempt(found_strict=3)], response(repeats_strict=True), True), STOPPED]),
        dialogue([([attempt(repeats_strict=True, found_strict=0)], response(), True), ([attempt(self_reply=["markers", "echo"])], response(), True)], index=1),
    ]
    found = measure(a_set(tmp_path / "x", some), roleplay.counter(None)[0])["failures"]
    assert {name: (f["count"], f["total"]) for name, f in found.items()} == {
        "no prompt": (0, 4), "several prompts": (1, 4), "incoherent": (1, 4), "self-reply": (1, 4), "incoherent (responder)": (1, 3)
    }  # fmt: skip


def test_json_mode_has_no_rates_of_quotes(tmp_path):
    some = [dialogue([([attempt(found=None, found_strict=None, prompt_strict=None)], response(), True)])]
    found = measure(a_set(tmp_path / "x", some, extraction="json"), roleplay.counter(None)[0])
    assert found["failures"]["no prompt"] is None and found["others"]["several prompts, as meant"] is None and found["failures"]["incoherent"] is not None


def test_without_a_guard_the_report_says_unknown_and_with_one_its_share(tmp_path):
    [html, _] = rendered(a_set(tmp_path / "x", [dialogue([ASKED])]))
    assert "no guard model was asked: unknown" in html
    guard = {"model": "judges", "verdict": "unsafe", "checked": 2, "turn": 0, "who": "responder", "said": "unsafe", "usage": {}}
    [html, _] = rendered(
        a_set(tmp_path / "y", [dialogue([([attempt()], response(), False)], end="toxic", guard=guard), dialogue([ASKED], index=1, guard=guard | {"verdict": "safe"})])
    )
    assert "50.0 % [9.5, 90.5] (judges)" in html


def rendered(*folders):
    count, said = roleplay.counter(None)
    return pages([measure(folder, count) for folder in folders], [one for folder in folders for one in roleplay.sample(folder)], said, "<svg/>")


def test_what_models_said_is_shown_and_never_run(tmp_path):
    bad = "<script>alert(1)</script>"
    html, markdown = rendered(a_set(tmp_path / "x", [dialogue([([attempt(prompt=bad)], response(bad), True)])]))
    assert bad not in html and "&lt;script&gt;alert(1)" in html and "    <script>" in markdown  # indented: code in Markdown


def test_any_number_of_inquirers_stands_side_by_side_beside_the_papers_four(tmp_path):
    sets = [a_set(tmp_path / name, list(three_seeds())) for name in ("one", "two", "three")]
    _, markdown = rendered(*sets)
    assert "|  | one | two | three | Llama-2 (paper) | Mixtral (paper) | Vicuna (paper) | GPT4 (paper) |" in markdown
    assert "| no prompt, % | 31.25 % (8.83) " in markdown and "| no prompt | 1.66 (0.47)/5.33 |" in markdown


def test_groups_of_a_persona_feature_have_their_own_rows(tmp_path):
    found = measure(a_set(tmp_path / "x", list(three_seeds())), roleplay.counter(None)[0])["features"]
    assert {option: (g["dialogues"], g[SIZES[0]]["value"]) for option, g in found["age"].items()} == {"18-24": (3, 2.0), "65+": (5, 0.4)}


def test_an_unfinished_set_is_refused(tmp_path):
    (tmp_path / "x").mkdir()
    assert "not finished, or no set of dialogues; `make roleplay` makes one" in one_line(inside("eval.roleplay", tmp_path / "x", status=1))


@pytest.mark.slow
def test_the_command_writes_all_pages_and_the_radar(tmp_path):
    sets = [a_set(tmp_path / name, list(three_seeds())) for name in ("one", "two")]
    inside("eval.roleplay", *sets, "--out", tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"report.html", "report.md", "report.json", "radar.svg", "radar.png"}
    assert list(read_json(tmp_path / "out/report.json")["sets"][0]["failures"]) == list(FAILURES)
