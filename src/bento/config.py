"""Every limit that more than one part must agree on, once: its value, its unit and why that number.

What an operator or a user may set is elsewhere: `bento.policy.Policy` (a box), `bento.manifest.Manifest` (a function).
"""

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

PROTOCOL_VERSION: Final = 1

# --- the wire -------------------------------------------------------------------------------------------------------

MAX_OUTER_BYTES: Final = 64 * KIB
"""The largest message of the outer conversation. A manifest with every key at its limit stays under half of this, and
it is all that a stranger can make a box hold before the box has decided."""

MAX_INNER_BYTES: Final = 8 * MIB
"""The largest message of the inner conversation: source, arguments and returned values. What is larger is streamed,
so that neither side ever holds more than one such message whole."""

MAX_CODE_BYTES: Final = 4 * MIB
"""The largest source of a function: half a message, so that source and arguments travel in one flight. CPython peaks
at about 200 bytes of memory for each byte of source, so no more could be compiled within any usual grant."""

CHUNK_BYTES: Final = 64 * KIB
"""The largest piece of Input or Output in one message: 131 Tor cells. Larger ones would not come faster (writes of
4 KiB already reach a plain server's speed) and would delay an Acknowledge behind them."""

FLIGHT_BYTES: Final = tuple(8 * KIB * 4**step for step in range(7))
"""The sizes a client's opening flight is padded to: 8 KiB, 32 KiB, ... 32 MiB. Steps of four tell a watcher of the
line two bits less than the size would, for at most four times the bytes; 8 KiB (17 cells) holds most functions and
still leaves with the first congestion window."""

MAX_PAD_BYTES: Final = FLIGHT_BYTES[-1]
"""What a flight may hold, and so what a box reads off after it has refused one."""

MIN_BUFFER_BYTES: Final = 8 * MIB
"""The default output buffer. Tor itself holds up to 4 MB of a stream that nobody reads; twice that keeps a function
running while its client acknowledges a round trip late."""

ONION_PORT: Final = 80
"""Where a box's onion service takes connections: what an onion service most often does."""

MAX_OPEN_WAIT_S: Final = 30
"""How long a box waits for the next message of the outer conversation: Tor's own limit for a stream to open is
twice this, and a stranger who says nothing holds a descriptor of the box."""

MAX_VALUE_DEPTH: Final = 64
"""The deepest nesting of an argument or a returned value: beyond what people write, far below any stack's end."""

# --- names ----------------------------------------------------------------------------------------------------------

TOKEN_BYTES: Final = 32
"""256 bits: guessing one is out of reach whatever the number of tries and of instances."""

INVOCATION_ID_BYTES: Final = 16
"""128 bits, made by the client: two invocations of one instance never share one by chance."""

MAX_NAME_CHARS: Final = 128
"""An entry's or an image's name: longer than any that people write, short enough for one line of an error."""

MAX_TEXT_CHARS: Final = 4 * KIB
"""An exception's message as it travels: enough for a long one, too little to hide a page in."""

EXIT_OUT_OF_MEMORY: Final = 112
"""The exit status of an instance whose loader itself got no memory; the reaper takes it for the memory limit."""
