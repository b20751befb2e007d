"""A headless Chromium driven over the WebDriver protocol, for tests of pages."""

import base64
import io
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

DRIVER = shutil.which("chromedriver")
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # fixed by the WebDriver standard
KEYS = {"Tab": "\ue004", "Enter": "\ue007", "Escape": "\ue00c", "Up": "\ue013", "Down": "\ue015"}


class Browser:
    """One window of 1400 x 1000. Raises RuntimeError where Chromium does not start."""

    def __init__(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._address = f"http://127.0.0.1:{free.getsockname()[1]}"
        self._process = subprocess.Popen(
            [DRIVER, f"--port={self._address.rpartition(':')[2]}"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        flags = "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage"
        # Nothing but what the tests ask for goes over the network.
        flags += " --no-first-run --disable-background-networking --disable-component-update"
        flags += " --disable-sync"
        # A camera that shows a test image, and may be used.
        flags += " --use-fake-device-for-media-stream --use-fake-ui-for-media-stream"
        options = {"binary": CHROMIUM, "args": [*flags.split(), "--window-size=1400,1000"]}
        wanted = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        try:
            self._wait()
            answer = self._call("POST", "/session", capabilities={"alwaysMatch": wanted})
        except (OSError, RuntimeError) as error:
            self._process.kill()
            raise RuntimeError(f"Chromium does not start: {error}") from error
        self._session = f"/session/{answer['sessionId']}"

    def _wait(self) -> None:
        for _ in range(300):
            try:
                self._call("GET", "/status")
                return
            except OSError:
                time.sleep(0.1)
        raise RuntimeError("chromedriver does not answer")

    def _call(self, method: str, path: str, **body: Any) -> Any:
        request = urllib.request.Request(
            self._address + path,
            method=method,
            data=json.dumps(body).encode() if method == "POST" else None,
            headers={"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=180) as response:
                return json.load(response)["value"]
        except urllib.error.HTTPError as error:
            raise RuntimeError(error.read().decode()) from error

    def open(self, page: Path | str) -> None:
        """Open a file, or an address."""
        address = page.resolve().as_uri() if isinstance(page, Path) else page
        self._call("POST", f"{self._session}/url", url=address)

    def run(self, script: str, *arguments: Any) -> Any:
        """The value that a piece of JavaScript returns; elements by `find` may be arguments."""
        return self._call(
            "POST", f"{self._session}/execute/sync", script=script, args=list(arguments)
        )

    def find(self, selector: str) -> dict:
        query = {"using": "css selector", "value": selector}
        return self._call("POST", f"{self._session}/element", **query)

    def point(self, element: dict | None) -> None:
        """Move the mouse to the middle of an element, or to the corner of the window."""
        origin = {"origin": element, "x": 0, "y": 0} if element else {"x": 1, "y": 1}
        move = {"type": "pointerMove", "duration": 0, **origin}
        actions = [{"type": "pointer", "id": "mouse", "actions": [move]}]
        self._call("POST", f"{self._session}/actions", actions=actions)

    def click(self, element: dict) -> None:
        self._call("POST", f"{self._session}/element/{element[ELEMENT]}/click")

    def press(self, *keys: str) -> None:
        """Press keys of KEYS, or characters, where the focus is."""
        pressed = []
        for key in keys:
            value = KEYS.get(key, key)
            pressed += [{"type": "keyDown", "value": value}, {"type": "keyUp", "value": value}]
        actions = [{"type": "key", "id": "keyboard", "actions": pressed}]
        self._call("POST", f"{self._session}/actions", actions=actions)

    def write(self, element: dict, text: str) -> None:
        """Type into an element; into a file input, the path of a file."""
        self._call("POST", f"{self._session}/element/{element[ELEMENT]}/value", text=text)

    def clear(self, element: dict) -> None:
        self._call("POST", f"{self._session}/element/{element[ELEMENT]}/clear")

    def enter(self, frame: dict | None) -> None:
        """Go on inside a frame; None goes back to the whole page."""
        self._call("POST", f"{self._session}/frame", id=frame)

    def wait(self, script: str, *arguments: Any, seconds: float = 60) -> Any:
        """The value of a script as soon as it is true. Raises TimeoutError."""
        end = time.monotonic() + seconds
        while not (value := self.run(script, *arguments)):
            if time.monotonic() > end:
                raise TimeoutError(f"still not true after {seconds} s: {script}")
            time.sleep(0.1)
        return value

    def resize(self, width: int, height: int) -> None:
        self._call("POST", f"{self._session}/window/rect", width=width, height=height)

    def screenshot(self, name: str) -> np.ndarray:
        """What the window shows, uint8 (H, W, 3).

        Kept as {name}.png in the folder that VRD_D2_SCREENSHOTS names, if it does.
        """
        content = base64.b64decode(self._call("GET", f"{self._session}/screenshot"))
        if "VRD_D2_SCREENSHOTS" in os.environ:
            folder = Path(os.environ["VRD_D2_SCREENSHOTS"])
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{name}.png").write_bytes(content)
        return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))

    def messages(self) -> list[str]:
        """What the console has got since the last call."""
        return [
            entry["message"]
            for entry in self._call("POST", f"{self._session}/se/log", type="browser")
        ]

    def close(self) -> None:
        try:
            self._call("DELETE", self._session)
        finally:
            self._process.terminate()
            self._process.wait(30)
