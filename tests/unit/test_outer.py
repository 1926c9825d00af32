import pytest

from bento.config import PROTOCOL_VERSION
from bento.errors import BadToken, ProtocolError, Refused, VersionMismatch
from bento.manifest import Manifest
from bento.policy import Grant, Refusal
from bento.protocol import messages
from bento.protocol.framing import HEADER_BYTES, decode_outer_reply, encode_frame
from bento.protocol.messages import Connected, Describe, Hello, Pad, Renewed, Spawn, Spawned, State, Status
from bento.protocol.outer import BoxSide, ClientSide, OuterState

_SPAWN = Spawn(bytes(32), bytes(32), Manifest(), 60)
_GRANT = Grant("python", 1, 1, 1, 1, 1)


def _payload(message: messages.Message) -> bytes:
    return encode_frame(message)[HEADER_BYTES:]


def test_a_box_takes_hello_requests_and_then_a_spawn() -> None:
    box = BoxSide()
    for message in (Hello(PROTOCOL_VERSION), Describe(), Pad(b"x"), Status(bytes(32)), _SPAWN):
        assert box.receive(_payload(message)) == message
    assert box.state is OuterState.SETTLED


@pytest.mark.parametrize("message", [Describe(), _SPAWN])
def test_a_box_refuses_what_comes_before_hello(message: messages.Message) -> None:
    with pytest.raises(ProtocolError, match="GREETING"):
        BoxSide().receive(_payload(message))


def test_a_box_refuses_a_second_hello() -> None:
    box = BoxSide()
    box.receive(_payload(Hello(PROTOCOL_VERSION)))
    with pytest.raises(ProtocolError, match="Hello may not come"):
        box.receive(_payload(Hello(PROTOCOL_VERSION)))


def test_another_version_has_a_clear_answer() -> None:
    with pytest.raises(VersionMismatch, match="version 1, not 7") as caught:
        BoxSide().receive(_payload(Hello(7)))
    assert caught.value.hint


def test_a_client_greets_once_and_pipelines() -> None:
    client, box = ClientSide(), BoxSide()
    flight = client.send(Describe()) + client.send(Status(bytes(32)))
    seen: list[type] = []
    while flight:
        end = HEADER_BYTES + int.from_bytes(flight[:HEADER_BYTES], "big")
        seen.append(type(box.receive(flight[HEADER_BYTES:end])))
        flight = flight[end:]
    assert seen == [Hello, Describe, Status]


def test_a_client_leaves_what_follows_spawned_to_the_loader() -> None:
    client = ClientSide()
    client.send(_SPAWN)
    assert client.receive(encode_frame(Spawned(_GRANT, 60)) + b"inner") == [Spawned(_GRANT, 60)]
    assert client.is_settled
    assert client.rest == b"inner"


def test_a_client_refuses_an_answer_out_of_turn() -> None:
    client = ClientSide()
    client.send(Status(bytes(32)))
    with pytest.raises(ProtocolError, match="out of turn"):
        client.receive(encode_frame(Connected(1)))


def test_a_client_ignores_pads_between_answers() -> None:
    client = ClientSide()
    client.send(Status(bytes(32)))
    assert client.receive(encode_frame(Pad(bytes(99))) + encode_frame(State(True, 5))) == [State(True, 5)]


def test_a_refusal_keeps_every_broken_rule() -> None:
    client = ClientSide()
    client.send(_SPAWN)
    broken = (Refusal("cpu_s", 9, 5, "lower cpu_s"), Refusal("image", "x", "python", "use python"))
    with pytest.raises(Refused) as caught:
        client.receive(encode_frame(messages.Refused("refused", "2 rules", refusals=broken)))
    assert caught.value.refusals == broken
    assert caught.value.exit_status == 3


def test_a_bad_token_is_told_as_one() -> None:
    client = ClientSide()
    client.send(Status(bytes(32)))
    with pytest.raises(BadToken):
        client.receive(encode_frame(messages.Refused("bad-token", "no")))


@pytest.mark.parametrize("lease_s", [-1, 2**31 + 1, 2**63])
def test_a_lease_that_no_box_can_have_left_is_an_error(lease_s: int) -> None:
    for answer in (Connected(lease_s), State(True, lease_s), Renewed(lease_s)):
        with pytest.raises(ProtocolError, match="lease_s"):
            decode_outer_reply(_payload(answer))
