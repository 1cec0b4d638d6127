"""Takes the emoji out of a text with nothing left to show that they were there.

    from datagen.emojis import blank, found, remove      # `python -m eval.plain out/tiny/answers.jsonl` shows what that does to the answers of a run

An emoji is what is built of the signs that the package `emoji` lists (Unicode Technical Standard 51 and its `emoji-test.txt`), and a pictograph too new for
that list. KEEP names the exceptions: signs of the Basic Multilingual Plane that are text by default, such as © ™ ↔ ♥ ✔, when no U+FE0F asks for the
picture. Smileys made of letters and punctuation, such as :) and <3, stay as well, and so do digits, the joiners U+200C and U+200D of Indic and Persian
words, and every other script.

Removal alone gives an emoji away by what it leaves: `Hi !`, two spaces, `** Hot**`, a bullet or a heading without text. `remove` tidies these,
where an emoji stood and nowhere else: a text without emoji comes back as it was.
"""

import re

import emoji

# Scripts that put no spaces between words.
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
KEEP = frozenset(one for one, data in emoji.EMOJI_DATA.items() if len(one) == 1 and data["status"] == emoji.STATUS["unqualified"] and one < "\U00010000")
NEW = "\U0001f300-\U0001f64f\U0001f680-\U0001f6ff\U0001f900-\U0001faff\U0001f1e6-\U0001f1ff"  # pictographs that the list may lack, and halves of flags
NO_SIGN = re.compile(f"[\\x00-\u00a0\u200d\u20e3\ufe0f\U000e0020-\U000e007f{NEW}]")
SIGNS = "".join(sorted({one for whole in emoji.EMOJI_DATA for one in whole if not NO_SIGN.match(one)}))  # the listed ones that NEW does not hold
HANGS = "\ufe0e\ufe0f\u20e3\U0001f3fb-\U0001f3ff\U000e0020-\U000e007f"  # on an emoji: how it is drawn, keycap, skin tone, tags of a flag
FLAG = "[\U0001f1e6-\U0001f1ff]"
# One set of first characters, then what has to follow: the regular expression then passes over other text ten times as fast as with alternatives.
ONE = rf"[{SIGNS}{NEW}0-9#*](?:(?<=[0-9#*])\ufe0f?\u20e3|(?<={FLAG}){FLAG}|(?<![0-9#*]))[{HANGS}]*"
# One emoji as a reader sees it, well formed or not. `emoji.replace_emoji` leaves the heart of "\u2764\ufe0f\u200d\u2642\ufe0f", which stands in published data.
EMOJI = re.compile(rf"{ONE}(?:\u200d+{ONE})*\u200d*")
STRAY = re.compile("[\ufe0f\u20e3\U000e0020-\U000e007f]")  # what hangs, without an emoji: invisible, or a mark on nothing
SPARE = [chr(code) for code in range(0xFDD0, 0xFDF0)]  # noncharacters: no text should hold one

SPACE = r"[ \t\u00a0\u202f]"
BARE = re.compile(r"(?:[-*+•>#]|\d{1,3}[.)])*[.,;:!?…]*")  # what is left, spaces aside, of a line that was nothing but emoji: its marker and marks
MARKERS = ("**", "__", "~~", "*", "_", "`", '"')  # open and close alike: whether one opens is told by how many stand before it on the line
OPENS, CLOSES = "([{“‘«¿¡（「『【", ")]}”’»%，。！？、；：）」』】"
EMOTICON = re.compile(r"[:;]['’]?-?[()\[\]/\\|*<>]|[:;]-?[DPpOo3](?!\w)")
WRAPPED = r"(?P<marker>\*\*|__|~~|\*|_|`|\"){run}(?P=marker)|\({run}\)|\[{run}\](?!\()|“{run}”|‘{run}’|«{run}»|（{run}）|「{run}」"


def found(text: str) -> list[str]:
    """The emoji of a text as a reader sees them, in order: those that `remove` would take out."""
    return [] if text.isascii() else [one for one in EMOJI.findall(text) if taken(one)]


def blank(text: str, instead: str = "") -> str:
    """The text with `instead` for each emoji, and nothing tidied: for what reads a text, not for people."""
    return text if text.isascii() else STRAY.sub("", EMOJI.sub(lambda one: instead if taken(one[0]) else one[0], text))


def taken(one: str) -> bool:
    """Whether a match of EMOJI is one, and not a sign that is text by default."""
    return one.rstrip("\u200d\ufe0e") not in KEEP


def count(text: str) -> int:
    """How many emoji `remove` takes out. It may be more than are `found` at first: what was parted by an emoji can make up another."""
    return remove(text)[1]


def remove(text: str) -> tuple[str, int]:
    """(the text without its emoji, how many there were). What it returns, it would return unchanged."""
    removed = 0
    while not text.isascii():  # what was parted by an emoji can make up another: 🇫, 😀 and 🇷
        place = next(spare for spare in SPARE if spare not in text)
        marked = STRAY.sub("", EMOJI.sub(lambda one, place=place: place if taken(one[0]) else one[0], text))
        if marked == text:
            break
        removed += marked.count(place)
        marked = re.sub(f"\u200d+{place}", place, marked)  # joined to what is no emoji
        text = tidy(marked, place) if place in marked else marked
    return text, removed


# ---------------------------------------------------------------- what removal leaves


def tidy(text: str, place: str) -> str:
    """The text without its `place`s, each a character where an emoji stood."""
    text = without_bare_lines(unwrap(text, place), place)
    run = re.compile(rf"(?<!{SPACE})(?P<before>{SPACE}*){place}(?:{SPACE}*{place})*(?P<after>{SPACE}*)(?P<marks>[.,;:!?…]*)(?P<late>{SPACE}*)")
    while place in text:  # the spaces after one's punctuation may be those before the next
        text = run.sub(gap, text)
    return text


def unwrap(text: str, place: str) -> str:
    """Bold, quotes and brackets around nothing but emoji go with them."""
    wrapped = re.compile(WRAPPED.replace("{run}", rf"{place}(?:{SPACE}*{place})*"))

    def alone(match: re.Match) -> str:
        marker = match["marker"]
        closes = marker and opened(line_before(match.string, match.start()), marker)
        return match[0] if closes else place  # **one** 😀 **two**: what stands before the emoji closes

    for _ in range(4):  # no answer nests them deeper
        text = wrapped.sub(alone, text)
    return text


def without_bare_lines(text: str, place: str) -> str:
    """Lines that held nothing but emoji go, and with them one of the two blank lines that would then follow each other."""
    lines, kept, skip = text.split("\n"), [], False
    for line in lines:
        if place in line and BARE.fullmatch(re.sub(r"\s", "", line.replace(place, ""))):
            skip = not kept or not kept[-1].strip()
        elif not (skip and not line.strip()):
            kept.append(line)
            skip = False
    if skip or (place in lines[-1] and len(kept) < len(lines)):
        while kept and not kept[-1].strip():
            kept.pop()
    return "\n".join(kept)


def gap(match: re.Match) -> str:
    """What takes the place of emoji, the spaces around them and the punctuation after them."""
    text, before, after, marks, late = match.string, match["before"], match["after"], match["marks"], match["late"]
    line, rest = line_before(text, match.start()), text[match.end() :]
    starts = not line.strip()
    last, following = line[-1:], rest[:1]
    opener = last in OPENS or any(line.endswith(marker) and opened(line + before, marker) for marker in MARKERS)
    if marks and (EMOTICON.match(text, match.start("marks")) or (after and not late and following.isalnum())):  # :) and .NET are words
        return (before if starts else " " if (before or after) and not opener else "") + marks + late
    if marks:
        if starts or opener:
            return before if starts else ""
        return ("" if marks in (".", ",") and last in ".,;:!?…" else marks) + ("" if following in ("", "\n", "\r") else late)
    if following in ("", "\n", "\r"):
        return ""
    if starts:
        return before
    if opener or following in CLOSES or any(rest.startswith(marker) and opened(line + before, marker) for marker in MARKERS):
        return ""
    if before or after:
        return " "
    apart = word(last) or last in '.,;:!?…)]*_"”'
    return " " if apart and (word(following) or following in '([*_"“') else ""


def line_before(text: str, position: int) -> str:
    return text[text.rfind("\n", 0, position) + 1 : position]


def opened(line: str, marker: str) -> bool:
    """Whether what stands on the line so far has opened `marker` and not closed it."""
    line = re.sub(r"^\s*[*]\s", "", line)
    if len(marker) == 1:
        line = line.replace(2 * marker, "")
    return line.count(marker) % 2 == 1


def word(character: str) -> bool:
    """Whether it is part of a word that a space sets apart from the next."""
    return character.isalnum() and not re.match(f"[{UNSPACED}]", character)
