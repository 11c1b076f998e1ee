"""HTML that is safe by construction: whatever is not `Html` already is escaped.

    element("p", "a < b ", element("b", "c"), class_="note")
    -> <p class="note">a &lt; b <b>c</b></p>

`page` makes a document of them that needs no network: the style sheet and all pictures are inside,
there is no script, and a content security policy forbids everything else.
"""

import base64
import html
from pathlib import Path

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
EMPTY = {"br", "col", "img", "meta"}  # elements without an end tag


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def escaped(part):
    """Anything as Html: text is escaped, None is nothing, lists are joined."""
    if isinstance(part, Html):
        return part
    if part is None:
        return Html()
    if isinstance(part, list | tuple):
        return Html("".join(map(escaped, part)))
    return Html(html.escape(str(part)))


def element(name, /, *children, **attributes):
    """An element. In the names of attributes `class_` is class and `_` is `-`.

    The value True stands for an attribute without a value; None and False leave it out.
    """
    words = [name]
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            words.append(key)
        elif value is not None and value is not False:
            words.append(f'{key}="{html.escape(str(value))}"')
    start = f"<{' '.join(words)}>"
    return Html(start if name in EMPTY else f"{start}{escaped(children)}</{name}>")


def paragraph(*children, **attributes):
    """A paragraph."""
    return element("p", *children, **attributes)


def missing(*children):
    """A paragraph that says what is not there."""
    return element("p", *children, class_="missing")


def table(header, rows, caption, texts=1):
    """A table that scrolls inside its own box; the first `texts` columns to the left.

    With a single one, this column holds names and stays in sight. Without a `header` (None) the
    rows are pairs of a name and a value.
    """
    texts = 2 if header is None else texts

    def line(kind, values, **more):
        numbers = [None if place < texts else "number" for place in range(len(values))]
        cells = zip(values, numbers, strict=True)
        return element("tr", [element(kind, v, class_=number, **more) for v, number in cells])

    head = element("thead", line("th", header, scope="col")) if header else None
    body = element("tbody", [line("td", row) for row in rows])
    whole = element("table", head, body, class_="named" if texts == 1 else None)
    box = element("div", whole, class_="scroll", role="region", aria_label=caption, tabindex=0)
    return element("figure", element("figcaption", caption), box, class_="table")


def settings_list(pairs):
    """Many short pairs of a name and a value, in columns."""
    items = [element("div", element("dt", name), element("dd", value)) for name, value in pairs]
    return element("dl", items, class_="settings")


def rest_of(items, shown):
    """A note on what a list leaves out after `shown` items; nothing if it is complete."""
    if len(items) <= shown:
        return None
    return paragraph(f"{len(items) - shown} more are not shown here.", class_="note")


def data_uri(content, kind):
    """Bytes as a data URI; `kind` is such as image/png."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def picture(uri, alt, width=None, height=None, **attributes):
    """An image; `width` and `height` in pixels keep its place free."""
    return element("img", src=uri, alt=alt, width=width, height=height, **attributes)


def figure(content, *caption, **attributes):
    """A figure with a caption."""
    return element("figure", content, element("figcaption", *caption), **attributes)


def folded(summary, *children):
    """Something to unfold."""
    return element("details", element("summary", summary), *children)


def commands(*lines):
    """Commands for a shell."""
    return element("pre", element("code", "\n".join(lines)), tabindex=0)


def page(title, lead, sections, ending):
    """A whole document as text.

    `lead` and `ending` are Html; `sections` are triples (id, heading, Html), and are listed at the
    top.
    """
    links = [element("li", element("a", name, href=f"#{key}")) for key, name, _ in sections]
    contents = element("nav", element("ol", links), aria_label="Contents")
    parts = [
        element(
            "section",
            element("h2", name, id=f"{key}-title"),
            body,
            id=key,
            aria_labelledby=f"{key}-title",
        )
        for key, name, body in sections
    ]
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", Html(style)),
    )
    body = element(
        "body",
        element("header", element("h1", title), lead),
        contents,
        element("main", *parts),
        element("footer", ending),
    )
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"
