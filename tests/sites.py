"""Web sites of Debian packages, and twenty pages of them.

The packages are fetched by name with apt, which checks their signatures, and unpacked once into `.cache/` of the
checkout: 110 MB to fetch, a minute on a slow line. None is installed, and nothing of them is committed.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CACHE: Final = Path(__file__).resolve().parent.parent / ".cache"
_FETCH_LIMIT_S: Final = 600
"""All packages at 200 kB a second."""

_PACKAGES: Final = {
    # what is unpacked of each
    "apache2-doc": ("usr/share/doc/apache2-doc/manual",),
    "debian-handbook": ("usr/share/doc/debian-handbook/html/en-US", "usr/share/doc/debian-handbook/html/ar-MA"),
    "gimp-help-en": ("usr/share/gimp/2.0/help/en",),
    "nodejs-doc": ("usr/share/doc/nodejs/api",),
    "python-django-doc": ("usr/share/doc/python-django-doc/html",),
    "python3.11-doc": ("usr/share/doc/python3.11/html",),
    # Scripts that the manuals' own links lead to.
    "libjs-jquery": ("usr/share/javascript/jquery",),
    "libjs-sphinxdoc": ("usr/share/javascript/sphinxdoc",),
    "libjs-underscore": ("usr/share/javascript/underscore",),
}

SITES: Final = {
    "apache.test": "usr/share/doc/apache2-doc/manual",
    "django.test": "usr/share",
    "gimp.test": "usr/share/gimp/2.0/help/en",
    "handbook.test": "usr/share/doc/debian-handbook/html",
    "nodejs.test": "usr/share/doc/nodejs",
    "python.test": "usr/share",
}
"""Host name -> folder of the unpacked tree. Two have links that lead to what their packages share with others."""


@dataclass(frozen=True)
class Page:
    """One page. `about`: what is special in it; `is_redrawn`: its scripts move or colour what it shows."""

    url: str
    about: str
    is_redrawn: bool = False

    @property
    def name(self) -> str:
        """Short, unique and fit for a file name."""
        _, _, host, *folders, last = self.url.split("/")
        return "-".join([host.removesuffix(".test"), *folders[-1:], last.removesuffix(".html")])


PAGES: Final = (
    Page("http://apache.test/en/rewrite/intro.html", "style sheets for other media and alternates"),
    Page("http://apache.test/ko/mod/mod_cgid.html", "EUC-KR"),
    Page("http://apache.test/de/mod/prefork.html", "ISO-8859-1"),
    Page("http://apache.test/ja/ssl/ssl_intro.html", "Japanese in UTF-8"),
    Page("http://apache.test/ru/index.html", "Russian; a page that is a folder's index"),
    Page("http://django.test/doc/python-django-doc/html/intro/tutorial02.html", "large screenshots, web fonts"),
    Page("http://django.test/doc/python-django-doc/html/intro/tutorial07.html", "screenshots, web fonts"),
    Page("http://django.test/doc/python-django-doc/html/ref/contrib/admin/actions.html", "icons from a web font"),
    Page("http://gimp.test/gimp-concepts-layer-modes-legacy.html", "79 resources; a web font by an absolute path"),
    Page("http://gimp.test/gimp-filter-displace.html", "photographs"),
    Page("http://gimp.test/gimp-tool-align.html", "icons in a table"),
    Page("http://gimp.test/gimp-tools-transform.html", "icons in text"),
    Page("http://handbook.test/ar-MA/sect.installation-steps.html", "right to left"),
    Page("http://handbook.test/en-US/sect.graphical-desktops.html", "screenshots; style sheets that import others"),
    Page("http://handbook.test/en-US/sect.installation-steps.html", "26 screenshots"),
    Page("http://nodejs.test/api/modules.html", "colours by custom properties; 45,000 px high"),
    Page("http://nodejs.test/api/path.html", "one script, two style sheets"),
    Page("http://python.test/doc/python3.11/html/howto/logging.html", "a diagram", is_redrawn=True),
    Page("http://python.test/doc/python3.11/html/index.html", "tables, a form", is_redrawn=True),
    Page(
        "http://python.test/doc/python3.11/html/library/tkinter.messagebox.html",
        "images; SVG in style sheets",
        is_redrawn=True,
    ),
)


class NoSites(Exception):
    """The packages could not be fetched; says why."""


def fetch() -> Path:
    """The root of the unpacked packages; fetches them if this checkout has none, or others.

    Raises: NoSites.
    """
    wanted = hashlib.sha256(repr(_PACKAGES).encode()).hexdigest()[:12]
    root = CACHE / f"sites-{wanted}"
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two runs at once: the second waits for the first one's
        if root.is_dir():
            return root
        for stale in CACHE.glob("sites-*"):
            shutil.rmtree(stale)
        scratch = CACHE / "sites-unfinished"
        (scratch / "root").mkdir(parents=True)
        _download(scratch)
        for package, folders in _PACKAGES.items():
            _unpack(next(scratch.glob(f"{package}_*.deb")), folders, scratch / "root")
        (scratch / "root").rename(root)
        shutil.rmtree(scratch)
    return root


def _download(folder: Path) -> None:
    """Every package's file into `folder`, with this machine's package lists, else with lists fetched for this alone."""
    lists, cache = folder / "lists", folder / "cache"
    for path in (lists / "partial", cache / "archives/partial"):
        path.mkdir(parents=True)
    own = ["-o", f"Dir::State::Lists={lists}", "-o", f"Dir::Cache={cache}"]
    try:
        _apt(folder, "download", *_PACKAGES)
    except NoSites:  # none here, or so old that the server no longer has what they name
        _apt(folder, *own, "update")
        _apt(folder, *own, "download", *_PACKAGES)


def _apt(folder: Path, *words: str) -> None:
    command = ["apt-get", "-qq", "-o", "Acquire::Retries=2", *words]
    environment = os.environ | {"LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=_FETCH_LIMIT_S
        )
    except FileNotFoundError:
        raise NoSites("apt-get is missing: this is no Debian-like system") from None
    except subprocess.TimeoutExpired:
        raise NoSites(f"apt-get took more than {_FETCH_LIMIT_S} s") from None
    if done.returncode:
        raise NoSites(f"apt-get failed: {done.stderr.decode(errors='replace').strip()[-300:]}")


def _unpack(package: Path, folders: tuple[str, ...], root: Path) -> None:
    """Those folders of a package's files. Some are hard links to others, so first there are all."""
    with tempfile.TemporaryDirectory(dir=package.parent) as whole:
        subprocess.run(["dpkg", "--extract", package, whole], check=True)
        for folder in folders:
            (root / folder).parent.mkdir(parents=True, exist_ok=True)
            (Path(whole) / folder).rename(root / folder)
