"""Reads an HTML page as a browser would: ids, classes, what it loads, and the text between tags."""

from __future__ import annotations

import re
from html.parser import HTMLParser


class Page(HTMLParser):
    """What a page holds; `loads` is everything that a browser would fetch, `boxes` where the judge's boxes lie."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.loads: list[str] = []
        self.alts: list[str | None] = []
        self.classes: list[str] = []
        self.boxes: list[dict[str, str]] = []
        self.text = ""
        self.feed(text)

    @property
    def pictures(self) -> int:
        """How many images it shows."""
        return len(self.alts)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.ids += [values["id"] or ""] if "id" in values else []
        self.classes += (values.get("class") or "").split()
        self.loads += [
            values[name] or "" for name in ("src", "srcset", "data", "poster", "xlink:href") if name in values
        ]
        if tag in ("link", "use", "image"):
            self.loads.append(values.get("href") or "")
        if tag == "img":
            self.alts.append(values.get("alt"))
        if tag == "rect" and values.get("class") == "line":
            self.boxes.append({name: values[name] or "" for name in ("x", "y", "width", "height")})

    def handle_data(self, data: str) -> None:
        self.text += data


def check_offline(text: str) -> None:
    """Fail if a browser that opens the page would fetch anything."""
    loads = Page(text).loads
    assert all(load.startswith("data:") for load in loads), [load[:80] for load in loads]
    assert "<script" not in text
    assert "@import" not in text
    assert not re.search(r"url\(\s*['\"]?(?!data:)", text)
    assert not re.search(r"(src|href)=['\"](https?:)?//", text)
