"""The redactor, measured on a labelled list of messages and on ordinary source code."""

from __future__ import annotations

import base64
import pickle
import re
import sysconfig
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scalable_runs.redact import REDACTED, Redactor

MESSAGES = Path(__file__).with_name("redaction_messages.txt")


class Message(NamedTuple):
    text: str
    secrets: tuple[str, ...]
    redacted: str


def labelled() -> list[Message]:
    messages = []
    for line in MESSAGES.read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        line = line.replace("¦", "").replace("\\n", "\n")
        secrets = tuple(re.findall("⟦(.*?)⟧", line, re.DOTALL))
        redacted = re.sub("⟦.*?⟧", REDACTED, line, flags=re.DOTALL)
        messages.append(Message(line.replace("⟦", "").replace("⟧", ""), secrets, redacted))
    return messages


def test_recall_and_false_hits_on_the_labelled_list(capsys: pytest.CaptureFixture[str]) -> None:
    redact = Redactor()
    messages = labelled()
    secret = [message for message in messages if message.secrets]
    clean = [message for message in messages if not message.secrets]
    missed = [
        message
        for message in secret
        if any(value in redact(message.text) for value in message.secrets)
    ]
    exact = [message for message in secret if redact(message.text) == message.redacted]
    wrong = [message for message in clean if redact(message.text) != message.text]
    with capsys.disabled():
        print(
            f"\nredactor: {len(secret) - len(missed)} of {len(secret)} messages with secrets clean"
            f" afterwards (recall {1 - len(missed) / len(secret):.1%}), {len(exact)} of them with"
            f" nothing else lost; {len(wrong)} false hits in {len(clean)} messages without secrets"
        )
        for message in missed:
            print(f"  missed: {message.text!r}")
        for message in wrong:
            print(f"  wrong:  {message.text!r} -> {redact(message.text)!r}")
    assert len(secret) >= 100
    assert len(clean) >= 60
    assert len(missed) <= 5
    assert len(exact) >= len(secret) - len(missed)
    assert not wrong


def test_false_hits_in_ordinary_source_code(capsys: pytest.CaptureFixture[str]) -> None:
    redact = Redactor()
    library = Path(sysconfig.get_path("stdlib"))
    files = [*library.glob("[a-f]*.py"), *library.glob("asyncio/*.py")]
    lines = [
        line
        for file in sorted(files)
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines()
        if line.strip()
    ]
    hits = [line for line in lines if redact(line) != line]
    with capsys.disabled():
        print(f"\nredactor: {len(hits)} hits in {len(lines)} lines of the standard library")
    assert len(lines) > 10_000
    assert len(hits) <= len(lines) / 10_000


def test_each_family_finds_its_own_and_can_be_switched_off() -> None:
    texts = {
        "secrets": "it is exactly-this-value here",
        "url": "postgresql://etl:Tr0ub4dor@db/x",
        "header": "Cookie: sessionid=38afes7a8",
        "assignment": "password=hunter2",
        "token": "sig=Zm9vYmFyMTIzNDU2Nzg5",
        "format": "AKIA" + "IOSFODNN7EXAMPLE",
        "extra": "patient 12345678",
    }
    assert set(texts) == set(Redactor.families)
    every = Redactor(secrets=["exactly-this-value"], extra_patterns=[r"patient (?P<secret>\d+)"])
    for family, text in texts.items():
        assert REDACTED in every(text), family
        without = Redactor(
            secrets=["exactly-this-value"],
            extra_patterns=[r"patient (?P<secret>\d+)"],
            off=[family],
        )
        assert without(text) == text, family
        assert all(without(texts[other]) != texts[other] for other in texts if other != family)


def test_an_unknown_family_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"'tokens'.*there are secrets, format, url"):
        Redactor(off=["tokens"])


@pytest.mark.parametrize(
    "form",
    [
        "{}",
        "x{}y",
        "'{}'",
    ],
)
def test_exact_values_are_found_plain_quoted_and_in_base64(form: str) -> None:
    secret = "p@ss/w0rd+é\n"
    redact = Redactor(secrets=[secret])
    for shape in (secret, quote(secret, safe=""), repr(secret)[1:-1]):
        assert redact(form.format(shape)) == form.format(REDACTED)
    for before in ("", "u", "us", "user:"):
        for after in ("", "\n", "more"):
            text = base64.b64encode((before + secret + after).encode()).decode()
            assert REDACTED in redact(form.format(text)), (before, after)
            url_safe = text.replace("+", "-").replace("/", "_")
            assert REDACTED in redact(form.format(url_safe)), (before, after)


def test_short_values_are_no_secrets() -> None:
    assert Redactor(secrets=["abc", "1234567"])("abc 1234567") == "abc 1234567"


def test_a_secret_within_another_leaves_nothing_of_the_longer_one() -> None:
    redact = Redactor(secrets=["abcdefgh", "abcdefgh-and-more"])
    assert redact("x abcdefgh-and-more y") == f"x {REDACTED} y"


def test_secrets_come_from_the_names_of_variables_and_options() -> None:
    redact = Redactor.from_environment(
        {
            "DB_PASSWORD": "first-secret",
            "GITHUB_TOKEN": "second-secret",
            "DB_PASSWORD_FILE": "/run/secrets/db",
            "SSH_AUTH_SOCK": "/tmp/ssh-XXXX/agent.1",
            "GOOGLE_APPLICATION_CREDENTIALS": "third-secret",
            "PWD": "/home/ana/project",
            "HOME": "/home/ana",
            "PASSWORD_POLICY_TTL": "31536000",
            "AUTH_MODE_PASSWORD": "required",
            "BROKER": "amqp://svc:fourth%20secret@mq//",
            "OTEL_EXPORTER_OTLP_HEADERS": "api-key=fifth-secret,authorization=Basic%20c2l4dGgtc2Vj",
            "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "x-team=seventh-secret",
        },
        {
            "distributed": {"comm": {"tls": {"ca-file": "/etc/tls/ca.pem"}}},
            "gateway.auth.jupyterhub.api-token": "eighth-secret",
            "cloud": {"api-key": "ninth-secret", "workers": 4},
        },
    )
    for word in ["first", "second", "third", "fourth", "fifth", "seventh", "eighth", "ninth"]:
        separator = " " if word == "fourth" else "-"
        assert redact(f"<{word}{separator}secret>") == f"<{REDACTED}>", word
    assert "c2l4dGgtc2Vj" not in redact("sent c2l4dGgtc2Vj")
    for harmless in (
        "/run/secrets/db",
        "/tmp/ssh-XXXX/agent.1",
        "/home/ana/project",
        "31536000",
        "required",
        "/etc/tls/ca.pem",
    ):
        assert redact(f"at {harmless}:") == f"at {harmless}:"


def test_a_redactor_does_not_travel_and_does_not_show_what_it_knows() -> None:
    redact = Redactor(secrets=["do-not-pickle-me"])
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(redact)
    assert "do-not" not in repr(redact)


def test_a_clean_text_is_given_back_as_it_is() -> None:
    text = "ValueError: nothing to see in /data/part-0001.parquet"
    assert Redactor()(text) is text


@pytest.mark.parametrize(
    "unit",
    [
        "://a:",
        "a@b://",
        "eyJ",
        "password=",
        "password ",
        "password is '",
        "--password ",
        "authorization: ",
        "-----BEGIN " + "PRIVATE KEY-----",
        "token=",
        "sk-",
        "x-a-b-c-",
        "cookie: a='",
    ],
)
def test_no_pattern_explodes_on_a_text_made_to_hurt(unit: str) -> None:
    # Quadratic work on 300,000 characters would meet the suite's time limit.
    Redactor()(unit * (300_000 // len(unit)))


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200), st.text(max_size=200), st.text(min_size=8, max_size=40))
def test_a_known_secret_never_comes_through(before: str, after: str, secret: str) -> None:
    redact = Redactor(secrets=[secret])
    redacted = redact(before + secret + after)
    assert secret not in redacted.replace(REDACTED, "\0") or secret in REDACTED


def test_redacting_twice_changes_nothing_more() -> None:
    redact = Redactor()
    for message in labelled():
        once = redact(message.text)
        assert redact(once) == once
