"""What one XML file of a VOC folder says."""

from __future__ import annotations

import math
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from msgspec import Struct

from .bounds import LARGEST_SIDE, Pixels
from .paths import image_suffix, read_file

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_FLAGS = {"": False, "false": False, "unspecified": False, "true": True}


class VocObject(Struct, array_like=True, gc=False):
    """One object as its XML file has it: the box as xmin, ymin, xmax, ymax, in the file's own numbers."""

    name: str
    box: list[float]
    difficult: bool


class VocRecord(Struct, array_like=True, gc=False):
    """What one XML file says; the size is height and width."""

    name: str
    file_name: str
    size: tuple[Pixels, Pixels] | None
    objects: list[VocObject]


def xml_path(root: Path, name: str) -> Path:
    """Where the annotations of an image lie."""
    return root / "Annotations" / f"{name}.xml"


def read_record(root: Path, name: str) -> VocRecord:
    """Read the XML file of an image.

    Raises:
        ValueError: it is malformed, has a document type declaration or lacks a tag; the file is named, and the object.
    """
    path = xml_path(root, name)
    annotation = _parse(path)
    suffix = image_suffix(annotation.findtext("filename", "").strip()) or ".jpg"
    objects = [
        _read_object(f"{path}: object[{number}]", element)
        for number, element in enumerate(annotation.findall("object"), start=1)
    ]
    return VocRecord(name, name + suffix, _read_size(path, annotation), objects)


class _NoDoctype(ElementTree.TreeBuilder):
    """Refuses a document type declaration, the only place where entities, and bombs of them, are made."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("document type declarations and entities are not accepted")


def _parse(path: Path) -> Element:
    content = read_file(path)
    try:
        annotation: Element = ElementTree.fromstring(content, ElementTree.XMLParser(target=_NoDoctype()))
    except (ElementTree.ParseError, ValueError, LookupError) as error:  # the last of encodings that are none of text
        raise ValueError(f"{path}: not a VOC annotation: {error}") from None
    if annotation.tag != "annotation":
        raise ValueError(f"{path}: not a VOC annotation: the outer tag must be <annotation>, got <{annotation.tag}>")
    return annotation


def _read_size(path: Path, annotation: Element) -> tuple[int, int] | None:
    """Height and width, None where the file does not state them; some tools write zeros for that."""
    size = annotation.find("size")
    if size is None or not any(size.findtext(tag, "").strip() for tag in ("height", "width")):
        return None
    height, width = (_side(f"{path}: size", size, tag) for tag in ("height", "width"))
    return (height, width) if height and width else None


def _side(where: str, size: Element, tag: str) -> int:
    number = _number(where, size, tag)
    if not (0 <= number <= LARGEST_SIDE and number.is_integer()):
        raise ValueError(f"{where}: <{tag}> must be an integer in 0 ... {LARGEST_SIDE}, got {number}")
    return int(number)


def _read_object(where: str, element: Element) -> VocObject:
    box = element.find("bndbox")  # the object's own; its parts have theirs further down
    if box is None:
        raise ValueError(f"{where}: the tag <bndbox> is missing")
    name = _text(where, element, "name")
    return VocObject(
        name=name,
        box=[_number(f"{where}: bndbox", box, corner) for corner in _CORNERS],
        difficult=_is_set(where, element, "difficult"),
    )


def _is_set(where: str, element: Element, tag: str) -> bool:
    """Whether a flag is; some tools write words, or leave it empty."""
    word = element.findtext(tag, "").strip().lower()
    if word in _FLAGS:
        return _FLAGS[word]
    return _number(where, element, tag) != 0


def _number(where: str, parent: Element, tag: str) -> float:
    text = _text(where, parent, tag)
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{where}: <{tag}> must be a finite number, got {text!r}")
    return number


def _text(where: str, parent: Element, tag: str) -> str:
    text = (parent.findtext(tag) or "").strip()
    if not text:
        raise ValueError(f"{where}: the tag <{tag}> is missing or empty")
    return text
