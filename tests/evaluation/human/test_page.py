"""The page for raters: what is in the file, and rating in a real browser, headless."""

import base64
import io
import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import CHROMIUM, DRIVER, ELEMENT, KEYS, Browser
from PIL import Image

from vrd_d2.evaluation.human.page import write_page
from vrd_d2.evaluation.human.ratings import Manifest, read_manifest, read_ratings
from vrd_d2.evaluation.human.report import human_report
from vrd_d2.evaluation.human.study import Entity, Item, Study, StudyImage
from vrd_d2.tasks import Task

NASTY = "</script><img src=x onerror=hacked=1>"
LEFT, BACKSPACE, PAGE_DOWN = "\ue012", "\ue003", "\ue00f"


def make_study(folder: Path, study_id: str = "abc") -> Study:
    """Two images with three and two relations, and names that would be markup."""
    rng = np.random.default_rng(0)
    images = []
    for number, (width, height) in enumerate(((200, 100), (60, 90))):
        path = folder / f"{number}.png"
        Image.fromarray(rng.integers(0, 255, (height, width, 3), np.uint8)).save(path)
        entities = [
            Entity("man", (0.1 * width, 0.2 * height, 0.4 * width, 0.9 * height)),
            Entity(NASTY, (0.5 * width, 0, width + 3, 0.5 * height)),
            Entity("hat", (0.1 * width, 0.2 * height, 0.1 * width, 0.2 * height)),
        ]
        items = [Item("r1", 0, "riding", 1), Item("r2", 1, NASTY, 0), Item("r3", 0, "wearing", 2)]
        if number:
            items = [Item("r4", 2, "on", 0), Item("r5", 0, "near", 0)]
        ids = [item.id for item in items]
        ranked = {"secret-a": ids[::-1], "secret-b": ids[:1]}
        images.append(StudyImage(number, str(path), width, height, entities, items, ranked))
    models = {"secret-a": "secret/a.jsonl", "secret-b": "secret/b.jsonl"}
    return Study(study_id, models, images, Task.PREDCLS, 3, 0, 9)


def embedded(page: str) -> dict:
    return json.loads(re.search(r'id="study">(.*?)</script>', page, re.DOTALL)[1])


# --- The file ---


def test_page_holds_everything_and_asks_for_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new/page.html"
    write_page(make_study(tmp_path), path, title=f"{NASTY} {{{{study}}}}", max_side=100)
    page = path.read_text(encoding="utf-8")
    assert "default-src 'none'" in page
    assert not re.search(r"(https?:)?//[a-z]|@import|url\((?!#)", page.split('id="study">')[0])
    assert not re.search(r"""\b(src|href)=["'](?!data:)""", page)
    assert NASTY not in page and page.count("</script>") == 3
    assert "&lt;img src=x onerror=hacked=1&gt; {{study}}</title>" in page
    assert "secret" not in page and "ranked" not in page and str(tmp_path) not in page
    study = embedded(page)
    assert study["pictures"][0]["entities"][1]["label"] == NASTY
    assert study["pictures"][0]["entities"][0]["box"] == [0.1, 0.2, 0.4, 0.9]
    assert study["pictures"][0]["entities"][1]["box"] == [0.5, 0, 1, 0.5]  # cut at the edge
    assert [len(image["relations"]) for image in study["pictures"]] == [3, 2]
    sizes = []
    for image in study["pictures"]:
        kind, data = image["source"].split(",")
        assert kind == "data:image/jpeg;base64"
        sizes.append(Image.open(io.BytesIO(base64.b64decode(data))).size)
    assert sizes == [(100, 50), (60, 90)]  # smaller, never larger


def test_images_that_do_not_fit(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    Image.new("RGB", (20, 20)).save(tmp_path / "1.png")
    with pytest.raises(ValueError, match=r"1\.png.*20 x 20.*60 x 90"):
        write_page(study, tmp_path / "page.html")
    (tmp_path / "0.png").unlink()
    with pytest.raises(ValueError, match=r"0\.png"):
        write_page(study, tmp_path / "page.html")
    with pytest.raises(ValueError, match=r"max_side.* 1"):
        write_page(study, tmp_path / "page.html", max_side=1)
    with pytest.raises(ValueError, match=r"quality.* 100"):
        write_page(study, tmp_path / "page.html", quality=100)


# --- In the browser ---


class RaterBrowser(Browser):
    """A browser whose downloads go to a folder."""

    def __init__(self, downloads: Path) -> None:
        super().__init__()
        self.downloads = downloads
        params = {"behavior": "allow", "downloadPath": str(downloads)}
        command = {"cmd": "Browser.setDownloadBehavior", "params": params}
        self._call("POST", f"{self._session}/goog/cdp/execute", **command)

    def keys(self, *texts: str) -> None:
        """Press keys: names of KEYS, or characters one after the other."""
        self.press(*(key for text in texts for key in ([text] if text in KEYS else text)))

    def mouse(self, selector: str) -> None:
        self.click(self.find(selector))

    def choose_file(self, selector: str, path: Path) -> None:
        element = f"{self._session}/element/{self.find(selector)[ELEMENT]}"
        self._call("POST", f"{element}/value", text=str(path))

    def reload(self) -> None:
        self._call("POST", f"{self._session}/refresh")

    def text(self, selector: str) -> str:
        return self.run("return document.querySelector(arguments[0]).textContent.trim()", selector)

    def is_open(self, selector: str) -> bool:
        return self.run("return document.querySelector(arguments[0]).open", selector)


def wait(condition: Callable[[], Any]) -> Any:
    """What the condition returns once it is true."""
    end = time.monotonic() + 120
    while not (value := condition()):
        assert time.monotonic() < end, "the browser did not do it in time"
        time.sleep(0.1)
    return value


@pytest.fixture(scope="module")
def rater_browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RaterBrowser]:
    if not DRIVER or not CHROMIUM:
        pytest.skip("no browser: install Debian's chromium and chromium-driver")
    try:
        opened = RaterBrowser(tmp_path_factory.mktemp("downloads"))
    except RuntimeError as error:
        pytest.skip(str(error))
    yield opened
    opened.close()


@pytest.fixture
def browser(rater_browser: RaterBrowser, tmp_path: Path) -> Iterator[RaterBrowser]:
    """A browser that shows the page for the first time; in the end nothing may have gone wrong."""
    write_page(make_study(tmp_path), tmp_path / "page.html", title=NASTY)
    rater_browser.open(tmp_path / "page.html")
    rater_browser.run("localStorage.clear()")
    rater_browser.reload()
    rater_browser.messages()
    yield rater_browser
    assert rater_browser.messages() == []
    assert not rater_browser.run("return 'hacked' in window")


def answers(browser: RaterBrowser, name: str = "Ann") -> dict[str, str]:
    """What the browser keeps for a rater."""
    saved = browser.run("return localStorage.getItem(arguments[0])", f"vrd_d2 human abc {name}")
    return json.loads(saved)["ratings"] if saved else {}


def exported(browser: RaterBrowser) -> Path:
    """The file that the button saves."""
    for path in browser.downloads.iterdir():
        path.unlink()
    browser.mouse("#export")
    return wait(lambda: next(browser.downloads.glob("*.json"), None))


def manifest_of(study: Study, folder: Path) -> Manifest:
    path = folder / "page.json"
    path.write_text(json.dumps(study.manifest("data")))
    return read_manifest(path)


def test_from_the_first_key_to_the_report(browser: RaterBrowser, tmp_path: Path) -> None:
    assert browser.is_open("#start")
    browser.keys("yn", BACKSPACE * 2, "Escape", " ", "Enter")  # letters of a name, then no name
    assert browser.is_open("#start")
    browser.keys("Ann ", "Enter")
    assert not browser.is_open("#start")
    assert browser.text("#rater") == "Ann"
    assert browser.text("#sentence") == f"man riding {NASTY}"
    browser.keys("yns")
    assert answers(browser) == {"r1": "yes", "r2": "no", "r3": "skip"}
    assert browser.text("#sentence") == "hat on man"
    assert browser.text("#count") == "3 of 5 rated (60 %)"
    assert browser.text("#position") == "Image 2 of 2, relation 1 of 2"

    browser.reload()  # it goes on where it was, without asking again
    assert not browser.is_open("#start")
    assert browser.text("#rater") == "Ann" and browser.text("#sentence") == "hat on man"
    assert browser.text("#count") == "3 of 5 rated (60 %)"
    browser.keys("yy")
    assert "Export your ratings" in browser.text("#note")

    path = exported(browser)
    assert path.name == "ratings-abc-Ann.json"
    manifest = manifest_of(make_study(tmp_path), tmp_path)
    ratings = read_ratings([path], manifest)
    assert ratings == {"Ann": {"r1": "yes", "r2": "no", "r3": "skip", "r4": "yes", "r5": "yes"}}
    # secret-a ranks r3 r2 r1 and r5 r4; at 2: (no) and (yes, yes)
    report = human_report(manifest, ratings, ks=[2])
    assert report["models"]["secret-a"]["P"] == {"2": 0.5}
    assert report["models"]["secret-b"]["P"] == {"2": 1.0}


def test_ways_through_the_relations(browser: RaterBrowser) -> None:
    browser.keys("Ann", "Enter", "yy", LEFT, "n")  # back and another answer
    assert answers(browser) == {"r1": "yes", "r2": "no"}
    browser.keys("z")
    assert answers(browser) == {"r1": "yes", "r2": "yes"}
    assert browser.text("#position").endswith("relation 2 of 3")
    browser.keys("zz", BACKSPACE)  # one more than there is
    assert answers(browser) == {}
    assert "nothing to take back" in browser.text("#note")
    browser.keys("Up", "Up", PAGE_DOWN * 3, "s")
    assert answers(browser) == {"r4": "skip"}
    browser.keys("yu")  # the last one, and on to the first without an answer
    assert browser.text("#position") == "Image 1 of 2, relation 1 of 3"
    browser.keys("?", "y", "Escape", "f")  # the letter goes into the dialog
    assert answers(browser) == {"r4": "skip", "r5": "yes"}
    pressed = "return document.querySelector('[data-act=zoom]').getAttribute('aria-pressed')"
    assert browser.run(pressed) == "true"
    assert browser.run(
        "const box = document.querySelector('rect.subject.line').getBoundingClientRect();"
        "const frame = document.querySelector('#frame').getBoundingClientRect();"
        "return box.left >= frame.left && box.top >= frame.top"
    )


def test_mouse(browser: RaterBrowser) -> None:
    browser.keys("Ann", "Enter")
    box = "return document.querySelector('rect.subject.line').getAttribute('x')"
    assert browser.run(box) == "0.1"
    browser.point(browser.find("#list li:nth-child(2) button"))
    assert browser.run(box) == "0.5"  # shown while the mouse is there
    assert browser.text("#position").endswith("relation 1 of 3")
    browser.point(browser.find("h1"))
    assert browser.run(box) == "0.1"
    browser.mouse("#list li:nth-child(3) button")
    browser.mouse("[data-act=no]")
    assert answers(browser) == {"r3": "no"}
    browser.mouse("#bar i:first-child")
    assert browser.text("#position").startswith("Image 1 of 2")
    assert browser.text("#list li:nth-child(3) .mark") == "✗"


def test_several_raters_export_and_import(browser: RaterBrowser, tmp_path: Path) -> None:
    browser.keys("Ann", "Enter", "yy")
    browser.mouse("#rater")
    browser.keys("__proto__", "Enter")
    assert browser.text("#count") == "0 of 5 rated (0 %)"
    browser.keys("n")
    assert len(answers(browser)) == 2 and answers(browser, "__proto__") == {"r1": "no"}
    path = exported(browser)
    document = json.loads(path.read_text())
    assert {rater["name"]: rater["ratings"] for rater in document["raters"]} == {
        "Ann": {"r1": "yes", "r2": "yes"},
        "__proto__": {"r1": "no"},
    }

    browser.run("localStorage.clear()")
    browser.reload()
    browser.keys("Ann", "Enter", "n")
    browser.choose_file("#file", path)
    wait(lambda: browser.is_open("#ask"))
    assert "1 answers differ" in browser.text("#question")
    browser.mouse("#ask-no")
    wait(lambda: "2 answers taken over" in browser.text("#note"))
    assert answers(browser) == {"r1": "no", "r2": "yes"}  # what was here stays
    assert answers(browser, "__proto__") == {"r1": "no"}
    browser.choose_file("#file", path)
    wait(lambda: browser.is_open("#ask"))
    browser.mouse("#ask-yes")
    wait(lambda: "1 answers taken over" in browser.text("#note"))
    assert answers(browser) == {"r1": "yes", "r2": "yes"}
    assert browser.text("#count") == "2 of 5 rated (40 %)"


def test_files_that_are_not_taken(browser: RaterBrowser, tmp_path: Path) -> None:
    browser.keys("Ann", "Enter", "y")
    usual = {"format": "vrd_d2 human ratings 1", "study": "abc", "raters": []}
    path = tmp_path / "wrong.json"
    for text, message in (
        ("{", "it is no JSON"),
        ("[]", "it holds no ratings"),
        ({"study": "xyz"}, "its ratings are of another page (xyz)"),
        ({"raters": [{"name": "Bob", "ratings": {"r9": "yes"}}]}, "does not fit this page"),
        ({"raters": [{"name": " ", "ratings": {"r1": "yes"}}]}, "does not fit this page"),
        ({"raters": [{"name": "Bob", "ratings": {"r1": "toString"}}]}, "does not fit this page"),
    ):
        path.write_text(json.dumps({**usual, **text}) if isinstance(text, dict) else text)
        browser.run("document.querySelector('#note').textContent = ''")
        browser.choose_file("#file", path)
        wait(lambda message=message: message in browser.text("#note"))
        assert browser.text("#note").startswith("wrong.json cannot be used")
        assert answers(browser) == {"r1": "yes"} and answers(browser, "Bob") == {}


def test_a_browser_that_keeps_nothing(browser: RaterBrowser) -> None:
    """Rating works, the page says so, and the file has everything."""
    browser.run("Storage.prototype.setItem = () => { throw new Error('full') }")
    browser.keys("Ann", "Enter", "yn")
    wait(lambda: browser.text("#count").startswith("2 of"))  # keys come one after the other
    assert "saves nothing" in browser.text("#saved")
    document = json.loads(exported(browser).read_text())
    assert document["raters"] == [{"name": "Ann", "ratings": {"r1": "yes", "r2": "no"}}]
    assert browser.run(
        "const leaving = new Event('beforeunload', {cancelable: true});"
        "dispatchEvent(leaving); return leaving.defaultPrevented"
    )
    browser.run("store.works = true")  # else the page would ask when the next one opens


def test_two_tabs_of_one_rater(browser: RaterBrowser) -> None:
    """What another tab saved is shown, and the next answer here does not overwrite it."""
    browser.keys("Ann", "Enter", "y")
    key, value = "vrd_d2 human abc Ann", {"ratings": {"r1": "yes", "r5": "no"}, "at": "r5"}
    browser.run(
        "localStorage.setItem(arguments[0], arguments[1]);"
        "dispatchEvent(new StorageEvent('storage', {key: arguments[0]}))",
        key,
        json.dumps(value),
    )
    assert browser.text("#count") == "2 of 5 rated (40 %)"
    browser.keys("s")
    assert answers(browser) == {"r1": "yes", "r5": "no", "r2": "skip"}
