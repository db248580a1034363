"""Options of instrument(): one table, argument before environment before default."""

from __future__ import annotations

from pathlib import Path

import pytest

from scalable.common.options import OPTIONS, OptionError, documentation, resolve


def test_defaults_of_an_empty_environment(tmp_path):
    settings = resolve({}, {})
    assert settings.enabled is True
    assert settings.scope == "client"
    assert settings.runs_dir == Path(".scalable/runs")
    assert settings.sample_interval == settings.close_timeout == 5.0
    assert settings.redact_off == frozenset()
    assert settings.project == tmp_path.name[:60]


@pytest.mark.parametrize("text", ["1", "true", "TRUE", "t", "Yes", "y", "on", " enabled "])
def test_every_usual_true(text):
    assert resolve({}, {"SCALABLE_TELEMETRY": text}).enabled is True


@pytest.mark.parametrize("text", ["0", "false", "False", "f", "NO", "n", "off", "disabled", "none"])
def test_every_usual_false(text):
    assert resolve({}, {"SCALABLE_TELEMETRY": text}).enabled is False


@pytest.mark.parametrize(("text", "enabled"), [("true", False), ("True", False), ("1", True)])
def test_sdk_disabled_has_the_one_spelling_of_the_specification(text, enabled):
    assert resolve({}, {"OTEL_SDK_DISABLED": text}).enabled is enabled
    assert resolve({"enabled": True}, {"OTEL_SDK_DISABLED": text}).enabled is True


def test_an_empty_variable_counts_as_unset():
    empty = dict.fromkeys((option.variable for option in OPTIONS if option.variable), "")
    assert resolve({}, empty) == resolve({}, {})


def test_none_counts_as_not_given():
    given = dict.fromkeys((option.name for option in OPTIONS), None)
    assert resolve(given, {"SCALABLE_SCOPE": "cluster"}).scope == "cluster"


@pytest.mark.parametrize(
    ("given", "environ", "message"),
    [
        ({"scope": "all"}, {}, "scope= cannot be 'all'; allowed: client, cluster"),
        ({"scope": 3}, {}, "scope= cannot be 3; allowed: client, cluster"),
        ({"project": " "}, {}, "project= cannot be ' '; allowed: a name, not empty"),
        ({"runs_dir": ""}, {}, "runs_dir= cannot be ''; allowed: a path"),
        ({"runs_dir": "a\0b"}, {}, "runs_dir= cannot be 'a\\x00b'; allowed: a path"),
        ({"enabled": "perhaps"}, {}, "enabled= cannot be 'perhaps'; allowed: 1, true, yes"),
        ({"sample_interval": True}, {}, "sample_interval= cannot be True; allowed: seconds"),
        ({}, {"SCALABLE_CLOSE_TIMEOUT": "-1"}, "SCALABLE_CLOSE_TIMEOUT cannot be '-1'"),
        ({}, {"SCALABLE_SAMPLE_INTERVAL": "inf"}, "SCALABLE_SAMPLE_INTERVAL cannot be 'inf'"),
        (
            {},
            {"SCALABLE_SPAN_BUDGET": "1.5"},
            "SCALABLE_SPAN_BUDGET cannot be '1.5'; allowed: a",
        ),
        ({}, {"SCALABLE_LOG_LEVEL": "loud"}, "SCALABLE_LOG_LEVEL cannot be 'loud'; allowed: a lev"),
        ({"tracer_provider": 3}, {}, "tracer_provider= cannot be 3; allowed: a tracer provider"),
    ],
)
def test_a_wrong_value_names_what_and_what_is_allowed(given, environ, message):
    with pytest.raises(OptionError) as caught:
        resolve(given, environ)
    assert str(caught.value).startswith(message)


def test_an_unknown_option_is_named_with_those_there_are():
    with pytest.raises(
        TypeError,
        match="no option 'projekt'; it has baggage_attributes, catalog, close_timeout",
    ):
        resolve({"projekt": "x"}, {})


def test_argument_environment_manifest_default_in_this_order():
    manifest = {"span_budget": 3, "scope": "cluster", "project": None}
    environ = {"SCALABLE_SPAN_BUDGET": "2"}
    assert resolve({}, {}).span_budget == 5_000
    assert resolve({}, {}, manifest).span_budget == 3
    assert resolve({}, environ, manifest).span_budget == 2
    assert resolve({"span_budget": 1}, environ, manifest).span_budget == 1
    assert resolve({}, environ, manifest).scope == "cluster"


def test_an_unknown_or_wrong_option_of_the_manifest_is_named():
    with pytest.raises(OptionError, match=r"telemetry\.spans is not an option; allowed: baggage"):
        resolve({}, {}, {"spans": 3})
    with pytest.raises(OptionError, match=r"telemetry\.span_budget cannot be -1; allowed: a whole"):
        resolve({}, {}, {"span_budget": -1})


@pytest.mark.parametrize(
    ("text", "level"), [("warning", 30), ("25", 25), ("OFF", 51), (" Debug ", 10)]
)
def test_log_levels(text, level):
    assert resolve({}, {"SCALABLE_LOG_LEVEL": text}).log_level == level


def test_the_documentation_has_the_table_as_it_is():
    page = Path(__file__).parents[2].joinpath("docs", "configuration.md").read_text()
    assert documentation() in page
