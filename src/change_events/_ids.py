"""Ids: checked values, and how to read them from a call of a decorated function."""

from __future__ import annotations

import inspect
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any
from uuid import UUID

from change_events.exceptions import ConfigurationError, IdResolutionError

MAX_ID_LENGTH = 512

_COLLECTORS = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}

Arguments = Mapping[str, Any]
Function = Callable[..., Any]
Reader = Callable[[Arguments], Any]


def checked_id(value: object) -> str:
    """
    Return a valid id as text.

    Args:
        value: Text of 1 to 512 characters, an integer or a UUID.

    Raises:
        ValueError: It is anything else; or `.` or `..` (they change which path a URL names,
            RFC 3986, 5.2.4); or it has control characters or lone surrogates (they have no UTF-8).
    """
    if isinstance(value, str):
        text = value
    elif isinstance(value, (int, UUID)) and not isinstance(value, bool):
        text = str(value)
    else:
        raise ValueError(f"an id is text, an integer or a UUID, not {value!r}")
    if not 1 <= len(text) <= MAX_ID_LENGTH:
        raise ValueError(f"an id has 1 to {MAX_ID_LENGTH} characters, not {len(text)}")
    if text in {".", ".."}:
        raise ValueError(f"an id can't be {text!r}: it would change which path is asked")
    if not text.isprintable() and any(
        unicodedata.category(character) in {"Cc", "Cs"} for character in text
    ):
        raise ValueError(f"an id has no control characters and no lone surrogates: {text!r}")
    return text


def id_resolver(
    function: Function,
    *,
    id: str | Callable[..., object] | None,
    ids: str | Callable[..., Iterable[object]] | None,
) -> Callable[[Arguments], tuple[str, ...]]:
    """
    Return a function that reads the ids from the arguments of a call of `function`.

    `broadcasts_before_save` describes `id` and `ids`.

    Raises:
        ConfigurationError: `id` and `ids` together; a path or callable that doesn't fit the
            function's parameters.
    """
    what = f"{function.__qualname__}()"
    if ids is not None:
        if id is not None:
            raise ConfigurationError(f"{what}: give id= or ids=, not both")
        read_all = reader(function, ids, setting="ids")
        wanted = [ids.partition(".")[0]] if isinstance(ids, str) else list(_wanted_parameters(ids))
        return lambda arguments: _many(what, ids, wanted, read_all, arguments)
    source = _default_path(function) if id is None else id
    read_one = reader(function, source, setting="id")
    return lambda arguments: (_checked(what, source, found_by(read_one, arguments, what)),)


def reader(function: Function, source: str | Function, *, setting: str) -> Reader:
    """Return a function that reads one value from the arguments of a call of `function`."""
    if isinstance(source, str):
        return _path_reader(function, source, setting=setting)
    if callable(source):
        return _callable_reader(function, source, setting=setting)
    raise ConfigurationError(
        f"{function.__qualname__}(): {setting}= must be a path or a callable, not {source!r}"
    )


def _default_path(function: Function) -> str:
    signature = inspect.signature(function)
    parameters = [
        name for name, each in signature.parameters.items() if each.kind not in _COLLECTORS
    ]
    if "id" in parameters:
        return "id"
    if parameters[:1] in (["self"], ["cls"]):
        del parameters[0]
    if not parameters:
        raise ConfigurationError(
            f"{function.__qualname__}() has no parameters to read an id from; "
            "give it one, or say where the id is with id=lambda: ..."
        )
    return f"{parameters[0]}.id"


def _path_reader(function: Function, path: str, *, setting: str) -> Reader:
    name = function.__qualname__
    first, *rest = path.split(".")
    if not all([first, *rest]):
        raise ConfigurationError(
            f"{name}(): {setting}={path!r} is not a path; write it like 'product.id'"
        )
    _require_parameter(function, first)

    def read(arguments: Arguments) -> object:
        value = arguments[first]
        for step in rest:
            try:
                value = value[step] if isinstance(value, Mapping) else getattr(value, step)
            except (AttributeError, LookupError) as error:
                raise IdResolutionError(
                    f"{name}(): no {step!r} in the {type(value).__name__} on the way of "
                    f"{setting}={path!r}"
                ) from error
        return value

    return read


def _callable_reader(function: Function, source: Function, *, setting: str) -> Reader:
    name = function.__qualname__
    try:
        parameters = inspect.signature(source).parameters.values()
    except (TypeError, ValueError) as error:
        raise ConfigurationError(
            f"{name}(): {setting}={source!r} has no readable parameters; use a lambda"
        ) from error
    for parameter in parameters:
        if parameter.kind in _COLLECTORS:
            raise ConfigurationError(
                f"{name}(): {setting}= must name the parameters that it wants, not {parameter}"
            )
    wanted = _wanted_parameters(source)
    for parameter_name in wanted:
        _require_parameter(function, parameter_name)

    keyword_only = [name for name, each in wanted.items() if each.kind is each.KEYWORD_ONLY]
    positional = [name for name in wanted if name not in keyword_only]

    def read(arguments: Arguments) -> object:
        keywords = {name: arguments[name] for name in keyword_only}
        return source(*(arguments[name] for name in positional), **keywords)

    return read


def _wanted_parameters(source: Function) -> dict[str, inspect.Parameter]:
    parameters = inspect.signature(source).parameters
    return {name: each for name, each in parameters.items() if each.default is each.empty}


def _require_parameter(function: Function, name: str) -> None:
    parameters = list(inspect.signature(function).parameters)
    if name not in parameters:
        close = get_close_matches(name, parameters, n=1)
        hint = (
            f"did you mean {close[0]!r}?" if close else f"it has {', '.join(parameters) or 'none'}"
        )
        raise ConfigurationError(f"{function.__qualname__}() has no parameter {name!r}; {hint}")


def found_by(read: Callable[[Any], Any], place: Any, what: object) -> Any:
    """
    Return the id or the ids that a function of the user's, or a path, finds in a place.

    Raises:
        IdResolutionError: It finds nothing. `what` begins the error's text.
    """
    try:
        return read(place)
    except IdResolutionError:
        raise
    except (AttributeError, LookupError) as error:
        raise IdResolutionError(f"{what}: no id was found: {error!r}") from error


def _checked(what: str, source: object, value: object) -> str:
    if value is None:
        raise IdResolutionError(
            f"{what}: the id ({_shown(source)}) is None. An id that the database makes at insert "
            "can't be announced before it: make the id in the service (a UUID or ULID), or "
            "announce SQLAlchemy's sessions or Django's models (change_events.integrations)"
        )
    try:
        return checked_id(value)
    except ValueError as error:
        raise IdResolutionError(f"{what}: {_shown(source)}: {error}") from None


def _many(
    what: str, source: object, wanted: list[str], read: Reader, arguments: Arguments
) -> tuple[str, ...]:
    for parameter in wanted:
        if isinstance(arguments[parameter], Iterator):
            raise IdResolutionError(
                f"{what}: {parameter!r} is a {type(arguments[parameter]).__name__}; reading its "
                "ids would leave nothing to save. Pass a list"
            )
    values = found_by(read, arguments, what)
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        raise IdResolutionError(f"{what}: {_shown(source)} gave {values!r}, not an iterable of ids")
    return tuple(_checked(what, source, value) for value in values)


def _shown(source: object) -> str:
    return repr(source) if isinstance(source, str) else "from the callable"
