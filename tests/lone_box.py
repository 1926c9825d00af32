"""A real box without a relay: everything but Tor."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from bento.sandbox.start import is_reaper_running

START_S = 30


@dataclass
class LoneBox:
    """A running box; `process` is its server."""

    folder: Path
    address: tuple[str, int]
    process: "subprocess.Popen[bytes]"

    @property
    def config(self) -> Path:
        return self.folder / "box.toml"

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    @property
    def is_reaper_running(self) -> bool:
        return is_reaper_running(self.folder / "run")

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", "bento", "box", "run", "--config", str(self.config)]

    def start(self, *command: str) -> None:
        """Start the server (again), and wait until it listens; by `command`, if one is given."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command or self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        end = time.monotonic() + START_S
        while True:
            try:
                socket.create_connection(self.address, 1).close()
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"the box did not start:\n{self.log}") from None
                time.sleep(0.02)

    def kill_server(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(START_S)


def make_box(policy: str = "", more: str = "") -> LoneBox:
    """A box of its own: folder, address and port that nothing else uses. Not started yet."""
    folder = Path(tempfile.mkdtemp(prefix="bento-box-"))
    folder.chmod(0o755)
    address = f"127.{os.getpid() % 200 + 20}.{time.monotonic_ns() % 250}.9"
    with socket.create_server((address, 0)) as probe:
        port = probe.getsockname()[1]
    (folder / "box.toml").write_text(
        f'address = "{address}"\nport = {port}\nuser = "64101"\n'
        f'state = "{folder}/state"\nrun = "{folder}/run"\n{more}\n'
        f'[relay]\ncontrol = "{folder}/control"\ncookie = "{folder}/cookie"\n[policy]\n{policy}\n'
    )
    return LoneBox(folder, (address, port), None)  # type: ignore[arg-type] # set by start
