"""Checks a manifest: as it is, as each target changes it, and with each overlay."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final, cast

from pydantic import BaseModel, ValidationError

from scalable.common.hints import suggestion
from scalable.common.options import OPTIONS, SECTIONS
from scalable.manifest import lock
from scalable.manifest.errors import Problem
from scalable.manifest.model import Root, Target
from scalable.manifest.overlays import merge
from scalable.manifest.providers import Provider, ProviderError, find_provider, provider_names
from scalable.manifest.run_store import checked_store, hide_secrets
from scalable.manifest.source import Path, Source, TooManyProblemsError, kind_of
from scalable.manifest.wording import findings

#: Targets, and overlays, that a manifest may have.
MAX_NAMED: Final = 200
#: Means: inside a Slurm job the slurm target, else the local one.
AUTO: Final = "auto"

_SECTIONS: Final = (
    *("version", "project", "targets", "components", "tasks", "overlays", "telemetry"),
    *SECTIONS,
)
#: What an overlay cannot change.
_FIXED: Final = ("version", "overlays")


def find_problems(source: Source) -> list[Problem]:
    """Check a manifest with every combination of overlays that it can be used with."""
    if source.data:
        by_target = [overlays_of(source, name) for name in as_mapping(source.data.get("targets"))]
        used = {name for names in by_target for name in names}
        unused = [
            (name,)
            for name, delta in as_mapping(source.data.get("overlays")).items()
            if name not in used and isinstance(delta, dict)
        ]
        for overlays in dict.fromkeys([(), *by_target, *unused]):
            if source.is_full:
                break
            MergedManifest(source, overlays).check()
    return source.problems


def overlays_of(source: Source, target: str) -> tuple[str, ...]:
    """Return the names of the overlays that a target asks for, of those there are."""
    options = as_mapping(as_mapping(source.data.get("targets")).get(target))
    known = as_mapping(source.data.get("overlays"))
    return tuple(name for name in _overlay_names(options) if isinstance(known.get(name), dict))


def _overlay_names(target: Mapping[str, Any]) -> list[str]:
    value: Any = target.get("overlay")
    listed: list[Any] = cast("list[Any]", value) if isinstance(value, list) else [value]
    return [name for name in listed if isinstance(name, str)]


def as_mapping(value: Any) -> dict[str, Any]:
    """Return a mapping as it is, and an empty one for other values."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


class MergedManifest:
    """A manifest with overlays applied; used by the thread that reads it.

    What is wrong is added to the source's problems. `only` is the target that will be used:
    packages that other targets need may be missing.
    """

    def __init__(self, source: Source, overlays: Iterable[str], *, only: str | None = None) -> None:
        self._source = source
        self._only = only
        self._overlays = tuple(overlays)
        self._data = {key: value for key, value in source.data.items() if key != "overlays"}
        for name in self._overlays:
            delta = source.data["overlays"][name]
            changes = {key: value for key, value in delta.items() if key not in _FIXED}
            self._data = merge(self._data, changes)
        #: Project, components and tasks, if they are valid.
        self.root: Root | None = None
        #: Options and provider of each valid target.
        self.targets: dict[str, tuple[Target, type[Provider]]] = {}
        #: Options of ``instrument()``.
        self.telemetry: dict[str, Any] = {}
        #: The option `run_store`: a text or a mapping.
        self.run_store: Any = None

    def check(self) -> None:
        """Add everything that is wrong to the problems, until there are too many."""
        with suppress(TooManyProblemsError):
            for key in self._data:
                if key not in _SECTIONS:
                    self._problem((key,), f"unknown key; {suggestion(key, _SECTIONS)}")
            self._check_overlays()
            sections = ("version", "project", "components", "tasks", *SECTIONS)
            data = {key: self._data[key] for key in sections if key in self._data}
            self.root = cast("Root | None", self._validated(Root, data, ()))
            self._check_targets()
            self._check_telemetry()
            self._check_run_store()
            self._check_references()
            self._check_tags()

    def canonical(self) -> dict[str, Any]:
        """Return the content that is locked, variables by name; only of a valid manifest."""
        assert self.root is not None
        content: dict[str, Any] = self.root.model_dump(mode="json", exclude_unset=True)
        content["targets"] = {
            name: target.model_dump(mode="json", exclude_unset=True)
            for name, (target, _) in self.targets.items()
        }
        for name, value in as_mapping(self._data.get("targets")).items():
            content["targets"].setdefault(name, lock.plain(value))
        if self.telemetry:
            content["telemetry"] = lock.plain(self._data["telemetry"])
        return lock.restore_variables(content, self._data)

    # -- sections ---------------------------------------------------------------------------------

    def _check_overlays(self) -> None:
        # The overlays themselves are never merged: they are checked as they are in the source.
        for name, delta in self._named("overlays", self._source.data.get("overlays")):
            for key in delta.keys() & set(_FIXED):
                self._source.problem(("overlays", name, key), "an overlay cannot change this")
            self._check_additions(delta, ("overlays", name))

    def _check_additions(self, delta: Mapping[str, Any], place: Path) -> None:
        for key, value in delta.items():
            below = (*place, key)
            if key.endswith("+") and not isinstance(value, list):
                self._source.problem(
                    below, f"`{key}` adds to a list: must be a list, not {kind_of(value)}"
                )
            self._check_additions(as_mapping(value), below)

    def _check_targets(self) -> None:
        targets = self._data.get("targets")
        if targets is None or targets == {}:
            state = "missing" if targets is None else "empty"
            self._problem(("targets",), f"is {state}: a manifest needs at least one target")
        for name, options in self._named("targets", targets):
            place: Path = ("targets", name)
            if name == AUTO:
                self._problem(place, "`auto` chooses among targets and cannot be the name of one")
            else:
                self._check_target(name, options, place)

    def _check_target(self, name: str, options: dict[str, Any], place: Path) -> None:
        wanted = options.get("provider")
        at = (*place, "provider")
        if not isinstance(wanted, str):
            state = "is missing" if wanted is None else f"must be text, not {kind_of(wanted)}"
            self._problem(at, f"{state}; providers: {', '.join(provider_names())}")
            return
        if self._only not in (None, name) and wanted not in provider_names():
            return
        try:
            provider = find_provider(wanted)
        except ProviderError as error:
            self._problem(at, str(error), at_value=True)
            return
        if provider is None:
            self._unknown(at, "provider", wanted, provider_names())
            return
        model = self._validated(provider.options_type, options, place)
        if model is not None:
            self.targets[name] = (cast("Target", model), provider)

    def _check_telemetry(self) -> None:
        known = {
            option.name: option
            for option in OPTIONS
            if option.variable and option.name not in SECTIONS
        }
        for name, value in self._mapping(("telemetry",), self._data.get("telemetry")).items():
            place: Path = ("telemetry", name)
            option = known.get(name)
            if option is None:
                moved = "it is a section of its own, beside `telemetry`"
                hint = moved if name in SECTIONS else suggestion(name, known)
                self._problem(place, f"unknown key; {hint}")
            elif value is not None:
                plain = lock.plain(value)
                try:
                    option.parse(plain)
                    self.telemetry[name] = plain
                except (ValueError, TypeError):
                    message = f"cannot be {kind_of(value)}; allowed: {option.allowed}"
                    self._problem(place, message, at_value=True)

    def _check_run_store(self) -> None:
        given = self._data.get("run_store")
        place: Path = ("run_store",)
        if given is None or any(one.key.startswith(place[0]) for one in self._source.problems):
            return
        value = lock.plain(given)
        hide_secrets(self._source, place, value)
        for name in self._overlays:
            hide_secrets(self._source, ("overlays", name, *place), value)

        def report(below: Path, message: str, at_value: bool) -> None:
            at = (*place, *below)
            if not (at_value and self._is_unread(at)):
                self._problem(at, message, at_value=at_value)

        if checked_store(value, report) is not None:
            self.run_store = value

    def _check_references(self) -> None:
        components = as_mapping(self._data.get("components"))
        overlays = as_mapping(self._source.data.get("overlays"))
        for name, task in as_mapping(self._data.get("tasks")).items():
            wanted = as_mapping(task).get("component")
            if isinstance(wanted, str) and wanted not in components:
                self._unknown(("tasks", name, "component"), "component", wanted, components)
        for name, target in as_mapping(self._data.get("targets")).items():
            options = as_mapping(target)
            for wanted in as_mapping(options.get("workers")):
                if wanted not in components:
                    place = ("targets", name, "workers", wanted)
                    self._unknown(place, "component", wanted, components, at_value=False)
            for wanted in _overlay_names(options):
                if wanted not in overlays:
                    self._unknown(("targets", name, "overlay"), "overlay", wanted, overlays)

    def _check_tags(self) -> None:
        components = self.root.components if self.root is not None else {}
        owners = {name: name for name in components}
        for name, component in components.items():
            for index, tag in enumerate(component.tags):
                owner = owners.setdefault(tag, name)
                if owner != name:
                    place = ("components", name, "tags", index)
                    message = f"the tag {tag!r} belongs to component {owner!r} already"
                    self._problem(place, message, at_value=True)

    # -- one value --------------------------------------------------------------------------------

    def _named(self, section: str, value: Any) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the mappings of a section; stop where there are too many to try each."""
        found = self._mapping((section,), value)
        if len(found) > MAX_NAMED:
            self._problem((section,), f"there are {len(found):,}, more than {MAX_NAMED}")
            raise TooManyProblemsError
        for name, below in found.items():
            if isinstance(below, dict):
                yield name, as_mapping(below)
            else:
                self._not_a_mapping((section, name), below)

    def _mapping(self, place: Path, value: Any) -> dict[str, Any]:
        if value is not None and not isinstance(value, dict):
            self._not_a_mapping(place, value)
        return as_mapping(value)

    def _not_a_mapping(self, place: Path, value: Any) -> None:
        self._problem(place, f"must be a mapping of keys, not {kind_of(value)}")

    def _validated(
        self, model: type[BaseModel], data: Mapping[str, Any], place: Path
    ) -> BaseModel | None:
        try:
            return model.model_validate(data)
        except ValidationError as error:
            for found in findings(model, data, error):
                at = (*place, *found.path)
                if not (found.at_value and self._is_unread(at)):
                    self._problem(at, found.message, at_value=found.at_value)
            return None

    def _is_unread(self, place: Path) -> bool:
        """Whether the value could not be read, which is a problem of its own."""
        places = [place, *(("overlays", name, *place) for name in self._overlays)]
        return not self._source.unread.isdisjoint(places)

    def _unknown(
        self, place: Path, what: str, name: str, known: Iterable[str], *, at_value: bool = True
    ) -> None:
        hint = suggestion(name, known, f"{what}s")
        self._problem(place, f"there is no {what} {name!r}; {hint}", at_value=at_value)

    def _problem(self, place: Path, message: str, *, at_value: bool = False) -> None:
        """Add a problem where the value comes from: an overlay, or the manifest itself."""
        source = self._source
        for name in reversed(self._overlays):
            above: Path = ("overlays", name)
            for there in (place, (*place[:-1], f"{place[-1]}+")):
                if (*above, *there) in source.keys or (*above, *there) in source.values:
                    source.problem((*above, *there), message, at_value=at_value)
                    return
        source.problem(place, message, at_value=at_value)
