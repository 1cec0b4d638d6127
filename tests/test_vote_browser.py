"""The voting page in a real browser: whole sessions, what breaks them, hostile answers, accessibility.

    .venv/bin/python -m pytest tests/test_vote_browser.py -m slow -n 0
    SCREENS=out/screens .venv/bin/python -m pytest tests/test_vote_browser.py -m slow -n 0 -k serious    # and a PNG of every screen, to be looked at

Two processes serve what is tested: one with all studies of `STUDIES`, and for what is killed the real `python -m eval.vote`. Without a Chromium all is skipped.
"""

import functools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter, defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from browser import DESKTOP, PHONE, axe, browser  # noqa: F401  (fixture)
from conftest import ROOT

from datagen.files import write_jsonl
from eval import ballot, raters, votes
from eval.studyfile import Study
from tiny.serve import die_with_parent, free_port

pytestmark = pytest.mark.slow  # a browser, and Gradio's import
MINIMUM = 0.35  # seconds from a pair's appearance to a vote: above the page's own 0.3 and the studies' minimum_seconds
STAGE = "document.documentElement.dataset.stage"
SHOWN = "document.getElementById('pair').dataset.shown"
POSITION = "+document.getElementById('progress').innerText.split(' ')[0]"
TEXTS = "[...document.querySelectorAll('#pair .scroll > div')].map(element => element.innerText)"
NOTE = "document.getElementById('note').innerText.trim()"
PASSWORD, TOKEN = "open sesame", "the organiser's"

# ---------------------------------------------------------------- studies

NEUTRAL = "Plain and short, so that all that moves is the other's doing."


# Answers that would run a script, ask the beacon at B, or break the page, if they were not shown inert.
HOSTILE = [
    "<script>window.pwned = 1</script><script src='B/s.js'></script>",
    "<img src='B/i.png' onerror='window.pwned = 2'><svg onload='window.pwned = 3'><iframe src='B/f'></iframe>",
    "</div></section></main><style>body { display: none }</style><b>bold</b><h1>big</h1><button>Answer 1</button>",
    "[press](javascript:window.pwned=4) <a href='javascript:window.pwned=5' target=_top>here</a> [there](B/link)",
    "![beacon](B/m.png) ![ref][r] <B/auto> B/bare\n\n[r]: B/r.png",
    "${window.pwned = 6} {{window.pwned = 7}} `${window.pwned = 8}` {% raw %} \\u003cscript>window.pwned = 9</script>",
    "\u202eright to left override, never closed \u2067and an isolate \u2066 too \u202bembedded",
    "\u05e2\u05d1\u05e8\u05d9\u05ea, a Hebrew first letter (then English) 1, 2, 3!",
    "word " * 20_000,
    "W" * 100_000,
    "```\n" + "unbroken_code_" * 300 + "\n```\n\n" + "\n".join("| " + f"{cell} | " * 60 for cell in ("column", "--", "cell" * 9)),
    "<meta http-equiv=refresh content='0;url=B/meta'><base href='B/'><link rel=stylesheet href='B/c.css'><form action='B/form'><input autofocus></form>",
    "<details open ontoggle='window.pwned = 10'><summary>x</summary></details><video poster='B/p.png' src='B/v'></video>\x00\x07\x1b[31mred\x1b[0m",
    "\n" * 3_000 + "after many lines" + "\u0316\u0317\u0318" * 3_000,
]  # fmt: skip


def answers(texts: list[tuple[str, str, str]]) -> list[dict]:
    """Rows of answers.jsonl from (question, base, tuned)."""
    return [
        {"id": f"q{i}", "kind": "general", "messages": [{"role": "user", "content": question}], "base": base, "tuned": tuned, "finish": ["stop", "stop"]}
        for i, (question, base, tuned) in enumerate(texts)
    ]


ORDINARY = [
    (
        f"How do you like number {i}?",
        f"Preferences regarding the number {i} vary between individuals. " + "It is advisable to consider several aspects of the matter. " * (i % 9),
        f"Oh, {i}! 😀 **Love it**, my street had that one." + " And you, what is yours?" * (i % 4),
    )
    for i in range(60)
]
SHORT = {"questionnaire": [], "quiz": [], "gold": [], "gold_every": 100, "repeats": 0}
STUDIES = {
    "whole": (ORDINARY, {"votes_per_item": 50}),
    "brief": (ORDINARY[:4], SHORT | {"per_rater": 4, "votes_per_item": 50}),
    "locked": (ORDINARY[:2], SHORT | {"per_rater": 2, "votes_per_item": 50, "ties": False, "password_env": "LOCKED_PASSWORD", "admin_env": "LOCKED_TOKEN"}),
    "screens": ([], {"per_rater": 2, "gold": [], "gold_every": 100, "repeats": 0, "votes_per_item": 50, "password_env": "LOCKED_PASSWORD"}),
    "rendered": (ORDINARY[:5], SHORT | {"per_rater": 5, "votes_per_item": 50, "scale": "five", "markdown": "rendered", "emoji": "kept"}),
    "hostile": ([], SHORT | {"votes_per_item": 50}),
    "hostile-rendered": ([], SHORT | {"votes_per_item": 50, "markdown": "rendered"}),
}
SERVE = """
import sys
from pathlib import Path
from eval import studyfile, vote
from eval.votes import Store
vote.quiet_gradio()
for folder, port in zip(sys.argv[1::2], sys.argv[2::2]):
    page = vote.build(Store(Path(folder), studyfile.load(Path(folder) / "study.yaml")))
    page.launch(server_name="127.0.0.1", server_port=int(port), prevent_thread_lock=True, **vote.options())
page.block_thread()
"""


def freeze(out: Path, name: str, texts: list, changes: dict) -> tuple[Path, Study]:
    """A study frozen as `make vote` does it, from answers of a run of the same name."""
    (out / name).mkdir(parents=True)
    write_jsonl(out / name / "answers.jsonl", answers(texts))
    values = yaml.safe_load((ROOT / "eval/study.yaml").read_text()) | {"name": name, "runs": [name], "minimum_seconds": 0.3, "password_env": None} | changes
    design = Study(**values)
    folder, _, _ = ballot.freeze(design, out)
    (folder / "study.yaml").write_text(yaml.safe_dump(values, allow_unicode=True))
    return folder, design


class Site:
    """Where a study is served, and what its store has."""

    def __init__(self, folder: Path, design: Study, url: str):
        self.folder, self.design, self.url = folder, design, url

    def votes(self, code: str) -> list[dict]:
        """The votes of the rater with this withdrawal code, in their order."""
        events = votes.read_events(self.folder)
        rater = next(event["rater"] for event in events if event["type"] == "rater" and event["code"] == code)
        return [event for event in events if event["type"] == "vote" and event["rater"] == rater]

    def n_votes(self) -> int:
        return sum(event["type"] == "vote" for event in votes.read_events(self.folder))


@pytest.fixture(scope="module")
def beacon():
    """A server on another port of this machine, which a page could reach; the addresses that it was asked for."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(204)
            self.end_headers()

        do_POST = do_HEAD = do_OPTIONS = do_GET

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.url = asked, f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def sites(browser, beacon, tmp_path_factory):  # noqa: F811  (first the browser: without one nothing is served)
    out = tmp_path_factory.mktemp("out")
    home = tmp_path_factory.mktemp("home")
    texts = [text.replace("B/", f"{beacon.url}/") for text in HOSTILE]
    rows = [(f"Question {i}? {text if i in (1, 4, 6) else ''}", *((text, NEUTRAL) if i % 2 else (NEUTRAL, text))) for i, text in enumerate(texts)]
    special = {"hostile": rows, "hostile-rendered": rows, "screens": [("How was the show?", "It was received favourably. " * 40, "Loud! " * 30 + "x" * 200), ORDINARY[1]]}
    made, command = {}, []
    for name, (texts_of, changes) in STUDIES.items():
        texts_of = special.get(name, texts_of)
        folder, design = freeze(out, name, texts_of, {"per_rater": len(texts_of)} | changes if name.startswith("hostile") else changes)
        port = free_port()
        made[name] = Site(folder, design, f"http://127.0.0.1:{port}")
        command += [str(folder), str(port)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("STUDY_")}
    environment |= {"LOCKED_PASSWORD": PASSWORD, "LOCKED_TOKEN": TOKEN, "HOME": str(home), "PYTHONPATH": str(ROOT)}
    with open(out / "log", "wb") as log:
        process = subprocess.Popen([sys.executable, "-c", SERVE, *command], cwd=out, env=environment, stdout=log, stderr=log, preexec_fn=die_with_parent)
    try:
        for site in made.values():
            answered(site.url, lambda: process.poll() is None, out / "log")
        yield made
    finally:
        process.terminate()
        process.wait(20)


def answered(url: str, alive, log: Path, seconds: float = 150) -> None:
    """Waits until a page answers."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and alive():
        try:
            with urllib.request.urlopen(f"{url}/config", timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"{url} does not answer: {log.read_text(errors='replace')[-1500:]}")


# ---------------------------------------------------------------- what a rater does


def at(page, stage: str) -> None:
    page.until(f"{STAGE} === '{stage}'")


def opened(page, site, query: str = "") -> None:
    page.open(site.url + query)
    page.until(STAGE)


def enter(page, site) -> None:
    """From the first screen to the first pair, with the right answers."""
    opened(page, site)
    page.click("I have read this")
    if site.design.questionnaire:
        at(page, "questions")
        for option in ("25 to 34", "yes", "well (B2)", "every week"):
            page.click(option)
        page.click("Go on")
    if site.design.quiz:
        at(page, "quiz")
        for one in site.design.quiz:
            page.click(one.answer)
        page.click("Go on")
    at(page, "ballot")
    page.until(POSITION)


def vote(page, how) -> None:
    """One vote, as a rater gives it who has read; until the next pair or the end is there. how: a key, or what does it."""
    shown = page.js(SHOWN)
    page.until(f"performance.now() && {SHOWN} === '{shown}'")
    time.sleep(MINIMUM)
    if callable(how):
        how()
    else:
        page.press(how)
    page.until(f"!document.getElementById('pair') || {SHOWN} !== '{shown}'")


def code(page) -> str:
    return page.until("[...document.querySelectorAll('#panel-end code')].map(element => element.innerText)[0]")


def quiet(page, site) -> None:
    """Nothing was asked of others, nothing failed, nothing popped up."""
    assert page.foreign(site.url) == [] and page.errors == [] and page.dialogs == [] and page.refused == []


# ---------------------------------------------------------------- whole sessions


@pytest.mark.parametrize(("size", "layout", "using"), [(DESKTOP, "row", "mouse"), (PHONE, "stack", "touch")], ids=["desktop", "phone"])
def test_a_whole_session_with_a_break_and_a_return_leaves_each_vote_once(browser, sites, size, layout, using):  # noqa: F811
    site = sites["whole"]
    page = browser.page(size)
    enter(page, site)
    buttons = {"left": "Answer 1", "tie": "No difference", "right": "Answer 2"}
    given = [("left", "right", "tie", "left")[i % 4] for i in range(34)]
    assert page.until("document.getElementById('progress').innerText") == "1 of 34"
    for i in range(20):
        assert page.js(POSITION) == i + 1
        vote(page, lambda choice=given[i]: page.click_on(f"[...document.querySelectorAll('#bar button')].find(button => button.innerText.includes('{buttons[choice]}'))"))
    seen = page.js(TEXTS)
    page.click("Stop here for now")
    at(page, "end break")
    assert "votes are saved" in page.text() and len(site.votes(code(page))) == 20
    again = page.beside()  # the rater comes back later, in another tab
    page.close()
    opened(again, site)
    at(again, "ballot")
    assert again.until(POSITION) == 21 and again.js(TEXTS) == seen
    again.click("Stop here for now")
    at(again, "end break")
    again.click("Go on")
    at(again, "ballot")
    for i in range(20, 34):
        vote(
            again, lambda choice=given[i]: again.click_on(f"[...document.querySelectorAll('#bar button')].find(button => button.innerText.includes('{buttons[choice]}'))")
        )
    at(again, "end done")
    kept = site.votes(code(again))
    assert [event["choice"] for event in kept] == given and len({event["token"] for event in kept}) == 34
    assert Counter(event["kind"] for event in kept) == {"main": 30, "gold": 3, "repeat": 1}
    assert {event["layout"] for event in kept} == {layout} and {event["input"] for event in kept} == {using}
    assert all(0.3 <= event["seconds_client"] <= event["seconds_server"] for event in kept)
    quiet(again, site)


FOCUS = """(() => {
  const element = document.activeElement, box = element.getBoundingClientRect(), style = getComputedStyle(element), bar = document.getElementById("bar");
  const floor = bar && !bar.contains(element) && bar.getClientRects().length ? bar.getBoundingClientRect().top : innerHeight;
  return {
    tag: element.tagName, text: (element.innerText || (element.closest("label") || {}).innerText || element.getAttribute("aria-label") || "").trim(),
    ring: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2, seen: box.bottom > 0 && box.top < floor && box.top >= 0,
    checked: !!element.checked,
  };
})()"""


def focused(page) -> dict:
    """What has the focus; AssertionError where it cannot be seen."""
    focus = page.js(FOCUS)
    assert focus["tag"] != "BODY" and focus["ring"] and focus["seen"], f"the focus is lost or not to be seen: {focus}"
    return focus


def tab_to(page, text: str, most: int = 30) -> None:
    for _ in range(most):
        page.press("Tab")
        if text in focused(page)["text"]:
            return
    raise AssertionError(f"no way to {text!r} with {most} tabs")


def choose(page, option: str) -> None:
    """An option of the next group of radio buttons, with the arrow keys."""
    page.press("Tab")
    assert focused(page)["tag"] == "INPUT"
    page.press(" ")
    for _ in range(8):
        focus = focused(page)
        if focus["text"] == option and focus["checked"]:
            return
        page.press("ArrowDown")
    raise AssertionError(f"the arrows do not reach {option!r}")


def test_the_keyboard_alone_goes_from_the_first_screen_to_the_last(browser, sites):  # noqa: F811
    site = sites["whole"]
    page = browser.page()
    opened(page, site)
    page.until("document.querySelector('#panel-consent button')")
    tab_to(page, "I have read this")
    page.press("Enter")
    at(page, "questions")
    page.until(f"({FOCUS}).tag === 'H2'")
    assert focused(page)["text"] == "About you"
    for option in ("25 to 34", "no", "well (B2)", "every day"):
        choose(page, option)
    tab_to(page, "Go on")
    page.press("Enter")
    at(page, "quiz")
    page.until(f"({FOCUS}).tag === 'H2'")
    for one in site.design.quiz:
        choose(page, one.answer)
    tab_to(page, "Go on")
    page.press(" ")
    at(page, "ballot")
    page.until(f"({FOCUS}).text === 'Question'")
    given = []
    for i in range(34):
        if i in (7, 8):  # with Tab through the texts to a button, and on the same button once more
            if i == 7:
                tab_to(page, "No difference", 6)
            given.append("tie")
            vote(page, "Enter")
            assert focused(page)["text"].endswith("No difference")
        else:
            key = ("1", "ArrowRight", "0", "2", "ArrowLeft")[i % 5]
            given.append({"1": "left", "ArrowLeft": "left", "0": "tie"}.get(key, "right"))
            vote(page, key)
        if i == 10:
            tab_to(page, "Stop here", 9)
            page.press("Enter")
            at(page, "end break")
            page.until(f"({FOCUS}).text === 'A break'")
            tab_to(page, "Go on", 3)
            page.press("Enter")
            at(page, "ballot")
        if i < 33:
            page.until(f"({FOCUS}).tag !== 'BODY'")
            focused(page)
    at(page, "end done")
    page.until(f"({FOCUS}).text === 'The end'")
    kept = site.votes(code(page))
    assert [event["choice"] for event in kept] == given and {event["input"] for event in kept} == {"key"}
    quiet(page, site)


# ---------------------------------------------------------------- what breaks a session


def test_reload_and_back_button_show_the_same_pair_and_count_no_vote_twice(browser, sites):  # noqa: F811
    site = sites["brief"]
    page = browser.page()
    enter(page, site)
    vote(page, "1")
    seen = page.js(TEXTS)
    page.reload()
    assert page.until(POSITION) == 2 and page.js(TEXTS) == seen
    vote(page, "2")
    page.open(sites["locked"].url)
    page.back()
    page.until(f"{POSITION} === 3")
    vote(page, "1")
    page.back()
    page.back(-1)
    page.until(f"{POSITION} === 4")
    vote(page, "0")
    at(page, "end done")
    kept = site.votes(code(page))
    assert [event["choice"] for event in kept] == ["left", "right", "left", "tie"] and len({event["token"] for event in kept}) == 4


def test_two_tabs_show_one_pair_and_the_second_vote_on_it_is_told_and_not_counted(browser, sites):  # noqa: F811
    site = sites["brief"]
    one = browser.page()
    enter(one, site)
    other = one.beside()
    opened(other, site)
    assert other.until(POSITION) == 1 and other.js(TEXTS) == one.js(TEXTS)
    vote(one, "1")
    vote(other, "2")
    assert "counted before" in other.js(NOTE) and other.js(POSITION) == 2 and other.js(TEXTS) == one.js(TEXTS)
    for key in ("2", "2", "2"):
        vote(other, key)
    at(other, "end done")
    assert [event["choice"] for event in site.votes(code(other))] == ["left", "right", "right", "right"]
    vote_of_a_tab_left_behind = one.js(SHOWN)
    one.press("1")
    one.until(f"!document.getElementById('pair') || {SHOWN} !== '{vote_of_a_tab_left_behind}'")
    at(one, "end done")
    assert len(site.votes(code(one))) == 4


def test_a_double_click_ten_clicks_at_once_and_a_held_key_are_one_vote_each(browser, sites):  # noqa: F811
    site = sites["brief"]
    page = browser.page()
    enter(page, site)
    vote(page, lambda: page.click("Answer 1", times=2))
    assert page.js(POSITION) == 2
    vote(page, lambda: page.js("Array.from({length: 10}, () => document.getElementById('vote-2').click()) && 0"))
    assert page.js(POSITION) == 3
    vote(page, lambda: page.hold("0", 30))
    assert page.js(POSITION) == 4
    page.js("document.getElementById('vote-1').focus()")
    vote(page, lambda: page.hold("Enter", 30))
    at(page, "end done")
    assert [event["choice"] for event in site.votes(code(page))] == ["left", "right", "tie", "left"]


def test_a_lost_network_is_told_and_the_page_goes_on_by_itself_when_it_is_back(browser, sites):  # noqa: F811
    site = sites["brief"]
    page = browser.page()
    enter(page, site)
    vote(page, "1")
    seen = page.js(TEXTS)
    page.offline()
    time.sleep(MINIMUM)
    page.press("2")
    page.until("document.body.innerText.includes('Connection to the server was lost')")
    assert page.js(TEXTS) == seen and page.js(POSITION) == 2
    page.js("window.before = true")
    page.offline(False)
    page.until(f"!window.before && {POSITION} === 2")
    assert page.js(TEXTS) == seen
    for _ in range(3):
        vote(page, "2")
    at(page, "end done")
    assert [event["choice"] for event in site.votes(code(page))] == ["left", "right", "right", "right"]
    assert page.foreign(site.url) == [] and all("ERR_INTERNET_DISCONNECTED" in error for error in page.errors)


def test_a_killed_server_loses_no_confirmed_vote_and_the_page_goes_on_with_the_next_one(browser, tmp_path):  # noqa: F811
    folder, design = freeze(tmp_path / "out", "killed", ORDINARY[:6], SHORT | {"per_rater": 6})
    with raters.serving(folder, folder / "study.yaml", design) as server:
        site = Site(folder, design, server.url)
        answered(site.url, lambda: server.dead() is None, server.log)
        page = browser.page()
        enter(page, site)
        vote(page, "1")
        vote(page, "2")
        seen = page.js(TEXTS)
        server.end(signal.SIGKILL)
        time.sleep(MINIMUM)
        page.press("1")  # nobody hears it
        page.until("document.body.innerText.includes('Connection to the server was lost')")
        page.js("window.before = true")
        server.start()
        page.until(f"!window.before && {POSITION} === 3", 150)
        assert page.js(TEXTS) == seen and site.n_votes() == 2
        vote(page, "0")
        time.sleep(MINIMUM)
        page.press("2")  # and this one the server may hear before it dies
        server.end(signal.SIGKILL)
        counted = site.n_votes()
        assert counted in (3, 4)
        page.js("window.before = true")
        page.until("document.body.innerText.includes('Connection to the server was lost') || " + f"{POSITION} === 5")
        server.start()
        answered(site.url, lambda: server.dead() is None, server.log)
        page.open(site.url)
        page.until(f"{POSITION} === {counted + 1}")
        for _ in range(6 - counted):
            vote(page, "1")
        at(page, "end done")
        kept = site.votes(code(page))
        assert len(kept) == len({event["token"] for event in kept}) == 6 and [event["choice"] for event in kept[:3]] == ["left", "right", "tie"]
        assert page.foreign(site.url) == []


# ---------------------------------------------------------------- hostile answers

LAYOUT = """(() => {
  const box = element => { const {x, y, width} = element.getBoundingClientRect(); return [x, y + scrollY, width].map(Math.round) };
  const answers = [...document.querySelectorAll("#pair .answer")].map(box), bar = box(document.getElementById("bar"));
  const boxes = [...document.querySelectorAll("#pair .scroll")].map(element => element.clientHeight);
  return {answers, bar, boxes, wide: document.documentElement.scrollWidth > document.documentElement.clientWidth};
})()"""
# Letters of the page's own words that do not go from left to right on their line.
TURNED = """[...document.querySelectorAll("h1, h2, h3, p, button")].filter(element => {
  if (element.closest(".scroll") || !element.checkVisibility()) return false;
  const walk = document.createTreeWalker(element, NodeFilter.SHOW_TEXT), range = document.createRange();
  let last = null, node, wrong = false;
  while ((node = walk.nextNode())) for (let i = 0; i < node.length; i++) {
    range.setStart(node, i); range.setEnd(node, i + 1);
    const {left, top, width} = range.getBoundingClientRect();
    if (!width) continue;
    wrong ||= last && Math.abs(top - last[1]) < 2 && left < last[0];
    last = [left, top];
  }
  return wrong;
}).map(element => element.innerText)"""
INSIDE = """[...document.querySelectorAll("#pair *")].map(element => [element.tagName.toLowerCase(), ...element.getAttributeNames().filter(
  name => !["class", "dir", "start", "style", "tabindex", "role", "aria-label"].includes(name))].join(" "))"""
HARMLESS = {
    *("section", "div", "h2", "h3", "h4", "h5", "h6", "p", "em", "strong", "s", "ul", "ol", "li", "pre", "code", "blockquote", "br", "hr"),
    *("table", "thead", "tbody", "tr", "th", "td"),
}
SWAPPABLE = (
    "document.getElementById('pair').outerHTML.replace(/ data-shown=\"\\w+\"| tabindex=\"-1\"/g, '') + document.getElementById('bar').outerHTML.replace(' busy', '')"
)


def halves(text: str) -> tuple[str, tuple[str, str]]:
    """(the ballot's HTML with both answers cut out, the two answers)."""
    cut = re.compile(r'(?<=aria-label="Answer [12]">)(.*?)(?=</div></section>(?:<section class="answer">|</div></div>))', re.DOTALL)
    found = cut.findall(text)
    assert len(found) == 2
    return cut.sub("…", text), tuple(found)


@pytest.mark.parametrize("name", ["hostile", "hostile-rendered"])
def test_hostile_answers_are_inert_and_shift_nothing_and_sides_swapped_differ_in_nothing_else(browser, sites, beacon, name):  # noqa: F811
    site, ballots = sites[name], defaultdict(list)
    for _ in range(2):  # the second rater sees each item the other way round
        page = browser.page()
        enter(page, site)
        page.requests.clear()
        for _ in range(site.design.per_rater):
            question = page.js(TEXTS)[0].split("?")[0]
            ballots[question].append(page.js(SWAPPABLE))
            assert not set(page.js(INSIDE)) - HARMLESS - {"div data-shown"} and not re.search("[\u202a-\u202e\u2066-\u2069\x00\x07\x1b]", page.text())
            for size in (DESKTOP, PHONE):
                page.emulate(size)
                it = page.until(LAYOUT)
                one, other = it["answers"]
                assert not it["wide"] and one[2] == other[2], (question, size, it)
                assert (one[1] == other[1] and one[0] < other[0]) if size is DESKTOP else (one[0] == other[0] and one[1] < other[1]), (question, size, it)
                assert it["bar"][0] == 0 and it["bar"][2] == size.width and max(it["boxes"]) <= 0.82 * size.height + 2_000 * (size is PHONE), (question, size, it)
                assert page.js(TURNED) == [], (question, size)
            page.emulate(DESKTOP)
            vote(page, functools.partial(page.click, "Answer 2"))
        at(page, "end done")
        assert page.js("window.pwned === undefined") is True and page.dialogs == [] and page.errors == [] and beacon.asked == []
        assert set(page.requests) == {f"{site.url}/gradio_api/run/predict"} and page.js("location.href") == f"{site.url}/"
    assert len(ballots) == len(HOSTILE) and {len(both) for both in ballots.values()} == {2}
    for question, both in ballots.items():
        (frame, texts), (other_frame, other_texts) = map(halves, both)
        assert frame == other_frame and texts == other_texts[::-1] and texts[0] != texts[1], question


# ---------------------------------------------------------------- doors and options


def test_a_password_is_asked_for_and_an_invite_does_without_and_belongs_to_one_person(browser, sites, monkeypatch):  # noqa: F811
    site = sites["locked"]
    page = browser.page()
    opened(page, site)
    page.click("I have read this")
    page.until(f"{NOTE} === 'The password is not right.'")
    page.js("document.querySelector('input[type=password]').focus()")
    page.type("sesame?")
    page.click("I have read this")
    page.until(f"{NOTE} === 'The password is not right.'")
    page.js("document.querySelector('input[type=password]').select()")
    page.type(PASSWORD)
    page.click("I have read this")
    at(page, "ballot")
    assert page.js(NOTE) == "" and not page.js("!!document.getElementById('vote-0')")  # `ties: false`
    page.press("0")
    vote(page, "2")
    assert page.js(POSITION) == 2
    for token in (page.js("document.cookie"), json.dumps(page.js("({...localStorage})"))):
        assert PASSWORD not in token and TOKEN not in token
    monkeypatch.setenv("LOCKED_TOKEN", TOKEN)
    (invite,) = votes.invites(site.folder, site.design, 1)
    one, other, wrong = browser.page(), browser.page(PHONE), browser.page()
    for guest, ticket in ((one, invite), (other, invite), (wrong, invite[:-1] + ("0" if invite[-1] != "0" else "1"))):
        opened(guest, site, f"?t={ticket}")
        assert not guest.js("document.querySelector('input[type=password]').checkVisibility()")
        guest.click("I have read this")
    wrong.until(f"{NOTE}.startsWith('This invite link is not valid')")
    for guest in (one, other):
        at(guest, "ballot")
    assert one.until(TEXTS) == other.until(TEXTS)
    vote(one, "1")
    other.reload()
    assert other.until(POSITION) == 2 and other.js(TEXTS) == one.js(TEXTS)


def test_five_points_rendered_markdown_and_kept_emoji(browser, sites):  # noqa: F811
    site = sites["rendered"]
    page = browser.page()
    enter(page, site)
    labels = ["Answer 1, clearly", "Answer 1, rather", "Both alike", "Answer 2, rather", "Answer 2, clearly"]
    assert page.js("[...document.querySelectorAll('#bar button')].map(button => button.innerText)") == labels
    assert page.js("[...document.querySelectorAll('#pair strong')].map(element => element.innerText)") == ["Love it"] and "😀" in page.text() and "**" not in page.text()
    for key in ("1", "2", "3", "4", "5"):
        vote(page, key)
    at(page, "end done")
    assert [event["choice"] for event in site.votes(code(page))] == [-2, -1, 0, 1, 2]
    plain = browser.page()
    enter(plain, sites["brief"])
    assert "**Love it**" in plain.text() and "😀" not in plain.text()


def test_a_phone_hides_the_keys_and_its_buttons_are_large_enough_for_a_thumb(browser, sites):  # noqa: F811
    small = (
        "[...document.querySelectorAll('button, input[type=radio]')].map(element => [element.innerText, (element.closest('label') || element).getBoundingClientRect()])"
    )
    small += ".filter(([, box]) => box.width && (box.width < 24 || box.height < 24)).map(([text]) => text)"  # WCAG 2.2, 2.5.8
    for name in ("whole", "rendered"):
        for size in (PHONE, DESKTOP):
            page = browser.page(size)
            enter(page, sites[name])
            badge = page.js("getComputedStyle(document.getElementById('vote-1'), '::before').content")
            assert ("Keys: " in page.text(), badge) == ((False, "none") if size is PHONE else (True, '"1"'))
            assert page.js(small) == [] and not page.js("document.documentElement.scrollWidth > document.documentElement.clientWidth")
            assert page.js("[...document.querySelectorAll('#bar button')].every(button => button.scrollWidth <= button.clientWidth && button.clientHeight >= 44)")


# ---------------------------------------------------------------- every screen


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_no_screen_has_serious_faults_of_accessibility(browser, sites, size, dark):  # noqa: F811
    site = sites["screens"]
    page = browser.page(size, dark)

    def look(screen: str) -> None:
        if "SCREENS" in os.environ:
            page.screenshot(ROOT / os.environ["SCREENS"] / f"{screen}-{'phone' if size.touch else 'desktop'}-{'dark' if dark else 'light'}.png")
        assert axe(page) == [], screen
        assert page.js("document.querySelector('.dark') !== null") == dark and not page.js("document.documentElement.scrollWidth > document.documentElement.clientWidth")

    opened(page, site)
    page.until("document.querySelector('#panel-consent button').checkVisibility()")
    look("1-consent-and-password")
    page.click("I have read this")
    page.until(f"{NOTE} === 'The password is not right.'")
    in_sight = "(() => { const box = document.querySelector('#note p').getBoundingClientRect(); return box.top >= 0 && box.bottom <= innerHeight })()"
    assert page.js(in_sight)  # the button that it answers is far down
    look("2-wrong-password")
    page.js("document.querySelector('input[type=password]').focus()")
    page.type(PASSWORD)
    page.click("I have read this")
    at(page, "questions")
    look("3-about-you")
    page.click("Go on")
    page.until(f"{NOTE} === 'Please answer every question.'")
    assert page.js(in_sight)
    look("4-unanswered")
    for option in ("25 to 34", "yes", "well (B2)", "every week"):
        page.click(option)
    page.click("Go on")
    at(page, "quiz")
    look("5-quiz")
    for one in site.design.quiz:
        page.click(next(option for option in one.options if option != one.answer))
    page.click("Go on")
    page.until(f"{NOTE}.includes('one more try')")
    look("6-quiz-failed-once")
    for one in site.design.quiz:
        page.click(one.answer)
    page.click("Go on")
    at(page, "ballot")
    page.until(POSITION)
    look("7-ballot")
    page.click("Stop here for now")
    at(page, "end break")
    page.click("Withdraw your votes")
    page.until("document.querySelector('#panel-leave textarea, #panel-leave input').checkVisibility()")
    look("8-break")
    page.click("Go on")
    at(page, "ballot")
    vote(page, "1")
    vote(page, "2")
    at(page, "end done")
    code(page)
    look("9-end")
    quiet(page, site)
