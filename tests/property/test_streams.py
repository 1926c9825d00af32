"""Whatever the chunks, the breaks and the repeats: the same events, nothing lost, nothing twice."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from bento.config import MAX_INNER_BYTES
from bento.protocol.framing import FrameReader, decode_inner_request, encode_frame
from bento.protocol.inner import InvocationSide
from bento.protocol.messages import Acknowledge, Input, Invoke, Load, Output, Resumed
from bento.protocol.offsets import Inbox, Outbox

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=10,
)
_KEYS = st.binary(min_size=32, max_size=32)
_MESSAGES = st.one_of(
    st.builds(Load, st.binary(max_size=200), _KEYS),
    st.builds(
        Invoke,
        _KEYS,
        st.binary(min_size=16, max_size=16),
        st.text(min_size=1, max_size=20),
        st.lists(_VALUES, max_size=3).map(tuple),
    ),
    st.builds(Input, st.integers(0, 2**62), st.binary(max_size=200), st.booleans()),
    st.builds(Acknowledge, st.integers(0, 2**62), st.booleans()),
)


def _cut(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[start:end] for start, end in pairwise(edges)]


@given(_MESSAGES)
def test_decoding_undoes_encoding(message: Load | Invoke | Input | Acknowledge) -> None:
    (payload,) = FrameReader(MAX_INNER_BYTES).feed(encode_frame(message))
    assert decode_inner_request(payload) == message


@given(st.lists(_MESSAGES, max_size=5), st.lists(st.integers(0, 5000)))
def test_any_chunking_gives_the_same_messages(messages: list[Load], cuts: list[int]) -> None:
    reader = FrameReader(MAX_INNER_BYTES)
    data = b"".join(encode_frame(message) for message in messages)
    found = [decode_inner_request(payload) for piece in _cut(data, cuts) for payload in reader.feed(piece)]
    assert found == messages
    assert reader.rest == b""


@given(st.binary(max_size=500), st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500))))
def test_output_is_whole_whatever_breaks(data: bytes, sessions: list[tuple[int, int]]) -> None:
    """Each session resumes where the client is, and breaks anywhere: in a frame, too."""
    client = InvocationSide(bytes(32), bytes(16))
    outbox = Outbox()
    outbox.append(data)
    got = b""
    for chunk, cut in [*sessions, (len(data), 10**9)]:
        client.begin_session()
        offset = client.received
        stream = encode_frame(Resumed(0))
        while offset < len(data):
            piece = outbox.read(offset, chunk % 50 + 1)
            stream += encode_frame(Output(offset, piece))
            offset += len(piece)
        for event in client.receive(stream[:cut]):
            if isinstance(event, Output):
                assert event.offset == len(got)
                got += event.data
        outbox.acknowledge(client.received)
    assert got == data
    assert outbox.held_bytes == 0


@given(st.binary(max_size=300), st.lists(st.tuples(st.integers(0, 300), st.integers(1, 300))))
def test_an_inbox_takes_each_byte_once(data: bytes, pieces: list[tuple[int, int]]) -> None:
    inbox, got = Inbox(), b""
    for offset, size in [*pieces, (0, len(data))]:
        if offset <= inbox.position:
            got += inbox.accept(offset, data[offset : offset + size])
    assert got == data[: inbox.position] == data
