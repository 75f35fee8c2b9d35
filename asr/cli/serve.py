"""asr serve."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from asr.cli.options import (
    COMPILING,
    FOLDER,
    decoder_options,
    device_option,
    engine_option,
    model_directory,
    said_if_slow,
    threads_option,
)
from asr.cli.terminal import say
from asr.errors import AsrError, MissingExtraError

if TYPE_CHECKING:
    from asr.checkpoint import Engine


@click.command()
@click.option("--model", "given", multiple=True, metavar="[NAME=]DIR", help="Model directory; default: the newest.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen at.")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0: any that is free.")
@click.option("--api-key-file", type=FOLDER, metavar="FILE", help="Holds the key that clients must send.")
@click.option("--insecure", is_flag=True, help="Listen beyond this machine without a key.")
@click.option(
    "--origin", "origins", multiple=True, metavar="URL", help="A page's origin that may ask, or our own name."
)
@click.option("--ssl-certfile", type=FOLDER, metavar="FILE", help="Certificate: serve https and wss.")
@click.option("--ssl-keyfile", type=FOLDER, metavar="FILE", help="Its key, where that is a file of its own.")
@click.option("--queue", default=16, show_default=True, type=click.IntRange(1), help="Recordings at once.")
@click.option("--streams", default=64, show_default=True, type=click.IntRange(0), help="Live streams at once.")
@click.option("--sockets", default=256, show_default=True, type=click.IntRange(1), help="Connections at once.")
@click.option("--max-upload", default=1024, show_default=True, type=click.IntRange(1), metavar="MIB")
@click.option("--max-hours", default=12.0, show_default=True, type=click.FloatRange(0, min_open=True), metavar="H")
@click.option("--idle-timeout", default=60.0, show_default=True, type=click.FloatRange(1), metavar="S")
@click.option("--drain", default=30.0, show_default=True, type=click.FloatRange(0), metavar="S", help="At SIGTERM.")
@decoder_options
@engine_option
@device_option
@threads_option
def serve(
    given: tuple[str, ...],
    host: str,
    port: int,
    api_key_file: Path | None,
    insecure: bool,
    origins: tuple[str, ...],
    ssl_certfile: Path | None,
    ssl_keyfile: Path | None,
    queue: int,
    streams: int,
    sockets: int,
    max_upload: int,
    max_hours: float,
    idle_timeout: float,
    drain: float,
    engine: Engine,
    device: str,
    decoding: list[str],
) -> None:
    """Serve transcription over HTTP as OpenAI's clients ask for it: recipes/guides/serving.md.

    Clients name a model as its folder is called, or NAME; the first is the default. The server listens to this machine
    alone unless --host says otherwise, which needs a key (--api-key-file).
    """
    from asr import runtime

    runtime.keep_few_kernels()
    runtime.share_memory()
    try:
        from asr.serve import server
        from asr.serve.app import build_app
        from asr.serve.engine import Models, Settings
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("asr"):
            raise
        raise MissingExtraError(error.name or "starlette", "serve", "a server") from error
    from asr.transcribe.recogniser import Recogniser

    key = None if api_key_file is None else _key(api_key_file)
    if key is None and not insecure and not _is_loopback(host):
        raise AsrError(
            f"{host} can be reached from other machines: give the server a key, --api-key-file FILE, or say --insecure"
        )
    settings = Settings(
        host=host,
        port=port,
        api_key=key,
        origins=origins,
        queue=queue,
        streams=streams,
        sockets=sockets,
        upload_bytes=max_upload << 20,
        audio_seconds=max_hours * 3600,
        idle_timeout=idle_timeout,
        drain=drain,
    )
    bound = server.listening(settings)
    directories = _named(given)
    recognisers = {}
    for name, directory in directories.items():
        recognisers[name] = Recogniser.load(directory, device=device, engine=engine, decoding=decoding)
        with said_if_slow(COMPILING):
            recognisers[name].warm_up()
    app = build_app(Models(recognisers), settings)
    at, number = bound.getsockname()[:2]
    scheme = "http" if ssl_certfile is None else "https"
    where = f"{scheme}://{f'[{at}]' if ':' in at else at}:{number}"

    def started() -> None:
        say(f"asr serve: listening at {where}, models: {', '.join(directories)}", err=True)

    server.serve(app, settings, bound, certificate=ssl_certfile, key=ssl_keyfile, started=started)
    say("asr serve: ended", err=True)


def _named(given: tuple[str, ...]) -> dict[str, Path]:
    """Model directories by the names that clients call them. Raises AsrError."""
    from asr.checkpoint import resolve

    if not given:
        newest = model_directory(None)
        return {newest.resolve().name: newest}
    directories: dict[str, Path] = {}
    for entry in given:
        name, equals, path = entry.partition("=")
        directory = resolve(path if equals else entry)
        name = name if equals else directory.resolve().name
        if not name or name in directories:
            raise AsrError(f'two models, or one without a name, are called "{name}": --model NAME=DIR gives another')
        directories[name] = directory
    return directories


def _key(path: Path) -> str:
    try:
        key = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not ASCII text"
        raise AsrError(f"the key in {path} cannot be read: {reason}") from error
    if len(key) < 16 or len(key.split()) != 1:
        raise AsrError(
            f"{path} holds no key: expected one line of at least 16 characters, as openssl rand -hex 24 prints"
        )
    return key


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
