"""What the demo answers, and to whom: requests as other sites and other programs send them."""

import asyncio
import io
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from vrd_d2.demo.guard import MAX_BODY, Guard, Hosts
from vrd_d2.demo.storage import PREFIX, Storage, remove_leftovers, working_folder

OWN = "127.0.0.1:7860"


class Echo:
    """An application that reads the body, counts its bytes, and stores uploads as Gradio does."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.calls, self.read = folder, 0, 0

    async def __call__(self, scope, receive, send):
        self.calls += 1
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
            return
        if scope["type"] == "lifespan":
            return
        upload = scope["path"].endswith("/upload")
        file = self.folder / "uploads/part"
        if upload:
            file.parent.mkdir(exist_ok=True)
        with file.open("wb") if upload else io.BytesIO() as part:
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise RuntimeError("the client has gone")
                self.read += len(message["body"])
                part.write(message["body"])
                more = message.get("more_body")
        if upload:
            (self.folder / "uploads/sha").mkdir(exist_ok=True)
            file.rename(self.folder / "uploads/sha/photo.png")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})


def guarded(folder, host="127.0.0.1", named=(), max_upload=1000, max_total=10**6):
    app = Echo(folder)
    storage = Storage(folder, max_total)
    return app, Guard(app, hosts=Hosts(host, named), storage=storage, max_upload=max_upload)


def call(
    app,
    headers=(),
    chunks=(b"",),
    method="POST",
    path="/gradio_api/queue/join",
    broken=False,
    **scope,
):
    """Send a request, in chunks, and return the status and how much of the body was taken."""
    scope = {"type": "http", "method": method, "path": path, **scope}
    scope["headers"] = [(k.lower().encode(), v.encode()) for k, v in headers]
    chunks, sent, taken = iter(chunks), [], 0
    waiting = next(chunks, None)

    async def receive():
        nonlocal waiting, taken
        if waiting is None:
            if not broken:
                raise AssertionError("waits for more than there is, which a server does for ever")
            return {"type": "http.disconnect"}
        body, waiting = waiting, next(chunks, None)
        taken += len(body)
        return {"type": "http.request", "body": body, "more_body": waiting is not None}

    async def send(message):
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    if scope["type"] == "websocket":
        return sent[0]["type"]
    assert [m["type"] for m in sent] == ["http.response.start", "http.response.body"]
    return sent[0]["status"], taken


LOOPBACK_OK = [OWN, "localhost:7860", "LOCALHOST:7860", "127.0.0.1", "[::1]:7860", "localhost."]
FOREIGN = [
    "evil.example",
    "evil.example:7860",
    "127.0.0.1.evil.example:7860",
    "localhost.evil.example",
    "evil.example#127.0.0.1",
    "evil.example@127.0.0.1",
    "127.0.0.1@evil.example",
    "127.0.0.1:7860/evil",
    "127.0.0.1, evil.example",
    "10.0.0.1:7860",
    "0.0.0.0:7860",
    "2130706433",
    "127.1",
    "[::1",
    "",
    " ",
    "\x00",
    "xn--lcalhost-n3a",
    "locаlhost",  # with a Cyrillic letter
]


@pytest.mark.parametrize("host", LOOPBACK_OK)
@pytest.mark.parametrize("listens", ["127.0.0.1", "localhost", "::1"])
def test_its_own_names_are_answered(tmp_path, host, listens):
    _, guard = guarded(tmp_path, listens)
    assert call(guard, [("Host", host)])[0] == 200
    assert call(guard, [("Host", host), ("Origin", f"http://{host}")])[0] == 200


@pytest.mark.parametrize("host", FOREIGN)
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_other_names_are_refused(tmp_path, host, method):
    """As a name of another site that leads to 127.0.0.1 (DNS rebinding)."""
    app, guard = guarded(tmp_path)
    for path in ("/", "/gradio_api/upload", "/gradio_api/queue/data", "/config"):
        assert call(guard, [("Host", host)], method=method, path=path)[0] == 403
    assert call(guard, [("Host", OWN), ("X-Forwarded-Host", host)], method=method)[0] == 403
    assert app.calls == 0


def test_a_host_is_named_once(tmp_path):
    app, guard = guarded(tmp_path)
    for headers in ([], [("Host", OWN), ("Host", "evil.example")], [("Host", OWN)] * 2):
        assert call(guard, headers)[0] == 403
    assert app.calls == 0


ORIGINS = [
    "http://evil.example",
    "https://evil.example:7860",
    "http://127.0.0.1",
    "http://127.0.0.1:3000",  # another program of this computer
    "http://localhost:7860",  # the same place under another name is another origin
    "https://127.0.0.1",
    "http://127.0.0.1:7860.evil.example",
    "http://127.0.0.1:7860@evil.example",
    "http://evil.example/127.0.0.1:7860",
    "null",
    "",
    "file://",
    "chrome-extension://abc",
    "127.0.0.1:7860",
    "http://127.0.0.1:7860 http://evil.example",
]


@pytest.mark.parametrize("origin", ORIGINS)
def test_pages_of_other_sites_are_refused(tmp_path, origin):
    """Nothing of an upload is stored, or even read by the demo."""
    app, guard = guarded(tmp_path)
    for path in ("/gradio_api/upload", "/gradio_api/queue/join", "/gradio_api/queue/data"):
        headers = [("Host", OWN), ("Origin", origin)]
        assert call(guard, headers, [b"x" * 500], path=path)[0] == 403
    assert app.calls == 0 and not list(tmp_path.rglob("*"))
    assert call(guard, [("Host", OWN), ("Origin", f"http://{OWN}")], [b"x"])[0] == 200
    doubled = [("Host", OWN), ("Origin", f"http://{OWN}"), ("Origin", origin)]
    assert call(guard, doubled)[0] == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_other_sites_may_link_to_it_and_no_more(tmp_path, site):
    _, guard = guarded(tmp_path)
    headers = [("Host", OWN), ("Sec-Fetch-Site", site)]
    link = [*headers, ("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "document")]
    frame = [*headers, ("Sec-Fetch-Mode", "navigate"), ("Sec-Fetch-Dest", "iframe")]
    image = [*headers, ("Sec-Fetch-Mode", "no-cors"), ("Sec-Fetch-Dest", "image")]
    assert call(guard, link, method="GET", path="/")[0] == 200
    for wrong in (headers, frame, image):
        assert call(guard, wrong, method="GET", path="/gradio_api/file=x")[0] == 403
    assert call(guard, link, method="POST")[0] == 403
    assert call(guard, [("Host", OWN), ("Sec-Fetch-Site", "same-origin")], method="GET")[0] == 200


def test_websockets_are_checked_alike(tmp_path):
    app, guard = guarded(tmp_path)
    own, foreign = [("Host", OWN)], [("Host", OWN), ("Origin", "http://evil.example")]
    assert call(guard, own, type="websocket", path="/queue/join") == "websocket.accept"
    for headers in (foreign, [("Host", "evil.example")], []):
        assert call(guard, headers, type="websocket", path="/x") == "websocket.close"
    assert app.calls == 1


def test_on_a_network_addresses_and_what_the_user_names(tmp_path, monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "Desk.lan")
    monkeypatch.setattr("socket.getfqdn", lambda: "desk.lan")
    _, guard = guarded(tmp_path, "0.0.0.0", ["demo.example.org", "*.gradio.live"])
    good = ["192.168.1.5:7860", OWN, "desk.lan:7860", "desk.local", "demo.example.org"]
    for host in [*good, "a1b2.gradio.live", "[fe80::1]:7860"]:
        assert call(guard, [("Host", host)])[0] == 200, host
    for host in ("evil.example", "gradio.live.evil.example", "evilgradio.live", "example.org"):
        assert call(guard, [("Host", host)])[0] == 403, host
    _, guard = guarded(tmp_path, "192.168.1.5")
    assert call(guard, [("Host", "192.168.1.5:7860")])[0] == 200
    for host in ("192.168.1.6", "localhost", "evil.example"):
        assert call(guard, [("Host", host)])[0] == 403, host


def test_a_proxy_that_the_user_names(tmp_path):
    """It may hand on its own name, or call the demo by its address."""
    _, guard = guarded(tmp_path, named=["demo.example.org"])
    origin = ("Origin", "https://demo.example.org")
    for headers in (
        [("Host", "demo.example.org"), origin],
        [("Host", OWN), origin],
        [("Host", OWN), ("X-Forwarded-Host", "demo.example.org"), origin],
    ):
        assert call(guard, headers)[0] == 200
    assert call(guard, [("Host", OWN), ("Origin", "https://other.example.org")])[0] == 403


MEGABYTE = b"x" * 10**6


def test_a_large_body_is_refused_and_not_kept(tmp_path):
    """150 MB with their length, without it, and with a length that is a lie."""
    own = [("Host", OWN)]
    for headers in (own, [*own, ("Content-Length", "150000000")], [*own, ("Content-Length", "5")]):
        for path in ("/gradio_api/queue/join", "/gradio_api/upload", "/gradio_api/run/predict"):
            app, guard = guarded(tmp_path)
            status, _ = call(guard, headers, (MEGABYTE for _ in range(150)), path=path)
            assert status == 413 and app.read <= MAX_BODY
            if len(headers) == 2 and headers[1][1] != "5":
                assert app.calls == 0
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    app, guard = guarded(tmp_path)
    lengths = [("Content-Length", "9" * 4000), ("Content-Length", "-5")]
    assert call(guard, [*own, lengths[0]])[0] == 413
    assert call(guard, [*own, lengths[1]], [b"x"])[0] == 200
    assert call(guard, own, (MEGABYTE for _ in range(1)))[0] == 200
    # What is longer than anybody would wait for is answered at once.
    assert call(guard, [*own, ("Content-Length", "9" * 12)], [MEGABYTE])[1] == 0


def test_an_answer_that_has_begun_goes_on(tmp_path):
    async def early(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await receive()
        await send({"type": "http.response.body", "body": b"done"})

    guard = Guard(early, hosts=Hosts("::1"), storage=Storage(tmp_path, 10), max_upload=5)
    assert call(guard, [("Host", "[::1]")], [MEGABYTE * 2])[0] == 200


def test_faults_of_the_application_pass(tmp_path):
    async def fails(scope, receive, send):
        raise KeyError("boxes")

    guard = Guard(fails, hosts=Hosts("::1"), storage=Storage(tmp_path, 10), max_upload=5)
    with pytest.raises(KeyError):
        call(guard, [("Host", "localhost")])


def test_all_uploads_together_are_limited(tmp_path):
    own = [("Host", OWN)]
    app, guard = guarded(tmp_path, max_upload=100_000, max_total=400_000)
    upload = {"path": "/gradio_api/upload", "chunks": [b"x" * 90_000]}
    assert call(guard, own, **upload)[0] == 200
    for number in range(3):
        (tmp_path / "answer-1").mkdir(exist_ok=True)
        (tmp_path / f"answer-1/{number}.png").write_bytes(b"x" * 80_000)
    assert call(guard, own, **upload)[0] == 507 and app.calls == 1
    # A stated length that fits is believed, and still counted.
    small = [*own, ("Content-Length", "50")]
    assert call(guard, small, path="/gradio_api/upload", chunks=[b"x" * 50])[0] == 200


def test_uploads_that_run_together_are_counted_together(tmp_path):
    """Each would fit alone."""
    _, guard = guarded(tmp_path, max_upload=100_000, max_total=250_000)
    statuses = []

    async def main():
        inside, both = asyncio.Event(), asyncio.Event()

        async def slow():
            inside.set()
            await both.wait()
            return {"type": "http.request", "body": b"x" * 1000, "more_body": False}

        async def send(message):
            statuses.append(message.get("status"))

        scope = {"type": "http", "method": "POST", "path": "/gradio_api/upload"}
        scope["headers"] = [(b"host", OWN.encode())]
        first = asyncio.create_task(guard(scope, slow, send))
        await inside.wait()

        async def quick():
            return {"type": "http.request", "body": b"", "more_body": False}

        await guard(scope, quick, send)
        both.set()
        await first

    asyncio.run(main())
    assert [status for status in statuses if status] == [507, 200]


def test_an_upload_that_breaks_off_leaves_nothing(tmp_path):
    _, guard = guarded(tmp_path)
    with pytest.raises(RuntimeError):
        call(guard, [("Host", OWN)], path="/gradio_api/upload", chunks=[], broken=True)
    assert not list(tmp_path.rglob("part"))


# ---- The folder ----------------------------------------------------------------------------------


@pytest.fixture
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


RUNNING = """
import sys, time
from vrd_d2.demo.storage import working_folder
with working_folder() as folder:
    (folder / "uploads").mkdir()
    (folder / "uploads/photo.png").write_bytes(b"mine")
    print(folder, flush=True)
    time.sleep(60)
"""


def test_what_a_killed_demo_left_goes_and_a_running_one_keeps_its_own(temporary):
    command = [sys.executable, "-c", RUNNING]
    demos = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        killed, running = (Path(demo.stdout.readline().strip()) for demo in demos)
        demos[0].send_signal(signal.SIGKILL)
        demos[0].wait(10)
        assert (killed / "uploads/photo.png").is_file()
        with working_folder() as own:
            assert own.is_dir() and not killed.exists()
            assert (running / "uploads/photo.png").read_bytes() == b"mine"
            remove_leftovers()
            assert own.is_dir()
        assert not own.exists()
    finally:
        for demo in demos:
            demo.kill()
            demo.wait(10)
            demo.stdout.close()
    remove_leftovers()
    assert not list(temporary.iterdir())


def test_only_folders_of_demos_are_removed(temporary):
    other, mine = temporary / "vrd_d2_other", temporary / "mine"
    for folder in (other, mine):
        folder.mkdir()
        (folder / "kept.txt").write_text("mine")
    (temporary / f"{PREFIX}link").symlink_to(mine)
    (temporary / f"{PREFIX}file").write_text("mine")
    left = temporary / f"{PREFIX}abc"
    (left / "uploads").mkdir(parents=True)
    (left / "uploads/link").symlink_to(mine)
    remove_leftovers()
    assert not left.exists() and (other / "kept.txt").is_file() and (mine / "kept.txt").is_file()
    assert (temporary / f"{PREFIX}file").is_file()


def test_folders_of_other_users_are_left(temporary, monkeypatch):
    left = temporary / f"{PREFIX}abc"
    left.mkdir()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    remove_leftovers()
    assert left.is_dir()


def test_a_new_folder_that_another_start_takes_is_made_again(temporary, monkeypatch):
    """Between its making and its lock it looks like one that a kill has left."""
    make, made = tempfile.mkdtemp, []

    def taken(**options):
        made.append(make(**options))
        if len(made) == 1:
            remove_leftovers()
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", taken)
    with working_folder() as folder:
        assert len(made) == 2 and str(folder) == made[1] and folder.is_dir()
