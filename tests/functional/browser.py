"""Headless Chromium, driven over a pipe (chromedevtools.github.io/devtools-protocol)."""

import base64
import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from functional.ovsdb_servers import until

CHROMIUM = shutil.which("chromium")
PHONE = (390, 844)
"""Width and height of the screen of a phone, in CSS pixels."""


class Browser:
    """A browser with one page."""

    def __init__(self, profile: Path) -> None:
        options = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--remote-debugging-pipe",
            "--no-first-run",
        ]
        command = [str(CHROMIUM), *options, f"--user-data-dir={profile}", "--hide-scrollbars", "about:blank"]
        pipes = (*os.pipe(), *os.pipe())
        theirs_in, ours_out, ours_in, theirs_out = (
            fcntl.fcntl(pipe, fcntl.F_DUPFD_CLOEXEC, 10) for pipe in pipes
        )
        # Chromium reads requests from file descriptor 3 and writes to 4.
        redirected = ["bash", "-c", f'exec 3<&{theirs_in} 4>&{theirs_out}; exec "$@"', "bash", *command]
        self._process = subprocess.Popen(
            redirected, pass_fds=(theirs_in, theirs_out), stderr=subprocess.DEVNULL
        )
        for number in (*pipes, theirs_in, theirs_out):
            os.close(number)
        self._to, self._from = os.fdopen(ours_out, "wb", 0), os.fdopen(ours_in, "rb")
        self._number = 0
        self._session = ""
        self.logged: list[str] = []
        """Messages on the page's console, and violations of its policy."""
        try:
            targets = self._call("Target.getTargets")["targetInfos"]
            (page,) = (one["targetId"] for one in targets if one["type"] == "page")
            self._session = self._call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Accessibility"):
                self._call(f"{domain}.enable")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the browser and its children."""
        self._process.kill()
        self._process.wait()
        self._to.close()
        self._from.close()

    def _call(self, method: str, **parameters: Any) -> Any:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if self._session else {}
        self._to.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer)
                return answer["result"]
            self._note(answer)

    def _next(self) -> Any:
        text = bytearray()
        while (byte := self._from.read(1)) != b"\0":
            assert byte, "the browser has ended"
            text += byte
        return json.loads(text)

    def _note(self, event: Any) -> None:
        match event:
            case {"method": "Log.entryAdded", "params": {"entry": {"text": text}}}:
                self.logged.append(text)
            case {"method": "Runtime.exceptionThrown", "params": {"exceptionDetails": details}}:
                self.logged.append(json.dumps(details))
            case {"method": "Runtime.consoleAPICalled", "params": parameters}:
                self.logged.append(json.dumps(parameters["args"]))

    def open(self, url: str, size: tuple[int, int] = (1500, 1000), *, dark: bool = False) -> None:
        """Load a page on a screen of a size."""
        mobile = size == PHONE
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=size[0], height=size[1], deviceScaleFactor=2 if mobile else 1, mobile=mobile,
        )  # fmt: skip
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self._call("Emulation.setEmulatedMedia", features=scheme)
        self._call("Page.navigate", url=url)

    def value(self, expression: str) -> Any:
        """Return the value of an expression on the page, or of its promise."""
        result = self._call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, (expression, result["exceptionDetails"])
        return result["result"].get("value")

    def wait(self, expression: str) -> Any:
        """Wait until an expression is true on the page; return its value."""
        found: list[Any] = []

        def is_true() -> bool:
            found.append(self.value(expression))
            return bool(found[-1])

        is_true.__doc__ = expression
        until(is_true, 60)
        return found[-1]

    def press(self, key: str, code: int = 0) -> None:
        """Press and release a key, by its name (UI Events) and its code."""
        names = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        text = {"text": "\r"} if key == "Enter" else {}
        self._call("Input.dispatchKeyEvent", type="keyDown", **names, **text)
        self._call("Input.dispatchKeyEvent", type="keyUp", **names)

    def accessible(self) -> set[tuple[str, str]]:
        """Return role and name of all nodes that a screen reader is shown."""
        nodes = self._call("Accessibility.getFullAXTree")["nodes"]
        return {
            (one["role"]["value"], one.get("name", {}).get("value", ""))
            for one in nodes
            if not one["ignored"]
        }

    def screenshot(self, file: Path, *, whole: bool = True) -> None:
        """Write a picture of the page, as PNG."""
        taken = self._call("Page.captureScreenshot", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(taken["data"]))


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """Run a browser within the block."""
    started = Browser(profile)
    try:
        yield started
    finally:
        started.close()
