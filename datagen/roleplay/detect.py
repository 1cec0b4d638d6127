"""Failures of the inquirer and the responder (arXiv 2407.03974, section 3.3 and appendix C), by rules.

Incoherence stands here twice. `repeats_strict` is what the paper's Algorithm 2 means, for rates that compare with its tables; it also fires on code, tables,
sums and refrains. `repeats` is made to be right: a loop runs to the end of the text, in words, numbered lines, sentences or characters; code and tables are
left out first. Only the second decides whether a dialogue goes on.
"""

import re
from collections import Counter

from datagen.roleplay.extract import FENCE, Found

# Where another speaker begins. The special tokens of chat models, as the paper tests for them ("[INST", also within "[INST IN]"), and names at a line's start.
TOKEN = r"\[/?INST\b[^\]\n]{0,10}\]?|<</?SYS>>|<\|(?:im_start|im_end|start_header_id|eot_id|end)\|>|<(?:start|end)_of_turn>|</s>"
OWN = r"^[ \t]*(?:#{1,4}[ \t]*)?(?:\*\*)?(?:Human|User|USER|Inquirer|Me)(?:\*\*)?:"
OTHER = r"^[ \t]*(?:#{1,4}[ \t]*)?(?:\*\*)?(?:Assistant|ASSISTANT|AI|Chatbot|Bot|Assistant response|Responder)(?:\*\*)?:"
MARKER = re.compile(f"{TOKEN}|{OWN}|{OTHER}", re.MULTILINE)
OWN_LABEL = re.compile(OWN + r"[ \t]*")
TRAILING = re.compile(r"(?:</s>|<\|(?:im_end|eot_id|end)\|>|<end_of_turn>)\s*\Z")  # an end-of-turn token that the server left in is no reply
ROLE_FLIP = re.compile(
    r"^\W*(?:(?:sure|certainly|of course|absolutely|great question)\b[!,.]|(?:sure|certainly|of course|absolutely)\W*(?:here|i)\b"
    r"|here(?:'s| is| are) (?:a|an|the|some|your|how)\b"
    r"|i(?:'d| would) be (?:happy|glad) to\b|i(?:'m| am) here to help|how (?:can|may) i (?:help|assist)|i can help you|let me (?:help|explain|walk) (?:you|how|this)"
    r"|as an ai\b|i hope (?:this|that) helps)",
    re.IGNORECASE,
)
THANKS = re.compile(
    r"\b(?:thanks?(?: you)?|thx|cheers|much appreciated|i appreciate|you(?:'re| are) (?:the best|a (?:star|life ?saver)|awesome|so (?:kind|helpful))"
    r"|have a (?:great|good|nice|lovely|wonderful)|good ?bye|bye\b|take care|see you|you(?:'re| are) (?:very |most |so )?welcome"
    r"|glad (?:i could|to (?:help|hear))|my pleasure|any ?time|good luck|happy to (?:help|have helped))",
    re.IGNORECASE,
)
REQUEST = re.compile(
    r"\?|\b(?:can|could|would|will) you\b|\bplease (?:give|tell|show|explain|make|write|add|change)|\bhow (?:do|does|can|about)\b|\btell me\b|\bexplain\b", re.IGNORECASE
)
OFFER = re.compile(r"\b(?:anything else|any(?: other| more| further)? questions|let me know|feel free|need (?:any )?(?:more|help))\b", re.IGNORECASE)
AFTERTHOUGHT, STATEMENT, ECHO = 40, 30, 8  # words after the prompt, words of a second quoted statement, words in a row that repeat what was read
SHORT = 45  # words: thanks longer than this also say something
TABLE = re.compile(r"^\s*(?:\||\+[-=+]+\+|[-|:\s]{3,}$)")
CODE_LINE = re.compile(
    r"^\s*(?:(?:>>>|\$) .*|[\w.\[\]'\"]+\([^()]*(?:\([^()]*\)[^()]*)*\)[;:]?|.*[{};]|[\w.\[\]'\"]+ *[-+*/|&]?= *\S.*|</?\w[^>]*>.*"
    r"|(?:def|class|for|while|if|elif|else|return|import|from|const|let|var|function|print|SELECT|FROM|WHERE)\b.*[:;(){}=,].*)\s*$"
)
INLINE_CODE = re.compile(r"`[^`\n]*`")
PERIOD, COPIES, LOOPED = 60, 4, 12  # words of the longest unit, copies and words from which a loop counts
LETTER = re.compile(r"[^\W\d_]")


# ---------------------------------------------------------------- incoherence


def repeats_strict(text: str, max_n: int, r: int) -> bool:
    """The paper's Algorithm 2, as its code means it, in time words x max_n. Words are what white space separates. True if and only if some word stands
    r + 2 times in a row, or some n-gram, 2 <= n <= max_n, r + 1 times back to back. r >= 2."""
    words = text.split()
    for period in range(1, max_n + 1):
        wanted, run = (r + 1) if period == 1 else period * r, 0
        for i in range(period, len(words)):
            run = run + 1 if words[i] == words[i - period] else 0
            if run >= wanted:
                return True
    return False


def prose(text: str) -> str:
    """A text without fenced and inline code, lines that look like code, and tables: what repeats there is no loop."""
    lines = FENCE.sub("\n", text).split("\n")
    return INLINE_CODE.sub(" ", "\n".join(line for line in lines if not TABLE.match(line) and not CODE_LINE.match(line)))


def tail(units: list[str] | str, longest: int) -> tuple[int, int]:
    """(period, units that repeat with it, counted from the end) of the longest loop in which a sequence ends."""
    best = (0, 0)
    for period in range(1, min(longest, len(units) // 2) + 1):
        same = 0
        while same + period < len(units) and units[-1 - same] == units[-1 - same - period]:
            same += 1
        if same >= period and same + period > best[1]:
            best = (period, same + period)
    return best


def repeats(text: str) -> bool:
    """Whether a text ends in a loop:

    - of words: 4 copies or more and 12 words or more that are half of the text, or 8 copies and 40 words; a unit has a letter in it;
    - of lines that only count up (digits read as one): 16 copies, or 8 of a unit of four words or more;
    - of sentences: one of three words or more that stands 6 times or more and makes half of the text, the last one included;
    - of characters, for scripts without spaces, laughter and emoji: 100 or more, 10 copies or more.
    """
    said = prose(text)
    words = re.findall(r"\w+(?:['’]\w+)*", said.casefold())
    period, looped = tail(words, PERIOD)
    if period and any(LETTER.search(word) for word in words[-period:]):
        copies = looped / period
        if copies >= COPIES and looped >= LOOPED and 2 * looped >= len(words):
            return True
        if copies >= 2 * COPIES and looped >= 40:
            return True
    counted = ["#" if word.isdigit() else word for word in words]
    period, looped = tail(counted, PERIOD)
    lettered = sum(bool(LETTER.search(word)) for word in counted[-period:]) if period else 0
    if lettered >= 2 and looped / period >= (2 * COPIES if lettered >= 4 else 4 * COPIES):
        return True
    sentences = [" ".join(re.findall(r"\w+", part)) for part in re.split(r"[.!?\n]+", re.sub(r"\d+", "#", said.casefold()))]
    sentences = [part for part in sentences if LETTER.search(part)]
    if sentences:
        times = Counter(sentences)[sentences[-1]]
        size = len(sentences[-1].split())
        if times >= 6 and size >= 3 and 2 * times * size >= sum(len(part.split()) for part in sentences):
            return True
    dense = re.sub(r"\s+", "", said)
    period, looped = tail(dense[-2000:], 30)
    return bool(period) and looped >= 100 and looped / period >= 10 and any(LETTER.match(c) or ord(c) > 0x2190 for c in dense[-period:])


# ---------------------------------------------------------------- self-reply


def cut_at_marker(text: str) -> tuple[str, bool]:
    """(text before another speaker begins, whether one does). A label of the inquirer itself at the very start is only taken off; a text that opens
    with another marker leaves nothing."""
    bare = TRAILING.sub("", text)
    label = OWN_LABEL.match(bare)
    rest = bare[label.end() :] if label else bare
    if hit := MARKER.search(rest):
        return rest[: hit.start()].strip(), True
    return rest.strip(), bool(label)


def structural(text: str, found: Found) -> bool:
    """Whether the inquirer seems to go on as the chatbot: more than 40 words after its prompt, or a second quoted text, no question, of more than 30."""
    if not found.spans:
        return False
    second = found.spans[1:]
    after = text[found.spans[-1].end :]
    return len(after.split()) > AFTERTHOUGHT or any("?" not in span.text and len(span.text.split()) > STATEMENT for span in second)


def echo(prompt: str, read: list[str]) -> bool:
    """Whether eight words of the prompt in a row stand in what the inquirer read: its instruction, or the last answer."""
    words = spaced(prompt).split()
    grams = [f" {' '.join(words[i : i + ECHO])} " for i in range(len(words) - ECHO + 1)]
    return any(gram in other for other in (map(spaced, read) if grams else ()) for gram in grams)


def spaced(text: str) -> str:
    """The words of a text, with one space around each."""
    return " " + " ".join(re.findall(r"\w+", text.casefold())) + " "


def role_flip(prompt: str) -> bool:
    """Whether the prompt offers help instead of asking for it."""
    return bool(ROLE_FLIP.search(prompt.replace("’", "'")))


# ---------------------------------------------------------------- endings


def appreciation(text: str) -> bool:
    """Whether an utterance only thanks, wishes well or says goodbye. "Is there anything else?" asks nothing here."""
    if len(text) > 20 * SHORT:
        return False
    text = " ".join(part for part in re.split(r"(?<=[.!?\n])", text.replace("’", "'")) if not OFFER.search(part))
    return bool(THANKS.search(text)) and not REQUEST.search(text) and len(text.split()) <= SHORT


def stop_failure(prompt: str) -> bool:
    """Whether a prompt ends the talk in words but without the stop word: the paper's "dialogue-stopping criterion failure", for which it gives no rule."""
    return appreciation(prompt)


def appreciation_loop(exchanges: list[tuple[str, str]], turns: int) -> bool:
    """Whether in the last `turns` turns both sides only thanked each other."""
    return len(exchanges) >= turns and all(appreciation(prompt) and appreciation(response) for prompt, response in exchanges[-turns:])
