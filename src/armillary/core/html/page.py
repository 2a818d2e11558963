"""A page that is one file: style, script, plotly.js where there are figures, and a policy that forbids every request."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from armillary.core.html.parts import Content, Html, join, link, paragraph, tag

#: What the browser is told to refuse: everything but what the file holds. plotly.js compiles its WebGL code, hence unsafe-eval.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"
)


@dataclass(frozen=True)
class Section:
    """A part of a page that its navigation names.

    Args:
        title: heading and name in the navigation.
        body: markup.
    """

    title: str
    body: Html


def section(title: str, *body: Content) -> Section:
    """A section of the given parts, one after another."""
    return Section(title, join(*body))


def page(title: str, sections: Sequence[Section], *, lead: Content = "", is_wide: bool = False) -> str:
    """One self-contained HTML document.

    Args:
        title: of the window and the page.
        sections: in reading order; each is named in the navigation where there are several.
        lead: a line or two under the title.
        is_wide: for wide tables; running text keeps its width.
    """
    anchors = _anchors([part.title for part in sections])
    bodies = [_section(part, anchor) for part, anchor in zip(sections, anchors, strict=True)]
    links = [tag("li", link(part.title, f"#{anchor}")) for part, anchor in zip(sections, anchors, strict=True)]
    nav = tag("nav", tag("ol", *links), aria_label="Sections") if len(sections) > 1 else Html("")
    header = tag("header", tag("h1", title), paragraph(lead, class_="lead") if lead else Html(""))
    skip = tag("a", "Skip to content", href="#main", class_="skip")
    body = join(skip, header, nav, tag("main", *bodies, id_="main"), tag("footer", _made_with()))
    kind = "arm wide" if is_wide else "arm"
    return f"<!doctype html>\n{tag('html', _head(title), tag('body', body, *_scripts(bodies), class_=kind), lang='en')}\n"


def fragment(body: Html) -> str:
    """Markup with the page's style, for a notebook's output. Figures are named but not drawn: plotly.js is too large to repeat there."""
    return tag("div", tag("style", style()), body, class_="arm")


def _head(title: str) -> Html:
    metas = (
        Html('<meta charset="utf-8">'),
        Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
        Html(f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'),
        Html('<meta name="color-scheme" content="light dark">'),
        Html('<link rel="icon" href="data:,">'),
    )
    return tag("head", *metas, tag("title", title), tag("style", style()))


def _scripts(bodies: Sequence[Html]) -> list[Html]:
    # Escaped text holds no bare quotes, so only `figure` can have written this.
    has_figures = any('<figure class="plot"' in body for body in bodies)
    return [tag("script", script) for script in ([plotly_js()] if has_figures else []) + [page_js()]]


def _section(part: Section, anchor: str) -> Html:
    heading = tag("h2", part.title, id_=f"{anchor}-title")
    return tag("section", heading, part.body, id_=anchor, aria_labelledby=f"{anchor}-title")


def _anchors(titles: Sequence[str]) -> list[str]:
    """A unique id per title."""
    found: list[str] = []
    for title in titles:
        stem = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "section"
        found.append(next(name for i in range(1, len(titles) + 1) if (name := stem if i == 1 else f"{stem}-{i}") not in found))
    return found


def _made_with() -> Html:
    from armillary import __version__

    return paragraph(f"Made with armillary {__version__}")


# ---------------------------------------------------------------- what lies beside this file


@cache
def _asset(name: str) -> Html:
    return Html(files(__package__).joinpath(name).read_text(encoding="utf-8"))


def style() -> Html:
    """The style sheet."""
    return _asset("page.css")


def page_js() -> Html:
    """The page's script: draws figures, sorts tables."""
    return _asset("page.js")


@cache
def plotly_js() -> Html:
    """plotly.js as the plotly package ships it."""
    from plotly.offline import get_plotlyjs

    return Html(get_plotlyjs().replace("</script", "<\\/script"))
