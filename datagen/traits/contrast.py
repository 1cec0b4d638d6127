"""Reads a contrastive set: pairs of texts of which one is the human-like side. What all other stages of the traits, and the fit, start from.

    python -m datagen.traits.contrast data/paper/pairs.jsonl        # what it holds

Takes what `datagen.format` takes (`prompt`, `chosen`, `rejected`, the chosen answer being the human-like side), and JSON lines of games: `game_id`, `human` and
`ai` are transcripts with lines "I: …" (the one who asks) and "W: …" (the one to be judged), `ai_model` may name the model. A line without a speaker goes on
with the turn before it. Other keys are left alone, and both kinds may stand in one file.
"""

import argparse
import re
from collections import Counter
from dataclasses import dataclass
from typing import Literal

from datagen.files import UserError, canonical, entry, sha256
from datagen.format import conversation, read_pairs

SPEAKER = re.compile(r"^([IW]):[ \t]?", re.MULTILINE)
SIDES = ("human", "other")


@dataclass(frozen=True)
class Pair:
    """Two texts that answer the same prompt, or played the same game."""

    id: str  # unique in its file: the row's own id, the game's, or the hash of its content
    group: str  # the question or the game: never split across folds
    kind: Literal["reply", "dialogue"]
    context: str | None  # what a reply answers; a dialogue holds its own
    human: str  # the human-like side: a reply, or the transcript of a game
    other: str
    source: str | None  # the AI model of the other side, where the row names it


def turns(transcript: str) -> list[tuple[str, str]]:
    """(speaker I or W, text) of each turn of a transcript, in order; empty turns are left out."""
    parts = SPEAKER.split(transcript)
    return [(who, text.strip()) for who, text in zip(parts[1::2], parts[2::2], strict=True) if text.strip()]


def said(kind: str, text: str) -> list[str]:
    """The turns that are to be judged: those of W in a dialogue; a reply is one turn."""
    return [words for who, words in turns(text) if who == "W"] if kind == "dialogue" else [text]


def talk(pair: Pair, side: str) -> str:
    """One side of a pair as a judge is shown it: a talk of I and W, in which W is to be judged. A reply is W's answer to what I wrote."""
    text = pair.human if side == "human" else pair.other
    return text if pair.kind == "dialogue" else f"I: {pair.context}\nW: {text}"


def fingerprint(pairs: list[Pair]) -> str:
    """The hash of a set's content, however its file is written."""
    return sha256(canonical([vars(pair) for pair in pairs]))


def read(path: object) -> list[Pair]:
    """The pairs of a file (or Hub data set), in its order. Raises UserError that names the place of a row that is neither kind.

    Rows whose prompts differ only in case, spaces or punctuation belong to one group. A row without an id of its own gets the hash of its content; where a
    game or a content occurs again, a number is added.
    """
    rows, places = read_pairs(str(path))
    if not rows:
        raise UserError(f"{path}: holds no rows")
    found, seen, own = [], Counter(), {}
    for row, place in zip(rows, places, strict=True):
        pair = game(row, place) if isinstance(row, dict) and "game_id" in row else reply(row, place)
        if pair.kind == "reply" and row.get("id") is not None:
            if pair.id in own:
                raise UserError(f"{place}: the id {pair.id!r} stands twice, first at {own[pair.id]}; ids are to be unique")
            own[pair.id] = place
        seen[pair.id] += 1
        found.append(pair if seen[pair.id] == 1 else Pair(**vars(pair) | {"id": f"{pair.id}-{seen[pair.id]}"}))
    if len({pair.id for pair in found}) != len(found):
        raise UserError(f"{path}: two rows would have the same id; give every row an `id` of its own")
    return found


def reply(row: dict, place: str) -> Pair:
    messages, chosen, rejected = conversation(row, place)
    context = whole(messages[0]["content"] if len(messages) == 1 else "\n\n".join(f"{m['role']}: {m['content']}" for m in messages)).strip()
    human, other = whole(chosen), whole(rejected)
    name = str(row["id"]) if row.get("id") is not None else sha256(canonical([context, human, other]))[:12]
    group = sha256(" ".join(re.findall(r"\w+", context.lower())) or context)[:12]
    return Pair(name, group, "reply", context, human, other, model_of(row, place))


def game(row: dict, place: str) -> Pair:
    if isinstance(row["game_id"], bool) or not isinstance(row["game_id"], str | int) or row["game_id"] == "":
        raise UserError(f"{place}: game_id is the name or the number of a game, got {row['game_id']!r}")
    name = whole(str(row["game_id"]))
    for side in ("human", "ai"):
        text = row.get(side)
        if not isinstance(text, str):
            raise UserError(f"{place}: {side} is missing or no text; a game needs game_id, human and ai (it has: {', '.join(row)})")
        if text.strip() and not SPEAKER.match(text.lstrip()):
            raise UserError(f'{place}: {side} does not begin with a speaker; lines of a transcript begin with "I: " or "W: "')
        if not said("dialogue", text):
            raise UserError(f'{place}: {side} has no line of the one to be judged ("W: …"); remove the game')
    return Pair(name, name, "dialogue", None, whole(row["human"].strip()), whole(row["ai"].strip()), model_of(row, place))


def model_of(row: dict, place: str) -> str | None:
    name = row.get("ai_model")
    if not isinstance(name, str | None):
        raise UserError(f"{place}: ai_model is a name, got {str(name)[:60]!r}")
    return name or None


def whole(text: str) -> str:
    """Half a surrogate pair is valid JSON, but cannot be written as UTF-8."""
    return text.encode("utf-8", "replace").decode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", help=".jsonl, .json, .parquet, or the id of a Hub data set")
    pairs = read(parser.parse_args().pairs)
    kinds, sources = Counter(pair.kind for pair in pairs), Counter(pair.source or "not named" for pair in pairs)
    print(f"{len(pairs):,} pairs ({', '.join(f'{n:,} {kind}' for kind, n in kinds.items())}) in {len({pair.group for pair in pairs}):,} groups")
    print("the other side by model: " + ", ".join(f"{source} {n:,}" for source, n in sources.most_common()))


if __name__ == "__main__":
    entry(main)
