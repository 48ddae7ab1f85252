"""Configuration: recipe files with `get_config`, overrides from the command line, JSON, and typed sections.

A recipe is a Python file whose `get_config(arg='')` returns a `ConfigDict`. Its fields are fixed: an unknown field or a
value of the wrong type is an error that names the field. Sequences are tuples everywhere, so that a config compares
equal to itself after JSON.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import inspect
import json
import math
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any, TypeVar

from ml_collections import ConfigDict

from ieat_jax.config.mistakes import failed, must_be, shown, suggest
from ieat_jax.config.sections import RunConfig
from ieat_jax.errors import ConfigError, UserError
from ieat_jax.model.config import ModelConfig
from ieat_jax.storage import local_path

Section = TypeVar("Section")
NoneType = type(None)
TRUE, FALSE = ("true", "1", "yes"), ("false", "0", "no")


def load_config(spec: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """The recipe `path/to/file.py[:arg]` with overrides `--config.a.b=value` (or `--config.a.b value`) applied, locked.

    Raises:
        ConfigError: no such file, no `get_config`, an argument it does not take, an unknown field, a wrong type.
    """
    path, arg = _split_spec(spec)
    get_config = load_function(path, "get_config")
    given = () if arg is None else (arg,)
    _check_call(get_config, given, path, spec)
    with own_code(path):
        config = normal(get_config(*given))
    if not isinstance(config, ConfigDict):
        raise ConfigError(f"{path}: get_config returns {type(config).__name__}; it must return a ConfigDict")
    for field, text in _pairs(overrides):
        set_field(config, field, text)
    return config.lock()


def _check_call(get_config: Callable[..., Any], given: tuple[str, ...], path: Path, spec: str) -> None:
    """Raise where `get_config` cannot be called with what stands behind the colon.

    Raises:
        ConfigError: says whether an argument is missing or too much.
    """
    try:
        signature = inspect.signature(get_config)
        signature.bind(*given)
    except ValueError:  # what has no signature is called as it is
        return
    except TypeError as error:
        if given and not signature.parameters:
            raise ConfigError(
                f"--config={spec}: get_config of {path} takes no argument; leave ':{given[0]}' out"
            ) from error
        if not given and len(signature.parameters) == 1:
            name = next(iter(signature.parameters))
            raise ConfigError(
                f"--config={spec}: get_config({name}) of {path} needs it; write {path}:{name.upper()}"
            ) from error
        raise ConfigError(f"{path}: get_config{signature} has to take one argument at most, a text") from error


@contextlib.contextmanager
def own_code(path: Path) -> Iterator[None]:
    """Inside, whatever the user's code in `path` raises is an error for people; so is that it ends Python.

    Raises:
        ConfigError: it raised something.
    """
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        raise failed(path, error) from error


def _split_spec(spec: str) -> tuple[Path, str | None]:
    found = re.fullmatch(r"(.+?\.py)(?::(.*))?", str(spec), re.DOTALL)
    if not found:
        raise ConfigError(f"--config={spec}: a recipe is a Python file, written as path/to/file.py or file.py:argument")
    path = local_path(found[1], "--config")
    if not path.is_file():
        known = sorted(str(file) for file in path.parent.glob("*.py"))
        raise ConfigError(f"--config={spec}: there is no file {path}{suggest(str(path), known)}")
    return path, found[2]


def load_function(path: str | Path, name: str) -> Callable[..., Any]:
    """Return a function of a Python file.

    Raises:
        ConfigError: no such file or function, or a file that cannot be imported.
    """
    path = local_path(path, "recipe")
    if not path.is_file():
        raise ConfigError(f"there is no file {path}")
    loader = SourceFileLoader(f"ieat_jax_recipe_{path.stem}", str(path))
    module = types.ModuleType(loader.name)
    module.__file__ = str(path)
    with own_code(path):
        loader.exec_module(module)
    function = getattr(module, name, None)
    if not callable(function):
        raise ConfigError(f"{path}: the file has no function {name}")
    return function


def load_model(folder: str | Path, name: str) -> ModelConfig:
    """`get_model()` of FOLDER/NAME.py, for recipes that take any of several models.

    Raises:
        ConfigError: there is no such model.
    """
    path = Path(folder) / f"{name}.py"
    known = sorted(file.stem for file in Path(folder).glob("*.py"))
    if not path.is_file():
        raise ConfigError(f"there is no model {name!r} in {folder}, only {', '.join(known)}")
    get_model = load_function(path, "get_model")
    with own_code(path):
        return get_model()


def _pairs(overrides: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(field path, text) of every override."""
    rest = iter(overrides)
    for item in rest:
        found = re.fullmatch(r"--?config\.([^=\s]+)(?:=(.*))?", item, re.DOTALL)
        if not found:
            raise ConfigError(f"{item!r}: overrides are written as --config.FIELD=VALUE")
        text = found[2] if found[2] is not None else next(rest, None)
        if text is None:
            raise ConfigError(f"{item}: the value is missing; write {item}=VALUE")
        yield found[1], text


def set_field(config: ConfigDict, field: str, text: str) -> None:
    """Set `field` ('a.b.c', below `config`) to the value that `text` writes, of the type that the field has.

    Raises:
        ConfigError: no such field, a whole section, or text that is not of the field's type.
    """
    section, at = config, "config"
    *parents, name = field.split(".")
    for part in (*parents, name):
        if not isinstance(section, ConfigDict):
            raise ConfigError(f"{at} is a value, not a section; there is no config.{field}")
        if part not in section:
            known = [f"config.{known}" for known in fields(config)]
            raise ConfigError(f"there is no field config.{field}{suggest(f'config.{field}', known)}")
        holder, section, at = section, section[part], f"{at}.{part}"
    if isinstance(section, ConfigDict):
        inner = ", ".join(list(section)[:8])
        raise ConfigError(f"config.{field} is a section, not a value; set its fields one by one: {inner}")
    with holder.unlocked(), holder.ignore_type():
        holder[name] = parse_value(text, holder.get_type(name), f"config.{field}")


def fields(config: ConfigDict, prefix: str = "") -> list[str]:
    """Dotted paths of all values below `config`."""
    found = []
    for name, value in config.items():
        found += fields(value, f"{prefix}{name}.") if isinstance(value, ConfigDict) else [f"{prefix}{name}"]
    return found


def parse_value(text: str, kind: type, field: str) -> Any:
    """`text` from a command line as a value of `kind`; a field that is None takes any literal, else a string.

    Raises:
        ConfigError: naming field, expected type and text.
    """
    if kind is str:
        return text
    literal = _literal(text)
    if kind is NoneType:
        return normal(literal) if literal is not _NO_LITERAL else text
    if kind is bool and text.lower() in TRUE + FALSE:
        return text.lower() in TRUE
    if kind is int and type(literal) is int:
        return literal
    if kind is float and type(literal) in (int, float):
        return float(literal)
    if kind is float and re.fullmatch(r"[+-]?(inf|nan)", text.strip().lower()):
        return float(text)
    if kind is tuple and isinstance(literal, tuple | list):
        return normal(literal)
    raise ConfigError(must_be(field, kind, text))


_NO_LITERAL = object()


def _literal(text: str) -> Any:
    named = {"true": True, "false": False, "none": None}
    if text.strip().lower() in named:
        return named[text.strip().lower()]
    try:
        return ast.literal_eval(text.strip())
    except (SyntaxError, ValueError):
        return _NO_LITERAL


def normal(value: Any) -> Any:
    """`value` with every sequence a tuple and every mapping a ConfigDict."""
    if isinstance(value, ConfigDict):
        # In place: placeholders and references of the recipe stay what they are.
        with value.unlocked(), value.ignore_type():
            for name, inner in list(value.items()):
                if isinstance(inner, Mapping | ConfigDict | tuple):
                    value[name] = normal(inner)
                elif isinstance(inner, list):
                    del value[name]  # a field remembers the type it began with
                    value[name] = normal(inner)
        return value
    if isinstance(value, Mapping):
        return ConfigDict({name: normal(inner) for name, inner in value.items()})
    return tuple(normal(inner) for inner in value) if isinstance(value, list | tuple) else value


def to_json(config: ConfigDict) -> str:
    """The config as JSON text; `from_json` gives an equal config.

    Raises:
        ConfigError: a value that JSON cannot hold.
    """
    return json.dumps(_plain(config, "config"), indent=2, ensure_ascii=False) + "\n"


def _plain(value: Any, field: str) -> Any:
    if isinstance(value, Mapping | ConfigDict):
        return {name: _plain(inner, f"{field}.{name}") for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner, f"{field}[{place}]") for place, inner in enumerate(value)]
    if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    raise ConfigError(
        f"{field}: {value!r} ({type(value).__name__}) cannot be stored as JSON; "
        "a config holds numbers, strings, true/false, None, tuples and sections"
    )


def as_plain(config: RunConfig) -> dict[str, Any]:
    """Return a typed configuration as what JSON makes of it, for a checkpoint's metadata."""
    return json.loads(to_json(to_section(config)))


def from_json(text: str) -> ConfigDict:
    """The locked config that `to_json` wrote.

    Raises:
        ConfigError: the text is not a JSON object.
    """
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ConfigError(f"the stored config is not JSON ({error}); the file is damaged") from error
    if not isinstance(value, dict):
        raise ConfigError(f"the stored config is a JSON {type(value).__name__}, not an object; the file is damaged")
    return normal(value).lock()


def stored(value: Mapping[str, Any]) -> RunConfig:
    """Return a configuration that a run stored, perhaps with an earlier version: what was not there has its default.

    Raises:
        ConfigError: a field that this version does not have, or a value that it may not hold.
    """
    config = normal(json.loads(json.dumps(value)))
    saving = config.get("checkpoint")
    if isinstance(saving, ConfigDict) and isinstance(saving.get("allow_changes"), bool):
        del saving["allow_changes"]  # was a switch for all checks once
    return typed(config)


def differences(before: ConfigDict, now: ConfigDict) -> dict[str, str]:
    """{'config.train.steps': '100 then, 200 now'}: every field in which two configs differ."""
    absent = object()
    found = {}
    for field in dict.fromkeys(fields(before) + fields(now)):
        old, new = (_get(config, field, absent) for config in (before, now))
        if old != new:
            texts = ("absent" if value is absent else repr(value) for value in (old, new))
            found[f"config.{field}"] = "{} then, {} now".format(*texts)
    return found


def _get(config: ConfigDict, field: str, absent: Any) -> Any:
    for name in field.split("."):
        if not isinstance(config, ConfigDict) or name not in config:
            return absent
        config = config[name]
    return config


def typed(config: ConfigDict) -> RunConfig:
    """A configuration as frozen dataclasses, every field checked; what is left out has its default.

    This is the door: recipes and stored runs come through it, and nothing below it sees a ConfigDict.

    Raises:
        ConfigError: unknown fields, values of the wrong type, and values that a field may not hold; names all of them.
    """
    return from_section(RunConfig, config, "config")


def to_section(value: Any) -> ConfigDict:
    """A dataclass as a section of a config; `from_section` is its inverse."""
    return normal(dataclasses.asdict(value))


def from_section(kind: type[Section], section: Mapping[str, Any] | ConfigDict, field: str) -> Section:
    """Build the dataclass `kind` from a section named `field`, e.g. 'config.optimizer'.

    Raises:
        ConfigError: unknown fields with the nearest known ones, values of the wrong type or that a field may not hold.
    """
    wrong: list[str] = []
    made = _section(kind, section, field, wrong)
    if made is None or wrong:
        raise ConfigError("\n".join(wrong))
    return made


def _section(kind: type[Section], section: Any, field: str, wrong: list[str]) -> Section | None:
    """The dataclass, or None with what is wrong appended to `wrong`."""
    if not isinstance(section, Mapping | ConfigDict):
        wrong.append(f"{field}: must be a section with the fields of {kind.__name__}, not {shown(section)}")
        return None
    kinds = typing.get_type_hints(kind)
    known = {item.name: kinds[item.name] for item in dataclasses.fields(typing.cast(Any, kind))}
    values, before = {}, len(wrong)
    for name, value in section.items():
        at = f"{field}.{name}"
        if name not in known:
            wrong.append(f"there is no field {at}{suggest(at, [f'{field}.{other}' for other in known])}")
        else:
            values[name] = _value(known[name], value, at, wrong)
    if len(wrong) > before:
        return None
    try:
        return kind(**values)
    except UserError as error:  # the section's own checks
        wrong.append(str(error).replace(getattr(kind, "AT", field), field))
        return None


def _value(kind: Any, value: Any, field: str, wrong: list[str]) -> Any:
    if dataclasses.is_dataclass(kind):
        return _section(typing.cast(type, kind), value, field, wrong)
    if typing.get_origin(kind) is Mapping:
        if not isinstance(value, Mapping | ConfigDict):
            wrong.append(f"{field}: must be a section, not {shown(value)}")
            return None
        inner = typing.get_args(kind)[1]
        return {name: _value(inner, each, f"{field}.{name}", wrong) for name, each in value.items()}
    try:
        return _typed(value, kind, field)
    except ConfigError as error:
        wrong.append(str(error))
        return None


def _typed(value: Any, kind: Any, field: str) -> Any:
    """`value` if it is of the annotated type; a whole number may stand for a float."""
    if isinstance(value, list):
        value = tuple(value)
    for option in typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,):
        base = typing.get_origin(option) or option
        if base is float and type(value) is int:
            return float(value)
        if type(value) is base or (base not in (int, float) and isinstance(value, base)):
            return value
    raise ConfigError(f"{field}: must be {_kind_name(kind)}, not {shown(value)} ({type(value).__name__})")


def _kind_name(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind)
