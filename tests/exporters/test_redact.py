"""The redactor, measured on a labelled list of messages and on ordinary source code."""

from __future__ import annotations

import base64
import pickle
import re
import sysconfig
from itertools import pairwise
from pathlib import Path
from random import Random
from time import process_time
from typing import NamedTuple
from urllib.parse import quote

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from scalable_runs.redact import MAX_TEXT, REDACTED, Redactor

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
    assert len(secret) >= 200
    assert len(clean) >= 120
    assert len(missed) <= 5
    assert len(exact) >= len(secret) - len(missed)
    assert not wrong


def test_false_hits_in_the_standard_library(capsys: pytest.CaptureFixture[str]) -> None:
    redact = Redactor()
    library = Path(sysconfig.get_path("stdlib"))
    hits = count = 0
    # Each third file: the same holds for all of them, in three times the time.
    for file in sorted(library.rglob("*.py"))[::3]:
        if "site-packages" in file.parts:
            continue
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        count += len(lines)
        # A file without a hit as a whole has none in a line of its own, or next to none.
        if any(redact(part) != part for part in _pieces(lines)):
            hits += sum(redact(line) != line for line in lines)
    with capsys.disabled():
        print(f"\nredactor: {hits} hits in {count} lines of the standard library")
    assert count > 100_000
    assert hits <= count / 10_000


def _pieces(lines: list[str]) -> list[str]:
    return ["\n".join(lines[at : at + 500]) for at in range(0, len(lines), 500)]


def test_each_family_finds_its_own_and_can_be_switched_off() -> None:
    texts = {
        "secrets": "it is exactly-this-value here",
        "url": "postgresql://etl:Tr0ub4dor@db/x",
        "header": "Cookie: visitor=38afes7a8",
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


def test_short_values_are_hidden_as_words_unless_they_are_common() -> None:
    redact = Redactor(secrets=["hunt3r", "Sw0rd", "sesame", "p@ss1", "test", "12345", "worker"])
    assert (
        redact("(hunt3r) Sw0rd, sesame; p@ss1") == "([redacted]) [redacted], [redacted]; [redacted]"
    )
    for text in ("hunt3rs", "xSw0rd", "sesames", "test 12345 worker"):
        assert redact(text) is text


def test_identities_stay_apart_and_equal_ones_stay_equal() -> None:
    redact = Redactor(secrets=["one-that-is-known"])
    assert redact.identity("inc-9f86d081884c7d65") == "inc-9f86d081884c7d65"
    keys = [f"load-one-that-is-known-{n}" for n in range(50)]
    keys += [f"load-{n}-password=hunter22-x" for n in range(50)]
    keys += [f"load password=hunter22-{n}" for n in range(50)]
    shown = [redact.identity(key) for key in keys]
    assert len(set(shown)) == len(keys)
    assert shown == [redact.identity(key) for key in keys]
    assert not any("hunter22" in key or "one-that" in key for key in shown)
    assert all(key.startswith("load") for key in shown)
    other = Redactor(secrets=["one-that-is-known"], salt=redact.salt)
    assert shown == [other.identity(key) for key in keys]
    assert shown != [Redactor(secrets=["one-that-is-known"]).identity(key) for key in keys]


def test_values_with_secret_names_are_hidden() -> None:
    redact = Redactor()
    assert redact.attributes(
        {
            "db.password": "abc",
            "MYSQL_PWD": 1234,
            "apiKey": ["x", "y"],
            "http": {"headers": {"Authorization": "abc", "Accept": "*/*"}},
            "env": [{"name": "DB_PASSWORD", "value": "abc"}, {"name": "MODE", "value": "abc"}],
            "gen_ai.usage.input_tokens": 1200,
            "max_tokens": 4096,
            "token_count": 7,
            "epoch.pass": 3,
            "password_file": "/run/secrets/db",
            "db.name": "warehouse",
            "note": "password=hunter22-x",
            "password=hunter22-x": 1,
            "none.password": None,
            "password.required": True,
        }
    ) == {
        "db.password": REDACTED,
        "MYSQL_PWD": REDACTED,
        "apiKey": [REDACTED, REDACTED],
        "http": {"headers": {"Authorization": REDACTED, "Accept": "*/*"}},
        "env": [{"name": "DB_PASSWORD", "value": REDACTED}, {"name": "MODE", "value": "abc"}],
        "gen_ai.usage.input_tokens": 1200,
        "max_tokens": 4096,
        "token_count": 7,
        "epoch.pass": 3,
        "password_file": "/run/secrets/db",
        "db.name": "warehouse",
        "note": f"password={REDACTED}",
        f"password={REDACTED}": REDACTED,
        "none.password": None,
        "password.required": True,
    }
    assert Redactor(off=["assignment"]).attributes({"password": "abc"}) == {"password": "abc"}


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
            "MYSQL_PWD": "tenth-secret",
            "SNOWFLAKE_PW": "eleventh-secret",
            "STORAGE": "AccountName=a;AccountKey=twelfth-secret;EndpointSuffix=x",
            "OLDPWD": "/home/ana/other",
            "CLOUD_CREDENTIALS": "/home/ana/.config/cloud/key.json",
            "KAGGLE_KEY": "4thirteenth-secret",
            "SORT_KEY": "customer-identifier",
            "OTEL_EXPORTER_OTLP_HEADERS": "api-key=fifth-secret,authorization=Basic%20c2l4dGgtc2Vj",
            "OTEL_EXPORTER_OTLP_TRACES_HEADERS": "x-team=seventh-secret",
        },
        {
            "distributed": {"comm": {"tls": {"ca-file": "/etc/tls/ca.pem"}}},
            "gateway.auth.jupyterhub.api-token": "eighth-secret",
            "cloud": {"api-key": "ninth-secret", "workers": 4},
            "job": {"env": [{"name": "X_PASSWORD", "value": "fourteenth-secret"}]},
            "extra": ["export A_TOKEN=15teenth-secret"],
        },
    )
    words = "first second third fourth fifth seventh eighth ninth tenth eleventh twelfth"
    for word in [*words.split(), "4thirteenth", "fourteenth", "15teenth"]:
        separator = " " if word == "fourth" else "-"
        assert redact(f"<{word}{separator}secret>") == f"<{REDACTED}>", word
    assert "c2l4dGgtc2Vj" not in redact("sent c2l4dGgtc2Vj")
    for harmless in (
        "/run/secrets/db",
        "/tmp/ssh-XXXX/agent.1",
        "/home/ana/project",
        "/home/ana/other",
        "/home/ana/.config/cloud/key.json",
        "customer-identifier",
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


HURTING = [
    *("-", "--", "- ", "=", "==", ":", "'", '"', "\\", '\\"', "\\\\'"),
    *(" ", "\t", "@", "://", "<", "{", "(", "["),
    *("a@b://", "://a:", "://a:b@", "http://u:p/", "a:b@", "jdbc:oracle:thin:a/", "a:b@tcp("),
    *("password=", "password:", "password: "),
    *("password='", 'password="', 'password\\"', "password "),
    *("password is ", "password is '", "password for a ", "and pw ", "pw ", "identified by "),
    *("key=", "api_key=", "api_key: ", "key", "keykey", "secret"),
    *("secret ", "pwd={a", "auth=('a', '"),
    *("token=", "token:", "&sig=a", "sessionid=", "%3d", "password%3d", "&quot;", "\\u0022"),
    *("authorization: ", "authorization: basic ", "authorization:"),
    *("x-a-key: ", "x-a-b-c-", "bearer "),
    *("cookie: a='", "cookie: a=b;", "set-cookie: a=1;", "basic aaaaaaaaaaaa1 "),
    *("--password ", "--password x ", "'--password', ", "('password', 'x"),
    *("mysql -p", "mysql -p' "),
    *("curl -u a", "sshpass -p ", "mysql ", "sqlplus "),
    *("login a password ", "machine a ", "env password "),
    *("<password>", "<password", "&lt;password&gt;"),
    *("password</name> <value>", "password, value: "),
    *("eyJ", "eyJa.", "eyJaaaaaaaaa-", "eyJaaaaaaaaa.", "sk-", "sk-a"),
    *("Aa0", "Aa0-", "8Q~", "0-", "0:0:"),
    *("dXNlcj1l", "dXNlcj1ldGwmcGFzc3dvcmQ9aHVudGVyMg== ", "a:1234:b:c:", "AKIA", "1.1."),
    *("-----BEGIN " + "PRIVATE KEY-----"),
    *("-----END " + "PRIVATE KEY-----", "-----BEGIN ", "Private-Lines: 1 "),
    *("İ", "password=İ", "é"),
]  # fmt: skip


def work(text: str, redact: Redactor) -> float:
    start = process_time()
    redact(text)
    return process_time() - start


def grows_evenly(*texts: str) -> bool:
    """Whether each text costs less than nine times as much as the one before it.

    Each is four times as long, or the last is cut: quadratic work would be sixteen times as much.
    Under a millisecond nothing can be told, and one measurement may be disturbed.
    """
    redact = Redactor(secrets=["one-that-is-known"])
    least = [float("inf")] * len(texts)
    for _ in range(5):
        least = [min(best, work(text, redact)) for best, text in zip(least, texts, strict=True)]
        if all(more < 9 * max(less, 0.001) for less, more in pairwise(least)):
            return True
    return False


@pytest.mark.parametrize("unit", HURTING)
def test_time_is_linear_for_adversarial_texts(unit: str) -> None:
    lengths = (15_000, 60_000, 20 * MAX_TEXT)
    assert grows_evenly(*(unit * (length // len(unit)) for length in lengths))


@pytest.mark.parametrize(
    "units", [("(", "sessionid="), ("pwd={a", "sessionid="), ("a:b@tcp(", "token:")]
)
def test_time_is_linear_where_many_names_precede_one_long_value(units: tuple[str, str]) -> None:
    some = "".join(Random(3).choices(units, k=400))
    assert grows_evenly(
        *((some * (length // len(some) + 1))[:length] for length in (15_000, 60_000))
    )


@settings(max_examples=20, deadline=None)
@given(st.lists(st.sampled_from(HURTING), min_size=2, max_size=5), st.randoms())
def test_time_is_linear_for_mixtures_of_adversarial_texts(units: list[str], random: Random) -> None:
    some = "".join(random.choices(units, k=400))
    assert grows_evenly(
        *((some * (length // len(some) + 1))[:length] for length in (15_000, 60_000))
    )


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(HURTING), min_size=1, max_size=4), st.randoms())
def test_secrets_are_found_within_adversarial_texts(units: list[str], random: Random) -> None:
    before, after = ("".join(random.choices(units, k=50)) for _ in range(2))
    text = f"{before}\npassword=hunter22-x\n{after}\n--- one-that-is-known"
    redacted = Redactor(secrets=["one-that-is-known"])(text)
    assert "hunter22-x" not in redacted
    assert "one-that-is-known" not in redacted


def test_a_long_text_keeps_both_ends_and_shows_what_is_left_out() -> None:
    text = "first line\n" + "x y\n" * MAX_TEXT + "last line"
    redacted = Redactor()(text)
    assert redacted.startswith("first line\nx y\n")
    assert redacted.endswith("x y\nlast line")
    left_out = len(text) - MAX_TEXT
    assert f"[… {left_out:,} characters left out …]" in redacted
    assert len(redacted) <= MAX_TEXT + 100


@pytest.mark.parametrize("form", ["one-that-is-known", "password=hunter22-x", "glpat-" + "aB3" * 9])
def test_a_secret_across_the_cut_of_a_long_text_is_hidden(form: str) -> None:
    redact = Redactor(secrets=["one-that-is-known"])
    secret = form.rpartition("=")[2]
    for place in (MAX_TEXT // 2, 3 * MAX_TEXT - MAX_TEXT // 2):
        for shift in range(-len(form), 1):
            text = ("y " * 2 * MAX_TEXT)[: place + shift - 1] + " " + form + " "
            text += ("y " * 2 * MAX_TEXT)[: 3 * MAX_TEXT - len(text)]
            redacted = redact(text)
            assert not any(secret[:n] in redacted for n in range(6, len(secret) + 1)), shift


def test_a_text_with_too_many_possible_secrets_is_redacted_whole() -> None:
    text = "pw=a " * 8_000
    assert Redactor()(text) == (
        "[redacted: a text of 40,000 characters with too many possible secrets]"
    )


def test_ruled_lines_and_key_errors_cost_what_other_text_costs() -> None:
    ruled = ("-" * 79 + "\n") * 500 + "KeyError: duplicate key\n"
    plain = ("abc def g " * 8 + "\n") * 500 + "KeyError: duplicate key\n"
    assert grows_evenly(plain, ruled)
    assert Redactor()(ruled) is ruled


def test_a_text_of_any_length_is_redacted_in_whole_lines() -> None:
    key = (
        "-----BEGIN " + "PRIVATE KEY-----\n" + "MIIEvQ/x+\n" * 60 + "-----END " + "PRIVATE KEY-----"
    )
    for lines in range(MAX_TEXT // 10 - 60, MAX_TEXT // 10 + 2):
        text = "some text\n" * lines + key + "\npassword=hunter22-x\n" + "more text\n" * 9_000
        redacted = Redactor().lines(text)
        assert "MIIEvQ" not in redacted
        assert "hunter22" not in redacted
        assert redacted.count("some text\n") == lines
        assert redacted.count("more text\n") == 9_000
        break_near_the_key = lines > MAX_TEXT // 10 - 3
        if break_near_the_key:
            break


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=200), st.text(max_size=200), st.text(min_size=8, max_size=40))
def test_a_known_secret_never_comes_through(before: str, after: str, secret: str) -> None:
    redact = Redactor(secrets=[secret])
    assume(secret in redact.secrets)
    redacted = redact(before + secret + after)
    assert secret not in redacted.replace(REDACTED, "\0") or secret in REDACTED


def test_redacting_twice_changes_nothing_more() -> None:
    redact = Redactor()
    for message in labelled():
        once = redact(message.text)
        assert redact(once) == once
