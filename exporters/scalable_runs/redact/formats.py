"""Secrets that are known by their format: keys of providers, JWT, private keys, base64."""

from __future__ import annotations

import re
from typing import Final

from scalable_runs.redact.assignments import encodes_secret
from scalable_runs.redact.text import MAX_CANDIDATES, Span, TooManyCandidatesError

#: A text without a run of these characters has no key in it.
_RUN: Final = re.compile(r"[A-Za-z0-9_.~+/=:$%-]{18,}+")
#: Present in a run with a key, and rarely in a long name.
_MIXED: Final = re.compile(r"[0-9]|[a-z][A-Z][a-z]{0,2}[A-Z]|[A-Z]{3}[a-z]{3}")
_BASE64: Final = re.compile(r"[A-Za-z0-9+/_-]{20,}+={0,2}")

#: Keys that start a word, by kind of provider; the patterns are separated by white space.
_KEYS: Final = {
    "clouds": r"""
        (?:AKIA|ASIA|ABIA|ACCA)[0-9A-Z]{16}(?![0-9A-Z])
        (?:FwoGZXIvYXdz|IQoJb3JpZ2lu)[A-Za-z0-9+/=%]{20,}+ ABSK[A-Za-z0-9+/]{40,}+=*
        AIza[0-9A-Za-z_-]{35} ya29\.[0-9A-Za-z_.-]{20,}+ GOCSPX-[\w-]{20,}+ 1//0[\w-]{20,}+
        [A-Za-z0-9+/]{86}==(?![A-Za-z0-9+/=]) LTAI[A-Za-z0-9]{12,}+ AKID[A-Za-z0-9]{13,}+
        do[opr]_v1_[a-f0-9]{40,}+ (?:AQVN|YC)[A-Za-z0-9_-]{35,38}(?![\w-])
        t1\.[A-Z0-9a-z_-]+[=]{0,2}\.[A-Z0-9a-z_-]{86} SWMTKN-1-[a-z0-9-]{40,}+ sha256~[\w-]{40,}+
        (?:HRKU|rnd|nfp|vcp|napi|sbp|sb_secret)[_-](?=[\w=.,+/-]{0,40}[0-9])[\w=.,+/-]{20,}+
        (?:pscale_(?:tkn|pw|oauth)|fo1|fm[12][ar]?)[_-](?=[\w=.,+/-]{0,40}[0-9])[\w=.,+/-]{20,}+
        (?:cfut|cfat|hcp)[_-](?=[\w=.,+/-]{0,40}[0-9])[\w=.,+/-]{20,}+
        v1\.0-[a-f0-9]{24}-[a-f0-9]{100,}+ [\w]{14}\.atlasv1\.[\w-]{40,}+ pul-[a-f0-9]{40}
    """,
    "code and packages": r"""
        gh[pousr]_[A-Za-z0-9]{20,}+ github_pat_\w{22,}+
        gl(?:pat|dt|rt|rtr|cbt|ptt|ft|soat|imt|agent|oas|wt|ffct)-[\w.-]{16,}+ GR1348941[\w-]{20,}+
        npm_[A-Za-z0-9]{36,}+ pypi-[\w-]{40,}+ rubygems_[a-f0-9]{40,}+ oy2[a-z0-9]{43}(?![a-z0-9])
        CLOJARS_[a-z0-9]{50,}+ dckr_[op]at_[\w-]{20,}+ AKCp[A-Za-z0-9]{50,}+
        cmVmdGtuO[A-Za-z0-9]{40,}+ (?:ATATT3xFfGF0|ATCTT3xFfGN0|ATBB|ATOA|BBDC-)[\w=+/-]{20,}+
        bk(?:ua|aj|ct)_[a-z0-9]{30,}+ CCIP(?:AT|RJ)_[\w]{30,}+ sgp_[\w]{30,}+ sq[apu]_[a-f0-9]{40}
        snyk_\w{20,}+ PMAK-[a-f0-9]{24}-[a-f0-9]{30,}+
    """,
    "secret stores": r"""
        hv[sbr]\.[\w-]{20,}+ dp\.(?:pt|st|ct|sa|said|scim|audit)\.[\w.-]{20,}+
        AGE-SECRET-KEY-1[0-9A-Z]{20,}+ ops_eyJ[\w-]{40,}+ A3-[A-Z0-9]{6}-(?:[A-Z0-9]{5,11}-?){3,6}
        \$(?:1|2[abxy]|5|6|y|gy|apr1|argon2(?:id|i|d)|scrypt|pbkdf2[\w-]*)\$[\w./$=,+-]{20,}+
        tskey-[a-z]{2,12}-[\w-]{16,}+
    """,
    "models and data": r"""
        sk-(?=[A-Za-z_-]{0,60}[0-9])[\w-]{20,}+ (?:pk-lf|sk_or)-[\w-]{20,}+
        (?:pplx-|gsk_|xai-|nvapi-|pcsk_|tgp_v1_)(?=[A-Za-z_-]{0,60}[0-9])[\w-]{24,}+
        (?:fw_|jina_|csk-|voyage-|pa-)(?=[A-Za-z_-]{0,60}[0-9])[\w-]{24,}+
        hf_[A-Za-z0-9]{30,}+ api_org_[A-Za-z0-9]{30,}+ lsv2_[a-z]{2}_\w{30,}+ wandb_v1_\w{30,}+
        r8_[A-Za-z0-9]{30,}+ KGAT_\w{20,}+ da?pi[0-9a-f]{32}(?:-\d+)?(?![0-9a-z])
        dbt[csu]_[\w=+/-]{30,}+ pn[ub]_[A-Za-z0-9]{30,}+ mdb_sa_(?:sk|id)_\w{20,}+
        4b1d[A-Za-z0-9]{38}(?![A-Za-z0-9])
    """,
    "monitoring": r"""
        gl(?:c|sa)_[\w=+/-]{28,}+ NR(?:AK|JS|II|RA|IQ|AL)-[\w-]{16,}+ sntry[su]_[\w=+/-]{30,}+
        hc[abx]ik_\w{20,}+ dt0[a-z]\d\d\.[A-Z0-9]{20,28}\.[A-Z0-9]{40,}+
        pat(?:[A-Za-z0-9]{14}\.[a-f0-9]{64}|-(?:na|eu|ap)\d-[a-f0-9-]{30,}+)
    """,
    "messages and payments": r"""
        xox[a-z](?:\.xox[a-z])?-[A-Za-z0-9-]{10,}+ xapp-\d-[A-Za-z0-9-]{20,}+
        [srp]k_(?:live|test)_[A-Za-z0-9]{10,}+ whsec_[A-Za-z0-9+/=_-]{20,}+ sk_[a-f0-9]{40,}+
        [MNO][\w-]{23,27}\.[\w-]{6}\.[\w-]{27,}+ \d{8,10}:AA[\w-]{30,}+ SG\.[\w-]{16,}+\.[\w-]{16,}+
        SK[0-9a-f]{32}(?![0-9a-z]) key-[0-9a-f]{32} [0-9a-f]{32}-us\d{1,2}(?!\w)
        [0-9a-f]{32}-[0-9a-f]{8}-[0-9a-f]{8}(?![\w-]) x(?:keysib|smtpsib)-[a-f0-9]{40,}+(?:-\w+)?
        re_[A-Za-z0-9]{6,12}_[A-Za-z0-9]{16,}+ shp(?:at|ca|pa|ss|tka)_[a-fA-F0-9]{32}
        sq0[a-z]{3}-[\w-]{20,}+ EAA[A-Za-z0-9]{30,}+
        access-(?:sandbox|development|production)-[0-9a-f-]{30,}+
        access_token\$(?:production|sandbox)\$\w{10,}+\$\w{20,}+
        FLW(?:SECK|PUBK)(?:_TEST)?-[\w-]{10,}+ A{20}[A-Za-z0-9%]{60,}+ secret_[A-Za-z0-9]{43}(?!\w)
        ntn_[A-Za-z0-9]{40,}+ lin_(?:api|oauth)_[A-Za-z0-9]{30,}+ figd_[\w-]{30,}+ sl\.[\w-]{60,}+
        (?:EZAK|EZTK)[A-Za-z0-9]{50,}+ shippo_(?:live|test)_[a-f0-9]{40}
        (?:live|test)_[a-f0-9]{35}(?!\w) CFPAT-[\w-]{40,}+ rdme_[a-z0-9]{60,}+ API-[A-Z0-9]{24,}+
    """,
    "JWT and JWE": r"""
        (?<![\w-])eyJ[\w-]{8,}+\.(?:eyJ)?[\w-]{0,}+(?:\.[\w-]*+){1,3}
    """,
}
#: Keys that are recognised by the text before them or in their middle.
_KEYS_IN_CONTEXT: Final = r"""
    (?<=[\w~.-]{3})[78]Q~[\w~.-]{31,}+ (?<=/bot)\d{8,10}:AA[\w-]{30,}+
    (?<=hooks\.slack\.com/)(?:services|workflows|triggers)/[\w/]{20,}+
    (?<=/api/webhooks/)\d{10,}+/[\w-]{40,}+ (?<=webhook\.office\.com/)[\w@/-]{40,}+
"""
_KEY: Final = re.compile(
    rf"(?<![A-Za-z0-9])(?:{'|'.join(' '.join(_KEYS.values()).split())})"
    rf"|{'|'.join(_KEYS_IN_CONTEXT.split())}"
)


def formats(text: str, lowered: str) -> list[Span]:
    """Find keys of known formats, private keys and base64 that encodes a secret."""
    spans: list[Span] = []
    if "PRIVATE KEY" in text or "Private-Lines" in text:
        spans = _private_keys(text)
    count = 0
    for run in _RUN.finditer(text):
        start, end = run.span()
        if _MIXED.search(text, start, end) is None:
            continue
        for match in _KEY.finditer(text, start, end):
            # The format of an Azure client secret starts three characters before its `Q~`.
            before = 3 if text.startswith("Q~", match.start() + 1) else 0
            spans.append((match.start() - before, match.end()))
        for match in _BASE64.finditer(text, start, end):
            count += 1
            if count > MAX_CANDIDATES:
                raise TooManyCandidatesError
            if encodes_secret(match.group()):
                spans.append(match.span())
    return spans


_PEM_BEGIN: Final = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
_PEM_END: Final = re.compile(r"-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
#: The rest of a key whose end was cut off.
_PEM_BODY: Final = re.compile(
    r"(?:(?:\s|\\+[nr])*+(?:Proc-Type|DEK-Info|Version|Comment|Hash): [^\r\n\\]{1,200})*+"
    r"(?:[A-Za-z0-9+/=\s]|\\+[nr])*+"
)
#: A line of a key whose beginning was cut off.
_PEM_LINE: Final = re.compile(r"[A-Za-z0-9+/=_-]{1,80}")
_MAX_PEM: Final = 20_000
_PUTTY: Final = re.compile(
    r"Private-Lines: \d{1,4}((?:\s|\\+[nr])++(?:[A-Za-z0-9+/=]{20,}+(?:\s|\\+[nr]|$)++)*+)"
)


def _private_keys(text: str) -> list[Span]:
    spans: list[Span] = [match.span(1) for match in _PUTTY.finditer(text)]
    ends = [match.span() for match in _PEM_END.finditer(text)][::-1]
    at = 0
    for begin in _PEM_BEGIN.finditer(text):
        start = begin.start()
        if start < at:
            continue
        while ends and ends[-1][1] <= start:
            spans.append(_before(text, at, ends.pop()))
        following = text.find("-----BEGIN", begin.end(), begin.end() + _MAX_PEM)
        if ends and not 0 <= following < ends[-1][0] and ends[-1][0] - start < _MAX_PEM:
            at = ends.pop()[1]
        else:
            body = _PEM_BODY.match(text, begin.end())
            at = body.end() if body is not None else begin.end()
        spans.append((start, at))
    return spans + [_before(text, at, end) for end in reversed(ends)]


def _before(text: str, floor: int, end: Span) -> Span:
    """Return the lines of a key before its end, where its beginning is missing."""
    start = end[0]
    while start > floor:
        line = text.rfind("\n", floor, start - 1) + 1 if text[start - 1] == "\n" else start
        line = max(line, floor)
        if line >= start or _PEM_LINE.fullmatch(text[line:start].strip()) is None:
            break
        start = line
    return start, end[1]
