"""A headless Chromium, driven through its debugging pipe: what a reader sees, at any width, light or dark."""

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), ""
)
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
    "--no-first-run", "--disable-background-networking", "--remote-debugging-pipe",
)  # fmt: skip
TIMEOUT = 60.0


class Browser:
    """One page of a browser. Console messages and requests pile up in `messages` and `requests`."""

    def __init__(self, profile):
        down, up = os.pipe(), os.pipe()

        def connect():
            # The browser reads commands from 3 and writes answers to 4; the pipes' own numbers may be these.
            ends = os.dup(down[0]), os.dup(up[1])
            os.dup2(ends[0], 3)
            os.dup2(ends[1], 4)

        self.process = subprocess.Popen(
            [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            stderr=subprocess.DEVNULL, preexec_fn=connect, close_fds=False,
        )  # fmt: skip
        os.close(down[0])
        os.close(up[1])
        self.write, self.read = down[1], up[0]
        self.buffer, self.number, self.session = b"", 0, None
        self.messages, self.requests, self.events = [], [], []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **parameters):
        """Send a command and return its result."""
        self.number += 1
        number, command = self.number, {"id": self.number, "method": method, "params": parameters}
        if self.session:
            command["sessionId"] = self.session
        os.write(self.write, json.dumps(command).encode() + b"\0")
        while True:
            answer = self.receive()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]

    def receive(self):
        """Return the next message of the browser, and file it where it is an event."""
        end = time.monotonic() + TIMEOUT
        while b"\0" not in self.buffer:
            assert select.select([self.read], [], [], max(end - time.monotonic(), 0))[0], "the browser does not answer"
            self.buffer += os.read(self.read, 1 << 16)
        line, _, self.buffer = self.buffer.partition(b"\0")
        message = json.loads(line)
        match message.get("method"):
            case "Runtime.consoleAPICalled" | "Runtime.exceptionThrown" | "Log.entryAdded":
                self.messages.append(message["params"])
            case "Network.requestWillBeSent":
                self.requests.append(message["params"]["request"]["url"])
            case "Page.loadEventFired":
                self.events.append("loaded")
        return message

    def open(self, path, width, height=900, dark=False):
        """Load a file at a width in CSS pixels."""
        self.messages, self.requests, self.events = [], [], []
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.call("Page.navigate", url=Path(path).resolve().as_uri())
        while "loaded" not in self.events:
            self.receive()

    def run(self, script):
        """Return the value of a JavaScript expression."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in result, result
        return result["result"]["value"]

    def screenshot(self, path):
        """Write the whole page as PNG."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        Path(path).write_bytes(base64.b64decode(shot["data"]))

    def close(self):
        """End the browser."""
        self.process.terminate()
        self.process.wait(TIMEOUT)
        os.close(self.write)
        os.close(self.read)
