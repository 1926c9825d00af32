"""Load a web page at a box: what the user's line carries is one padded object, not the page's own traffic.

    from bento.functions.browser.client import browse

    async with bento.Client() as client:
        page = await browse(client, "https://example.org/")
        Path("page.html").write_bytes(page.content)

At the box: `function`, and below it `fetching`, `references`, `css`, `text`, `packet`; `bundle` makes one text of them.
At the client: `client`, `padding`, and in a process of its own `rebuild`.
"""
