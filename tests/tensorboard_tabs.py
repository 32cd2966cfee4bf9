"""Open every tab of TensorBoard in a browser, and fail where one is empty.

    pip install playwright && playwright install chromium
    python tests/tensorboard_tabs.py [folder of runs] [--pictures folder] [--browser program]

Not among the tests, since a browser is no requirement of the project. A tab counts as filled when
what it is for is visible: cards of scalars, pictures that have loaded, a sound that plays, tables,
a table of hyperparameters, a projection. `--browser` takes a Chromium that is there already.
"""

import argparse
import contextlib
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# what is visible in a tab that is not empty; selectors look into the parts of a page
FILLED = {
    "timeseries": "scalar-card canvas, image-card img",
    "scalars": "tf-scalar-card",
    "images": "tf-image-loader img",
    "audio": "tf-audio-loader audio",
    "text": "tf-text-loader td",
    "hparams": "vaadin-grid-cell-content",
    "projector": "#scatter canvas",
}
PATIENCE = 90        # s in which a tab must fill
OPTIONS = ["--samples_per_plugin", "images=500,audio=100", "--host", "127.0.0.1"]
PLAYED = """async sound => {
    sound.muted = true;
    await sound.play();
    await new Promise(done => setTimeout(done, 700));
    return sound.currentTime;
}"""


def free_port():
    """A port of this machine that nothing listens on."""
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        return made.getsockname()[1]


def answers(address):
    """Whether a server answers there."""
    try:
        with urllib.request.urlopen(address, timeout=5):
            return True
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False


@contextlib.contextmanager
def served(folder):
    """TensorBoard of a folder of runs: its address, while it is served."""
    port = free_port()
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(folder), *OPTIONS,
               "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}/"
    try:
        end = time.monotonic() + PATIENCE
        while not answers(address):
            if server.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"TensorBoard does not answer at {address}")
            time.sleep(1)
        yield address
    finally:
        server.terminate()
        server.wait()


def count_visible(page, tab):
    """How many elements of its kind a tab shows by the end of `PATIENCE`, or as soon as any."""
    place = page
    if tab == "projector":                 # a page in a page in a page
        place = page.frame_locator("iframe").frame_locator("iframe")
    found = place.locator(FILLED[tab]).locator("visible=true")
    end = time.monotonic() + PATIENCE
    while not found.count() and time.monotonic() < end:
        page.wait_for_timeout(500)
    return found.count()


def trouble_in(page, tab):
    """Why a tab that is open counts as empty, or ""."""
    number = count_visible(page, tab)
    print(f"{tab}: {number}")
    if not number:
        return "empty"
    if tab == "images":
        picture = page.locator(FILLED[tab]).first
        page.wait_for_timeout(3000)
        if not picture.evaluate("picture => picture.naturalWidth"):
            return "a picture does not load"
    if tab == "audio" and not page.locator(FILLED[tab]).first.evaluate(PLAYED) > 0:
        return "a sound does not play"
    return ""


def check(folder, tabs=tuple(FILLED), browser=None, pictures=None):
    """Open tabs of a folder of runs: `{tab: trouble}` of those that are empty."""
    from playwright.sync_api import sync_playwright
    troubles = {}
    with served(folder) as address, sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        for tab in tabs:
            page = chromium.new_page(viewport={"width": 1400, "height": 1000})
            page.set_default_timeout(1000 * PATIENCE)
            page.goto(f"{address}#{tab}")
            trouble = trouble_in(page, tab)
            if trouble:
                troubles[tab] = trouble
            if pictures:
                page.screenshot(path=pictures / f"{tab}.png")
            page.close()
        chromium.close()
    return troubles


def main():
    title, *_ = __doc__.splitlines()
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("runs", nargs="?", type=Path, default=ROOT / "runs" / "live")
    parser.add_argument("--tab", action="append", choices=FILLED, help="these alone")
    parser.add_argument("--pictures", type=Path, help="folder for a picture of each tab")
    parser.add_argument("--browser", help="program to use in place of playwright's own")
    options = parser.parse_args()
    if options.pictures:
        options.pictures.mkdir(parents=True, exist_ok=True)
    tabs = options.tab or tuple(FILLED)
    troubles = check(options.runs, tabs, options.browser, options.pictures)
    if troubles:
        sys.exit("\n".join(f"{tab}: {trouble}" for tab, trouble in troubles.items()))


if __name__ == "__main__":
    main()
