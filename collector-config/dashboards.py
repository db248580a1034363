"""Generates the Grafana dashboards in ``grafana/dashboards`` from the table of metrics.

``make docs`` runs this file; ``--check`` reports files that are out of date. Names of metrics and
attributes are taken from the package that records them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import quote

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    heatmap,
    logs,
    loki,
    prometheus,
    stat,
    table,
    tempo,
    timeseries,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as common_model
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models import prometheus as prometheus_model
from grafana_foundation_sdk.models import tempo as tempo_model

from scalable.telemetry import instruments as m
from scalable.telemetry import semconv
from scalable.telemetry.instrument import Instrument

FOLDER: Final = Path(__file__).parent / "grafana" / "dashboards"
TAG: Final = "scalable"

PROMETHEUS: Final = model.DataSourceRef(type_val="prometheus", uid="${prometheus}")
TEMPO: Final = model.DataSourceRef(type_val="tempo", uid="${tempo}")
LOKI: Final = model.DataSourceRef(type_val="loki", uid="${loki}")

GREEN, RED, ORANGE, YELLOW, BLUE, GREY = "green", "red", "orange", "yellow", "blue", "#8e8e8e"
RESULT_COLOURS: Final = {
    "success": GREEN,
    "failure": RED,
    "error": ORANGE,
    "cancellation": GREY,
}
STATE_COLOURS: Final = {
    "waiting": GREY,
    "running": BLUE,
    "succeeded": GREEN,
    "failed": RED,
    "cancelled": YELLOW,
}
WORKER_COLOURS: Final = {"running": GREEN, "paused": ORANGE, "closing": GREY}

#: Dask's default thresholds of a worker's memory: spill to disk, pause, kill.
SPILL, PAUSE, TERMINATE = 0.7, 0.8, 0.95

#: How far back the value before a time is looked for; after a longer gap a series counts as new.
LOOK_BACK: Final = "10m"

_UNITS: Final = {"s": "seconds", "By": "bytes", "1": "ratio"}


# -- queries ------------------------------------------------------------------------------------


def series_name(instrument: Instrument, part: str = "") -> str:
    """The name that a metric has in Prometheus; `part` is ``bucket``, ``sum`` or ``count``."""
    words = [label(instrument.name)]
    if unit := _UNITS.get(instrument.unit):
        words.append(unit)
    if instrument.kind == "counter":
        words.append("total")
    return "_".join([*words, *([part] if part else [])])


def label(attribute: str) -> str:
    """The name that an attribute has as a label."""
    return attribute.replace(".", "_")


RUN, SERVICE = label(semconv.RUN_ID), "service_name"
NAME, RESULT, STATE = (
    label(semconv.TASK_NAME),
    label(semconv.TASK_RESULT),
    label(semconv.TASK_STATE),
)
WORKER, WORKER_STATE = label(semconv.WORKER_NAME), label(semconv.WORKER_STATE)
REASON, WASTE = label(semconv.WORKER_REASON), label(semconv.WASTE_REASON)
DIRECTION = label(semconv.DISK_DIRECTION)
SIGNAL, ERROR = label(semconv.SIGNAL), label(semconv.ERROR_TYPE)

#: What is sent over OTLP, with the metrics of what was exported and of what waits.
SENT: Final = {
    "spans": (m.SPANS_EXPORTED, m.SPANS_QUEUED),
    "metric points": (m.POINTS_EXPORTED, m.POINTS_INFLIGHT),
    "log records": (m.LOGS_EXPORTED, m.LOGS_QUEUED),
}
#: Counters whose points with `error.type` are of what was not sent: rejected, or dropped because a
#: queue was full.
NOT_SENT: Final = {
    "spans": (m.SPANS_EXPORTED, m.SPANS_PROCESSED),
    "metric points": (m.POINTS_EXPORTED,),
    "log records": (m.LOGS_EXPORTED, m.LOGS_PROCESSED),
}
HAS_ERROR, HAS_NO_ERROR = f'{ERROR}!=""', f'{ERROR}=""'


def of(instrument: Instrument, part: str = "", *more: str) -> str:
    """The series of a metric for the run selected at the top of the dashboard."""
    chosen = [f'{SERVICE}=~"$service"', f'{RUN}=~"$run"']
    if semconv.TASK_NAME in instrument.attributes:
        chosen.append(f'{NAME}=~"$task"')
    if semconv.WORKER_NAME in instrument.attributes:
        chosen.append(f'{WORKER}=~"$worker"')
    return f"{series_name(instrument, part)}{{{', '.join([*chosen, *more])}}}"


def match(name: str, *values: str) -> str:
    """A condition on a label: one of these values."""
    joined = "|".join(values)
    return f'{name}=~"{joined}"' if len(values) > 1 else f'{name}="{values[0]}"'


def growth(series: str, over: str) -> str:
    """What was added to counters in a time; a series that is new was zero before.

    `rate` and `increase` need two values of a series within the time, and take the first one as
    given: a run that ends before its second value would have done nothing.
    """
    now = f"last_over_time({series}[{over}])"
    before = f"last_over_time({series}[{LOOK_BACK}] offset {over})"
    return f"clamp_min({now} - ({before} or {now} * 0), 0)"


def per_second(series: str) -> str:
    """Growth per second."""
    return f"{growth(series, '$__rate_interval')} / ($__rate_interval_ms / 1000)"


def rate(instrument: Instrument, part: str = "", *more: str) -> str:
    """Growth per second of the series of a metric."""
    return per_second(of(instrument, part, *more))


def total(instrument: Instrument, part: str = "", *more: str) -> str:
    """The last value of a counter, even if the run ended before the end of the time range."""
    return f"max_over_time({of(instrument, part, *more)}[$__range])"


def latest(instrument: Instrument, *more: str) -> str:
    """The last value of a gauge."""
    return f"last_over_time({of(instrument, '', *more)}[$__range])"


def add(expression: str, *by: str) -> str:
    """Sum over everything but the labels named."""
    return f"sum by ({', '.join(by)}) ({expression})" if by else f"sum({expression})"


def or_zero(expression: str) -> str:
    """Zero if there is no series."""
    return f"{expression} or vector(0)"


def quantile(q: float, expression: str, *by: str) -> str:
    """A quantile of the buckets of a histogram."""
    return f"histogram_quantile({q}, {add(expression, 'le', *by)})"


# -- marks on the time axis ---------------------------------------------------------------------


class Mark(NamedTuple):
    """An annotation: a query that has a value where something happened."""

    name: str
    colour: str
    expr: str
    #: What is shown, made of the labels of the query.
    title: str
    text: str


#: Least time between two marks: an interval must hold several values of a series.
MARK_STEP: Final = "1m"
MARKS: Final = (
    Mark(
        "Runs that begin",
        BLUE,
        f"count by ({RUN}) (last_over_time({of(m.TASK_COUNT)}[$__interval])) "
        f"unless count by ({RUN}) "
        f"(last_over_time({of(m.TASK_COUNT)}[{LOOK_BACK}] offset $__interval))",
        "The run begins",
        f"{{{{{RUN}}}}}",
    ),
    Mark(
        "Workers lost",
        RED,
        f"{add(growth(of(m.WORKER_LOST), '$__interval'), RUN, REASON)} > 0",
        "Worker lost",
        f"{{{{{REASON}}}}}",
    ),
)


# -- pieces of panels ---------------------------------------------------------------------------


def query(expr: str, legend: str = "__auto", *, exemplar: bool = False) -> prometheus.Dataquery:
    """A query over the time range."""
    built = prometheus.Dataquery().expr(expr).legend_format(legend).range().datasource(PROMETHEUS)
    return built.exemplar(True) if exemplar else built


def instant(expr: str, legend: str = "__auto") -> prometheus.Dataquery:
    """A query at the end of the time range."""
    built = prometheus.Dataquery().expr(expr).legend_format(legend).instant()
    return built.datasource(PROMETHEUS)


def steps(base: str, *more: tuple[float, str]) -> dashboard.ThresholdsConfig:
    """Thresholds: a colour, and others from values on."""
    colours = [model.Threshold(value=None, color=base)]
    colours += [model.Threshold(value=value, color=colour) for value, colour in more]
    return dashboard.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(colours)


def fixed(colour: str) -> list[model.DynamicConfigValue]:
    """The property that gives a series one colour."""
    value = {"mode": "fixed", "fixedColor": colour}
    return [model.DynamicConfigValue(id_val="color", value=value)]


def number(
    title: str,
    description: str,
    expr: str,
    *,
    unit: str = "short",
    thresholds: dashboard.ThresholdsConfig | None = None,
    width: int = 3,
    decimals: int | None = None,
    none: str = "–",
) -> stat.Panel:
    """One large number."""
    panel = (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(PROMETHEUS)
        .with_target(instant(expr, title))
        .unit(unit)
        .thresholds(thresholds or steps("text"))
        .color_mode(common_model.BigValueColorMode.VALUE)
        .graph_mode(common_model.BigValueGraphMode.NONE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .no_value(none)
        .height(4)
        .span(width)
    )
    return panel if decimals is None else panel.decimals(decimals)


def lines(
    title: str,
    description: str,
    *targets: prometheus.Dataquery,
    unit: str = "short",
    width: int = 12,
    height: int = 8,
    stacked: bool = False,
    colours: Mapping[str, str] | None = None,
    thresholds: dashboard.ThresholdsConfig | None = None,
    calcs: Sequence[str] = ("lastNotNull", "max"),
    maximum: float | None = None,
    links: Sequence[dashboard.DashboardLink] = (),
    none: str = "Nothing in this time",
) -> timeseries.Panel:
    """Lines over time, or areas on top of each other, with a legend that has their numbers."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(PROMETHEUS)
        .unit(unit)
        .min(0)
        .line_width(1)
        .fill_opacity(30 if stacked else 8)
        .show_points(common_model.VisibilityMode.AUTO)
        # A metric is sent once per export interval: missing values in between are not gaps.
        .span_nulls(120_000)
        .legend(
            common.VizLegendOptions()
            .display_mode(common_model.LegendDisplayMode.TABLE)
            .placement(common_model.LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs(list(calcs))
        )
        .tooltip(
            common.VizTooltipOptions()
            .mode(common_model.TooltipDisplayMode.MULTI)
            .sort(common_model.SortOrder.DESCENDING)
        )
        .no_value(none)
        .height(height)
        .span(width)
    )
    for target in targets:
        panel = panel.with_target(target)
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(common_model.StackingMode.NORMAL))
    for name, colour in (colours or {}).items():
        panel = panel.override_by_name(name, fixed(colour))
    if thresholds is not None:
        panel = panel.thresholds(thresholds).thresholds_style(
            common.GraphThresholdsStyleConfig().mode(common_model.GraphThresholdsStyleMode.DASHED)
        )
    if maximum is not None:
        panel = panel.max(maximum)
    return panel.data_links(list(links)) if links else panel


def columns(
    panel: table.Panel, key: str, key_title: str, described: Iterable[tuple[str, str, str, str]]
) -> table.Panel:
    """Join instant queries into one row per value of the label `key`.

    Each column is its title, the query, its unit, and how its cells look ("" or a display mode).
    """
    renamed, order = {key: key_title}, {key: 0}
    for index, (title, expr, unit, look) in enumerate(described):
        ref = chr(ord("A") + index)
        panel = panel.with_target(
            instant(expr).format(prometheus_model.PromQueryFormat.TABLE).ref_id(ref)
        )
        field = f"Value #{ref}"
        renamed[field], order[field] = title, index + 1
        properties = [model.DynamicConfigValue(id_val="unit", value=unit)]
        if look:
            cell: dict[str, Any] = {"type": "gauge", "mode": "basic"}
            if look == "colour":
                cell = {"type": "color-text"}
            properties.append(model.DynamicConfigValue(id_val="custom.cellOptions", value=cell))
        if look == "colour":
            alarm = {"mode": "absolute", "steps": [_step(None, "text"), _step(1, RED)]}
            properties.append(model.DynamicConfigValue(id_val="thresholds", value=alarm))
        if look == "share":
            bounds = {
                "mode": "absolute",
                "steps": [_step(None, GREEN), _step(SPILL, YELLOW), _step(PAUSE, RED)],
            }
            properties += [
                model.DynamicConfigValue(id_val="thresholds", value=bounds),
                model.DynamicConfigValue(id_val="min", value=0),
                model.DynamicConfigValue(id_val="max", value=1),
            ]
        panel = panel.override_by_name(title, properties)
    return panel.with_transformation(
        model.DataTransformerConfig(id_val="merge", options={})
    ).with_transformation(
        model.DataTransformerConfig(
            id_val="organize",
            options={
                "excludeByName": {"Time": True},
                "indexByName": order,
                "renameByName": renamed,
            },
        )
    )


def _step(value: float | None, colour: str) -> dict[str, Any]:
    return {"value": value, "color": colour}


def in_tempo(title: str, traceql: str) -> dashboard.DashboardLink:
    """A link to the traces that a query finds, in the time range of the dashboard."""
    state = {
        "traces": {
            "datasource": "${tempo}",
            "queries": [
                {
                    "refId": "A",
                    "datasource": {"type": "tempo", "uid": "${tempo}"},
                    "queryType": "traceql",
                    "limit": 50,
                    "tableType": "spans",
                    "query": traceql,
                }
            ],
            "range": {"from": "${__from}", "to": "${__to}"},
        }
    }
    # Grafana replaces its variables before it parses the address: do not quote them.
    encoded = quote(json.dumps(state, separators=(",", ":")))
    for variable in ("tempo", "__from", "__to", "run:regex", *_FIELDS):
        encoded = encoded.replace(quote(f"${{{variable}}}"), f"${{{variable}}}")
    url = f"/explore?schemaVersion=1&panes={encoded}"
    return dashboard.DashboardLink(title).url(url).target_blank(True)


_FIELDS: Final = (f"__field.labels.{NAME}", "__data.fields.Task")


def attempts_of(field: str, *more: str) -> str:
    """TraceQL for the attempts of the task in a field of a panel."""
    conditions = [
        f'resource.{semconv.RUN_ID}=~"${{run:regex}}"',
        f'span.{semconv.TASK_NAME}="${{{field}}}"',
        *more,
    ]
    return "{" + " && ".join(conditions) + "}"


# -- dashboards ---------------------------------------------------------------------------------


def board(
    uid: str, title: str, description: str, *, task: bool = False, worker: bool = False
) -> dashboard.Dashboard:
    """An empty dashboard with the common variables (datasources, service, run) and links."""
    built = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(description)
        .tags([TAG])
        .timezone("browser")
        .time("now-1h", "now")
        .refresh("10s")
        .editable()
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .link(
            dashboard.DashboardLink("The other dashboards of a run")
            .type(model.DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .include_vars(True)
            .keep_time(True)
        )
        .with_variable(
            dashboard.DatasourceVariable("prometheus").label("Metrics").type("prometheus")
        )
        .with_variable(dashboard.DatasourceVariable("tempo").label("Traces").type("tempo"))
        .with_variable(dashboard.DatasourceVariable("loki").label("Logs").type("loki"))
    )
    for mark in MARKS:
        built = built.annotation(
            dashboard.AnnotationQuery()
            .name(mark.name)
            .datasource(PROMETHEUS)
            .enable(True)
            .icon_color(mark.colour)
            .expr(mark.expr)
        )
    count = series_name(m.TASK_COUNT)
    built = built.with_variable(
        _choice("service", "Service", f"label_values({count}, {SERVICE})").include_all(True)
    ).with_variable(
        # A run's id begins with the time: the newest run is the first, and is shown.
        _choice("run", "Run", f'label_values({count}{{{SERVICE}=~"$service"}}, {RUN})').sort(
            model.VariableSort.ALPHABETICAL_DESC
        )
    )
    chosen = f'{{{SERVICE}=~"$service", {RUN}=~"$run"}}'
    if task:
        attempts = series_name(m.TASK_ATTEMPTS)
        built = built.with_variable(
            _choice("task", "Task", f"label_values({attempts}{chosen}, {NAME})").include_all(True)
        )
    if worker:
        memory = series_name(m.WORKER_MEMORY)
        built = built.with_variable(
            _choice("worker", "Worker", f"label_values({memory}{chosen}, {WORKER})").include_all(
                True
            )
        )
    return built


def _choice(name: str, title: str, values: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name)
        .label(title)
        .datasource(PROMETHEUS)
        .query({"query": values, "refId": name})
        .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(True)
        # Not `.*`: Loki rejects selectors that match everything.
        .all_value(".+")
    )


def run_dashboard() -> dashboard.Dashboard:
    """What a run does: how far, how fast, what fails, what is slow."""
    final = match(STATE, "succeeded", "failed", "cancelled")
    ended = add(latest(m.TASK_COUNT, final))
    everything = add(latest(m.TASK_COUNT))
    left = add(latest(m.TASK_COUNT, match(STATE, "waiting", "running")))
    succeeded = of(m.TASK_ATTEMPTS, "", match(RESULT, "success"))
    pace = add(f"rate({succeeded}[5m])")
    bad = match(RESULT, "failure", "error")
    traces = in_tempo("Attempts in Tempo", attempts_of("__data.fields.Task"))
    failed_traces = in_tempo(
        "Failed attempts in Tempo", attempts_of("__data.fields.Task", "status=error")
    )
    slow = "30s"
    return (
        board(
            "scalable-run",
            "scalable: Run",
            "How far a run is, how fast, what fails and what is slow.",
            task=True,
        )
        .with_row(dashboard.Row("Progress"))
        .with_panel(
            number(
                "Done",
                "Tasks in a final state, of all tasks submitted so far.",
                f"(({or_zero(ended)}) / ({everything} > 0))",
                unit="percentunit",
                thresholds=steps(BLUE, (1.0, GREEN)),
                decimals=1,
            )
        )
        .with_panel(
            number(
                "Left",
                "Tasks that wait or run now.",
                or_zero(left),
                thresholds=steps("text"),
            )
        )
        .with_panel(
            number(
                "Time left at this pace",
                "What is left, at the pace of the last five minutes. Tasks that are submitted "
                "later are not in it.",
                f"({left}) / ({pace} > 0)",
                unit="dtdurations",
                none="not going",
            )
        )
        .with_panel(
            number(
                "Running now",
                "Tasks that run now, of all threads that could run one.",
                or_zero(add(latest(m.TASK_COUNT, match(STATE, "running")))),
                thresholds=steps(BLUE),
            )
        )
        .with_panel(
            number(
                "Failed tasks",
                "Tasks that failed for good.",
                or_zero(add(latest(m.TASK_COUNT, match(STATE, "failed")))),
                thresholds=steps(GREEN, (1, RED)),
            )
        )
        .with_panel(
            number(
                "Retries",
                "Attempts after which the task ran again.",
                or_zero(add(total(m.TASK_RETRIES))),
                thresholds=steps(GREEN, (1, YELLOW)),
            )
        )
        .with_panel(
            number(
                "Lost workers",
                "Workers that ended without a request to close.",
                or_zero(add(total(m.WORKER_LOST))),
                thresholds=steps(GREEN, (1, RED)),
            )
        )
        .with_panel(
            number(
                "Wasted",
                "Share of execution time without a result: retries, lost workers, "
                "results computed again, cancellations.",
                f"({or_zero(add(total(m.TASK_WASTED)))}) / "
                f"({add(total(m.TASK_DURATION, 'sum'))} > 0)",
                unit="percentunit",
                thresholds=steps(GREEN, (0.05, YELLOW), (0.2, RED)),
                decimals=1,
            )
        )
        .with_panel(
            lines(
                "Tasks by state",
                "How many tasks are in which state.",
                query(add(of(m.TASK_COUNT), STATE), f"{{{{{STATE}}}}}"),
                stacked=True,
                colours=STATE_COLOURS,
            )
        )
        .with_panel(
            lines(
                "Throughput",
                "Attempts that end in a second, by how they end.",
                query(add(rate(m.TASK_ATTEMPTS), RESULT), f"{{{{{RESULT}}}}}"),
                unit="suffix: /s",
                stacked=True,
                colours=RESULT_COLOURS,
                calcs=("mean", "max"),
            )
        )
        .with_row(dashboard.Row("Where the time goes"))
        .with_panel(
            columns(
                table.Panel()
                .title("Slowest tasks")
                .description(
                    "By name, those with the largest sum of execution time first. A name leads to "
                    "its traces."
                )
                .datasource(PROMETHEUS)
                .height(10)
                .span(24)
                .filterable(True)
                .sort_by([common.TableSortByFieldState().display_name("Total time").desc(True)]),
                NAME,
                "Task",
                (
                    (
                        "Total time",
                        f"topk(50, {add(total(m.TASK_DURATION, 'sum'), NAME)})",
                        "dtdurations",
                        "gauge",
                    ),
                    ("Attempts", add(total(m.TASK_ATTEMPTS), NAME), "short", ""),
                    (
                        "Mean",
                        f"{add(total(m.TASK_DURATION, 'sum'), NAME)} / "
                        f"{add(total(m.TASK_DURATION, 'count'), NAME)}",
                        "s",
                        "",
                    ),
                    ("Median", quantile(0.5, total(m.TASK_DURATION, "bucket"), NAME), "s", ""),
                    ("95 %", quantile(0.95, total(m.TASK_DURATION, "bucket"), NAME), "s", ""),
                    ("95 % queued", quantile(0.95, total(m.TASK_QUEUED, "bucket"), NAME), "s", ""),
                    ("CPU", add(total(m.TASK_CPU), NAME), "dtdurations", ""),
                    ("Results", add(total(m.TASK_OUTPUT), NAME), "bytes", ""),
                    ("Failures", add(total(m.TASK_ATTEMPTS, "", bad), NAME), "short", "colour"),
                ),
            ).override_by_name(
                "Task",
                [
                    model.DynamicConfigValue(
                        id_val="links", value=[_plain(traces), _plain(failed_traces)]
                    ),
                    model.DynamicConfigValue(id_val="custom.minWidth", value=220),
                ],
            )
        )
        .with_panel(
            lines(
                "How long attempts take",
                "Execution time alone. A dot is an attempt and links to its trace.",
                *(
                    query(quantile(q, rate(m.TASK_DURATION, "bucket")), legend, exemplar=q == 0.95)
                    for q, legend in ((0.5, "median"), (0.95, "95 %"), (0.99, "99 %"))
                ),
                unit="s",
                width=8,
            )
        )
        .with_panel(
            heatmap.Panel()
            .title("Durations")
            .description("Distribution of the execution times of attempts.")
            .datasource(PROMETHEUS)
            .with_target(
                query(
                    add(f"increase({of(m.TASK_DURATION, 'bucket')}[$__rate_interval])", "le"),
                    "{{le}}",
                ).format(prometheus_model.PromQueryFormat.HEATMAP)
            )
            .y_axis(heatmap.YAxisConfig().unit("s"))
            .color(heatmap.HeatmapColorOptions().scheme("Blues").steps(32))
            .cell_gap(1)
            .show_legend()
            .mode(common_model.TooltipDisplayMode.SINGLE)
            .height(8)
            .span(8)
        )
        .with_panel(
            lines(
                "Waiting and fetching",
                "From when a task could run until it did, and fetching what it needed from other "
                "workers.",
                query(quantile(0.5, rate(m.TASK_QUEUED, "bucket")), "queued, median"),
                query(quantile(0.95, rate(m.TASK_QUEUED, "bucket")), "queued, 95 %"),
                query(quantile(0.95, rate(m.TASK_TRANSFER, "bucket")), "fetching, 95 %"),
                unit="s",
                width=8,
            )
        )
        .with_row(dashboard.Row("Failures"))
        .with_panel(
            lines(
                "Failed attempts by task",
                "Attempts that raised (failure) or whose worker was lost (error), a minute.",
                query(
                    f"60 * {add(rate(m.TASK_ATTEMPTS, '', bad), NAME, RESULT)} > 0",
                    f"{{{{{NAME}}}}}: {{{{{RESULT}}}}}",
                ),
                unit="suffix: /min",
                width=8,
                links=[
                    in_tempo(
                        "Failed attempts in Tempo",
                        attempts_of(f"__field.labels.{NAME}", "status=error"),
                    )
                ],
                none="Nothing failed",
            )
        )
        .with_panel(
            lines(
                "Retried and computed again",
                "Attempts a minute after which a task ran again, and results computed again "
                "because they were lost with their worker.",
                query(f"60 * ({or_zero(add(rate(m.TASK_RETRIES)))})", "retried"),
                query(f"60 * ({or_zero(add(rate(m.TASK_RECOMPUTATIONS)))})", "computed again"),
                unit="suffix: /min",
                width=8,
            )
        )
        .with_panel(
            lines(
                "Wasted time",
                "Execution time without a result so far, by reason.",
                query(add(of(m.TASK_WASTED), WASTE), f"{{{{{WASTE}}}}}"),
                unit="dtdurations",
                stacked=True,
                width=8,
                calcs=("lastNotNull",),
                none="No time was wasted",
            )
        )
        .with_row(dashboard.Row("Workers"))
        .with_panel(
            lines(
                "Workers by state",
                "Workers of the run by their current state.",
                query(add(of(m.WORKER_COUNT), WORKER_STATE), f"{{{{{WORKER_STATE}}}}}"),
                stacked=True,
                colours=WORKER_COLOURS,
            )
        )
        .with_panel(
            lines(
                "Threads in use",
                "Tasks that run, and threads that can run them. Threads that stay free while tasks "
                "wait are lost time.",
                query(add(of(m.TASK_COUNT, "", match(STATE, "running"))), "running tasks"),
                query(add(of(m.WORKER_THREADS)), "threads"),
                colours={"running tasks": BLUE, "threads": GREY},
            )
        )
        .with_row(dashboard.Row("Traces and log records"))
        .with_panel(
            table.Panel()
            .title("Attempts that failed, or took long")
            .description(
                f"Attempts that failed, and those of more than {slow}. An id opens the trace."
            )
            .datasource(TEMPO)
            .with_target(
                tempo.TempoQuery()
                .query_type("traceql")
                .query(
                    f'{{resource.{semconv.RUN_ID}=~"${{run:regex}}" '
                    f"&& span.{semconv.TASK_NAME}!=nil && (status=error || duration>{slow})}} "
                    f"| select(span.{semconv.TASK_NAME}, span.{semconv.WORKER_NAME}, "
                    f"span.{semconv.ERROR_TYPE})"
                )
                .limit(50)
                .table_type(tempo_model.SearchTableType.SPANS)
                .datasource(TEMPO)
            )
            .height(10)
            .span(12)
        )
        .with_panel(
            logs.Panel()
            .title("Warnings and errors")
            .description("Failures, and what tasks and Dask logged at level WARNING and above.")
            .datasource(LOKI)
            .with_target(
                loki.Dataquery()
                .expr(
                    f'{{{SERVICE}=~"$service"}} | {RUN}=~"$run" | severity_number >= 13 '
                    f'| line_format "{LOG_LINE}"'
                )
                .range(True)
                .max_lines(500)
                .datasource(LOKI)
            )
            .show_time(True)
            .wrap_log_message(True)
            .enable_log_details(True)
            .sort_order(common_model.LogsSortOrder.DESCENDING)
            .height(10)
            .span(12)
        )
    )


def cluster_dashboard() -> dashboard.Dashboard:
    """The workers of the cluster and their load."""
    share = f"{of(m.WORKER_MEMORY)} / ({of(m.WORKER_MEMORY_LIMIT)} > 0)"
    full = steps(GREEN, (SPILL, YELLOW), (PAUSE, ORANGE), (TERMINATE, RED))
    lag = steps("transparent", (0.5, ORANGE), (3.0, RED))

    def by_worker(instrument: Instrument) -> prometheus.Dataquery:
        return query(f"max by ({WORKER}) ({of(instrument)})", f"{{{{{WORKER}}}}}")

    return (
        board(
            "scalable-cluster",
            "scalable: Cluster",
            "Memory, CPU, spilling, event loops and lost workers of the cluster that a run used.",
            worker=True,
        )
        .with_row(dashboard.Row("Now"))
        .with_panel(
            number(
                "Workers",
                "Workers that run now.",
                or_zero(add(latest(m.WORKER_COUNT))),
                thresholds=steps(RED, (1, GREEN)),
                width=4,
            )
        )
        .with_panel(
            number(
                "Threads",
                "Tasks that could run at once.",
                or_zero(add(latest(m.WORKER_THREADS))),
                width=4,
            )
        )
        .with_panel(
            number(
                "Cores in use",
                "CPU time of the workers' processes a second.",
                or_zero(add(latest(m.WORKER_CPU))),
                decimals=1,
                width=4,
            )
        )
        .with_panel(
            number(
                "Memory in use",
                "Memory of the workers' processes.",
                or_zero(add(latest(m.WORKER_MEMORY))),
                unit="bytes",
                decimals=1,
                width=4,
            )
        )
        .with_panel(
            number(
                "Fullest worker",
                "Memory of the worker that is closest to its limit. By default Dask moves results "
                f"to disk from {SPILL:.0%} on, pauses the worker at {PAUSE:.0%} and kills it at "
                f"{TERMINATE:.0%}.",
                f"max({latest(m.WORKER_MEMORY)} / ({latest(m.WORKER_MEMORY_LIMIT)} > 0))",
                unit="percentunit",
                thresholds=full,
                decimals=0,
                width=4,
                none="no limit",
            )
        )
        .with_panel(
            number(
                "Lost workers",
                "Workers that ended without a request to close.",
                or_zero(add(total(m.WORKER_LOST))),
                thresholds=steps(GREEN, (1, RED)),
                width=4,
            )
        )
        .with_row(dashboard.Row("Memory"))
        .with_panel(
            lines(
                "Memory of the cluster",
                "Results kept (managed), all else (unmanaged: modules, running tasks, leaks), and "
                "what the workers may use.",
                query(add(of(m.WORKER_MEMORY_MANAGED)), "managed"),
                query(add(of(m.WORKER_MEMORY_UNMANAGED)), "unmanaged"),
                query(add(of(m.WORKER_MEMORY_SPILLED)), "on disk"),
                query(add(of(m.WORKER_MEMORY_LIMIT)), "limit"),
                unit="bytes",
                colours={"managed": BLUE, "unmanaged": ORANGE, "on disk": GREY, "limit": RED},
            )
        )
        .with_panel(
            lines(
                "Memory by worker, of its limit",
                "Workers without a limit are not in it.",
                query(f"max by ({WORKER}) ({share})", f"{{{{{WORKER}}}}}"),
                unit="percentunit",
                maximum=1,
                thresholds=steps("transparent", (SPILL, YELLOW), (PAUSE, ORANGE), (TERMINATE, RED)),
                none="No worker has a limit",
            )
        )
        .with_panel(
            lines(
                "Memory by worker",
                "Memory of each worker's process.",
                by_worker(m.WORKER_MEMORY),
                unit="bytes",
                width=8,
            )
        )
        .with_panel(
            lines(
                "On disk by worker",
                "Results that a worker keeps on disk for lack of memory.",
                by_worker(m.WORKER_MEMORY_SPILLED),
                unit="bytes",
                width=8,
            )
        )
        .with_panel(
            lines(
                "To and from disk",
                "Results written to disk and read back, of all tasks of the scheduler.",
                query(add(rate(m.SPILLED), DIRECTION), f"{{{{{DIRECTION}}}}}"),
                unit="Bps",
                width=8,
                none="Nothing was moved to disk",
            )
        )
        .with_row(dashboard.Row("CPU, network, event loops"))
        .with_panel(
            lines(
                "CPU by worker",
                "Cores that each worker's process uses.",
                by_worker(m.WORKER_CPU),
                unit="suffix: cores",
                stacked=True,
            )
        )
        .with_panel(
            lines(
                "Between workers",
                "Results moved from worker to worker, of all tasks of the scheduler.",
                query(or_zero(add(rate(m.TRANSFERRED))), "moved"),
                unit="Bps",
            )
        )
        .with_panel(
            lines(
                "Event loop of the scheduler",
                "How late it runs callbacks. From about 0.5 s on the whole cluster waits for it.",
                query(f"max({of(m.SCHEDULER_LAG)})", "scheduler"),
                unit="s",
                thresholds=lag,
            )
        )
        .with_panel(
            lines(
                "Event loops of the workers",
                "How late each runs callbacks. Functions that hold the GIL delay it.",
                by_worker(m.WORKER_LAG),
                unit="s",
                thresholds=lag,
            )
        )
        .with_row(dashboard.Row("Workers"))
        .with_panel(
            lines(
                "Workers by state",
                "Paused workers take no new tasks: their memory is full.",
                query(add(of(m.WORKER_COUNT), WORKER_STATE), f"{{{{{WORKER_STATE}}}}}"),
                stacked=True,
                colours=WORKER_COLOURS,
            )
        )
        .with_panel(
            bargauge.Panel()
            .title("Lost workers by reason")
            .description("Workers that ended without a request to close.")
            .datasource(PROMETHEUS)
            .with_target(instant(add(total(m.WORKER_LOST), REASON), f"{{{{{REASON}}}}}"))
            .unit("short")
            .decimals(0)
            .min(0)
            .thresholds(steps(RED))
            .orientation(common_model.VizOrientation.HORIZONTAL)
            .display_mode(common_model.BarGaugeDisplayMode.BASIC)
            .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
            .no_value("None was lost")
            .height(8)
            .span(12)
        )
        .with_panel(
            columns(
                table.Panel()
                .title("Workers")
                .description("The last values of each worker.")
                .datasource(PROMETHEUS)
                .height(10)
                .span(24)
                .filterable(True)
                .sort_by([common.TableSortByFieldState().display_name("Of its limit").desc(True)]),
                WORKER,
                "Worker",
                (
                    (
                        "Of its limit",
                        f"max by ({WORKER}) ({latest(m.WORKER_MEMORY)} / "
                        f"({latest(m.WORKER_MEMORY_LIMIT)} > 0))",
                        "percentunit",
                        "share",
                    ),
                    ("Memory", f"max by ({WORKER}) ({latest(m.WORKER_MEMORY)})", "bytes", ""),
                    (
                        "Managed",
                        f"max by ({WORKER}) ({latest(m.WORKER_MEMORY_MANAGED)})",
                        "bytes",
                        "",
                    ),
                    (
                        "Unmanaged",
                        f"max by ({WORKER}) ({latest(m.WORKER_MEMORY_UNMANAGED)})",
                        "bytes",
                        "",
                    ),
                    (
                        "On disk",
                        f"max by ({WORKER}) ({latest(m.WORKER_MEMORY_SPILLED)})",
                        "bytes",
                        "",
                    ),
                    ("Cores in use", f"max by ({WORKER}) ({latest(m.WORKER_CPU)})", "short", ""),
                    ("Late by", f"max by ({WORKER}) ({latest(m.WORKER_LAG)})", "s", ""),
                ),
            )
        )
    )


def health_dashboard() -> dashboard.Dashboard:
    """Whether the other dashboards are complete."""
    not_sent = [metric for metrics in NOT_SENT.values() for metric in metrics]
    return (
        board(
            "scalable-telemetry",
            "scalable: Telemetry health",
            "Whether the other dashboards are complete: what was recorded, sent and dropped.",
        )
        .with_row(dashboard.Row("Recording"))
        .with_panel(
            number(
                "Facts dropped",
                "Facts that were not fetched in time. If not 0, the run directory is incomplete, "
                "and says what is missing.",
                or_zero(add(total(m.FACTS_DROPPED))),
                thresholds=steps(GREEN, (1, RED)),
                width=4,
            )
        )
        .with_panel(
            number(
                "Internal errors",
                "Errors of the recording itself. The first of each kind is in the program's log.",
                or_zero(add(total(m.ERRORS))),
                thresholds=steps(GREEN, (1, RED)),
                width=4,
            )
        )
        .with_panel(
            number(
                "Recorder is behind by",
                "Age of the newest fact when the recorder took it in.",
                f"max({latest(m.LAG)})",
                unit="s",
                thresholds=steps(GREEN, (5, YELLOW), (30, RED)),
                width=4,
            )
        )
        .with_panel(
            number(
                "Not sent",
                "Spans, metric points and log records that were not sent over OTLP. They "
                "are in the run directory: `scalable export` sends them later.",
                " + ".join(f"({or_zero(add(total(it, '', HAS_ERROR)))})" for it in not_sent),
                thresholds=steps(GREEN, (1, RED)),
                width=4,
            )
        )
        .with_panel(
            number(
                "Waiting to be sent",
                "Items in the queues of the exporters.",
                " + ".join(f"({or_zero(add(latest(it)))})" for _, it in SENT.values()),
                width=4,
            )
        )
        .with_panel(
            number(
                "Spans summed up",
                "Attempts summarised in rollup spans, because their trace had more spans than the "
                "budget. The run directory has them all.",
                or_zero(add(total(m.SUMMARIZED))),
                width=4,
            )
        )
        .with_panel(
            lines(
                "Facts",
                "Facts of the cluster's plugins that reached the recorder.",
                query(add(rate(m.FACTS)), "recorded"),
                query(or_zero(add(rate(m.FACTS_DROPPED))), "dropped"),
                unit="suffix: /s",
                colours={"recorded": BLUE, "dropped": RED},
            )
        )
        .with_panel(
            lines(
                "Recorder is behind by",
                "Age of the newest fact when the recorder took it in.",
                query(f"max by ({RUN}) ({of(m.LAG)})", f"{{{{{RUN}}}}}"),
                unit="s",
                thresholds=steps("transparent", (5, YELLOW), (30, RED)),
            )
        )
        .with_row(dashboard.Row("Sending over OTLP"))
        .with_panel(
            lines(
                "Sent",
                "Items that a backend took, by signal.",
                *(
                    query(add(rate(exported, "", HAS_NO_ERROR)), what)
                    for what, (exported, _) in SENT.items()
                ),
                unit="suffix: /s",
                width=8,
            )
        )
        .with_panel(
            lines(
                "Not sent",
                "By reason: a status of the backend, in spite of retries, or `queue_full`.",
                *(
                    query(
                        or_zero(add(rate(metric, "", HAS_ERROR), ERROR)),
                        f"{what}: {{{{{ERROR}}}}}",
                    )
                    for what, metrics in NOT_SENT.items()
                    for metric in metrics
                ),
                query(
                    f"{add(rate(m.EXPORT_FAILURES), SIGNAL)}", f"{{{{{SIGNAL}}}}}: failed exports"
                ),
                unit="suffix: /s",
                width=8,
                none="All was sent",
            )
        )
        .with_panel(
            lines(
                "Waiting to be sent",
                "Items in the queues of the exporters, by signal.",
                *(query(add(of(waiting)), what) for what, (_, waiting) in SENT.items()),
                width=8,
            )
        )
        .with_row(dashboard.Row("The collector, of all programs that send to it"))
        .with_panel(
            lines(
                "Taken in",
                "Spans, metric points and log records that the collector accepted.",
                *(
                    query(add(per_second(collector("receiver_accepted", item))), word)
                    for item, word in COLLECTED.items()
                ),
                unit="suffix: /s",
                width=8,
            )
        )
        .with_panel(
            lines(
                "Passed on",
                "What the collector's exporters delivered.",
                *(
                    query(
                        add(per_second(collector("exporter_sent", item)), "exporter"),
                        f"{word}: {{{{exporter}}}}",
                    )
                    for item, word in COLLECTED.items()
                ),
                unit="suffix: /s",
                width=8,
            )
        )
        .with_panel(
            lines(
                "Refused and lost",
                "Refused: the collector is short of memory, and the sender tries again. Lost: a "
                "backend behind it did not take it.",
                *(
                    query(
                        or_zero(add(per_second(collector(what, item)))),
                        f"{word}: {outcome}",
                    )
                    for item, word in COLLECTED.items()
                    for what, outcome in (
                        ("receiver_refused", "refused"),
                        ("exporter_send_failed", "lost"),
                    )
                ),
                unit="suffix: /s",
                width=8,
            )
        )
    )


#: Names in the collector's own metrics.
COLLECTED: Final = {
    "spans": "spans",
    "metric_points": "metric points",
    "log_records": "log records",
}


def collector(what: str, item: str) -> str:
    """A counter of the collector itself; its settings decide whether it has a suffix."""
    return f'{{__name__=~"otelcol_{what}_{item}(_total)?"}}'


#: The text of a record: events have no body.
LOG_LINE: Final = (
    f"{{{{ if .{label(semconv.EXCEPTION_TYPE)} }}}}{{{{ .{label(semconv.EXCEPTION_TYPE)} }}}}: "
    f"{{{{ .{label(semconv.EXCEPTION_MESSAGE)} }}}}"
    f"{{{{ else if .{WORKER_STATE} }}}}worker {{{{ .{WORKER} }}}} {{{{ .{WORKER_STATE} }}}}: "
    f"{{{{ .{REASON} }}}}"
    "{{ else }}{{ __line__ }}{{ end }}"
)

#: The dashboards by the name of their file.
DASHBOARDS: Final = {
    "run.json": run_dashboard,
    "cluster.json": cluster_dashboard,
    "telemetry.json": health_dashboard,
}


def _plain(built: dashboard.DashboardLink) -> dict[str, Any]:
    link = built.build()
    return {"title": link.title, "url": link.url, "targetBlank": True}


def rendered(name: str) -> str:
    """The text of a dashboard's file."""
    built = DASHBOARDS[name]().build()
    for number, panel in enumerate(built.panels or (), start=1):
        panel.id_val = number
        for index, target in enumerate(getattr(panel, "targets", None) or ()):
            target.ref_id = chr(ord("A") + index)
    document = json.loads(json.dumps(built, cls=JSONEncoder))
    for found, mark in zip(document["annotations"]["list"], MARKS, strict=True):
        # What the builder has no method for.
        found |= {"titleFormat": mark.title, "textFormat": mark.text, "step": MARK_STEP}
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Write the files; with ``--check`` only report those that are out of date."""
    stale = 0
    for name in DASHBOARDS:
        path, text = FOLDER / name, rendered(name)
        if path.exists() and path.read_text() == text:
            continue
        stale += 1
        if "--check" in arguments:
            print(f"{path} is out of date: run `make docs`", file=sys.stderr)
        else:
            path.write_text(text)
            print(f"wrote {path}")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
