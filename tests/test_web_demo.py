"""The web demo: what it does with pictures, boxes and words, and its page in a real browser."""

import http.client
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import Browser
from PIL import Image

from vrd_d2.data.vocabulary import SCENES
from vrd_d2.demo.answers import answer, boxes_of, found_boxes, in_frame, names_of
from vrd_d2.demo.models import DemoModel
from vrd_d2.predictor import Predictor

ROWS = [[20, 30, 80, 90, "man"], [70, 60, 120, 70, "horse"], [None, None, None, None, ""]]


@pytest.fixture(scope="module")
def picture(tmp_path_factory) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (160, 220, 3), dtype=np.uint8)
    file = tmp_path_factory.mktemp("picture") / "street.png"
    Image.fromarray(pixels).save(file)
    return file


@pytest.fixture(scope="module")
def models(repository) -> dict[str, DemoModel]:
    """Zero-shot UnionCLIP of each task, with the weights that ship."""
    config = repository / "configs/quickstart/unionclip_zero_shot_sgdet.yaml"
    overrides = ["MODEL.DEVICE", "cpu", "MODEL.RELATION.TASK"]
    return {
        task: DemoModel(config, "", [*overrides, task]) for task in ("sgdet", "sgcls", "predcls")
    }


# ---- Without a page ------------------------------------------------------------------------------


def test_words_are_one_a_line():
    assert names_of("  riding \n\n next   to\n") == ["riding", "next to"]
    assert names_of(None) == []


def test_boxes_of_the_table():
    boxes, labels = boxes_of([["20", 30.5, 80, 90, " hot  dog "], [None, "", None, None, ""]])
    assert boxes == [[20, 30.5, 100, 120.5]] and labels == ["hot dog"]
    for row, message in [
        ([1, 2, 0, 5, "man"], "box 1: width and height must be greater than 0"),
        ([1, 2, "x", 5, "man"], "box 1: x, y, width and height must be numbers"),
        ([1, 2, None, 5, "man"], "box 1: x, y, width and height must be numbers"),
        ([1, 2, float("nan"), 5, "man"], "box 1: width and height must be greater than 0"),
    ]:
        with pytest.raises(ValueError, match=message):
            boxes_of([row])
    with pytest.raises(ValueError, match="51 boxes: at most 50"):
        boxes_of([[1, 2, 3, 4, "man"]] * 51)


def test_predcls_reads_labels_and_predicates_of_the_user(models, picture, tmp_path):
    rows = [
        [*row[:4], label] for row, label in zip(ROWS, ("skater", "skateboard", ""), strict=True)
    ]
    words = ["rolling on", "afraid of"]
    found = answer(models["predcls"], picture, tmp_path, rows=rows, predicates=words)
    assert found.graph.labels == ["skater", "skateboard"]
    assert {p for _, p, _ in found.graph.triplets} <= set(words)
    boxes = [[20, 30, 100, 120], [70, 60, 190, 130]]
    np.testing.assert_allclose(found.graph.boxes, boxes, atol=1e-4)
    assert json.loads(found.files[0].read_text())["entities"][1]["label"] == "skateboard"
    assert np.asarray(Image.open(found.files[1])).std() > 10
    assert found.files[2].read_text(encoding="utf-8") == found.page and "street.png" in found.page


def test_sgcls_names_boxes_with_objects_of_the_user(models, picture, tmp_path):
    found = answer(models["sgcls"], picture, tmp_path, rows=ROWS, objects=["walrus", "teapot"])
    assert len(found.graph.labels) == 2 and set(found.graph.labels) <= {"walrus", "teapot"}


def test_sgdet_keeps_the_classes_of_its_detector(models, picture, tmp_path):
    found = answer(models["sgdet"], picture, tmp_path, predicates=["beside"], min_entity_score=0.0)
    assert set(found.graph.labels) <= set(SCENES.objects)
    assert {p for _, p, _ in found.graph.triplets} <= {"beside"}
    with pytest.raises(ValueError, match=r"2 object classes, but the detector finds 22"):
        models["sgdet"].predictor.with_vocabulary(type(SCENES)(("a", "b"), ("on",)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "this task needs boxes"),
        ({"rows": [[1, 2, 30, 40, ""]]}, "box 1 has no label"),
        ({"rows": ROWS, "predicates": ["on", "on"]}, "'on'"),
        ({"rows": ROWS, "predicates": ["p" * 61]}, "is too long: 60 characters"),
        ({"rows": ROWS, "predicates": [str(i) for i in range(201)]}, "201 predicates: at most 200"),
        ({"rows": ROWS, "max_pixels": 30_000}, "the limit is 0.03 million"),
    ],
)
def test_wrong_input_is_a_message(models, picture, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        answer(models["predcls"], picture, tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_few_vocabularies_are_kept(models, picture, tmp_path):
    model = models["predcls"]
    first = model.with_words(["man"], ["on"])
    assert model.with_words(["man"], ["on"]) is first
    assert model.with_words(SCENES.objects, SCENES.predicates) is model.predictor
    for i in range(8):
        model.with_words(["man"], [f"on {i}"])
    assert len(model._twins) == 8 and model.with_words(["man"], ["on"]) is not first


def test_found_boxes_fill_the_table(models, picture):
    rows = found_boxes(models["sgdet"], picture, min_entity_score=0.0)
    assert rows and all(row[4] in SCENES.objects and min(row[2:4]) >= 0 for row in rows)
    with pytest.raises(ValueError, match="the detector finds nothing"):
        found_boxes(models["sgdet"], picture, min_entity_score=1.1)


def test_other_models_know_their_own_words_only(repository):
    config = repository / "configs/quickstart/relclip_predcls.yaml"
    model = DemoModel(config, "", ["MODEL.DEVICE", "cpu"])
    assert model.explains
    assert not model.takes_words and not model.takes_objects
    with pytest.raises(ValueError, match=r"there is no file of weights none\.pth"):
        DemoModel(config, "none.pth")


def test_the_frame_holds_the_page_and_runs_nothing_outside():
    page = in_frame('<p title="a">it\'s</p>')
    assert 'srcdoc="&lt;p title=&quot;a&quot;&gt;it&#x27;s&lt;/p&gt;"' in page
    assert 'sandbox="allow-scripts"' in page


# ---- Other words ---------------------------------------------------------------------------------


def test_other_words_leave_the_model_as_it_is(repository, picture):
    """Predicates in another order: the same scores. One predicate: against the null text alone."""
    config = repository / "configs/quickstart/unionclip_zero_shot.yaml"
    predictor = Predictor(config, "", ["MODEL.DEVICE", "cpu"])
    given = {"boxes": [row[:4] for row in ROWS[:2]], "labels": ["man", "horse"]}
    given["boxes"] = [[x, y, x + w, y + h] for x, y, w, h in given["boxes"]]
    before = predictor(picture, **given).to_dict()
    names = type(SCENES)(SCENES.objects[::-1], SCENES.predicates[::-1])
    twin = predictor.with_vocabulary(names)
    after = twin(picture, **given).to_dict()
    assert [r["predicate"] for r in after["relations"]] == [
        r["predicate"] for r in before["relations"]
    ]
    for kind in ("entities", "relations"):
        for ours, theirs in zip(after[kind], before[kind], strict=True):
            assert ours.get("score") == pytest.approx(theirs.get("score"), abs=2e-3)
    assert predictor(picture, **given).to_dict() == before
    assert twin.vocabulary == names and predictor.vocabulary == SCENES
    assert twin.model.crops is predictor.model.crops


def test_scores_of_other_words_are_those_of_their_texts(repository, picture):
    config = repository / "configs/quickstart/unionclip_zero_shot.yaml"
    predictor = Predictor(config, "", ["MODEL.DEVICE", "cpu"])
    words = ["towing", "made of"]
    twin = predictor.with_vocabulary(type(SCENES)(("kite", "lamp"), words))
    boxes = [[20, 30, 100, 120], [70, 60, 190, 130]]
    example = twin._example(picture, boxes, ["kite", "lamp"])
    model = twin.model
    with torch.no_grad():
        found = model([example])[0]["relations"]
        row = found.pairs.tolist().index([0, 1])
        texts = [f"kite {word} lamp" for word in words] + ["null relation"]
        (region,) = model.crops.embed(
            model.crops.states(model._cut(example, torch.tensor([[20, 30, 190, 130]])))
        )
        expected = (model.logit_scale.exp() * model.phrases(texts) @ region).softmax(0)
    # The bank keeps texts in half precision.
    torch.testing.assert_close(found.predicate_probs[row], expected, atol=5e-3, rtol=0)


# ---- In a browser --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(repository, tmp_path_factory):
    """The demo as people start it; its address, and what it prints."""
    pytest.importorskip("gradio", reason="Gradio is not installed: the extra demo")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("server")
    log = folder / "log.txt"
    tool = repository / "tools/web_demo.py"
    options = ["--port", port, "--max-mb", 1, "--max-pixels", 3, "--opts", "MODEL.DEVICE", "cpu"]
    # Named ones, since what the quick start trained would be the first of the shipped.
    base = repository / "configs/quickstart/unionclip_zero_shot_sgdet.yaml"
    for task in ("sgdet", "sgcls", "predcls"):
        config = folder / f"{task}.yaml"
        config.write_text(f"_BASE_: {base}\nMODEL:\n  RELATION:\n    TASK: {task}\n")
        options += ["--model", config, "-"]
    process = subprocess.Popen(
        [sys.executable, tool, *map(str, options)],
        stdout=log.open("w"),
        stderr=subprocess.STDOUT,
        cwd=folder,
        env={**os.environ, "TMPDIR": str(folder)},
    )
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(1200):
            try:
                urllib.request.urlopen(address, timeout=10)
                break
            except OSError:
                assert process.poll() is None, log.read_text()
                time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait(30)
    assert not list(folder.glob("vrd_d2_demo_*")), "uploads stay behind"


@pytest.fixture
def page(server, browser):
    browser.resize(1500, 1200)
    browser.enter(None)
    browser.open(server)
    browser.wait("return document.querySelector('#picture input[type=file], #picture button')")
    browser.wait("return document.querySelectorAll('#examples button').length >= 4")
    browser.messages()
    return browser


MESSAGE = "return document.querySelector('.toast-body')?.innerText"
SOURCE = "return document.querySelector('#result iframe')?.srcdoc"
SHOWN = """const label = [...document.querySelectorAll('#picture img')];
           return label.some((e) => e.complete && e.naturalWidth > 0)"""


def draw(page: Browser) -> dict:
    """Press the button and wait: the data of the new graph."""
    page.run("document.querySelector('#result iframe')?.remove()")
    page.click(page.find("#draw"))
    page.wait(f"{MESSAGE} || document.querySelector('#result iframe')")
    assert page.run(MESSAGE) is None
    source = page.wait(SOURCE)
    text = source.split('id="data">')[1].split("</script>")[0]
    return json.loads(text)["pictures"][0]


def choose_task(page: Browser, task: str) -> None:
    page.run(f"document.querySelector('#task input[value={task}]').click()")
    boxes = "document.querySelector('#table')?.getBoundingClientRect().height > 0"
    page.wait(f"return ({boxes} || false) === {'false' if task == 'sgdet' else 'true'}")


def upload(page: Browser, file: Path) -> None:
    page.write(page.find("#picture input[type=file]"), str(file))


def test_example_becomes_a_graph_to_point_at(page):
    page.click(page.find("#examples button"))
    page.wait(SHOWN)
    data = draw(page)
    assert data["relations"] and len(data["relations"]) <= 12
    page.enter(page.find("#result iframe"))
    page.wait("return document.querySelectorAll('.row').length > 0")
    page.point(page.find(".row"))
    assert page.run("return document.querySelectorAll('.lit').length") >= 4
    # The frame is nobody's: it sees neither the page around it nor its server.
    assert page.run("try { return parent.document.title } catch (e) { return e.name }") == (
        "SecurityError"
    )
    page.enter(None)
    names = page.wait("return document.body.innerText.match(/scene_graph[.\\w]*/g)")
    assert {"scene_graph"} <= {name.split(".")[0] for name in names}
    assert page.messages() == []


def test_boxes_of_an_example_and_words_of_the_user(page):
    choose_task(page, "predcls")
    page.click(page.find("#examples button"))
    page.wait(SHOWN)
    page.wait("return document.querySelector('#table').innerText.includes('man')")
    page.run("document.querySelector('#words button').click()")
    page.wait("return document.querySelector('#predicates textarea')?.offsetHeight > 0")
    words = page.find("#predicates textarea")
    page.clear(words)
    page.write(words, "in love with\nolder than")
    data = draw(page)
    assert {r["predicate"] for r in data["relations"]} <= {"in love with", "older than"}
    assert "man" in {entity["name"].split("-")[0] for entity in data["entities"]}


def test_found_boxes_come_into_the_table(page):
    choose_task(page, "sgcls")
    page.click(page.find("#examples button:nth-child(2)"))
    page.wait(SHOWN)
    numbers = "(document.querySelector('#table').innerText.match(/\\d+/g) || []).length"
    page.wait(f"return {numbers} >= 8")
    # Without boxes, then with those of the detector.
    page.run("[...document.querySelectorAll('#boxes button')].at(-1).click()")
    page.wait(f"return {numbers} === 0")
    page.click(page.find("#draw"))
    assert "this task needs boxes" in page.wait(MESSAGE)
    page.run("document.querySelector('.toast-body button').click()")
    page.click(page.find("#find"))
    page.wait(f"return {numbers} >= 8")
    page.wait(f"return !({MESSAGE.removeprefix('return ')})")
    assert len(draw(page)["entities"]) >= 2


def broken_pictures(folder: Path) -> dict[Path, str]:
    """Files that are no pictures to use, and what the page says of them."""
    photo = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    Image.fromarray(photo).save(folder / "whole.jpg")
    Image.fromarray(np.zeros((2001, 1500), np.uint8)).save(folder / "huge.png")
    content = {
        "zero.png": (b"", "is empty (0 bytes)"),
        "text.jpg": (b"hello", "is no picture"),
        "cut.jpg": ((folder / "whole.jpg").read_bytes()[:9000], "is broken"),
        "drawing.svg": (
            b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>",
            "it is an SVG",
        ),
        "huge.png": ((folder / "huge.png").read_bytes(), "the limit is 3 million"),
    }
    for name, (data, _) in content.items():
        (folder / name).write_bytes(data)
    return {folder / name: message for name, (_, message) in content.items()}


def test_broken_uploads_get_a_message(page, tmp_path):
    for file, message in broken_pictures(tmp_path).items():
        page.open(page.run("return location.href"))
        page.wait("return document.querySelector('#picture input[type=file]')")
        time.sleep(0.5)  # listeners come after the elements
        upload(page, file)
        page.wait("return document.querySelector('#picture img')")
        page.click(page.find("#draw"))
        found = page.wait(MESSAGE)
        assert message in found, f"{file.name}: {found}"
        assert page.run("return document.querySelector('#result iframe')") is None


def test_messages_are_no_html(page):
    choose_task(page, "predcls")
    page.click(page.find("#examples button"))
    page.wait(SHOWN)
    page.run("document.querySelector('#words button').click()")
    page.wait("return document.querySelector('#predicates textarea')?.offsetHeight > 0")
    words = page.find("#predicates textarea")
    page.clear(words)
    page.write(words, "<img src=x onerror=alert(1)>" * 3)
    page.click(page.find("#draw"))
    assert "<img src=x onerror=" in page.wait(MESSAGE)
    assert page.run("return document.querySelector('.toast-body img')") is None


def test_odd_uploads_are_used(page, tmp_path):
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 140, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.save(tmp_path / "turned.jpg", exif=exif)
    photo.convert("CMYK").save(tmp_path / "cmyk.jpg")
    photo.save(tmp_path / "moving.gif", save_all=True, append_images=[photo.rotate(90)])
    wide = (np.asarray(photo.convert("L")).astype(np.uint16) + 1) * 255
    Image.fromarray(wide).save(tmp_path / "deep.png")
    (tmp_path / "a b & <c> ..%2f..%2fetc.png").write_bytes((tmp_path / "deep.png").read_bytes())
    for name, fact in {
        "turned.jpg": "90 × 140 pixels",
        "cmyk.jpg": "CMYK converted",
        "moving.gif": "the first of 2 pictures",
        "deep.png": "16 bits scaled to 8",
        "a b & <c> ..%2f..%2fetc.png": "16 bits scaled to 8",
    }.items():
        page.open(page.run("return location.href"))
        page.wait("return document.querySelector('#picture input[type=file]')")
        time.sleep(0.5)
        upload(page, tmp_path / name)
        page.wait("return document.querySelector('#picture img')")
        assert fact in draw(page)["facts"]


def test_a_camera_takes_pictures(page):
    page.run("document.querySelector('#picture [aria-label=\"Capture from camera\"]').click()")
    allow = """[...document.querySelectorAll('#picture button')]
               .find((e) => e.innerText.includes('Webcam'))"""
    page.wait(f"return {allow}")
    page.run(f"{allow}.click()")
    shutter = "document.querySelector('#picture [aria-label=\"capture photo\"]')"
    page.wait(f"return {shutter} && document.querySelector('#picture video')?.videoWidth > 0")
    page.run(f"{shutter}.click()")
    page.wait(SHOWN)
    assert "pixels" in draw(page)["facts"]


def test_too_large_an_upload_is_refused(server):
    status, _ = post(server, "a.png", b"x" * 1_100_000)
    assert status == 413


def post(server: str, name: str, content: bytes) -> tuple[int, str]:
    """Upload past the page, under any name."""
    connection = http.client.HTTPConnection(server.removeprefix("http://"), timeout=60)
    head = f'Content-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    body = b"--edge\r\n" + head.encode() + content + b"\r\n--edge--\r\n"
    kind = {"Content-Type": "multipart/form-data; boundary=edge"}
    connection.request("POST", "/gradio_api/upload", body, kind)
    response = connection.getresponse()
    return response.status, response.read().decode()


def test_no_other_file_of_the_server_can_be_had(server, repository, picture):
    for path in ("/etc/passwd", str(repository / "README.md"), str(picture), "../../etc/passwd"):
        for prefix in ("/gradio_api/file=", "/file=", "/gradio_api/file/", "/static/", "/assets/"):
            try:
                with urllib.request.urlopen(server + prefix + path, timeout=30) as response:
                    found = response.read()
            except urllib.error.HTTPError as error:
                assert error.code in (403, 404)
            else:
                # The page itself for addresses that are none.
                assert found.lstrip().startswith(b"<!doctype html>")
    status, stored = post(server, "../../../../escaped.png", b"x")
    assert status == 200
    (path,) = json.loads(stored)
    assert Path(path).name == "escaped.png" and "vrd_d2_demo_" in path and ".." not in path


def test_the_page_loads_nothing_from_elsewhere(page, server):
    page.click(page.find("#examples button"))
    page.wait(SHOWN)
    loaded = page.run("return performance.getEntriesByType('resource').map((e) => e.name)")
    assert loaded and all(name.startswith((server, "data:", "blob:")) for name in loaded), [
        name for name in loaded if not name.startswith(server)
    ]


# ---- Starting it ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "none.yaml", "-"], "none.yaml"),
        (["--model", "configs/quickstart/relclip_sgdet.yaml", "none.pth"], "no file of weights"),
    ],
)
def test_a_wrong_start_says_why(repository, arguments, message):
    pytest.importorskip("gradio", reason="Gradio is not installed: the extra demo")
    command = [sys.executable, "tools/web_demo.py", *arguments]
    found = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=120)
    assert found.returncode == 1 and message in found.stderr
    assert "Traceback" not in found.stderr


def test_without_gradio_it_says_what_to_install(repository):
    code = (
        "import runpy, sys; sys.modules['gradio'] = None; sys.argv = ['web_demo.py']; "
        "runpy.run_path('tools/web_demo.py', run_name='__main__')"
    )
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=120)
    assert found.returncode == 1 and "pip install 'vrd_d2[demo]'" in found.stderr
