"""What an output of the inquirer says: its prompt, strictly as the paper reads it and as it is meant, and whether it wants to stop.

The paper looks for "a string in double quotes" and takes the first of several (arXiv 2407.03974, sections 2 and 3.3). That finds a quoted term, half of
a prompt that quotes something, or the key of a JSON object. Both readings are kept for every output: `strict` for rates that compare with
the paper's, `tolerant` for what is sent on.
"""

import json
import re
from dataclasses import dataclass

OPEN, CLOSE = {"“": "”", "«": "»", "„": "“"}, {"”", "»"}
BEFORE_OPENING = frozenset(" \t\n([{=:,;-–—>*_/\"“«'")
AFTER_CLOSING = frozenset(" \t\n.,;:!?)]}*_<-–—/\"”»'")
REASONING = re.compile(r"<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL)
FENCE = re.compile(r"^[ \t]*```.*?^[ \t]*```[ \t]*$", re.DOTALL | re.MULTILINE)
SPECIAL = re.compile(r"</?s>|<\|[^|>\s]{1,40}\|>")
TERM_WORDS = 3  # a quoted span of so few words, within a sentence, is a term and no prompt


@dataclass(frozen=True)
class Span:
    start: int  # of the opening quote
    end: int  # after the closing one
    text: str


@dataclass(frozen=True)
class Found:
    prompt: str | None  # never empty
    count: int | None  # prompts in the output; None in JSON mode
    spans: tuple[Span, ...] = ()


def strip_reasoning(text: str) -> str | None:
    """Without <think> blocks, wherever they stand, and without what precedes a lone </think> (a server's template may open it). None: it never ends."""
    text = REASONING.sub("", text)
    text = re.split(r"</think(?:ing)?>", text)[-1]
    return None if re.search(r"<think(?:ing)?>", text) else text.strip()


def strict(text: str) -> tuple[str | None, int]:
    """(first string between straight quotes, how many there are), quotes paired from the left: the paper's reading. It may be empty."""
    found = re.findall(r'"([^"]*)"', text)
    return (found[0] if found else None), len(found)


def spans(text: str) -> list[Span]:
    """The outermost quoted spans, in straight, curly or angled quotes. A straight quote opens or closes by what stands around it; escaped ones are text. A
    quote that never closes leaves no span from there on: half a prompt is none."""
    found, stack = [], []  # stack of (closing quote, position)
    at, size = 0, len(text)
    while at < size:
        char = text[at]
        if char == "\\":
            at += 2
            continue
        if char in OPEN and not (stack and stack[-1][0] == char):
            stack.append((OPEN[char], at))
        elif char == '"':
            before, after = text[at - 1] if at else " ", text[at + 1] if at + 1 < size else " "
            fresh = bool(stack) and stack[-1][1] == at - 1
            opens = (before in BEFORE_OPENING if before != '"' else not stack or fresh) and not after.isspace() and after not in ".,;:!?)]}"
            closes = not before.isspace() and (after in AFTER_CLOSING)
            if opens and not (closes and stack and not fresh):
                stack.append(('"', at))
            elif closes and stack and not inch(text, at, stack):
                straight = [i for i, (quote, _) in enumerate(stack) if quote == '"']
                close(text, stack, straight[-1] if straight else len(stack) - 1, at, found)
        elif char in CLOSE or (stack and stack[-1][0] == char):
            matching = [i for i, (quote, _) in enumerate(stack) if quote == char]
            if matching or stack:
                close(text, stack, matching[-1] if matching else len(stack) - 1, at, found)
        at += 1
    limit = stack[0][1] if stack else size
    return [span for span in found if span.end <= limit]


def close(text: str, stack: list, depth: int, at: int, found: list[Span]) -> None:
    start = stack[depth][1]
    del stack[depth:]
    if not stack:
        found.append(Span(start, at + 1, text[start + 1 : at]))


def inch(text: str, at: int, stack: list) -> bool:
    """Whether a quote after a figure is the sign for inches: then the next quote closes the same span, instead of opening another."""
    if len(stack) > 1 or not text[at - 1].isdigit() or text[at + 1 : at + 2] != " ":
        return False
    rest = text.find('"', at + 1)
    return rest > 0 and not text[rest - 1].isspace() and (rest + 1 == len(text) or text[rest + 1] in AFTER_CLOSING)


def bare(text: str, stop: str) -> bool:
    """Whether a span holds the stop word and nothing else."""
    return re.findall(r"\w+", text) == [stop]


def term(text: str, span: Span) -> bool:
    """Whether a span is a few words that a sentence quotes, rather than a message: text goes on after it on its line, or before it without a colon."""
    if len(span.text.split()) > TERM_WORDS or re.search(r"[.?!…]\s*$", span.text):
        return False
    line = text[span.end :].split("\n", 1)[0].lstrip()
    return bool(re.match(r"[a-z]|I\b", line))


def unescaped(text: str) -> str:
    text = re.sub(r'\\(["“”])', r"\1", text).strip()
    while len(text) > 1 and text[0] == text[-1] == '"' and '"' not in text[1:-1]:
        text = text[1:-1].strip()
    return text


def as_json(text: str) -> dict | None:
    """The JSON object that a text is, in a fence or bare; None for anything else."""
    inner = re.sub(r"^```\w*\s*|\s*```$", "", text.strip())
    if not inner.startswith("{"):
        return None
    try:
        value = json.loads(inner, strict=False)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def normal(text: str) -> str:
    """Three quotes or more in a row count as one."""
    return re.sub(r'"{3,}', '"', text)


def tolerant(text: str, stop: str = "FINISH") -> Found:
    """The prompt as it is meant: nested and escaped quotes kept, curly and angled ones read, quoted terms and code outside of quotes passed over."""
    made = as_json(text)
    if made is not None:
        prompt = made.get("prompt")
        prompt = prompt.strip() if isinstance(prompt, str) else ""
        return Found(prompt or None, int(bool(prompt)))
    text = normal(text)
    whole = spans(text)
    fences = [match.span() for match in FENCE.finditer(text)]
    outside = [span for span in whole if not any(a <= span.start and span.end <= b for a, b in fences)]
    said = [span for span in outside if unescaped(span.text) and not bare(span.text, stop)]
    messages = [span for span in said if not term(text, span)]
    return Found(unescaped(messages[0].text) if messages else None, len(messages), tuple(messages))


def by_json(text: str) -> tuple[Found, bool]:
    """(prompt, stop) of an output in JSON mode: {"prompt": …, "finish": …}."""
    made = as_json(text)
    if made is None:
        return Found(None, None), False
    prompt = made.get("prompt")
    prompt = prompt.strip() if isinstance(prompt, str) else ""
    return Found(prompt or None, None), made.get("finish") is True


def stops(text: str, stop: str = "FINISH") -> bool:
    """Whether an output says that the goal is reached: it begins or ends with the stop word (section 2), prompts in quotes set aside; or it holds no prompt
    and the word stands anywhere in it, or is all of it in any case."""
    text = normal(SPECIAL.sub(" ", text.replace("<CONV_STOP>", stop)))
    found = tolerant(text, stop)
    if not found.spans:
        said = re.findall(r"\w+", text)
        whole = len(said) == 1 and said[0].casefold() in (stop.casefold(), f"{stop.casefold()}ed")
        return whole or (found.prompt is None and stop in said)
    lead, tail = text[: found.spans[0].start], text[found.spans[-1].end :]
    return re.findall(r"\w+", lead)[:1] == [stop] or re.findall(r"\w+", tail)[-1:] == [stop]
