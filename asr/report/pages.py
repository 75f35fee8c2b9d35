"""Pages: templates to HTML of one look, that loads nothing and runs nothing."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

from asr import __version__


def render(template: str, *, package: str = "asr.report", **values: Any) -> str:
    """A template of ``package``, which may extend or include those of this room: ``base.html`` is a page's frame."""
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    rooms = dict.fromkeys((package, "asr.report"))
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(room, ".") for room in rooms]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    return environment.get_template(template).render(
        version=__version__, date=datetime.date.today().isoformat(), **values
    )


def public_name(name: str) -> str:
    """A set's or a corpus's name for a page, which is passed on: where its writer keeps files is nobody's business, so
    that only the folders of a path within the recipe's data stay."""
    path = Path(name)
    return path.name if path.is_absolute() or ".." in path.parts else name
