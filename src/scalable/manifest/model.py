"""The manifest's shape: pydantic models that both validate it and make its JSON schema."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from scalable.common.sizes import memory_bytes
from scalable.manifest.source import SourceFloat, SourceInt

_CLOCK: Final = re.compile(r"(?:(\d+)-)?(\d+):([0-5]?\d):([0-5]?\d)")
_SPAN: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(s|sec|m|min|h|d)")
_SECONDS: Final = {"s": 1, "sec": 1, "m": 60, "min": 60, "h": 3600, "d": 86400}


def clock(seconds: int) -> str:
    """``7200`` → ``02:00:00``."""
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


def _text(value: Any) -> Any:
    """Take a number as it was written: an account may be called 12345."""
    return value.text if isinstance(value, SourceInt | SourceFloat) else value


def _no_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"must be a number, not {'true' if value else 'false'}")
    return value


def checked_memory(value: Any) -> Any:
    """A size as it was written, once it is known to be one."""
    value = _text(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if isinstance(value, str):
        memory_bytes(value)
        return value.strip()
    return value


def _walltime(value: Any) -> Any:
    """Seconds. YAML 1.1 reads 12:00:00 as a number to the base of 60: what was written decides."""
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
    """What the work is called and where its data lives."""

    name: Annotated[Text, StringConstraints(max_length=60)] = Field(
        description="Name of the project; part of each run's id."
    )
    default_storage: Text | None = Field(
        None, description="Directory or URL that relative places of artifacts start from."
    )
    local_cache: Text | None = Field(
        None, description="Directory of results kept by @cacheable. Default: .scalable/cache."
    )


class Component(Section):
    """What a kind of task needs: the workers that serve it have as much."""

    cpus: Cores | None = Field(None, description="Cores of one worker.")
    memory: Memory | None = Field(None, description="Memory of one worker, such as 4G.")
    walltime: Walltime | None = Field(None, description="How long its tasks may need.")
    image: Text | None = Field(None, description="Container image, where the provider runs one.")
    mounts: Mounts = Field(
        default_factory=list[str], description="SOURCE:TARGET pairs, where the provider mounts."
    )
    env: dict[Text, Text] = Field(
        default_factory=dict[str, str], description="Environment variables of its workers."
    )
    tags: Texts = Field(
        default_factory=list[str], description="Further names under which tasks may ask for it."
    )


class Task(Section):
    """What holds for the function of this name wherever it is submitted."""

    component: Text | None = Field(None, description="Component that it runs on.")
    cache: bool = Field(False, description="Keep its results across runs, as @cacheable does.")
    outputs: Texts = Field(
        default_factory=list[str],
        description="Files that it writes: recorded as artifacts when it has succeeded.",
    )


class Prices(Section):
    """Prices of this target instead of those of the built-in table."""

    currency: Annotated[Text, StringConstraints(pattern=r"^[A-Z]{3}$")] = "USD"
    core_hour: Price = Field(0.0, description="Price of one core for one hour.")
    gb_hour: Price = Field(0.0, description="Price of 10⁹ bytes of memory for one hour.")
    worker_hour: Price = Field(0.0, description="Price of one worker for one hour, on top.")


class Adaptive(Section):
    """Bounds between which workers come and go with the work."""

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
    """What every target may have; each provider adds options of its own."""

    #: Options that stand for a secret or a place of this machine are not in plan.json.
    private: ClassVar[frozenset[str]] = frozenset()

    provider: Text
    overlay: Texts = Field(
        default_factory=list[str], description="Overlays applied where this target is chosen."
    )
    max_workers: Count | None = Field(None, description="Most workers there may be.")
    adaptive: Annotated[
        Adaptive | None,
        BeforeValidator(_adaptive, json_schema_input_type=bool | Adaptive | None),
    ] = Field(None, description="Let workers come and go with the work, up to max_workers.")
    workers: dict[Text, Count] = Field(
        default_factory=dict[str, int],
        description="Workers of each component. Without it every worker serves all components.",
    )
    start_timeout: Seconds | None = Field(
        None, description="Seconds to wait for the first workers."
    )
    prices: Prices | None = None
    region: Text | None = Field(None, description="Region of a cloud; chooses prices.")


class Root(Section):
    """Everything but the targets, whose options depend on their provider."""

    version: Literal[1]
    project: Project
    components: dict[Name, Component] = Field(default_factory=dict[str, Component])
    tasks: dict[Text, Task] = Field(default_factory=dict[str, Task])
