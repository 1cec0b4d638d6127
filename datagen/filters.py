"""Why a pair of answers cannot be trained on. Each reason is one function of the question and its two replies, set under `filters:`.

Thresholds were chosen on 972 published pairs whose columns are sound: none of them is too similar (at most 0.29), in a wrong language or
refused, and one in a thousand differs by more than 4 in length.
"""

import functools
import re
from collections.abc import Iterable
from itertools import pairwise

from datagen.config import Filters
from datagen.store import Reply
from eval.surface import AI, plain

# How models decline. Only the opening counts: "I can't stand olives" in the third sentence is a friend talking.
REFUSAL = re.compile(
    r"^\W*((i'?m |i am )?(very |so )?sorry|i apologi[sz]e|unfortunately)?\W*(but )?"
    r"i (can'?t|can ?not|am unable to|'?m unable to|am not able to|won'?t|will not)"
    r" (help|assist|answer|provide|respond|comply|discuss|fulfil|continue|engage|create|generate)",
    re.IGNORECASE,
)
# What only a chat template, or a model's own thinking, writes.
TAG = re.compile(r"<\|[a-z_]+\|>|\[/?INST\]|<</?SYS>>|<(start|end)_of_turn>|^#{2,3} ?(Instruction|Response|Human|Assistant):", re.MULTILINE)
STOP = frozenset(
    """
    a about after again all also always am an and any are as at back be because been before being best between both but by can could day did do does doing
    done don down each even ever every few find first for from get go going good got great had has have having he her here him his how i if in into is it
    its just keep kind know let like little ll look lot make many may me might more most much must my never new no not now of off often on once one only
    or other our out over own people person really right s said same say see she should so some something sometimes still such sure t take tell than that
    the their them then there these they thing things think this those through time to together too try two up us use used using ve very want was way we
    well were what when where which while who why will with without work would yeah yes yet you your yours re d m
    """.split()  # noqa: SIM905 (read as text)
)
SUFFIX = re.compile(r"(?:ingly|edly|ations?|ments?|ings?|ers?|ies|ied|est|ed|es|ly|s|e|y)$")


def stems(text: str) -> frozenset[str]:
    """Content words of a text without their endings, crudely: `hiking` and `hikes` meet. Scripts without spaces give pairs of characters."""
    words = re.findall(r"[^\W_]+", plain(text).lower())
    wide = {a + b for word in words if not word.isascii() and len(word) > 1 and "\u3040" <= word[0] <= "\ud7ff" for a, b in pairwise(word)}
    return frozenset(wide | {stem(word) for word in words if word not in STOP and len(word) > 2})


@functools.cache
def stem(word: str) -> str:
    short = SUFFIX.sub("", word, count=1) if len(word) > 4 else word
    return short if len(short) > 2 else word


def off_topic(question: str, chosen: str, rejected: str) -> bool:
    """Whether one answer shares no content word with the question, and hardly one in twenty with the other answer, which does share some
    with the question. Nothing is held against pairs of which one speaks of being an AI instead: the formal style is made of that. On
    the published pairs: 6 of 972 rows whose columns are sound; 49 of 64 rows without such remarks that were given another row's answer."""
    asked, sides = stems(question), [stems(chosen), stems(rejected)]
    if any(AI.search(plain(text)) for text in (chosen, rejected)) or len(sides[0] & sides[1]) >= 0.05 * min(map(len, sides)) + 0.5:
        return False
    astray = [len(words) >= 5 and not words & asked for words in sides]
    return astray[0] != astray[1] and any(words & asked for words in sides)


def similarity(chosen: str, rejected: str) -> float:
    """Jaccard similarity of the words of two texts."""
    a, b = (set(re.findall(r"\w+", text.lower())) for text in (chosen, rejected))
    return len(a & b) / max(1, len(a | b))


def length_ratio(chosen: str, rejected: str) -> float:
    """The longer answer's characters to the shorter one's, both counted with 40 more, so that `um` is no outlier by itself."""
    short, long = sorted((len(chosen), len(rejected)))
    return (long + 40) / (short + 40)


def echoes(prompts: Iterable[str], text: str) -> bool:
    """Whether a text repeats twelve words in a row of a system prompt."""
    said = " ".join(re.findall(r"\w+", text.lower()))
    return any(run in said for prompt in prompts for run in runs(prompt))


@functools.cache
def runs(prompt: str, n: int = 12) -> tuple[str, ...]:
    words = re.findall(r"\w+", prompt.lower())
    return tuple(" ".join(words[i : i + n]) for i in range(len(words) - n + 1))


@functools.cache
def identifier():
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)


def foreign(text: str, language: str) -> bool:
    """Whether a text is surely in another language than `language` (ISO 639-1): at least 40 bytes, probability 0.95."""
    if len(text.encode("utf-8", "replace")) < 40:  # a character of Chinese says as much as three of English, and takes as many bytes
        return False
    found, probability = identifier().classify(text)
    return found != language and probability >= 0.95


def reason_against(question: str, chosen: Reply, rejected: Reply, filters: Filters, prompts: Iterable[str] = ()) -> str | None:
    """The first reason that applies, or None."""
    both = (chosen, rejected)
    if any(reply.finish_reason == "failed" for reply in both):
        return "failed"
    if any(reply.finish_reason == "tool_calls" for reply in both):
        return "tool call"
    if any(reply.finish_reason == "length" for reply in both):
        return "truncated"
    if any(reply.finish_reason == "content_filter" or REFUSAL.match(plain(reply.text)) for reply in both):
        return "refused"
    if any(not reply.text.strip() for reply in both):
        return "empty"
    texts = chosen.text, rejected.text
    tokens = max(sum(reply.usage.values()) or len(reply.text.encode("utf-8", "replace")) // 3 for reply in both)
    checks = {
        "too long for sequence_len": tokens > filters.sequence_len,
        "echo of the system prompt": lambda: any(echoes(prompts, text) for text in texts),
        "AI self-reference in chosen": lambda: filters.ai_self_reference and AI.search(plain(chosen.text)),
        "too similar": lambda: similarity(*texts) >= filters.too_similar,
        "length ratio": lambda: length_ratio(*texts) > filters.length_ratio,
        "wrong language": lambda: filters.language and any(foreign(text, filters.language) for text in texts),
        "off-topic answer": lambda: filters.off_topic and off_topic(question, *texts),
    }
    return next((reason for reason, applies in checks.items() if (applies() if callable(applies) else applies)), None)
