"""Checks the settings of a run store against the dataclass that declares them."""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple, cast

from scalable_runs.hints import suggestion

_TRUE: Final = frozenset({"true", "yes", "on", "1"})
_FALSE: Final = frozenset({"false", "no", "off", "0"})
_USER: Final = re.compile(r"://[^/?#]*@")
_KINDS: Final = {
    str: "must be text",
    bool: "must be true or false",
    int: "must be a whole number",
    float: "must be a number",
}


class PlaceError(ValueError):
    """A place of runs cannot be what was given.

    Attributes
    ----------
    key
        The setting that is wrong, such as ``config.bucket_name``; empty for the place as a whole.
    reason
        What is wrong and what would be right. No value of a secret setting is in it.
    """

    def __init__(self, reason: str, key: str = "") -> None:
        super().__init__(f"{key}: {reason}" if key else reason)
        self.reason = reason
        self.key = key


class Setting(NamedTuple):
    """A setting of a run store.

    Attributes
    ----------
    name
        Its name.
    kind
        Type of its values: :class:`str`, :class:`bool`, :class:`int`, :class:`float`, or another.
    required
        Whether it must be given.
    default
        Its value otherwise.
    secret
        Whether no text may show its value.
    """

    name: str
    kind: Any
    required: bool
    default: Any
    secret: bool


def settings_of(declaration: type) -> Iterator[Setting]:
    """Yield what a dataclass declares; fields with ``repr=False`` are secret."""
    # Not at the top: the patterns of that package take 16 ms to compile.
    from scalable_runs.redact import is_secret_name

    hints = typing.get_type_hints(declaration)
    for field in dataclasses.fields(declaration):
        default: Any = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        yield Setting(
            field.name,
            _kind(hints[field.name]),
            default is dataclasses.MISSING,
            None if default is dataclasses.MISSING else default,
            not field.repr or is_secret_name(field.name),
        )


def synonyms_of(*declarations: type) -> dict[str, str]:
    """Return other names of what dataclasses declare, with the names."""
    known = {setting.name for one in declarations for setting in settings_of(one)}
    return {
        other: name
        for one in declarations
        for other, name in cast("Any", getattr(one, "SYNONYMS", {})).items()
        if other not in known
    }


def checked(given: Mapping[str, Any], *declarations: type) -> dict[str, Any]:
    """Return given settings by the names that dataclasses declare.

    Parameters
    ----------
    given
        Values by name; None counts as not given.
    declarations
        The dataclasses. `SYNONYMS` of one, if it has any, are other names of its fields.

    Raises
    ------
    PlaceError
        A name is unknown, a value has the wrong type, or one is missing.
    """
    known = {setting.name: setting for one in declarations for setting in settings_of(one)}
    synonyms = synonyms_of(*declarations)
    found: dict[str, Any] = {}
    names: dict[str, str] = {}
    for name, value in given.items():
        key = f"config.{name}"
        canonical = synonyms.get(name, name)
        if canonical not in known:
            hint = suggestion(name, [*known, *synonyms])
            raise PlaceError(f"unknown key; {hint}", key)
        if value is None:
            continue
        if canonical in found:
            raise PlaceError(f"means the same as {names[canonical]}: give one of them", key)
        found[canonical] = _converted(known[canonical], value, key)
        names[canonical] = name
    for setting in known.values():
        if setting.required and found.get(setting.name) in (None, ""):
            raise PlaceError("is missing", f"config.{setting.name}")
    return found


def _kind(hint: Any) -> Any:
    """Return the type of a field, without None."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        parts = [part for part in typing.get_args(hint) if part is not type(None)]
        return parts[0] if len(parts) == 1 else object
    return hint


def _converted(setting: Setting, value: Any, key: str) -> Any:
    """Return a value in a setting's type: variables and URLs have only text."""
    try:
        return _as(setting.kind, value)
    except (ValueError, TypeError):
        shown = "" if setting.secret or not _is_short(value) else f", not {value!r}"
        raise PlaceError(f"{_KINDS[setting.kind]}{shown}", key) from None


def _as(kind: Any, value: Any) -> Any:
    if kind is str:
        if isinstance(value, str):
            return str(value)
        # YAML reads an account called 12345 as a number.
        text = getattr(value, "text", None)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError
        return str(text if text is not None else value)
    if kind is bool:
        word = str(value).strip().lower()
        if word in _TRUE:
            return True
        if word in _FALSE:
            return False
        raise ValueError
    if kind in (int, float):
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise TypeError
        number = float(value)
        if kind is int and number != int(number):
            raise ValueError
        return int(number) if kind is int else number
    return value


def without_password(value: Any) -> Any:
    """Return a value, without user and password if it is a URL."""
    return _USER.sub("://***@", value) if isinstance(value, str) else value


def _is_short(value: Any) -> bool:
    return isinstance(value, int | float) or (isinstance(value, str) and len(value) <= 60)


def made(declaration: type, given: Mapping[str, Any]) -> Any:
    """Return an instance of a dataclass of checked settings."""
    names = {field.name for field in dataclasses.fields(declaration)}
    return cast("Any", declaration)(**{key: given[key] for key in given if key in names})
