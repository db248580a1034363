"""Validates an RO-Crate without a network: CRATE CONTEXT PROFILE, issues as JSON on stdout.

Run by Python with the validator's own packages on its path. The context of RO-Crate 1.1 is read
from a file; whatever else the validator would fetch is an error.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

CONTEXT_URL = "https://w3id.org/ro/crate/1.1/context"


def main() -> None:
    crate, context_file, profile = sys.argv[1:]
    text = Path(context_file).read_text()
    _answer_offline(text)
    from rocrate_validator import models, services  # pyright: ignore

    settings = services.ValidationSettings(
        rocrate_uri=crate,
        profile_identifier=profile,
        requirement_severity=models.Severity.RECOMMENDED,
    )
    issues = services.validate(settings).get_issues()
    rows = [[one.severity.name, one.check.identifier, one.message] for one in issues]
    print(json.dumps(rows))


def _answer_offline(text: str) -> None:
    from rocrate_validator.utils import document_loader, http  # pyright: ignore

    def load(url: str) -> Any:
        if url != CONTEXT_URL:
            raise OSError(f"not here: {url}")
        return json.loads(text)

    class Answer:
        status_code, ok, headers = 200, True, {"Content-Type": "application/ld+json"}
        content = text.encode()

        def json(self) -> Any:
            return json.loads(text)

        def raise_for_status(self) -> None: ...

    def requested(self: Any, name: str) -> Any:
        if name not in ("get", "head"):
            raise AttributeError(name)

        def request(url: str, *_: Any, **__: Any) -> Answer:
            load(url)
            return Answer()

        return request

    document_loader._fetch_json_ld = load
    http.HttpRequester.__getattr__ = requested


if __name__ == "__main__":
    main()
