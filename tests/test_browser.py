"""The driver of browser tests says what a page does, and axe finds what is wrong.  .venv/bin/python -m pytest tests/test_browser.py -m slow"""

import base64

import pytest
from browser import AXE, DESKTOP, NAMES, PHONE, axe, browser, program  # noqa: F401  (fixture)
from conftest import ROOT


def shown(body: str) -> str:
    """A page of its own, as an address."""
    return (
        "data:text/html;base64,"
        + base64.b64encode(f"<!doctype html><html lang=en><meta name=viewport content='width=device-width'><title>t</title><main>{body}</main>".encode()).decode()
    )


def test_without_a_browser_there_is_none_and_a_named_one_is_taken_alone(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CHROMIUM", raising=False)
    assert program() is None
    for name, status in ((NAMES[1], 1), (NAMES[2], 0), ("other", 0)):
        (tmp_path / name).write_text(f"#!/bin/sh\nexit {status}\n")
        (tmp_path / name).chmod(0o755)
    assert program() == str(tmp_path / NAMES[2])  # the one before it does not run
    monkeypatch.setenv("CHROMIUM", "other")
    assert program() == str(tmp_path / "other")
    monkeypatch.setenv("CHROMIUM", "/nowhere/chromium")
    assert program() is None


def test_the_package_that_carries_axe_is_the_one_that_make_installs():
    assert f"AXE := {AXE}\n" in (ROOT / "Makefile").read_text()


@pytest.mark.slow
def test_a_page_that_asks_elsewhere_is_listed_and_gets_no_answer(browser):  # noqa: F811
    page = browser.page()
    page.open(shown("<img src='https://example.com/a.png'><img src='http://192.0.2.1/b.png'><iframe src='http://192.0.2.1/c'></iframe><p id=p>here</p>"))
    page.until("[...document.images].every(image => image.complete)")
    page.js("fetch('https://example.org/d').catch(() => 0).then(() => 0)")
    assert {"https://example.com/a.png", "http://192.0.2.1/b.png", "http://192.0.2.1/c", "https://example.org/d"} == set(page.foreign("http://127.0.0.1:1"))
    assert page.js("[...document.images].map(image => image.naturalWidth)") == [0, 0] and any("ERR_NAME_NOT_RESOLVED" in error for error in page.errors)


@pytest.mark.slow
def test_clicks_taps_keys_dialogs_and_errors_are_those_of_the_page(browser):  # noqa: F811
    body = "<input><button onclick='window.clicks = (window.clicks || 0) + 1; alert(`hello`)' onpointerdown='window.by = event.pointerType'>press me</button>"
    page = browser.page(DESKTOP)
    page.open(shown(body))
    page.click("press me")
    page.until("window.clicks === 1 && window.by === 'mouse'")
    page.emulate(PHONE, dark=True)
    page.click("press")
    page.until("window.clicks === 2 && window.by === 'touch'")
    assert page.dialogs == ["hello", "hello"] and page.js("[innerWidth, matchMedia('(prefers-color-scheme: dark)').matches]") == [390, True]
    page.js("document.querySelector('input').focus()")
    page.press("a", "1", " ")
    page.type("é")
    assert page.js("document.querySelector('input').value") == "a1 é"
    page.press("Tab")
    assert page.js("document.activeElement.tagName") == "BUTTON"
    page.press("Enter")
    page.until("window.clicks === 3")
    page.js("setTimeout(() => { throw new Error('a fault') }) && 0")
    page.until("new Promise(resolve => setTimeout(() => resolve(true), 50))")
    assert len(page.errors) == 1 and "a fault" in page.errors[0]
    with pytest.raises(AssertionError, match="something lies over"):
        page.js("document.body.insertAdjacentHTML('beforeend', '<div style=\"position: fixed; inset: 0\"></div>')")
        page.click("press me")


@pytest.mark.slow
def test_axe_finds_a_picture_without_words_and_letters_that_can_hardly_be_read(browser):  # noqa: F811
    page = browser.page()
    page.open(shown("<h1>t</h1><img src='data:,'><p style='color: #999; background: #fff'>pale</p>"))
    assert [line.split()[0] for line in axe(page)] == ["color-contrast", "image-alt"]
    page.open(shown("<h1>t</h1><p>dark</p>"))
    assert axe(page, ("minor", "moderate", "serious", "critical")) == []
