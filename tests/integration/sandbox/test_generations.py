"""Zygotes: what their children share, and what not."""

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any

DRAW = """
import os, random, secrets, ssl, uuid
from cryptography.hazmat.primitives.asymmetric import ed25519, x25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
raw = Encoding.Raw, PrivateFormat.Raw, NoEncryption()
answer = {
    "ssl": ssl.RAND_bytes(16).hex(),
    "x25519": x25519.X25519PrivateKey.generate().private_bytes(*raw).hex(),
    "ed25519": ed25519.Ed25519PrivateKey.generate().private_bytes(*raw).hex(),
    "random": random.getrandbits(128),
    "uuid": str(uuid.uuid4()),
    "secrets": secrets.token_hex(),
    "urandom": os.urandom(16).hex(),
}
"""
LAYOUT = """
import ctypes
in_libc = ctypes.cast(ctypes.CDLL(None).getpid, ctypes.c_void_p).value
answer = {"seed": hash("x"), "libraries": in_libc, "heap": id(connection.__class__)}
"""


def test_no_two_instances_draw_the_same(with_sandbox: Callable[..., Any]) -> None:
    async def scenario(sandbox: Any) -> None:
        drawn = [await sandbox.answer(DRAW) for _ in range(6)]
        for source in drawn[0]:
            assert len({each[source] for each in drawn}) == len(drawn), source

    with_sandbox(scenario)


def test_generations_differ_in_seed_and_layout(with_sandbox: Callable[..., Any]) -> None:
    async def scenario(sandbox: Any) -> None:
        seen = [await sandbox.answer(LAYOUT) for _ in range(2)]
        assert seen[0] == seen[1]  # the positive control: one zygote, one layout
        async with asyncio.timeout(20):
            while seen[-1] == seen[0]:
                seen.append(await sandbox.answer(LAYOUT))
        assert all(seen[-1][what] != seen[0][what] for what in seen[0])
        # The one before retires as soon as it has made its last child.
        assert len(await sandbox.settled(instances=0)) == sandbox.config.pool_depth + 1

    with_sandbox(scenario, generation_children=4, generation_s=60)


def test_a_generation_is_replaced_by_its_age(with_sandbox: Callable[..., Any]) -> None:
    async def scenario(sandbox: Any) -> None:
        first = await sandbox.answer(LAYOUT)
        async with asyncio.timeout(20):
            while (await sandbox.answer(LAYOUT)) == first:
                pass

    with_sandbox(scenario, generation_s=0.5, pool_depth=1, generation_children=10_000)


def test_a_zygote_that_dies_is_replaced_and_reported(with_sandbox: Callable[..., Any]) -> None:
    async def scenario(sandbox: Any) -> None:
        guest = await sandbox.start("connection.send(connection.recv(1))")
        (zygote,) = (int(each["Pid"]) for each in await sandbox.settled(instances=1) if each["Seccomp"] == "0")
        os.kill(zygote, signal.SIGKILL)
        assert "zygote" in await sandbox.notice()
        for number in range(2 * sandbox.config.pool_depth):
            assert await sandbox.answer(f"answer = {number}") == number
        guest.connection.send(b"x")
        assert await guest.read() == b"x"  # its child lived on
        guest.close()

    with_sandbox(scenario, own=True)
