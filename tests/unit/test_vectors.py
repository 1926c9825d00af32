"""The wire's test vectors: what a stranger's client must produce, and what every side must refuse."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bento.config import MAX_INNER_BYTES, MAX_OUTER_BYTES
from bento.errors import ProtocolError
from bento.protocol import framing
from bento.protocol.framing import FrameReader, encode_frame
from bento.tokens import InvocationToken, ShutdownToken, identify

_VECTORS = Path(__file__).parent.parent / "vectors"
_DECODERS: dict[str, Callable[[bytes], Any]] = {
    "outer_request": framing.decode_outer_request,
    "outer_reply": framing.decode_outer_reply,
    "inner_request": framing.decode_inner_request,
    "inner_reply": framing.decode_inner_reply,
}


def _load(name: str) -> list[dict[str, Any]]:
    return json.loads((_VECTORS / name).read_text())  # type: ignore[no-any-return]


def _decode(conversation: str, frame: bytes) -> Any:
    limit = MAX_OUTER_BYTES if conversation.startswith("outer") else MAX_INNER_BYTES
    (payload,) = FrameReader(limit).feed(frame)
    return _DECODERS[conversation](bytes(payload))


@pytest.mark.parametrize(
    "vector", _load("messages.json"), ids=lambda vector: f"{vector['conversation']}-{vector['name']}"
)
def test_a_good_vector_decodes_to_its_message_and_encodes_again(vector: dict[str, Any]) -> None:
    message = _decode(vector["conversation"], bytes.fromhex(vector["frame"]))
    assert json.loads(msgspec.json.encode(message)) == vector["message"]
    assert encode_frame(message).hex() == vector["frame"]


@pytest.mark.parametrize("vector", _load("bad.json"), ids=lambda vector: vector["name"])
def test_a_bad_vector_is_refused_for_its_reason(vector: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError) as caught:
        _decode(vector["conversation"], bytes.fromhex(vector["frame"]))
    assert caught.value.message.startswith(vector["error"])


def test_tokens_derive_as_the_vectors_say() -> None:
    vector = json.loads((_VECTORS / "tokens.json").read_text())
    invocation = InvocationToken(bytes.fromhex(vector["invocation_token"]))
    shutdown = ShutdownToken(bytes.fromhex(vector["shutdown_token"]))
    assert invocation.route.hex() == vector["route"]
    assert invocation.invoke.hex() == vector["invoke"]
    assert invocation.instance.hex() == vector["instance"]
    assert identify(invocation.invoke).hex() == vector["invoke_name"]
    assert shutdown.shutdown.hex() == vector["shutdown"]
    assert shutdown.name.hex() == vector["shutdown_name"]


def test_every_message_of_the_wire_has_a_vector() -> None:
    from bento.protocol import messages

    known = {
        found.__struct_config__.tag
        for found in vars(messages).values()
        if isinstance(found, type) and issubclass(found, messages.Message) and found is not messages.Message
    }
    assert known == {vector["message"]["t"] for vector in _load("messages.json")}
