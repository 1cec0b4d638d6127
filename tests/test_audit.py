"""What the audit page says of sound and of spoiled preference data.  .venv/bin/python -m pytest tests/test_audit.py"""

import json
import random
import re

import pytest
from conftest import inside, one_line

from datagen.balance import balance


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """The figure takes a second, and tests/test_score.py draws it; traits are counted in few rows."""
    monkeypatch.setattr("datagen.audit.COUNTED", 60)
    monkeypatch.setattr("eval.score.figure", lambda found, out: str(out.write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")))


THINGS = (
    "bread rivers chess owls trains candles violins glaciers pepper castles bicycles comets beetles harbours lanterns mosaics orchards puppets quilts saddles".split()  # noqa: SIM905
)
PLACES = "Lisbon Norway Kyoto Peru Cairo Dublin Quito Malta Delhi Oslo".split()  # noqa: SIM905


def rows():
    made = []
    for i, (thing, place) in enumerate((t, p) for t in THINGS for p in PLACES):
        chosen = f"I saw {thing} all over {place} once, and the {thing} there kept me smiling for days number {i}."
        made.append(
            {
                "prompt": f"What do you know about {thing} in {place}?",
                "chosen": chosen,
                "rejected": f"In {place}, {thing} hold a recognised position. Entry {i} describes {thing}.",
            }
        )
    random.Random(1).shuffle(made)
    return made


def audit(tmp_path, made):
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    inside("datagen.audit", tmp_path / "pairs.jsonl", tmp_path / "audit.html")
    return json.loads((tmp_path / "audit.json").read_text()), (tmp_path / "audit.html").read_text()


def faults(report):
    return [verdict["text"] for verdict in report["verdicts"] if "wrong rows" in verdict["text"]]


def test_sound_columns_raise_no_alarm_and_the_page_loads_nothing(tmp_path):
    report, page = audit(tmp_path, rows())
    assert faults(report) == []
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//|@import|url\(""", page)


def test_a_shifted_column_is_named_with_its_shift(tmp_path):
    made = rows()
    for row, other in zip(made, [r["rejected"] for r in made[3:] + made[:3]], strict=True):
        row["rejected"] = other
    [text] = faults(audit(tmp_path, made)[0])
    assert text.startswith("The rejected answers stand on the wrong rows") and re.search(r"[+-−]?3\b", text)


def invented():
    """Rows on invented things, so that an answer has one prompt it can belong to."""
    rng = random.Random(5)
    things = ["".join(rng.choice("bdklmnrstv") + rng.choice("aeiou") for _ in range(rng.randint(3, 4))) for _ in range(700)]
    drawn = [rng.sample(things, 3) for _ in range(300)]
    return [
        {"prompt": f"How do you like {a} with {b} and {c}?", "chosen": f"Oh, {a}! I once had {b} and loved it.", "rejected": f"Generally {a} goes with {c}."}
        for a, b, c in drawn
    ]


def test_a_permuted_column_is_named_as_permuted(tmp_path):
    made = invented()
    answers = [row["rejected"] for row in made]
    random.Random(1).shuffle(answers)
    [text] = faults(audit(tmp_path, [row | {"rejected": answer} for row, answer in zip(made, answers, strict=True)])[0])
    assert text.startswith("The rejected answers stand on the wrong rows: permuted within the file")


def test_a_column_permuted_in_its_second_half_is_named_with_its_rows(tmp_path):
    made = invented()
    answers = [row["chosen"] for row in made[150:]]
    random.Random(1).shuffle(answers)
    [text] = faults(audit(tmp_path, made[:150] + [row | {"chosen": answer} for row, answer in zip(made[150:], answers, strict=True)])[0])
    assert text.startswith("The chosen answers stand on the wrong rows") and 145 <= int(re.search(r"from row (\d+) on", text)[1]) <= 156


@pytest.mark.parametrize(
    "answer",
    [
        lambda row, rng: "I am sorry, but I cannot help with that request.",
        lambda row, rng: rng.choice(["yes", "no", "maybe"]),
        lambda row, rng: row["chosen"][::-1].lower(),
    ],
    ids=["refusals", "labels", "another language"],
)
def test_answers_that_could_not_repeat_their_prompt_are_not_called_wrong(tmp_path, answer):
    rng = random.Random(2)
    report = audit(tmp_path, [row | {"rejected": answer(row, rng)} for row in invented()])[0]
    assert faults(report) == [] and any("cannot tell" in verdict["text"] for verdict in report["verdicts"])


def test_a_missing_file_is_one_line(tmp_path):
    assert "none.jsonl: there is no such file" in one_line(inside("datagen.audit", tmp_path / "none.jsonl", tmp_path / "a.html", status=1))


@pytest.mark.parametrize(("texts", "stripped"), [(("Sure 😊!", "Yes."), ("Sure!", "Yes.")), (("No emoji.", "None."), ("No emoji.", "None."))])
def test_stripping_takes_the_emoji_and_nothing_else(texts, stripped):
    assert balance([texts], emoji="stripped") == ([0], [stripped], dict.fromkeys(("nothing but emoji", "equal without emoji", "no partner of mirrored length"), 0))


def test_matched_lengths_leave_neither_side_the_longer_one():
    rng = random.Random(3)
    pairs = [("word " * rng.randint(5, 60), "word " * rng.randint(5, 40)) for _ in range(400)]
    kept, texts, dropped = balance(pairs, length="matched")
    longer = sum((len(a) > len(b)) - (len(a) < len(b)) for a, b in texts)
    assert kept == sorted(kept) and dropped["no partner of mirrored length"] == 400 - len(kept) and longer == 0 and len(kept) > 150


def test_the_traits_that_separate_the_sides_stand_beside_those_of_people(tmp_path):
    report, page = audit(tmp_path, [row | {"chosen": row["chosen"].lower().rstrip(".") + "?"} for row in rows()])
    found = report["traits"]
    by_id = {row["id"]: row for row in found["compared"]["traits"]}
    assert by_id["ends-question"]["separation"] == 1.0 and by_id["all-lowercase"]["separation"] > 0.9 and by_id["ends-stop"]["separation"] == 0.0
    assert found["compared"]["n"] == 60 and found["weights"]["file"] == "eval/weights/turn.json"
    section = page.split('id="traits"')[1].split('id="surface"')[0]
    assert section.count("<tr>") == 11 and "60 pairs drawn by seed." in section and "Spearman" in section and 'src="data:image/svg+xml' in section
    assert any("point the way in which people differ from models" in verdict["text"] for verdict in report["verdicts"])


def test_too_few_rows_say_nothing_of_traits(tmp_path):
    report, page = audit(tmp_path, rows()[:8])
    assert report["traits"] is None and "Not told: too few rows." in page and not (tmp_path / "audit-traits.svg").exists()
