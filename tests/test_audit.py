"""What the audit page says of sound and of spoiled preference data.  .venv/bin/python -m pytest tests/test_audit.py"""

import json
import random
import re

import pytest
from conftest import one_line, run

from datagen.balance import balance

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
    run("datagen.audit", tmp_path / "pairs.jsonl", tmp_path / "audit.html")
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


def test_a_missing_file_is_one_line(tmp_path):
    assert "none.jsonl: there is no such file" in one_line(run("datagen.audit", tmp_path / "none.jsonl", tmp_path / "a.html", status=1))


@pytest.mark.parametrize(("texts", "stripped"), [(("Sure 😊!", "Yes."), ("Sure!", "Yes.")), (("No emoji.", "None."), ("No emoji.", "None."))])
def test_stripping_takes_the_emoji_and_nothing_else(texts, stripped):
    assert balance([texts], emoji="stripped") == ([0], [stripped], dict.fromkeys(("nothing but emoji", "equal without emoji", "no partner of mirrored length"), 0))


def test_matched_lengths_leave_neither_side_the_longer_one():
    rng = random.Random(3)
    pairs = [("word " * rng.randint(5, 60), "word " * rng.randint(5, 40)) for _ in range(400)]
    kept, texts, dropped = balance(pairs, length="matched")
    longer = sum((len(a) > len(b)) - (len(a) < len(b)) for a, b in texts)
    assert kept == sorted(kept) and dropped["no partner of mirrored length"] == 400 - len(kept) and longer == 0 and len(kept) > 150
