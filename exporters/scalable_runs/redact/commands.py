"""Secrets in command lines, in sentences and in PostgreSQL's password files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from scalable_runs.redact.text import (
    MAX_CANDIDATES,
    PROSE,
    QUOTE,
    Span,
    has_digit,
    is_placeholder,
    is_template,
    spans_of_matches,
)

_BETWEEN: Final = rf"(?:[ \t]{{1,4}}|=|{QUOTE},[ \t]{{0,2}}[bu]?{QUOTE})"
_BEGIN_ARGUMENT: Final = rf"(?:[ \t]|{QUOTE},?[ \t]{{0,2}}[bu]?{QUOTE})"
_VALUE: Final = (
    r"(?P<value>(?<=')[^'\n\\]{3,256}(?=\\?')|(?<=\")[^\"\n\\]{3,256}(?=\\?\")|[^\s'\"`\\]{3,256})"
)
_Q: Final = r"['\"]?"
_USER_COLON: Final = r"[^\s'\":]{0,128}:"


def _flag(flags: str, *, attached: bool = False, before: str = "") -> str:
    between = f"{_BETWEEN}?" if attached else _BETWEEN
    return rf"{_BEGIN_ARGUMENT}-(?:{flags}){between}{_Q}{before}{_VALUE}"


#: Names of commands, and how their options take a password.
_COMMANDS: Final[dict[str, str]] = {
    r"mysql\w*|mariadb[\w-]*|7za?|rar|unrar|mydumper|myloader": rf"{_BEGIN_ARGUMENT}-p{_Q}{_VALUE}",
    r"sshpass": _flag("p", attached=True),
    r"curl|https?ie|wget|http": _flag(
        "u|-user|U|-proxy-user|a|-auth", attached=True, before=_USER_COLON
    ),
    r"(?:(?:docker|podman|helm|oras|crane|skopeo|nerdctl|buildah|cf|oc|az|ibmcloud)"
    r"(?:[ \t]+|['\"],[ \t]?['\"])(?:(?:registry|acr)(?:[ \t]+|['\"],[ \t]?['\"]))?login"
    r"|twine|mongo\w*)": _flag("p"),
    r"redis-cli|valkey-cli|keydb-cli": _flag("a|-pass"),
    r"ldap\w+": _flag("w"),
    r"sqlcmd|bcp|tsql|ipmitool|zip|unzip|mosquitto_\w+|isql": _flag("P", attached=True),
    r"smbclient|rpcclient|smbget|net": _flag("U", before=r"[^\s'\"%]{1,128}%"),
    r"lftp": _flag("u", before=r"[^\s'\",]{1,128},"),
    r"openssl": rf"{_BEGIN_ARGUMENT}(?:{_Q}pass:|-k{_BETWEEN}{_Q}){_VALUE}",
    r"ssh-keygen": _flag("N|P"),
    r"htpasswd": rf"[ \t]-\w*b\w*[ \t]+\S+[ \t]+\S+[ \t]+{_Q}{_VALUE}",
    r"rabbitmqctl": rf"(?:add_user|change_password)[ \t]+\S+[ \t]+{_Q}{_VALUE}",
    r"xfreerdp|rdesktop": rf"[ \t](?:/p:|-p[ \t]?){_Q}{_VALUE}",
    r"snmp\w+": _flag("A|X"),
}
_OPTIONS: Final = tuple(map(re.compile, _COMMANDS.values()))
_ANY_FLAG: Final = re.compile(
    r"[ \t'\"](?:-[-aubpwAPUX]\S|-[auwpkAPUXN][ '\"]|/p:|pass:|add_user|change_pas)"
)
_COMMAND: Final = re.compile(
    "|".join(
        rf"(?P<c{number}>(?<![\w.-])(?:{names})(?:\.exe)?(?![\w.-])(?=[ \t'\"]))"
        for number, names in enumerate(_COMMANDS)
    )
)
_LINE_REST: Final = re.compile(r"[^\r\n]{0,400}")


def has_flag(text: str) -> bool:
    """Return whether a text may have such an option in it."""
    return _ANY_FLAG.search(text) is not None


def commands(text: str, lowered: str) -> Iterator[Span]:
    """Find passwords in short options of commands."""
    found = list(_COMMAND.finditer(lowered))
    for number, command in enumerate(found[:MAX_CANDIDATES]):
        assert command.lastgroup is not None
        options = _OPTIONS[int(command.lastgroup[1:])]
        # The arguments of a command may name a few others.
        limit = found[number + 3].start() if number + 3 < len(found) else len(text)
        rest = _LINE_REST.match(text, command.end(), max(limit, command.end()))
        assert rest is not None
        for match in options.finditer(text, command.end(), rest.end()):
            value = match["value"]
            if not is_placeholder(value) and not is_template(value) and value.lower() not in PROSE:
                yield match.span("value")


_SENTENCE: Final = re.compile(
    rf"(?:pass(?:word|phrase|code)|identified by|\bpw)(?: is| was| of"
    rf"| for [\w'\"@.-]{{1,64}}(?: is)?)?(?:[ \t]{{1,2}}|[ \t]?(?P<call>\())"
    rf"(?P<quote>{QUOTE})(?P<value>[^\s'\"`\\]{{4,256}})(?=(?P=quote))"
    r"|(?:password|passphrase|passcode)(?:(?: for [\w .@'-]{1,60}?)? (?:is|was|to)"
    r"|(?: for [\w .@'-]{1,60}?):)[ \t:]{1,2}(?P<plain>[^\s'\"`,;]{4,256})"
    r"|(?:passwords? |identified by |\b(?:and|with|the) pw )(?P<bare>[^\s'\"`,;:=()\[\]{}]{5,256})",
    re.IGNORECASE,
)


def sentences(text: str, lowered: str) -> list[Span]:
    """Find passwords in sentences: `password for ana is hunter2`, `IDENTIFIED BY 'x1y2'`."""
    if "pass" in lowered or "pw " in lowered or "identified by" in lowered:
        return spans_of_matches(_SENTENCE, _sentence_span, text)
    return []


def _sentence_span(match: re.Match[str]) -> Span | None:
    value = match["value"]
    if value is not None:
        if match["call"] is not None and not match.group()[:8].isupper():
            return None
        return None if is_placeholder(value) or is_template(value) else match.span("value")
    group = "plain" if match["plain"] is not None else "bare"
    value = match[group].rstrip(".")
    symbols = sum(not character.isalnum() for character in value)
    if not has_digit(value) or not any(map(str.isalpha, value)):
        return None
    if symbols and value.islower() and not any(c in "!@#$%^&*+~" for c in value):
        return None
    if group == "bare" and ((not symbols and value[0].isdigit()) or "_" in value or "/" in value):
        return None
    if is_placeholder(value) or is_template(value) or value.startswith(("-", "<", "%")):
        return None
    return match.start(group), match.start(group) + len(value)


_PGPASS: Final = re.compile(
    r"(?<![^\s'\"`\\])(?:n(?<=\\n))?[\w.*-]{1,128}:(?:\d{4,5}"
    r"|\*):[\w.*$-]{1,64}:[\w.*@-]{1,64}:(?P<value>(?:\\:|[^\s:'\"]){3,256})(?![^\s'\"])"
)


def password_files(text: str) -> list[Span]:
    """Find passwords in lines of PostgreSQL's password file, host:port:database:user:password."""
    return spans_of_matches(_PGPASS, _pgpass_span, text)


def _pgpass_span(match: re.Match[str]) -> Span | None:
    value = match["value"]
    return None if is_placeholder(value) or value.isdigit() else match.span("value")
