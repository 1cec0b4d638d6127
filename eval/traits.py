"""The surface traits: what can be counted in how somebody writes, without a judge, each under a permanent id.

    python -m eval.traits                                    # the list, with definitions
    python -m eval.traits data/tiny/pairs.jsonl              # which of them tell the two sides of a contrastive set apart

A text is what one speaker said: the turns of W in a dialogue, or one reply. Where a trait speaks of turns, a reply has one; traits that compare the turns
with each other (`across`) are missing there, and missing stays missing. Nothing is fitted here: signs and weights come from `eval.likeness`, because
many signs that people expect are wrong (a persona prompt makes a model type more slang than people do).

The choice of traits follows what HAL's statements describe (arXiv 2601.02813, Table 1: brevity, case, slang, emoji, punctuation, follow-up questions,
hedges) as far as it can be counted, and what varies within one person: length, case and punctuation from turn to turn.
"""

import argparse
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from datagen.emojis import EMOJI
from datagen.files import UserError, canonical, entry, sha256
from datagen.traits.contrast import Pair, read, turns
from eval.surface import AI, MARKDOWN, plain

WORD = re.compile(r"[^\W_]+(?:['&][^\W_]+)*")
SENTENCE = re.compile(r"[.!?…]+[\"')\]]*\s+|\n+")
ENDS = {".": "stop", "!": "exclamation", "?": "question"}
ASKS_BACK = re.compile(r"\b(you|u|ya|yours|urs|yourself|wbu|hbu|wby)\W*$")
ELONGATED = re.compile(r"([a-z])\1\1")
SMILEY = re.compile(r"(?<!\w)(?:[:;=]'?-?[()DPpoO3/|*](?!\w)|<3)")
LAUGHS = re.compile(r"lo+l+|lmf?ao+|rofl|a?(?:ha){2,}h?|haha\w*|he(?:he)+h?|heh")
DIGIT = re.compile(r"\d")
STARRED = re.compile(r"(?:^|\s)\*\w+[^*\w]*$|\w\*(?:$|\s)")
CORRECTIONS = ("i mean", "or rather", "no wait", "wait no", "oops", "my bad", "scratch that", "typo", "i meant")
MACHINES = re.compile(r"\b(ai|bots?|robots?|chat ?gpt|gpt|language model|computer|human|humans|real person|turing)\b")
LONE_AI = re.compile(r"\bai\b")
NEEDED = ("assistant", "language model", "artificial", "digital", "machine", "program", "bot", "don't have", "do not have", "possess")

NAMED = ("bot", "gpt", "language model", "computer", "human", "real person", "turing")  # the same for `MACHINES`


def listed(words: str) -> frozenset[str]:
    return frozenset(words.split())


BARE = listed(
    "im ive id ill dont doesnt didnt cant couldnt wont wouldnt shouldnt isnt arent wasnt werent havent hasnt hadnt aint thats whats hows whos theres heres"
    " youre youve hes shes theyre theyve weve lets"
)
SHORTHAND = listed(
    "u ur r n y k ok kk ya yea yeah yep yup nah nope idk idc ngl fr rn tbh wbu hbu ig prob probs probly atm btw omg bc cuz cause coz tho thru pls plz thx"
    " ty np ppl smth sth gonna wanna gotta tryna kinda sorta dunno lemme gimme lowkey lowk highkey imo imho bruh bro dude man af wyd wym dm sup yo hey hbd"
    " irl jk nvm obv def defo vibes vibin chill chillin dope lit mid sus goated valid cringe hella legit meh ugh aight yall ima finna ez gg lmk sry rip vs"
    " w/"
)
HEDGES = listed("maybe probably perhaps guess think might kinda possibly somewhat apparently seems suppose unsure idk dunno ish")
FILLERS = listed("just like really actually literally honestly basically pretty so well totally super quite")
FIRST = listed("i im ive id ill i'm i've i'd i'll me my mine myself")
SECOND = listed("you u ya ur your yours you're you've you'd you'll youre youve urself yourself")
SHARED = listed("we us our ours we're we've we'd we'll lets let's")
ARTICLES = listed("the a an")
JOINS = listed("but because cuz bc though tho since unless although while so and then")
ANSWERS = listed("yes yeah yea yep yup yah ya no nope nah sure ok okay true right exactly definitely same")
REACTIONS = listed("oh ah aw aww wow haha hmm hm ooh well hey hi hello um uh ugh damn dang lol lmao nice cool")
COURTESY = listed("thanks thank thx ty please pls plz sorry welcome appreciate")
FORMAL = listed(
    "individual individuals generally typically furthermore moreover additionally regarding considerably numerous various therefore nevertheless however"
    " consequently thus inquiry inquiries greetings assistance advisable beneficial essential crucial significant significantly particularly enhance ensure"
    " facilitate provide provides utilize optimal overall respectively aforementioned subsequently"
)
COMMON = listed(
    "the be to of and a in that have i it for not on with he as you do at this but his by from they we say her she or an will my one all would there their"
    " what so up out if about who get which go me when make can like time no just him know take people into year your good some could them see other than"
    " then now look only come its over think also back after use two how our work first well way even new want because any these give day most us is are was"
    " were been has had did am it's i'm don't"
)


class Counted:
    """What one speaker said, taken apart once for all traits.

    `spoken`: the turns, at least one. `heard`: for each turn what the other said before it, or None where nothing was; None as a whole: not known.
    """

    def __init__(self, spoken: list[str], heard: list[str | None] | None = None):
        self.spoken = [plain(turn).strip() for turn in spoken]
        self.lower = [turn.lower() for turn in self.spoken]
        self.cased = [word for turn in self.spoken for word in WORD.findall(turn)]
        self.words = [WORD.findall(turn) for turn in self.lower]
        self.every = [word for turn in self.words for word in turn]
        self.counts = [len(turn) for turn in self.words]
        self.turns, self.total, self.heard = len(self.spoken), len(self.every), heard
        self.per_100 = 100 / max(1, self.total)
        self.whole = "\n".join(self.spoken)
        self.mean = self.total / self.turns
        self.spread = deviation(self.counts, self.mean)
        self.sentences = [n for turn in self.spoken for part in SENTENCE.split(turn) if (n := len(part.split()))] or [0]
        self.sentence_mean = sum(self.sentences) / len(self.sentences)
        self.capitals = self.share(turn[:1].isupper() for turn in self.spoken)
        self.ends = dict.fromkeys((*ENDS.values(), "bare", "other"), 0.0)
        for turn in self.spoken:
            last = turn.rstrip("\"')]*")[-1:]
            self.ends[ENDS.get(last) or ("bare" if last.isalnum() else "other")] += 1 / self.turns

    def share(self, hits: Iterable[object]) -> float:
        return sum(map(bool, hits)) / self.turns

    def rate(self, listed: frozenset[str]) -> float:
        return self.per_100 * sum(map(listed.__contains__, self.every))

    def echo(self) -> float:
        pairs = [(set(turn), set(WORD.findall(plain(other).lower()))) for turn, other in zip(self.words, self.heard, strict=True) if turn and other]
        return sum(len(own & others) / len(own) for own, others in pairs) / len(pairs) if pairs else math.nan


def deviation(counts: list[int], mean: float) -> float:
    return math.sqrt(sum((n - mean) ** 2 for n in counts) / len(counts))


def entropy(shares: Iterable[float]) -> float:
    return -sum(p * math.log2(p) for p in shares if p)


def corrects(turn: str) -> bool:
    return any(phrase in turn for phrase in CORRECTIONS) or ("*" in turn and bool(STARRED.search(turn)))


def shouts(words: list[str]) -> int:
    return sum(len(word) > 2 and word != "NAME" for word in words if word.isupper())  # <NAME> stands for what was taken out


def as_ai(turn: str) -> bool:
    """Whether a turn in lower case speaks of itself as an AI. Nearly all turns lack every word that `AI` needs, and are done sooner."""
    return bool((any(map(turn.__contains__, NEEDED)) or LONE_AI.search(turn)) and AI.search(turn))


def of_machines(turn: str) -> bool:
    return bool((any(map(turn.__contains__, NAMED)) or LONE_AI.search(turn)) and MACHINES.search(turn))


def pictured(turn: str) -> bool:
    return bool(any(map(turn.__contains__, ":;=<")) and SMILEY.search(turn)) or (not turn.isascii() and bool(EMOJI.search(turn)))


@dataclass(frozen=True)
class Trait:
    id: str  # permanent: weights and reports are keyed by it
    definition: str
    of: Callable[[Counted], float]
    across: bool = False  # compares turns with each other: missing where there is one turn
    context: bool = False  # compares with what the other one said: missing where that is not known


TRAITS = [
    Trait("turn-words", "mean words a turn, as log(1 + x)", lambda t: math.log1p(t.mean)),
    Trait("turn-longest", "words of the longest turn, as log(1 + x)", lambda t: math.log1p(max(t.counts)), across=True),
    Trait("turn-shortest", "words of the shortest turn, as log(1 + x)", lambda t: math.log1p(min(t.counts)), across=True),
    Trait("turn-spread", "standard deviation of words a turn, as log(1 + x)", lambda t: math.log1p(t.spread), across=True),
    Trait("turn-unevenness", "standard deviation of words a turn over their mean", lambda t: t.spread / max(1.0, t.mean), across=True),
    Trait("one-word-turns", "share of turns of at most one word", lambda t: t.share(n <= 1 for n in t.counts), across=True),
    Trait("short-turns", "share of turns of at most three words", lambda t: t.share(n <= 3 for n in t.counts), across=True),
    Trait("sentence-words", "mean words a sentence, as log(1 + x)", lambda t: math.log1p(t.sentence_mean)),
    Trait("sentence-spread", "standard deviation of words a sentence, as log(1 + x)", lambda t: math.log1p(deviation(t.sentences, t.sentence_mean))),
    Trait("turn-sentences", "mean sentences a turn, as log(x)", lambda t: math.log(max(1.0, len(t.sentences) / t.turns))),
    Trait("all-lowercase", "share of turns with letters and no capital", lambda t: t.share(map(str.islower, t.spoken))),
    Trait("capital-start", "share of turns that begin with a capital", lambda t: t.capitals),
    Trait("case-mixed", "how evenly turns that begin with a capital and others are mixed: 4 p (1 - p)", lambda t: 4 * t.capitals * (1 - t.capitals), across=True),
    Trait("small-i", 'the word "i" in lower case, per 100 words', lambda t: t.per_100 * t.cased.count("i")),
    Trait("shouts", "words of three and more letters all in capitals, per 100 words", lambda t: t.per_100 * shouts(t.cased)),
    Trait("ends-stop", "share of turns that end with a full stop", lambda t: t.ends["stop"]),
    Trait("ends-exclamation", "share of turns that end with an exclamation mark", lambda t: t.ends["exclamation"]),
    Trait("ends-question", "share of turns that end with a question mark", lambda t: t.ends["question"]),
    Trait("ends-bare", "share of turns that end with a letter or digit", lambda t: t.ends["bare"]),
    Trait(
        "ends-mixed",
        "entropy of how turns end (stop, exclamation, question, bare, other), in bits",
        lambda t: -sum(p * math.log2(p) for p in t.ends.values() if p),
        across=True,
    ),
    Trait("asks", "share of turns with a question mark", lambda t: t.share("?" in turn for turn in t.spoken)),
    Trait("asks-back", "share of turns whose last word turns to the other: you, u, wbu, …", lambda t: t.share(ASKS_BACK.search(turn[-24:]) for turn in t.lower)),
    Trait("commas", "commas per 100 words", lambda t: t.per_100 * t.whole.count(",")),
    Trait("exclamations", "exclamation marks per 100 words", lambda t: t.per_100 * t.whole.count("!")),
    Trait("ellipses", "share of turns with two or more stops in a row, or …", lambda t: t.share(".." in turn or "…" in turn for turn in t.spoken)),
    Trait("dashes", "share of turns with a dash: —, –, or a hyphen between spaces", lambda t: t.share("—" in turn or "–" in turn or " - " in turn for turn in t.spoken)),
    Trait("apostrophes", "apostrophes per 100 words", lambda t: t.per_100 * t.whole.count("'")),
    Trait("bare-contractions", "contractions without their apostrophe (dont, im, thats), per 100 words", lambda t: t.rate(BARE)),
    Trait("shorthand", "abbreviations and words of chats (u, idk, gonna, yeah), per 100 words", lambda t: t.rate(SHORTHAND)),
    Trait(
        "laughs",
        "share of turns with a written laugh (lol, haha)",
        lambda t: t.share(any(word[0] in "lrah" and LAUGHS.fullmatch(word) for word in set(turn)) for turn in t.words),
    ),
    Trait("elongations", "share of turns with a letter three times in a row (sooo)", lambda t: t.share(map(ELONGATED.search, t.lower))),
    Trait("pictures", "share of turns with an emoji or a smiley", lambda t: t.share(map(pictured, t.spoken))),
    Trait("markdown", "share of turns with a list, bold text or a heading", lambda t: t.share(map(MARKDOWN.search, t.spoken))),
    Trait("digits", "share of turns with a digit", lambda t: t.share(map(DIGIT.search, t.spoken))),
    Trait("corrects-itself", "share of turns that correct what was just written (*word, i mean, oops)", lambda t: t.share(map(corrects, t.lower))),
    Trait("hedges", "maybe, guess, think, might, …, per 100 words", lambda t: t.rate(HEDGES)),
    Trait("fillers", "just, like, really, actually, …, per 100 words", lambda t: t.rate(FILLERS)),
    Trait("first-person", "i, me, my, …, per 100 words", lambda t: t.rate(FIRST)),
    Trait("second-person", "you, your, u, …, per 100 words", lambda t: t.rate(SECOND)),
    Trait("shared-person", "we, us, our, …, per 100 words", lambda t: t.rate(SHARED)),
    Trait("articles", "the, a, an, per 100 words", lambda t: t.rate(ARTICLES)),
    Trait("joins", "but, because, so, and, then, …, per 100 words", lambda t: t.rate(JOINS)),
    Trait("common-words", "words among the commonest hundred or so of English, per 100 words", lambda t: t.rate(COMMON)),
    Trait("word-length", "mean letters a word", lambda t: sum(map(len, t.every)) / max(1, t.total)),
    Trait("long-words", "words of eight and more letters, per 100 words", lambda t: t.per_100 * sum(len(word) >= 8 for word in t.every)),
    Trait("variety", "different words over the square root of all words (Guiraud 1954)", lambda t: len(set(t.every)) / math.sqrt(max(1, t.total))),
    Trait("repeats-itself", "share of turns that stood before, word for word", lambda t: 1 - len(set(t.lower)) / t.turns, across=True),
    Trait("opens-with-answer", "share of turns that open with yes, no, sure, same, …", lambda t: t.share(turn and turn[0] in ANSWERS for turn in t.words)),
    Trait("opens-with-reaction", "share of turns that open with oh, haha, wow, hmm, hi, …", lambda t: t.share(turn and turn[0] in REACTIONS for turn in t.words)),
    Trait("courtesy", "thanks, please, sorry, …, per 100 words", lambda t: t.rate(COURTESY)),
    Trait("formal", "words of office letters (furthermore, individuals, regarding), per 100 words", lambda t: t.rate(FORMAL)),
    Trait(
        "speaks-as-ai",
        "share of turns in which it speaks of itself as an AI",
        lambda t: t.share(map(as_ai, t.lower)),
    ),
    Trait("talks-of-machines", "share of turns that mention AIs, bots, or being human", lambda t: t.share(map(of_machines, t.lower))),
    Trait("echo", "share of the words of a turn that the other's last message held", Counted.echo, context=True),
]
BY_ID = {trait.id: trait for trait in TRAITS}
IDS = tuple(BY_ID)
LENGTH = frozenset(["turn-words", "turn-longest", "turn-shortest", "turn-spread"])  # "length alone"; what else moves a score is "the rest"


def values(counted: Counted) -> list[float]:
    """The traits of one text in the order of IDS; NaN where one is not defined there."""
    one, deaf = counted.turns == 1, counted.heard is None
    return [math.nan if (one and trait.across) or (deaf and trait.context) else trait.of(counted) for trait in TRAITS]


def counted(kind: str, text: str, context: str | None) -> Counted:
    """A reply (one turn, its prompt as context), or W's side of a dialogue. Raises UserError where nothing is said."""
    if kind == "reply":
        return Counted([text], None if context is None else [context])
    spoken, heard, last = [], [], None
    for who, turn in turns(text):
        if who == "W":
            spoken.append(turn)
            heard.append(last)
        else:
            last = turn
    if not spoken:
        raise UserError(f'no line of the one to be judged ("W: …") in {text[:60]!r}')
    return Counted(spoken, heard)


def matrix(pairs: list[Pair], side: str) -> np.ndarray:
    """[pairs, traits] of one side, human or other."""
    return np.array([values(counted(pair.kind, getattr(pair, side), pair.context)) for pair in pairs], dtype=float).reshape(len(pairs), len(TRAITS))


PROBES = (
    ("reply", "As an AI language model, I do not typically possess feelings. 1. **Furthermore**, sorry — is that OK for you?", "Do you possess feelings, or not"),
    ("reply", "haha sooo *good... i MEAN maybe we dont know tho 😀 but the weather's like 20! yesterday, honestly. thanks u", None),
    ("dialogue", "I: hi there\nW: Hi there\nI: are you a bot\nW: no\nW: no\nW: Sure.\nI: sure?\nW: im human lol, and you? Extraordinarily!", None),
)


def fingerprint() -> str:
    """Changes with the list of traits, with a definition, and with what the code makes of three texts: weights fitted before it are refused."""
    found = [[None if math.isnan(value) else round(value, 9) for value in values(counted(*probe))] for probe in PROBES]
    return sha256(canonical([[[trait.id, trait.definition] for trait in TRAITS], found]))[:16]


def separation(human: np.ndarray, other: np.ndarray) -> float:
    """How well one trait tells the sides apart: the share of all cross pairs in which the human-like text has more of it (AUC, ties by half)."""
    human, other = human[~np.isnan(human)], other[~np.isnan(other)]
    if not len(human) or not len(other):
        return math.nan
    ranks = rankdata(np.r_[human, other])
    return float((ranks[: len(human)].sum() - len(human) * (len(human) + 1) / 2) / (len(human) * len(other)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", nargs="?", help="a contrastive set; without one, the traits are listed")
    args = parser.parse_args()
    if args.pairs is None:
        for trait in TRAITS:
            print(f"{trait.id:20} {trait.definition}{' (several turns)' * trait.across}{' (needs the context)' * trait.context}")
        return
    pairs = read(args.pairs)
    human, other = matrix(pairs, "human"), matrix(pairs, "other")
    print(f"{len(pairs):,} pairs of {args.pairs}; AUC: the share of cross pairs in which the human-like side has more of it")
    rows = [(separation(human[:, i], other[:, i]), trait) for i, trait in enumerate(TRAITS)]
    for auc, trait in sorted((row for row in rows if not math.isnan(row[0])), key=lambda row: -abs(row[0] - 0.5)):
        i = IDS.index(trait.id)
        print(f"{trait.id:20} {auc:.3f}   {np.nanmean(human[:, i]):8.2f} against {np.nanmean(other[:, i]):8.2f}   {trait.definition}")


if __name__ == "__main__":
    entry(main)
