"""One HTML file with its pictures and videos inside."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape

_STYLE = """
body { font-family: sans-serif; max-width: 1180px; margin: 2em auto; padding: 0 1em; color: #222 }
img { max-width: 100%; image-rendering: pixelated; display: block; margin: 0.8em 0 }
video { max-width: 100%; display: block; margin: 0.8em 0 }
svg { margin: 0.4em }
table { border-collapse: collapse; margin: 0.8em 0 }
td, th { border: 1px solid #ccc; padding: 0.3em 0.7em; text-align: left }
pre { background: #f4f4f4; padding: 0.7em; overflow-x: auto }
"""


class Report:
    """An HTML page that is written from top to bottom.

    Args:
        title: of the page.
    """

    def __init__(self, title: str) -> None:
        self._title = title
        self._parts = [f"<h1>{escape(title)}</h1>"]

    def heading(self, text: str) -> None:
        """A section's heading."""
        self._parts.append(f"<h2>{escape(text)}</h2>")

    def text(self, text: str) -> None:
        """A paragraph."""
        self._parts.append(f"<p>{escape(text)}</p>")

    def code(self, lines: Sequence[str]) -> None:
        """Preformatted lines."""
        self._parts.append(f"<pre>{escape(chr(10).join(lines))}</pre>")

    def svg(self, *charts: str) -> None:
        """SVG charts, beside each other where there is room."""
        self._parts.append("<div>" + "\n".join(charts) + "</div>")

    def picture(self, png: bytes, caption: str) -> None:
        """A PNG, embedded."""
        data = b64encode(png).decode()
        self._parts.append(f"<p>{escape(caption)}</p>")
        image = f'<img alt="{escape(caption, quote=True)}" src="data:image/png;base64,{data}">'
        self._parts.append(image)

    def video(self, mp4: bytes, caption: str) -> None:
        """An mp4, embedded; it plays in a loop."""
        data = b64encode(mp4).decode()
        self._parts.append(f"<p>{escape(caption)}</p>")
        source = f'src="data:video/mp4;base64,{data}"'
        self._parts.append(f"<video controls loop muted autoplay playsinline {source}></video>")

    def table(self, rows: Sequence[Mapping[str, str]]) -> None:
        """A table; the first row's keys are the header.

        Raises:
            ValueError: rows with different keys.
        """
        if not rows:
            return
        header = list(rows[0])
        if any(list(row) != header for row in rows):
            raise ValueError("all rows of a table need the same keys in the same order")
        lines = ["<tr>" + "".join(f"<th>{escape(name)}</th>" for name in header) + "</tr>"]
        for row in rows:
            cells = "".join(f"<td>{escape(value)}</td>" for value in row.values())
            lines.append(f"<tr>{cells}</tr>")
        self._parts.append("<table>" + "\n".join(lines) + "</table>")

    def html(self) -> str:
        """The whole page."""
        head = f'<meta charset="utf-8"><title>{escape(self._title)}</title>'
        body = "\n".join(self._parts)
        return f"<!doctype html><html><head>{head}<style>{_STYLE}</style></head>" + (
            f"<body>\n{body}\n</body></html>\n"
        )
