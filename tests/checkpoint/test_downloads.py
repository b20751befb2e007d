"""Failed downloads: one line with address, reason and remedy, whatever library has tried."""

import http.server
import socket
import threading
import time

import pytest
import torch
from huggingface_hub import constants
from torch import nn

from vrd_d2.checkpoint import downloads
from vrd_d2.checkpoint.checkpointer import load_weights, read_stamp
from vrd_d2.checkpoint.downloads import local_file
from vrd_d2.checkpoint.weights_files import first_line
from vrd_d2.modeling.encoders.clip import load_clip


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers as the first part of the path says."""

    def do_GET(self):
        kind = self.path.split("/")[1]
        if kind == "hanging":
            time.sleep(3)
        elif kind in ("cut", "whole"):
            content = self.server.content
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: None if kind == "whole" else len(content) // 2])
        else:
            self.send_error(404)

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    file = tmp_path_factory.mktemp("server") / "model.pth"
    torch.save({"model": nn.Linear(2, 2).state_dict()}, file)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.content, server.block_on_close = file.read_bytes(), False
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(autouse=True)
def short(tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(downloads, "TIMEOUT", 0.5)
    monkeypatch.setattr(downloads, "_HUB_TIMEOUT", 0.5)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    before = socket.getdefaulttimeout()
    yield
    assert socket.getdefaulttimeout() == before


def unresolved(*_, **__):
    raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")


def refused():
    """Return an address at which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


REASONS = {
    "missing": "HTTP 404",
    "cut": "retrieval incomplete",
    "hanging": "no answer within 0.5 seconds",
    "refused": "Connection refused",
    "unresolved": "Name or service not known",
}


@pytest.mark.parametrize("kind", REASONS)
@pytest.mark.parametrize("reader", [local_file, read_stamp, "load_weights"])
def test_weights_that_cannot_be_downloaded(kind, reader, server, monkeypatch, caplog, tmp_path):
    address = f"{server}/{kind}/model.pth"
    if kind == "refused":
        address = f"{refused()}/model.pth"
    elif kind == "unresolved":
        address = "https://models.invalid/model.pth"
        monkeypatch.setattr(socket, "getaddrinfo", unresolved)
    with pytest.raises(ValueError, match="without internet") as error:
        if reader == "load_weights":
            load_weights(nn.Linear(2, 2), address)
        else:
            reader(address)
    text = str(error.value)
    assert address in text and REASONS[kind] in text and "urlopen" not in text
    assert "\n" not in text and not caplog.records
    assert not [
        path
        for path in tmp_path.rglob("*.pth*")
        if path.stat().st_size and path.suffix != ".lock" and path.suffix != ".tmp"
    ]


def test_weights_that_can_be_downloaded(server, tmp_path):
    model = nn.Linear(2, 2)
    load_weights(model, f"{server}/whole/model.pth?matching_heuristics=True")
    again = nn.Linear(2, 2)
    load_weights(again, f"{server}/whole/model.pth")
    assert torch.equal(model.weight, again.weight)
    other = f"{server}/whole/other.pth"
    with pytest.raises(ValueError, match=r"other\.pth, stored as .*other\.pth: .*weight"):
        load_weights(nn.Linear(3, 2), other)


@pytest.mark.parametrize("path", ["foo://a/b.pth", "catalog://nothing", "detectron2:/a.pth"])
def test_what_is_no_address_is_named(path):
    with pytest.raises(ValueError, match=path):
        local_file(path)


@pytest.mark.parametrize("kind", ["missing", "hanging", "refused"])
def test_weights_of_a_tag_that_cannot_be_downloaded(kind, server, tmp_path, monkeypatch, caplog):
    """The hub's own client tries for a minute, with a line for each try."""
    endpoint = refused() if kind == "refused" else f"{server}/{kind}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    started = time.monotonic()
    with pytest.raises(ValueError, match=r"MODEL\.CLIP\.PRETRAINED.*without internet") as error:
        load_clip("ViT-B-32", "laion2b_s34b_b79k", cache_dir=str(tmp_path))
    assert time.monotonic() - started < 10
    text = str(error.value)
    for part in (REASONS[kind], f"{endpoint}/laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "laion2b"):
        assert part in text
    assert "\n" not in text and not caplog.records
    assert constants.HF_HUB_OFFLINE is False


@pytest.mark.parametrize("kind", ["missing", "cut", "hanging", "refused"])
def test_weights_of_open_clips_own_address(kind, server, tmp_path, monkeypatch, caplog):
    import open_clip

    server = refused() if kind == "refused" else f"{server}/{kind}"
    address = f"{server}/openaipublic/{'0' * 64}/weights.pt"
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda *_: {"url": address})
    with pytest.raises(ValueError, match=r"MODEL\.CLIP\.PRETRAINED") as error:
        load_clip("ViT-B-32", "openai", cache_dir=str(tmp_path))
    text = str(error.value)
    assert "\n" not in text and not caplog.records
    assert address in text and ("checksum" if kind == "cut" else REASONS[kind]) in text
    assert not list(tmp_path.iterdir())  # open_clip would take what is cut for the whole


def test_the_first_line_of_an_error_is_cut_between_words():
    assert first_line(ValueError("\n  one  line\nanother")) == "one line"
    assert first_line(KeyError()) == "KeyError"
    words = "reason " * 100
    cut = first_line(ValueError(words))
    assert len(cut) <= 200 and set(cut.split()) == {"reason", "..."}
