"""The topic map: what it reads, how it embeds, groups and counts, and what its page holds.  .venv/bin/python -m pytest tests/test_topics.py"""

import json
import random
import re

import numpy as np
import pytest
from conftest import inside, one_line, run

from datagen import topics
from datagen.files import UserError

SUBJECTS = {
    "soup": "bread soup garlic onions salads noodles pepper pancakes".split(),  # noqa: SIM905
    "train": "trains airports luggage hotels passports beaches ferries tickets".split(),  # noqa: SIM905
    "owl": "owls rivers forests beetles glaciers whales mosses orchids".split(),  # noqa: SIM905
}


def questions(each=40):
    """Questions in three groups that share no content word between them."""
    rng = random.Random(0)
    made = [f"What about {' and '.join(rng.sample(words, 4))}, {rng.choice(words)}?" for words in SUBJECTS.values() for _ in range(each)]
    rng.shuffle(made)
    return list(dict.fromkeys(made))


def mapped(folder, rows, *more, start=inside):
    (folder / "q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    start("datagen.topics", folder / "q.jsonl", folder / "map.html", "--cache", folder / "cache", "--embedding", "tfidf", *more)
    return json.loads((folder / "map.json").read_text()), (folder / "map.html").read_text()


def test_the_reference_is_256_distinct_topics_under_the_papers_twelve_themes():
    themes = topics.reference()
    names = [name for listed in themes.values() for name in listed]
    assert (len(themes), len(names), len(set(names))) == (12, 256, 256)
    for kind in topics.KINDS:
        assert set(names) > {name for listed in topics.reference(kind).values() for name in listed}


def test_a_reference_without_one_of_its_lists_is_refused(tmp_path):
    (tmp_path / "t.yaml").write_text("Music:\n  words: [song]\n  both: [choirs]\n")
    with pytest.raises(UserError, match="Music needs four lists"):
        topics.reference(path=tmp_path / "t.yaml")


@pytest.mark.parametrize(
    ("name", "text", "prompts"),
    [
        ("a.txt", "Why?\n\nHow so?\n", ["Why?", "How so?"]),
        ("a.jsonl", '{"id": 7, "text": "Why?"}\n{"question": "How so?"}\n', ["Why?", "How so?"]),
        ("a.json", '[{"prompt": "Why?", "chosen": "a", "rejected": "b"}]', ["Why?"]),
        ("m.jsonl", '{"prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}], "chosen": "a", "rejected": "b"}\n', ["Why?"]),
        (
            "c.jsonl",
            '{"chosen": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "a"}],'
            ' "rejected": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "b"}]}\n',
            ["Why?"],
        ),
    ],
)
def test_questions_and_pairs_of_every_form_are_read(tmp_path, name, text, prompts):
    (tmp_path / name).write_text(text)
    assert [row["prompt"] for row in topics.read_rows(str(tmp_path / name))] == prompts


def test_a_row_without_a_prompt_is_one_line_that_names_it(tmp_path):
    (tmp_path / "q.jsonl").write_text('{"text": "Why?"}\n{"title": "Why?"}\n')
    assert "q.jsonl:2: there is no prompt, text or question (the row has: title)" in one_line(
        inside("datagen.topics", tmp_path / "q.jsonl", tmp_path / "a.html", status=1)
    )


@pytest.mark.slow  # UMAP compiles for half a minute
def test_three_subjects_are_three_topics_and_the_same_rows_give_the_same_page(tmp_path):
    rows = [{"id": i, "text": text} for i, text in enumerate(questions())]
    first, page = mapped(tmp_path, rows, "--topics", "3", start=run)
    again, same = mapped(tmp_path, rows, "--topics", "3", start=run)
    assert first == again and page == same
    assert len(first["topics"]) == 3
    subject = {str(row["id"]): next(s for s, words in SUBJECTS.items() if any(w in row["text"] for w in words)) for row in rows}
    for topic in first["topics"]:
        assert (
            len({subject[i] for i in topic["rows"]}) == 1
            and topic["n"] == len(topic["rows"])
            and set(topic["words"]) <= {w for words in SUBJECTS.values() for w in words}
        )
    assert sum(t["n"] for t in first["topics"]) + first["no topic"]["n"] == first["rows"]["all"] == len(rows)
    assert first["embedding"]["made by"] == topics.LETTERS and "No embedding model was used" in page
    assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//|@import|url\(""", page)


def test_the_counts_of_the_reference_add_up_and_its_empty_topics_can_be_asked_for(tmp_path):
    rows = [{"text": f"What is a good recipe for sourdough, number {i}?"} for i in range(6)] + [{"text": "Which vinyl records do you own?"}]
    found, page = mapped(tmp_path, rows)
    reference = found["reference"]
    assert len(reference["topics"]) == 256 and sum(t["n"] for t in reference["topics"]) == reference["rows about one"]
    by_name = {t["topic"]: t["n"] for t in reference["topics"]}
    assert by_name["vinyl records"] == 1 and topics.thin(tmp_path / "map.json") == [t["topic"] for t in reference["thin"]]
    assert "vinyl records" not in topics.thin(tmp_path / "map.json") and len(reference["thin"]) == sum(n < 1 for n in by_name.values())
    assert "7 distinct texts are too few to estimate a density from" in page and found["topics"] == []


def test_the_rows_of_the_page_can_neither_close_its_script_nor_open_a_tag(tmp_path):
    nasty = "</script><script>alert(1)</script><img src=x onerror=alert(2)> {{ 7 * 7 }}"
    _, page = mapped(tmp_path, [{"prompt": nasty, "chosen": nasty, "rejected": "b"}, {"prompt": "Why?", "chosen": "a", "rejected": "b"}])
    assert page.count("<script") == 2 and "<img" not in page and "alert(1)" in page and "{{ 7 * 7 }}" in page
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])
    assert data["prompt"][0] == data["chosen"][0] == nasty


def test_a_text_is_embedded_once_whatever_else_is_added(tmp_path):
    asked = []

    def load():
        def encode(texts):
            asked.extend(texts)
            return np.array([[len(text), 1.0, 0.0] for text in texts])

        return encode

    first = topics.kept(["a", "bb"], "model", load, tmp_path)
    second = topics.kept(["bb", "ccc", "a"], "model", load, tmp_path)
    assert asked == ["a", "bb", "ccc"] and np.array_equal(second[[2, 0]], first) and np.allclose(np.linalg.norm(second, axis=1), 1, atol=1e-3)
    topics.kept(["a"], "another model", load, tmp_path)
    assert asked[3:] == ["a"]


def test_embeddings_of_an_endpoint_are_used_and_its_key_is_not_told(tmp_path, endpoint, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    endpoint.script = lambda body: (401, "wrong key sk-secret")
    (tmp_path / "q.txt").write_text("Why?\nHow so?\n")
    line = one_line(inside("datagen.topics", tmp_path / "q.txt", tmp_path / "a.html", "--embedding", "endpoint:some", "--cache", tmp_path / "cache", status=1))
    assert "no embeddings by some" in line and "sk-secret" not in line and endpoint.bodies[0]["model"] == "some" and not (tmp_path / "a.html").exists()


def test_without_an_address_the_endpoint_is_one_line(tmp_path):
    (tmp_path / "q.txt").write_text("Why?\nHow so?\n")
    line = one_line(inside("datagen.topics", tmp_path / "q.txt", tmp_path / "a.html", "--embedding", "endpoint:some", "--cache", tmp_path / "cache", status=1))
    assert "OPENAI_BASE_URL is not set" in line


def test_evenness_is_one_where_groups_are_equal_and_its_interval_holds_the_value():
    assert topics.spread([500, 500, 500])["evenness"][0] == pytest.approx(1, abs=0.002)
    value, low, high = topics.spread([900, 50, 50])["evenness"]
    exact = -(0.9 * np.log(0.9) + 0.1 * np.log(0.05)) / np.log(3)
    assert value == pytest.approx(exact, abs=0.003) and low < exact < high
    assert topics.spread([900, 50, 50])["largest share"][0] == 0.9 and topics.spread([5]) == {}
