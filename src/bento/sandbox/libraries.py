"""The libraries that functions may import besides the standard one: where their files are, and what is in them.

>>> [module for module in MODULES.values() if module.startswith("http")]
['httpcore', 'httpx']

certifi is not among them: the image has a module of Bento's own by that name.
"""

import hashlib
import importlib.util
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Final

from bento import __file__ as _roof
from bento import __version__
from bento.errors import SandboxUnavailable
from bento.protocol.messages import Package

MODULES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "anyio": "anyio",
        "cffi": "_cffi_backend",
        "charset-normalizer": "charset_normalizer",
        "cryptography": "cryptography",
        "h11": "h11",
        "httpcore": "httpcore",
        "httpx": "httpx",
        "idna": "idna",
        "msgspec": "msgspec",
        "requests": "requests",
        "selectolax": "selectolax",
        "stem": "stem",
        "typing-extensions": "typing_extensions",
        "urllib3": "urllib3",
        "zstandard": "zstandard",
    }
)
"""The one module of each package that functions see, by the package's name."""

_HOME: Final = Path(_roof).resolve().parent
_PARTS = ("__init__", "errors", "config", "manifest", "policy", "exit_policy", "tokens")
_FOLDERS = ("protocol", "guest")
_SANDBOX_PARTS = ("__init__", "spec", "messages", "syscalls", "confine", "zygote")


def find_module(name: str) -> Path:
    """The file or folder of an importable module; SandboxUnavailable if it is not installed."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise SandboxUnavailable(f"the package {name} is not installed", hint="run scripts/setup again")
    origin = Path(spec.origin)
    return (origin.parent if spec.submodule_search_locations else origin).resolve()


def bento_parts() -> Iterable[Path]:
    """The files of Bento itself that are in an image."""
    yield from (_HOME / f"{name}.py" for name in _PARTS)
    for folder in _FOLDERS:
        yield from sorted((_HOME / folder).rglob("*.py"))
    yield from (_HOME / "sandbox" / f"{name}.py" for name in _SANDBOX_PARTS)


def path_in_image(part: Path) -> str:
    """Where a part of Bento is, from the folder that holds all libraries."""
    return f"bento/{part.relative_to(_HOME).as_posix()}"


def packages() -> tuple[Package, ...]:
    """Each library of the image "python", and Bento's own part of it, by name. Reads 50 MB: 0.1 s.

    Raises: SandboxUnavailable if one is not installed, or can't be read.
    """
    own = {path_in_image(part): part for part in bento_parts()}
    found = [Package("bento-tor", __version__, digest_files(own))]
    for name, module in MODULES.items():
        found.append(Package(name, _version(name), digest_files(module_files(find_module(module)))))
    return tuple(sorted(found, key=lambda package: package.name))


def digest_files(files: Mapping[str, Path]) -> bytes:
    """SHA-256 over files, by their paths within the image. Source: PROTOCOL.md, section 4.

    Raises: SandboxUnavailable if one can't be read.
    """
    digest = hashlib.sha256()
    for path in sorted(files, key=str.encode):
        try:
            content = files[path].read_bytes()
        except OSError as error:
            raise SandboxUnavailable(f"can't read {files[path]}: {error.strerror}") from None
        for piece in (path.encode(), content):
            digest.update(len(piece).to_bytes(8, "big"))
            digest.update(piece)
    return digest.digest()


def module_files(module: Path) -> dict[str, Path]:
    """What functions see of a module, by its path from the folder that holds all libraries."""
    found = [path for path in module.rglob("*") if path.is_file()] if module.is_dir() else [module]
    relative = {path.relative_to(module.parent).as_posix(): path for path in found}
    return {name: path for name, path in relative.items() if "__pycache__" not in PurePosixPath(name).parts}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        raise SandboxUnavailable(f"the package {name} is not installed", hint="run scripts/setup again") from None
