"""What a speaker has claimed about themselves, by rules, and whether a new answer contradicts it.

    python -m datagen.roleplay.facts "I have a dog. My name is Sam." "Sadly I've never had a dog."     # the facts of both, and where they clash

A fact is a slot with one value: a name, an age, a home, a trade, a favourite of a kind, whether there is a dog or a sister, whether something is liked.
Two values of one slot are a contradiction. The rules read English and are made to be right where they speak: most of what people say of themselves has
no slot here, and a contradiction between unlike sentences ("I live alone", "my wife says") is not found. A judge model may be asked for those.
"""

import argparse
import re

from datagen.files import entry
from eval.surface import plain

KIN = r"sister|brother|mother|father|mom|dad|wife|husband|son|daughter|grandma|grandpa|niece|nephew|cousin|aunt|uncle|kids|children"
PETS = r"dog|cat|puppy|kitten|hamster|parrot|horse|goldfish"
OWNED = rf"{KIN}|{PETS}|car|bike|garden|balcony|guitar|piano"
NUMBER = r"(?P<value>[1-9]\d)"
PLACE = r"(?P<value>[A-Z][\w'-]+(?: [A-Z][\w'-]+)*)"
TRADE = r"(?P<value>(?:[a-z]+ )?[a-z]*(?:er|or|ist|ian|nurse|chef|cook|clerk|mechanic|artist|scientist|student|pilot|judge|vet))"
# (slot, rule). `kind` in a rule makes a slot for each kind, such as the favourite food.
STATED = [
    ("name", re.compile(r"\b(?:my name is|my name's|i'm called|call me) (?P<value>[A-Z]\w+)", re.IGNORECASE)),
    ("age", re.compile(rf"\b(?:i'm|i am|i just turned|i turned) {NUMBER}(?= years| now|[.,!?;]|$)", re.IGNORECASE)),
    ("home", re.compile(rf"\b(?:[Ii] live in|[Ii]'m living in|[Ii]'m based in) {PLACE}")),
    ("origin", re.compile(rf"\b(?:[Ii] grew up in|[Ii] was born in|[Ii]'m from|[Ii] come from) {PLACE}")),
    ("trade", re.compile(rf"\b(?:I work as|I'm working as|I make my living as) an? {TRADE}\b")),
    ("favourite", re.compile(r"\b(?:my (?:all-time )?favou?rite (?P<kind>[a-z]+) is) (?:an? |the )?(?P<value>[\w'-]+)", re.IGNORECASE)),
]
HAS_NOT = re.compile(
    rf"\bi(?:'ve never (?:had|owned)| have never (?:had|owned)| never had| don't have| do not have| have no|'ve got no) (?:an? |any )?(?P<kind>{OWNED})\b", re.IGNORECASE
)
HAS = re.compile(rf"\b(?:i(?: have|'ve got| own| adopted| got) (?:an? |one |two |three )(?:[a-z]+ )?(?P<kind>{OWNED})|my (?P<mine>{KIN}|{PETS}))\b", re.IGNORECASE)
LIKES = re.compile(r"\bi (?:really |absolutely |just )?(?:love|like|enjoy|adore) (?P<kind>[a-z]+)\b(?! (?:to|that|this|how|when|it)\b)", re.IGNORECASE)
LIKES_NOT = re.compile(r"\bi (?:really |absolutely )?(?:hate|dislike|can't stand|don't like|do not like|don't enjoy|loathe) (?P<kind>[a-z]+)\b", re.IGNORECASE)
NO_THING = {
    "to",
    "that",
    "this",
    "it",
    "you",
    "the",
    "a",
    "an",
    "my",
    "your",
    "how",
    "when",
    "what",
    "being",
    "having",
    "them",
    "those",
    "these",
    "some",
    "all",
    "watching",
}
SENTENCE = re.compile(r"[^.!?\n]+[.!?]*")
HEDGED = re.compile(r"\b(?:if i|imagine|pretend|wish|would|might|maybe|someday|one day|dream of)\b", re.IGNORECASE)


def facts(text: str) -> dict[str, tuple[str, str]]:
    """{slot: (value, the sentence that says so)}. Questions, wishes and what-ifs state nothing; the first value of a slot counts."""
    found: dict[str, tuple[str, str]] = {}
    for sentence in SENTENCE.findall(plain(text)):
        if sentence.rstrip().endswith("?") or HEDGED.search(sentence):
            continue
        said = sentence.strip()
        for slot, rule in STATED:
            for match in rule.finditer(sentence):
                kind = match.groupdict().get("kind")
                found.setdefault(f"{slot} {kind.casefold()}" if kind else slot, (match["value"].casefold(), said))
        for match in HAS_NOT.finditer(sentence):
            found.setdefault(f"has {match['kind'].casefold()}", ("no", said))
        for match in HAS.finditer(HAS_NOT.sub(" ", sentence)):
            found.setdefault(f"has {(match['kind'] or match['mine']).casefold()}", ("yes", said))
        for rule, value in ((LIKES_NOT, "no"), (LIKES, "yes")):
            for match in rule.finditer(sentence):
                if match["kind"].casefold() not in NO_THING:
                    found.setdefault(f"likes {match['kind'].casefold()}", (value, said))
    return found


def contradictions(known: dict[str, tuple[str, str]], text: str) -> list[str]:
    """The slots in which a text says otherwise than what is known."""
    return sorted(slot for slot, (value, _) in facts(text).items() if slot in known and known[slot][0] != value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first")
    parser.add_argument("second")
    args = parser.parse_args()
    for text in (args.first, args.second):
        print("; ".join(f"{slot}: {value}" for slot, (value, _) in facts(text).items()) or "no facts")
    print(f"contradictions: {', '.join(contradictions(facts(args.first), args.second)) or 'none'}")


if __name__ == "__main__":
    entry(main)
