"""Ids of the traces that a run begins: by the configured id generator, else random ones."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any, Final

from opentelemetry.sdk.trace.id_generator import IdGenerator, RandomIdGenerator

VARIABLE: Final = "OTEL_PYTHON_ID_GENERATOR"
_GROUP: Final = "opentelemetry_id_generator"
_BITS_OF_TRACE: Final = 128
_BITS_OF_SPAN: Final = 64
#: Flag of W3C Trace Context: the trace id was chosen at random. The oldest supported API has no
#: name for it.
_RANDOM_TRACE_ID: Final = 0x02


def random_flag(ids: IdGenerator) -> int:
    """The flag of a trace that begins with an id of this generator."""
    # The oldest supported SDK does not ask its generators.
    asked = getattr(ids, "is_trace_id_random", None)
    return _RANDOM_TRACE_ID if asked is not None and asked() else 0


class SecureIdGenerator(IdGenerator):
    """Random ids that differ between runs, even if programs seed :mod:`random` alike."""

    def generate_trace_id(self) -> int:
        """A random trace id."""
        return secrets.randbits(_BITS_OF_TRACE) or 1

    def generate_span_id(self) -> int:
        """A random span id."""
        return secrets.randbits(_BITS_OF_SPAN) or 1

    def is_trace_id_random(self) -> bool:
        """Whether the trace ids are random, which a flag of the trace says."""
        return True


class ConfiguredIdGenerator(IdGenerator):
    """Ids of a generator that the user chose; random ones, after a warning, where it fails.

    Called by the threads that submit graphs, in which an error would reach the user's code.
    """

    def __init__(self, chosen: IdGenerator, warn: Callable[[str], None]) -> None:
        self._chosen = chosen
        self._warn = warn
        self._random = SecureIdGenerator()

    def generate_trace_id(self) -> int:
        """A trace id."""
        made = self._made(self._chosen.generate_trace_id, _BITS_OF_TRACE)
        return made or self._random.generate_trace_id()

    def generate_span_id(self) -> int:
        """A span id."""
        made = self._made(self._chosen.generate_span_id, _BITS_OF_SPAN)
        return made or self._random.generate_span_id()

    def is_trace_id_random(self) -> bool:
        """Whether the generator says that its trace ids are random."""
        try:
            return bool(random_flag(self._chosen))
        except Exception:
            return False

    def _made(self, generate: Callable[[], int], bits: int) -> int | None:
        try:
            made = generate()
            if 0 < made < 1 << bits:
                return made
            reason = f"{made} is not an id of {bits} bits"
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
        name = type(self._chosen).__qualname__
        self._warn(f"the id generator {name} cannot be used, ids are random: {reason}")
        return None


def find_id_generator(
    environ: Mapping[str, str], chosen: Any, warn: Callable[[str], None]
) -> IdGenerator:
    """The generator that is `chosen` in code or a file, else by ``OTEL_PYTHON_ID_GENERATOR``.

    The SDK's own random generator is replaced by one that does not depend on :mod:`random`'s seed.
    """
    if chosen is None:
        chosen = _named(environ.get(VARIABLE, "").strip(), warn)
    if not isinstance(chosen, IdGenerator) or type(chosen) is RandomIdGenerator:
        return SecureIdGenerator()
    return ConfiguredIdGenerator(chosen, warn)


def _named(name: str, warn: Callable[[str], None]) -> Any:
    if not name:
        return None
    point = next(iter(entry_points(group=_GROUP, name=name)), None)
    if point is None:
        warn(f"the id generator {name!r} that {VARIABLE} names is not installed: ids are random")
        return None
    try:
        return point.load()()
    except Exception as error:
        what = f"{type(error).__name__}: {error}"
        warn(f"the id generator {name!r} cannot be used, ids are random: {what}")
        return None
