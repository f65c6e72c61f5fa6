"""The page in a real browser: what is typed comes out translated, and can be looked into."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="needs pip install 'dragoman[browser]', as .ci/run does"
)
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect  # noqa: E402
from running import RunningServer, running_server  # noqa: E402

from server.access.key_command import add_key  # noqa: E402

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, which .ci/run installs")
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    with running_server("--http-port", "0") as server:
        yield server


@pytest.fixture
def page(browser: Browser, server: RunningServer) -> Iterator[Page]:
    """The page, opened; at the end it has asked no other host and complained of nothing."""
    context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    complaints: list[str] = []
    foreign: list[str] = []

    def listen(message: ConsoleMessage) -> None:
        # Of a refusal Chromium tells by itself.
        refusal = message.text.startswith("Failed to load resource")
        if message.type in {"error", "warning"} and not refusal:
            complaints.append(message.text)

    def watch(request: Request) -> None:
        if not request.url.startswith(server.http_url):
            foreign.append(request.url)

    page.on("console", listen)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", watch)
    page.goto(server.http_url)
    yield page
    context.close()
    assert complaints == []
    assert foreign == []


def test_a_text_is_translated_as_it_is_typed(page: Page) -> None:
    page.locator("#source").press_sequentially("I love you. Where is the nearest station?", delay=5)
    expect(page.locator("#target")).to_contain_text("我愛你")
    expect(page.locator("#target")).to_contain_text("車站")
    expect(page.locator("#target")).to_have_attribute("aria-busy", "false")
    expect(page.locator("#detected")).to_have_text("Detected: English")
    expect(page.locator("#timing")).to_contain_text(re.compile(r"decode \d+\.\d .* tokens"))
    expect(page.locator("#model")).to_contain_text("en-zh-TW")
    _picture(page, "page")


def test_the_translation_streams_in(page: Page) -> None:
    long = "The old man walked slowly along the river and looked at the boats. " * 25
    page.evaluate(
        """() => {
          window.seen = [];
          const target = document.getElementById("target");
          new MutationObserver(() => window.seen.push(target.textContent.length))
            .observe(target, {childList: true, subtree: true, characterData: true});
        }"""
    )
    page.locator("#source").fill(long)
    expect(page.locator("#done")).to_have_text("Translation done", timeout=30_000)
    lengths = page.evaluate("() => window.seen")
    assert len({length for length in lengths if length}) > 10


def test_alternatives_are_given(page: Page) -> None:
    page.locator("#source").fill("This book is too difficult for me to read.")
    expect(page.locator("#done")).to_have_text("Translation done")
    page.get_by_text("Alternatives").click()
    candidates = page.locator("#alternatives-list li li")
    expect(candidates).to_have_count(4)
    texts = candidates.locator("span:nth-child(2)").all_inner_texts()
    assert len(set(texts)) > 1


def test_attention_is_a_heat_map_that_tells_of_each_piece(page: Page) -> None:
    page.locator("#source").fill("The cat drinks milk.")
    page.locator("#attention summary").click()
    rows = page.locator("#attention-map tbody tr")
    expect(rows.first).to_be_visible()
    columns = page.locator("#attention-map thead th").all_inner_texts()
    assert "cat" in [text.strip() for text in columns]
    cat = rows.filter(has=page.locator("th", has_text="貓"))
    cat.locator("td").nth(0).hover()
    expect(page.locator("#attention-words")).to_contain_text("貓 looked at")
    expect(page.locator("#attention-words")).to_contain_text("cat")
    mean = page.locator("#attention-map td[data-t='0'][data-s='0']").get_attribute("title")
    page.get_by_label("Layer").select_option(label="decoder 1")
    page.get_by_label("Head").select_option(label="1")
    one = page.locator("#attention-map td[data-t='0']").evaluate_all(
        "cells => cells.map(c => c.title)"
    )
    assert len(one) == len(columns)
    assert mean is not None
    page.locator("#attention-map td[data-t='0'][data-s='0']").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    assert page.evaluate(
        "() => [document.activeElement.dataset.t, document.activeElement.dataset.s]"
    ) == ["1", "1"]
    _picture(page, "attention")


def test_the_translation_can_be_copied(page: Page) -> None:
    page.locator("#source").fill("Good morning.")
    expect(page.locator("#copy")).to_be_enabled()
    page.locator("#copy").click()
    expect(page.locator("#copy")).to_have_text("Copied")
    copied = page.evaluate("() => navigator.clipboard.readText()")
    assert copied == page.locator("#target").inner_text()


def test_a_refusal_is_told(page: Page) -> None:
    page.locator("#source").fill("a" * 100_001)
    expect(page.locator("#problem")).to_contain_text("characters", timeout=15_000)
    page.locator("#source").fill("Good morning.")
    expect(page.locator("#target")).to_contain_text("早")
    expect(page.locator("#problem")).to_be_hidden()


def test_load_is_shown(page: Page) -> None:
    page.locator("#source").fill("I have two cats and a dog.")
    expect(page.locator("#load-words")).to_contain_text("tokens/s", timeout=10_000)
    expect(page.locator("#sparkline-rate")).to_have_attribute("points", re.compile(r"\d"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
def test_it_fits_every_screen_in_light_and_dark(
    browser: Browser, server: RunningServer, scheme: Literal["light", "dark"], width: int
) -> None:
    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 800})
    page = context.new_page()
    page.goto(server.http_url)
    page.locator("#source").fill("What time does the train leave?")
    expect(page.locator("#target")).to_contain_text("火車")
    page.locator("#attention summary").click()
    expect(page.locator("#attention-map tbody tr").first).to_be_visible()
    inside = page.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth")
    assert inside, "the page scrolls sideways"
    for name, ratio in page.evaluate(_CONTRAST):
        assert ratio >= 4.5, f"{name} has a contrast of {ratio:.2f}"
    _picture(page, f"{scheme}-{width}")
    context.close()


def test_every_control_has_a_name_and_can_be_reached_by_keyboard(page: Page) -> None:
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, select, textarea, input, summary")]
          .filter((e) => !(e.labels?.length || e.textContent.trim() || e.ariaLabel
            || e.getAttribute("aria-labelledby"))).map((e) => e.id || e.tagName)"""
    )
    assert nameless == []
    reached = set()
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate("() => document.activeElement.id || document.activeElement.tagName")
        )
    assert {"from", "to", "source", "target", "SUMMARY"} <= reached


def test_a_server_with_keys_asks_for_one(browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    key = add_key(file, "me", {}, admin=False)
    with running_server("--http-port", "0", "--key-file", str(file)) as server:
        page = browser.new_page()
        page.goto(server.http_url)
        expect(page.locator("#access")).to_be_visible()
        page.locator("#key").fill(key)
        page.locator("#key").press("Tab")
        expect(page.locator("#to")).to_have_value("zh-TW")
        page.locator("#source").fill("I love you")
        expect(page.locator("#target")).to_contain_text("我愛你")
        page.close()


_CONTRAST = """() => {
  const channels = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => {
    const [r, g, b] = channels(color).map((v) => v / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const color = getComputedStyle(e).backgroundColor;
      if ((channels(color)[3] ?? 1) > 0.99) return color;
    }
    return "rgb(255, 255, 255)";
  };
  const texts = ["h1", "h2", "#source", "#target", "#timing", "#detected", "summary", ".hint",
    "#load-words", "footer", "label"];
  return texts.map((name) => {
    const element = document.querySelector(name);
    const [one, other] = [light(getComputedStyle(element).color), light(ground(element))];
    return [name, (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05)];
  });
}"""


def _picture(page: Page, name: str) -> None:
    """Keep a screenshot where somebody wants to look at it."""
    folder = os.environ.get("PAGE_PICTURES")
    if folder:
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)
