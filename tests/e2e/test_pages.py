"""Twenty pages of real web sites, each loaded at a box by `bento browse`: they look like the originals, and ask for
nothing.

The original is seen by Chromium inside the private network, where `bento net site` serves it, with its scripts on;
with its scripts off only where they move things about (`is_redrawn`), since a browsed page has none. The browsed page
is seen by another Chromium, with no network but a recorder that is its proxy for everything.

The measure is `Visit.difference`: of the tiles of 16 x 16 px that are not blank in both, the share whose mean grey
differs by more than 8 of 255, in a window of 1200 x 4000 px. It may be 0.5%, and the pages must be equally high. Two
visits to one page differ by 0; one without its style sheets by 86% or more, without its images by 40% or more on most
pages, without web fonts by 0.6 to 2% where they carry text; another page of the same site by 42% or more.
"""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from bento.testnet import Network
from tests import sites
from tests.chromium import Chromium, Visit
from tests.sites import PAGES, Page
from tests.users import User

# A first run fetches the sites, which has a limit of its own.
pytestmark = [
    pytest.mark.needs("tor", "namespaces", "seccomp", "bubblewrap", "chromium"),
    pytest.mark.timeout(120, func_only=True),
]

CLOSE = 0.005
"""Half of what a missing web font changes; a hundredth of what another page does."""

BROWSES = 2
"""At once: as many as a small machine has cores."""

LIMIT_S = 60

REMOTE = """<link rel=stylesheet href="http://a.test/s.css"><link rel=prefetch href="http://b.test/next">
<style>@font-face{font-family:f;src:url(http://c.test/f.woff)} p{font-family:f}</style><p><img src="https://d.test/i">text"""
REMOTE_URLS = {"http://a.test/s.css", "http://b.test/next", "http://c.test/f.woff", "https://d.test/i"}


See = Callable[..., "Future[Visit]"]
Browsed = tuple[Path, dict[str, object]]
"""The file, and what --json said."""


@pytest.fixture(scope="module")
def served(network: Network, user: User, need: Callable[..., None]) -> Network:
    """The network with the sites."""
    need("sites")
    root = sites.fetch()
    for name, folder in sites.SITES.items():
        done = user.run("net", "site", name, str(root / folder))
        assert done.returncode == 0, done.stderr
    return network


@pytest.fixture(scope="module")
def cut(served: Network) -> Iterator[Chromium]:
    """A browser without a network."""
    with Chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def originals(served: Network) -> Iterator[See]:
    """Visits, one after the other, with a browser in the network."""
    with Chromium(served.command) as browser, ThreadPoolExecutor(1) as pool:

        def see(url: str, **how: Any) -> "Future[Visit]":
            return pool.submit(browser.visit, url, **how)

        yield see


@pytest.fixture(scope="module")
def browsed(
    served: Network, user: User, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[Page, "Future[Browsed]"]]:
    """All pages, on their way from the start."""
    folder = tmp_path_factory.mktemp("browsed")
    with ThreadPoolExecutor(BROWSES) as pool:
        yield {page: pool.submit(browse, user, page, folder / f"{page.name}.html") for page in PAGES}
        pool.shutdown(cancel_futures=True)


def browse(user: User, page: Page, file: Path) -> Browsed:
    done = user.run("browse", page.url, "-o", str(file), "--json", limit_s=LIMIT_S)
    assert done.returncode == 0, done.stderr.decode()
    return file, json.loads(done.stdout)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_browsed_page_asks_for_nothing_and_looks_like_the_original(
    page: Page,
    cut: Chromium,
    originals: See,
    browsed: dict[Page, "Future[Browsed]"],
) -> None:
    on_its_way = originals(page.url, with_scripts=not page.is_redrawn)
    file, told = browsed[page].result(LIMIT_S)
    assert (told["url"], told["status"]) == (page.url, 200)
    seen = cut.visit(file.as_uri(), once_more_unguarded=True)  # it is not only its own policy that holds it back
    assert seen.asked == (file.as_uri(), file.as_uri())
    assert cut.recorded() == []
    original = on_its_way.result(LIMIT_S)
    assert seen.difference(original) <= CLOSE
    assert seen.height_px == original.height_px


def test_what_a_page_asks_for_is_recorded(cut: Chromium, tmp_path: Path) -> None:
    file = tmp_path / "remote.html"
    file.write_text(f"<!doctype html>{REMOTE}")
    seen, recorded = cut.visit(file.as_uri()), {line.split()[1] for line in cut.recorded()}
    assert {*seen.asked[1:]} == REMOTE_URLS
    assert recorded >= {"http://a.test/s.css", "http://b.test/next", "http://c.test/f.woff", "d.test:443"}


def test_what_only_its_own_policy_holds_back_is_recorded_too(cut: Chromium, tmp_path: Path) -> None:
    file = tmp_path / "guarded.html"
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    file.write_text(f'<!doctype html><meta http-equiv=Content-Security-Policy content="{policy}">{REMOTE}')
    cut.visit(file.as_uri())
    assert cut.recorded() == []
    cut.visit(file.as_uri(), once_more_unguarded=True)
    assert {line.split()[1] for line in cut.recorded()} >= {"http://a.test/s.css", "http://c.test/f.woff", "d.test:443"}


def test_a_page_without_its_styles_images_or_fonts_is_not_close(originals: See) -> None:
    """The measure's own controls."""
    url = "http://gimp.test/gimp-tool-align.html"
    blocked = {"styles": ["*.css"], "images": ["*.png"], "fonts": ["*.woff*", "*.ttf"], "nothing": []}
    seen = originals(url).result(LIMIT_S)
    unlike = {what: seen.difference(originals(url, blocked=urls).result(LIMIT_S)) for what, urls in blocked.items()}
    assert unlike["styles"] > 100 * CLOSE
    assert unlike["images"] > 100 * CLOSE
    assert unlike["fonts"] > CLOSE
    assert unlike["nothing"] == 0


def test_another_page_of_the_same_site_is_not_close(originals: See) -> None:
    urls = (page.url for page in PAGES if page.url.startswith("http://django.test/"))
    one, other, _ = (originals(url).result(LIMIT_S) for url in urls)
    assert one.difference(other) > 50 * CLOSE
