"""One call of one entry: its output kept until acknowledged, its input until received, whoever is attached."""

import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from bento.config import CHUNK_BYTES, MAX_INNER_BYTES, MAX_TEXT_CHARS
from bento.errors import ProtocolError, Replaced
from bento.protocol.framing import HEADER_BYTES, encode_frame
from bento.protocol.inner import ACKNOWLEDGE_BYTES, INPUT_WINDOW_BYTES
from bento.protocol.messages import Acknowledge, Input, Output, Raise, Return
from bento.protocol.offsets import Inbox, Outbox

_REMEMBERED_ATTACHMENTS = 64
"""Those that were replaced. One that comes back later than that counts as new: by then people, not programs, act."""


class Invocation:
    """The streams of one call. The function's thread writes and reads; a session's two threads move the bytes.

    Every method may be called from any thread. A session is known by an object of its own; the newest replaces the
    one before. An attachment is one client's, over all its sessions; one that was replaced does not come back.
    """

    def __init__(self, buffer_bytes: int) -> None:
        self._buffer_bytes = buffer_bytes
        self._changed = threading.Condition()
        self._outbox = Outbox()
        self._inbox = Inbox()
        self._pending = bytearray()
        self._consumed = 0
        self._acknowledged = 0
        self._input_ended = False
        self._said_input_ended = False
        self._outcome: bytes | None = None
        self._session: object | None = None
        self._newest: object | None = None
        self._detach: Callable[[], None] = lambda: None
        self._attachment = b""
        self._replaced: deque[bytes] = deque(maxlen=_REMEMBERED_ATTACHMENTS)
        self.is_done = False
        """Whether the client has acknowledged the end, or given the call up: nobody will come back for it."""

    # --- the function's side ---

    def send(self, data: bytes) -> None:
        """Add output; blocks while the buffer is full of what nobody has acknowledged.

        Raises: BrokenPipeError once the client has given the call up.
        """
        view = memoryview(data)
        while view:
            with self._changed:
                self._changed.wait_for(lambda: self._outbox.held_bytes < self._buffer_bytes or self.is_done)
                if self.is_done:
                    raise BrokenPipeError("the caller has given the call up")
                room = self._buffer_bytes - self._outbox.held_bytes
                self._outbox.append(view[:room])
                self._changed.notify_all()
            view = view[room:]

    def recv(self) -> bytes:
        """The input that has come, at least a byte; blocks for it; b"" at its end."""
        with self._changed:
            self._changed.wait_for(self._has_input)
            data = bytes(self._pending)
            self._pending.clear()
            self._consumed += len(data)
            self._changed.notify_all()
            return data

    def poll(self, timeout_s: float) -> bool:
        """Whether `recv` would not block, within so many seconds."""
        with self._changed:
            return self._changed.wait_for(self._has_input, timeout_s)

    def finish(self, outcome: Callable[[int], Return | Raise]) -> None:
        """Set how it ended; `outcome` gets the offset behind the last byte of output.

        Encoded here, once: what can't travel is the function's error, and no session need fear it.
        """
        with self._changed:
            self._outcome = _encode_outcome(outcome(self._outbox.end))
            self._changed.notify_all()

    # --- a session's side ---

    @property
    def is_finished(self) -> bool:
        with self._changed:
            return self._outcome is not None

    def attach(self, session: object, attachment: bytes, received: int, detach: Callable[[], None]) -> int:
        """Make `session` the one attached, from output offset `received` on; the one before gets its `detach` called.

        Returns: how many bytes of input have arrived.
        Raises: ProtocolError if that output is forgotten already; Replaced if another attachment took this one's place.
        """
        with self._changed:
            if attachment in self._replaced:
                raise Replaced("a newer attachment has taken this one's place")
            self._verify_kept(received)
            if self._attachment not in (b"", attachment):
                self._replaced.append(self._attachment)
            self._attachment = attachment
            self._session = self._newest = session
            before, self._detach = self._detach, detach
            # What was last acknowledged may be lost with its stream, and a client whose window is full would wait.
            self._acknowledged, self._said_input_ended = 0, False
            position = self._inbox.position
            self._changed.notify_all()
        before()
        return position

    def accept(self, session: object, message: Input | Acknowledge) -> None:
        """Take what the client sent; nothing from a session that was replaced, even if the newer one has left."""
        with self._changed:
            if session is not self._newest:
                return
            if isinstance(message, Acknowledge):
                self._outbox.acknowledge(message.offset)
                if message.end:
                    self._give_up()
            else:
                # Before it is taken in: one that comes again and again would fill the instance's memory.
                if message.offset + len(message.data) - self._consumed > INPUT_WINDOW_BYTES:
                    raise ProtocolError(f"more than {INPUT_WINDOW_BYTES} bytes of input that nobody acknowledged")
                self._pending += self._inbox.accept(message.offset, message.data)
                self._input_ended |= message.end
            self._changed.notify_all()

    def next_message(self, session: object, sent: int) -> Output | Acknowledge | bytes | None:
        """What `session` is to send next, of whose stream output up to `sent` has been sent; blocks until there is
        something. The outcome comes last, as its frame. None when nothing more will come: it was replaced, or the
        end is acknowledged.

        Raises: ProtocolError if the client acknowledged what was not sent to it.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._is_due(session, sent))
            if session is not self._session or self.is_done:
                return None
            if self._outbox.end > sent:
                return Output(sent, self._outbox.read(sent, CHUNK_BYTES))
            if self._is_acknowledgement_due():
                self._acknowledged, self._said_input_ended = self._consumed, self._input_ended
                return Acknowledge(self._consumed, end=self._input_ended)
            return self._outcome

    def leave(self, session: object) -> None:
        """The session's connection is gone; the invocation goes on."""
        with self._changed:
            if session is self._session:
                self._session, self._detach = None, lambda: None
            self._changed.notify_all()

    def wait_until_over(self, session: object) -> None:
        """Block until the end is acknowledged or `session` is no longer attached."""
        with self._changed:
            self._changed.wait_for(lambda: self.is_done or session is not self._session)

    def _verify_kept(self, received: int) -> None:
        start, end = self._outbox.start, self._outbox.end
        if not start <= received <= end:
            raise ProtocolError(
                f"the output can't go on from byte {received}: bytes {start} to {end} are kept",
                hint="what was acknowledged is forgotten; if the client's record went back, move it to a byte kept",
            )

    def _give_up(self) -> None:
        """Free what would be for the client, and let the function see that none is left."""
        self.is_done = self._input_ended = True
        self._outbox = Outbox(self._outbox.end)

    def _has_input(self) -> bool:
        return bool(self._pending) or self._input_ended

    def _is_due(self, session: object, sent: int) -> bool:
        if session is not self._session or self.is_done or self._outbox.end > sent or self._outcome is not None:
            return True
        return self._is_acknowledgement_due()

    def _is_acknowledgement_due(self) -> bool:
        unsaid = self._consumed - self._acknowledged
        if self._input_ended and not self._said_input_ended:
            return True
        return unsaid >= ACKNOWLEDGE_BYTES or (unsaid > 0 and not self._pending)


def _encode_outcome(outcome: Return | Raise) -> bytes:
    """The outcome's frame; that of a Raise instead, for a value that can't travel."""
    try:
        frame = encode_frame(outcome)
        size = len(frame) - HEADER_BYTES
        if size <= MAX_INNER_BYTES:
            return frame
        name, text, rule = "ValueError", f"{size} bytes can't be returned, at most {MAX_INNER_BYTES}; yield them", ""
    except ProtocolError as error:
        name, text, rule = "ValueError", f"the returned value {error.message}", ""
    except MemoryError:
        name, text, rule = "MemoryError", "", "memory_bytes"
    return encode_frame(Raise(outcome.offset, name, clean(text), rule))


def raised(error: BaseException) -> Callable[[int], Raise]:
    """The Raise for an exception: its type and message, nothing of the box. Memory and disk name their limit."""
    rule = "memory_bytes" if isinstance(error, MemoryError) else ""
    if isinstance(error, OSError) and error.errno == 28:  # ENOSPC
        rule = "storage_bytes"
    name, text = _text(lambda: type(error).__name__), _text(lambda: str(error))
    return lambda offset: Raise(offset, name, text, rule)


def returned(value: Any) -> Callable[[int], Return]:
    return lambda offset: Return(offset, value)


def clean(text: str) -> str:
    """A text of the function's as it may travel: cut to the limit, what is not Unicode replaced, a plain str."""
    return str.encode(str.__getitem__(text, slice(MAX_TEXT_CHARS)), errors="replace").decode()


def _text(read: Callable[[], str]) -> str:
    try:
        return clean(read())
    except BaseException:  # noqa: BLE001 - a function's own __str__ may do anything
        return ""
