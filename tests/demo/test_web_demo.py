"""The web demo's page in a real browser, and its server."""

import base64
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from browser import Browser
from PIL import Image


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
    options = ["--port", port, "--max-mb", 1, "--max-pixels", 3]
    # Named ones, since what the quick start trained would be the first of the shipped.
    base = repository / "configs/quickstart/unionclip_zero_shot_sgdet.yaml"
    for task in ("sgdet", "sgcls", "predcls"):
        config = folder / f"{task}.yaml"
        config.write_text(f"_BASE_: {base}\nMODEL:\n  RELATION:\n    TASK: {task}\n")
        options += ["--model", config, "-"]
    process = subprocess.Popen(
        [sys.executable, tool, *map(str, options), "MODEL.DEVICE", "cpu"],
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
    browser.wait("return document.querySelector('#image input[type=file], #image button')")
    browser.wait("return document.querySelectorAll('#examples button').length >= 4")
    browser.messages()
    return browser


MESSAGE = "return document.querySelector('.toast-body')?.innerText"
SOURCE = "return document.querySelector('#result iframe')?.srcdoc"
SHOWN = """const label = [...document.querySelectorAll('#image img')];
           return label.some((e) => e.complete && e.naturalWidth > 0)"""


def draw(page: Browser) -> dict:
    """Press the button and wait: the data of the new graph."""
    page.run("document.querySelector('#result iframe')?.remove()")
    page.click(page.find("#draw"))
    page.wait(f"{MESSAGE} || document.querySelector('#result iframe')")
    assert page.run(MESSAGE) is None
    source = page.wait(SOURCE)
    text = source.split('id="data">')[1].split("</script>")[0]
    return json.loads(text)["images"][0]


def choose_task(page: Browser, task: str) -> None:
    page.run(f"document.querySelector('#task input[value={task}]').click()")
    boxes = "document.querySelector('#table')?.getBoundingClientRect().height > 0"
    page.wait(f"return ({boxes} || false) === {'false' if task == 'sgdet' else 'true'}")


def upload(page: Browser, file: Path) -> None:
    page.write(page.find("#image input[type=file]"), str(file))


def test_example_becomes_a_graph_to_point_at(page):
    page.click(page.find("#examples button"))
    page.wait(SHOWN)
    data = draw(page)
    assert data["relations"] and len(data["relations"]) <= 12
    page.enter(page.find("#result iframe"))
    page.wait("return document.querySelectorAll('.row').length > 0")
    colour = "return getComputedStyle(document.querySelector('.row .chip')).backgroundColor"
    (*rgb,) = map(int, re.findall(r"\d+", page.run(colour)))
    assert (page.screenshot("demo") == rgb).all(-1).sum() > 500  # of the first name
    page.point(page.find(".row"))
    assert page.run("return document.querySelectorAll('.lit').length") >= 4
    page.screenshot("demo_pointed_at")
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


def broken_images(folder: Path) -> dict[Path, str]:
    """Files that are no images to use, and what the page says of them."""
    photo = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    Image.fromarray(photo).save(folder / "whole.jpg")
    Image.fromarray(np.zeros((2001, 1500), np.uint8)).save(folder / "huge.png")
    content = {
        "zero.png": (b"", "is empty (0 bytes)"),
        "text.jpg": (b"hello", "is no image"),
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
    for file, message in broken_images(tmp_path).items():
        page.open(page.run("return location.href"))
        page.wait("return document.querySelector('#image input[type=file]')")
        time.sleep(0.5)  # listeners come after the elements
        upload(page, file)
        page.wait("return document.querySelector('#image img')")
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
        "moving.gif": "images in the file (2)",
        "deep.png": "16 bits scaled to 8",
        "a b & <c> ..%2f..%2fetc.png": "16 bits scaled to 8",
    }.items():
        page.open(page.run("return location.href"))
        page.wait("return document.querySelector('#image input[type=file]')")
        time.sleep(0.5)
        upload(page, tmp_path / name)
        page.wait("return document.querySelector('#image img')")
        assert fact in draw(page)["facts"]


def test_a_camera_takes_images(page):
    page.run("document.querySelector('#image [aria-label=\"Capture from camera\"]').click()")
    allow = """[...document.querySelectorAll('#image button')]
               .find((e) => e.innerText.includes('Webcam'))"""
    page.wait(f"return {allow}")
    page.run(f"{allow}.click()")
    shutter = "document.querySelector('#image [aria-label=\"capture photo\"]')"
    page.wait(f"return {shutter} && document.querySelector('#image video')?.videoWidth > 0")
    page.run(f"{shutter}.click()")
    page.wait(SHOWN)
    assert "pixels" in draw(page)["facts"]


def test_too_large_an_upload_is_refused(server):
    status, _ = post(server, "a.png", b"x" * 1_100_000)
    assert status == 413


def test_other_sites_are_refused(server):
    """By the server as people start it; a large body gets its answer, too."""
    address = server.removeprefix("http://")
    for headers in ({"Origin": "http://evil.example"}, {"Host": "evil.example"}):
        status, text = post(server, "a.png", b"x", **headers)
        assert status == 403 and ("no name of the demo" in text or "another site" in text)
    connection = http.client.HTTPConnection(address, timeout=60)
    kind = {"Content-Type": "application/json"}
    connection.request("POST", "/gradio_api/queue/join", (b"x" * 10**6 for _ in range(150)), kind)
    assert connection.getresponse().status == 413
    assert post(server, "a.png", b"x", Origin=server)[0] == 200


def post(server: str, name: str, content: bytes, **headers: str) -> tuple[int, str]:
    """Upload past the page, under any name."""
    connection = http.client.HTTPConnection(server.removeprefix("http://"), timeout=60)
    head = f'Content-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
    body = b"--edge\r\n" + head.encode() + content + b"\r\n--edge--\r\n"
    kind = {"Content-Type": "multipart/form-data; boundary=edge", **headers}
    connection.request("POST", "/gradio_api/upload", body, kind)
    response = connection.getresponse()
    return response.status, response.read().decode()


def test_no_history_of_runs_is_kept(server):
    with urllib.request.urlopen(f"{server}/config", timeout=30) as response:
        assert json.load(response)["run_history"] is False


def test_no_other_file_of_the_server_can_be_had(server, repository, noise_image):
    for path in (
        "/etc/passwd",
        str(repository / "README.md"),
        str(noise_image),
        "../../etc/passwd",
    ):
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


def call(server: str, page: Browser, button: str, image: dict) -> str:
    """Press a button past the page, with an image that was never uploaded: the answer."""
    config = page.run("return window.gradio_config")
    (element,) = [c["id"] for c in config["components"] if c["props"].get("elem_id") == button]
    (function,) = [f for f in config["dependencies"] if [element, "click"] in f["targets"]]
    table = {"headers": list("xywhl"), "data": [], "metadata": None}
    values = [image, "sgdet", page.run("return document.querySelector('#model input').value")]
    values += [table, "on", "", 12, 0, 0.2, False]
    body = {
        "data": values[: len(function["inputs"])],
        "fn_index": function["id"],
        "trigger_id": element,
        "session_hash": "thief",
    }
    api = f"{server}/gradio_api/queue/"
    request = urllib.request.Request(
        api + "join?", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    urllib.request.urlopen(request, timeout=30).read()
    with urllib.request.urlopen(api + "data?session_hash=thief", timeout=60) as response:
        return response.read().decode()


@pytest.mark.parametrize("button", ["draw", "find"])
def test_no_other_image_of_the_server_can_be_drawn(server, page, noise_image, button):
    """Neither a file outside the uploads nor what it begins with is given away."""
    for stolen in (
        {"path": str(noise_image)},
        {"path": "/etc/passwd"},
        {"path": "../../etc/passwd"},
    ):
        found = call(server, page, button, stolen)
        assert "this image was not uploaded here" in found
        assert "process_completed" in found and "root:" not in found and "<iframe" not in found
    url = "data:image/png;base64," + base64.b64encode(noise_image.read_bytes()).decode()
    assert "no image yet" in call(server, page, button, {"url": url})


def test_uploads_are_never_shown_as_pages(server):
    for name in ("page.html", "drawing.svg"):
        status, stored = post(server, name, b"<svg><script>alert(1)</script></svg>")
        assert status == 200
        (path,) = json.loads(stored)
        with urllib.request.urlopen(f"{server}/gradio_api/file={path}", timeout=30) as response:
            assert response.headers["Content-Disposition"].startswith("attachment")


def test_the_page_loads_nothing_from_elsewhere(page, server):
    page.click(page.find("#examples button"))
    page.wait(SHOWN)
    loaded = page.run("return performance.getEntriesByType('resource').map((e) => e.name)")
    assert loaded and all(name.startswith((server, "data:", "blob:")) for name in loaded), [
        name for name in loaded if not name.startswith(server)
    ]


def test_results_of_long_ago_go(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    pytest.importorskip("gradio", reason="Gradio is not installed: the extra demo")
    from vrd_d2.demo.page import KEPT_SECONDS, _new_folder

    old, young, other = (tmp_path / name for name in ("answer-old", "answer-young", "examples"))
    for folder in (old, young, other):
        folder.mkdir()
        (folder / "scene_graph.png").write_bytes(b"")
    for folder in (old, other):
        os.utime(folder, (time.time() - KEPT_SECONDS - 60,) * 2)
    made = _new_folder(tmp_path)
    assert KEPT_SECONDS == 3600 and not old.exists() and young.exists() and other.exists()
    assert made.is_dir() and not list(made.iterdir())


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


def test_a_port_that_is_taken_is_told(repository):
    pytest.importorskip("gradio", reason="Gradio is not installed: the extra demo")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [sys.executable, "tools/web_demo.py", "--port", port]
        found = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=120)
    assert found.returncode == 1 and f"port {port} of 127.0.0.1" in found.stderr
    assert "--port" in found.stderr and "Traceback" not in found.stderr


def test_without_gradio_it_says_what_to_install(repository):
    code = (
        "import runpy, sys; sys.modules['gradio'] = None; sys.argv = ['web_demo.py']; "
        "runpy.run_path('tools/web_demo.py', run_name='__main__')"
    )
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=120)
    assert found.returncode == 1 and "pip install gradio" in found.stderr
