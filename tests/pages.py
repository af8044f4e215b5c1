"""What stands in an HTML page."""

from html.parser import HTMLParser

_WITHOUT_END = {"meta", "img", "rect", "circle", "line", "br", "link"}


class Page(HTMLParser):
    """Its tags, its text, and what it would load; fails if elements are not closed in order."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        if tag not in _WITHOUT_END:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert tag in _WITHOUT_END or self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text = f"{self.text} {data.strip()}".strip()
