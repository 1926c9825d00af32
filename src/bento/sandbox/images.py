"""What functions can import: the image "python", computed from the interpreter that runs this.

>>> image = python_image()
>>> image.python, image.path
('/usr/bin/python3', '/usr/lib/bento')

Host paths never show inside: the interpreter is always /usr/bin/python3, its library /usr/lib/python3.X. Shared
libraries are bound one by one, so that a function can't read off what else is installed here.
"""

import os
import ssl
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from bento.errors import SandboxUnavailable
from bento.sandbox.libraries import MODULES, bento_parts, find_module, path_in_image
from bento.sandbox.spec import Bind, Image

ENTRY: Final = "bento.guest.loader:serve"
REHEARSAL: Final = "bento.guest.rehearsal:rehearse"

_PYTHON = "/usr/bin/python3"
_PACKAGES = "/usr/lib/bento"
_CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
_LINKER_TIMEOUT_S = 20  # takes 20 ms; on a slow and busy machine, more

_PRELOAD = (
    "anyio._backends._asyncio",
    "asyncio",
    "base64",
    "bisect",
    "collections",
    "contextlib",
    "csv",
    "dataclasses",
    "datetime",
    "decimal",
    "email.parser",
    "functools",
    "gzip",
    "hashlib",
    "heapq",
    "hmac",
    "html.parser",
    "http.client",
    "httpx",
    "inspect",
    "io",
    "ipaddress",
    "itertools",
    "json",
    "math",
    "msgspec",
    "os.path",
    "queue",
    "random",
    "re",
    "requests",
    "secrets",
    "selectolax.lexbor",
    "socket",
    "ssl",
    "string",
    "struct",
    "threading",
    "traceback",
    "typing",
    "urllib.parse",
    "urllib.request",
    "uuid",
    "zlib",
    "zstandard",
    "cryptography.hazmat.primitives.asymmetric.x25519",
)


def python_image(*, extra_ca: bytes = b"", entry: str = ENTRY, files: tuple[tuple[str, bytes], ...] = ()) -> Image:
    """The image of plain Python functions.

    Args:
        extra_ca: PEM certificates that functions trust besides the machine's own.
        entry: "module:function" that serves a child's control socket.
        files: further files, by their path within the image.
    Raises: SandboxUnavailable if this interpreter or its libraries can't be found.
    """
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    interpreter = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    library = Path(sysconfig.get_path("stdlib")).resolve()
    packages = [find_module(module) for module in MODULES.values()]
    libraries = _shared_libraries(interpreter, [*_native_parts([library / "lib-dynload"])])
    libraries |= _shared_libraries(interpreter, [*_native_parts(packages)])
    certificates = _machine_certificates() + extra_ca
    return Image(
        name="python",
        binds=(
            Bind(str(interpreter), _PYTHON),
            Bind(str(library), f"/usr/lib/{version}"),
            *(Bind(str(found), f"{_PACKAGES}/{found.name}") for found in packages),
            *(Bind(str(source), target) for target, source in sorted(libraries.items())),
            *(Bind(f"/dev/{name}", f"/dev/{name}", is_device=True) for name in ("null", "zero", "urandom")),
        ),
        files=(
            (_CA_BUNDLE, certificates),
            *((f"{_PACKAGES}/{path_in_image(part)}", part.read_bytes()) for part in bento_parts()),
            *files,
        ),
        links=_links(),
        python=_PYTHON,
        path=_PACKAGES,
        preload=_PRELOAD,
        entry=entry,
        rehearsal=REHEARSAL if entry == ENTRY else "",
    )


def _native_parts(places: list[Path]) -> Iterable[Path]:
    for place in places:
        yield from sorted(place.rglob("*.so")) if place.is_dir() else [place]


def _shared_libraries(interpreter: Path, parts: Sequence[Path]) -> dict[str, Path]:
    """Every library that `interpreter` and `parts` load: where they look for it, and the file it is.

    The dynamic linker itself is asked, as ldd does, but once for all parts: ldd takes half a second for them.
    """
    site = Path(os.path.commonpath(parts))
    # Relative paths: the linker splits this list at spaces, which the path of a checkout may hold.
    preload = ":".join(f"./{part.relative_to(site)}" for part in parts)
    environment = {"LC_ALL": "C", "LD_TRACE_LOADED_OBJECTS": "1", "LD_PRELOAD": preload}
    try:
        listing = subprocess.run(
            [interpreter], capture_output=True, text=True, env=environment, cwd=site, timeout=_LINKER_TIMEOUT_S
        ).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SandboxUnavailable(f"the dynamic linker can't list Python's libraries: {error}") from None
    found: dict[str, Path] = {}
    for line in listing.splitlines():
        path = next((word for word in line.split() if word.startswith("/")), "")
        if line.startswith("\t") and path:
            found[_in_usr(path)] = Path(path).resolve()
    return found


def _in_usr(path: str) -> str:
    """/lib and /lib64 are links into /usr inside the image, as on any merged system."""
    return path if path.startswith("/usr/") else f"/usr{path}"


def _links() -> tuple[tuple[str, str], ...]:
    bundle = ssl.get_default_verify_paths().openssl_cafile
    beside_bundle = () if bundle == _CA_BUNDLE else ((bundle, _CA_BUNDLE),)
    merged = (("/lib", "usr/lib"), ("/lib64", "usr/lib64"), ("/bin", "usr/bin"))
    certifi = (f"{_PACKAGES}/certifi.py", "bento/guest/certifi.py")
    return (*merged, ("/tmp", "/data"), certifi, *beside_bundle)  # noqa: S108


def _machine_certificates() -> bytes:
    bundle = Path(_CA_BUNDLE)
    if not bundle.exists():
        return b""  # functions that speak TLS then trust nobody, and say so
    return bundle.read_bytes().rstrip() + b"\n"
