"""Self-contained HTML pages from the templates of this folder."""

import base64
from pathlib import Path
from typing import Any

import jinja2

_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render_page(template: str, **values: Any) -> str:
    """Fill in `templates/<template>.html.j2` with escaped values."""
    return _ENVIRONMENT.get_template(f"{template}.html.j2").render(values)


def data_uri(data: bytes, kind: str) -> str:
    """Return an image as a data URI; `kind` is "png" or "jpeg"."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _format_number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _format_percent(value: float) -> str:
    return f"{value:.0f} %" if value >= 10 or value == 0 else f"{value:.1f} %"


_ENVIRONMENT.filters |= {"number": _format_number, "percent": _format_percent}
