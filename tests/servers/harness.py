"""Real servers on free loopback ports: started, waited for, asked, stopped.

Tests get them from the fixtures in conftest.py. Everything a server writes, its configuration and
its output included, is below the directory that it is given.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from servers import install, otlp_json

#: Longest time for a server to become ready, and for a condition on it to come true.
TIMEOUT = 60.0
#: The configurations that users have.
COLLECTOR_CONFIG = Path(__file__).parents[2] / "collector-config"


def program(name: str) -> str:
    """The program of a server; skips the test where it is not installed."""
    path = install.find(name)
    if path is None:
        pytest.skip(f"{name} is not installed: `make servers` gets it")
    return str(path)


def free_ports(count: int) -> list[int]:
    """Ports on the loopback interface that nobody listens on, all different."""
    with ExitStack() as stack:
        taken = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in taken:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in taken]


def wait_until(condition: Callable[[], Any], what: str, timeout: float = TIMEOUT) -> Any:
    """Wait until a condition gives something true, and return that; else fail and say for what."""
    deadline = time.monotonic() + timeout
    while True:
        if found := condition():
            return found
        if time.monotonic() > deadline:
            pytest.fail(f"waited {timeout:.0f} s in vain for {what}")
        threading.Event().wait(0.05)


def wait_for(count: int, items: Callable[[], list[Any]], what: str) -> list[Any]:
    """Wait until there are at least so many items, and return them."""
    return wait_until(lambda: found if len(found := items()) >= count else None, f"{count} {what}")


def http_get(url: str, timeout: float = 10.0) -> tuple[int, bytes]:
    """Status and body of an answer; status 0 where there was none. No proxy is asked."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=timeout) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()
    except OSError:
        return 0, b""


class Server:
    """A process that serves: used by the thread of the test."""

    #: What it is called in messages.
    name = "server"
    #: How many ports it needs.
    ports_needed = 1

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.log_path = directory / f"{self.name}.log"
        self.ports: list[int] = []
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> Sequence[str]:
        """The command line that starts it on `ports`."""
        raise NotImplementedError

    def health_url(self) -> str:
        """What answers 200 when it is ready."""
        raise NotImplementedError

    def start(self) -> None:
        """Start it and return when it is ready; after a `stop`, on the same ports."""
        for _ in range(5):
            fresh = not self.ports
            if fresh:
                self.ports = free_ports(self.ports_needed)
            offset = self.log_path.stat().st_size if self.log_path.exists() else 0
            with self.log_path.open("ab") as log:
                self._process = subprocess.Popen(
                    self.command(),
                    cwd=self.directory,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    # Neither what a developer has set nor what a test sets is meant for a server.
                    env={k: v for k, v in os.environ.items() if not k.startswith("OTEL_")},
                )
            if self._becomes_ready():
                return
            said = self.log_path.read_bytes()[offset:].decode(errors="replace")
            self.stop()
            # Somebody may have taken a port since it was found free.
            if not (fresh and "address already in use" in said):
                pytest.fail(f"{self.name} did not start; its last words:\n{said[-3000:]}")
            self.ports = []
        pytest.fail(f"{self.name} found its ports taken, five times")

    def _becomes_ready(self) -> bool:
        process = self._process
        assert process is not None
        deadline = time.monotonic() + TIMEOUT
        while process.poll() is None and time.monotonic() < deadline:
            if self.is_ready():
                return True
            threading.Event().wait(0.05)
        return False

    def is_ready(self) -> bool:
        """Whether it answers."""
        return http_get(self.health_url())[0] == 200

    def pause(self) -> None:
        """Let it do nothing until `resume`: its connections stay open and are not answered."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Ask it to end, and kill it if it does not; what it had to write is written then."""
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(signal.SIGCONT)
        _end(process)

    def kill(self) -> None:
        """End it at once, as a crash would."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def log(self) -> str:
        """What it has said so far."""
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""


class Collector(Server):
    """An OpenTelemetry Collector: OTLP in over gRPC and HTTP, files and a Prometheus page out.

    Attributes
    ----------
    exporters : mapping
        More exporters, by name, each with its configuration; all pipelines send to them.
    signals : sequence of str
        The pipelines it has.
    """

    name = "collector"
    ports_needed = 4

    def __init__(
        self,
        directory: Path,
        *,
        exporters: Mapping[str, Mapping[str, Any]] | None = None,
        signals: Sequence[str] = ("traces", "metrics", "logs"),
        receiver: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(directory)
        self._program = program("collector")
        self._more = dict(exporters or {})
        self._signals = signals
        self._receiver = dict(receiver or {})
        self._config = directory / "collector.json"

    @property
    def grpc(self) -> str:
        """Endpoint for OTLP over gRPC."""
        return f"http://127.0.0.1:{self.ports[0]}"

    @property
    def http(self) -> str:
        """Endpoint for OTLP over HTTP; exporters add `/v1/traces` and the like."""
        return f"http://127.0.0.1:{self.ports[1]}"

    @property
    def prometheus_target(self) -> str:
        """Host and port of the page that Prometheus scrapes."""
        return f"127.0.0.1:{self.ports[2]}"

    def health_url(self) -> str:
        return f"http://127.0.0.1:{self.ports[3]}/"

    def command(self) -> Sequence[str]:
        self._config.write_text(json.dumps(self.configuration(), indent=1))
        return [self._program, "--config", str(self._config)]

    def configuration(self) -> dict[str, Any]:
        """What it runs with. JSON is YAML."""
        grpc, http, page, health = (f"127.0.0.1:{port}" for port in self.ports)
        exporters: dict[str, Any] = {
            f"file/{signal}": {
                "path": str(self._file(signal)),
                "append": True,  # what it wrote before it was started again stays
                "flush_interval": "50ms",
            }
            for signal in self._signals
        }
        exporters["prometheus"] = {
            "endpoint": page,
            "enable_open_metrics": True,
            "resource_to_telemetry_conversion": {"enabled": True},
        }
        exporters.update(self._more)
        pipelines = {
            signal: {
                "receivers": ["otlp"],
                "exporters": [
                    f"file/{signal}",
                    *(["prometheus"] if signal == "metrics" else []),
                    *self._more,
                ],
            }
            for signal in self._signals
        }
        return {
            "receivers": {
                "otlp": {
                    "protocols": {
                        "grpc": {"endpoint": grpc, "max_recv_msg_size_mib": 16, **self._receiver},
                        "http": {"endpoint": http, **self._receiver},
                    }
                }
            },
            "exporters": exporters,
            "extensions": {"health_check": {"endpoint": health}},
            "service": {
                "extensions": ["health_check"],
                # Its own metrics would want a port.
                "telemetry": {"metrics": {"level": "none"}},
                "pipelines": pipelines,
            },
        }

    def _file(self, signal: str) -> Path:
        return self.directory / f"{signal}.jsonl"

    def spans(self) -> list[dict[str, Any]]:
        """Every span that has arrived; see :func:`servers.otlp_json.spans`."""
        return otlp_json.spans(self._file("traces"))

    def metric_points(self, name: str | None = None) -> list[dict[str, Any]]:
        """Every metric point that has arrived; see :func:`servers.otlp_json.metric_points`."""
        points = otlp_json.metric_points(self._file("metrics"))
        return [point for point in points if name is None or point["name"] == name]

    def log_records(self) -> list[dict[str, Any]]:
        """Every log record that has arrived; see :func:`servers.otlp_json.log_records`."""
        return otlp_json.log_records(self._file("logs"))

    def validate(self, config: Path, environ: Mapping[str, str] | None = None) -> None:
        """Fail unless the collector accepts this configuration."""
        done = subprocess.run(
            [self._program, "validate", "--config", str(config)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **(environ or {})},
        )
        assert done.returncode == 0, done.stderr


class ConfiguredCollector(Server):
    """A collector that runs a configuration file as it is, but for the numbers of its ports.

    `environ` is what the file takes from the environment.
    """

    name = "collector"
    #: Ports that the files of collector-config/ name; each becomes a free one.
    well_known = (4317, 4318, 13133, 9464, 8888)
    ports_needed = len(well_known)

    def __init__(
        self, directory: Path, config: Path, environ: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(directory)
        self._program = program("collector")
        self._config = config
        self._environ = dict(environ or {})

    def port(self, well_known: int) -> int:
        """The port that stands for a well-known one."""
        return self.ports[self.well_known.index(well_known)]

    @property
    def grpc(self) -> str:
        """Endpoint for OTLP over gRPC."""
        return f"http://127.0.0.1:{self.port(4317)}"

    @property
    def http(self) -> str:
        """Endpoint for OTLP over HTTP."""
        return f"http://127.0.0.1:{self.port(4318)}"

    def command(self) -> Sequence[str]:
        text = self._config.read_text()
        for well_known in self.well_known:
            text = re.sub(rf"\b{well_known}\b", str(self.port(well_known)), text)
        path = self.directory / self._config.name
        path.write_text(text)
        sets = [f"{name}={value}" for name, value in self._environ.items()]
        return ["env", *sets, self._program, "--config", str(path)]

    def health_url(self) -> str:
        return f"http://127.0.0.1:{self.port(13133)}/"


class Jaeger(Server):
    """Jaeger as jaeger.compose.yaml runs it: OTLP in, a store in memory, the query API out."""

    name = "jaeger"
    #: OTLP over gRPC and HTTP, the query API over HTTP and gRPC, health: as the file names them.
    well_known = (4317, 4318, 16686, 16685, 13133)
    ports_needed = len(well_known)

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._program = program("jaeger")

    def _url(self, well_known: int) -> str:
        return f"http://127.0.0.1:{self.ports[self.well_known.index(well_known)]}"

    @property
    def grpc(self) -> str:
        """Endpoint for OTLP over gRPC."""
        return self._url(4317)

    @property
    def http(self) -> str:
        """Endpoint for OTLP over HTTP."""
        return self._url(4318)

    @property
    def query(self) -> str:
        """Address of the query API."""
        return self._url(16686)

    def health_url(self) -> str:
        return f"{self._url(13133)}/status"

    def command(self) -> Sequence[str]:
        text = (COLLECTOR_CONFIG / "jaeger" / "server.yaml").read_text()
        for well_known, port in zip(self.well_known, self.ports, strict=True):
            text = re.sub(rf"\b{well_known}\b", str(port), text)
        path = self.directory / "server.yaml"
        path.write_text(text)
        return [self._program, "--config", str(path)]

    def stop(self) -> None:
        """End it at once: asked to end it takes ten seconds, and it has nothing to write."""
        self.kill()

    def get(self, path: str, **parameters: Any) -> Any:
        """The `data` of an answer of the query API; None where it knows nothing of it."""
        query = urllib.parse.urlencode(parameters)
        status, body = http_get(f"{self.query}/api/{path}?{query}")
        if status == 404:
            return None
        assert status == 200, (status, body)
        return json.loads(body)["data"]

    def trace(self, trace_id: str) -> list[dict[str, Any]]:
        """The spans of a trace as Jaeger has them, each with its `tags` as a dict."""
        found = self.get(f"traces/{trace_id}") or [{"spans": []}]
        return [_jaeger_span(span, found[0]["processes"]) for span in found[0]["spans"]]

    def services(self) -> list[str]:
        """Names of the services that sent spans."""
        return self.get("services") or []

    def search(self, service: str, **parameters: Any) -> list[str]:
        """Ids of the traces of a service, as the search page would find them."""
        found = self.get("traces", service=service, lookback="1h", limit=1000, **parameters)
        return [trace["traceID"] for trace in found]


def _jaeger_span(span: dict[str, Any], processes: dict[str, Any]) -> dict[str, Any]:
    process = processes[span["processID"]]
    return {
        "name": span["operationName"],
        "trace_id": span["traceID"],
        "span_id": span["spanID"],
        "parent_span_id": next(
            (ref["spanID"] for ref in span["references"] if ref["refType"] == "CHILD_OF"), ""
        ),
        "links": [
            (ref["traceID"], ref["spanID"])
            for ref in span["references"]
            if ref["refType"] == "FOLLOWS_FROM"
        ],
        "duration_us": span["duration"],
        "service": process["serviceName"],
        "tags": {tag["key"]: tag["value"] for tag in span["tags"]},
        "logs": [{field["key"]: field["value"] for field in log["fields"]} for log in span["logs"]],
    }


class Prometheus(Server):
    """Prometheus that scrapes `targets` (host:port) twice a second."""

    name = "prometheus"

    def __init__(self, directory: Path, targets: Sequence[str]) -> None:
        super().__init__(directory)
        self._program = program("prometheus")
        self._targets = list(targets)

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.ports[0]}"

    def health_url(self) -> str:
        return f"{self.url}/-/ready"

    def command(self) -> Sequence[str]:
        config = {
            "global": {"scrape_interval": "500ms"},
            "scrape_configs": [
                {
                    "job_name": "collector",
                    "honor_labels": True,
                    "static_configs": [{"targets": self._targets}],
                }
            ],
        }
        path = self.directory / "prometheus.json"
        path.write_text(json.dumps(config))
        return [
            self._program,
            f"--config.file={path}",
            f"--storage.tsdb.path={self.directory / 'data'}",
            f"--web.listen-address=127.0.0.1:{self.ports[0]}",
            "--enable-feature=exemplar-storage,native-histograms",
        ]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series of an instant query: each `metric` (labels) and `value` (a number).

        Raises
        ------
        AssertionError
            The query is wrong, in the words of Prometheus.
        """
        answer = self._ask("query", query=expression)
        if answer["resultType"] == "scalar":
            return [{"metric": {}, "value": float(answer["result"][1])}]
        return [
            {"metric": series["metric"], "value": float(series["value"][1])}
            for series in answer["result"]
        ]

    def query_range(
        self, expression: str, start: float, end: float, step: float
    ) -> list[dict[str, Any]]:
        """The series of a range query: each `metric` and `values`, pairs of time and number."""
        answer = self._ask("query_range", query=expression, start=start, end=end, step=step)
        return [
            {
                "metric": series["metric"],
                "values": [(at, float(value)) for at, value in series["values"]],
            }
            for series in answer["result"]
        ]

    def exemplars(self, expression: str) -> list[dict[str, Any]]:
        """The exemplars of the series that an expression names, in the last hour."""
        now = time.time()
        found = self._ask("query_exemplars", query=expression, start=now - 3600, end=now + 60)
        return [exemplar for series in found for exemplar in series["exemplars"]]

    def label_values(self, label: str, match: str) -> list[str]:
        """The values of a label among the series that match."""
        return self._ask(f"label/{label}/values", **{"match[]": match})

    def _ask(self, what: str, **parameters: Any) -> Any:
        query = urllib.parse.urlencode(parameters)
        status, body = http_get(f"{self.url}/api/v1/{what}?{query}")
        assert status, f"Prometheus did not answer; it said last:\n{self.log()[-2000:]}"
        answer = json.loads(body)
        assert answer["status"] == "success", f"{answer.get('error')}: {parameters}"
        return answer["data"]


class Slurm:
    """A Slurm of one node on this machine: munged, slurmctld and slurmd with files of their own.

    Used by the thread of the test. `environ` is what `sbatch`, `squeue` and the like need to find
    it: the fixture sets it.

    Attributes
    ----------
    cpus, memory_mb : int
        What the node says it has, whatever the machine has.
    """

    def __init__(self, directory: Path, *, cpus: int = 8, memory_mb: int = 16_000) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.cpus, self.memory_mb = cpus, memory_mb
        self._bin = Path(program("slurm")).parent
        self._config = directory / "slurm.conf"
        # A socket's path may have 107 characters; that of a test's directory may be longer.
        self._sockets = Path(tempfile.mkdtemp(prefix="munge-"))
        self._processes: list[subprocess.Popen[bytes]] = []
        self.environ = {
            "SLURM_CONF": str(self._config),
            "PATH": f"{self._bin}{os.pathsep}{os.environ['PATH']}",
        }

    def start(self) -> None:
        """Start it and return when the node takes jobs."""
        self._begin("munged", "--foreground", "--force", *self._munge_files())
        socket_path = self._sockets / "socket"
        wait_until(socket_path.exists, f"munged; it said: {self.log('munged')}")
        for _ in range(5):
            self._config.write_text(self._configuration(*free_ports(2)))
            stepd = self._bin / "slurmstepd"
            daemons = [
                self._begin("slurmctld", "-D", "-f", str(self._config)),
                self._begin("slurmd", "-D", "-f", str(self._config), "-d", str(stepd)),
            ]
            deadline = time.monotonic() + TIMEOUT
            while all(daemon.poll() is None for daemon in daemons):
                if self.run("sinfo", "--noheader", "--format=%T").strip() == "idle":
                    return
                if time.monotonic() > deadline:
                    break
                threading.Event().wait(0.1)
            for daemon in daemons:
                _end(daemon)
                self._processes.remove(daemon)
            if "Address already in use" not in self.log("slurmctld") + self.log("slurmd"):
                break
        pytest.fail(f"Slurm did not start:\n{self.log('slurmctld')}\n{self.log('slurmd')}")

    def stop(self) -> None:
        """Cancel its jobs, wait until they are gone, end it."""
        if len(self._processes) == 3:
            self.run("scancel", "--full", "--signal=KILL", f"--user={_user()}")
            self.run("scancel", f"--user={_user()}")
            wait_until(lambda: not self.jobs(), "Slurm's jobs to be gone")
        for process in reversed(self._processes):
            _end(process)
        self._processes.clear()
        shutil.rmtree(self._sockets, ignore_errors=True)

    def run(self, command: str, *arguments: str) -> str:
        """What one of Slurm's commands prints; nothing where it fails."""
        done = subprocess.run(
            [self._bin / command, *arguments],
            env={**os.environ, **self.environ},
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout

    def jobs(self) -> list[tuple[str, str, str]]:
        """Id, name and state of every job that waits, runs or ends now."""
        lines = self.run("squeue", "--noheader", "--format=%i|%j|%T").splitlines()
        return [(job, name, state) for job, name, state in (line.split("|") for line in lines)]

    def log(self, daemon: str) -> str:
        """What a daemon has said so far."""
        path = self.directory / f"{daemon}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def _begin(self, daemon: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.directory / f"{daemon}.log").open("wb") as log:
            process = subprocess.Popen(
                [self._bin / daemon, *arguments],
                cwd=self.directory,
                env={**os.environ, "SLURM_CONF": str(self._config)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._processes.append(process)
        return process

    def _munge_files(self) -> list[str]:
        key = self._sockets / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        files = {"socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        return [
            f"--key-file={key}",
            *(f"--{option}={self._sockets / name}" for option, name in files.items()),
        ]

    def _configuration(self, controller_port: int, node_port: int) -> str:
        host = socket.gethostname().split(".")[0]
        (plugins,) = self._bin.parent.glob("usr/lib/*/slurm-wlm")
        for name in ("state", "spool"):
            (self.directory / name).mkdir(exist_ok=True)
        settings = {
            "ClusterName": "test",
            "SlurmctldHost": f"{host}(127.0.0.1)",
            "SlurmUser": _user(),
            "SlurmdUser": _user(),
            "AuthType": "auth/munge",
            "AuthInfo": f"socket={self._sockets / 'socket'}",
            "PluginDir": plugins,
            "SlurmctldPort": controller_port,
            "SlurmdPort": node_port,
            "StateSaveLocation": self.directory / "state",
            "SlurmdSpoolDir": self.directory / "spool",
            "SlurmctldPidFile": self.directory / "slurmctld.pid",
            "SlurmdPidFile": self.directory / "slurmd.pid",
            "ProctrackType": "proctrack/linuxproc",
            "TaskPlugin": "task/none",
            "ReturnToService": 2,
            "KillWait": 5,
            "MpiDefault": "none",
            "SelectType": "select/cons_tres",
            "SelectTypeParameters": "CR_CPU",
            "SlurmdParameters": "config_overrides",
            "AccountingStorageType": "accounting_storage/none",
            "JobAcctGatherType": "jobacct_gather/none",
        }
        node = f"{host} NodeAddr=127.0.0.1 CPUs={self.cpus} RealMemory={self.memory_mb}"
        return "\n".join(
            (
                *(f"{name}={value}" for name, value in settings.items()),
                f"NodeName={node} State=UNKNOWN",
                "PartitionName=short Nodes=ALL Default=YES MaxTime=INFINITE State=UP",
                "",
            )
        )


def _user() -> str:
    return pwd.getpwuid(os.geteuid()).pw_name


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
