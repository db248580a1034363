"""Values that are assigned to names of secrets: `password = …`, `--token …`, `<pwd>…`."""

from __future__ import annotations

import binascii
import re
from typing import Final, NamedTuple

from scalable_runs.redact.commands import commands, has_flag, password_files, sentences
from scalable_runs.redact.headers import headers
from scalable_runs.redact.text import (
    IDENTIFIER,
    LOOK_AHEAD,
    MAX_CANDIDATES,
    PROSE,
    QUOTE,
    Span,
    TooManyCandidatesError,
    closing_quote,
    contains_any,
    has_digit,
    is_placeholder,
    is_template,
    match_end,
    words,
)
from scalable_runs.redact.urls import urls

#: A text without one of these has no assignment in it.
_HINTS: Final = ("pass", "key", "auth", "secret", "pw", "psk", "credential", "identified by")
_TOKEN_HINTS: Final = ("token", "sig", "jwt", "session", "otp")


def assignments(text: str, lowered: str) -> list[Span]:
    """Find what is assigned to names of secrets, and passwords in options of commands."""
    spans: list[Span] = []
    if contains_any(lowered, _HINTS):
        spans = _named(text, lowered, _STRONG, weak=False) + sentences(text, lowered)
    if text.count(":") >= 4:
        spans += password_files(text)
    if has_flag(text):
        spans += commands(text, lowered)
    return spans


def tokens(text: str, lowered: str) -> list[Span]:
    """Find what is assigned to names such as `token`, if it looks like a secret."""
    if contains_any(lowered, _TOKEN_HINTS):
        return _named(text, lowered, _WEAK, weak=True)
    return []


_CONTROL: Final = re.compile(r"[^\t\r\n -~]")
_USER_AND_PASSWORD: Final = re.compile(r"[^\s:/]{1,64}:[^\s:]{4,256}")


def encodes_secret(run: str) -> bool:
    """Return whether base64 encodes a text with a secret in it, or a user and a password."""
    data = run.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        decoded = binascii.a2b_base64(data[: len(data) - (len(data) % 4 == 1)] + "==")
    except binascii.Error:
        return False
    text = decoded.decode("ascii", "replace")
    if "\ufffd" in text or _CONTROL.search(text) is not None:
        return False
    if _USER_AND_PASSWORD.fullmatch(text) is not None:
        return True
    lowered = text.lower()
    return any(find(text, lowered) for find in (urls, headers, assignments, tokens))


# Names

_STRONG: Final = re.compile(
    r"passw(?:or)?d|passphrase|passcode|pass|pwd|pw|psk|secret|credential|key|auth|connectionstring"
)
_WEAK: Final = re.compile(r"token|sig(?:nature)?|jwt|session(?:[_-]?id)?|otp")
#: Names of secrets only if they are separate words.
_SHORT_NAMES: Final = words("pass pwd pw psk auth sig jwt otp session")
#: What may follow a name directly.
_ENDINGS: Final = words("s key keys value text string id word phrase") | {""}
#: Words before `key` and `pass` that make a name of a secret.
_KEY_KINDS: Final = tuple(words("""
    instrumentation api access private account auth encryption signing shared service license
    master secret storage fernet session subscription webhook client decryption admin host app
    application primary secondary hmac wandb openai kaggle
"""))  # fmt: skip
_PASS_KINDS: Final = tuple(words("store key require smtp sql redis user root admin db trust"))
#: Endings of names that hold a secret's name or place, not the secret.
_LOCATION_SUFFIX: Final = re.compile(
    r"(?:[_.-](?:file|path|dir|names?|ids?|ref|uri|type|len|length|policy|fields?|prompt|input"
    r"|manager|mgr|expiry|ttl|version|arn|provider|state|count|hash_?name|callback|func|function"
    r"|class|env|var|validator|url|endpoint|required|min|max|size|cache|error|handler|format|list"
    r"|map|set|chars|protected|reset|change)|keyname|keyid|name|file|path)$"
)
_NAME_REST: Final = re.compile(r"(?P<letters>[a-z]{0,40}+)(?P<rest>[\w.-]{0,64}+)")
_SEPARATOR: Final = re.compile(
    rf"(?P<close>{QUOTE})?[ \t]{{0,2}}[\])]?"
    r"(?:[ \t]{0,20}(?P<op>:[ \t]*(?:typing\.)?(?:optional\[)?(?:str|bytes"
    r"|secretstr)\]?(?:[ \t]*\|[ \t]*none)?"
    r"[ \t]*=(?!=)|:=|=>|===?|=~|!=|=(?:3d)?|:(?!:)|%3d"
    r"|%3a(?:%20|\+)?)[ \t]{0,8}(?:\r?\n(?=[ \t]{2,}\S)[ \t]{1,40})?"
    rf"|(?P<attribute>[ \t]{{1,4}}value=|\s{{1,40}}value:[ \t])"
    r"|(?P<tag>(?:\s[^<>\n]{0,80}?)?(?:>|&gt;)|(?:</name>|&lt;/name&gt;)\s{0,80}(?:<value>"
    r"|&lt;value&gt;))"
    rf"|(?P<pair>[ \t]{{0,2}},\s{{0,40}}{QUOTE}?value{QUOTE}?[ \t]{{0,2}}[:=][ \t]{{0,2}})"
    r"|(?P<item>[ \t]{0,2},[ \t\r\n]{0,8})"
    r"|(?P<space>[ \t]{1,4}))"
)
_OPENING: Final = re.compile(rf"[bfru]{{0,2}}(?P<quote>{QUOTE})", re.IGNORECASE)


class _Assignment(NamedTuple):
    """A name of a secret, and what separates it from its value."""

    text: str
    lowered: str
    #: Start of the significant part of the name, and the name from there on.
    start: int
    name: str
    separator: re.Match[str]
    opening: re.Match[str] | None
    #: The value must look like a secret itself.
    weak: bool

    @property
    def at(self) -> int:
        """Where the value starts, or its opening quotation mark."""
        return self.separator.end()


def _named(text: str, lowered: str, anchors: re.Pattern[str], *, weak: bool) -> list[Span]:
    """Return the values that are assigned to names of secrets."""
    spans: list[Span] = []
    at = count = 0
    while (anchor := anchors.search(lowered, at)) is not None:
        at = anchor.end()
        end = _name_end(text, lowered, anchor)
        if end < 0:
            continue
        count += 1
        if count > MAX_CANDIDATES:
            raise TooManyCandidatesError
        separator = _SEPARATOR.match(lowered, end)
        if separator is None:
            continue
        opening = _OPENING.match(text, separator.end())
        name = lowered[anchor.start() : end]
        span = _assigned(_Assignment(text, lowered, anchor.start(), name, separator, opening, weak))
        if span is not None:
            spans.append(span)
            at = max(at, span[1])
        elif separator["op"] is not None:
            at = max(at, end)
    return spans


def _name_end(text: str, lowered: str, anchor: re.Match[str]) -> int:
    """Return the end of the name that contains an anchor; -1 if it is not a name of a secret."""
    start, end = anchor.span()
    word = anchor.group()
    if word == "key":
        before = lowered[max(0, start - 16) : start].rstrip("_-. ")
        # Only after certain words: `sort_key` is not secret.
        if not before.endswith(_KEY_KINDS):
            return -1
    elif (
        word in _SHORT_NAMES
        and start
        and lowered[start - 1].isalpha()
        and not _begins_hump(text, start)
        and not (word == "pass" and lowered[max(0, start - 8) : start].endswith(_PASS_KINDS))
    ):
        return -1
    rest = _NAME_REST.match(lowered, end)
    assert rest is not None
    letters = rest["letters"]
    if letters:
        humps = next((n for n in range(len(letters)) if _begins_hump(text, end + n)), None)
        if letters[:humps] not in _ENDINGS or (word in _SHORT_NAMES and humps != 0):
            return -1
    name_end = rest.end()
    # A full stop or a dash at its end is not part of the name.
    while name_end > end and lowered[name_end - 1] in ".-":
        name_end -= 1
    if _LOCATION_SUFFIX.search(lowered, end, name_end):
        return -1
    # The last word of `auth.rootPassword` decides.
    return -1 if word == "auth" and _STRONG.search(lowered, end, name_end) else name_end


def _begins_hump(text: str, at: int) -> bool:
    return text[at].isupper() and text[at - 1].islower()


# Values

_ENCODED_BARE: Final = re.compile(r"(?:(?!%2[26]|%27|%7d|%0a|%20|%3b)[^\s'\"&;<>])+", re.IGNORECASE)
_AUTH_PAIR: Final = re.compile(rf"\([ \t]*{QUOTE}[^'\"\n]{{0,128}}{QUOTE},[ \t]*({QUOTE})")


def _assigned(found: _Assignment) -> Span | None:
    text, at = found.text, found.at
    op, kind = found.separator["op"], found.separator.lastgroup
    if kind == "tag":
        return _in_tag(found)
    if kind == "item":
        return _as_item(found)
    if kind == "space":
        return _spaced(found)
    if op in ("==", "===", "!=", "=~"):
        return None
    if found.opening is not None:
        return _quoted(found, found.opening)
    if op is not None and op.startswith("%"):
        value = _ENCODED_BARE.match(text, at)
        if value is None or len(value.group()) < 3:
            return None
        return None if found.weak and not has_digit(value.group()) else value.span()
    if text.startswith("{", at):
        return _in_braces(found)
    if found.name == "auth" and text.startswith("(", at):
        pair = _AUTH_PAIR.match(text, at)
        end = closing_quote(text, pair.end(), pair[1]) if pair is not None else None
        return (pair.end(), end) if pair is not None and end is not None else None
    return _bare(found, op or "=")


_NESTED: Final = re.compile(
    r"[\w.-]{0,40}(?:passw(?:or)?d|passphrase|secret|credentials?|pwd|key|token"
    r"|_pass)[\w-]{0,40}[=:]",
    re.IGNORECASE,
)


def _quoted(found: _Assignment, opening: re.Match[str]) -> Span | None:
    text, start = found.text, opening.end()
    end = closing_quote(text, start, opening["quote"])
    if end is None:
        # Cut off, or not closed on this line.
        end = match_end(_BARE, text, start)
        if end - start < 6 or not has_digit(text[start:end]):
            return None
    return (start, end) if _is_quoted_secret(text[start:end], found) else None


def _is_quoted_secret(value: str, found: _Assignment) -> bool:
    if len(value) < 3 or is_placeholder(value) or is_template(value):
        return False
    if _NESTED.match(value) or value.endswith((":", "?")):
        return False
    parts, name, digit = value.split(), found.name, has_digit(value)
    if len(parts) > 8 or (len(parts) > 2 and any(part.lower() in PROSE for part in parts)):
        return False
    if name.startswith("auth"):
        if len(parts) != 1 or len(value) < 8:
            return False
        return (digit and not value.replace(".", "").isdigit()) or encodes_secret(value)
    if name.startswith("credential") and len(parts) > 1:
        return False
    lowered = value.lower()
    if lowered == name or (lowered.isalpha() and lowered in name):
        return False
    is_identifier = IDENTIFIER.fullmatch(value) is not None
    if lowered.endswith(name) and not digit and is_identifier:
        return False
    if found.weak:
        return len(parts) == 1 and len(value) >= 6 and digit and not value.isdigit()
    if found.separator["close"] is None and is_identifier and "_" in value and value.islower():
        # `field="user_password"`: the name of something.
        return not _NESTED.match(f"{value}=")
    return True


_BARE: Final = re.compile(
    r"(?:[^\s'\"`,;&<>(){}\[\]|\\]++|&(?!amp;|quot;|lt;|gt;|#\d|[\w.-]{1,40}=)"
    r"|,(?=\S)(?![\w.\"'-]{1,40}[=:]|['\"{\[(])"
    r"|\\(?![nrtuxabfv0\"'\\`]))+"
)
_REST: Final = re.compile(r"[^\s'\"`;]*+")
#: A part of a connection string.
_SEMICOLON_PART: Final = re.compile(r"[^;\r\n'\"]{1,256}")
_MECHANISM: Final = re.compile(r"[A-Z0-9]+(?:-[A-Z0-9]+)*|[A-Za-z]+")


def _bare(found: _Assignment, op: str) -> Span | None:
    text, at, pattern = found.text, found.at, _BARE
    # A longer value is judged by its beginning: many names may be followed by one long text.
    limit = at + LOOK_AHEAD
    match = pattern.match(text, at, limit)
    if match is None:
        return None
    end = match.end()
    while end > at and text[end - 1] in ".:," and (end >= len(text) or text[end] in " \t\r\n\"'"):
        end -= 1
    value, after = text[at:end], text[end : end + 1]
    before = found.lowered[max(0, found.start - LOOK_AHEAD) : found.start]
    in_string = op == "=" and before.rstrip(" \t").endswith(";")
    if in_string and ";" in text[at : at + 256]:
        # In a connection string a value extends to the semicolon, spaces too.
        part = _SEMICOLON_PART.match(text, at)
        if part is not None:
            end, value, after = part.end(), part.group().rstrip(), ""
    if is_placeholder(value) or _NESTED.match(value) or value.startswith(("/", "~/", "$", "@")):
        return None
    if after and after in "([{":
        # A call or a subscript, if it follows a name.
        if not value or IDENTIFIER.fullmatch(value):
            return None
        pattern = _REST
        rest = pattern.match(text, end, limit)
        end = rest.end() if rest is not None else end
        value = text[at:end]
    if len(value) < (3 if in_string else 4):
        return None
    if not _is_bare_secret(value, found, op, end, in_string=in_string):
        return None
    return at, match_end(pattern, text, end) if end == limit else end


def _is_bare_secret(value: str, found: _Assignment, op: str, end: int, *, in_string: bool) -> bool:
    name, lower = found.name, value.lower()
    digit = has_digit(value)
    is_identifier = IDENTIFIER.fullmatch(value) is not None
    is_compound = "_" in value or "." in value
    spaced = " " in found.separator.group() or "\t" in found.separator.group()
    if name.startswith("auth"):
        # Not `AUTH=CRAM-MD5`, `auth: required`.
        return digit and len(value) >= 8 and _MECHANISM.fullmatch(value) is None
    if found.weak:
        return _is_token(value, found, spaced=spaced, is_identifier=is_identifier)
    if value.replace(".", "").replace("_", "").isdigit() and (
        op != "=" or spaced or len(value) < 4
    ):
        return False
    if is_identifier and (lower in name or (lower.endswith(name) and not digit)):
        return False
    if op == "=" and not spaced:
        return not is_identifier or not is_compound or digit or in_string
    if not is_identifier:
        # Not `name: Type[…]`, `pass: 3.5 s`, `key: value` in a sentence.
        return digit or ":" not in value
    if digit:
        return not is_compound or not value.islower() or op == ":"
    if is_compound or op != ":" or len(value) < 6 or not value.islower() or lower in PROSE:
        return False
    return _is_alone(found, end)


def _is_alone(found: _Assignment, end: int) -> bool:
    """Return whether `password: swordfish` is a whole line, or the end of a YAML line."""
    text, lowered, start = found.text, found.lowered, found.start
    begin = lowered.rfind("\n", 0, start) + 1
    stop = lowered.find("\n", end)
    rest = text[end : stop if stop >= 0 else len(text)].strip(" \t\r'\"\\n")
    head = lowered[begin:start].strip(" \t-#*>'\"_")
    return not rest and len(head) <= 24 and found.separator["close"] is None


def _is_token(value: str, found: _Assignment, *, spaced: bool, is_identifier: bool) -> bool:
    if not has_digit(value):
        # In a URL the value of any `token` is secret.
        in_url = found.start > 0 and found.lowered[found.start - 1] in "?&"
        return in_url and len(value) >= 4
    if value.isdigit() or (value.count(".") == 1 and value.replace(".", "").isdigit()):
        return False
    if len(value) >= 16:
        return True
    if len(value) < (10 if spaced else 6) or not any(map(str.isalpha, value)):
        return False
    # Not `token=tok2`.
    return not (is_identifier and re.fullmatch(r"[A-Za-z_.]+\d{0,2}", value))


_TAG_CONTENT: Final = re.compile(r"(?:<!\[CDATA\[)?((?:(?!\]\]>|&lt;)[^<\r\n]){3,1024})")


def _in_tag(found: _Assignment) -> Span | None:
    """`<password>…</password>`, also with attributes, a prefix, or escaped."""
    lowered, start = found.lowered, found.start
    begin = max(lowered.rfind(mark, max(0, start - 80), start) for mark in ("<", "&lt;"))
    if begin < 0 or re.search(r"[\s/>]", lowered[begin + 1 : start].removeprefix("name>")):
        return None
    content = _TAG_CONTENT.match(found.text, found.at)
    if content is None or not found.text.startswith(("</", "&lt;/", "]]>"), content.end()):
        return None
    value = content[1].strip()
    if is_placeholder(value) or is_template(value) or (found.weak and not has_digit(value)):
        return None
    return content.span(1)


def _in_braces(found: _Assignment) -> Span | None:
    """ODBC's `Pwd={…}`; a name in braces is one of a template."""
    text, at = found.text, found.at
    end = text.find("}", at, at + 256)
    while end >= 0 and text.startswith("}}", end):
        end = text.find("}", end + 2, at + 256)
    if end < 0 or "\n" in text[at:end]:
        return None
    value = text[at + 1 : end]
    if len(value) < 3 or value.startswith(("{", "'", '"', "%")) or is_placeholder(value):
        return None
    if re.fullmatch(r"[\w.!:\[\]()'\" ]*", value):
        window = found.lowered[max(0, at - 256) : at + 256]
        is_odbc = any(name in window for name in ("uid=", "driver=", "server=", "dsn="))
        if not is_odbc or not has_digit(value):
            return None
    return at + 1, end


# Arguments

_ARGUMENT: Final = re.compile(r"[^\s'\"`]{1,1024}")
_PAIR_BEGIN: Final = re.compile(rf"\([ \t]*[bu]?{QUOTE}$")
#: What may precede a name if a space takes the place of `=`.
_BEFORE_SPACED: Final = re.compile(
    r"(?:(?:^|\n)[ \t]*(?:env|setenv|setx|set)[ \t]+[\w.-]*|login[ \t]+\S{1,64}\s+"
    r"|machine[ \t]+\S{1,64}\s+(?:[\w ]{0,80}\s)?"
    r"|require|master)$"
)


def _as_item(found: _Assignment) -> Span | None:
    """`'--password', 'X'` in a list of arguments; `('password', 'X')` in one of pairs."""
    text, opening = found.text, found.opening
    if opening is None or found.separator["close"] is None:
        return None
    end = closing_quote(text, opening.end(), opening["quote"])
    if end is None:
        return None
    value = text[opening.end() : end]
    if _is_option(found):
        return (opening.end(), end) if _is_argument(value, found.name) else None
    begin = _word_begin(found.lowered, found.start, "_.-")
    if not _PAIR_BEGIN.search(text[max(0, begin - 20) : begin]):
        return None
    is_closed = text[end + len(opening["quote"]) :][:3].lstrip().startswith(")")
    looks_secret = has_digit(value) or not value.replace("_", "").isalnum()
    if not is_closed or not looks_secret or " " in value or len(value) < 4:
        return None
    return None if is_placeholder(value) else (opening.end(), end)


def _spaced(found: _Assignment) -> Span | None:
    """`--password X`, `ENV DB_PASSWORD X`, `login u password X`."""
    text, opening, at = found.text, found.opening, found.at
    if found.separator["close"] is not None:
        return None
    if opening is not None:
        at = opening.end()
        end = closing_quote(text, at, opening["quote"])
    else:
        end = match_end(_ARGUMENT, text, at)
    if end is None or end == at:
        return None
    value = text[at:end]
    if _is_option(found):
        # Not in a text on usage: `[--password PASSWORD]`.
        is_usage = value.endswith("]") and value.isupper()
    else:
        before = _BEFORE_SPACED.search(found.lowered[max(0, found.start - 160) : found.start])
        if before is None:
            return None
        is_usage = found.name == "pass" and before.group() not in ("require", "master")
    return (at, end) if not is_usage and _is_argument(value, found.name) else None


def _is_option(found: _Assignment) -> bool:
    """Return whether a name is an option of a command: `--db-password`, `-storepass`."""
    lowered, start = found.lowered, found.start
    before = lowered[_word_begin(lowered, start, "-_", 40) : start]
    if before.startswith("--"):
        return True
    # With one dash only what cannot be several short options.
    return (
        before[:1] == "-"
        and lowered.startswith("pass", start)
        and (before == "-" or before[1:].isalpha())
    )


def _word_begin(lowered: str, start: int, others: str, limit: int = 1024) -> int:
    """Return the start of the word of letters, digits and `others` that continues at `start`."""
    begin = start
    while begin > max(0, start - limit) and (
        lowered[begin - 1].isalnum() or lowered[begin - 1] in others
    ):
        begin -= 1
    return begin


def _is_argument(value: str, name: str) -> bool:
    """Return whether the word after an option is its value, not part of a sentence or a usage."""
    if len(value) < 3 or value.startswith(("-", "=", "(", "|", "\\")) or is_placeholder(value):
        return False
    bare = value.rstrip("]).,;:'\"")
    if bare.lower() in PROSE or is_template(value) or bare.startswith(("/", "~/")):
        return False
    is_metavar = bare.isupper() and bare.replace("_", "").isalpha()
    return not (is_metavar and (bare.lower() in name or name in bare.lower() or len(bare) < 6))
