"""Links of the documentation lead somewhere."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from documented import PAGES, ROOT, SPAN, parts_of

LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"#{1,6} +(.+?)(?: +#+)? *")


def anchors(text: str) -> list[str]:
    """The anchors that GitHub gives to the headings of a page, in their order."""
    headings = (HEADING.fullmatch(line) for line in parts_of(text)[1])
    seen: Counter[str] = Counter()
    found = []
    for heading in filter(None, headings):
        shown = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading[1])  # of a link its text
        name = anchor = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        while anchor in seen:
            seen[name] += 1
            anchor = f"{name}-{seen[name]}"
        seen[anchor] = 0
        found.append(anchor)
    return found


def broken_links(page: str, text: str) -> list[str]:
    """The links of a page's text that lead nowhere; those into the web are not followed."""
    broken = []
    for target in LINK.findall(SPAN.sub("", "\n".join(parts_of(text)[1]))):
        path, _, anchor = target.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        found = ((ROOT / page).parent / path if path else ROOT / page).resolve()
        there = found.is_relative_to(ROOT) and found.exists()
        if not there or (anchor and anchor not in anchors(found.read_text(encoding="utf-8"))):
            broken.append(target)
    return broken


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    assert broken_links(page, PAGES[page]) == []


def test_anchors_are_those_of_github() -> None:
    text = """
# What `a_b` is, and *why* (0.5 - 1): [a page](b.md)!
## Bars ##
## Bars
## Bars-1
## Bars
```
# a comment
```
    # code
#no heading
### Größe — 2 × 3
"""
    title = "what-a_b-is-and-why-05---1-a-page"
    assert anchors(text) == [title, "bars", "bars-1", "bars-1-1", "bars-2", "größe--2--3"]


def test_broken_links_are_found() -> None:
    text = """
# Here
[text](README.md), [`code`](docs/guide.md#no-heading), [a](#here), [b](#there), ![c](none.png),
[d](https://example.org/none), [e](../outside.md), `[f](code.md)`

    [g](code.md)
"""
    wrong = ["docs/guide.md#no-heading", "#here", "#there", "none.png", "../outside.md"]
    assert broken_links("README.md", text) == wrong
    assert broken_links("docs/guide.md", "[a](data.md) [b](../README.md) [c](guide.md#no)") == [
        "guide.md#no"
    ]
