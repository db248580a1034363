"""`scalable config`: every option in force, and where it comes from."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from scalable.cli._commands import CommandError, deliver, deliver_json, json_option, sentence
from scalable.cli._manifest import session_errors, target_option

if TYPE_CHECKING:
    from scalable.common.options import Resolved

_EPILOG = """\b
Examples:
  scalable config
  scalable config --stores
  scalable config --manifest scalable.yaml
  scalable config --json | jq '.options[] | select(.origin != "default")'
\b
An argument of instrument() goes before what is listed here. No manifest is
read without --manifest: instrument() reads none, `scalable run` reads one.
"""


@click.command(epilog=_EPILOG)
@click.option(
    "--manifest",
    type=click.Path(path_type=Path),
    envvar="SCALABLE_MANIFEST",
    show_envvar=True,
    metavar="FILE",
    help="A manifest whose options count too. Default: none.",
)
@target_option
@click.option("--stores", is_flag=True, help="List the types of run stores and their settings.")
@json_option
def config(manifest: Path | None, target: str | None, stores: bool, as_json: bool) -> None:
    """Show every option in force, and where it comes from; secrets are hidden."""
    if stores:
        found = _stores()
        if as_json:
            deliver_json(found)
        else:
            deliver("\n".join(map(_store_text, found)))
        return
    rows = _rows(_resolved(manifest, target))
    if as_json:
        deliver_json({"options": rows})
        return
    width = max(len(row["option"]) for row in rows)
    lines = [f"{row['option']:{width}}  {_shown(row['value'])}  ({row['origin']})" for row in rows]
    deliver("\n".join(lines) + "\n")


def _resolved(manifest: Path | None, target: str | None) -> Resolved:
    from scalable.common.options import OptionError, resolve_all
    from scalable.configured import configured_options

    options: dict[str, Any] = {}
    if manifest is not None:
        with session_errors():
            from scalable.manifest.load import load_manifest

            options = load_manifest(manifest, target=target).options
    try:
        return resolve_all({}, None, options, configured_options())
    except OptionError as error:
        raise CommandError(sentence(error)) from None


def _rows(resolved: Resolved) -> list[dict[str, Any]]:
    from scalable.common.options import OPTIONS

    settings, origins = resolved
    return [
        {
            "option": option.name,
            "value": _plain(option.name, getattr(settings, option.name)),
            "origin": origins[option.name].name,
        }
        for option in OPTIONS
        if option.variable
    ]


def _plain(name: str, value: Any) -> Any:
    from scalable_runs.stores.places import StoreSpec

    match value:
        case StoreSpec():
            return value.shown()
        case None if name == "run_store":
            return {"type": "file-system"}
        case Path():
            return str(value)
        case frozenset():
            return sorted(value)
        case int() if name == "log_level":
            return logging.getLevelName(value) if value <= logging.CRITICAL else "OFF"
        case str() if name in ("crash_upload", "catalog"):
            from scalable_runs.redact import Redactor
            from scalable_runs.stores.settings import without_password

            return Redactor()(without_password(value) if name == "catalog" else value)
        case _:
            return value


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        settings: dict[str, Any] = value.get("config") or {}
        rest = ", ".join(f"{name}={text}" for name, text in settings.items())
        return f"{value['type']} ({rest})" if rest else str(value["type"])
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list):
        return ", ".join(value) or "none"
    return "none" if value is None else str(value)


def _stores() -> list[dict[str, Any]]:
    from scalable_runs.stores.settings import settings_of
    from scalable_runs.stores.types import ALIASES, all_types

    found: list[dict[str, Any]] = []
    for kind in all_types():
        settings = {one.name: one for each in kind.declarations({}) for one in settings_of(each)}
        found.append(
            {
                "type": kind.name,
                "aliases": [alias for alias, name in ALIASES.items() if name == kind.name],
                "summary": kind.summary,
                "not_for": kind.not_for,
                "settings": [
                    {"name": one.name, "required": one.required, "secret": one.secret}
                    for one in settings.values()
                ],
                "synonyms": kind.synonyms({}),
            }
        )
    return found


def _store_text(store: dict[str, Any]) -> str:
    names = ", ".join([store["type"], *store["aliases"]])
    settings = [
        f"{one['name']}{' (required)' if one['required'] else ''}" for one in store["settings"]
    ]
    lines = [f"{names}: {store['summary']}.", f"  {store['not_for']}"]
    if settings:
        lines.append(f"  config: {', '.join(settings)}")
    return "\n".join(lines) + "\n"
