"""Headless Chromium for tests of pages: DevTools messages over two pipes, so that no driver and no further package is
needed.

`Browser` starts one Chromium; `page(path)` opens a file from disk in a fresh tab. A `Page` evaluates expressions,
presses keys, moves the mouse, takes screenshots, and keeps what a page must not have: errors of its scripts, and
requests beyond its own file.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

TIMEOUT = 60.0
"""seconds for one answer; Chromium starts in about one, more on a busy machine"""
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
    "--disable-sync", "--hide-scrollbars", "--remote-debugging-pipe",
]  # fmt: skip
KEYS = {"ArrowRight": 39, "ArrowLeft": 37, "ArrowDown": 40, "ArrowUp": 38, "Escape": 27, "Tab": 9, "Home": 36, "End": 35, "Enter": 13}


def find_chromium() -> str:
    """Missing: a skip on a developer's machine, a failure where CI=true."""
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found:
        return found
    if os.environ.get("CI") == "true":
        pytest.fail("no Chromium on PATH; apt-get install chromium")
    pytest.skip("no Chromium on PATH")


class Browser:
    """One Chromium process with a profile of its own; a context manager."""

    def __enter__(self) -> Browser:
        program, self.profile = find_chromium(), tempfile.mkdtemp(prefix="tu-chromium-")
        from_us, self.write_end = os.pipe()
        self.read_end, to_us = os.pipe()
        # Chromium reads DevTools messages from descriptor 3 and answers on 4; bash can bind any numbers to those two.
        start = ["bash", "-c", f'exec "$@" 3<&{from_us} 4>&{to_us}', "bash", program, *FLAGS]
        self.process = subprocess.Popen(
            [*start, f"--user-data-dir={self.profile}", "about:blank"],
            pass_fds=(from_us, to_us), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(from_us)
        os.close(to_us)
        self.buffer, self.sent = b"", 0
        self.events: list[dict[str, Any]] = []
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.send("Browser.close")
            self.process.wait(TIMEOUT)
        finally:
            self.process.kill()
            os.close(self.write_end)
            os.close(self.read_end)
            shutil.rmtree(self.profile, ignore_errors=True)

    def send(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """One DevTools command and its answer; events that come meanwhile are kept in `events`."""
        self.sent += 1
        message = {"id": self.sent, "method": method, "params": params, **({"sessionId": session} if session else {})}
        os.write(self.write_end, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") != self.sent:
                self.events.append(answer)
            elif "error" in answer:
                raise RuntimeError(f"{method}: {answer['error']['message']}")
            else:
                return answer["result"]

    def _receive(self) -> dict[str, Any]:
        deadline = time.monotonic() + TIMEOUT
        while b"\0" not in self.buffer:
            if not select.select([self.read_end], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise TimeoutError(f"Chromium did not answer within {TIMEOUT:.0f} s")
            chunk = os.read(self.read_end, 1 << 20)
            if not chunk:
                raise RuntimeError("Chromium has ended")
            self.buffer += chunk
        line, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(line)

    def page(
        self, path: Path, *, fragment: str = "", size: tuple[int, int] = (1000, 800), dark: bool = False, scripts: bool = True
    ) -> Page:
        """The file in a fresh tab, loaded."""
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        page = Page(self, self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"], path.resolve().as_uri())
        for domain in ("Page", "Runtime", "Network", "Log"):
            page.send(f"{domain}.enable")
        page.send("Emulation.setDeviceMetricsOverride", width=size[0], height=size[1], deviceScaleFactor=1, mobile=False)
        page.send("Emulation.setScriptExecutionDisabled", value=not scripts)
        page.emulate(dark=dark)
        page.go(fragment)
        return page


class Page:
    def __init__(self, browser: Browser, session: str, url: str):
        self.browser, self.session, self.url = browser, session, url

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        return self.browser.send(method, self.session, **params)

    def go(self, fragment: str) -> None:
        """Loads the page anew with this fragment (without its #)."""
        self.browser.events = [e for e in self.browser.events if e.get("sessionId") != self.session]
        self.send("Page.navigate", url="about:blank")  # a change of the fragment alone would load nothing
        self.send("Page.navigate", url=f"{self.url}#{fragment}" if fragment else self.url)
        deadline = time.monotonic() + TIMEOUT
        while self.evaluate("location.href !== 'about:blank' && document.readyState") != "complete":
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.url} did not load within {TIMEOUT:.0f} s")
            time.sleep(0.02)

    def evaluate(self, expression: str) -> Any:
        """Value of a JavaScript expression (JSON types); an exception of it is raised here."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']['exception'].get('description', 'exception')}")
        return answer["result"].get("value")

    def emulate(self, *, dark: bool = False, media: str = "") -> None:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", media=media, features=[scheme])

    def press(self, key: str) -> None:
        for kind in ("rawKeyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=KEYS[key])

    def center(self, selector: str) -> tuple[float, float]:
        """Viewport coordinates of the middle of the first line box, after scrolling it into view."""
        script = """((e) => {
            e.scrollIntoView({block: 'center'});
            const r = e.getClientRects()[0];
            return [r.x + r.width / 2, r.y + r.height / 2];
        })"""
        return tuple(self.evaluate(f"{script}(document.querySelector({json.dumps(selector)}))"))

    def hover(self, selector: str) -> None:
        x, y = self.center(selector)
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def click(self, selector: str) -> None:
        x, y = self.center(selector)
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def screenshot(self, path: Path, *, full: bool = False) -> None:
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", captureBeyondViewport=full)["data"]))

    def requests(self) -> list[str]:
        """Addresses that the page asked for, besides its own file."""
        self.evaluate("new Promise((done) => setTimeout(done, 50))")
        asked = (e["params"]["request"]["url"] for e in self._events("Network.requestWillBeSent"))
        return [url for url in asked if url.split("#")[0] not in (self.url, "about:blank")]

    def errors(self) -> list[str]:
        """Exceptions and console errors of the page's scripts."""
        self.evaluate("0")
        thrown = [str(e["params"]["exceptionDetails"]) for e in self._events("Runtime.exceptionThrown")]
        logged = [e["params"]["entry"]["text"] for e in self._events("Log.entryAdded") if e["params"]["entry"]["level"] == "error"]
        return thrown + logged

    def _events(self, method: str) -> list[dict[str, Any]]:
        return [e for e in self.browser.events if e.get("method") == method and e.get("sessionId") == self.session]
