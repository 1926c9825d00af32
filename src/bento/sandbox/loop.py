"""The reaper's loop: one thread, one poll. It outlives the server: sessions go on, leases still end instances, and the
next server is told all of it.
"""

import os
import select
import socket
import struct
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

from bento.errors import SandboxUnavailable
from bento.sandbox import messages
from bento.sandbox.custody import Custody
from bento.sandbox.instances import Ending, Instance
from bento.sandbox.pool import Pool
from bento.sandbox.spec import MAX_PACKET_BYTES, SandboxConfig
from bento.sandbox.watch import Watch

_TICK_S = 1.0
"""The longest sleep: how late a zygote may be replaced, and a lease be noticed after the machine slept."""

_SERVER_TIMEOUT_S = 2
"""A server that reads nothing for this long is as good as gone: it connects again, and is told what it missed."""

_PROOF_TIMEOUT_S = 20.0
"""The first child takes 0.3 s; where it takes this long, functions would be no use."""

_MAX_LINE_CHARS = 800  # in any encoding less than a pipe takes at once

_TROUBLES = 3  # the newest notices, for the reason of a start that failed

_ANSWER_PAUSE_S = 0.01
"""Without a server a message of each instance is answered this often, no oftener: a flood is the sender's own loss."""


_READS = 64
"""Packets of the server that one turn reads: 20 KiB of renewals, or a few starts, are done within some milliseconds,
and children that wait to be buried do not wait longer."""


def boot_time_s() -> float:
    """Seconds since boot, the machine's sleep included: a lease is over when its owner's clock says so."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass(frozen=True)
class _Waiting:
    """A start that no child was there for."""

    start: messages.Start
    connection: int
    give_up_s: float


class Loop:
    """All that a reaper does between its start and its end."""

    def __init__(self, config: SandboxConfig, pool: Pool, custody: Custody, watch: Watch, tier: str) -> None:
        self._config: Final = config
        self._pool, self._custody, self._watch, self._tier = pool, custody, watch, tier
        self._waiting: deque[_Waiting] = deque()
        self._server: socket.socket | None = None
        self._alone_since_s = boot_time_s()
        self._answered: list[Instance] = []
        self._listen_again_s = 0.0
        self._is_stopping = False
        self._troubles: deque[str] = deque(maxlen=_TROUBLES)

    def listen(self, listener: socket.socket) -> None:
        """Welcome servers: one at a time, the newest replaces."""
        self._alone_since_s = boot_time_s()
        self._watch.add(listener.fileno(), lambda: self._accept(listener))

    def stop(self) -> None:
        """End at the next turn."""
        self._is_stopping = True

    def notice(self, text: str) -> None:
        """Tell the operator: on stderr, and through the server."""
        _log(text)
        self._troubles.append(text)
        self._tell(messages.Notice(text))

    def run(self) -> None:
        """Turn until stopped, or until neither server nor instance is left for the time of grace."""
        while not self._is_stopping and not self._is_abandoned():
            self.turn()

    def prove(self) -> None:
        """Make the first child: what any machine may refuse, it refuses now.

        Raises: SandboxUnavailable with the reason.
        """
        give_up_s = boot_time_s() + _PROOF_TIMEOUT_S
        while not self._pool.idle:
            self.turn()
            if self._troubles or boot_time_s() > give_up_s:
                reason = "; ".join(self._troubles) or f"no child within {_PROOF_TIMEOUT_S:g} s"
                raise SandboxUnavailable(f"functions can't be confined on this machine: {reason}")

    def turn(self) -> None:
        """Do what is due, then wait for what comes next."""
        now_s = boot_time_s()
        self._pool.tick(now_s)
        self._custody.end_due(now_s)
        self._start_waiting()
        if self._answered and now_s >= self._listen_again_s:
            self._answer_all(self._answered)
        self._watch.wait(self._pause_s(now_s))
        self._bury_dead()

    def _is_abandoned(self) -> bool:
        is_alone = self._server is None and not len(self._custody.instances)
        return is_alone and boot_time_s() - self._alone_since_s > self._config.grace_s

    def _pause_s(self, now_s: float) -> float:
        if self._pool.is_short(now_s):
            return 0.0
        due_s = self._custody.instances.next_due_s() or now_s + _TICK_S
        listen_s = self._listen_again_s if self._answered else due_s
        return min(_TICK_S, due_s - now_s, listen_s - now_s, self._pool.next_order_s() - now_s)

    # --- the server -------------------------------------------------------------------------------------------------

    def _accept(self, listener: socket.socket) -> None:
        try:
            server, _ = listener.accept()
        except OSError:
            return  # it has given up already
        if _uid_of(server) not in (os.getuid(), self._config.server_uid):
            server.close()
            return
        self._dismiss()
        server.setblocking(True)
        # Python's own timeout would also wait for packets, before the kernel is asked not to.
        server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", _SERVER_TIMEOUT_S, 0))
        self._server = server
        self._answered = []
        for instance in self._custody.instances:
            self._watch.drop(self._custody.control_of(instance).fileno())
        self._watch.add(server.fileno(), self._read_server)
        self._greet()

    def _greet(self) -> None:
        """Tell a new server what lives, and what has ended while there was none."""
        now_s = boot_time_s()
        living = [each for each in self._custody.instances if each.ending is None]
        tombstones = self._custody.instances.tombstones(now_s)
        self._tell(messages.Welcome(self._tier, len(living), len(tombstones), self._pool.idle))
        for instance in living:
            adopted = messages.Adopted(instance.name, instance.record, max(0.0, instance.lease_until_s - now_s))
            self._tell(adopted, self._custody.control_of(instance))
        for tombstone in tombstones:
            self._tell(messages.Ended(tombstone, self._pool.idle))

    def _dismiss(self) -> None:
        """The server is gone, or is to go."""
        if self._server is None:
            return
        self._watch.drop(self._server.fileno())
        self._server.close()
        self._server = None
        self._alone_since_s = boot_time_s()
        while self._waiting:
            os.close(self._waiting.popleft().connection)
        self._answer_all(list(self._custody.instances))

    def _tell(self, message: messages.ToServer, control: socket.socket | None = None) -> None:
        if self._server is None:
            return
        try:
            messages.send(self._server, message, (control.fileno(),) if control else (), wait=True)
        except OSError:
            self._dismiss()

    def _read_server(self) -> None:
        for _ in range(_READS):
            if self._server is None:
                return
            try:
                request, descriptors = messages.receive(self._server, messages.TO_REAPER)
            except BlockingIOError:
                return
            except ConnectionError:
                self._dismiss()
                return
            except messages.Misfit as misfit:
                self._refuse(misfit)
            else:
                self._take(request, descriptors)

    def _refuse(self, misfit: messages.Misfit) -> None:
        """One packet that can't be read is that packet's trouble: all else the server is here for goes on."""
        if misfit.request is None:
            self.notice(f"the server sent what is no message: {misfit}")
        else:
            self._tell(messages.Failed(misfit.request, "broken", f"the request does not fit: {misfit}"))

    def _take(self, request: messages.ToReaper, descriptors: list[int]) -> None:
        if isinstance(request, messages.Start) and len(descriptors) == 1:
            self._start(_Waiting(request, descriptors[0], boot_time_s() + self._config.start_wait_s))
        else:
            messages.close_all(descriptors)
            self._obey(request)

    def _obey(self, request: messages.ToReaper) -> None:
        match request:
            case messages.Renew(instance, lease_s):
                self._custody.renew(instance, boot_time_s() + lease_s)
            case messages.End(instance, cause, rule, limit, asked):
                if (found := self._custody.instances.find(instance)) is not None:
                    self._custody.end(found, Ending(cause, rule, limit, asked))
            case messages.Measure():
                self._tell(self._custody.measure(request))
            case messages.Stop():
                self.stop()
            case messages.Start(number):
                self._tell(messages.Failed(number, "broken", "a start carries one connection"))

    # --- instances --------------------------------------------------------------------------------------------------

    def _start(self, waiting: _Waiting) -> None:
        if self._waiting or not self._try_start(waiting):
            self._waiting.append(waiting)

    def _start_waiting(self) -> None:
        while self._waiting:
            waiting = self._waiting.popleft()
            if not self._try_start(waiting):
                self._waiting.appendleft(waiting)
                return

    def _try_start(self, waiting: _Waiting) -> bool:
        """Start it, or say why not; False if it has to wait for a child."""
        outcome = self._custody.start(waiting.start, waiting.connection, boot_time_s())
        if outcome is None and not self._pool.is_exhausted and boot_time_s() < waiting.give_up_s:
            return False
        os.close(waiting.connection)
        if isinstance(outcome, socket.socket):
            self._tell(messages.Started(waiting.start.request, self._pool.idle), outcome)
        else:
            full = messages.Failed(waiting.start.request, "full", "no child is free for another instance")
            self._tell(outcome or full)
        return True

    def _bury_dead(self) -> None:
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            cpu_s = usage.ru_utime + usage.ru_stime
            tombstone = self._custody.bury(pid, os.waitstatus_to_exitcode(status), cpu_s, boot_time_s())
            if tombstone is not None:
                self._tell(messages.Ended(tombstone, self._pool.idle))

    def _answer_all(self, instances: list[Instance]) -> None:
        """Without a server: answer what these instances ask, each with the one packet that says there is none."""
        self._answered = []
        for instance in instances:
            if instance.ending is None and self._custody.instances.find(instance.name) is instance:
                control = self._custody.control_of(instance)
                self._watch.add(control.fileno(), partial(self._answer, instance, control))

    def _answer(self, instance: Instance, control: socket.socket) -> None:
        self._watch.drop(control.fileno())
        try:
            if not control.recv(MAX_PACKET_BYTES, socket.MSG_DONTWAIT):
                return  # it has closed its end
            control.send(self._config.unavailable_packet, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            pass  # it does not read its answers
        except OSError:
            return
        if not self._answered:
            self._listen_again_s = boot_time_s() + _ANSWER_PAUSE_S
        self._answered.append(instance)


def _log(text: str) -> None:
    """A line on stderr, unless it would wait: whoever read it may be gone, and the leases may not wait for them."""
    ready = select.poll()
    ready.register(2, select.POLLOUT)
    if ready.poll(0):
        with suppress(OSError):
            os.write(2, f"bento: reaper: {text[:_MAX_LINE_CHARS]}\n".encode())


def _uid_of(peer: socket.socket) -> int:
    credentials = struct.Struct("3i")  # struct ucred: pid, uid, gid
    _, uid, _ = credentials.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, credentials.size))
    return int(uid)
