"""Letters in pictures that the usual font lacks, such as Chinese ones, from another font that is installed."""

from __future__ import annotations

import functools
import re
import warnings
from collections.abc import Callable
from typing import ParamSpec

from tidegate.training.progress import say

P = ParamSpec("P")
_LACKING = re.compile(r"Glyph (\d+) .*missing from")


def lettered(draw: Callable[P, bytes]) -> Callable[P, bytes]:
    """Draw again with other fonts where letters are missing; those that no font has are boxes, which is said once."""

    @functools.wraps(draw)
    def run(*args: P.args, **kwargs: P.kwargs) -> bytes:
        from matplotlib import rc_context

        with warnings.catch_warnings(record=True) as caught:
            warnings.filterwarnings("always", _LACKING.pattern)
            picture = draw(*args, **kwargs)
        found = [_LACKING.match(str(w.message)) for w in caught]
        for warning, lacking in zip(caught, found, strict=True):
            if lacking is None:  # of something else
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        letters = frozenset(int(lacking[1]) for lacking in found if lacking is not None)
        if not letters:
            return picture
        names, all_there = fonts_with(letters)
        if not all_there:
            _say_boxes()
        with rc_context({"font.family": ["sans-serif", *names]}), warnings.catch_warnings():
            warnings.filterwarnings("ignore", _LACKING.pattern)
            return draw(*args, **kwargs) if names else picture

    return run


def fonts_with(letters: frozenset[int]) -> tuple[list[str], bool]:
    """Names of installed fonts that hold letters, by their code points, as few as will do; and are all there?"""
    names: list[str] = []
    while letters:
        name, most = max(((n, letters & held) for n, held in _installed().items()), key=lambda font: len(font[1]))
        if not most:
            break
        names.append(name)
        letters -= most
    return names, not letters


@functools.cache
def _installed() -> dict[str, frozenset[int]]:
    """The letters of each installed font."""
    from matplotlib.font_manager import fontManager
    from matplotlib.ft2font import FT2Font

    found = {}
    for font in fontManager.ttflist:
        if font.style == "normal" and not font.name.startswith("Last Resort"):  # which has boxes alone
            try:
                found[font.name] = frozenset(FT2Font(font.fname).get_charmap())
            except (OSError, RuntimeError):  # damaged, or gone since it was listed
                continue
    return found


@functools.cache
def _say_boxes() -> None:
    say(["letters that no installed font has are boxes in the pictures; a font such as Noto Sans CJK may have them"])
