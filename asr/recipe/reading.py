"""Reading recipes: the only way from a YAML file to a ``Recipe``.

A recipe is YAML 1.2 scalars, lists and mappings: no tags, no aliases, so nothing in it can run or explode. It is
validated whole before anything starts, and every fault is reported at once with its path and, where one is near, the
key or value that was probably meant.
"""

from __future__ import annotations

import difflib
import json
import re
import typing
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from asr.errors import RecipeError
from asr.recipe import SHARE_TAG, SOURCES_TAG, LanguageModelRecipe, Recipe, Section

MAX_RECIPE_BYTES = 1_000_000

R = typing.TypeVar("R", bound=Section)


class _Loader(yaml.SafeLoader):
    """SafeLoader with YAML 1.2 scalars (``1e-3`` is a number, ``no`` is a word), no aliases, tags or repeated keys."""

    yaml_implicit_resolvers: dict[str, list[Any]] = {}  # noqa: RUF012 (as PyYAML declares it)

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        line = event.start_mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            raise RecipeError(f"line {line}: a recipe does not use YAML aliases (*name)")
        if tag := getattr(event, "tag", None):
            raise RecipeError(f"line {line}: a recipe does not use YAML tags; found {tag}")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise RecipeError(f"line {key.start_mark.line + 1}: a key is a word, not a list or a mapping")
            if key.value in seen:
                raise RecipeError(f'line {key.start_mark.line + 1}: the key "{key.value}" stands here twice')
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$", re.I), list("tTfF"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|)$", re.I), ["~", "n", "N", ""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9]+$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?$"),
    list("-+0123456789."),
)


def _int(loader: _Loader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node))


_Loader.add_constructor("tag:yaml.org,2002:int", _int)


class _Dumper(yaml.SafeDumper):
    """SafeDumper that quotes what either YAML 1.1 or 1.2 would read as something other than a word."""


_Dumper.yaml_implicit_resolvers = {
    first: yaml.SafeDumper.yaml_implicit_resolvers.get(first, []) + _Loader.yaml_implicit_resolvers.get(first, [])
    for first in yaml.SafeDumper.yaml_implicit_resolvers.keys() | _Loader.yaml_implicit_resolvers.keys()
}


def _parse_yaml(text: str, where: str) -> Any:
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        reason = " ".join(str(getattr(error, "problem", None) or error).split())
        raise RecipeError(f"{where}{line}: not valid YAML: {reason}") from error
    except RecipeError as error:
        raise RecipeError(f"{where}, {error}") from None
    except (RecursionError, ValueError) as error:
        raise RecipeError(f"{where}: not valid YAML: {error}") from error


@typing.overload
def load_recipe(path: Path, overrides: typing.Sequence[str] = ()) -> Recipe: ...
@typing.overload
def load_recipe(path: Path, overrides: typing.Sequence[str] = (), *, schema: type[R]) -> R: ...
def load_recipe(path: Path, overrides: typing.Sequence[str] = (), *, schema: type[Section] = Recipe) -> Section:
    """The recipe in ``path`` with ``overrides`` (``encoder.hidden=256``; list items by number) laid over it.

    ``schema`` is what it describes. Raises RecipeError, listing every fault.
    """
    return validate_recipe(read_yaml(path), str(path), overrides, schema=schema)


def read_yaml(path: Path) -> Any:
    """The plain values of a recipe's file, not validated. Raises RecipeError."""
    try:
        if path.stat().st_size > MAX_RECIPE_BYTES:
            raise RecipeError(f"{path}: larger than {MAX_RECIPE_BYTES} bytes, so it is no recipe")
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise RecipeError(f"the recipe {path} cannot be read: {reason}") from error
    return _parse_yaml(text, str(path))


@typing.overload
def validate_recipe(raw: Any, where: str, overrides: typing.Sequence[str] = ()) -> Recipe: ...
@typing.overload
def validate_recipe(raw: Any, where: str, overrides: typing.Sequence[str] = (), *, schema: type[R]) -> R: ...
def validate_recipe(
    raw: Any, where: str, overrides: typing.Sequence[str] = (), *, schema: type[Section] = Recipe
) -> Section:
    """The recipe that ``raw`` (plain YAML values) spells; ``where`` heads the list of faults."""
    for override in overrides:
        _override(raw, override)
    if not isinstance(raw, dict):
        raise RecipeError(f"{where}: a recipe is a mapping of keys to values; found {type(raw).__name__}")
    if (raw.get("kind") == _kind(LanguageModelRecipe)) is not (schema is LanguageModelRecipe):
        raise RecipeError(
            f"{where} describes a recogniser, not a language model"
            if schema is LanguageModelRecipe
            else f"{where} describes a language model, not a recogniser"
        )
    try:
        # Through JSON, since there a strict model takes a list for a tuple and nothing else.
        return schema.model_validate_json(json.dumps(_with_default_kinds(schema, raw)))
    except ValidationError as error:
        found = error.errors()
        # A list whose items are at fault is also called too short; once is enough.
        found = [f for f in found if f["type"] != "too_short" or not any(_within(other, f) for other in found)]
        faults = [_sentence(fault, raw, schema) for fault in found]
        count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
        raise RecipeError("\n".join([f"{where}: {count}", *(f"  - {fault}" for fault in faults)])) from None
    except TypeError as error:
        raise RecipeError(f"{where}: {error}") from error


def _with_default_kinds(section: type[Section], raw: Any) -> Any:
    """``raw`` with the default ``kind`` written where a section leaves it out: ``encoder: {hidden: 64}`` is an LSTM."""
    if not isinstance(raw, dict):
        return raw
    raw = dict(raw)
    for name, field in section.model_fields.items():
        if isinstance(field.default, Section) and isinstance(raw.get(name), dict):
            default = field.default.model_dump(include={"kind"})
            raw[name] = default | _with_default_kinds(type(field.default), raw[name])
    return raw


def dump_recipe(recipe: Section) -> str:
    """The recipe as YAML, every default written out."""
    return yaml.dump(recipe.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _override(raw: Any, override: str) -> None:
    path, equals, value = override.partition("=")
    if not equals or not path:
        raise RecipeError(f'--set takes KEY=VALUE (encoder.hidden=256); found "{override}"')
    node, keys = raw, path.split(".")
    for depth, key in enumerate(keys):
        here = ".".join(keys[:depth]) or "the recipe"
        index: Any = key
        if isinstance(node, list):
            if not key.isdecimal() or int(key) >= len(node):
                raise RecipeError(f'--set {path}: {here} is a list of {len(node)}, and "{key}" is none of its places')
            index = int(key)
        elif not isinstance(node, dict):
            raise RecipeError(f"--set {path}: {here} is {node!r}, which holds no keys")
        if depth == len(keys) - 1:
            node[index] = _parse_yaml(value, f"--set {path}")
        elif isinstance(node, dict):
            if node.get(index) is None:
                node[index] = {}
            node = node[index]
        else:
            node = node[index]


def _sentence(fault: Any, raw: Any, schema: type[Section]) -> str:
    """One pydantic error as: path: what was found, what was expected, what was probably meant."""
    path, sections = _resolve(fault["loc"], raw, schema)
    where = ".".join(_short(str(part)) for part in path)
    match fault["type"]:
        case "extra_forbidden":
            known = sorted({name for section in sections for name in section.model_fields})
            return f"{where}: unknown key{_did_you_mean(_short(str(path[-1])), known)}"
        case "missing":
            return f"{where}: missing"
        case "union_tag_invalid":
            unadvised = {_kind(section) for section in sections if not section.is_advised}
            tags = [t for t in re.findall(r"'([^']+)'", fault["ctx"]["expected_tags"]) if t not in unadvised]
            found = _short(str(fault["ctx"]["tag"]))
            return f'{where}.kind: found "{found}", expected one of {", ".join(tags)}{_did_you_mean(found, tags)}'
        case "union_tag_not_found":
            return f"{where}.kind: missing"
        case "literal_error":
            choices = re.findall(r"'([^']+)'", fault["ctx"]["expected"]) or [fault["ctx"]["expected"]]
            found = _short(str(fault["input"]))
            return f'{where}: found "{found}", expected {" or ".join(choices)}{_did_you_mean(found, choices)}'
        case "value_error":
            return f"{where}: {fault['ctx']['error']}"
    message = (
        fault["msg"]
        .replace("Input should be ", "expected ")
        .replace("valid tuple", "list")
        .replace("valid array", "list")
    )
    return f"{where}: {message}; found {_short(repr(fault['input']))}"


def _short(found: str) -> str:
    return found if len(found) < 60 else f"{found[:57]}..."


def _within(fault: Any, outer: Any) -> bool:
    depth = len(outer["loc"])
    return len(fault["loc"]) > depth and fault["loc"][:depth] == outer["loc"]


def _resolve(
    loc: tuple[str | int, ...], raw: Any, schema: type[Section]
) -> tuple[list[str | int], tuple[type[Section], ...]]:
    """The user's path for a pydantic location (which also names union tags), and the sections its last key is in."""
    path: list[str | int] = []
    sections: tuple[type[Section], ...] = (schema,)
    value = raw
    for depth, part in enumerate(loc):
        if part in (SHARE_TAG, SOURCES_TAG):
            continue
        tagged = tuple(s for s in sections if _kind(s) == part)
        if tagged and isinstance(value, dict) and value.get("kind", _kind(tagged[0])) == part:
            sections = tagged
            continue
        path.append(part)
        match value:
            case dict():
                value = value.get(part)
            case list() if isinstance(part, int) and part < len(value):
                value = value[part]
            case _:
                value = None
        if isinstance(part, str) and depth < len(loc) - 1:
            fields = [s.model_fields[part] for s in sections if part in s.model_fields]
            sections = tuple(section for field in fields for section in _sections_in(field.annotation)) or sections
    return path, sections


def _kind(section: type[Section]) -> str | None:
    field = section.model_fields.get("kind")
    return typing.get_args(field.annotation)[0] if field else None


def _sections_in(annotation: Any) -> list[type[Section]]:
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return [annotation] if issubclass(annotation, Section) else []
    return [section for argument in typing.get_args(annotation) for section in _sections_in(argument)]


def _did_you_mean(found: str, known: list[str]) -> str:
    near = difflib.get_close_matches(found, known, n=1, cutoff=0.5)
    return f'; did you mean "{near[0]}"?' if near else ""
