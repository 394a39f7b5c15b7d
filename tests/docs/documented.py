"""The pages of the documentation, and what in them is code."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for pattern in ("README.md", "CHANGELOG.md", "docs/**/*.md", "worldflow/worlds/*/card.md")
    for path in sorted(ROOT.glob(pattern))
}
SPAN = re.compile(r"(?<!`)(`+)(?!`)((?:(?!\n\n).)+?)(?<!`)\1(?!`)", re.DOTALL)


def parts_of(text: str) -> tuple[list[str], list[str]]:
    """The lines of a page's code, and those of its prose; each empty where the other is."""
    code, prose = [], []
    fenced, before_code = False, True
    for line in text.splitlines():
        fence = line.lstrip().startswith("```")
        indented = line.startswith("    ") and before_code  # it does not interrupt a paragraph
        is_code = fenced or fence or indented
        code.append(line if is_code and not fence else "")
        prose.append("" if is_code else line)
        fenced, before_code = fenced != fence, is_code or not line.strip()
    return code, prose
