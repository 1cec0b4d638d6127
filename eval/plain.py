"""Counts what makes up the style of a text, and shows what taking the emoji out (datagen.emojis) does to the answers of a run.

python -m eval.plain out/tiny/answers.jsonl       # emoji and other marks of style, base against tuned
"""

import argparse
import re
from pathlib import Path

import numpy as np

from datagen.balance import length
from datagen.emojis import count
from datagen.files import entry
from eval.surface import bootstrap, read_answers, show

CODE = re.compile(r"^ {0,3}(```|~~~).*?(?:^ {0,3}\1|\Z)", re.MULTILINE | re.DOTALL)
STYLE = {
    "characters": len,
    "words": length,
    "emoji": count,
    "bold": lambda text: len(re.findall(r"(\*\*|__)(?=[^\s*_]).{1,300}?(?<=[^\s*_])\1", text)),
    "lists": lambda text: len(re.findall(r"^\s*(?:[-*+•]|\d{1,3}[.)])[ \t]+\S", text, re.MULTILINE)),
    "headings": lambda text: len(re.findall(r"^ {0,3}#{1,6}[ \t]+\S", text, re.MULTILINE)),
}
MARKDOWN = ("bold", "lists", "headings")


def style(text: str) -> dict[str, int]:
    """Counts of a text: characters, words (in scripts without spaces, characters), emoji, bold spans, list items and headings. What stands in
    fenced code is no Markdown."""
    prose = CODE.sub("", text)
    return {name: of(prose if name in MARKDOWN else text) for name, of in STYLE.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("answers", type=Path)
    args = parser.parse_args()
    answers = read_answers(args.answers)
    counts = {who: [style(row[who]) for row in answers] for who in ("base", "tuned")}
    print(f"{len(answers)} questions; mean of each answer's count, 95 % bootstrap intervals over questions in brackets ({args.answers})")
    for name in STYLE:
        columns = {who: np.array([float(one[name]) for one in counts[who]]) for who in counts}
        shown = [show((values.mean(), *bootstrap(values)), False) for values in columns.values()]
        holding = [f"{int((values > 0).sum())} answers" for values in columns.values()]
        print(f"  {name:12}" + "".join(f"  {who} {text:24} in {held:14}" for who, text, held in zip(columns, shown, holding, strict=True)))


if __name__ == "__main__":
    entry(main)
