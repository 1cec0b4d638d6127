"""The page on which people make natural dialogues: a form, then goal after goal, each a chat with the responder.

    python -m eval.collect out/collect/NAME                    # on this machine: http://127.0.0.1:7860; `make collect`
    python -m eval.collect out/collect/NAME --host 0.0.0.0     # for others, behind a server that speaks https
    python -m eval.collect out/collect/NAME --invites 20       # prints 20 invites, to be put behind the page's address

The study is the first of LLM Roleplay (arXiv 2407.03974, section 3.1). The responder, its settings and system prompt, and the limit of turns are those of the
simulated dialogues (`roleplay:` of the design), asked through the client and the store of replies that these are made with; BUDGET_USD caps what it costs.

- A message is on disk before the page shows it as sent, an answer before it is shown at all. What is being typed is kept in the tab.
- A page that is reloaded, a second tab, or a server that was killed in between asks for the missing answer again; one that had come is in the store and is
  not asked for twice.
- An endpoint that fails is one line on the page, without its address, and a button to try again; the log of the server has its words.
- It says all the time that the partner is an AI. Password, invites, withdrawal, organiser and what keeps the page safe are those of `eval.vote`.
"""

import asyncio
import json
import re
import secrets
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

from datagen.client import Request
from datagen.config import read_prompt
from datagen.files import UserError, canonical, entry, sha256
from datagen.roleplay import dialogue as play
from datagen.roleplay.record import Response
from datagen.roleplay.run import Clients
from eval import vote
from eval.collectstore import PATH, Collection, CollectStore, View, load
from eval.vote import ENDS, Task, arguments, inert, serve
from eval.votes import Refused

REPLIES = Path("data/responses")
FAULT = "The assistant does not answer at the moment. Your message is saved; please try again."
BANNER = "Your partner is an AI, a computer program. It makes mistakes. Please write nothing that identifies you or others."
SAID = {
    "ok": "",
    "unknown": "That chat has ended; here is what comes next.",
    "elsewhere": "This chat has gone on in another tab; here it is. What you typed has not been sent.",
    "full": "This chat has reached its limit. Please say whether you have reached your goal.",
}


class Faulty(Refused):
    """The responder gave no answer."""


class Responder:
    """The responder's endpoint, asked from any thread. Its connections live in one thread of their own. Raises UserError where it cannot be reached at first."""

    def __init__(self, study: Collection, store: Path = REPLIES):
        self.rules, self.seed = study.rules, study.seed
        self.system = read_prompt(Path(self.rules.prompts) / "responder_system.txt") if self.rules.responder.system else ""
        self.tries: dict[str, int] = {}
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.clients, self.voice = self._run(self._enter(store))

    def _run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

    async def _enter(self, store: Path) -> tuple[Clients, play.Voice]:
        clients = Clients(self.rules, store)
        await clients.__aenter__()
        try:
            return clients, await clients.voice("responder", self.rules.responder)
        except BaseException:
            await clients.__aexit__(None, None, None)
            raise

    def ask(self, name: str, exchanges: list[tuple[str, str]], text: str, turn: int) -> tuple[Response, str]:
        """(the answer to a message, its model), as `datagen.roleplay.dialogue` asks for it. The same chat asks for the same, so what is in the store is taken from there.
        Raises Faulty where none came, or one without text, which is asked for anew the next time."""
        role = self.rules.responder
        history = play.History([("system", self.system)] if role.system else [], role.fold_system)
        history.exchanges = [(("user", said), ("assistant", answered)) for said, answered in exchanges]
        place = f"{name}:{turn}"
        extra = canonical(role.extra) if role.extra else ""
        sample = play.draw(name, turn, self.tries.get(place, 0), "responder")
        request = Request(self.voice.model, (), role.temperature, role.top_p, role.max_tokens, self.seed, sample=sample, extra=extra)
        try:
            reply, request = self._run(play.say(self.voice, history, (("user", text),), request))
        except UserError as error:
            print(f"no answer: {error}", file=sys.stderr)
            raise Faulty(FAULT) from None
        if reply.finish_reason == "failed":
            print(f"no answer: {reply.error}", file=sys.stderr)
            raise Faulty(FAULT)
        response = play.answer(reply, request, self.rules, history.dropped)
        if not response.text:
            self.tries[place] = self.tries.get(place, 0) + 1
            print(f"no answer: an empty one ({reply.finish_reason})", file=sys.stderr)
            raise Faulty(FAULT)
        return response, self.voice.model

    def close(self) -> None:
        self._run(self.clients.__aexit__(None, None, None))
        self.loop.call_soon_threadsafe(self.loop.stop)


# ---------------------------------------------------------------- page


def chat_html(view: View, how: str) -> str:
    """The goal and the chat so far. data-turns counts messages, data-waiting says that an answer is due: then the page's script asks for it."""
    said = []
    for message, answer in view.turns:
        said.append(f'<div class="message mine"><b class="unseen">You:</b>{inert(message, "text")}</div>')
        if answer is not None:
            said.append(f'<div class="message theirs"><b class="unseen">AI:</b>{inert(answer, how)}</div>')
    waiting = bool(view.turns) and view.turns[-1][1] is None
    said.append('<p id="writing">The AI is writing …</p>' if waiting else "")
    full = "<p>This chat has reached its limit. Please say below whether you have reached your goal.</p>" if view.full else ""
    mark, goal = sha256(f"shown:{view.token}")[:16], inert(view.goal, "text")
    facts = f'data-shown="{secrets.token_hex(4)}" data-chat="{mark}" data-turns="{len(view.turns)}" data-waiting="{int(waiting)}" data-full="{int(view.full)}"'
    return (
        f'<div id="pair" {facts}><p id="banner">{BANNER}</p><section class="question"><h2>Your goal</h2>'
        f'<div class="scroll" tabindex="0" role="region" aria-label="Your goal">{goal}</div></section>'
        f'<section id="chat" aria-label="Chat" aria-live="polite">{"".join(said)}</section>{full}</div>'
    )


def facts_of(text: str) -> dict:
    """What the browser says with a button: turn, id and text of a message. Of anything else, nothing."""
    try:
        value = json.loads(text[:200_000])
    except ValueError:
        return {}
    kinds = {"turn": int, "id": str, "text": str}
    return {name: value[name] for name, kind in kinds.items() if isinstance(value, dict) and isinstance(value.get(name), kind)}


def collecting(store: CollectStore, responder: Responder) -> Task:
    import gradio as gr

    def send(rater: str, token: str, facts: str) -> str:
        given = facts_of(facts)
        if set(given) != {"turn", "id", "text"} or not re.fullmatch(r"[0-9a-f]{32}", given["id"]):
            raise Refused("Please write something first.")
        return SAID[store.say(rater, token, given["turn"], given["id"], given["text"])]

    def reply(rater: str, token: str, _: str) -> str:
        return SAID[store.reply(rater, token, responder.ask)]

    def end(reached: bool, rater: str, token: str, _: str) -> str:
        return SAID[store.end(rater, token, reached)]

    def controls() -> dict[str, tuple[gr.Button, Callable]]:
        box = '<textarea id="text" rows="2" maxlength="4000" placeholder="Write to the AI …"></textarea>'
        gr.HTML(f'<div id="write"><label for="text">Your message</label>{box}</div>')
        return {
            "send": (gr.Button("Send", elem_id="send", elem_classes="vote", min_width=0), send),
            "reply": (gr.Button("Try again", elem_id="reply", min_width=0), reply),
            "reached": (gr.Button("I have reached my goal", elem_id="reached", min_width=0), partial(end, True)),
            "give-up": (gr.Button("Go on without", elem_id="give-up", min_width=0), partial(end, False)),
        }

    below = '<span class="keys">Enter sends, Shift and Enter begin a new line. </span>'
    ends = {name: text.replace("All your votes", "All your chats").replace("Your votes", "Your chats").replace("to judge", "to do") for name, text in ENDS.items()}
    return Task("A chat with an assistant", "collect", partial(chat_html, how=store.study.markdown), controls, "window.collect.facts()", below, "dialogues", ends)


def main() -> None:
    given = arguments(__doc__, "out/collect/NAME, frozen by eval.collectstore", PATH)
    study = load(given.study)
    responder = None if given.invites else Responder(study)
    try:
        vote.quiet_gradio()
        serve(given, study, "eval.collectstore", lambda: CollectStore(given.folder, study), lambda store: collecting(store, responder))
    finally:
        if responder:
            responder.close()


if __name__ == "__main__":
    entry(main)
