"""Raters in a real browser: headless Chromium works through the pages of a study.

Needs Chromium with its driver, and jsPsych from npm; without them the tests are skipped with the reason.
"""

import json
import shutil
import time

import pytest
from small_study import Process, some_study, write_study

from spade_xai.study.answers import read_answers
from spade_xai.study.folder import read_study
from spade_xai.study.store import Store

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
webdriver = pytest.importorskip("selenium.webdriver")

from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

PATIENCE = 30  # seconds for a page, on a busy machine
TASKS = 5  # of a rater: four images and a repetition


class Rater:
    """A browser with one rater in it."""

    def __init__(self, profile):
        options = webdriver.ChromeOptions()
        for argument in (
            "--headless=new",
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--disable-gpu",
        ):
            options.add_argument(argument)
        options.add_argument(f"--user-data-dir={profile}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        options.add_experimental_option("prefs", {"download.default_directory": str(profile)})
        service = webdriver.ChromeService(shutil.which("chromedriver"))
        self.browser = webdriver.Chrome(options=options, service=service)

    def until(self, what):
        """The first true value of what()."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            try:
                found = what()
            except Exception:  # the page changes while it is looked at
                found = None
            if found:
                return found
            time.sleep(0.02)
        raise AssertionError(self.browser.find_element(By.TAG_NAME, "body").text)

    def buttons(self):
        return {
            b.text: b for b in self.browser.find_elements(By.CSS_SELECTOR, "button, a.jspsych-btn")
        }

    def press(self, text):
        def click():
            for label, button in self.buttons().items():
                if text in label and button.is_enabled():
                    button.click()
                    return True
            return False

        self.until(click)

    def key(self, key):
        self.browser.find_element(By.TAG_NAME, "body").send_keys(key)

    def text(self):
        return self.browser.find_element(By.TAG_NAME, "html").text

    def begin(self, url):
        """Consent, instructions by keyboard, practice."""
        self.browser.get(url)
        self.press("I agree")
        for page in (
            "What this is about",
            "What you will see",
            "How to choose",
            "When you cannot tell",
        ):
            self.until(lambda page=page: page in self.text())
            self.key(Keys.ARROW_RIGHT)
        self.press("Right part")
        self.until(lambda: "That is right." in self.text())
        self.press("Next")
        self.press("Neither fits")
        self.until(lambda: "That is right." in self.text())
        self.press("Next")
        self.press("Begin")

    def at(self, number, of=TASKS):
        """Wait for a task."""
        self.until(lambda: f"Task {number} of {of}" in self.text() and "Left part" in self.text())

    def shown(self):
        """The pictures of the task."""
        images = self.browser.find_elements(By.CSS_SELECTOR, ".pair img, .region img")
        return [image.get_attribute("src") for image in images]

    def errors(self):
        return [entry for entry in self.browser.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.fixture
def raters(tmp_path):
    """Starts browsers."""
    if shutil.which("chromedriver") is None:
        pytest.skip("chromedriver is not installed (Debian: chromium chromium-driver)")
    open_ones = []

    def start():
        open_ones.append(Rater(tmp_path / f"profile{len(open_ones)}"))
        return open_ones[-1]

    yield start
    for rater in open_ones:
        rater.browser.quit()


@pytest.fixture
def folder(tmp_path, jspsych):
    made = tmp_path / "study"
    write_study(made, some_study(made), library=str(jspsych))
    return made


@pytest.fixture
def server(folder):
    running = []

    def start(port=0):
        running.append(Process(folder, port))
        return running[-1]

    yield start
    for process in running:
        process.kill()


def kept(folder):
    study = read_study(folder, check_files=False)
    store = Store(folder / "answers.sqlite", study)
    answers = store.answers()
    store.close()
    return answers


def test_one_rater_with_a_reload_a_kill_and_a_restart(folder, server, raters):
    first = server()
    rater = raters()
    rater.begin(first.url)
    rater.at(1)
    rater.key(Keys.ARROW_LEFT)
    rater.at(2)
    before = rater.shown()
    assert len(set(before)) == 4
    rater.browser.refresh()
    rater.press("Go on")  # no second consent
    rater.at(2)
    assert rater.shown() == before
    rater.key("b")
    rater.at(3)
    assert "Your code: " in rater.text()
    first.kill()
    rater.press("Right part")
    rater.until(lambda: "There is no connection" in rater.text())
    server(first.port)
    rater.at(4)
    assert "There is no connection" not in rater.text()
    rater.key("n")
    rater.at(5)
    rater.key(Keys.ARROW_RIGHT)
    rater.until(lambda: "All your answers are saved" in rater.text())
    answers = kept(folder)
    assert [a.choice for a in answers] == ["left", "both", "right", "neither", "right"]
    assert [a.position for a in answers] == list(range(TASKS))
    assert len({a.rater for a in answers}) == 1 and answers[0].rater in rater.text()
    assert all(0 < a.milliseconds < 1000 * PATIENCE for a in answers)
    refused = [e for e in rater.errors() if "ERR_CONNECTION" not in e["message"]]
    assert refused == []


def test_two_raters_at_once_then_one_withdraws(folder, server, raters):
    url = server().url
    two = [raters(), raters()]
    for rater in two:
        rater.begin(url)
    for number in range(1, TASKS + 1):
        for rater, key in zip(two, (Keys.ARROW_LEFT, Keys.ARROW_RIGHT), strict=True):
            rater.at(number)
            rater.key(key)
    for rater in two:
        rater.until(lambda rater=rater: "Thank you" in rater.text())
        assert rater.errors() == []
    study = read_study(folder)
    answers = read_answers(folder, study)
    by_rater = {
        name: [a for a in answers if a.rater == name] for name in {a.rater for a in answers}
    }
    assert sorted({a.choice for a in own}.pop() for own in by_rater.values()) == ["left", "right"]
    # consecutive raters see each image once without and once with SPADE
    assert len({(a.image, a.condition) for a in answers if not a.repeat}) == 8
    two[0].press("Done")
    two[0].until(lambda: "You can close this page" in two[0].text())
    two[0].browser.refresh()  # somebody else at the same computer
    two[0].until(lambda: "I agree" in two[0].text())
    two[1].press("Delete my answers")
    two[1].until(lambda: "Your answers are deleted" in two[1].text())
    assert [a.choice for a in kept(folder)] == ["left"] * TASKS


def test_a_rater_whose_answers_were_deleted_is_told_so(folder, server, raters):
    rater = raters()
    rater.begin(server().url)
    rater.at(1)
    rater.key(Keys.ARROW_LEFT)
    rater.at(2)
    study = read_study(folder, check_files=False)
    store = Store(folder / "answers.sqlite", study)
    assert store.delete(store.answers()[0].rater) == 1
    store.close()
    rater.key(Keys.ARROW_LEFT)
    rater.until(lambda: "Your answers were deleted" in rater.text())
    assert kept(folder) == []


def test_without_consent_nothing_is_kept(folder, server, raters):
    rater = raters()
    rater.browser.get(server().url)
    rater.press("No, thank you")
    rater.until(lambda: "Nothing was kept" in rater.text())
    assert kept(folder) == []


def test_narrow_pages_do_not_scroll_sideways(server, raters):
    rater = raters()
    metrics = {"width": 400, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    rater.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def fits():
        return rater.browser.execute_script(
            "return [document.documentElement, document.body].every((e) => e.scrollWidth <= innerWidth)"
        )

    rater.browser.get(server().url)
    rater.until(lambda: "I agree" in rater.text())
    assert fits()
    rater.begin(rater.browser.current_url)
    rater.at(1)
    assert fits()
    named = rater.browser.find_elements(
        By.CSS_SELECTOR, "#jspsych-html-button-response-btngroup button"
    )
    assert [b.accessible_name.strip() for b in named] == [
        "Left part",
        "Right part",
        "Both fit",
        "Neither fits",
    ]


def test_the_same_folder_as_plain_files(folder, raters, tmp_path):
    rater = raters()
    page = (folder / "site" / "index.html").as_uri()
    rater.begin(f"{page}?list=3")
    rater.at(1)
    rater.key(Keys.ARROW_LEFT)
    rater.at(2)
    rater.browser.refresh()
    rater.press("Go on")
    for number in range(2, TASKS + 1):
        rater.at(number)
        rater.key(Keys.ARROW_LEFT)
    rater.until(lambda: "Download the answers" in rater.text())
    link = rater.browser.find_element(By.CSS_SELECTOR, "a[download]")
    result = rater.browser.execute_async_script(
        "fetch(arguments[0].href).then((r) => r.json()).then(arguments[1])", link
    )
    file = tmp_path / "answers.json"
    file.write_text(json.dumps(result))
    study = read_study(folder)
    answers = read_answers(folder, study, [file, file])  # twice the same is once
    assert len(answers) == TASKS and {a.choice for a in answers} == {"left"}
    tasks = [study.tasks[slot.task].id for slot in study.lists[3]]
    assert [a.task for a in answers] == tasks
    assert rater.errors() == []


@pytest.mark.parametrize("host", ["save", "jatos"])
def test_other_hosts_are_given_the_answers(folder, raters, host):
    site = folder / "site"
    if host == "save":
        (site / "host.js").write_text(
            'window.STUDY_HOST = { kind: "files", save: async (r) => { document.title = JSON.stringify(r); } };'
        )
    else:
        site = site.rename(folder / "publix")  # as the address of a study in JATOS has it
        (site / "jatos.js").write_text(
            "window.jatos = { onLoad: (f) => f(), endStudy: (r) => { document.title = JSON.stringify(r); } };"
        )
    rater = raters()
    rater.begin((site / "index.html").as_uri())
    for number in range(1, TASKS + 1):
        rater.at(number)
        rater.key("n")
    rater.press("Done")
    rater.until(lambda: rater.browser.title.startswith("{"))
    result = json.loads(rater.browser.title)
    assert result["format"] == "spade_xai.Answers.1" and len(result["answers"]) == TASKS
