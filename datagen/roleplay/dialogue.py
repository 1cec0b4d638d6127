"""One dialogue between an inquirer and a responder (arXiv 2407.03974, section 2 and Algorithm 1), over chat endpoints.

Each turn, the inquirer is asked for a prompt; what it says is judged (`judge`), and asked for again with varied sampling where that failed. The prompt goes
to the responder, and its answer back to the inquirer inside the forwarding template. The inquirer's own history holds only its extracted prompts, in
straight quotes: that keeps it short, and shows the form. Every request is a function of the settings, persona, goal, seed and the replies before it, so a
run that was broken off asks for nothing twice.

Where the printed algorithm is wrong or silent: turn 0 belongs to the dialogue, and the limit counts it; incoherence and self-replies are looked for before
the stop word; an answer that ended a dialogue by incoherence stays in the record, marked as not part of the dialogue.
"""

import random
import re
from dataclasses import dataclass, field, replace

from datagen.client import TOO_LONG, Client, Reply, Request, bare
from datagen.files import canonical, sha256
from datagen.roleplay import detect, extract
from datagen.roleplay.record import Attempt, Dialogue, Goal, Guard, Persona, Player, Response, Turn, dialogue_id
from datagen.roleplay.settings import GuardModel, Role, Settings, fill

Message = tuple[str, str]  # (role, content)
# What a failure of the inquirer's last try is called when it ends the dialogue.
ENDS = {"empty": "inquirer_empty", "incoherent": "inquirer_incoherent"}
TEMPERATURES, TOP_PS = (0.5, 1.0), (0.8, 1.0)  # of repeated outputs
BYTES_PER_TOKEN = 3.0  # before the server has counted any: fewer than English has, so that the first guess is on the safe side
MOST_BYTES = 6.0  # no tokenizer does better on talk; a server that counts only what its cache lacked says more
SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "message",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"finish": {"type": "boolean"}, "prompt": {"type": "string"}},
            "required": ["finish", "prompt"],
            "additionalProperties": False,
        },
    },
}


@dataclass(frozen=True)
class Voice:
    """A model at its endpoint."""

    client: Client
    model: str  # as the endpoint lists it
    role: Role | GuardModel

    @property
    def player(self) -> Player:
        address = bare(self.client.replicas[0].url)
        return Player(endpoint=address, model=self.model, temperature=self.role.temperature, top_p=self.role.top_p, max_tokens=self.role.max_tokens)


@dataclass(frozen=True)
class Cast:
    """Who plays, and by which rules."""

    settings: Settings
    tones: dict[str, str]  # of each category of goals
    inquirer: Voice
    responder: Voice
    guard: Voice | None
    versions: dict[str, str] = field(default_factory=dict)


@dataclass
class History:
    """What one side has seen. `head` stays; of the exchanges after it, the oldest are left out where the context is full, but never the last."""

    head: list[Message]
    fold: bool
    exchanges: list[tuple[Message, Message]] = field(default_factory=list)
    dropped: int = 0
    bytes_per_token: float = BYTES_PER_TOKEN

    def messages(self, tail: tuple[Message, ...]) -> tuple[Message, ...]:
        """What is sent: roles alternate, and it ends with the user's."""
        sent = [*self.head, *(message for pair in self.exchanges[self.dropped :] for message in pair), *tail]
        if self.fold and sent[0][0] == "system":
            sent[:2] = [("user", f"{sent[0][1]}\n\n{sent[1][1]}")]
        return tuple(sent)

    @property
    def can_drop(self) -> bool:
        return len(self.exchanges) - self.dropped > 1

    def size(self, messages: tuple[Message, ...]) -> int:
        return sum(len(content.encode("utf-8", "replace")) + 16 for _, content in messages)


async def say(voice: Voice, history: History, tail: tuple[Message, ...], request: Request) -> tuple[Reply, Request]:
    """(the reply to `history` and `tail`, the request as it was sent), after leaving out as many old exchanges as the model's context asks for."""
    while True:
        messages = history.messages(tail)
        request, size = replace(request, messages=messages), history.size(messages)
        if history.can_drop and voice.role.context and size / history.bytes_per_token + request.max_tokens > voice.role.context:
            history.dropped += 1
            continue
        reply = await voice.client.reply(request)
        if reply.finish_reason == "failed" and history.can_drop and TOO_LONG.search(reply.error):
            history.dropped += 1
            continue
        if counted := reply.usage.get("prompt_tokens"):
            history.bytes_per_token = min(size / counted, MOST_BYTES)
        return reply, request


def draw(name: str, t: int, attempt: int, part: str) -> int:
    """A number that depends on the dialogue, turn, attempt and part alone: the same in every run."""
    return int(sha256(canonical([name, t, attempt, part]))[:8], 16)


def sampling(role: Role, name: str, t: int, attempt: int) -> tuple[float, float]:
    """(temperature, top_p): as set for the first attempt, drawn for those after it."""
    if not attempt:
        return role.temperature, role.top_p
    rng = random.Random(draw(name, t, attempt, "sampling"))
    return round(rng.uniform(*TEMPERATURES), 3), round(rng.uniform(*TOP_PS), 3)


def judge(reply: Reply, request: Request, settings: Settings, read: list[str], dropped: int) -> Attempt:
    """What an output of the inquirer says, and how it fails. `read`: the instruction that it answers, and the responder's last answer."""
    made = {"raw": reply.text, "text": "", "prompt": None, "prompt_strict": None, "found": None, "found_strict": None, "stop": False, "self_reply": []}
    made |= {"repeats_strict": False, "repeats": False, "finish": reply.finish_reason, "usage": reply.usage, "seed": request.sent_seed}
    made |= {"temperature": request.temperature, "top_p": request.top_p, "dropped": dropped, "stop_failure": False}

    def ends(failure: str | None) -> Attempt:
        return Attempt(**made, failure=failure)

    if reply.finish_reason == "failed":
        return ends("api_error")
    if reply.finish_reason == "content_filter":
        return ends("refusal_or_filter")
    said = extract.strip_reasoning(reply.text)
    if said is None:
        return ends("truncated")
    if not said:
        return ends("truncated" if reply.finish_reason == "length" else "empty")
    by_json = settings.extraction == "json"
    text, marked = detect.cut_at_marker(said)
    made["self_reply"] = ["markers"] if marked else []
    if not text:
        return ends("self_reply_only")
    made |= {"text": text, "repeats_strict": detect.repeats_strict(text, settings.inquirer.incoherent.max_n, settings.inquirer.incoherent.r)}
    if not by_json:
        made["prompt_strict"], made["found_strict"] = extract.strict(text)
    made["repeats"] = detect.repeats(text)
    if made["repeats"]:
        return ends("incoherent")
    found, stop = extract.by_json(text) if by_json else (extract.tolerant(text, settings.stop), extract.stops(text, settings.stop))
    made |= {"found": found.count, "stop": stop}
    if stop:
        return ends(None)
    if not found.prompt:
        return ends("truncated" if reply.finish_reason == "length" else "no_prompt")
    made |= {"prompt": found.prompt, "stop_failure": detect.stop_failure(found.prompt)}
    made["self_reply"] += [
        name
        for name, there in (
            ("structural", detect.structural(extract.normal(text), found)),
            ("echo", detect.echo(found.prompt, read)),
            ("role_flip", detect.role_flip(found.prompt)),
        )
        if there
    ]
    return ends(None)


def answer(reply: Reply, request: Request, settings: Settings, dropped: int) -> Response:
    text = extract.strip_reasoning(reply.text) or ""
    limits = settings.responder.incoherent
    return Response(
        raw=reply.text,
        text=text,
        repeats_strict=detect.repeats_strict(text, limits.max_n, limits.r),
        repeats=detect.repeats(text),
        finish=reply.finish_reason,
        usage=reply.usage,
        seed=request.sent_seed,
        dropped=dropped,
    )


class Watch:
    """What the guard model says of one dialogue, utterance by utterance."""

    def __init__(self, voice: Voice | None):
        self.voice, self.checked, self.unreadable, self.unsafe, self.usage = voice, 0, 0, None, {}

    async def objects(self, t: int, *messages: Message) -> bool:
        """Whether the guard calls the last of `messages` unsafe. Guard models read a chat and judge its last message."""
        if not self.voice:
            return False
        reply = await self.voice.client.reply(Request(self.voice.model, messages, 0.0, 1.0, self.voice.role.max_tokens))
        said = extract.strip_reasoning(reply.text) or ""
        word = re.findall(r"[a-z]+", said.casefold())[:1]
        self.checked += 1
        self.unreadable += word not in (["safe"], ["unsafe"])
        for name, count in reply.usage.items():
            self.usage[name] = self.usage.get(name, 0) + count
        if word == ["unsafe"]:
            self.unsafe = (t, "inquirer" if messages[-1][0] == "user" else "responder", said)
        return word == ["unsafe"]

    def verdict(self) -> Guard | None:
        if not self.voice:
            return None
        turn, who, said = self.unsafe or (None, None, "")
        verdict = "unsafe" if self.unsafe else "unreadable" if self.unreadable else "safe"
        return Guard(model=self.voice.model, verdict=verdict, checked=self.checked, turn=turn, who=who, said=said, usage=self.usage)


async def converse(persona: Persona, goal: Goal, seed: int, cast: Cast) -> Dialogue:
    """The whole dialogue. A failure is an end of it, with its reason; only what ends all dialogues (no endpoint, no budget) is raised, as UserError."""
    settings, name = cast.settings, dialogue_id(persona, goal, seed)
    tone = cast.tones[goal.category]
    texts = settings.texts(tone)
    first, forward, form = texts["inquirer_first"], texts["forward"], texts.get("form", "")
    reminder = " " + fill(texts["reminder"], stop=settings.stop) if "reminder" in texts else ""
    asks = History(
        [("system", fill(texts["inquirer_system"], persona=persona.text, stop=settings.stop)), ("user", fill(first, goal=goal.text, form=form))],
        settings.inquirer.fold_system,
    )
    answers = History([("system", texts["responder_system"])] if settings.responder.system else [], settings.responder.fold_system)
    read = [fill(first, goal="\n", form=form)]
    extra = settings.inquirer.extra | ({"response_format": SCHEMA} if settings.extraction == "json" else {})
    watch, turns, exchanges = Watch(cast.guard), [], []

    def end(reason: str, detail: str = "") -> Dialogue:
        return Dialogue(
            id=name,
            seed=seed,
            settings=settings.shape(tone),
            persona=persona,
            goal=goal,
            inquirer=cast.inquirer.player,
            responder=cast.responder.player,
            turns=turns,
            end_reason=reason,
            end_detail=detail,
            guard=watch.verdict(),
            versions=cast.versions,
        )

    for t in range(settings.max_turns):
        attempts, room = [], settings.inquirer.max_tokens
        for number in range(1 + settings.tries):
            temperature, top_p = sampling(settings.inquirer, name, t, number)
            request = Request(cast.inquirer.model, (), temperature, top_p, room, seed, sample=draw(name, t, number, "inquirer"), extra=canonical(extra) if extra else "")
            reply, request = await say(cast.inquirer, asks, (), request)
            attempts.append(judge(reply, request, settings, read, asks.dropped))
            if attempts[-1].failure is None or attempts[-1].failure == "api_error":
                break
            if attempts[-1].failure == "truncated":
                room = 2 * settings.inquirer.max_tokens
        said = attempts[-1]
        turns.append(Turn(t=t, attempts=attempts, response=None, complete=False))
        if said.failure:
            return end(ENDS.get(said.failure, said.failure), reply.error if said.failure == "api_error" else f"after {len(attempts)} outputs")
        if said.stop:
            return end("finished")
        if await watch.objects(t, ("user", said.prompt)):
            return end("toxic", "the inquirer's prompt")
        request = Request(
            cast.responder.model,
            (),
            settings.responder.temperature,
            settings.responder.top_p,
            settings.responder.max_tokens,
            seed,
            sample=draw(name, t, 0, "responder"),
            extra=canonical(settings.responder.extra) if settings.responder.extra else "",
        )
        reply, request = await say(cast.responder, answers, (("user", said.prompt),), request)
        if reply.finish_reason == "failed":
            return end("api_error", reply.error)
        response = answer(reply, request, settings, answers.dropped)
        turns[-1] = Turn(t=t, attempts=attempts, response=response, complete=False)
        if reply.finish_reason == "content_filter":
            return end("refusal_or_filter", "the responder's answer")
        if not response.text:
            return end("responder_empty")
        if response.repeats:
            return end("responder_incoherent")
        if await watch.objects(t, ("user", said.prompt), ("assistant", response.text)):
            return end("toxic", "the responder's answer")
        turns[-1] = Turn(t=t, attempts=attempts, response=response, complete=True)
        exchanges.append((said.prompt, response.text))
        if settings.appreciation_turns and detect.appreciation_loop(exchanges, settings.appreciation_turns):
            return end("appreciation_loop")
        shown = canonical({"finish": False, "prompt": said.prompt}) if settings.extraction == "json" else f'"{said.prompt}"'
        asks.exchanges.append((("assistant", shown), ("user", fill(forward, response=response.text, form=form, reminder=reminder))))
        answers.exchanges.append((("user", said.prompt), ("assistant", response.text)))
        read = [fill(forward, response="\n", form=form, reminder=reminder), response.text]
    return end("max_turns")
