"""The demo in a real Chromium: speak, drop, compare, download, and be told what is wrong. Nothing leaves."""

import contextlib
import json
import shutil
import sys
import threading
import time
from urllib.parse import urlsplit

import numpy as np
import pytest
import soundfile
from shown_checkpoints import page_of, save_checkpoints
from speechllm.cli.transcript_formats import FORMATS
from speechllm.demo.app import serving
from speechllm.demo.recognizers import load_recognizer
from speechllm.demo.transcription import Request

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver on the path"),
]
webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
from selenium.common.exceptions import StaleElementReferenceException  # noqa: E402  as it may be missing
from selenium.webdriver.chrome.service import Service  # noqa: E402  as it may be missing
from selenium.webdriver.common.by import By  # noqa: E402  as it may be missing

RATE = 16000
PATIENCE = 40


class Visitor:
    """Somebody in front of the page, who waits for what should come."""

    def __init__(self, driver, address):
        self.driver, self.address = driver, address

    def enter(self):
        """A page as it is when one comes to it."""
        self.driver.get(self.address)
        self.wait("#run")
        return self

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def wait(self, selector, text="", count=1):
        """The elements, once there are so many and the last says `text`."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            # What was found may be replaced meanwhile.
            with contextlib.suppress(StaleElementReferenceException):
                found = self.all(selector)
                if len(found) >= count and text in self.text(found[-1]):
                    return found
            time.sleep(0.1)
        raise AssertionError(f"no {selector} with {text!r}; the page says: {self.text(self.all('body')[0])}")

    def text(self, element):
        return self.driver.execute_script("return arguments[0].innerText", element) or ""

    def click(self, selector, text=""):
        """Press the first element that says `text`, once it is there and can be pressed."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            with contextlib.suppress(StaleElementReferenceException):
                for element in self.all(selector):
                    if text in self.text(element) and element.is_displayed() and element.is_enabled():
                        self.driver.execute_script("arguments[0].click()", element)
                        return
            time.sleep(0.1)
        raise AssertionError(f"nothing to press at {selector} with {text!r}")

    def drop(self, path):
        """Upload a file, and wait until the server has it."""
        self.wait("#audio input[type=file]")[0].send_keys(str(path))

    def choose(self, box, option):
        """An entry of a dropdown, which closes before a script could press it."""
        self.wait(f"#{box} input")[0].click()
        next(entry for entry in self.wait("ul[role=listbox] li") if option in self.text(entry)).click()

    def hear(self, path):
        """Drop a file and transcribe it."""
        self.drop(path)
        self.wait("#audio audio, #audio #waveform, #audio .waveform-container")
        self.click("#run")


@pytest.fixture(scope="module")
def reached():
    """Addresses that this process connects to or asks the names of, from now on."""
    found = []

    def note(event, arguments):
        if event == "socket.connect" and isinstance(arguments[1], tuple):
            found.append(arguments[1][0])
        elif event == "socket.getaddrinfo":
            found.append(arguments[0])

    sys.addaudithook(note)
    return found


@pytest.fixture(scope="module")
def gate():
    """Closed, it holds up the loading of checkpoints."""
    gate = threading.Event()
    gate.set()
    return gate


@pytest.fixture(scope="module")
def page(compose_whisper, bases, tmp_path_factory, gate):
    def load(source, bases):
        gate.wait(PATIENCE)
        return load_recognizer(source, bases)

    folders = save_checkpoints(compose_whisper, tmp_path_factory.mktemp("shown"))
    return page_of(folders, bases, load, most_megabytes=1, most_minutes=0.5)


@pytest.fixture(scope="module")
def sounds(tmp_path_factory, clips):
    """Files by name: a talk of 12 s, twice that, one of 40 s, one of 2 MB, and what is no sound."""
    folder = tmp_path_factory.mktemp("sounds")
    talk = np.concatenate(clips)
    soundfile.write(folder / "talk.wav", talk, RATE)
    soundfile.write(folder / "two_talks.wav", np.tile(talk, 2), RATE)
    soundfile.write(folder / "long.flac", np.tile(talk, 4)[: 40 * RATE] * 0.01, RATE)
    (folder / "corrupt.wav").write_bytes(b"RIFF\x00\x00\x00\x00WAVEfmt no sound" * 9)
    (folder / "huge.wav").write_bytes(bytes(2 << 20))
    return {path.stem: path for path in folder.iterdir()}


@pytest.fixture(scope="module")
def browser(page, sounds, reached, tmp_path_factory):
    """A visitor with a microphone into which `talk.wav` is spoken."""
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu",
        "--window-size=1280,1000", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-audio-capture={sounds['talk']}",
    ):  # fmt: skip
        options.add_argument(argument)
    downloads = tmp_path_factory.mktemp("downloads")
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    with serving(page, "127.0.0.1") as address:
        driver = webdriver.Chrome(options=options, service=Service(DRIVER))
        try:
            visitor = Visitor(driver, address)
            visitor.downloads = downloads
            yield visitor
        finally:
            driver.quit()


def expected(page, name, path, **asked):
    """What the page should find, computed without it."""
    return list(page.hearings(str(path), name, Request(**asked)))[-1]


def test_dropped_file_becomes_a_transcript_with_segments_and_every_download(browser, page, sounds):
    browser.enter().hear(sounds["talk"])
    browser.wait("#result .downloads a", count=4)
    transcript = expected(page, "routed", sounds["talk"]).transcript
    shown = browser.text(browser.all("#result .transcript .text")[0])
    assert " ".join(shown.split()) == " ".join(transcript.text.split())
    assert len(browser.all("#result .segments li")) == len(browser.all("#result .cue")) >= 1
    for form in FORMATS:
        link = browser.all(f"#result a[data-format={form}]")[0]
        browser.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", link)
        link.click()  # by a hand: scripts may not download several files
        path = browser.downloads / f"talk{FORMATS[form].suffix}"
        deadline = time.monotonic() + PATIENCE
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        assert path.read_text(encoding="utf-8") == FORMATS[form].render(transcript)


def test_router_scores_and_routings_are_shown_for_a_routed_checkpoint_alone(browser, page, sounds):
    browser.enter().choose("routing", "soft")
    browser.hear(sounds["talk"])
    bars = browser.wait("#result .languages li", count=3)
    hearing = expected(page, "routed", sounds["talk"], routing="soft")
    shown = {
        name: float(share.rstrip(" %")) for name, share in (browser.text(bar).split("\n") for bar in bars)
    }
    names = {"it": "Italian", "fr": "French", "el": "Greek"}
    assert shown == pytest.approx({names[k]: 100 * v for k, v in hearing.scores.items()}, abs=0.51)
    browser.choose("name", "plain")
    deadline = time.monotonic() + PATIENCE
    while any(box.is_displayed() for box in browser.all("#routing input")):
        assert time.monotonic() < deadline, "routings are still offered"


def test_pressing_a_segment_plays_it(browser, sounds):
    browser.enter().hear(sounds["talk"])
    browser.wait("#result .segments button")
    browser.click("#result .segments li:last-child button")
    start = float(browser.all("#result .segments li:last-child button")[0].get_attribute("data-start"))
    state = """
        const audio = document.querySelector("#result audio");
        return [audio.error === null, audio.currentTime, audio.duration];
    """
    deadline = time.monotonic() + PATIENCE
    while (found := browser.driver.execute_script(state))[1] < start or found[2] is None:
        assert time.monotonic() < deadline, found
    assert found[0] and found[2] == pytest.approx(12.2, abs=0.2)


def test_microphone_is_heard(browser):
    browser.enter().click("#audio button[aria-label='Record audio']")
    browser.click("#audio .record-button", "Record")
    browser.wait("#audio .stop-button", "Stop")
    time.sleep(2)
    browser.click("#audio .stop-button", "Stop")
    browser.wait("#audio .play-pause-button")
    browser.click("#run")
    browser.wait("#result .timeline")
    seconds = float(browser.all("#result .canvas")[0].get_attribute("data-duration"))
    # Its picture has sound in it: a silent microphone would be one thin line.
    outline = browser.all("#result .canvas path")[0].get_attribute("d")
    assert seconds > 1 and outline.count("0.988") < outline.count("L") / 2


def test_two_checkpoints_stand_side_by_side(browser, page, sounds):
    browser.enter().drop(sounds["talk"])
    browser.wait("#audio .play-pause-button")
    browser.click("#tabs button[role=tab]", "Compare")
    browser.choose("other", "plain")
    browser.click("#compare")
    cards = browser.wait("#compared article", "plain", count=2)
    for card, name in zip(cards, ("routed", "plain"), strict=True):
        text = expected(page, name, sounds["talk"]).transcript.text
        assert name in browser.text(card)
        assert "".join(text.split()) in "".join(browser.text(card).split())
    first, second = cards[0].rect, cards[1].rect
    assert first["y"] == second["y"] and second["x"] > first["x"] + first["width"]


def test_two_attentions_are_pictured(browser, sounds):
    browser.enter().choose("name", "dual")
    browser.hear(sounds["talk"])
    pictures = browser.wait("#result .inside img", count=3)
    widths = [browser.driver.execute_script("return arguments[0].naturalWidth", one) for one in pictures]
    assert widths[0] == widths[1] > widths[2] == 2


def test_an_example_is_transcribed_at_once_with_what_is_said_in_it(browser):
    browser.enter().click("#examples button", "Spanish")
    browser.wait("#quoted", "Las comadrejas")
    browser.wait("#result .downloads")


def test_long_sound_has_a_progress_bar(browser, sounds):
    browser.enter()
    browser.click("#settings button", "Settings")
    watch = """
        window.seen = [];
        new MutationObserver(() => {
          const bar = document.querySelector("#result [role=progressbar]");
          if (bar) window.seen.push(Number(bar.ariaValueNow));
        }).observe(document.querySelector("#result"), {subtree: true, childList: true});
        const box = document.querySelector("#settings input[type=number]");
        const setter = Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value").set;
        setter.call(box, 5); box.dispatchEvent(new Event("input", {bubbles: true}));
        box.dispatchEvent(new Event("blur", {bubbles: true}));
    """
    browser.wait("#settings input[type=number]")
    browser.driver.execute_script(watch)
    browser.hear(sounds["two_talks"])
    browser.wait("#result .downloads")
    seen = browser.driver.execute_script("return window.seen")
    assert seen and all(0 < share < 100 for share in seen)


def test_wrong_files_are_told_in_one_line(browser, sounds):
    browser.enter().drop(sounds["huge"])
    browser.wait(".toast-body, .toast-text", "exceed the maximum allowed size of 1")
    browser.enter().hear(sounds["corrupt"])
    browser.wait("#result [role=alert]", "corrupt.wav")
    browser.enter().hear(sounds["long"])
    browser.wait("#result [role=alert]", "long.flac lasts more than 0.5 min")
    browser.enter().click("#run")
    browser.wait("#result [role=alert]", "record something or drop a file first")
    # And one can go on.
    browser.click("#run")


def test_stopping_gives_the_buttons_back(browser, page, gate, sounds):
    browser.enter().choose("name", "plain")
    gate.clear()
    page.recognizers._loaded.clear()
    try:
        browser.hear(sounds["talk"])
        browser.wait("#result", "Loading")
        browser.click("#stop")
        browser.wait("#stop", "Stopping")
    finally:
        gate.set()
    browser.wait("#result", "Stopped")
    browser.click("#run")
    browser.wait("#result .downloads")


def test_who_comes_second_is_told_that_others_came_first(browser, page, sounds):
    page.visits.begin("somebody else")
    try:
        browser.enter()
        watch = """
            window.seen = "";
            new MutationObserver(() => window.seen += document.querySelector("#result").innerText)
              .observe(document.querySelector("#result"), {subtree: true, childList: true});
        """
        browser.driver.execute_script(watch)
        browser.hear(sounds["talk"])
        browser.wait("#result .downloads")
        assert "Others came first" in browser.driver.execute_script("return window.seen")
    finally:
        page.visits.end("somebody else")


@pytest.fixture(params=[1280, 390])
def width(browser, request):
    """Of the window, as on a desk and in a hand."""
    size = {"width": request.param, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    yield request.param
    browser.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_page_needs_no_scrolling_sideways(browser, sounds, width):
    browser.enter().choose("name", "dual")
    browser.hear(sounds["talk"])
    browser.wait("#result .inside")
    assert browser.driver.execute_script("return document.documentElement.scrollWidth") <= width


def test_what_is_pressed_lies_open_and_its_outcome_comes_into_view(browser, sounds, width):
    in_sight = """
        const box = document.querySelector(arguments[0]).getBoundingClientRect();
        const found = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
        return found !== null && found.closest(arguments[0]) !== null;
    """
    browser.enter()
    for button in ("#audio button[aria-label='Record audio']", "#audio button[aria-label='Upload file']"):
        assert browser.driver.execute_script(in_sight, button), button
    browser.click("#run")
    browser.wait("#result [role=alert]")
    deadline = time.monotonic() + PATIENCE
    while not browser.driver.execute_script(in_sight, "#result [role=alert]"):
        assert time.monotonic() < deadline, "the message is out of sight"


def test_a_long_transcript_does_not_run_under_its_button(browser, sounds, width):
    browser.enter().hear(sounds["talk"])
    browser.wait("#result .downloads")
    overlap = """
        const text = document.querySelector("#result .transcript .text");
        text.innerText = "word ".repeat(900);
        const button = document.querySelector("#result .copy").getBoundingClientRect();
        const card = document.querySelector("#result .transcript").getBoundingClientRect();
        return [text.getBoundingClientRect().bottom <= button.top, button.bottom <= card.bottom];
    """
    assert browser.driver.execute_script(overlap) == [True, True]


def test_nothing_left_this_machine(browser, reached):
    """Last: of all requests of all tests above."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.driver.get_log("performance")]
    urls = [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]
    assert len(urls) > 50
    assert {
        urlsplit(url).hostname for url in urls if urlsplit(url).scheme in ("http", "https", "ws", "wss")
    } == {"127.0.0.1"}
    assert set(map(str, reached)) <= {"127.0.0.1", "localhost", "::1", "0.0.0.0"}
