"""A real browser that looks at a page: Chromium, spoken to by its DevTools protocol over two pipes.

Source: https://chromedevtools.github.io/devtools-protocol/
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe")
FLAGS += ("--host-resolver-rules=MAP * ~NOTFOUND",)  # no test reaches the network
# the protocol is read from descriptor 3 and written to 4
LAUNCH = """
import fcntl, os, sys
read, write = (fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3])
os.dup2(read, 3), os.dup2(write, 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
PATIENCE = 300  # seconds; what is silent for as long on a busy machine hangs
PHONE, DESK, SHEET = 390, 1200, 718  # widths in CSS pixels; an A4 sheet within the margins of print
LEAST_CONTRAST = 4.5  # of WCAG 2, level AA

MEASURE = r"""
(async () => {
  const shown = element => element.checkVisibility({visibilityProperty: true, contentVisibilityAuto: true});
  const canvas = Object.assign(document.createElement("canvas"), {width: 1, height: 1});
  const paint = canvas.getContext("2d", {willReadFrequently: true});
  const pixel = colors => {
    for (const color of colors) { paint.fillStyle = color; paint.fillRect(0, 0, 1, 1); }
    return paint.getImageData(0, 0, 1, 1).data.slice(0, 3);
  };
  const luminance = rgb => {  // of WCAG 2
    const [r, g, b] = [...rgb].map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = element => {
    const below = ["white"];
    for (let e = element; e; e = e.parentElement) below.splice(1, 0, getComputedStyle(e).backgroundColor);
    const [a, b] = [pixel(below), pixel([...below, getComputedStyle(element).color])].map(luminance);
    return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  };
  const broken = text => {  // a word of at most 20 letters that goes on in the next line, in a narrow cell
    const cell = text.parentElement.closest("td, th"), style = cell && getComputedStyle(cell);
    if (!cell || cell.clientWidth > 8 * parseFloat(style.fontSize)) return [];
    return [...text.data.matchAll(/\w+/g)].filter(word => {
      const range = document.createRange();
      range.setStart(text, word.index);
      range.setEnd(text, word.index + word[0].length);
      return word[0].length <= 20 && new Set([...range.getClientRects()].map(r => r.top)).size > 1;
    }).map(word => word[0]);
  };
  const paper = matchMedia("print").matches, details = [...document.querySelectorAll("details")];
  if (!paper) details.forEach(d => { d.open = true; });  // on paper nobody can
  const texts = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode())
    if (walk.currentNode.data.trim() && shown(walk.currentNode.parentElement)) texts.push(walk.currentNode);
  const images = await Promise.all([...document.images].map(async image => (
    {alt: image.alt, decoded: await image.decode().then(() => image.naturalWidth > 0, () => false)}
  )));
  const alpha = element => { paint.clearRect(0, 0, 1, 1); paint.fillStyle = getComputedStyle(element).backgroundColor;
                             paint.fillRect(0, 0, 1, 1); return paint.getImageData(0, 0, 1, 1).data[3]; };
  return {
    width: document.documentElement.scrollWidth,
    images,
    contrasts: texts.map(t => ({text: t.data.trim(), contrast: contrast(t.parentElement)})),
    broken: texts.flatMap(broken),
    hidden: details.filter(d => !shown(d.lastElementChild)).length,
    plain_links: [...document.links].filter(a => shown(a) && getComputedStyle(a).textDecorationLine != "underline")
                                    .map(a => a.textContent),
    colour_alone: [...document.querySelectorAll("td, th")].filter(c => alpha(c) && !c.textContent.trim()).length,
  };
})()
"""


def find_browser() -> str | None:
    """The installed browser, if there is one that runs: some distributions have stand-ins that only ask for a snap."""
    return next(filter(_runs, filter(None, map(shutil.which, NAMES))), None)


def _runs(program: str) -> bool:
    return subprocess.run([program, "--version"], capture_output=True, timeout=PATIENCE).returncode == 0


class Browser:
    """One headless Chromium with one tab."""

    def __init__(self, program: str, profile: Path) -> None:
        (read, self._write), (self._read, write) = os.pipe(), os.pipe()
        launch = [sys.executable, "-S", "-c", LAUNCH, str(read), str(write), program]
        command = [*launch, *FLAGS, f"--user-data-dir={profile}"]
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(command, pass_fds=(read, write), stdout=quiet, stderr=quiet)
        os.close(read), os.close(write)
        self._buffer, self._number, self._session = b"", 0, ""
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            self.events.append(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def open(self, page: Path, *, width: int = DESK, media: str = "screen", scheme: str = "light") -> None:
        """Load a page in a window of a width, and wait until all of it is there."""
        phone = width < 600
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=844, deviceScaleFactor=1, mobile=phone)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.call("Emulation.setEmulatedMedia", media=media, features=[feature])
        self.events.clear()
        self.call("Page.navigate", url=page.resolve().as_uri())
        while not self.seen("Page.loadEventFired"):
            self.events.append(self._next())

    def seen(self, *methods: str) -> list[dict[str, Any]]:
        """What the browser told of some kinds since the page was opened."""
        return [event["params"] for event in self.events if event["method"] in methods]

    def measure(self) -> dict[str, Any]:
        """What ``MEASURE`` finds on the page that is open."""
        answer = self.call("Runtime.evaluate", expression=MEASURE, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"]["value"]

    def print(self) -> bytes:
        """The page that is open as a PDF of A4 sheets."""
        self.call("Emulation.setEmulatedMedia", media="")
        sheet = {"paperWidth": 8.27, "paperHeight": 11.69}  # inches
        return base64.b64decode(self.call("Page.printToPDF", printBackground=False, **sheet)["data"])

    def picture(self) -> bytes:
        """The whole page that is open as a PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"])

    def close(self) -> None:
        """End the browser."""
        self.call("Browser.close")
        self._process.wait(PATIENCE)
        os.close(self._write), os.close(self._read)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            assert select.select([self._read], [], [], PATIENCE)[0], "the browser is silent"
            piece = os.read(self._read, 1 << 20)
            assert piece, f"the browser ended with {self._process.wait()}"
            self._buffer += piece
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)


def find_faults(browser: Browser, page: Path) -> set[str]:
    """What is wrong with a page on a desk, on a phone, in the dark and on paper."""
    faults = set()
    views = {"desk": {}, "phone": {"width": PHONE}, "dark": {"scheme": "dark"}}
    for name, view in {**views, "paper": {"width": SHEET, "media": "print"}}.items():
        browser.open(page, **view)
        found = browser.measure()
        faults |= {f"{name}: {fault}" for fault in _faults(found, view.get("width", DESK))}
        faults |= {f"{name}: {fault}" for fault in _incidents(browser)}
    faults |= set() if browser.print().startswith(b"%PDF-") else {"paper: no PDF"}
    return faults


def _faults(found: dict[str, Any], width: int) -> set[str]:
    faults = {f"{found['width']} pixels wide"} if found["width"] > width else set()
    faults |= {"an image has no alt text" for image in found["images"] if not image["alt"].strip()}
    faults |= {f"does not decode: {image['alt']}" for image in found["images"] if not image["decoded"]}
    faults |= {
        f"contrast {text['contrast']:.2f}: {text['text']}"
        for text in found["contrasts"]
        if text["contrast"] < LEAST_CONTRAST
    }
    faults |= {f"broken: {word}" for word in found["broken"]} | ({"hidden details"} if found["hidden"] else set())
    faults |= {f"a link by colour alone: {text}" for text in found["plain_links"]}
    return faults | ({"a cell speaks by colour alone"} if found["colour_alone"] else set())


def _incidents(browser: Browser) -> set[str]:
    logged = [event["entry"]["text"] for event in browser.seen("Log.entryAdded")]
    logged += [event["exceptionDetails"]["text"] for event in browser.seen("Runtime.exceptionThrown")]
    logged += [str(event["args"]) for event in browser.seen("Runtime.consoleAPICalled")]
    urls = [event["request"]["url"] for event in browser.seen("Network.requestWillBeSent")]
    outside = [url for url in urls[1:] if not url.startswith("data:")]  # the first is the page
    return {f"console: {text}" for text in logged} | {f"network: {url}" for url in outside}
