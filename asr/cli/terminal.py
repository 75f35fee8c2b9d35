"""The one way from a command to the terminal: what strangers wrote, names, texts and tokens, cannot steer it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import click

from asr.text.printable import printable

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderHook, RenderResult
    from rich.segment import Segment


def say(text: str, *, err: bool = False, end: bool = True) -> None:
    """Prints for people, and JSON, which ``printable`` does not change."""
    click.echo(printable(text), err=err, nl=end)


def write(document: str) -> None:
    """Prints what another program may read: as it is, unless standard output is a terminal."""
    click.echo(printable(document) if sys.stdout.isatty() else document, color=True)


def console() -> Console:
    """A rich console on standard output, whose tables and lines are printable."""
    from rich.console import Console

    made = Console(soft_wrap=True, highlight=False, markup=False)
    made.push_render_hook(cast("RenderHook", _Hook()))
    return made


class _Hook:
    """rich's RenderHook, which would have to be imported to inherit from it."""

    def process_renderables(self, renderables: list[Any]) -> list[Any]:
        return [_Printable(renderable) for renderable in renderables]


class _Printable:
    def __init__(self, renderable: Any) -> None:
        self._renderable = renderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich.segment import Segment

        def shown(segment: Segment) -> Segment:
            return segment if segment.control else Segment(printable(segment.text), segment.style)

        rendered: Iterator[Segment] = iter(console.render(self._renderable, options))
        yield from map(shown, rendered)
