"""The shape of a manifest: pydantic models, which also make its JSON schema."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
)

from scalable.common.catalog_places import absolute
from scalable.common.units import memory_bytes
from scalable.manifest.source import SourceFloat, SourceInt

_CLOCK: Final = re.compile(r"(?:(\d+)-)?(\d+):([0-5]?\d):([0-5]?\d)")
_SPAN: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(s|sec|m|min|h|d)")
_SECONDS: Final = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


def clock(seconds: int) -> str:
    """``7200`` → ``02:00:00``."""
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def _text(value: Any) -> Any:
    """Keep a number as it was written: the name of an account may be 12345."""
    return value.text if isinstance(value, SourceInt | SourceFloat) else value


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"must be a number, not {'true' if value else 'false'}")
    return value


def checked_memory(value: Any) -> Any:
    """Check a size; it stays as it was written."""
    value = _text(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if isinstance(value, str):
        memory_bytes(value)
        return value.strip()
    return value


def _walltime(value: Any) -> Any:
    """Return seconds. YAML 1.1 reads 12:00:00 as 43200, so the text that was written is parsed."""
    value = _text(value)
    if isinstance(value, str):
        match = _CLOCK.fullmatch(value.strip())
        if match is not None:
            days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
            value = days * 86400 + hours * 3600 + minutes * 60 + seconds
        elif (span := _SPAN.fullmatch(value.strip())) is not None:
            value = int(float(span[1]) * _SECONDS[span[2]])
        elif value.strip().isdigit():
            value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("must be a time such as 02:00:00, 1-12:00:00, 90m or a number of seconds")
    if value <= 0:
        raise ValueError("must be longer than 0")
    return value


def _one_or_more(value: Any) -> Any:
    value = _text(value)
    return [value] if isinstance(value, str) else value


def _mounts(value: Any) -> Any:
    if isinstance(value, dict):
        return [f"{source}:{target}" for source, target in value.items()]  # pyright: ignore
    return value


def _mount(value: Any) -> Any:
    value = _text(value)
    if isinstance(value, str):
        parts = value.split(":")
        if not 1 <= len(parts) <= 3 or not all(parts):
            raise ValueError("must be SOURCE:TARGET, or SOURCE:TARGET:ro")
    return value


Text = Annotated[str, BeforeValidator(_text), StringConstraints(min_length=1, max_length=10_000)]
Name = Annotated[
    str,
    BeforeValidator(_text),
    StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_. -]*$", max_length=60),
]
Memory = Annotated[str, BeforeValidator(checked_memory, json_schema_input_type=str | int)]
Walltime = Annotated[int, BeforeValidator(_walltime, json_schema_input_type=str | int)]
Count = Annotated[int, BeforeValidator(_no_bool), Field(ge=1, le=1_000_000)]
CountOrNone = Annotated[int, BeforeValidator(_no_bool), Field(ge=0, le=1_000_000)]
Cores = Annotated[float, BeforeValidator(_no_bool), Field(gt=0, le=100_000, allow_inf_nan=False)]
Price = Annotated[float, BeforeValidator(_no_bool), Field(ge=0, allow_inf_nan=False)]
Seconds = Annotated[float, BeforeValidator(_no_bool), Field(gt=0, allow_inf_nan=False)]
Texts = Annotated[list[Text], BeforeValidator(_one_or_more, json_schema_input_type=str | list[str])]
Mounts = Annotated[
    list[Annotated[Text, BeforeValidator(_mount)]],
    BeforeValidator(_mounts, json_schema_input_type=list[str] | dict[str, str]),
]


class Section(BaseModel):
    """A part of the manifest: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Project(Section):
    """Name of the project, and places of its data."""

    name: Annotated[Text, StringConstraints(max_length=60)] = Field(
        description="Name of the project; part of each run's id."
    )
    default_storage: Text | None = Field(
        None, description="Directory or URL that relative locations of artifacts are below."
    )
    local_cache: Text | None = Field(
        None, description="Directory of results kept by @cacheable. Default: .scalable/cache."
    )


class Component(Section):
    """What a kind of task needs, and so what the workers that serve it have."""

    cpus: Cores | None = Field(None, description="Cores of one worker.")
    memory: Memory | None = Field(None, description="Memory of one worker, such as 4G.")
    walltime: Walltime | None = Field(None, description="Time limit of its workers.")
    image: Text | None = Field(None, description="Container image, where the provider runs one.")
    mounts: Mounts = Field(
        default_factory=list[str],
        description="SOURCE:TARGET pairs of directories to mount.",
    )
    env: dict[Text, Text] = Field(
        default_factory=dict[str, str], description="Environment variables of its workers."
    )
    tags: Texts = Field(
        default_factory=list[str], description="Further names that tasks may use for it."
    )


class Task(Section):
    """Settings for every submission of the function of this name."""

    component: Text | None = Field(None, description="Component whose workers run it.")
    cache: bool = Field(False, description="Keep its results across runs, as @cacheable does.")
    outputs: Texts = Field(
        default_factory=list[str],
        description="Files, directories or patterns that it writes; put into the data catalog once "
        "it has succeeded.",
    )


class Prices(Section):
    """Prices of this target, used instead of the built-in table."""

    currency: Annotated[Text, StringConstraints(pattern=r"^[A-Z]{3}$")] = "USD"
    core_hour: Price = Field(0.0, description="Price of one core for one hour.")
    gb_hour: Price = Field(0.0, description="Price of 10⁹ bytes of memory for one hour.")
    worker_hour: Price = Field(0.0, description="Price of one worker for one hour, on top.")


class Adaptive(Section):
    """Bounds of the number of workers, which follows the work."""

    minimum: CountOrNone = 0
    maximum: Count | None = None


def _adaptive(value: Any) -> Any:
    if isinstance(value, str) and value.lower() in ("true", "false"):
        value = value.lower() == "true"
    if isinstance(value, bool):
        return {} if value else None
    if value is not None and not isinstance(value, dict | Adaptive):
        raise ValueError("must be true, false, or a mapping with minimum and maximum")
    return value  # pyright: ignore[reportUnknownVariableType]


class Target(Section):
    """Options of every target; each provider adds its own."""

    #: Options that may hold a secret or a path of this machine; left out of plan.json.
    private: ClassVar[frozenset[str]] = frozenset()

    provider: Text
    overlay: Texts = Field(
        default_factory=list[str], description="Overlays applied if this target is chosen."
    )
    max_workers: Count | None = Field(None, description="Largest number of workers.")
    adaptive: Annotated[
        Adaptive | None,
        BeforeValidator(_adaptive, json_schema_input_type=bool | Adaptive | None),
    ] = Field(None, description="Let the number of workers follow the work, up to max_workers.")
    workers: dict[Text, Count] = Field(
        default_factory=dict[str, int],
        description="Workers of each component. Default: every worker serves all components.",
    )
    start_timeout: Seconds | None = Field(
        None, description="Seconds to wait for the first workers."
    )
    prices: Prices | None = None
    region: Text | None = Field(None, description="Region of a cloud; chooses prices.")


class RemoteTarget(Target):
    """A target whose workers run on other machines."""

    private: ClassVar[frozenset[str]] = frozenset({"env"})

    env: dict[Text, Text] = Field(
        default_factory=dict[str, str],
        description="Environment variables of scheduler and workers.",
    )


def _run_store(value: Any) -> Any:
    value = _text(value)
    return {"type": value} if isinstance(value, str) else value


def _keep_results(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    text = str(value).strip()
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    memory_bytes(text)
    return text


def _catalog(value: str) -> str:
    absolute(value)
    return value


class RunStore(Section):
    """Where and how runs are kept."""

    type: Text = Field(
        description="file-system, buffered, chunked-fs, object (minio), chunked-object "
        "(chunked-minio), or one that another package brings; or a URL."
    )
    config: dict[Text, Any] | None = Field(
        None, description="Its settings; `scalable config --stores` lists them.", repr=False
    )


class Root(Section):
    """Everything but the targets, whose options depend on their provider."""

    version: Literal[1]
    project: Project
    components: dict[Name, Component] = Field(default_factory=dict[str, Component])
    tasks: dict[Text, Task] = Field(default_factory=dict[str, Task])
    run_store: Annotated[
        RunStore | None,
        BeforeValidator(_run_store, json_schema_input_type=str | RunStore | None),
    ] = Field(None, description="Where and how runs are kept: a URL, a type, or a mapping.")
    catalog: Annotated[Text, AfterValidator(_catalog)] | None = Field(
        None,
        description="Where the data catalog is: a directory or a URL. Default: .scalable/catalog.",
        repr=False,
    )
    keep_results: Annotated[
        bool | str | None,
        BeforeValidator(_keep_results, json_schema_input_type=bool | str | None),
    ] = Field(
        None,
        description="Keep the results of tasks across runs: true, false, or the largest size, "
        "such as 500MB.",
    )
