"""Load a web page at a box: what the user's line carries is one padded object, not the page's own traffic.

    async with bento.Client() as client:
        page = await browse(client, "https://example.org/")
        Path("page.html").write_bytes(page.content)

`function` runs at the box; `client` spawns it there, judges what comes back and has `rebuild` make one file of it.
"""

from bento.functions.browser.client import Page, browse
from bento.functions.browser.padding import DEFAULT_PAD, parse_pad

__all__ = ["DEFAULT_PAD", "Page", "browse", "parse_pad"]
