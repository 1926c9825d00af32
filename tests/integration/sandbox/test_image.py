"""The image "python": what functions can import, what they can't change of it, and what a box says of it."""

import json
from collections.abc import Callable
from typing import Any

from bento.sandbox.libraries import MODULES, packages

IMPORTED = [
    *MODULES.values(),
    "anyio._backends._asyncio",
    "charset_normalizer.md",
    "cryptography.hazmat.primitives.ciphers.aead",
    "selectolax.lexbor",
    "stem.control",
    "zstandard.backend_c",
]

# As PROTOCOL.md, section 4, has it.
DIGEST = """
import hashlib, os
def digest(name):
    digest = hashlib.sha256()
    os.chdir("/usr/lib/bento")
    found = [name] if os.path.isfile(name) else [
        os.path.join(folder, file) for folder, _, files in os.walk(name) for file in files
        if "__pycache__" not in folder.split("/")
    ]
    for path in sorted(found, key=str.encode):
        with open(path, "rb") as file:
            content = file.read()
        for piece in (path.encode(), content):
            digest.update(len(piece).to_bytes(8, "big") + piece)
    return digest.hexdigest()
"""


def test_each_library_can_be_imported(with_sandbox: Callable[..., Any]) -> None:
    code = f"""
import importlib
answer = [name for name in {IMPORTED} if not importlib.import_module(name).__file__.startswith("/usr/lib/bento/")]
"""

    async def scenario(sandbox: Any) -> Any:
        return await sandbox.answer(code)

    assert with_sandbox(scenario) == []


def test_the_libraries_work(with_sandbox: Callable[..., Any]) -> None:
    code = """
import httpx, requests, zstandard
from selectolax.lexbor import LexborHTMLParser
from stem.exit_policy import ExitPolicy
answer = [
    requests.Request("GET", "http://a.test", params={"b": "ü"}).prepare().url,
    httpx.URL("http://a.test/b/").join("../c").path,
    zstandard.decompress(zstandard.compress(b"x" * 1000)).decode(),
    LexborHTMLParser("<p>one<p>two").css("p")[1].text(),
    ExitPolicy("accept *:80", "reject *:*").can_exit_to("1.2.3.4", 443),
]
"""

    async def scenario(sandbox: Any) -> Any:
        return await sandbox.answer(code)

    assert with_sandbox(scenario) == ["http://a.test/?b=%C3%BC", "/c", "x" * 1000, "two", False]


def test_libraries_trust_whom_ssl_trusts(with_sandbox: Callable[..., Any]) -> None:
    code = """
import certifi, requests.certs, ssl
bundle = ssl.get_default_verify_paths().cafile
answer = [open(path).read() == open(bundle).read() for path in (certifi.where(), requests.certs.where())]
answer.append(certifi.contents() == open(bundle).read())
"""

    async def scenario(sandbox: Any) -> Any:
        return await sandbox.answer(code)

    assert with_sandbox(scenario) == [True] * 3


def test_nothing_of_it_can_be_written(with_sandbox: Callable[..., Any]) -> None:
    code = """
import errno, os
def attempt(path):
    try:
        os.open(path, os.O_WRONLY | os.O_CREAT)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "written"
def paths():
    for folder, _, files in os.walk("/usr/lib/bento"):
        yield from (os.path.join(folder, name) for name in [*files, "new"])
answer = [sorted({attempt(path) for path in paths()}), attempt("/data/new")]
"""

    async def scenario(sandbox: Any) -> Any:
        return await sandbox.answer(code)

    refusals, control = with_sandbox(scenario)
    assert control == "written"
    assert set(refusals) <= {"EROFS", "EACCES"}


def test_a_function_recomputes_the_digests_that_its_box_describes(with_sandbox: Callable[..., Any]) -> None:
    modules = {"bento-tor": "bento", **MODULES}
    code = f"""
{DIGEST}
import importlib
def place(module):
    file = importlib.import_module(module).__file__
    return os.path.relpath(file.removesuffix("/__init__.py"), "/usr/lib/bento")
answer = {{name: digest(place(module)) for name, module in {json.dumps(modules)}.items()}}
"""

    async def scenario(sandbox: Any) -> Any:
        return await sandbox.answer(code)

    assert with_sandbox(scenario) == {package.name: package.digest.hex() for package in packages()}
