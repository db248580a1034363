"""`scalable init`: write a commented manifest."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from scalable.cli._commands import CommandError, write_file
from scalable.cli._manifest import session_errors
from scalable.cli._terminal import ask, echo
from scalable.common.hints import suggestion

_PROVIDERS = ("local", "existing", "slurm", "kubernetes", "aws", "gcp")
_EPILOG = """\b
Examples:
  scalable init
  scalable init --project floods --provider local --provider slurm --memory 4G
  scalable init --yes --output jobs/scalable.yaml
"""


@click.command(epilog=_EPILOG)
@click.option("--project", metavar="NAME", help="Default: the name of the working directory.")
@click.option(
    "--provider",
    "providers",
    multiple=True,
    type=click.Choice(_PROVIDERS),
    metavar="NAME",
    help=f"Where it can run; may be repeated: {', '.join(_PROVIDERS)}. Default: local.",
)
@click.option("--component", metavar="NAME", help="What tasks ask for by tag=. Default: worker.")
@click.option("--workers", type=click.IntRange(1), metavar="N", help="Most workers. Default: 2.")
@click.option("--cpus", type=float, metavar="N", help="Cores of a worker. Default: 1.")
@click.option("--memory", metavar="SIZE", help="Memory of a worker. Default: 1G.")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("scalable.yaml"),
    show_default=True,
    metavar="FILE",
    help="Where to write it.",
)
@click.option("--force", is_flag=True, help="Replace a file that exists.")
@click.option("--yes", is_flag=True, help="Ask nothing: use the defaults of what is not given.")
def init(output: Path, force: bool, yes: bool, **given: Any) -> None:
    """Write a commented manifest, from a few questions or from options.

    On a terminal, what is not given is asked for; Enter takes the default. A file that exists is
    kept unless --force is given.
    """
    if output.exists() and not force:
        raise CommandError(f"{output} exists. Replace it by --force, or name another by --output.")
    asks = sys.stdin.isatty() and sys.stderr.isatty() and not yes
    with session_errors():
        form = _Form(Path.cwd().name[:60] or "project")
        for name, question in _QUESTIONS.items():
            value = given[name]
            if value is not None and value != ():
                answer = " ".join(value) if name == "providers" else str(value)
                if (problem := form.take(name, answer)) is not None:
                    option = "provider" if name == "providers" else name
                    raise CommandError(f"--{option} {answer}: {problem}.")
            elif asks:
                while (problem := form.take(name, ask(question, form.default(name)))) is not None:
                    echo(f"  {problem}. Once more:", err=True)
        text = form.text()
    write_file(output, text, mode="w" if force else "x")
    echo(f"Wrote {output}. Next: scalable validate", err=True)


class _Form:
    """The answers; each is checked at once, in the manifest that it would make."""

    def __init__(self, project: str) -> None:
        from scalable.manifest.load import check_manifest
        from scalable.manifest.scaffold import manifest_text

        self._check: Any = check_manifest
        self._make: Any = manifest_text
        self._values: dict[str, Any] = {
            "project": project,
            "providers": ("local",),
            "component": "worker",
            "workers": 2,
            "cpus": 1.0,
            "memory": "1G",
        }

    def take(self, name: str, answer: str) -> str | None:
        """Take an answer; returns what is wrong with it, if something is."""
        try:
            value = _CONVERT.get(name, str)(answer.strip())
        except ValueError as error:
            return str(error)
        changed = {**self._values, name: value}
        problems = self._check(self._make(**changed), "")
        if problems:
            return f"{problems[0].key}: {problems[0].message}"
        self._values = changed
        return None

    def default(self, name: str) -> str:
        """Return the value so far, as a user would write it."""
        value = self._values[name]
        if name == "providers":
            return " ".join(value)
        return f"{value:g}" if name == "cpus" else str(value)

    def text(self) -> str:
        """Return the manifest."""
        text: str = self._make(**self._values)
        return text


def _providers(answer: str) -> tuple[str, ...]:
    """Return providers, given by name or by their number in the question."""
    found: list[str] = []
    for word in answer.replace(",", " ").split():
        if word.isdigit() and 1 <= int(word) <= len(_PROVIDERS):
            word = _PROVIDERS[int(word) - 1]
        if word not in _PROVIDERS:
            hint = suggestion(word, _PROVIDERS, "there are")
            raise ValueError(f"there is no provider {word!r}; {hint}")
        found.append(word)
    if not found:
        raise ValueError(f"at least one is needed, of: {', '.join(_PROVIDERS)}")
    return tuple(found)


def _whole(answer: str) -> int:
    try:
        return int(answer)
    except ValueError:
        raise ValueError(f"{answer!r} is not a whole number, such as 2") from None


def _number(answer: str) -> float:
    try:
        return float(answer)
    except ValueError:
        raise ValueError(f"{answer!r} is not a number, such as 1 or 0.5") from None


_CONVERT: Final[dict[str, Callable[[str], Any]]] = {
    "providers": _providers,
    "workers": _whole,
    "cpus": _number,
}
#: In the order in which they are asked.
_QUESTIONS: Final = {
    "project": "Name of the project",
    "providers": "Where it can run, by name or number: "
    + ", ".join(f"{number} {name}" for number, name in enumerate(_PROVIDERS, 1)),
    "component": "What kind of worker tasks ask for",
    "workers": "Most workers",
    "cpus": "Cores of a worker",
    "memory": "Memory of a worker",
}
