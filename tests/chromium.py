"""A headless Chromium for tests, in namespaces of its own, over the DevTools protocol on an inherited socket.

    with Chromium() as cut:                                  # no network at all; a recorder is its proxy
        seen = cut.visit("file:///tmp/page.html")            # Visit(image, height_px, asked)
        assert not cut.recorded()

Nothing of the user's is in it: its profile is an empty folder in memory, its own sandbox is on, and all its processes
are in one process namespace, which ends with the process that is started here.
"""

import base64
import contextlib
import io
import itertools
import json
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from PIL import Image, ImageChops

PROGRAM: Final = Path("/usr/lib/chromium/chromium-headless-shell")
"""What /usr/bin/chromium-headless-shell starts after looking around."""

WIDTH_PX: Final = 1200
HEIGHT_PX: Final = 4000
"""Of the window. One as high as five of a person's: a picture of what lies below a window's edge would move what is
fixed to the window, and what loads when it comes into view would be missing."""
_LIMIT_S: Final = 30
_SETTLE_S: Final = 0.2
"""Prefetches, timers and refreshes begin after the load event."""

_FLAGS: Final = (
    "--headless --remote-debugging-pipe --user-data-dir=/dev/shm/profile --no-first-run --disable-extensions"
    " --disable-sync --disable-background-networking --disable-component-update --disable-default-apps"
    " --disable-gpu --disable-software-rasterizer --hide-scrollbars --mute-audio --force-color-profile=srgb"
    f" --window-size={WIDTH_PX},{HEIGHT_PX}"
).split()

# Inside: hands the recorder's listener out, then becomes Chromium with the same socket as both of its pipes.
_LAUNCH: Final = """
import os, socket, sys
outside = socket.socket(fileno=int(sys.argv[1]))
flags = []
if sys.argv[2] == "cut":
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    socket.send_fds(outside, [b"L"], [listener.fileno()])
    flags = [f"--proxy-server=http://127.0.0.1:{listener.getsockname()[1]}", "--proxy-bypass-list=<-loopback>"]
os.dup2(outside.fileno(), 9, inheritable=False)
os.dup2(9, 3)
os.dup2(9, 4)
os.execv(sys.argv[3], [*sys.argv[3:], *flags])
"""


@dataclass(frozen=True)
class Visit:
    """What a page looks like: the window in grey at half size, and the height of the page, at least the window's.

    `asked`: every URL that the browser asked for, the page's first; without data:, which are the page's own.
    """

    image: Image.Image
    height_px: int
    asked: tuple[str, ...]

    def difference(self, other: "Visit") -> float:
        """How unlike two pages look: of the tiles of 16 x 16 px that are not blank in both, the share whose mean grey
        differs by more than 8 of 255. 0 where nothing differs."""
        mine, its = (image.reduce(8) for image in (self.image, other.image))
        unlike = sum(ImageChops.difference(mine, its).histogram()[9:])
        return unlike / max(1, sum(ImageChops.darker(mine, its).histogram()[:248]))


class Chromium:
    """One browser; each visit has cookies and a cache of its own.

    Args:
        within: makes the command line that runs another one inside a network, such as `Network.command`. Without it the
            browser has a network namespace with nothing in it but a recorder, the proxy for all that it asks.
    """

    def __init__(self, within: Callable[[Sequence[str]], list[str]] | None = None) -> None:
        self._numbers = itertools.count(1)
        self._received = b""
        self._recorded: list[str] = []
        self._asked: list[str] = []
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed on exit; a pipe that nobody reads fills up
        mine, its = socket.socketpair()
        launch = [sys.executable, "-I", "-S", "-c", _LAUNCH, str(its.fileno()), "open" if within else "cut"]
        command = [*_namespaces(is_cut=within is None), *launch, str(PROGRAM), *_FLAGS]
        with its:
            self._process = subprocess.Popen(
                within(command) if within else command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._log,
                pass_fds=[its.fileno()],
                start_new_session=True,
            )
        self._socket = mine
        self._socket.settimeout(_LIMIT_S)
        self._listener = None if within else self._take_listener()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()
        if self._listener:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        # The first process of the namespace dies with its parent, and all others with it.
        self._process.kill()
        self._process.wait(_LIMIT_S)
        self._log.close()

    def visit(
        self, url: str, *, with_scripts: bool = True, blocked: Sequence[str] = (), once_more_unguarded: bool = False
    ) -> Visit:
        """Load a page, wait for its fonts and for what begins late, and look at it.

        Args:
            with_scripts: whether the page's own scripts run.
            blocked: patterns of URLs that are not loaded, such as "*.css".
            once_more_unguarded: then load it again, with its Content-Security-Policy out of force.
        """
        context = self._call("Target.createBrowserContext")["browserContextId"]
        target = self._call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        page = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._call("Emulation.setScriptExecutionDisabled", page, value=not with_scripts)
        self._call("Network.enable", page)
        self._call("Network.setBlockedURLs", page, urls=list(blocked))
        self._call("Page.enable", page)
        self._asked.clear()
        opened = self._call("Page.navigate", page, url=url)
        assert "errorText" not in opened, f"{url}: {opened['errorText']}"
        self._wait_for_all(page)
        image, height_px = self._look(page)
        if once_more_unguarded:
            self._call("Page.setBypassCSP", page, enabled=True)
            self._call("Page.reload", page, ignoreCache=True)
            self._wait_for_all(page)
        self._call("Target.disposeBrowserContext", browserContextId=context)
        return Visit(image, height_px, tuple(self._asked))

    def recorded(self) -> list[str]:
        """The request lines that the recorder got since it was asked last; only where there is no network."""
        assert self._listener, "this browser has a network"
        seen, self._recorded = self._recorded, []
        return seen

    def _wait_for_all(self, page: str) -> None:
        self._read_until(lambda heard: heard.get("method") == "Page.loadEventFired" and heard["sessionId"] == page)
        self._call("Runtime.evaluate", page, expression="document.fonts.ready.then(() => 0)", awaitPromise=True)
        time.sleep(_SETTLE_S)

    def _look(self, page: str) -> tuple[Image.Image, int]:
        clip = {"x": 0, "y": 0, "width": WIDTH_PX, "height": HEIGHT_PX, "scale": 0.5}
        data = self._call("Page.captureScreenshot", page, format="png", optimizeForSpeed=True, clip=clip)["data"]
        size = self._call("Page.getLayoutMetrics", page)["cssContentSize"]
        assert size["width"] == WIDTH_PX, f"the window is {size['width']} px wide"
        return Image.open(io.BytesIO(base64.b64decode(data))).convert("L"), int(size["height"])

    def _call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        with contextlib.suppress(BrokenPipeError):  # reading tells why
            self._socket.sendall(json.dumps(message).encode() + b"\0")
        answer = self._read_until(lambda heard: heard.get("id") == number)
        assert "error" not in answer, f"{method}: {answer['error']}"
        result: dict[str, Any] = answer["result"]
        return result

    def _read_until(self, is_wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The next message that is wanted; what comes before is of no interest."""
        end = time.monotonic() + _LIMIT_S
        while time.monotonic() < end:
            line, separator, rest = self._received.partition(b"\0")
            if not separator:
                piece = b""
                with contextlib.suppress(ConnectionResetError):
                    piece = self._socket.recv(1 << 20)
                if not piece:
                    raise self._ended()
                self._received += piece
                continue
            self._received = rest
            heard: dict[str, Any] = json.loads(line)
            assert heard.get("method") != "Inspector.targetCrashed", "the page's process crashed"
            if heard.get("method") == "Network.requestWillBeSent":
                url = heard["params"]["request"]["url"]
                self._asked += [] if url.startswith("data:") else [url]
            if is_wanted(heard):
                return heard
        raise TimeoutError(f"Chromium did not answer within {_LIMIT_S} s")

    def _ended(self) -> Exception:
        self._process.wait(_LIMIT_S)
        self._log.seek(0)
        return RuntimeError(f"Chromium ended: {self._log.read().decode(errors='replace')[-1000:]}")

    def _take_listener(self) -> socket.socket:
        message, descriptors, _, _ = socket.recv_fds(self._socket, 1, 1)
        if not message:
            raise self._ended()
        listener = socket.socket(fileno=descriptors[0])
        threading.Thread(target=self._record, args=(listener,), daemon=True).start()
        return listener

    def _record(self, listener: socket.socket) -> None:
        """Note the first line of each connection, and answer nothing."""
        with contextlib.suppress(OSError):  # closed: the browser ends
            while True:
                connection, _ = listener.accept()
                with connection, contextlib.suppress(OSError):
                    connection.settimeout(_LIMIT_S)
                    line = connection.makefile("rb").readline(4096)
                    self._recorded.append(line.decode("latin-1").strip())


def _namespaces(*, is_cut: bool) -> list[str]:
    """The command line that makes what Chromium lives in: all files, read-only, and hardly anything else."""
    command = [shutil.which("bwrap") or "bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"]
    command += ["--setenv", "HOME", "/dev/shm", "--unshare-user", "--uid", "1000", "--gid", "1000"]
    command += ["--unshare-pid", "--unshare-ipc", "--unshare-uts", "--die-with-parent", "--new-session"]
    return [*command, *(["--unshare-net"] if is_cut else [])]
