"""The design and the store of detection studies: who sees which pair, each answer once.  .venv/bin/python -m pytest tests/test_detect.py"""

import json
import random
from collections import Counter, defaultdict

import pytest
import yaml
from conftest import ROOT, inside, one_line

from datagen.files import UserError, read_json, read_jsonl, write_text
from datagen.roleplay.record import Attempt, Dialogue, Goal, Persona, Player, Response, Turn, line
from eval import detectdesign, detection, detectstore, studyfile, votes
from eval.detectdesign import Detection
from eval.detectstore import DetectStore, exported, joined
from eval.votes import Refused

VALUES = yaml.safe_load((ROOT / "eval/detection.yaml").read_text())
PLAYER = Player(endpoint="http://127.0.0.1/v1", model="m", temperature=1.0, top_p=1.0, max_tokens=10)


def dialogue(person=0, goal=0, who="natural", turns=2, seed=1, **changes):
    """One of a person (its persona's index) and a goal, whose utterances say whose they are."""

    def turn(t):
        said = {"repeats_strict": False, "repeats": False, "finish": "stop", "usage": {}, "seed": 1, "dropped": 0}
        found = {"prompt_strict": None, "found": 1, "found_strict": 1, "stop": False, "stop_failure": False, "failure": None, "self_reply": []}
        found |= {"temperature": 1.0, "top_p": 1.0}
        attempt = Attempt(raw="r", text="t", prompt=f"{who} p{person} g{goal} t{t}", **said, **found)
        answer = Response(raw="a", text=f"answer {t}", **said)
        return Turn(t=t, attempts=[attempt], response=answer, complete=True)

    values = {"id": f"x-{person}-g{goal}-{seed}", "seed": seed, "settings": "s", "persona": Persona(id="x", index=person, features={}, text="a person")}
    values |= {"goal": Goal(id=f"g{goal}", category="c", text=f"Goal {goal}"), "inquirer": PLAYER, "responder": PLAYER, "turns": [turn(t) for t in range(turns)]}
    return Dialogue(**values | {"end_reason": "finished", "end_detail": "", "guard": None, "versions": {}} | changes)


def write(path, dialogues):
    write_text(path, "".join(map(line, dialogues)))
    return str(path)


def design(folder, persons=4, goals=3, models=2, **changes):
    """A design over natural and simulated dialogues of every person and goal, written below `folder`."""
    natural = write(folder / "natural.jsonl", [dialogue(u, g, turns=1 + g) for u in range(persons) for g in range(goals)])
    simulated = {f"m{m}": write(folder / f"m{m}.jsonl", [dialogue(u, g, f"m{m}", turns=2 + m) for u in range(persons) for g in range(goals)]) for m in range(models)}
    values = VALUES | {"natural": natural, "simulated": simulated, "participants": 4, "per_rater": 6, "gold_every": 3, "minimum_seconds": 0}
    return Detection(**values | {"quiz": [], "questionnaire": [], "password_env": None} | changes)


clock = [1_800_000_000.0]


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Freezes a study and opens its store; a second call opens it anew, the first one's process being dead."""
    monkeypatch.setattr(votes, "LIMITS", dict.fromkeys(votes.LIMITS, 100_000))
    clock[0], opened = 1_800_000_000.0, []

    def open_store(**changes):
        if opened:
            opened[-1].held.close()
        study = design(tmp_path, **changes)
        folder = tmp_path / "out/detect" / study.name
        if not folder.is_dir():
            detectdesign.freeze(study, tmp_path / "out")
        opened.append(DetectStore(folder, study, clock=lambda: clock[0], rng=random.Random(1)))
        return opened[-1]

    yield open_store
    for store in opened:
        store.db.close()
        store.log.close()
        store.held.close()


ANSWER = {"choice": "left", "confidence": 2, "side": "left", "number": 1}


def answer_all(store, rater, n=10**6, **changes):
    """Says the same of up to n pairs; (ballot, item) of each."""
    said = []
    while len(said) < n and (ballot := store.next(rater)):
        clock[0] += 60
        row = store._one("SELECT item FROM assignment WHERE token = ?", ballot.token)
        assert store.say(rater, ballot.token, ANSWER | changes) == "ok"
        said.append((ballot, store.items[row["item"]]))
    return said


# ---------------------------------------------------------------- design


def papers_lists():
    cells = [(u, g, m) for u in range(20) for g in range(10) for m in range(4)]
    lists = detectdesign.assign([f"u{u:02}" for u, _, _ in cells], [f"g{g}" for _, g, _ in cells], [f"m{m}" for *_, m in cells], 20, 1)
    return cells, lists.tolist()


def test_with_the_papers_numbers_everybody_gets_the_same_of_everything_and_no_person_and_goal_twice():
    cells, lists = papers_lists()
    of = defaultdict(list)
    for cell, slot in zip(cells, lists, strict=True):
        of[slot].append(cell)
    assert sorted(of) == list(range(20))
    for mine in of.values():
        assert len(mine) == 40 == len({(u, g) for u, g, _ in mine})
        assert Counter(m for *_, m in mine) == dict.fromkeys(range(4), 10) and Counter(g for _, g, _ in mine) == dict.fromkeys(range(10), 4)
        assert len({(g, m) for _, g, m in mine}) == 40 and Counter(u for u, _, _ in mine) == dict.fromkeys(range(20), 2)


def test_sides_are_even_for_each_participant_model_and_person():
    cells, lists = papers_lists()
    models, persons = [m for *_, m in cells], [u for u, _, _ in cells]
    both = [f"{slot}:{m}" for slot, m in zip(lists, models, strict=True)]
    left = detectdesign.left_sides([lists, both, models, persons], 1)
    for margin, n in ((lists, 40), (both, 10), (models, 200), (persons, 40)):
        counts = Counter(label for label, yes in zip(margin, left, strict=True) if yes)
        assert all(abs(counts[label] - n / 2) <= 1 for label in set(margin)), (n, counts)


@pytest.mark.parametrize("missing", [0, 5, 40])
def test_where_dialogues_are_missing_no_person_and_goal_meets_itself_all_the_same(missing):
    cells = [(u, g, m) for u in range(7) for g in range(5) for m in range(3)]
    cells = random.Random(missing).sample(cells, len(cells) - missing)
    lists = detectdesign.assign([u for u, _, _ in cells], [g for _, g, _ in cells], [m for *_, m in cells], 6, 1).tolist()
    assert len({(slot, u, g) for slot, (u, g, _) in zip(lists, cells, strict=True)}) == len(cells)


def test_what_is_frozen_says_nothing_of_which_dialogue_is_artificial(tmp_path):
    folder, lock, written = detectdesign.freeze(design(tmp_path), tmp_path / "out")
    items, key = read_jsonl(folder / "items.jsonl"), read_json(folder / "key.json")
    assert written and lock["items"] == {"main": 24, "gold": 5} and lock["pairs of a model"] == {"m0": 12, "m1": 12}
    main = [item for item in items if item["kind"] == "main"]
    assert {text.split()[0] for item in main for _, text in item["text_a"][::2]} == {"natural", "m0", "m1"}  # a is either
    for item in items:
        sides = key[item["item"]]
        assert {sides["a"], sides["b"]} == {"natural", "simulated"} and sides["utterances"] == {side: len(item[f"text_{side}"]) for side in "ab"}
        assert "natural" not in set(item) and item["expected"] == (None if item["kind"] == "main" else "ab"[sides["b"] == "simulated"])
    assert detectdesign.freeze(design(tmp_path), tmp_path / "out")[2] is False


def test_dialogues_that_make_no_pair_are_counted_by_reason(tmp_path):
    study = design(tmp_path, models=1)
    write(tmp_path / "natural.jsonl", [dialogue(0, 0), dialogue(0, 1), dialogue(1, 0), dialogue(2, 0, turns=0)])
    write(tmp_path / "m0.jsonl", [dialogue(0, 0, "m0"), dialogue(0, 0, "m0", seed=2), dialogue(0, 1, "m0", end_reason="toxic"), dialogue(3, 0, "m0")])
    rows, _, facts = detectdesign.build(study)
    assert facts["left out"] == {
        "m0: another seed": 1,
        "m0: called unsafe": 1,
        "m0: no natural dialogue of this person and goal": 1,
        "natural: no complete turn": 1,
        "natural: no simulated dialogue of this person and goal": 2,
    }
    assert sum(row["kind"] == "main" for row in rows) == 1
    write(tmp_path / "m0.jsonl", [dialogue(0, 0, "m0").model_copy(update={"goal": Goal(id="g0", category="c", text="Another")})])
    with pytest.raises(UserError, match="the goal 'g0' has another text"):
        detectdesign.build(study)
    write(tmp_path / "m0.jsonl", [dialogue(3, 0, "m0")])
    with pytest.raises(UserError, match="no natural dialogue has a simulated one of the same person and goal"):
        detectdesign.build(study)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"participants": 1, "simulated": {"a": "x", "b": "y"}}, "participants: 1 participants cannot see 2 pairs of one person and goal"),
        ({"simulated": {"a": "x", "b": "x"}}, "simulated: the file 'x' stands twice"),
        ({"gold": VALUES["gold"][:3]}, "gold: one in every 10 of 40 items takes 4 gold pairs, and there are 3"),
        ({"margin": 0.5}, "margin: input should be less than 0.5"),
        ({"repeats": 1}, "unknown key repeats"),
        ({"particpants": 3}, "unknown key particpants (did you mean 'participants'?)"),
        ({"gold": [VALUES["gold"][0] | {"simulated": VALUES["gold"][0]["natural"]}] * 4}, "both dialogues are the same"),
    ],
)
def test_impossible_designs_are_refused(tmp_path, changes, said):
    (tmp_path / "d.yaml").write_text(json.dumps(VALUES | changes))
    with pytest.raises(UserError) as error:
        studyfile.load(tmp_path / "d.yaml", Detection)
    assert said in str(error.value)


def test_the_design_of_the_repository_is_possible_and_its_absent_dialogues_are_one_line(tmp_path):
    assert studyfile.load(ROOT / "eval/detection.yaml", Detection).participants == 20
    error = one_line(inside("eval.detectdesign", "--study", ROOT / "eval/detection.yaml", cwd=tmp_path, status=1))
    assert "out/collect/collection/dialogues.jsonl: there is no such file" in error


def test_lists_longer_than_the_cap_are_refused(tmp_path):
    with pytest.raises(UserError, match="up to 6 each, and per_rater is 3"):
        detectdesign.build(design(tmp_path, per_rater=3))


# ---------------------------------------------------------------- store


def test_every_pair_is_judged_once_and_nobody_sees_a_person_and_goal_twice(make):
    store = make()
    for rater in [store.join() for _ in range(4)]:
        mine = answer_all(store, rater)
        main = [item for _, item in mine if item["kind"] == "main"]
        assert len(main) == 6 == len({item["question_id"] for item in main}) and Counter(item["pair"] for item in main) == {"m0": 3, "m1": 3}
        assert [ballot.position for ballot, _ in mine] == list(range(1, 9)) and {ballot.total for ballot, _ in mine} == {8}
        assert sum(item["kind"] == "gold" for _, item in mine) == 2
    assert {item["item"]: n for item in store.items.values() if item["kind"] == "main" for n in [store.counts[item["item"]][0]]} == {
        item["item"]: 1 for item in store.items.values() if item["kind"] == "main"
    }
    assert store.next(store.join()) is None  # a fifth has nothing to do


def test_the_side_is_that_of_the_design(make):
    store = make()
    for rater in [store.join() for _ in range(4)]:
        for ballot, item in answer_all(store, rater):
            if item["kind"] == "main":
                assert ballot.left == item[f"text_{item['left'][0]}"]


def test_several_answers_a_pair_come_from_several_participants(make):
    store = make(votes_per_item=2, per_rater=12)
    for rater in [store.join() for _ in range(4)]:
        assert len({item["question_id"] for _, item in answer_all(store, rater)}) == 12 + 4
    assert {n for item, (n, _) in store.counts.items() if store.items[item]["kind"] == "main"} == {2}


def test_after_a_kill_a_participant_goes_on_with_the_same_pair_and_the_same_list(make):
    store = make()
    rater = store.join()
    answer_all(store, rater, 3)
    before = store.next(rater)
    store = make()
    assert store.next(rater) == before and len(answer_all(store, rater)) == 5


def test_the_rest_of_an_abandoned_list_goes_to_somebody_else_and_only_after_the_time(make):
    store = make()
    gone, *others = [store.join() for _ in range(4)]
    answer_all(store, gone, 3)
    for rater in others:
        answer_all(store, rater)
    late = store.join()
    assert store.next(late) is None
    clock[0] += 48 * 3600 + 1
    rest = answer_all(store, late)
    assert {item["kind"] for _, item in rest} <= {"main", "gold"} and sum(store.counts[name][0] for name, item in store.items.items() if item["kind"] == "main") == 24
    assert store.next(gone) is None  # who comes back has nothing left, and nothing is asked twice
    store = make()
    assert store.next(gone) is None and store.next(late) is None


def test_a_list_of_who_withdrew_is_free_at_once(make):
    store = make()
    gone, *others = [store.join() for _ in range(4)]
    answer_all(store, gone)
    assert store.withdraw(store.code(gone))
    for rater in others:
        answer_all(store, rater)
    assert sum(item["kind"] == "main" for _, item in answer_all(store, store.join())) == 6


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"choice": None}, "which dialogue is artificial"),
        ({"choice": "both"}, "which dialogue is artificial"),
        ({"confidence": None}, "how confident"),
        ({"confidence": 4}, "how confident"),
        ({"confidence": True}, "how confident"),
        ({"side": None}, "click on the utterance"),
        ({"number": None}, "click on the utterance"),
        ({"number": "1"}, "click on the utterance"),
    ],
)
def test_an_answer_that_lacks_something_is_refused_in_words_and_not_counted(make, changes, said):
    store = make()
    rater = store.join()
    ballot = store.next(rater)
    with pytest.raises(Refused, match=said):
        store.say(rater, ballot.token, ANSWER | changes)
    assert store.next(rater) == ballot and store.say(rater, ballot.token, ANSWER) == "ok" and store.say(rater, ballot.token, ANSWER) == "duplicate"


def test_an_utterance_that_is_not_there_is_no_answer(make):
    store = make()
    rater = store.join()
    ballot = store.next(rater)
    for number in (0, -1, len(ballot.left) + 1):
        with pytest.raises(ValueError, match="there is no utterance"):
            store.say(rater, ballot.token, ANSWER | {"number": number})
    assert store.say(rater, "unknown", ANSWER) == "unknown"
    assert store.say(rater, ballot.token, ANSWER | {"number": len(ballot.left)}) == "ok"


def test_not_sure_needs_confidence_and_no_utterance(make):
    store = make()
    rater = store.join()
    store.say(rater, store.next(rater).token, {"choice": "tie", "confidence": 1, "side": "left", "number": 9})
    [row] = exported(store.folder)
    assert (row["choice"], row["chosen"], row["confidence"], row["utterance_side"], row["utterance"]) == ("tie", None, 1, None, None)


def test_what_is_joined_is_what_was_said_whatever_side_it_stood_on(make):
    store = make()
    for k, rater in enumerate([store.join() for _ in range(4)]):
        answer_all(store, rater, side=("left", "right")[k % 2], number=2, confidence=1 + k % 3)
    rows, lock = joined(store.folder)
    key = read_json(store.folder / "key.json")
    assert lock["settings"]["margin"] == 0.1 and Counter(row["kind"] for row in rows) == {"main": 24, "gold": 8}
    for row in rows:
        sides = key[row["item"]]
        assert row["outcome"] == ("detected" if row["simulated_left"] else "fooled") and row["utterance"] == 2
        assert (row["model"], row["person"], row["goal"]) == (sides["model"], sides["person"], sides["goal"])
        assert row["utterances"] == sides["utterances"]["ab"[sides["b"] == "simulated"]]
    said = {row["vote"]: row["utterance_side"] for row in exported(store.folder)}
    assert Counter(said.values()) == {"left": 16, "right": 16}
    assert all((row["side"] == "simulated") == ((side == "left") == row["simulated_left"]) for row, side in zip(rows, said.values(), strict=True))
    found = detection.statistics(rows, 0.1, lock["settings"]["careless"])
    assert found["answers"] == 24 and {model: one["undetected"]["value"] for model, one in found["models"].items()} == {"m0": 0.5, "m1": 0.5}


def test_the_events_alone_give_back_every_answer(make):
    store = make()
    rater = store.join()
    answer_all(store, rater, 4)
    before = exported(store.folder)
    for path in store.folder.glob("votes.db*"):
        path.unlink()
    assert exported(make().folder) == before and len(before) == 4


def test_the_count_and_the_export_are_one_command(make, tmp_path):
    store = make()
    answer_all(store, store.join(), 2)
    done = inside("eval.detectstore", store.folder, "--export", tmp_path / "x.jsonl")
    assert "2 answers" in done.stdout and len(read_jsonl(tmp_path / "x.jsonl")) == 2
    assert "undetected" in inside("eval.detection", store.folder).stdout


def test_a_changed_file_is_refused(make):
    store = make()
    answer_all(store, store.join(), 1)
    write_text(store.folder / "key.json", "{}")
    with pytest.raises(UserError, match="not the file that the study was frozen with"):
        joined(store.folder)
    assert detectstore.OUTCOMES["tie"] == "unsure"


# ---------------------------------------------------------------- report


@pytest.mark.slow  # figures
def test_the_report_is_written_whole_and_says_why_there_is_no_fit(make):
    store = make()
    for rater in [store.join() for _ in range(4)]:
        answer_all(store, rater)
    done = inside("eval.detectionreport", store.folder)
    assert "24 answers of 4 participants on dialogues of 4 persons" in done.stdout
    page, text = ((store.folder / f"report.{kind}").read_text() for kind in ("html", "md"))
    assert "not fitted: fewer than 20 answers on m0, m1" in text and "people&#39;s answers" in page
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "") and page.count("data:image/svg+xml") == 2
    assert read_json(store.folder / "report.json")["models"]["m0"]["n"] == 12


@pytest.mark.slow  # figures
def test_every_table_of_a_fitted_study_has_its_numbers(tmp_path):
    import numpy as np

    from benchmarks.detection import Setting, simulate
    from eval import detectionreport

    rows = simulate(np.random.default_rng(1), Setting((0.2, 1.0, 0.0, 0.5)))
    found = {"study": "s", "whose": "simulated participants"} | detection.statistics(rows, 0.1, {"gold_failed": 2, "median_seconds": 0})
    for one in [*found["models"].values(), found["all"]]:
        one["undetected"]["participants"] = one["undetected"]["raters"]
    made = {table["title"].partition(" (sim")[0]: table for table in detectionreport.tables(found)}
    assert len(made) == 16 and all(len(row) == len(table["head"]) for table in made.values() for row in table["rows"])
    assert len(made["Contrasts of models"]["rows"]) == 10 * 6 and len(made["How often the simulated dialogue was not detected"]["rows"]) == 5
    assert "chi2(3) = " in made["Detection probability: model and its letters"]["notes"][0]
    assert set(detectionreport.figures(found, tmp_path)) == {"undetected", "outcomes", "effects"} and len(list(tmp_path.glob("*.svg"))) == 3


# ---------------------------------------------------------------- page


def test_a_pair_shows_both_dialogues_alike_and_hostile_text_does_nothing():
    from eval.detect import pair_html
    from eval.votes import Ballot

    hostile = "<script>x</script>${y}<img src=x onerror=y>"
    said = [["inquirer", hostile], ["responder", "fine"]]
    shown = pair_html(Ballot("token", "", said, said, 1, 2), "rendered")
    assert "<script" not in shown and "<img" not in shown and "${" not in shown and "token" not in shown
    left, right = shown.split("<h2>Dialogue 2</h2>")
    assert left.split("<h2>Dialogue 1</h2>")[1].count("utterance") == right.count("utterance") and 'data-side="right" data-number="2"' in right


@pytest.mark.parametrize("text", ["", "[]", "null", '{"choice": 1, "confidence": "2", "side": [], "number": {}}', "{"])
def test_what_the_browser_says_is_taken_only_where_it_makes_sense(text):
    from eval.detect import answer_of

    assert answer_of(text) == {}
    assert answer_of('{"choice": "tie", "confidence": 2, "side": "left", "number": 3, "item": "x"}') == {"choice": "tie", "confidence": 2, "side": "left", "number": 3}


@pytest.mark.slow  # Gradio's import
def test_the_page_says_nothing_of_models_pairs_or_sides(make):
    from eval import detect, vote

    vote.quiet_gradio()
    store = make()
    config = json.dumps(vote.build(store, False, detect.detecting(store)).get_config_file(), default=str)
    for word in ("m0", "m1", "natural", "simulated", "expected", "key.json", *list(store.items)[:3]):
        assert word not in config, word
    assert "http" not in vote.options("detect")["head"] and "utterance" in vote.options("detect")["head"]
