"""The pages of detection studies and of the collection in a real browser: whole sessions, reloads, two tabs, the back button, a killed server.

.venv/bin/python -m pytest tests/test_detect_browser.py -m slow -n 0
SCREENS=out/screens .venv/bin/python -m pytest tests/test_detect_browser.py -m slow -n 0       # and a PNG of every screen, to be looked at
"""

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import yaml
from browser import DESKTOP, PHONE, axe, browser  # noqa: F401  (fixture)
from conftest import ROOT, Endpoint
from test_detect import VALUES, design

from datagen.files import write_text
from datagen.roleplay.record import read
from eval import collectstore, detectdesign
from eval.detectstore import joined
from tiny.serve import die_with_parent, free_port

pytestmark = pytest.mark.slow  # a browser, and Gradio's import
COLLECTION = yaml.safe_load((ROOT / "eval/collection.yaml").read_text())
SCREENS = os.environ.get("SCREENS")
STAGE, NOTE = "document.documentElement.dataset.stage", "document.getElementById('note').innerText.trim()"
POSITION = "+document.getElementById('progress').innerText.split(' ')[0]"
PRESSED = "[...document.querySelectorAll('[aria-pressed=true]')].map(element => element.innerText || element.getAttribute('aria-label'))"


def look(page, name):
    """Keeps a picture, if they are asked for."""
    if SCREENS:
        page.screenshot(Path(SCREENS) / f"{name}.png")


def go_back(page):
    """The back button. Page.back would wait for a new document, and the browser may bring the old one back to life."""
    history = page.call("Page.getNavigationHistory")
    page.call("Page.navigateToHistoryEntry", entryId=history["entries"][history["currentIndex"] - 1]["id"])


class Server:
    """The real page of a study in a process of its own, which can be killed and started again at the same address."""

    def __init__(self, module: str, folder: Path, study: Path, cwd: Path | None = None, **environment: str):
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/"
        self.command = [sys.executable, "-m", module, folder, "--study", study, "--port", self.port]
        self.environment = os.environ | {"PYTHONPATH": str(ROOT)} | environment
        self.folder, self.cwd = folder, cwd or folder.parent
        self.process = None
        self.start()

    def start(self) -> None:
        self.log = (self.cwd / "page.log").open("ab")
        self.process = subprocess.Popen(list(map(str, self.command)), cwd=self.cwd, env=self.environment, stdout=self.log, stderr=self.log, preexec_fn=die_with_parent)
        end = time.monotonic() + 120
        while time.monotonic() < end:
            with contextlib.suppress(OSError), urllib.request.urlopen(self.url, timeout=5) as answer:
                if answer.status == 200:
                    return
            assert self.process.poll() is None, (self.cwd / "page.log").read_text()
            time.sleep(0.2)
        raise AssertionError((self.cwd / "page.log").read_text())

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.log.close()


def serving(module, study, folder, **environment):
    """The page of a frozen design."""
    write_text(folder.parent / "design.yaml", json.dumps(study.model_dump(mode="json")))
    return Server(module, folder, folder.parent / "design.yaml", **environment)


@pytest.fixture(scope="module")
def detection(tmp_path_factory):
    folder = tmp_path_factory.mktemp("detection")
    changes = {"questionnaire": VALUES["questionnaire"][1:2], "quiz": VALUES["quiz"][1:2], "gold_every": 6, "participants": 8, "minimum_seconds": 0.3}
    study = design(folder, persons=8, **changes)
    server = serving("eval.detect", study, detectdesign.freeze(study, folder / "out")[0])
    yield server
    server.kill()


@pytest.fixture
def said(detection):
    """The answers of those who came during a test, in their order."""
    folder = detection.cwd / "detection"
    before = {row["participant"] for row in joined(folder)[0]}
    return lambda: [row for row in joined(folder)[0] if row["participant"] not in before]


def admitted(page, url, prefix=None):
    """Through consent, questionnaire and quiz to the first pair."""
    page.open(url)
    page.until(f"{STAGE} === 'consent'", 90)
    if prefix:
        look(page, f"{prefix}-consent")
    page.click("I have read this and agree to take part")
    page.until(f"{STAGE} === 'questions'")
    page.click("well (B2)")
    page.click("Go on")
    page.until(f"{STAGE} === 'quiz'")
    page.click("Not sure")
    page.click("Go on")
    page.until(f"{STAGE} === 'ballot'")
    page.until("document.querySelectorAll('.utterance').length > 0")


def at(page, n):
    page.until(f"{STAGE} === 'ballot' && {POSITION} === {n}")
    time.sleep(0.4)


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_a_whole_session_with_a_reload_in_the_middle_and_the_back_button(browser, detection, said, size, request):  # noqa: F811
    name = f"detect-{request.node.callspec.id}"
    page = browser.page(size)
    admitted(page, detection.url, name)
    at(page, 1)
    look(page, f"{name}-pair")
    page.click_on("document.getElementById('say')")  # nothing chosen yet
    page.until(f"{NOTE}.includes('which dialogue is artificial')")
    time.sleep(0.4)
    page.click("Dialogue 2") if size.touch else page.press("2")
    page.click_on("document.querySelector('#answer [data-confidence=\"3\"]')")
    page.click_on("document.querySelector('.utterance[data-side=right][data-number=\"1\"]')")
    page.until("document.getElementById('picked').innerText.startsWith('Utterance 1 of dialogue 2')")
    look(page, f"{name}-chosen")
    before = page.js(PRESSED)
    page.reload()  # in the middle of an answer
    at(page, 1)
    assert page.js(PRESSED) == before and len(before) == 3
    page.click_on("document.getElementById('say')")
    at(page, 2)
    assert page.js(PRESSED) == []  # the next pair begins with nothing chosen
    page.open("about:blank")
    go_back(page)
    at(page, 2)
    page.click("Not sure")
    page.click_on("document.querySelector('#answer [data-confidence=\"1\"]')")
    page.click_on("document.getElementById('say')")
    at(page, 3)
    n = 3
    while page.js(STAGE) == "ballot":
        page.press("1", "8", "ArrowDown", "ArrowDown", "Enter") if not size.touch else [
            page.click_on(f"document.querySelector('{what}')")
            for what in ('[data-choice="left"]', '[data-confidence="2"]', '.utterance[data-side="left"][data-number="2"] .pick', "#say")
        ]
        n += 1
        page.until(f"{STAGE} !== 'ballot' || {POSITION} === {n}")
        time.sleep(0.4)
    page.until(f"{STAGE} === 'end done'")
    look(page, f"{name}-end")
    rows = said()
    assert len(rows) == 7 == n - 1 and [row["kind"] for row in rows].count("gold") == 1
    told = [(row["choice"], row["confidence"], row["utterance"]) for row in rows]
    assert told[:2] == [("right", 3, 1), ("unsure", 1, None)] and set(told[2:]) == {("left", 2, 2)}
    assert page.foreign(detection.url) == [] and page.errors == []
    assert page.js("document.documentElement.scrollWidth <= innerWidth")


def test_two_tabs_a_killed_server_and_hurried_clicks_give_each_pair_one_answer(browser, detection, said):  # noqa: F811
    page = browser.page(DESKTOP)
    admitted(page, detection.url)
    other = page.beside()
    other.open(detection.url)
    at(other, 1)
    at(page, 1)
    page.press("0", "9", "Enter")
    at(page, 2)
    other.press("1", "7", "ArrowDown", "Enter")  # a pair that is done
    other.until(f"{NOTE}.includes('counted before')")
    at(other, 2)
    detection.kill()
    page.press("2", "8", "ArrowDown", "Enter")
    time.sleep(1)
    detection.start()
    page.reload()
    at(page, 2)
    assert len(page.js(PRESSED)) == 3  # what was begun is still there
    page.click_on("document.getElementById('say')", times=2)
    at(page, 3)
    assert [(row["choice"], row["confidence"]) for row in said()] == [("unsure", 3), ("right", 2)]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_pair_has_no_grave_fault_of_accessibility(browser, detection, dark):  # noqa: F811
    page = browser.page(DESKTOP, dark=dark)
    admitted(page, detection.url)
    at(page, 1)
    page.press("1", "8", "ArrowDown")
    look(page, f"detect-{'dark' if dark else 'light'}")
    assert axe(page) == []


# ---------------------------------------------------------------- the collection


@pytest.fixture(scope="module")
def chatbot():
    """A responder whose answers say what they answer."""
    server = Endpoint()
    server.script = lambda body: f"You said: {body['messages'][-1]['content']}"
    yield server
    server.close()


@pytest.fixture(scope="module")
def collection(tmp_path_factory, chatbot):
    folder = tmp_path_factory.mktemp("collection")
    for name in ("datagen", "tiny"):  # the design names files of the project; replies are stored here
        (folder / name).symlink_to(ROOT / name)
    was = Path.cwd()
    os.chdir(folder)
    try:
        values = COLLECTION | {"quiz": [], "password_env": None, "per_rater": 2}
        write_text(folder / "design.yaml", yaml.safe_dump(values, sort_keys=False))
        place = collectstore.freeze(collectstore.load(folder / "design.yaml"), folder / "out")[0]
    finally:
        os.chdir(was)
    server = Server("eval.collect", place, folder / "design.yaml", cwd=folder, OPENAI_BASE_URL=chatbot.url)
    yield server
    server.kill()


def let_in(page, url, prefix=None):
    page.open(url)
    page.until(f"{STAGE} === 'consent'", 90)
    page.click("I have read this and agree to take part")
    page.until(f"{STAGE} === 'questions'")
    for answer in ("yes", "25-to-34-year-old", "Hispanic or Latino", "woman", "holds a doctoral degree", "is not a native speaker of English"):
        page.click(answer)
    if prefix:
        look(page, f"{prefix}-form")
    page.click("Go on")
    page.until(f"{STAGE} === 'ballot' && !!document.getElementById('chat')")


MESSAGES = "[...document.querySelectorAll('.message .typed')].map(element => element.innerText)"


def write(page, text):
    page.click_on("document.getElementById('text')")
    page.type(text)


def send(page, text):
    n = page.js(f"{MESSAGES}.length")
    write(page, text)
    time.sleep(0.4)
    page.click("Send")
    page.until(f"{MESSAGES}.length === {n + 2}")


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_a_whole_collection_with_a_reload_the_back_button_and_a_second_tab(browser, collection, size, request):  # noqa: F811
    name, page = f"collect-{request.node.callspec.id}", browser.page(size)
    let_in(page, collection.url, name)
    assert "Your partner is an AI" in page.text()
    send(page, "hello there")
    write(page, "half a mess")
    page.reload()  # what was typed and what was said are still there
    page.until(f"{MESSAGES}.length === 2 && document.getElementById('text').value === 'half a mess'", 60)
    write(page, "age")
    time.sleep(0.4)
    page.click("Send")
    page.until(f"{MESSAGES}.length === 4")
    assert page.js(MESSAGES) == ["hello there", "You said: hello there", "half a message", "You said: half a message"]
    look(page, f"{name}-chat")
    page.open("about:blank")
    go_back(page)
    page.until(f"{MESSAGES}.length === 4", 60)
    other = page.beside()
    other.open(collection.url)
    other.until(f"{MESSAGES}.length === 4", 60)
    send(page, "third")
    write(other, "from the other tab")
    time.sleep(0.4)
    other.click("Send")
    other.until(f"{NOTE}.includes('another tab')")
    assert other.js(f"{MESSAGES}.length") == 6 and other.js("document.getElementById('text').value") == "from the other tab"
    other.close()
    page.click("I have reached my goal")
    page.until(f"{POSITION} === 2 && {MESSAGES}.length === 0")
    page.click("Go on without")
    page.until(f"{STAGE} === 'end done'")
    look(page, f"{name}-end")
    made = read(collection.folder / "dialogues.jsonl")[-2:]
    assert [one.end_reason for one in made] == ["finished", "given_up"]
    assert [prompt for prompt, _ in made[0].exchanges] == ["hello there", "half a message", "third"] and made[0].persona.features["education"] == "doctorate"
    assert page.foreign(collection.url) == [] and page.errors == [] and page.js("document.documentElement.scrollWidth <= innerWidth")


def test_a_responder_that_fails_and_a_killed_server_lose_no_message(browser, collection, chatbot):  # noqa: F811
    page = browser.page(DESKTOP)
    let_in(page, collection.url)
    script, chatbot.script = chatbot.script, lambda body: (400, "not now")
    try:
        write(page, "are you there?")
        time.sleep(0.4)
        page.click("Send")
        page.until(f"{NOTE}.includes('Your message is saved')", 60)
        look(page, "collect-fault")
    finally:
        chatbot.script = script
    collection.kill()
    collection.start()
    page.reload()
    page.until(f"{MESSAGES}.length === 2", 60)  # the page asked again by itself
    assert page.js(MESSAGES) == ["are you there?", "You said: are you there?"]
    assert axe(page) == []
