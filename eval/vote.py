"""The page on which people vote which of two answers sounds more like a person: a thin view of `eval.votes`, which keeps everything.

    python -m eval.vote out/votes/NAME                    # on this machine: http://127.0.0.1:7860
    python -m eval.vote out/votes/NAME --host 0.0.0.0     # for others, behind a server that speaks https
    python -m eval.vote out/votes/NAME --invites 20       # prints 20 invites, to be put behind the page's address

Consent, questionnaire, quiz, then vote after vote; the end page has a withdrawal code. A rater may leave at any time and come back with the same browser,
or on any device with an invite. Where the environment names a password (STUDY_PASSWORD), it or an invite is asked for. `?admin` behind the address
shows the organiser's panel, which does nothing without the token (STUDY_ADMIN_TOKEN).

- The page reads `items.jsonl`, in which nothing says which model wrote what, and sends the browser a random token, the question, the two texts as they are to
  be shown, and n of m; kind, item and side stay here. `key.json` is never opened.
- Text of models is shown inert: escaped, or as Markdown from which images, links and HTML are left out (they stand there as typed). Control characters and
  those that turn the writing direction around are removed. A Content-Security-Policy keeps the browser from fetching anything from elsewhere.
- Nothing of a rater lies in gr.State, which is lost with the process: the browser keeps a random id, the store the rest. The secret that Gradio
  encrypts that id with is published by the page itself: the id is a bearer's token and says nothing.
- Where the environment names a private data set of the Hub (VOTES_REPO), events are fetched from it and kept in it: see eval.hub, and eval.space for a Space.
- Votes do without Gradio's queue, which lets one through at a time.
"""

import argparse
import functools
import html
import json
import os
import re
import secrets
import signal
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from datagen.files import UserError, entry, read_json, sha256
from eval import hub, studyfile
from eval.ballot import check_settings
from eval.votes import Ballot, Refused, Store, choices, invites

if TYPE_CHECKING:
    import gradio

    from eval.studyfile import Sessions

CSS, JS = (Path(__file__).with_name(f"vote.{kind}") for kind in ("css", "js"))
FONTS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif"]  # of the rater's own machine: none is fetched
# What the page needs of Gradio's server; the rest (uploads, files, proxy, monitoring, …) answers 404. After a lost connection the page asks for app_id until there
# is an answer, and only then goes on.
SERVED = ("/", "/config", "/info", "/theme.css", "/favicon.ico", "/robots.txt", "/manifest.json", "/gradio_api/info", "/gradio_api/startup-events", "/gradio_api/app_id")
SERVED_BELOW = ("/assets/", "/static/", "/svelte/", "/gradio_api/run/", "/gradio_api/api/", "/gradio_api/heartbeat/")
POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; object-src 'none'; "
    "base-uri 'self'; form-action 'self'"
)
# Gradio 6.10 names a script and fonts of others in its page, and does without them.
FOREIGN = re.compile(rb'<(?:script|link)\b[^>]*\b(?:src|href)="https?://[^>]*>(?:\s*</script>)?')
HEADERS = {"content-security-policy": POLICY, "referrer-policy": "no-referrer", "x-content-type-options": "nosniff"}

# Embeddings, overrides and isolates of the writing direction; control characters but tab and line end. Marks (LRM, RLM) and joiners are part of ordinary text.
UNSEEN = re.compile("[\u202a-\u202e\u2066-\u2069\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ufeff]")
# Gradio takes what it shows for a template in the browser: what could open a placeholder is written as character references.
TEMPLATE = str.maketrans({"$": "&#36;", "{": "&#123;", "}": "&#125;", "`": "&#96;"})

KEYS = {"left": "1", "tie": "0", "right": "2", -2: "1", -1: "2", 0: "3", 1: "4", 2: "5"}
LABELS = {"left": "Answer 1", "tie": "No difference", "right": "Answer 2"}
# Of five points: words that fit beside four others on a phone.
LABELS |= {-2: "Answer 1, clearly", -1: "Answer 1, rather", 0: "Both alike", 1: "Answer 2, rather", 2: "Answer 2, clearly"}
SAID = {
    "ok": "",
    "duplicate": "That vote was counted before; here is the next pair.",
    "expired": "This pair had been open for too long and was given to somebody else; here is another.",
    "unknown": "That pair is no longer open; here is the next.",
    "too_fast": "That was too quick to have been read; please vote again.",
}
ENDS = {
    "ended": "Thank you for your interest. The study ends here for you: it needs no more people who answered as you did.",
    "failed": "Thank you for your time. The quiz was not answered as the study needs it, so it ends here for you.",
    "withdrawn": "Your votes have been withdrawn and will not be used. Thank you.",
    "paused": "The study is paused. What you did is saved; please come back later with this browser.",
    "done": "Thank you! There is nothing more for you to judge at present. All your votes are saved.",
    "break": "Your votes are saved. You may close this page and come back to it with this browser at any time.",
}
HEADINGS = {"break": "A break", "paused": "A pause"}
# Panels are shown and hidden by `data-stage` (vote.js, vote.css): what Gradio 6.10 mounts late, it leaves blank.
PANELS = ("consent", "questions", "quiz", "ballot", "end")


# ---------------------------------------------------------------- text that does nothing


@functools.cache
def markdown():
    import markdown_it

    parser = markdown_it.MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
    return parser.disable(["image", "link", "autolink", "reference", "html_inline", "html_block"])


@functools.lru_cache(maxsize=4096)
def inert(text: str, how: str) -> str:
    """HTML that shows a text and does nothing: no element but our own or those of plain Markdown, no address, no attribute from the text.

    how: text (as typed, line ends kept) or rendered (Markdown; the headings become h4 to h6, below those of the page).
    """
    text = UNSEEN.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    if how == "text":
        return f'<div class="typed" dir="auto">{html.escape(text).translate(TEMPLATE)}</div>'
    tokens = markdown().parse(text)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1]) + 3)}"
        token.info = ""  # would become a class
    shown = markdown().renderer.render(tokens, markdown().options, {})
    return f'<div class="rendered" dir="auto">{shown.translate(TEMPLATE)}</div>'


def ballot_html(ballot: Ballot, how: str) -> str:
    """What is shown of a ballot. `data-shown` tells the page's script that something new is there, even where it is the same pair again."""

    def part(kind: str, level: int, name: str, shown: str) -> str:
        return f'<section class="{kind}"><h{level}>{name}</h{level}><div class="scroll" tabindex="0" role="region" aria-label="{name}">{shown}</div></section>'

    answers = part("answer", 3, "Answer 1", inert(ballot.left, how)) + part("answer", 3, "Answer 2", inert(ballot.right, how))
    question = part("question", 2, "Question", inert(ballot.question, "text"))
    return f'<div id="pair" data-shown="{secrets.token_hex(4)}">{question}<div class="answers">{answers}</div></div>'


def progress_html(position: int, total: int) -> str:
    return f'<p id="progress" role="status">{position} of {total}</p><progress max="{total}" value="{position - 1}" aria-label="Votes saved"></progress>'


def paragraph(text: str) -> str:
    return f'<p role="alert">{html.escape(text).translate(TEMPLATE)}</p>' if text else ""


# ---------------------------------------------------------------- page


def address(request: "gradio.Request | None") -> str:
    return request.client.host if request is not None and request.client else ""


def client_facts(text: str) -> dict:
    """What the page's script says of a vote: seconds, layout, input. Anything else, or no JSON, is nothing."""
    try:
        value = json.loads(str(text)[:500])
    except ValueError:
        return {}
    return {key: value[key] for key in ("seconds", "layout", "input") if isinstance(value, dict) and isinstance(value.get(key), int | float | str)}


@dataclass(frozen=True)
class Task:
    """What raters do between quiz and end; all around it is the same on every page. `eval.detect` and `eval.collect` have tasks of their own."""

    title: str
    files: str  # <files>.css and <files>.js beside those of this page; "" for none
    shown: Callable[[Ballot], str]  # what store.next gives, as HTML: one element with id pair and a new data-shown
    controls: Callable[[], dict[str, tuple]]  # makes the bar; of each handler's name (its button, what it does with (rater, token, facts): the words for the rater)
    facts: str  # JavaScript: what the browser says with a control
    below: str  # HTML under the bar
    done: str  # what the rater makes, in the plural
    ends: dict[str, str]  # the words of each end


def voting(store: Store) -> Task:
    """To choose one of two answers."""
    import gradio as gr

    every = choices(store.study)

    def voted(choice, rater, token, facts):
        return SAID[store.cast(rater, token, choice, **client_facts(facts))]

    def controls():
        buttons = {choice: gr.Button(LABELS[choice], elem_id=f"vote-{KEYS[choice]}", elem_classes="vote", min_width=0) for choice in every}
        return {f"vote-{KEYS[choice]}": (button, functools.partial(voted, choice)) for choice, button in buttons.items()}

    below = f'<span class="keys">Keys: {", ".join(KEYS[choice] for choice in every)}, or the arrows left and right. </span>'
    shown = functools.partial(ballot_html, how=store.study.markdown)
    return Task("Which answer sounds more like a person?", "", shown, controls, "window.ballot.facts()", below, "votes", ENDS)


def build(store: Store, simulated: bool = False, task: Task | None = None) -> "gradio.Blocks":
    """The page. All handlers end in `show`, which asks the store where the rater stands. Without a task, it is to vote."""
    import gradio as gr

    study, task = store.study, task or voting(store)
    quiet = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    hidden = {"elem_classes": "never", "interactive": True}
    panel = lambda name: gr.Column(elem_id=f"panel-{name}")  # noqa: E731
    with gr.Blocks(title=task.title, analytics_enabled=False) as page:
        who = gr.BrowserState("", storage_key=f"votes-{study.name}", secret=sha256(f"votes-{study.name}")[:16])
        token, facts, invite = (gr.Textbox("", label=name, elem_id=name, **hidden) for name in ("token", "facts", "invite"))
        gr.HTML(f"<h1>{html.escape(study.task).translate(TEMPLATE)}</h1>")
        if simulated:
            gr.HTML(paragraph(f"This study is made for simulated raters: none of its {task.done} is a person's."))
        note, stage = gr.HTML("", elem_id="note"), gr.HTML("", elem_classes="never")
        with panel("consent"):
            gr.HTML(f"<h2>Before you begin</h2>{inert(study.consent, 'rendered')}")
            locked = bool(study.password_env and os.environ.get(study.password_env))
            password = gr.Textbox(label="Password of the study", type="password", visible=locked, max_length=200, elem_id="password")
            agree = gr.Button("I have read this and agree to take part", variant="primary", elem_classes="go")
        with panel("questions"):
            gr.HTML("<h2>About you</h2>")
            answers = [gr.Radio(ask.options, label=ask.text) for ask in study.questionnaire]
            answered = gr.Button("Go on", variant="primary", elem_classes="go")
        with panel("quiz"):
            gr.HTML("<h2>A short quiz</h2><p>So that everybody judges the same thing.</p>")
            tried = [gr.Radio(one.options, label=one.question) for one in study.quiz]
            tested = gr.Button("Go on", variant="primary", elem_classes="go")
        with panel("ballot"):
            progress, pair = gr.HTML(""), gr.HTML("")
            with gr.Row(elem_id="bar"):
                controls = task.controls()
            gr.HTML(f"<p>{task.below}You may close this page at any time and go on later.</p>")
            stop = gr.Button("Stop here for now", size="sm", elem_id="stop")
        with panel("end"):
            farewell = gr.HTML("")
            onward = gr.Button("Go on", variant="primary", elem_classes="go", elem_id="onward")
        with panel("leave"), gr.Accordion(f"Withdraw your {task.done}", open=False):
            code = gr.Textbox(label="Your withdrawal code", max_length=40)
            withdraw = gr.Button(f"Withdraw all my {task.done}", size="sm")
        with panel("organiser"):
            gr.HTML("<h2>Organiser</h2>")
            secret = gr.Textbox(label="Organiser's token", type="password", max_length=200)
            actions = {action: gr.Button(action.capitalize(), size="sm") for action in ("status", "pause", "resume")}
            counted = gr.HTML("")

        def show(rater: str, said: str = "", instead: str = "") -> dict:
            """Updates of all that a rater sees. `instead`: an end to show instead of where the rater stands."""
            try:
                at = instead or store.stage(rater)
                seen = store.next(rater) if at == "vote" else None
            except Refused as refused:
                return {who: rater, note: paragraph(str(refused))}
            if at == "vote":
                at = "ballot" if seen else "done"
            out = {who: rater, note: paragraph(said), token: "", progress: "", pair: "", farewell: ""}
            if seen:
                out |= {token: seen.token, progress: progress_html(seen.position, seen.total), pair: task.shown(seen)}
            if at not in PANELS:
                code = store.code(rater) if at in ("done", "break", "paused") else None
                kept = f"<p>Your withdrawal code, should you change your mind: <code>{code}</code>. Please write it down.</p>" if code else ""
                out[farewell] = f"<h2>{HEADINGS.get(at, 'The end')}</h2><p>{task.ends[at]}</p>{kept}"
            return out | {stage: f'<div id="stage" data-stage="{at if at in PANELS else f"end {at}"}"></div>'}

        outputs = [who, token, note, stage, progress, pair, farewell]

        def guarded(action):
            """A handler whose refusals are told to the rater; others are bugs."""

            def handler(request: gr.Request, rater, *values):  # Gradio puts the request where it stands here
                rater = rater if isinstance(rater, str) and re.fullmatch(r"[0-9a-f]{32}", rater) else ""
                try:
                    return action(rater, *values, address(request))
                except Refused as refused:
                    return show(rater, str(refused))

            return handler

        def agreed(rater, password, invite, at):
            return show(rater if store.stage(rater) != "consent" else store.join(at, str(password or ""), str(invite or "")[:200]))

        def told(rater, *values):
            given = dict(zip((ask.key for ask in study.questionnaire), values[:-1], strict=True))
            ends = [ask.ends[given[ask.key]] for ask in study.questionnaire if given[ask.key] in ask.ends]
            return show(rater, ends[0] if store.answer(rater, given) == "ended" and ends else "")

        def quizzed(rater, *values):
            passed = store.quiz(rater, list(values[:-1]))
            return show(rater, "" if passed or store.stage(rater) != "quiz" else "Not all of that was right. Please read the questions again; there is one more try.")

        def done(act, rater, token, facts, _):
            return show(rater, act(rater, str(token), str(facts)))

        def withdrawn(rater, code, at):
            if not store.withdraw(str(code)[:40], at):
                return show(rater, "This code is not known. Please check it.")
            return show(rater, f"The {task.done} with this code have been withdrawn.")

        def organised(action, rater, secret, at):
            try:
                counts = store.organise(str(secret), action, at)
            except Refused as refused:
                return paragraph(str(refused))
            return "<ul>" + "".join(f"<li>{html.escape(name)}: {value}</li>" for name, value in counts.items()) + "</ul>"

        page.load(guarded(lambda rater, _: show(rater)), [who], outputs, api_name="open", **quiet)
        agree.click(
            guarded(agreed),
            [who, password, invite],
            outputs,
            js="(who, password) => [who, password, new URLSearchParams(location.search).get('t') || '']",
            api_name="agree",
            **quiet,
        )
        answered.click(guarded(told), [who, *answers], outputs, api_name="answer", **quiet)
        tested.click(guarded(quizzed), [who, *tried], outputs, api_name="quiz", **quiet)
        for name, (button, act) in controls.items():
            js = f"(who, token) => [who, token, {task.facts}]"
            button.click(guarded(functools.partial(done, act)), [who, token, facts], outputs, js=js, api_name=name, **quiet)
        stop.click(guarded(lambda rater, _: show(rater, instead="break")), [who], outputs, api_name="stop", **quiet)
        onward.click(guarded(lambda rater, _: show(rater)), [who], outputs, api_name="go-on", **quiet)
        withdraw.click(guarded(withdrawn), [who, code], outputs, api_name="withdraw", **quiet)
        for action, button in actions.items():
            button.click(guarded(functools.partial(organised, action)), [who, secret], [counted], api_name=action, **quiet)
    return page


class Gate:
    """In front of Gradio's server: only what the page needs is answered, and no answer lets the browser fetch from elsewhere."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        path, start, body = scope["path"].removeprefix(scope.get("root_path", "").rstrip("/")) or "/", {}, []

        async def guarded(message):
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *((name.encode(), value.encode()) for name, value in HEADERS.items())]
                start.update(message)
            if path != "/":
                return await send(message)
            if message["type"] != "http.response.body":
                return  # the page itself is held back until it is whole: its length changes
            body.append(message.get("body", b""))
            if not message.get("more_body"):
                page = FOREIGN.sub(b"", b"".join(body))
                headers = [(name, value) for name, value in start["headers"] if name.lower() != b"content-length"]
                await send(start | {"headers": [*headers, (b"content-length", str(len(page)).encode())]})
                await send({"type": "http.response.body", "body": page})

        if path in SERVED or (path.startswith(SERVED_BELOW) and ".." not in path):
            # no compressed page, which could not be read here
            headers = [(name, value) for name, value in scope["headers"] if path != "/" or name.lower() != b"accept-encoding"]
            return await self.app(scope | {"headers": headers}, receive, guarded)
        await guarded({"type": "http.response.start", "status": 404, "headers": [(b"content-type", b"text/plain")]})
        await guarded({"type": "http.response.body", "body": b"not found"})


def options(files: str = "") -> dict:
    """What `launch` is given but for host and port. files: as in Task."""
    import gradio as gr
    from starlette.middleware import Middleware

    css, js = (path.read_text(encoding="utf-8") + (path.with_name(files + path.suffix).read_text(encoding="utf-8") if files else "") for path in (CSS, JS))
    return {
        "theme": gr.themes.Base(primary_hue="blue", font=FONTS, font_mono=["ui-monospace", "Consolas", "monospace"]),
        # not as `css`: Gradio puts its own container before each selector, and the stage stands at <html>
        "head": f"<style>{css}</style><script>{js}</script>",
        "app_kwargs": {"middleware": [Middleware(Gate)]},
        "share": False, "ssr_mode": False, "pwa": False, "mcp_server": False, "enable_monitoring": False, "footer_links": [], "max_file_size": "1kb",
        "show_error": False, "quiet": True,
        "_frontend": False,  # only leaves out a request to itself that must be answered in 3 s, and is not when 50 raters wait for a restarted server
    }  # fmt: skip


def quiet_gradio() -> None:
    """Before Gradio is imported: no telemetry, no look-ups, and its folder of temporary files not in the project."""
    os.environ.update(GRADIO_ANALYTICS_ENABLED="False", HF_HUB_DISABLE_TELEMETRY="1", DO_NOT_TRACK="1")
    os.environ.setdefault("GRADIO_TEMP_DIR", str(Path(tempfile.gettempdir()) / f"gradio-{os.getuid()}"))


def arguments(about: str, folder: str, study: Path) -> argparse.Namespace:
    """The command line of a page."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("folder", type=Path, help=folder)
    parser.add_argument("--study", type=Path, default=study)
    parser.add_argument("--host", default="0.0.0.0" if os.environ.get("SPACE_ID") else "127.0.0.1")
    parser.add_argument("--port", type=int, default=7860)
    parser.add_argument("--invites", type=int, metavar="N", help="print N invites instead of serving")
    return parser.parse_args()


def fetched(folder: Path) -> str:
    """The data set of the Hub that keeps the events of a page whose disk does not last (VOTES_REPO), or ""; what it holds of the study is fetched."""
    if repo := os.environ.get("VOTES_REPO", ""):
        quiet_gradio()
        hub.fetch(folder, repo)
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the last ones are sent when the machine is taken away
    return repo


def serve(given: argparse.Namespace, study: "Sessions", freezer: str, opened: Callable[[], Store], task: Callable[[Store], Task], repo: str = "") -> None:
    """Checks that the folder holds the study as it was frozen by the module `freezer`, and serves its page until Ctrl-C. repo: see `fetched`."""
    lock = read_json(given.folder / "study.lock.json")
    if study.name != lock["study"] or sha256((given.folder / "items.jsonl").read_bytes()) != lock["items_sha256"]:
        raise UserError(f"{given.folder} is not the study {study.name!r} of {given.study} as it was frozen: run `python -m {freezer}`, or name its settings (--study)")
    check_settings(study, lock)
    if given.invites:
        print("\n".join(f"?t={invite}" for invite in invites(given.folder, study, given.invites)))
        return
    quiet_gradio()
    store, keeper = opened(), None
    try:
        keeper = hub.keep(given.folder, repo, store.lock) if repo else None
        work = task(store)
        page = build(store, lock["simulated"], work)
        guard = "password or invite" if study.password_env and os.environ.get(study.password_env) else "OPEN TO EVERYBODY who has the address"
        organiser = "organiser at ?admin" if os.environ.get(study.admin_env) else f"no organiser's panel without {study.admin_env}"
        print(f"study {study.name!r} at http://{given.host}:{given.port}, {guard}; {organiser}; Ctrl-C ends it")
        page.launch(server_name=given.host, server_port=given.port, **options(work.files))
    except OSError:  # of which Gradio says only that it found no port
        raise UserError(
            f"port {given.port} of {given.host} cannot be had, another program may be using it: end that, or take another one with --port {given.port + 1}"
        ) from None
    finally:
        store.close()
        if keeper:
            keeper.end()


def main() -> None:
    given = arguments(__doc__, "out/votes/NAME, frozen by eval.ballot", studyfile.PATH)
    repo = fetched(given.folder)  # the design may lie there, too
    study = studyfile.load(given.study)
    serve(given, study, "eval.ballot", lambda: Store(given.folder, study), voting, repo)


if __name__ == "__main__":
    entry(main)
