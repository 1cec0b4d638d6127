"""Drives headless Chromium over DevTools, through a pair of pipes: real clicks, taps and keys, and every request that a page makes.

    from browser import DESKTOP, PHONE, axe, browser   # `browser` is a fixture: one Chromium for all tests of a module

    page = browser.page(PHONE, dark=True)
    page.open("http://127.0.0.1:7860/")
    page.click("Go on")
    page.until("document.title === 'Done'")
    assert page.foreign("http://127.0.0.1:7860") == [] and page.errors == [] and axe(page) == []

The browser is $CHROMIUM or one of NAMES in the path; where there is none, tests that ask for it are skipped with a reason that says how to get one. It resolves
no host but 127.0.0.1, so whatever a page asks of another fails, and is listed all the same. Each page has cookies and storage of its own (an incognito
context), or shares those of another (`page.beside()`: a second tab).
"""

import base64
import contextlib
import functools
import importlib.util
import itertools
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
HOW = "`apt-get install chromium` on Debian, or name a Chromium or Chrome in $CHROMIUM"
AXE = "axe-playwright-python==0.1.8"  # carries axe-core 4.12.1; without its dependencies, of which a file of JavaScript needs none
REPLY_SECONDS = 60
FLAGS = [
    "--headless", "--remote-debugging-pipe", "--disable-gpu", "--disable-dev-shm-usage", "--mute-audio", "--hide-scrollbars", "--force-color-profile=srgb",
    "--no-sandbox",  # it does not start as root, nor in most containers, and nothing but our own pages is opened
    "--no-first-run", "--disable-extensions", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-default-apps",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]  # fmt: skip
# Becomes the browser, which reads commands at descriptor 3 and writes answers and events to 4.
PLACE = """
import fcntl, os, sys
high = [fcntl.fcntl(int(one), fcntl.F_DUPFD_CLOEXEC, 10) for one in sys.argv[1:3]]
os.dup2(high[0], 3)
os.dup2(high[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
# key -> (code, virtual key code, text); letters and digits are made of themselves.
KEYS = {
    "Tab": ("Tab", 9, ""),
    "Enter": ("Enter", 13, "\r"),
    "Escape": ("Escape", 27, ""),
    " ": ("Space", 32, " "),
    "ArrowLeft": ("ArrowLeft", 37, ""),
    "ArrowUp": ("ArrowUp", 38, ""),
    "ArrowRight": ("ArrowRight", 39, ""),
    "ArrowDown": ("ArrowDown", 40, ""),
}

VISIBLE = "element => element.checkVisibility({visibilityProperty: true}) && element.getClientRects().length > 0"
# The innermost clickable thing that shows this text: exactly, else as a part of it.
FIND = f"""text => {{
  const visible = {VISIBLE}, said = element => (element.innerText || element.getAttribute("aria-label") || "").trim();
  const all = [...document.querySelectorAll("button, a, label, summary, [role=button]")].filter(visible);
  return all.find(element => said(element) === text) || all.find(element => said(element).includes(text)) || null;
}}"""


def keyed(key: str) -> tuple[str, int, str]:
    """(code, virtual key code, text) of a key by its DOM name."""
    return KEYS.get(key) or (f"{'Digit' if key.isdigit() else 'Key'}{key.upper()}", ord(key.upper()), key)


@dataclass(frozen=True)
class Size:
    """A window in CSS pixels; with `touch` a phone's: touch screen, no mouse, its layout."""

    width: int
    height: int
    touch: bool = False


DESKTOP, PHONE = Size(1280, 900), Size(390, 844, touch=True)


class Page:
    """A tab. All methods wait for the browser's answer; `until` and `click` wait for what they need, and fail with what the page shows instead."""

    def __init__(self, browser: "Browser", context: str, size: Size, dark: bool):
        self.browser, self.context, self.size = browser, context, size
        self.requests: list[str] = []  # every address asked for, data: and blob: too
        self.refused: list[tuple[int, str]] = []  # (status, address) of answers from 400 on
        self.errors: list[str] = []  # uncaught exceptions, and what stands in the console as an error
        self.dialogs: list[str] = []  # alert, confirm, prompt
        self.target = browser.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        self.session = browser.call("Target.attachToTarget", targetId=self.target, flatten=True)["sessionId"]
        browser.pages[self.session] = self
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")
        self.call("Target.setAutoAttach", autoAttach=True, waitForDebuggerOnStart=False, flatten=True)  # frames of other origins are processes of their own
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)  # several tabs, each as if in front
        self.emulate(size, dark)

    def call(self, method: str, **parameters: object) -> dict:
        return self.browser.call(method, self.session, **parameters)

    def heard(self, method: str, it: dict) -> None:
        """An event, in the reader's thread: nothing here may wait for an answer."""
        if method == "Network.requestWillBeSent":
            self.requests.append(it["request"]["url"])
        elif method == "Network.webSocketCreated":
            self.requests.append(it["url"])
        elif method == "Network.responseReceived" and it["response"]["status"] >= 400:
            self.refused.append((it["response"]["status"], it["response"]["url"]))
        elif method == "Runtime.exceptionThrown":
            details = it["exceptionDetails"]
            self.errors.append((details.get("exception") or {}).get("description") or details["text"])
        elif method == "Runtime.consoleAPICalled" and it["type"] == "error":
            self.errors.append(" ".join(str(value.get("value", value.get("description", ""))) for value in it["args"]))
        elif method == "Log.entryAdded" and it["entry"]["level"] == "error":
            self.errors.append(f"{it['entry']['text']} {it['entry'].get('url', '')}".strip())
        elif method == "Page.javascriptDialogOpening":
            self.dialogs.append(it["message"])
            self.browser.send("Page.handleJavaScriptDialog", self.session, accept=True)

    def emulate(self, size: Size | None = None, dark: bool = False) -> None:
        self.size = size or self.size
        self.call("Emulation.setDeviceMetricsOverride", width=self.size.width, height=self.size.height, deviceScaleFactor=1, mobile=self.size.touch)
        self.call("Emulation.setTouchEmulationEnabled", enabled=self.size.touch, maxTouchPoints=1)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])

    def offline(self, yes: bool = True) -> None:
        self.call("Network.emulateNetworkConditions", offline=yes, latency=0, downloadThroughput=-1, uploadThroughput=-1)

    # ------------------------------------------------------------ looking

    def js(self, expression: str) -> object:
        """The value of an expression, awaited where it is a promise. Raises AssertionError with what the page threw."""
        done = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True)
        if "exceptionDetails" in done:
            thrown = done["exceptionDetails"]
            raise AssertionError(f"{expression[:300]}\nthrew {(thrown.get('exception') or {}).get('description') or thrown['text']}")
        return done["result"].get("value")

    def until(self, expression: str, seconds: float = 60) -> object:
        """The first true value of an expression. Exceptions count as not yet: the page may be on its way."""
        end, last = time.monotonic() + seconds, None
        while time.monotonic() < end:
            try:
                if last := self.js(f"(async () => {{ const value = await ({expression}); return value instanceof Node || value }})()"):
                    return last
            except AssertionError as error:
                last = error
            time.sleep(0.02)
        raise AssertionError(f"not within {seconds} s: {expression[:500]}\nlast: {last}\nerrors: {self.errors[-3:]}\nthe page shows:\n{self.text()[:1500]}")

    def text(self) -> str:
        """What can be read on the page."""
        return str(self.js("document.body ? document.body.innerText : ''"))

    def screenshot(self, path: Path, whole: bool = False) -> None:
        """A PNG of the window, or of the whole page."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]))

    def foreign(self, home: str) -> list[str]:
        """Addresses that were asked for and are not of the server `home`, such as http://127.0.0.1:7860; data: and blob: lie in the page itself."""
        return [url for url in self.requests if urlsplit(url).scheme not in ("data", "blob", "about") and urlsplit(url).netloc != urlsplit(home).netloc]

    # ------------------------------------------------------------ doing

    def open(self, url: str) -> None:
        self._going("Page.navigate", url=url)

    def reload(self) -> None:
        self._going("Page.reload")

    def back(self, steps: int = 1) -> None:
        """The back button; -1 is forward."""
        history = self.call("Page.getNavigationHistory")
        self._going("Page.navigateToHistoryEntry", entryId=history["entries"][history["currentIndex"] - steps]["id"])

    def _going(self, method: str, **parameters: object) -> None:
        """Has the page go elsewhere, and waits until the old document is gone and the new one loaded."""
        mark = next(self.browser.numbers)  # a document that comes back from the cache may have been left before
        with contextlib.suppress(AssertionError):
            self.js(f"window.leaving = {mark}")
        done = self.call(method, **parameters)
        assert "errorText" not in done, f"{method} {parameters}: {done['errorText']}"
        self.until(f"window.leaving !== {mark} && document.readyState === 'complete'")

    def click(self, text: str, times: int = 1) -> None:
        """Clicks (taps, where there is touch) what shows this text, in its middle. AssertionError where something else lies there."""
        self.until(f"({FIND})({json.dumps(text)})")
        self.click_on(f"({FIND})({json.dumps(text)})", times)

    def click_on(self, element: str, times: int = 1) -> None:
        """As click, on what an expression gives."""
        x, y, hit = self.js(
            f"(async () => {{ const element = {element}; element.scrollIntoView({{block: 'center', behavior: 'instant'}});"
            " await new Promise(requestAnimationFrame); const box = element.getBoundingClientRect(), x = box.x + box.width / 2, y = box.y + box.height / 2;"
            " const there = document.elementFromPoint(x, y); return [x, y, !!there && (element.contains(there) || there.contains(element))] })()"
        )
        assert hit, f"something lies over {element[-80:]} at {x:.0f}, {y:.0f}"
        for count in range(1, times + 1):
            if self.size.touch:
                self.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
                self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
            else:
                for kind in ("mousePressed", "mouseReleased"):
                    self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=count)

    def press(self, *keys: str) -> None:
        """Keys by their DOM names, such as `Tab`, `Shift+Tab`, `Enter`, ` `, `ArrowLeft`, `1`."""
        for name in keys:
            shift, key = name.startswith("Shift+"), name.removeprefix("Shift+")
            code, number, text = keyed(key)
            it = {"key": key, "code": code, "windowsVirtualKeyCode": number, "modifiers": 8 if shift else 0}
            self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", **it, **({"text": text} if text else {}))
            self.call("Input.dispatchKeyEvent", type="keyUp", **it)

    def hold(self, key: str, repeats: int) -> None:
        """A key held down so long that it repeats."""
        code, number, text = keyed(key)
        it = {"key": key, "code": code, "windowsVirtualKeyCode": number, "text": text}
        for i in range(repeats + 1):
            self.call("Input.dispatchKeyEvent", type="keyDown", autoRepeat=i > 0, **it)
        self.call("Input.dispatchKeyEvent", type="keyUp", **it)

    def type(self, text: str) -> None:
        """Text into what has the focus."""
        self.call("Input.insertText", text=text)

    def beside(self) -> "Page":
        """A second tab of the same browser window: the same cookies and storage."""
        return Page(self.browser, self.context, self.size, False)

    def close(self) -> None:
        self.browser.pages.pop(self.session, None)
        self.browser.call("Target.closeTarget", targetId=self.target)


class Browser:
    """A Chromium of its own, with an empty profile, until `close`."""

    def __init__(self, program: str):
        self.profile = tempfile.mkdtemp(prefix="browser-")
        self.pages: dict[str, Page] = {}
        self.numbers, self.waiting, self.lock = itertools.count(1), {}, threading.Lock()
        inward, self.outward = os.pipe()
        self.inbox, back = os.pipe()
        command = [sys.executable, "-ISc", PLACE, str(inward), str(back), program, *FLAGS, f"--user-data-dir={self.profile}", "about:blank"]
        nothing = subprocess.DEVNULL
        self.process = subprocess.Popen(command, pass_fds=(inward, back), stdin=nothing, stdout=nothing, stderr=nothing, start_new_session=True)
        os.close(inward)
        os.close(back)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        self.version = self.call("Browser.getVersion")["product"]

    def _read(self) -> None:
        """Hands answers to who waits for them, and events to their page."""
        left = b""
        while data := os.read(self.inbox, 1 << 20):
            *messages, left = (left + data).split(b"\0")
            for message in map(json.loads, messages):
                if "id" in message:
                    waiting = self.waiting.pop(message["id"], None)
                    if waiting:
                        waiting.put(message)
                elif page := self.pages.get(message.get("sessionId")):
                    if message["method"] == "Target.attachedToTarget":  # a frame or a worker of this page: what it asks for counts as the page's
                        child = message["params"]["sessionId"]
                        self.pages[child] = page
                        self.send("Network.enable", child)
                    page.heard(message["method"], message["params"])
        for waiting in list(self.waiting.values()):
            waiting.put({"error": {"message": "the browser has ended"}})

    def send(self, method: str, session: str | None = None, **parameters: object) -> queue.Queue:
        """Sends a command; its answer will be in the queue that is returned."""
        answer: queue.Queue = queue.Queue()
        with self.lock:
            number = next(self.numbers)
            self.waiting[number] = answer
            data = json.dumps({"id": number, "method": method, "params": parameters} | ({"sessionId": session} if session else {})).encode() + b"\0"
            while data:
                data = data[os.write(self.outward, data) :]
        return answer

    def call(self, method: str, session: str | None = None, **parameters: object) -> dict:
        """The result of a command. AssertionError where the browser refuses it or gives no answer."""
        try:
            message = self.send(method, session, **parameters).get(timeout=REPLY_SECONDS)
        except queue.Empty:
            raise AssertionError(f"the browser gave no answer to {method} for {REPLY_SECONDS} s") from None
        assert "error" not in message, f"{method}: {message['error']['message']}"
        return message["result"]

    def page(self, size: Size = DESKTOP, dark: bool = False) -> Page:
        """A tab with cookies and storage of its own."""
        return Page(self, self.call("Target.createBrowserContext")["browserContextId"], size, dark)

    def close(self) -> None:
        with contextlib.suppress(AssertionError, OSError):
            self.call("Browser.close")
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)  # its own session: it and its children, nothing else
            self.process.wait()
        self.reader.join(10)
        os.close(self.outward)
        os.close(self.inbox)
        shutil.rmtree(self.profile, ignore_errors=True)


def program() -> str | None:
    """The path of the first browser that runs, or None. Ubuntu has a chromium-browser that only says where to get one."""
    named = os.environ.get("CHROMIUM")
    for path in filter(None, map(shutil.which, (named,) if named else NAMES)):
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            if subprocess.run([path, "--version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=60).returncode == 0:
                return path
    return None


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all tests of a module."""
    if not (path := program()):
        pytest.skip(f"no browser: $CHROMIUM is {os.environ.get('CHROMIUM') or 'not set'}, and none of {', '.join(NAMES)} in the path runs; {HOW}")
    running = Browser(path)
    yield running
    running.close()


# ---------------------------------------------------------------- accessibility


@functools.cache
def axe_script() -> str | None:
    """axe-core, from the package that carries it, or None."""
    found = importlib.util.find_spec("axe_playwright_python")
    path = Path(found.origin).with_name("axe.min.js") if found and found.origin else None
    return path.read_text(encoding="utf-8") if path and path.is_file() else None


def axe(page: Page, grave: tuple[str, ...] = ("serious", "critical")) -> list[str]:
    """What axe-core finds of these impacts (minor, moderate, serious, critical): rule, impact and the elements, a line each. Skips the test without axe."""
    if (script := axe_script()) is None:
        pytest.skip(f"no axe: .venv/bin/python -m pip install --no-deps {AXE}")
    page.js(f"window.axe || (() => {{ {script} }})(), 0")
    found = page.js("axe.run(document, {resultTypes: ['violations']}).then(found => found.violations.map(one => [one.id, one.impact, one.nodes.map(node => node.html)]))")
    return [f"{rule} ({impact}): {' | '.join(html[:160] for html in nodes[:3])}" for rule, impact, nodes in found if impact in grave]
