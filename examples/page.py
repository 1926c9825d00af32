# /// bento
# egress = ["*:80", "*:443"]
# ///
import re
from urllib.parse import urljoin


def page(url):
    """Fetch a page and what it names, at the box: {address: bytes}."""
    first = api.fetch(url)
    names = re.findall(r'(?:src|href)="([^"#]+)"', first.text)
    found = {urljoin(first.url, name) for name in names}
    return {first.url: first.body} | {name: api.fetch(name).body for name in sorted(found)}


def echo():
    while data := api.recv():
        api.send(data)
