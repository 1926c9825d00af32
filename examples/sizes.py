# /// bento
# egress = ["*:80", "*:443"]
# ///
"""An `async def`: many pages at once, each reported as it is done."""

import asyncio

import httpx


async def sizes(*urls):
    """An item that is neither text nor bytes is sent as a line of JSON."""
    async with httpx.AsyncClient(follow_redirects=True, timeout=30) as client:
        for answer in asyncio.as_completed([client.get(url) for url in urls]):
            page = await answer
            yield {"url": str(page.url), "status": page.status_code, "bytes": len(page.content)}
