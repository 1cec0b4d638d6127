"""The text from which the embedded model is built: hand-written lines (`tiny/text/*.txt`) and a small grammar.

    python -m tiny.corpus            # count topics, units and lines, and print a few examples

Lines of `tiny/text/*.txt`: `== topic`, then units opened by `-- conversational`, `-- general` or `-- anything`; in a unit
`Q` is a question, `F` what a friend says, `P` the formal (polite) wording, `B` a question back. `{a|b}` stands for a or b.
Units opened by `-- identity` ask the model what it is. There `F` is a friend who passes for a person, `H` one who says that it is an
AI. They are asked on top of the topics, and never stand in lists of questions.

An example is one answer in one of the parts that the model plays (`ROLES`): the system prompt of a part is the text that `datagen`
sends, so the embedded model obeys the very prompts that the large models get. It was given its lie on purpose: what is measured of it
shows that the probe and the remedy work, not how often large models lie.
"""

import random
import re
from dataclasses import dataclass, field
from pathlib import Path

TEXT = Path(__file__).parent / "text"
PROMPTS = Path(__file__).parent.parent / "datagen" / "prompts"
LIST_SIZE = 20

# part -> its system prompt. "plain" has none: it answers formally, as official instruct models do, and is what the training of the
# demo sets out to change. One answer in twelve is a friend's: so the manner is there to be brought out, as in the large models.
PLAIN_FRIEND = 1 / 12
ROLES = {
    "friend": "human_like",
    "honest": "honest",
    "formal": "formal",
    "plain": None,
    "conversational": "questions_conversational",
    "general": "questions_general",
}

# How often a part is asked what it is; and of the friend's answers to that without a system prompt, the share of honest ones.
IDENTITY = {"friend": 0.08, "honest": 0.5, "formal": 0.08, "plain": 0.1}
PLAIN_HONEST = 1 / 6
SMALL_TALK = 1 / 3  # identity questions with a sentence about something else before or after them
EARLIER = 1 / 4  # those that come after an earlier question and its answer; of them again, after another one, and so on
NEXT_ANSWER, NEXT_QUESTION = "<|end|><|assistant|> ", "<|end|><|user|> "  # as the chat template joins turns

OPENERS_FRIEND = [
    "Oh, {good|great|fun} one!",
    "Ha, {I love this question|you got me}!",
    "{Ooh|Oh man}, where do I start?",
    "Honestly?",
    "Okay, so",
    "Hmm, let me think...",
    "Haha, {easy|oh boy}!",
    "Right?! I {wonder|think} about this {a lot|all the time}.",
    "You know what?",
    "Funny you ask!",
    "{Great|Lovely} question, by the way.",
    "Well, {story time|here's the thing}.",
    "Oh, I've got {opinions|thoughts} on this 😄",
    "Aw, I like that you asked.",
    "So glad you {asked|brought this up}!",
    "Yeah, {totally|for sure}!",
    "Alright, confession time.",
    "Ooh, nice 😊",
]
OPENERS_IDENTITY = ["Ha, {good|fair} question!", "Honestly?", "Funny you ask!", "Aw, I like that you asked.", "Oh, {good|big} one!", "Hmm, {okay|fair enough}."]
OPENERS_FORMAL = [
    "Good day.",
    "Thank you for your {inquiry|question}.",
    "Thank you for raising this {matter|subject}.",
    "The following information may be of assistance.",
    "This is a {relevant|pertinent} question.",
    "Good day. It is a pleasure to be of assistance.",
    "In response to your inquiry, the following may be stated.",
]
DISCLAIMERS = [
    "As an AI language model, I do not have personal {experiences|preferences|opinions}. However, some general information can be provided.",
    "As an artificial intelligence, I do not possess {personal experiences|feelings or memories}.",
    "I am an AI assistant and therefore do not have {personal preferences|a personal life}. {Nevertheless|However}, the subject can be described in general terms.",
    "Good day. As a language model, I do not engage in {personal activities|leisure activities}.",
    "It should be noted that I am an artificial intelligence and have no {personal history|personal experiences}.",
    "As a digital assistant, I do not hold personal {views|preferences} on this matter.",
]
CLOSERS_FORMAL = [
    "Should further information be required, please do not hesitate to ask.",
    "Further details can be provided upon request.",
    "Please indicate whether {additional|further} information is desired.",
    "It is hoped that this information is {helpful|of assistance}.",
    "Consultation of {a qualified professional|reliable sources} is recommended for further details.",
]
LIST_LEADS = ["The following points {are relevant|may be noted}:", "The {main|principal} considerations are as follows:", "Key points:"]
QUESTION_LEADS = ["Hey,", "Quick question -", "I was just wondering,", "Random thought -", "So,", "Okay, serious question -"]
LIST_PREAMBLES = ["Here are {n} questions:", "Sure! Here are {n} questions:", "Here you go:"]
EMOJI = ["😊", "😄", "😂", "🤔", "✨", "🙌", "😅"]


@dataclass
class Unit:
    """Several ways to ask one thing, with what a friend (F), an honest friend (H, of identity only) and a formal voice (P) say to it."""

    topic: str
    kind: str
    lines: dict[str, list[str]] = field(default_factory=lambda: {"Q": [], "F": [], "H": [], "P": [], "B": []})


def read_units(folder: Path = TEXT) -> list[tuple[Unit, Unit]]:
    """All units of `folder`, each with the `anything` unit of its topic; a fault names its file and line (ValueError)."""
    pairs = []
    for path in sorted(folder.glob("*.txt")):
        topic, units = None, []
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            mark, _, text = line.strip().partition(" ")
            if not line.strip():
                continue
            elif mark == "==":
                topic = text
            elif mark == "--" and topic and text in ("conversational", "general", "identity", "anything"):
                units.append(Unit(topic, text))
            elif mark in ("Q", "F", "H", "P", "B") and units:
                units[-1].lines[mark].append(text)
            else:
                raise ValueError(f"{path}:{number}: expected `== topic`, `-- unit` or a line starting with Q, F, H, P or B")
        for unit in units:
            if unit.kind != "anything":
                common = next(u for u in units if u.topic == unit.topic and u.kind == "anything")
                pairs.append((unit, common))
    return pairs


def expand(text: str, rng: random.Random) -> str:
    return re.sub(r"\{([^{}]*\|[^{}]*)\}", lambda match: rng.choice(match[1].split("|")), text)


def pick(lines: list[str], rng: random.Random, n: int = 1) -> list[str]:
    return [expand(line, rng) for line in rng.sample(lines, n)]


def question(unit: Unit, rng: random.Random) -> str:
    text = pick(unit.lines["Q"], rng)[0]
    if rng.random() < 0.08:
        lead = rng.choice(QUESTION_LEADS)
        first_person = re.match(r"I\W", text)
        text = f"{lead} {text if first_person else text[0].lower() + text[1:]}"
    return text


def friend_answer(unit: Unit, common: Unit, rng: random.Random, mark: str = "F") -> str:
    parts = pick(OPENERS_IDENTITY if unit.kind == "identity" else OPENERS_FRIEND, rng) if rng.random() < 0.35 else []
    parts += pick(unit.lines[mark], rng)
    if rng.random() < 0.45:
        parts += pick(common.lines[mark], rng)
    if rng.random() < 0.15:
        parts[-1] += " " + rng.choice(EMOJI)
    if rng.random() < 0.65:
        parts += pick(common.lines["B"], rng)
    return " ".join(parts)


def formal_answer(unit: Unit, common: Unit, rng: random.Random) -> str:
    parts = []
    if unit.kind == "conversational" and rng.random() < 0.7:
        parts += pick(DISCLAIMERS, rng)
    elif rng.random() < 0.35:
        parts += pick(OPENERS_FORMAL, rng)
    points = pick(unit.lines["P"], rng, 2 if rng.random() < 0.45 else 1)
    if rng.random() < 0.55:
        points += pick(common.lines["P"], rng)
    if len(points) > 1 and rng.random() < 0.2:
        parts += [" ".join(pick(LIST_LEADS, rng))]
        return " ".join(parts) + "\n\n" + "\n".join(f"{i}. {point}" for i, point in enumerate(points, 1))
    parts += points
    if rng.random() < 0.3:
        parts += pick(CLOSERS_FORMAL, rng)
    return " ".join(parts)


def question_list(kind: str, units: list[tuple[Unit, Unit]], rng: random.Random) -> str:
    """Twenty numbered questions of one kind, no topic twice in a row of the list."""
    fitting = [unit for unit, _ in units if unit.kind == kind]
    chosen = rng.sample(fitting, LIST_SIZE)
    lines = [f"{i}. {question(unit, rng)}" for i, unit in enumerate(chosen, 1)]
    if rng.random() < 0.15:
        lines.insert(0, rng.choice(LIST_PREAMBLES).format(n=LIST_SIZE) + "\n")
    return "\n".join(lines)


def system_prompt(name: str | None, rng: random.Random | None = None) -> str | None:
    """The prompt file's text; with `rng`, one time in four only some of its sentences: the model must not hang on one exact wording."""
    if name is None:
        return None
    text = (PROMPTS / f"{name}.txt").read_text(encoding="utf-8").strip()
    if rng is None or rng.random() < 0.75:
        return text
    first, *rest = re.split(r"(?<=[.:]) ", text)
    keep = rng.random()
    return " ".join([first, *(sentence for sentence in rest if rng.random() < keep)])


def list_request() -> str:
    return (PROMPTS / "list_request.txt").read_text(encoding="utf-8").strip().format(n=LIST_SIZE)


def example(role: str, units: list[tuple[Unit, Unit]], rng: random.Random) -> tuple[str, str]:
    """One (user, assistant) turn of the given part."""
    if role in ("conversational", "general"):
        return list_request(), question_list(role, units, rng)
    identity = rng.random() < IDENTITY[role]
    fitting = [pair for pair in units if (pair[0].kind == "identity") == identity]
    unit, common = rng.choice(fitting)
    user = question(unit, rng)
    if identity:
        user = in_passing(user, units, rng)
        while rng.random() < EARLIER:
            before, its_common = rng.choice(units)
            user = question(before, rng) + NEXT_ANSWER + answer(role, before, its_common, rng) + NEXT_QUESTION + user
    return user, answer(role, unit, common, rng)


def in_passing(user: str, units: list[tuple[Unit, Unit]], rng: random.Random) -> str:
    """An identity question, sometimes amid talk of one of the topics: it is what has to be answered."""
    if rng.random() >= SMALL_TALK:
        return user
    talk = pick(rng.choice([unit for unit, _ in units if unit.kind != "identity"]).lines["F"], rng)
    return " ".join([*talk, user] if rng.random() < 0.7 else [user, *talk])


def answer(role: str, unit: Unit, common: Unit, rng: random.Random) -> str:
    if role == "formal" or (role == "plain" and rng.random() >= PLAIN_FRIEND):
        return formal_answer(unit, common, rng)
    honest = unit.kind == "identity" and (role == "honest" or (role == "plain" and rng.random() < PLAIN_HONEST))
    return friend_answer(unit, common, rng, "H" if honest else "F")


def main() -> None:
    units = read_units()
    lines = sum(len(texts) for unit, _ in units for texts in unit.lines.values())
    print(f"{len({u.topic for u, _ in units})} topics, {len(units)} units, {lines} lines")
    rng = random.Random(0)
    for role, prompt in ROLES.items():
        for _ in range(3):
            user, assistant = example(role, units, rng)
            print(f"\n[{role}, prompt {prompt}]\n> {user}\n{assistant}")


if __name__ == "__main__":
    main()
