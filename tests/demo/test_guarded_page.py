"""Gradio's own application behind the guard, called as other sites and programs call it."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

gradio = pytest.importorskip("gradio", reason="Gradio is not installed: the extra demo")
from fastapi import FastAPI  # noqa: E402
from starlette.testclient import TestClient  # noqa: E402

from vrd_d2.commands.demo import guard_of, parse_arguments  # noqa: E402
from vrd_d2.demo.models import DemoModel  # noqa: E402
from vrd_d2.demo.storage import Storage  # noqa: E402

OWN = "http://127.0.0.1:7860"


@pytest.fixture(scope="module")
def storage(tmp_path_factory) -> Storage:
    return Storage(tmp_path_factory.mktemp("demo"), 10 * 2**20)


@pytest.fixture(scope="module")
def client(repository, storage):
    """The page of a model that is not loaded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(storage.uploads))
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        from vrd_d2.demo.page import build_page

        config = repository / "configs/quickstart/relclip_predcls.yaml"
        page = build_page([DemoModel(config)], [], storage, 10**6)
        guard = guard_of(parse_arguments(["--max-mb", "1"]), storage)
        app = gradio.mount_gradio_app(
            FastAPI(), page, "", app_kwargs={"middleware": [guard]}, max_file_size="1mb"
        )
        with TestClient(app, OWN) as client:
            yield client


def stored(storage: Storage) -> list[Path]:
    return [path for path in storage.uploads.rglob("*") if path.is_file()]


def upload(client, content=b"x" * 1000, **headers):
    return client.post("/gradio_api/upload", files={"files": ("a.png", content)}, headers=headers)


def test_the_page_itself_may(client, storage):
    assert client.get("/").status_code == 200 and client.get("/config").status_code == 200
    answer = upload(client, Origin=OWN)
    assert answer.status_code == 200 and Path(answer.json()[0]).read_bytes() == b"x" * 1000
    assert upload(client, b"y").status_code == 200  # programs have no origin
    assert len(stored(storage)) == 2


def test_uploads_of_other_sites_are_not_stored(client, storage):
    before = stored(storage)
    for origin in ("http://evil.example", "null", "http://127.0.0.1:3000", "http://localhost"):
        assert upload(client, b"foreign", Origin=origin).status_code == 403
    assert upload(client, b"foreign", Host="evil.example:7860").status_code == 403
    assert stored(storage) == before


@pytest.mark.parametrize(
    "path",
    ["/", "/config", "/gradio_api/info", "/gradio_api/queue/data?session_hash=a", "/theme.css"],
)
def test_nothing_is_told_under_another_name(client, path):
    answer = client.get(path, headers={"Host": "evil.example:7860"})
    assert answer.status_code == 403 and "--allow-host" in answer.text and len(answer.text) < 500
    assert client.get(path, headers={"Origin": "http://evil.example"}).status_code == 403


def test_large_bodies_are_refused(client, storage):
    before = stored(storage)

    def chunks():
        for _ in range(150):
            yield b"x" * 10**6

    form = "multipart/form-data; boundary=edge"
    for path, kind in (
        ("/gradio_api/queue/join", "application/json"),
        ("/gradio_api/run/draw", "application/json"),
        ("/gradio_api/upload", form),
        ("/login", form),
    ):
        answer = client.post(path, content=chunks(), headers={"Content-Type": kind})
        assert answer.status_code == 413, path
    big = json.dumps({"data": ["x" * 2 * 10**6]})
    assert client.post("/gradio_api/queue/join", content=big).status_code == 413
    assert upload(client, b"x" * 3 * 2**20).status_code == 413
    assert stored(storage) == before


def test_a_file_that_breaks_off_is_not_kept(client, storage):
    """In the midst of a part: Gradio has a file of it by then."""
    before = stored(storage)
    head = b'--edge\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'

    def chunks():
        yield head
        for _ in range(5):
            yield b"x" * 10**6

    kind = {"Content-Type": "multipart/form-data; boundary=edge"}
    answer = client.post("/gradio_api/upload", content=chunks(), headers=kind)
    assert answer.status_code == 413 and stored(storage) == before


@pytest.fixture
def elsewhere(monkeypatch):
    """A server of this computer that Gradio takes for a public one, and what it was asked for."""
    safehttpx = pytest.importorskip("safehttpx")
    monkeypatch.setattr(safehttpx, "is_public_ip", lambda _: True)
    asked = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"internal")

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def test_nothing_is_fetched_for_a_caller(client, storage, elsewhere):
    """Neither of an address in the path, nor of one in place of an upload, be it in a table."""
    address, asked = elsewhere
    answer = client.get(f"/gradio_api/file={address}/a.png")
    assert answer.status_code == 403 and "internal" not in answer.text

    before = stored(storage)
    file = {"path": f"{address}/b.png", "meta": {"_type": "gradio.FileData"}}
    table = {"headers": list("xywhl"), "data": [[file] * 5], "metadata": None}
    config = client.get("/config").json()
    kinds = {component["id"]: component["type"] for component in config["components"]}
    for function in config["dependencies"]:
        given = {"image": file, "dataframe": table}
        body = {"fn_index": function["id"], "session_hash": f"thief-{function['id']}"}
        body["data"] = [given.get(kinds[number]) for number in function["inputs"]]
        assert client.post("/gradio_api/queue/join", json=body).status_code == 200
        query = f"session_hash={body['session_hash']}"
        assert "process_completed" in client.get(f"/gradio_api/queue/data?{query}").text
    assert asked == [] and stored(storage) == before


def test_all_files_together_are_limited(client, storage):
    status, number = 200, 0
    while status == 200 and number < 20:
        status = upload(client, bytes([number]) * 10**6).status_code
        number += 1
    assert status == 507 and 5 < number < 12
    assert sum(path.stat().st_size for path in stored(storage)) < 10 * 2**20


@pytest.mark.parametrize("option", ["--max-mb", "--max-total-mb", "--max-pixels"])
@pytest.mark.parametrize("value", ["0", "-5", "nan", "inf"])
def test_limits_that_are_none(option, value, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse_arguments([f"{option}={value}"])
    assert stopped.value.code == 1 and option in capsys.readouterr().err


@pytest.mark.parametrize("name", ["demo.example.org", "*.example.org", "10.0.0.5", "[fe80::1]"])
def test_names_of_hosts(name):
    assert parse_arguments(["--allow-host", name]).allow_host == [name]


@pytest.mark.parametrize(
    "name",
    ["https://demo.example.org", "demo.example.org:8443", "demo.example.org/app", "*", "", "a b"],
)
def test_names_of_hosts_that_are_none(name, capsys):
    """They would never fit what a browser sends."""
    with pytest.raises(SystemExit) as stopped:
        parse_arguments(["--allow-host", name])
    error = capsys.readouterr().err
    assert stopped.value.code == 1 and "--allow-host" in error and "such as" in error
