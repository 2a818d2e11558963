"""The parts that pages are made of. Strings are text and are escaped; `Html` is markup and is kept."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from typing import Any, final

from armillary.core.report import number, plain
from armillary.errors import ShapeError


@final
class Html(str):
    """Text that is markup already. f-strings and `+` give plain strings again, so nothing becomes markup by accident."""

    __slots__ = ()

    def __html__(self) -> str:
        """Lets template engines know that this is escaped."""
        return self


#: Text, a number or markup.
Content = str | int | float | None


def markup(value: Content) -> Html:
    """Markup as it is; anything else as escaped text, numbers as `report.number` writes them."""
    if isinstance(value, Html):
        return value
    text = value if isinstance(value, str) else number(value)
    return Html(html.escape(text, quote=True))


def join(*parts: Content, between: str = "") -> Html:
    """Parts one after another."""
    return Html(between.join(markup(part) for part in parts))


def tag(name: str, *body: Content, **attributes: Content) -> Html:
    """An element. An attribute's trailing underscore is dropped (`class_`), others become hyphens; None leaves the attribute out."""
    written = [
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value), quote=True)}"'
        for key, value in attributes.items()
        if value is not None
    ]
    return Html(f"<{name}{''.join(written)}>{join(*body)}</{name}>")


# ---------------------------------------------------------------- text


def paragraph(*body: Content, class_: str | None = None) -> Html:
    return tag("p", *body, class_=class_)


def link(text: Content, href: str) -> Html:
    """A link inside the page ("#feature-7") or to another page of a local server."""
    return tag("a", text, href=href)


def listing(items: Sequence[Content]) -> Html:
    """A bulleted list."""
    return tag("ul", *(tag("li", item) for item in items))


def warning(text: Content) -> Html:
    """What the reader must know."""
    return tag("p", tag("strong", "Note"), Html(" "), text, class_="warning", role="note")


def details(summary: Content, *body: Content, is_open: bool = False) -> Html:
    """A block that opens on demand."""
    return tag("details", tag("summary", summary), *body, open="" if is_open else None)


def facts(pairs: Mapping[str, Any]) -> Html:
    """Names and values side by side; nested values are written as JSON."""
    rows = (tag("div", tag("dt", name), tag("dd", _fact(value))) for name, value in pairs.items())
    return tag("dl", *rows, class_="facts")


def _fact(value: Any) -> Html:
    if isinstance(value, bool) or (isinstance(value, Sequence | Mapping) and not isinstance(value, str)):
        return tag("code", json.dumps(plain(value), ensure_ascii=False, default=str))
    return markup(value if isinstance(value, str | int | float | None) else str(value))


# ---------------------------------------------------------------- boxes


def card(title: Content, *body: Content, subtitle: Content = "", id_: str | None = None) -> Html:
    """A bordered box with a heading, such as one feature."""
    heading = tag("h3", title)
    below = paragraph(subtitle, class_="dim") if subtitle else Html("")
    return tag("article", tag("header", heading, below), *body, class_="card", id_=id_)


def cards(*several: Html) -> Html:
    """Cards side by side where there is room."""
    return tag("div", *several, class_="cards")


def figure(spec: Mapping[str, Any], *, title: str = "", alt: str = "", id_: str | None = None) -> Html:
    """A plotly figure, drawn by the page's script in the reader's colours.

    Args:
        spec: {"data": [...], "layout": {...}} as plain JSON; NaN and infinity become gaps. Its template is replaced by the page's.
        title: caption; the layout's own title is better left out.
        alt: what a reader who does not see the figure is told; the title if empty.
        id_: an anchor for links.
    """
    # "<" never appears in the script element, so no text of the figure can end it.
    data = Html(json.dumps(plain(spec), allow_nan=False).replace("<", "\\u003c"))
    height = plain(spec.get("layout", {})).get("height") or 380
    canvas = tag(
        "div",
        f"{alt or title or 'Figure'} (drawn by JavaScript)",
        class_="canvas",
        role="img",
        aria_label=alt or title or "figure",
        style=f"min-height:{int(height)}px",
    )
    caption = tag("figcaption", title) if title else Html("")
    return tag("figure", caption, canvas, tag("script", data, type="application/json"), class_="plot", id_=id_)


# ---------------------------------------------------------------- tokens


def context(tokens: Sequence[str], activations: Sequence[float], *, scale: float | None = None, focus: int | None = None) -> Html:
    """A stretch of text whose tokens are tinted by activation: blue above 0, orange below. Hovering shows the value.

    Args:
        tokens: their texts, spaces included.
        activations: one number per token.
        scale: the magnitude that gets the full tint, such as the feature's maximum; the largest one here if None.
        focus: the token to mark.

    Raises:
        ShapeError: not one activation per token.
    """
    if len(tokens) != len(activations):
        raise ShapeError(f"{len(tokens)} tokens with {len(activations)} activations; one activation per token is needed")
    top = scale or max((abs(a) for a in activations), default=0.0) or 1.0
    pieces = [_token(t, float(a), top, i == focus) for i, (t, a) in enumerate(zip(tokens, activations, strict=True))]
    return tag("p", *pieces, class_="context")


def _token(text: str, activation: float, top: float, is_focus: bool) -> Html:
    shown = text.replace("\n", "↵\n").replace("\t", "⇥\t")
    if activation == 0 and not is_focus:
        return markup(shown)
    share = min(1.0, abs(activation) / top)
    kind = " ".join(["above" if activation >= 0 else "below", *(["focus"] if is_focus else [])])
    return tag("mark", shown, class_=kind, style=f"--share:{share:.3g}", title=number(activation))


def token_list(promoted: Sequence[tuple[str, float]], suppressed: Sequence[tuple[str, float]]) -> Html:
    """Tokens a feature makes more and less likely, with their values (logits), strongest first."""
    top = max((abs(value) for _, value in [*promoted, *suppressed]), default=0.0) or 1.0
    columns = [
        tag("div", tag("h4", name), tag("ol", *(_listed(text, value, top, kind) for text, value in tokens)))
        for name, kind, tokens in (("Promoted", "above", promoted), ("Suppressed", "below", suppressed))
        if tokens
    ]
    return tag("div", *columns, class_="tokens")


def _listed(text: str, value: float, top: float, kind: str) -> Html:
    shown = text.replace("\n", "↵").replace("\t", "⇥").replace(" ", "␣")
    bar = tag("span", class_=f"bar {kind}", style=f"--share:{min(1.0, abs(value) / top):.3g}")
    return tag("li", tag("code", shown), bar, tag("span", number(value), class_="number"))
