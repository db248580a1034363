"""Proxies for providers that use, at each call, the provider that the process has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from opentelemetry import _logs, metrics, trace
from opentelemetry._logs import LogRecord

from scalable.instrumentation import otel_compat


class Relay(Protocol):
    """What the proxies need: where signals go while no other provider is set."""

    tracer_provider: Any
    meter_provider: Any
    logger_provider: Any
    #: Something was measured.
    measured: bool

    def sdk(self) -> Any:
        """Our own tracer and meter provider."""
        ...

    def on_log(self, record: LogRecord, scope: tuple[Any, ...]) -> None:
        """Take a log record."""
        ...


class ProxyTracerProvider(trace.TracerProvider):
    """A proxy for a tracer provider; used by any thread."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    def get_tracer(self, *args: Any, **kwargs: Any) -> trace.Tracer:
        """A tracer that follows the provider of the process."""
        return _Tracer(
            _Following(
                "traces",
                self,
                lambda: self._relay.sdk().tracer_provider,
                lambda provider: provider.get_tracer(*args, **kwargs),
                trace.NoOpTracer(),
            )
        )


class ProxyMeterProvider(metrics.MeterProvider):
    """A proxy for a meter provider; used by any thread."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    def get_meter(self, name: str, *args: Any, **kwargs: Any) -> metrics.Meter:
        """A meter whose instruments follow the provider of the process."""
        return _Meter(self._relay, (name, *args), kwargs)


class ProxyLoggerProvider(_logs.LoggerProvider):
    """A proxy for a logger provider; used by any thread."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay

    def get_logger(
        self,
        name: str,
        version: str | None = None,
        schema_url: str | None = None,
        attributes: Any = None,
    ) -> _logs.Logger:
        """A logger that follows the provider of the process."""
        return _Logger(self._relay, name, version, schema_url, attributes)


class _Following:
    """Finds the instrument to use: ours, that of a provider set later, or one that does nothing."""

    __slots__ = ("_found", "_get", "_none", "_own", "_proxy", "_signal")

    def __init__(
        self,
        signal: otel_compat.Signal,
        proxy: Any,
        own: Callable[[], Any],
        get: Callable[[Any], Any],
        none: Any,
    ) -> None:
        self._signal: otel_compat.Signal = signal
        self._proxy = proxy
        self._own = own
        self._get = get
        self._none = none
        self._found: tuple[Any, Any] = (None, none)

    def now(self) -> Any:
        provider = otel_compat.otel_provider(self._signal)
        if provider is None:
            return self._none
        if self._found[0] is not provider:
            target = self._own() if provider is self._proxy else provider
            self._found = (provider, self._get(target))
        return self._found[1]


class _Tracer(trace.Tracer):
    def __init__(self, following: _Following) -> None:
        self._following = following

    def start_span(self, *args: Any, **kwargs: Any) -> trace.Span:
        return self._following.now().start_span(*args, **kwargs)

    # The API's is a context manager that also decorates; so is what is returned here.
    def start_as_current_span(self, *args: Any, **kwargs: Any) -> Any:
        return self._following.now().start_as_current_span(*args, **kwargs)


def _forwarding(method: str) -> Any:
    def measure(self: _Instrument, *args: Any, **kwargs: Any) -> None:
        getattr(self.following.now(), method)(*args, **kwargs)
        self.relay.measured = True

    return measure


class _Instrument:
    # Not the constructor of the API's: the name is checked by what is followed.
    def __init__(self, relay: Relay, following: _Following) -> None:
        self.relay = relay
        self.following = following


class _Counter(_Instrument, metrics.Counter):
    add = _forwarding("add")


class _UpDownCounter(_Instrument, metrics.UpDownCounter):
    add = _forwarding("add")


class _Histogram(_Instrument, metrics.Histogram):
    record = _forwarding("record")


_GaugeBase: Any = getattr(metrics, "Gauge", getattr(metrics, "_Gauge", object))


class _Gauge(_Instrument, _GaugeBase):
    set = _forwarding("set")


def _creating(method: str, proxy: type[_Instrument] | None = None) -> Any:
    def create(self: _Meter, *args: Any, **kwargs: Any) -> Any:
        following = self.follow(method, args, kwargs)
        return following.now() if proxy is None else proxy(self.relay, following)

    return create


class _Meter(metrics.Meter):
    def __init__(self, relay: Relay, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.relay = relay
        self._args = args
        self._kwargs = kwargs

    create_counter = _creating("create_counter", _Counter)
    create_up_down_counter = _creating("create_up_down_counter", _UpDownCounter)
    create_histogram = _creating("create_histogram", _Histogram)
    create_gauge = _creating("create_gauge", _Gauge)
    # Observable instruments are not called: they stay with the provider that made them.
    create_observable_counter = _creating("create_observable_counter")
    create_observable_up_down_counter = _creating("create_observable_up_down_counter")
    create_observable_gauge = _creating("create_observable_gauge")

    def follow(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Following:
        def get(provider: Any) -> Any:
            meter = provider.get_meter(*self._args, **self._kwargs)
            return getattr(meter, method)(*args, **kwargs)

        nothing = metrics.NoOpMeter(str(self._args[0]))
        return _Following(
            "metrics",
            self.relay.meter_provider,
            lambda: self.relay.sdk().meter_provider,
            get,
            getattr(nothing, method)(*args, **kwargs),
        )


class _Logger(_logs.Logger):
    def __init__(
        self, relay: Relay, name: str, version: str | None, schema_url: str | None, attributes: Any
    ) -> None:
        super().__init__(name, version, schema_url, attributes)
        arguments = (name, version, schema_url, attributes)
        ours = _RelayLogger(relay, *arguments)
        self._following = _Following(
            "logs",
            relay.logger_provider,
            lambda: None,
            lambda provider: ours if provider is None else provider.get_logger(*arguments),
            _logs.NoOpLogger(name),
        )

    def enabled(self, **asked: Any) -> bool:
        return self._following.now().enabled(**asked)

    def emit(self, record: LogRecord | None = None, **fields: Any) -> None:
        # One of two ways to call it: some loggers know only the first.
        if record is None:
            self._following.now().emit(**fields)
        else:
            self._following.now().emit(record)


class _RelayLogger(_logs.Logger):
    def __init__(
        self, relay: Relay, name: str, version: str | None, schema_url: str | None, attributes: Any
    ) -> None:
        super().__init__(name, version, schema_url, attributes)
        self._relay = relay
        self._scope = (name, version, schema_url)

    def emit(self, record: LogRecord | None = None, **fields: Any) -> None:
        self._relay.on_log(LogRecord(**fields) if record is None else record, self._scope)

    def enabled(self, **asked: Any) -> bool:
        return True
