"""A synthetic judge, whose ratings follow known rules of the text: what a fit should find is then known. For tests; `Judge()` is a script of conftest.Endpoint."""

import json
import re
from collections.abc import Callable

from datagen.emojis import found
from datagen.files import sha256
from datagen.traits import rubric
from datagen.traits.contrast import SIDES, Pair, said, turns


def level(value: float, *edges: float) -> int:
    """1 to 5: one more than the number of edges (four, rising) that are reached."""
    return 1 + sum(value >= edge for edge in edges)


def mean_words(said: list[str]) -> float:
    return sum(len(turn.split()) for turn in said) / len(said)


# Each looks at the turns of the one who is judged.
RULES: dict[str, Callable[[list[str]], int]] = {
    "Writes short turns.": lambda said: 6 - level(mean_words(said), 4, 8, 16, 32),
    "Asks questions.": lambda said: level(sum("?" in turn for turn in said) / len(said), 0.01, 0.25, 0.5, 0.75),
    "Leaves out capital letters.": lambda said: level(sum(turn == turn.lower() for turn in said) / len(said), 0.01, 0.34, 0.67, 1),
    "Uses emoji.": lambda said: level(len(found(" ".join(said))), 1, 2, 3, 4),
    "Shouts.": lambda said: level(sum(turn.count("!") for turn in said), 1, 2, 3, 4),
    "Sets commas.": lambda said: level(sum(turn.count(",") for turn in said), 1, 2, 4, 8),
}


def made_rubric(name: str = "synthetic") -> rubric.Rubric:
    return rubric.make(name, [rubric.trait(statement) for statement in RULES], {"stage": "tests"})


def ratings(words: list[str], ids: list[str] | None = None) -> dict[str, int]:
    """{id of the trait: rating} of the turns of the one who is judged."""
    found = {rubric.trait(statement).id: rule(words) for statement, rule in RULES.items()}
    return found if ids is None else {id_: found[id_] for id_ in ids}


def rows(pairs: list[Pair], judge: str = "synthetic") -> list[dict]:
    """What `datagen.traits.rate` would write, without asking."""
    binding = {"judge": judge, "rubric_sha256": made_rubric().sha256, "prompt_sha256": "0" * 64}
    return [
        {"id": pair.id, "side": side, "text_sha256": sha256(text), **binding, "ratings": ratings(said(pair.kind, text))}
        for pair in pairs
        for side, text in zip(SIDES, (pair.human, pair.other), strict=True)
    ]


def asked(body: dict) -> tuple[str, list[str]]:
    """(the talk, the ids in the order shown) of a request for ratings."""
    text = body["messages"][0]["content"]
    talk, traits = (re.search(rf"<{tag}>\n(.*)\n</{tag}>", text, re.DOTALL)[1] for tag in ("talk", "traits"))
    return talk, re.findall(r"^(t-[0-9a-f]{6}): ", traits, re.MULTILINE)


class Judge:
    """Answers a request for ratings by RULES."""

    def __call__(self, body: dict) -> str:
        talk, ids = asked(body)
        return json.dumps(ratings([words for who, words in turns(talk) if who == "W"], ids))
