"""What runs at the box: load a page, and send it as one padded object. `browse` is the entry."""

import heapq
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Final

from bento.functions.browser.css import rewrite_css
from bento.functions.browser.fetching import (
    EACH_S,
    SILENCE_S,
    Answer,
    Budget,
    TooLarge,
    Wanted,
    cause_of,
    fetch,
    open_client,
    reason_of,
    verify_use,
)
from bento.functions.browser.packet import (
    DEFAULT_BUCKETS,
    MAX_NAMED,
    MAX_RESOURCES,
    Failure,
    Fetched,
    Part,
    Problem,
    pack,
    padded,
)
from bento.functions.browser.references import parse_page, rewrite_html
from bento.functions.browser.text import decode_text, is_html

ALL_S: Final = 60
"""For everything: what has not come by then is left out, and the page is sent without it."""

WORKERS: Final = 8
"""Fetched at once: browsers open six connections to a host, and more would only hold memory."""

MAX_DEPTH: Final = 8
"""Style sheets that import style sheets: people nest two or three deep."""

_IMPORTANCE: Final = ("style", "script", "image", "font", "icon")
"""What is fetched first, where not all of it may be."""

_LEFT_OUT: Final = {"frame": "frames are left out", "media": "sound and video are left out"}


def browse(
    url: str, buckets: tuple[int, ...] = DEFAULT_BUCKETS, scripts: bool = False, keep_cut: bool = False
) -> Iterator[bytes]:
    """Fetch a page and what it names; yields one object, padded, once all of it is there.

    Args:
        buckets: sizes in bytes that the object is padded to, ascending; beyond the last, multiples of it. None: as is.
        scripts: fetch scripts, too.
        keep_cut: keep what came of a page, or of what it names, that was cut short.
    What goes wrong is told in the object, so that its size does not tell.
    """
    try:
        fetched = load(url, scripts=scripts, keep_cut=keep_cut)
    except Exception as error:  # noqa: BLE001 - whatever a site may do to the libraries, the answer is padded
        fetched = Fetched(problem=problem_of(error, is_cut=False))
    return padded(pack(fetched), buckets)


def load(url: str, *, scripts: bool, keep_cut: bool) -> Fetched:
    """Fetch a page and what it names. Raises: why the page can't be had."""
    end_s = time.monotonic() + ALL_S
    pool = ThreadPoolExecutor(WORKERS)
    with open_client() as client:
        budget = Budget()

        def start(wanted: Wanted) -> "Future[Answer]":
            return pool.submit(fetch, client, budget, wanted)

        try:
            page = start(Wanted(0, 0, url, "page")).result(EACH_S + SILENCE_S)
            if page.cut and not keep_cut:
                return Fetched(problem=problem_of(page.cut, is_cut=True))
            return Loading(start, end_s, scripts, keep_cut).run(page)
        finally:
            # What still hangs on a socket then ends with the instance.
            pool.shutdown(wait=False, cancel_futures=True)


class Enough(Exception):
    """A page has named as much as is looked at."""


@dataclass
class Loading:
    """The resources of one page: wanted, on their way, there, and not to be had."""

    start: "Callable[[Wanted], Future[Answer]]"
    end_s: float
    scripts: bool
    keep_cut: bool
    seen: set[str] = field(default_factory=set)
    wanted: list[Wanted] = field(default_factory=list)
    running: "dict[Future[Answer], Wanted]" = field(default_factory=dict)
    parts: list[Part] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)

    def run(self, page: Answer) -> Fetched:
        """Fetch what `page` names, as far as limits and time allow."""
        self.seen.add(page.url)
        if page.cut:
            self.fail(page.url, reason_of(page.cut))
        self.keep(Wanted(0, 0, page.url, "page"), page)
        left_count = MAX_RESOURCES
        while (left_s := self.end_s - time.monotonic()) > 0:
            while self.wanted and left_count and len(self.running) < WORKERS:
                wanted = heapq.heappop(self.wanted)
                self.running[self.start(wanted)] = wanted
                left_count -= 1
            if not self.running:
                break
            for future in wait(self.running, left_s, FIRST_COMPLETED).done:
                self.take(self.running.pop(future), future)
        for wanted in self.running.values():
            self.fail(wanted.url, f"not there after {ALL_S} s")
        reason = "no time was left" if left_count else f"{MAX_RESOURCES} others came first"
        for wanted in sorted(self.wanted):
            self.fail(wanted.url, f"left out: {reason}")
        return Fetched(page.status, tuple(self.parts), tuple(self.failures))

    def take(self, wanted: Wanted, future: "Future[Answer]") -> None:
        """Keep what came, and look for what it names; or tell why it did not come."""
        try:
            answer = future.result()
            verify_use(answer, wanted.kind)
            if answer.cut:
                self.fail(wanted.url, reason_of(answer.cut))
            if not answer.cut or self.keep_cut:
                self.keep(wanted, answer)
        except Exception as error:  # noqa: BLE001 - whatever a site may do to the libraries, the rest is there
            self.fail(wanted.url, reason_of(error))

    def keep(self, wanted: Wanted, answer: Answer) -> None:
        """Keep a part, and want what it names."""
        self.parts.append(Part(wanted.url, answer.url, answer.content_type[:1024], answer.body))

        def want(url: str, kind: str) -> None:
            self.want(url, kind, wanted.depth + 1, answer.url)

        try:
            if wanted.kind == "style":
                rewrite_css(decode_text(answer.body, answer.content_type), answer.url, want)
            elif wanted.kind == "page" and is_html(answer.content_type, answer.body):
                tree = parse_page(answer.body, answer.content_type, scripts=self.scripts)
                rewrite_html(tree, answer.url, want)
        except Enough:
            pass
        except Exception as error:  # noqa: BLE001 - a page that no parser takes is still a page
            self.fail(answer.url, f"what it names is left out: {reason_of(error)}")

    def want(self, url: str, kind: str, depth: int, referrer: str) -> None:
        """Have a resource fetched, once. Raises: Enough, when too many were named."""
        if url in self.seen or (kind == "script" and not self.scripts):
            return
        if len(self.seen) == MAX_NAMED:
            self.seen.add(url)
            self.fail(url, f"left out, and all behind it: the page names more than {MAX_NAMED} others")
        if len(self.seen) > MAX_NAMED:
            raise Enough
        self.seen.add(url)
        if kind in _LEFT_OUT:
            self.fail(url, f"left out: {_LEFT_OUT[kind]}")
        elif depth > MAX_DEPTH:
            self.fail(url, f"left out: more than {MAX_DEPTH} style sheets deep")
        else:
            heapq.heappush(self.wanted, Wanted(_IMPORTANCE.index(kind), len(self.seen), url, kind, depth, referrer))

    def fail(self, url: str, reason: str) -> None:
        """Record what is not there, or not whole."""
        self.failures.append(Failure(url[:512], reason[:1024]))


def problem_of(error: Exception, *, is_cut: bool) -> Problem:
    """Why there is no page, as the client is told."""
    cause = cause_of(error)
    type_name, text = type(cause).__name__, reason_of(error)[:1024]
    if isinstance(cause, PermissionError):
        return Problem("denied", type_name, text)
    if isinstance(cause, TooLarge):
        return Problem("limit", type_name, text)
    return Problem("cut" if is_cut else "failed", type_name, text)
