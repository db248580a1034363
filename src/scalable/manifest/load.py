"""``scalable.yaml``: found, read, checked in one pass, and one of its targets chosen."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, cast

from pydantic import BaseModel, ValidationError

from scalable.common.options import OPTIONS
from scalable.manifest import lock
from scalable.manifest.errors import ManifestError, Problem, SessionError
from scalable.manifest.model import Root, Target
from scalable.manifest.overlays import merge
from scalable.manifest.providers import Provider, ProviderError, find_provider, provider_names
from scalable.manifest.source import Path as Place
from scalable.manifest.source import (
    Source,
    SourceFloat,
    SourceInt,
    SourceText,
    TooManyProblemsError,
    kind_of,
    read_source,
)

#: Names under which a manifest is looked for, in a directory and those above it.
NAMES: Final = ("scalable.yaml", "scalable.yml")
MANIFEST_VARIABLE: Final = "SCALABLE_MANIFEST"
TARGET_VARIABLE: Final = "SCALABLE_TARGET"
#: Targets, and overlays, that a manifest may have.
MAX_NAMED: Final = 200
#: Stands for: inside a Slurm job the slurm target, else the local one.
AUTO: Final = "auto"

_SECTIONS: Final = ("version", "project", "targets", "components", "tasks", "overlays", "telemetry")
#: What an overlay cannot change.
_FIXED: Final = ("version", "overlays")


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest that holds, and the target that was chosen.

    Attributes
    ----------
    path : pathlib.Path or None
        Where it was read.
    target_name : str
        The chosen target.
    target : Target
        Its options.
    provider : type of Provider
        What starts it.
    root : Root
        Project, components and tasks, the target's overlays applied.
    telemetry : dict
        Options of ``instrument()``.
    lock : str
        ``sha256:<hex>`` of the canonical content.
    copy : str
        Its text without secrets.
    targets : dict
        Provider of every target.
    """

    path: Path | None
    target_name: str
    target: Target
    provider: type[Provider]
    root: Root
    telemetry: dict[str, Any]
    lock: str
    copy: str
    targets: dict[str, str] = field(default_factory=dict[str, str])


def find_manifest(
    path: str | os.PathLike[str] | None = None, environ: Mapping[str, str] | None = None
) -> Path:
    """Return where the manifest is.

    Parameters
    ----------
    path : path, optional
        The manifest, or the directory that holds it. Default: ``SCALABLE_MANIFEST``, else
        ``scalable.yaml`` in the working directory or the nearest directory above it.
    environ : mapping, optional
        Environment; default ``os.environ``.

    Raises
    ------
    SessionError
        There is none.
    """
    environment = os.environ if environ is None else environ
    variable = environment.get(MANIFEST_VARIABLE, "").strip()
    given = Path(path).expanduser() if path is not None else None
    origin = ""
    if given is None and variable:
        given, origin = Path(variable).expanduser(), f" ({MANIFEST_VARIABLE})"
    if given is not None:
        found = _in_directory(given) if given.is_dir() else given if given.exists() else None
        if found is None:
            raise SessionError(
                f"there is no manifest at {given}{origin}; `scalable init` writes one"
            )
        return found
    here = Path.cwd()
    for directory in (here, *here.parents):
        found = _in_directory(directory)
        if found is not None:
            return found
    raise SessionError(
        f"no {NAMES[0]} in {here} or above it; `scalable init` writes one, "
        f"--manifest or {MANIFEST_VARIABLE} names one elsewhere"
    )


def load_manifest(
    path: str | os.PathLike[str] | None = None,
    *,
    target: str | None = None,
    environ: Mapping[str, str] | None = None,
) -> Manifest:
    """Find, read and check a manifest, and choose a target.

    Parameters
    ----------
    path : path, optional
        See :func:`find_manifest`.
    target : str, optional
        Name of a target, or ``auto``. Default: ``SCALABLE_TARGET``, else the only target, else
        ``auto``.
    environ : mapping, optional
        Environment; default ``os.environ``.

    Raises
    ------
    SessionError
        There is no manifest, it cannot be read, or it has no such target.
    ManifestError
        It cannot be used; has every problem.
    """
    found = find_manifest(path, environ)
    return parse_manifest(read_text(found), found, target=target, environ=environ)


def read_text(path: Path) -> str:
    """Return a manifest's text; raises SessionError where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise SessionError(f"{path} cannot be read: {reason}") from None


def parse_manifest(
    text: str,
    path: Path | None = None,
    *,
    target: str | None = None,
    environ: Mapping[str, str] | None = None,
) -> Manifest:
    """Check the text of a manifest and choose a target; see :func:`load_manifest`."""
    environment = os.environ if environ is None else environ
    source = read_source(text, shown(path), environment)
    base = _base(source)
    targets = _providers_of(base)
    if source.problems or not targets:
        raise ManifestError(_problems(source, None))
    origin = "target"
    if target is None and environment.get(TARGET_VARIABLE, "").strip():
        target, origin = environment[TARGET_VARIABLE].strip(), TARGET_VARIABLE
    try:
        chosen = choose_target(targets, target, environment, origin=origin)
    except SessionError:
        problems = _problems(source, None)
        if problems:
            raise ManifestError(problems) from None
        raise
    checked = _Effective(source, chosen, only=chosen)
    checked.check()
    if source.problems:
        raise ManifestError(source.problems)
    assert checked.root is not None
    options, provider = checked.targets[chosen]
    return Manifest(
        path,
        chosen,
        options,
        provider,
        checked.root,
        checked.telemetry,
        lock.digest(checked.canonical()),
        source.copy(),
        targets,
    )


def check_manifest(
    text: str, file: str, environ: Mapping[str, str] | None = None
) -> tuple[Problem, ...]:
    """Find every problem of a manifest, of all its targets and overlays; used or not.

    Parameters
    ----------
    text : str
        The manifest.
    file : str
        Its name, for the problems.
    environ : mapping, optional
        Environment; default ``os.environ``.
    """
    source = read_source(text, file, environ)
    return tuple(sorted(set(_problems(source, None))))


def choose_target(
    targets: Mapping[str, str],
    wanted: str | None,
    environ: Mapping[str, str],
    *,
    origin: str = "target",
) -> str:
    """Return the target that is meant.

    Parameters
    ----------
    targets : mapping
        Provider of each target.
    wanted : str or None
        A name, ``auto``, or None: the only one there is, else ``auto``.
    environ : mapping
        Environment; inside a Slurm job it has ``SLURM_JOB_ID``.
    origin : str
        Who wanted it, for the message.

    Raises
    ------
    SessionError
        There is no such target.
    """
    names = ", ".join(targets)
    if wanted is not None and wanted != AUTO:
        if wanted in targets:
            return wanted
        raise SessionError(f"{origin} {wanted!r}: there is no such target{_near(wanted, targets)}")
    if wanted is None and len(targets) == 1:
        return next(iter(targets))
    provider = "slurm" if environ.get("SLURM_JOB_ID") else "local"
    for name, of in targets.items():
        if of == provider:
            return name
    where = "inside a Slurm job" if provider == "slurm" else "outside of a Slurm job"
    raise SessionError(
        f"target auto: {where} it is the target with `provider: {provider}`, and there is none; "
        f"choose one by target= or {TARGET_VARIABLE}: {names}"
    )


# -- checking -------------------------------------------------------------------------------------


def _problems(source: Source, only: str | None) -> list[Problem]:
    """Check the manifest as it is, as each target makes it, and with each overlay."""
    if source.data:
        base = _base(source)
        _Effective(source, None, only=only).check()
        used: set[str] = set()
        for name in _providers_of(base):
            if source.is_full:
                break
            effective = _Effective(source, name, only=only)
            used.update(effective.overlays)
            if effective.overlays:
                effective.check()
        for name in _mapping(source.data.get("overlays")):
            if name not in used and not source.is_full:
                _Effective(source, None, only=only, overlays=(name,)).check()
    return source.problems


class _Effective:
    """A manifest with the overlays of one target applied; used by the thread that reads it.

    What is wrong is added to the source's problems.
    """

    def __init__(
        self,
        source: Source,
        target: str | None,
        *,
        only: str | None,
        overlays: Sequence[str] | None = None,
    ) -> None:
        self._source = source
        self._only = only
        data: dict[str, Any] = _base(source)
        known = _mapping(source.data.get("overlays"))
        if overlays is None:
            overlays = self._overlays_of(data, target)
        self.overlays = [name for name in overlays if isinstance(known.get(name), dict)]
        for name in self.overlays:
            delta = {key: value for key, value in known[name].items() if key not in _FIXED}
            data = merge(data, delta)
        self._data = data
        self.root: Root | None = None
        self.targets: dict[str, tuple[Target, type[Provider]]] = {}
        self.telemetry: dict[str, Any] = {}

    @staticmethod
    def _overlays_of(data: Mapping[str, Any], target: str | None) -> list[str]:
        if target is None:
            return []
        value = _mapping(_mapping(data.get("targets")).get(target)).get("overlay")
        found: list[Any] = cast("list[Any]", value) if isinstance(value, list) else [value]
        return [name for name in found if isinstance(name, str)]

    def check(self) -> None:
        """Find everything that is wrong, unless that is more than is told."""
        with suppress(TooManyProblemsError):
            self._check()

    def _check(self) -> None:
        data = dict(self._data)
        for key in list(data):
            if key not in _SECTIONS:
                self._problem((key,), f"unknown key{_near(key, _SECTIONS)}")
                del data[key]
        targets, telemetry = data.pop("targets", None), data.pop("telemetry", None)
        data.pop("overlays", None)
        self._check_overlays()
        self.root = cast("Root | None", self._model(Root, data, ()))
        self._check_targets(targets)
        self._check_telemetry(telemetry)
        self._check_references()

    def canonical(self) -> dict[str, Any]:
        """What is locked: the content, variables by name and not by value."""
        assert self.root is not None
        content: dict[str, Any] = self.root.model_dump(mode="json", exclude_unset=True)
        content["targets"] = {
            name: target.model_dump(mode="json", exclude_unset=True)
            for name, (target, _) in self.targets.items()
        }
        for name, value in _mapping(self._data.get("targets")).items():
            content["targets"].setdefault(name, _plain(value))
        if self.telemetry:
            content["telemetry"] = _plain(self._data["telemetry"])
        return _with_variables(self._data, content)

    # -- parts ------------------------------------------------------------------------------------

    def _check_overlays(self) -> None:
        overlays = self._source.data.get("overlays")
        if overlays is None:
            return
        if not isinstance(overlays, dict):
            self._problem(("overlays",), f"must be a mapping of keys, not {kind_of(overlays)}")
            return
        self._check_number("overlays", overlays)
        for name, delta in _mapping(overlays).items():
            place: Place = ("overlays", name)
            if not isinstance(delta, dict):
                self._source.problem(place, f"must be a mapping of keys, not {kind_of(delta)}")
                continue
            for key in _mapping(delta):
                if key in _FIXED:
                    self._source.problem((*place, key), "an overlay cannot change this")
            self._check_additions(_mapping(delta), place)

    def _check_number(self, section: str, found: Any) -> None:
        """Stop where each of too many would have to be tried with all the rest."""
        if len(found) > MAX_NAMED:
            self._source.problem((section,), f"there are {len(found):,}, more than {MAX_NAMED}")
            raise TooManyProblemsError

    def _check_additions(self, delta: Mapping[str, Any], place: Place) -> None:
        for key, value in delta.items():
            below = (*place, key)
            if key.endswith("+") and not isinstance(value, list):
                self._source.problem(
                    below, f"`{key}` adds to a list: must be a list, not {kind_of(value)}"
                )
            if isinstance(value, dict):
                self._check_additions(_mapping(value), below)

    def _check_targets(self, targets: Any) -> None:
        if targets is None:
            self._problem(("targets",), "is missing: a manifest needs at least one target")
            return
        if not isinstance(targets, dict):
            self._problem(("targets",), f"must be a mapping of keys, not {kind_of(targets)}")
            return
        self._check_number("targets", targets)
        if not targets:
            self._problem(("targets",), "is empty: a manifest needs at least one target")
        for name, options in _mapping(targets).items():
            place: Place = ("targets", name)
            if name == AUTO:
                self._problem(place, "`auto` chooses among targets and cannot be the name of one")
            elif not isinstance(options, dict):
                self._problem(place, f"must be a mapping of keys, not {kind_of(options)}")
            else:
                self._check_target(name, _mapping(options), place)

    def _check_target(self, name: str, options: dict[str, Any], place: Place) -> None:
        wanted = options.get("provider")
        if not isinstance(wanted, str):
            said = "is missing" if wanted is None else f"must be text, not {kind_of(wanted)}"
            self._problem((*place, "provider"), f"{said}; providers: {', '.join(provider_names())}")
            return
        if self._only not in (None, name) and wanted not in provider_names():
            return  # its package may be missing here, where another target is used
        try:
            provider = find_provider(wanted)
        except ProviderError as error:
            self._problem((*place, "provider"), str(error), at_value=True)
            return
        if provider is None:
            near = _near(wanted, provider_names(), "providers")
            self._problem(
                (*place, "provider"), f"there is no provider {wanted!r}{near}", at_value=True
            )
            return
        model = cast("Target | None", self._model(provider.options_type, options, place))
        if model is not None:
            self.targets[name] = (model, provider)

    def _check_telemetry(self, telemetry: Any) -> None:
        if telemetry is None:
            return
        if not isinstance(telemetry, dict):
            self._problem(("telemetry",), f"must be a mapping of keys, not {kind_of(telemetry)}")
            return
        known = {option.name: option for option in OPTIONS if option.variable}
        for name, value in _mapping(telemetry).items():
            place: Place = ("telemetry", name)
            option = known.get(name)
            if option is None:
                self._problem(place, f"unknown key{_near(name, known)}")
                continue
            if value is None:
                continue
            plain = _plain_value(value)
            try:
                option.parse(plain)
            except (ValueError, TypeError):
                self._problem(
                    place, f"cannot be {kind_of(value)}; allowed: {option.allowed}", at_value=True
                )
                continue
            self.telemetry[name] = plain

    def _check_references(self) -> None:
        components = _mapping(self._data.get("components"))
        overlays = _mapping(self._source.data.get("overlays"))
        for name, task in _mapping(self._data.get("tasks")).items():
            wanted = _mapping(task).get("component")
            if isinstance(wanted, str) and wanted not in components:
                near = _near(wanted, components, "components")
                place: Place = ("tasks", name, "component")
                self._problem(place, f"there is no component {wanted!r}{near}", at_value=True)
        for name, options in _mapping(self._data.get("targets")).items():
            for component in _mapping(_mapping(options).get("workers")):
                if component not in components:
                    near = _near(component, components, "components")
                    place = ("targets", name, "workers", component)
                    self._problem(place, f"there is no component {component!r}{near}")
            value: Any = _mapping(options).get("overlay")
            listed: list[Any] = cast("list[Any]", value) if isinstance(value, list) else [value]
            for overlay in listed:
                if isinstance(overlay, str) and overlay not in overlays:
                    near = _near(overlay, overlays, "overlays")
                    place = ("targets", name, "overlay")
                    self._problem(place, f"there is no overlay {overlay!r}{near}", at_value=True)
        self._check_tags()

    def _check_tags(self) -> None:
        if self.root is None:
            return
        owners: dict[str, str] = {name: name for name in self.root.components}
        for name, component in self.root.components.items():
            for index, tag in enumerate(component.tags):
                owner = owners.setdefault(tag, name)
                if owner != name:
                    place: Place = ("components", name, "tags", index)
                    said = f"the tag {tag!r} belongs to component {owner!r} already"
                    self._problem(place, said, at_value=True)

    # -- models -----------------------------------------------------------------------------------

    def _model(
        self, model: type[BaseModel], data: Mapping[str, Any], place: Place
    ) -> BaseModel | None:
        try:
            return model.model_validate(data)
        except ValidationError as error:
            for item in error.errors(include_url=False):
                self._model_problem(model, data, place, cast("dict[str, Any]", item))
            return None

    def _model_problem(
        self, model: type[BaseModel], data: Mapping[str, Any], place: Place, error: dict[str, Any]
    ) -> None:
        kind = error["type"]
        path, value = _walk(data, error["loc"], missing=kind == "missing")
        if kind == "extra_forbidden":
            known = _fields_at(model, path[:-1])
            self._problem((*place, *path), f"unknown key{_near(str(path[-1]), known)}")
            return
        if self._unread((*place, *path)):
            return
        message = _said(kind, value, error)
        if path == ("version",) and kind == "literal_error":
            message = f"must be 1, not {kind_of(value)}: no other version is known"
        self._problem(
            (*place, *path), message, at_value=kind != "missing" and error["loc"][-1:] != ("[key]",)
        )

    def _unread(self, place: Place) -> bool:
        """The value could not be read, and that was said."""
        unread = self._source.unread
        places = [place, *(("overlays", name, *place) for name in self.overlays)]
        return not unread.isdisjoint(places)

    def _problem(self, place: Place, message: str, *, at_value: bool = False) -> None:
        """Note a problem where the value came from: an overlay, or the manifest itself."""
        source = self._source
        for name in reversed(self.overlays):
            above: Place = ("overlays", name)
            for there in (place, (*place[:-1], f"{place[-1]}+")) if place else ():
                if (*above, *there) in source.keys or (*above, *there) in source.values:
                    source.problem((*above, *there), message, at_value=at_value)
                    return
        source.problem(place, message, at_value=at_value)


def _said(kind: str, value: Any, error: Mapping[str, Any]) -> str:
    """A problem in words; pydantic's own are about Python."""
    context: Mapping[str, Any] = error.get("ctx") or {}
    is_what = kind_of(value)
    if kind == "missing":
        return "is missing"
    if kind == "value_error":
        return str(context["error"])
    if kind.startswith("int"):
        return f"must be a whole number, not {is_what}"
    if kind.startswith("float"):
        return f"must be a number, not {is_what}"
    if kind.startswith("bool"):
        return f"must be true or false, not {is_what}"
    if kind == "string_type":
        hint = ": write it in quotes" if isinstance(value, bool) else ""
        return f"must be text, not {is_what}{hint}"
    if kind in ("string_too_short", "too_short"):
        return "must not be empty"
    if kind in ("string_too_long", "too_long"):
        return f"must have at most {context['max_length']} characters"
    if kind == "string_pattern_mismatch":
        pattern = str(context["pattern"])
        return f"{is_what} is not allowed: {_PATTERNS.get(pattern, pattern)}"
    if kind in _BOUNDS:
        words, name = _BOUNDS[kind]
        return f"must be {words} {context[name]:g}, not {is_what}"
    if kind == "literal_error":
        return f"must be {context['expected']!s}, not {is_what}"
    if kind == "list_type":
        return f"must be a list, not {is_what}"
    if kind in ("dict_type", "model_type", "model_attributes_type"):
        return f"must be a mapping of keys, not {is_what}"
    if kind == "finite_number":
        return f"must be a finite number, not {is_what}"
    return str(error.get("msg", kind))


_BOUNDS: Final = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}
_PATTERNS: Final = {
    r"^[A-Za-z0-9_][A-Za-z0-9_. -]*$": "letters, digits, `_`, `.`, `-` and spaces",
    r"^[A-Z]{3}$": "three capital letters, such as USD",
}


def _walk(data: Any, location: Sequence[Any], *, missing: bool) -> tuple[Place, Any]:
    """Follow pydantic's location through the data, without the labels that are no key."""
    path: list[str | int] = []
    value = data
    for part in location:
        if isinstance(value, dict):
            found = cast("dict[Any, Any]", value)
            if part in found:
                path.append(part)
                value = found[part]
            elif missing:
                path.append(part)
        elif isinstance(value, list) and isinstance(part, int):
            listed = cast("list[Any]", value)
            path.append(part)
            value = listed[part] if part < len(listed) else None
    if location and location[-1] == "[key]":
        value = path[-1]
    return tuple(path), value


def _fields_at(model: type[BaseModel], path: Place) -> list[str]:
    """Keys that a model allows at `path` below it."""
    here: Any = model
    for part in path:
        if isinstance(here, type) and issubclass(here, BaseModel):
            field_ = here.model_fields.get(str(part))
            here = field_.annotation if field_ is not None else None
            inner = _models_in(here)
            # A mapping's values are models of their own: one more part of the path names them.
            if inner is not None and not (isinstance(here, type) and issubclass(here, BaseModel)):
                is_mapping = getattr(here, "__origin__", None) is dict
                here = _Values(inner) if is_mapping else inner
        elif isinstance(here, _Values):
            here = here.model
    if isinstance(here, type) and issubclass(here, BaseModel):
        return list(here.model_fields)
    return []


@dataclass(frozen=True, slots=True)
class _Values:
    model: type[BaseModel]


def _models_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _models_in(argument)
        if found is not None:
            return found
    return None


# -- helpers --------------------------------------------------------------------------------------


def _base(source: Source) -> dict[str, Any]:
    return {key: value for key, value in source.data.items() if key != "overlays"}


def _providers_of(data: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: str(_mapping(options).get("provider"))
        for name, options in _mapping(data.get("targets")).items()
    }


def _mapping(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _in_directory(directory: Path) -> Path | None:
    for name in NAMES:
        if (directory / name).is_file():
            return directory / name
    return None


def shown(path: Path | None) -> str:
    """A manifest's name in messages: relative to the working directory where it is below it."""
    if path is None:
        return NAMES[0]
    try:
        return str(path.resolve().relative_to(Path.cwd().resolve()))
    except ValueError:
        return str(path)


def _near(word: str, known: Iterable[str], what: str = "allowed") -> str:
    """``; did you mean 'x'?``, or the words there are."""
    names = list(known)
    near = get_close_matches(word, names, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; {what}: {', '.join(names)}" if names else f"; there are no {what}"


def _plain_value(value: Any) -> Any:
    """Without the memory of how it was written, except where that is the better reading."""
    if isinstance(value, SourceInt):
        return int(value)
    if isinstance(value, SourceFloat):
        return float(value)
    return str(value) if isinstance(value, SourceText) else value


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(below) for key, below in _mapping(value).items()}
    if isinstance(value, list):
        return [_plain(item) for item in cast("list[Any]", value)]
    return _plain_value(value)


def _with_variables(data: Any, dumped: Any) -> Any:
    """Put back the text of values that variables had a part in: they differ between machines."""
    raw = getattr(data, "raw", None)
    if raw is not None:
        return raw
    if isinstance(data, dict) and isinstance(dumped, dict):
        there = _mapping(data)
        return {
            key: _with_variables(there[key], value) if key in there else value
            for key, value in _mapping(dumped).items()
        }
    if isinstance(data, list) and isinstance(dumped, list):
        values, dumps = cast("list[Any]", data), cast("list[Any]", dumped)
        if len(values) == len(dumps):
            return [_with_variables(*pair) for pair in zip(values, dumps, strict=True)]
    if _has_variables(data):
        return _unreplaced(data)
    return dumped


def _has_variables(data: Any) -> bool:
    if isinstance(data, dict):
        return any(map(_has_variables, _mapping(data).values()))
    if isinstance(data, list):
        return any(map(_has_variables, cast("list[Any]", data)))
    return getattr(data, "raw", None) is not None


def _unreplaced(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _unreplaced(value) for key, value in _mapping(data).items()}
    if isinstance(data, list):
        return [_unreplaced(item) for item in cast("list[Any]", data)]
    raw = getattr(data, "raw", None)
    return raw if raw is not None else _plain_value(data)
