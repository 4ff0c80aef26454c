"""Figures inside a page of HTML: SVG without scripts, style sheets, style attributes or names that could meet others."""

from __future__ import annotations

from xml.etree import ElementTree

from foretune.naming import visible
from foretune.page import Figure
from foretune.pages.svg import svg

_DROPPED = ("metadata", "style")
_WHITE = "#ffffff"


def inline_svg(figure: Figure, name: str) -> str:
    """The figure as an `svg` element, which takes its ink and its paper from the page.

    Style attributes become attributes of their own: a page may then forbid styles of others. The background is left out,
    and ids that something refers to begin with `name`.

    Args:
        figure: what is drawn.
        name: that no other figure of the page has.
    """
    root = ElementTree.fromstring(svg(figure))  # noqa: S314 - what matplotlib has just written
    _plain(root)
    used = {value[1:] for element in root.iter() if (value := element.get("href", "")).startswith("#")}
    used |= {value[5:-1] for element in root.iter() if (value := element.get("clip-path", ""))}
    for element in root.iter():
        _rename(element, used, name)
    box = root.get("viewBox", "")
    root.attrib.clear()
    root.attrib |= {
        "viewBox": box,
        "role": "img",
        "aria-labelledby": f"{name}-title {name}-desc",
        "stroke-linejoin": "round",
    }
    title, description = (ElementTree.Element(tag, {"id": f"{name}-{tag}"}) for tag in ("title", "desc"))
    title.text, description.text = visible(figure.title), visible(_in_words(figure))
    root[:0] = [title, description]
    return ElementTree.tostring(root, encoding="unicode")


def _in_words(figure: Figure) -> str:
    """What can be seen, for those who do not see it."""
    lines = [
        f"Horizontal: {figure.x_label}. Vertical: {figure.y_label}{', logarithmic' if figure.logarithmic else ''}."
    ]
    for curve in figure.curves:
        if len(curve.y):
            lines.append(
                f"{curve.name}: {len(curve.y)} points, from {curve.y[0]:.3g} to {curve.y[-1]:.3g}, at least "
                f"{curve.y.min():.3g}, at most {curve.y.max():.3g}."
            )
    return " ".join(lines)


def _plain(element: ElementTree.Element) -> None:
    """Names without a namespace, styles as attributes, nothing but what is drawn; below an element too."""
    element.tag = _local(element.tag)
    element.attrib = {_local(key): value for key, value in element.attrib.items()}
    for part in element.attrib.pop("style", "").split(";"):
        key, _, value = part.partition(":")
        if key.strip() and key.strip() != "font-family":
            element.set(key.strip(), value.strip())
    if element.tag == "path":
        element.set("d", " ".join(element.get("d", "").split()))
        if element.get("fill") == _WHITE and element.get("stroke") is None:
            element.set("fill", "none")
    if element.tag != "text" and not (element.text or "").strip():
        element.text = None
    for child in list(element):
        child.tail = None
        if _local(child.tag) in _DROPPED:
            element.remove(child)
        else:
            _plain(child)


def _rename(element: ElementTree.Element, used: set[str], name: str) -> None:
    own = element.attrib.pop("id", None)
    if own in used:
        element.set("id", f"{name}-{own}")
    if element.get("href", "").startswith("#"):
        element.set("href", f"#{name}-{element.attrib['href'][1:]}")
    if element.get("clip-path"):
        element.set("clip-path", f"url(#{name}-{element.attrib['clip-path'][5:-1]})")


def _local(name: str) -> str:
    return name.rpartition("}")[2]
