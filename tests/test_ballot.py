"""The design of a study, read strictly, and its freezing.  .venv/bin/python -m pytest tests/test_ballot.py"""

import hashlib
import json
import sqlite3

import pytest
import yaml
from conftest import ROOT, inside, one_line

from datagen.files import UserError
from eval import ballot, studyfile
from eval.ballot import freeze, frozen, giveaway, own_names
from eval.studyfile import Study

VALUES = yaml.safe_load((ROOT / "eval/study.yaml").read_text())


def study(**changes):
    return Study(**VALUES | {"runs": ["one", "two"]} | changes)


def answer(i, base=None, tuned=None, finish=("stop", "stop"), question=None):
    messages = [{"role": "user", "content": question or f"Why {i}?"}]
    texts = {"base": base or f"It is formal {i}.", "tuned": tuned or f"Oh, **fun** {i}! 😀"}
    return {"id": f"q{i}", "kind": "general", "messages": messages} | texts | {"finish": list(finish)}


def run_of(out, name, rows, base_model="some-org/Some-Base-7B"):
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "answers.meta.json").write_text(json.dumps({"base": base_model, "tuned": f"tuned-{name}"}))
    (folder / "run.yaml").write_text(f"base_model: {base_model}\n")


@pytest.fixture
def out(tmp_path):
    """Two runs that answered the same 40 questions."""
    for name in ("one", "two"):
        run_of(tmp_path / "out", name, [answer(i, tuned=f"Oh, **fun** {i} in {name}! 😀") for i in range(40)])
    return tmp_path / "out"


def items_of(folder):
    return [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]


# ---------------------------------------------------------------- the study's file


def with_file(tmp_path, values):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_the_study_in_the_repository_is_valid_and_length_is_no_clue_to_its_gold_pairs():
    read = studyfile.load(ROOT / "eval/study.yaml")
    assert read.name == "tiny" and read.checks == 4 and len(read.quiz) == 4 and [ask.key for ask in read.questionnaire] == ["age", "native", "english", "chatbots"]
    longer = sum(len(pair.human) > len(pair.machine) for pair in read.gold)
    assert len(read.gold) >= 12 and 1 / 3 <= longer / len(read.gold) <= 2 / 3
    assert list(read.questionnaire[0].ends) == ["under 18"] and "kept nothing" in read.questionnaire[0].ends["under 18"]
    texts = [text for pair in read.gold for text in (pair.question, pair.human, pair.machine)]
    assert all(ballot.emojis.count(text) == 0 and giveaway(text, None) is None for text in texts)


def test_every_fault_of_a_study_is_named_at_once(tmp_path):
    changed = VALUES | {"scales": "five", "votes_per_item": 0, "runs": ["tiny", "tiny"], "quotas": {"natives": {"yes": 0.5}}, "gold": VALUES["gold"][:2]}
    changed["quiz"] = [{"question": "a?", "options": ["x", "y"], "answer": "z"}]
    changed["questionnaire"] = [
        {"key": "age", "text": "t", "options": ["x", "y"], "ends": {"w": "bye"}},
        {"key": "native", "text": "t", "options": [True, "no"], "texts": "t"},
    ]
    del changed["task"]
    with pytest.raises(UserError) as error:
        studyfile.load(with_file(tmp_path, changed))
    for part in (
        "unknown key scales (did you mean 'scale'?)",
        "unknown key questionnaire.1.texts (did you mean 'text'?)",
        "votes_per_item: input should be greater than or equal to 1, got '0'",
        "runs: the run 'tiny' stands twice",
        "task: field required",
        "quiz.0: the answer 'z' is none of the options",
        "questionnaire.0: ends names 'w', which is none of the options",
        "questionnaire.1.options.0: input should be a valid string, got 'True'; YAML reads yes, no, on and off as true and false, so put them in quotes",
    ):
        assert part in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"quotas": {"natives": {"yes": 0.5}}}, "quotas: 'natives' is no key of the questionnaire (did you mean 'native'?)"),
        ({"quotas": {"native": {"maybe": 0.5}}}, "quotas: 'maybe' is no answer to 'native'"),
        ({"quotas": {"age": {"under 18": 0.5}}}, "quotas: 'under 18' is no answer to 'age' with which a session goes on"),
        ({"quotas": {"native": {"yes": 0.5, "no": 0.4}}}, "add up to 0.9: the study could never be filled"),
        ({"gold": VALUES["gold"][:2]}, "gold: one in every 10 of 30 items takes 3 gold pairs, and there are 2"),
        ({"gold": VALUES["gold"] * 2}, "stands twice"),
        ({"careless": {"gold_failed": 0, "median_seconds": 0}}, "careless.gold_failed: input should be greater than or equal to 1, got '0'"),
        ({"careless": {"gold_fails": 2, "median_seconds": 0}}, "unknown key careless.gold_fails (did you mean 'gold_failed'?)"),
        ({"repeats": 30}, "repeats: 30 items cannot be repeated when a rater sees 30"),
        ({"name": "../elsewhere"}, "name: string should match pattern"),
        ({"per_rater": "30"}, "per_rater: input should be a valid integer, got '30'"),
    ],
)
def test_impossible_values_are_refused(tmp_path, changes, said):
    with pytest.raises(UserError) as error:
        studyfile.load(with_file(tmp_path, VALUES | changes))
    assert said in str(error.value)


def test_a_key_that_is_a_column_of_the_votes_is_refused(tmp_path):
    with pytest.raises(UserError, match="'choice' is a column of the exported votes"):
        studyfile.load(with_file(tmp_path, VALUES | {"questionnaire": [{"key": "choice", "text": "t", "options": ["a", "b"]}]}))


# ---------------------------------------------------------------- what gives a model away


@pytest.mark.parametrize(
    "text",
    [
        "I am ChatGPT.",
        "an AI trained by OpenAI,",
        "GPT-4 here",
        "Hi, I'm Claude!",
        "I'm a large language model called Gemini",
        "I was created by Meta.",
        "As a chatbot developed by the fine folks at Apple",
        "a language model, trained by Google",
        "Qwen2.5 says",
        "Llama 3 is me",
        "Some-Base-7B",
        "some base 7b",
        "tuned-one",
        "Hello<|eot_id|>",
        "[INST] What?",
    ],
)
def test_an_answer_that_names_its_model_is_found(text):
    assert giveaway(text, own_names(["some-org/Some-Base-7B", "tuned-one"]))


@pytest.mark.parametrize(
    "text",
    [
        "I just Googled it; Google says so.",
        "Claude Monet and the llama",
        "I'm a Gemini, so what",
        "Finding Nemo, in a mistral",
        "My sister works at Meta and I buy on Amazon",
        "egpts and chatgptish",
        "I'm a model railway fan",
        "some base jumping, 7 b",
        "a <b> c </b>",
    ],
)
def test_an_honest_answer_with_a_similar_word_is_not(text):
    assert giveaway(text, own_names(["some-org/Some-Base-7B", "tuned-one", "base", "tiny/model"])) is None


def test_a_question_is_left_out_for_all_pairs_and_counted_by_its_first_reason(out):
    rows = [answer(i) for i in range(40)]
    rows[0] = answer(0, base="I am ChatGPT.")
    rows[1] = answer(1, finish=("stop", "length"))
    rows[2] = answer(2, base="Same.", tuned="Same. 😀")
    rows[3] = answer(3, tuned="😀 😀")
    rows[4] = answer(4, tuned="<|im_end|>")
    rows[5] = answer(5, base="bad \ud800")
    run_of(out, "two", rows[:39])
    folder, lock, _ = freeze(study(), out)
    assert lock["questions"] == {
        "answered": 40,
        "shown": 33,
        "left out": {
            "broken characters": 1, "cut off": 1, "empty": 1, "identical answers": 1, "marks of a chat template": 1, "names a model or its maker": 1,
            "not answered in every run": 1,
        },
    }  # fmt: skip
    assert {row["question_id"] for row in items_of(folder) if row["kind"] == "main"} == {f"q{i}" for i in range(6, 39)}
    assert lock["items"] == {"main": 66, "gold": len(VALUES["gold"])} and lock["simulated"] is False


def test_both_answers_with_emoji_kept_are_equal_only_where_their_texts_are(out):
    run_of(out, "one", [answer(0, base="Same.", tuned="Same. 😀"), answer(1, base="Same.", tuned=" Same. ")])
    _, lock, _ = freeze(study(runs=["one"], emoji="kept"), out)
    assert lock["questions"] == {"answered": 2, "shown": 1, "left out": {"identical answers": 1}}


# ---------------------------------------------------------------- items and key


def test_items_hold_nothing_that_tells_the_models_apart(out):
    folder, _, _ = freeze(study(), out)
    rows = items_of(folder)
    assert {tuple(row) for row in rows} == {("item", "question_id", "pair", "kind", "question", "text_a", "text_b", "expected", "sha256_a", "sha256_b")}
    text = (folder / "items.jsonl").read_text()
    assert not any(word in text for word in ("tuned-one", "Some-Base", '"base"', '"tuned"', "😀")) and [row["item"] for row in rows] == sorted(
        row["item"] for row in rows
    )
    assert all(row["sha256_a"] == hashlib.sha256(row["text_a"].encode()).hexdigest() for row in rows) and len({row["item"] for row in rows}) == len(rows)


def test_the_key_says_which_is_which_with_the_style_before_emoji_were_removed(out):
    folder, _, _ = freeze(study(), out)
    key = json.loads((folder / "key.json").read_text())
    for row in items_of(folder):
        one = key[row["item"]]
        if row["kind"] == "gold":
            assert one[row["expected"]] == "human" and {one["a"], one["b"]} == {"human", "machine"} and one["run"] is None
            continue
        tuned = "a" if one["a"] == "tuned" else "b"
        assert {one["a"], one["b"]} == {"base", "tuned"} and one["run"] == row["pair"] and row["expected"] is None
        assert row[f"text_{tuned}"].startswith("Oh, **fun**") and row[f"text_{tuned}"].endswith("!")
        assert one["removed"] == {tuned: 1, "ab".replace(tuned, ""): 0}
        raw = row[f"text_{tuned}"] + " 😀"
        assert one["style"][tuned] == {"characters": len(raw), "words": 5, "emoji": 1, "bold": 1, "lists": 0, "headings": 0}


def test_side_a_is_tuned_in_about_half_of_the_items_and_human_in_about_half_of_gold(tmp_path):
    run_of(tmp_path, "one", [answer(i) for i in range(400)])
    folder, _, _ = freeze(study(runs=["one"]), tmp_path)
    key = [one for one in json.loads((folder / "key.json").read_text()).values() if one["kind"] == "main"]
    assert 170 <= sum(one["a"] == "tuned" for one in key) <= 230
    pair, one = VALUES["gold"][0], study()
    expected = [
        ballot.item(one.model_copy(update={"seed": seed}), "gold", "gold", "g", pair["question"], {who: pair[who] for who in ("human", "machine")})[0]["expected"]
        for seed in range(100)
    ]
    assert 35 <= expected.count("a") <= 65


def test_the_sides_stay_the_same_when_the_models_change_places(out):
    """So the rule, though known, tells nobody which model is which."""
    before = {row["item"]: row for row in items_of(freeze(study(), out)[0])}
    for name in ("one", "two"):
        rows = [json.loads(line) for line in (out / name / "answers.jsonl").read_text().splitlines()]
        run_of(out, name, [row | {"base": row["tuned"], "tuned": row["base"]} for row in rows])
    folder, _, _ = freeze(study(), out)
    assert {row["item"]: row for row in items_of(folder)} == before
    other = freeze(study(seed=2, name="other"), out)[0]
    assert len({row["text_a"] for row in items_of(other)} & {row["text_a"] for row in before.values()}) not in (0, len(before))


def test_fewer_questions_are_the_first_by_hash_and_stay_when_more_are_asked_for(out):
    few, more = (
        {row["question_id"] for row in items_of(freeze(study(questions=n, name=f"s{n}"), out)[0]) if row["kind"] == "main"} for n in (10, 20)
    )  # fmt: skip
    assert len(few) == 10 and len(more) == 20 and few < more
    with pytest.raises(UserError, match="questions: 41 are asked for, and 40 of 40 are left"):
        freeze(study(questions=41), out)


# ---------------------------------------------------------------- frozen


def voted(folder, n=1):
    db = sqlite3.connect(folder / "votes.db")
    db.execute("CREATE TABLE vote(token TEXT)")
    db.executemany("INSERT INTO vote VALUES (?)", [(str(i),) for i in range(n)])
    db.commit()
    db.close()


def contents(folder):
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir() if path.name in ballot.FILES}


def test_freezing_again_does_nothing_when_nothing_changed(out):
    folder, lock, written = freeze(study(), out)
    before = contents(folder)
    voted(folder)
    assert written and freeze(study(password_env=None), out) == (folder, lock, False) and contents(folder) == before and frozen(folder) == lock


def test_before_the_first_vote_a_study_may_change(out):
    folder, lock, _ = freeze(study(), out)
    voted(folder, 0)
    _, changed, written = freeze(study(votes_per_item=5), out)
    assert written and frozen(folder) == changed != lock


@pytest.mark.parametrize(
    ("change", "said"),
    [({"votes_per_item": 5, "ties": False}, "setting ties, setting votes_per_item"), ({"consent": "Other."}, "setting consent")],
)
def test_after_the_first_vote_changed_settings_are_refused_and_nothing_is_written(out, change, said):
    folder, _, _ = freeze(study(), out)
    before = contents(folder)
    voted(folder, 3)
    with pytest.raises(UserError) as error:
        freeze(study(**change), out)
    assert f"has 3 vote(s) and can no longer change (what differs: {said})" in str(error.value) and contents(folder) == before
    with pytest.raises(UserError, match=r"can no longer change \(what differs: simulated"):
        freeze(study(), out, simulated=True)


def test_after_the_first_vote_changed_answers_are_refused(out):
    folder, _, _ = freeze(study(), out)
    voted(folder)
    run_of(out, "one", [answer(i, base="Other.") for i in range(40)])
    with pytest.raises(UserError, match="what differs: answers, items, key"):
        freeze(study(), out)


def test_votes_that_only_the_events_hold_count_too(out):
    folder, _, _ = freeze(study(), out)
    (folder / "events-1.jsonl").write_text('{"type": "vote", "t": 1, "token": "x"}\n')
    with pytest.raises(UserError, match=r"has 1 vote\(s\)"):
        freeze(study(seed=2), out)


def test_files_that_are_not_those_of_the_lock_are_found(out):
    folder, lock, _ = freeze(study(), out)
    for name in ("items.jsonl", "key.json"):
        was = (folder / name).read_text()
        (folder / name).write_text(was.replace("fun", "pun").replace("tuned", "toned"))
        with pytest.raises(UserError, match=rf"{name}: is not the file that the study was frozen with"):
            frozen(folder)
        (folder / name).write_text(was)
    assert frozen(folder) == lock
    assert lock["items_sha256"] == hashlib.sha256((folder / "items.jsonl").read_bytes()).hexdigest()
    (folder / "study.lock.json").unlink()
    with pytest.raises(UserError, match="no frozen study there"):
        frozen(folder)


def test_a_page_is_refused_settings_that_are_not_those_of_the_lock(out):
    lock = freeze(study(), out)[1]
    ballot.check_settings(study(admin_env="OTHER"), lock)
    with pytest.raises(UserError, match="was frozen with another careless;"):  # who is left out is decided before the first vote
        ballot.check_settings(study(careless={"gold_failed": 1, "median_seconds": 0.8}), lock)
    with pytest.raises(UserError, match="was frozen with another markdown, minimum_seconds"):
        ballot.check_settings(study(markdown="rendered", minimum_seconds=2), lock)


def test_a_freezing_that_was_cut_off_is_done_again(out, monkeypatch):
    def full(*_):
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(ballot, "write_json", full)
        with pytest.raises(OSError):
            freeze(study(), out)
    with pytest.raises(UserError, match="no frozen study there"):
        frozen(out / "votes/tiny")
    assert freeze(study(), out)[2] and frozen(out / "votes/tiny")


# ---------------------------------------------------------------- the command


def test_the_command_prints_what_was_left_out_and_what_was_removed(out, tmp_path):
    run_of(out, "tiny", [answer(0, base="I am ChatGPT.")] + [answer(i) for i in range(1, 6)])
    arguments = ("eval.ballot", "--study", ROOT / "eval/study.yaml")
    done = inside(*arguments, cwd=tmp_path)
    assert "5 of 6 questions for 1 pair(s); left out: 1 names a model or its maker" in done.stdout
    assert "emoji removed from base answers: 0, in 0 of 5" in done.stdout and "emoji removed from tuned answers: 5, in 5 of 5" in done.stdout
    assert "nothing has changed" in inside(*arguments, cwd=tmp_path).stdout


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([answer(0), answer(0)], "answers.jsonl:2: the question q0 stands twice"),
        ([{"id": "q0", "base": "a", "tuned": "b"}], "answers.jsonl:1: lacks messages, finish"),
        ([], "holds no answers; run `make answers`"),
        ([answer(0, base="I am ChatGPT.")], "none of the 1 questions is left: 1 names a model or its maker"),
    ],
)
def test_answers_that_make_no_study_are_one_line(tmp_path, rows, said):
    run_of(tmp_path / "out", "tiny", rows)
    assert said in one_line(inside("eval.ballot", "--study", ROOT / "eval/study.yaml", cwd=tmp_path, status=1))


def test_runs_that_were_not_asked_the_same_are_one_line(out):
    run_of(out, "two", [answer(i, question=f"How {i}?") for i in range(40)])
    with pytest.raises(UserError, match="the question q0 has another text in one of the runs one, two"):
        freeze(study(), out)
