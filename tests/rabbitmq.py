"""The RabbitMQ that the tests talk to: found, started, or installed; never done without.

`broker` hands out one for the whole run. `PrivateRabbit` is a node of one's own, for tests that
kill, restart or choke a broker. Everything here blocks: in an async test go through
``await trio.to_thread.run_sync(rabbit.kill)``.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Generator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import unquote, urlsplit

import attrs

from tests.amqp import AmqpSession, NoRabbitMQ
from tests.leaks import new_secret

LOCAL_URL = "amqp://guest:guest@localhost:5672/"

# Debian's and Red Hat's programs in /usr/sbin are wrappers that switch to the user `rabbitmq` and
# read the machine's configuration; the programs themselves run as anybody, with ours.
PROGRAM_FOLDERS = (
    "/usr/lib/rabbitmq/bin",
    "/opt/homebrew/opt/rabbitmq/sbin",
    "/usr/local/opt/rabbitmq/sbin",
)

# Below the range that the kernel takes client ports from. A port from that range could be lost to
# anybody's connection while the node is down, or, on loopback, be met by a client that keeps
# reconnecting and so connects to itself.
PORTS = range(20_000, 32_000)


def check(url: str) -> None:
    """Raise `NoRabbitMQ` unless a RabbitMQ answers there and lets us in."""
    AmqpSession(url).close()


def find_program(name: str) -> str | None:
    """Return the path of one of RabbitMQ's programs, the real one rather than its wrapper.

    That of the RabbitMQ in the folder that ``ROGER_TEST_RABBITMQ`` names, and no other, if it does.
    """
    folders = os.pathsep.join((*PROGRAM_FOLDERS, os.environ.get("PATH", ""), "/usr/sbin"))
    return shutil.which(name, path=os.environ.get("ROGER_TEST_RABBITMQ") or folders)


def free_port() -> int:
    """Return a loopback port nobody listens on now and no client is given by the kernel."""
    for _ in range(200):
        port = random.choice(PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise NoRabbitMQ(f"no free port between {PORTS.start} and {PORTS.stop}")


@attrs.frozen(kw_only=True)
class TlsFiles:
    """The PEM files of a TLS listener."""

    ca: Path
    """The authority that clients trust (and that signs theirs, if they must show one)."""
    cert: Path
    """The server's certificate."""
    key: Path
    """The server's private key."""
    client_cert_required: bool = False
    """Whether a client without a certificate is turned away."""


class PrivateRabbit:
    """A RabbitMQ node of one's own, on loopback; its data outlives `stop` and `kill`.

    Several can run side by side. Only the process started here is ever signalled. ``close()``
    (or leaving the ``with`` block) ends the node and deletes its data.

    Args:
        tls: Listen for TLS as well, on `tls_url`.
        settings: More lines for its ``rabbitmq.conf``, such as ``consumer_timeout = 10000``.

    Raises:
        NoRabbitMQ: From `start`: not installed, or it did not come up; shows the log's end.
    """

    def __init__(self, *, tls: TlsFiles | None = None, settings: Sequence[str] = ()) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="roger-rabbit-"))
        self.node = f"{self.directory.name}@localhost"
        self.password = new_secret()
        self.port = free_port()
        self.tls_port = free_port() if tls else None
        self._process: subprocess.Popen[bytes] | None = None
        self._configure(tls, settings)
        atexit.register(self.close)

    def _configure(self, tls: TlsFiles | None, settings: Sequence[str]) -> None:
        lines = [
            f"listeners.tcp.1 = 127.0.0.1:{self.port}",
            f"default_pass = {self.password}",
            "disk_free_limit.absolute = 1MB",  # a full disk is not what a test means to meet
            *settings,
        ]
        if tls is not None:
            verify = "verify_peer" if tls.client_cert_required else "verify_none"
            lines += [
                f"listeners.ssl.1 = 127.0.0.1:{self.tls_port}",
                f"ssl_options.cacertfile = {tls.ca}",
                f"ssl_options.certfile = {tls.cert}",
                f"ssl_options.keyfile = {tls.key}",
                f"ssl_options.verify = {verify}",
                f"ssl_options.fail_if_no_peer_cert = {str(tls.client_cert_required).lower()}",
            ]
        (self.directory / "rabbitmq.conf").write_text("\n".join((*lines, "")))
        (self.directory / "enabled_plugins").write_text("[].\n")
        (self.directory / "rabbitmq-env.conf").touch()
        cookie = self.directory / ".erlang.cookie"
        cookie.write_text(f"{random.getrandbits(128):032x}")
        cookie.chmod(0o400)
        inherited = ("RABBITMQ_", "ERL_", "NOTIFY_SOCKET")
        self._environment = {
            **{key: val for key, val in os.environ.items() if not key.startswith(inherited)},
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_FLAGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "HOME": str(self.directory),  # where Erlang looks for the cookie
            "LANG": "C.UTF-8",
            "LC_ALL": "C.UTF-8",
            "RABBITMQ_CONFIG_FILE": str(self.directory / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(self.directory / "rabbitmq-env.conf"),
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(self.directory / "enabled_plugins"),
            "RABBITMQ_LOGS": str(self.directory / "rabbit.log"),
            "RABBITMQ_LOG_BASE": str(self.directory),
            "RABBITMQ_MNESIA_BASE": str(self.directory / "data"),
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_PID_FILE": str(self.directory / "pid"),
            # Makes the start script become the broker, so that the process we started is it.
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    @property
    def url(self) -> str:
        """Where it listens, as the administrator ``guest``."""
        return f"amqp://guest:{self.password}@127.0.0.1:{self.port}/"

    @property
    def tls_url(self) -> str:
        """Where it listens for TLS; the certificate should be for ``localhost``."""
        assert self.tls_port is not None, "made without tls="
        return f"amqps://guest:{self.password}@localhost:{self.tls_port}/"

    @property
    def running(self) -> bool:
        """Whether the process is there (it may be frozen)."""
        return self._process is not None and self._process.poll() is None

    def start(self, *, within: float = 90) -> None:
        """Start the node and return once it lets us in; does nothing while it runs."""
        if self.running:
            return
        program = server_program()
        with (self.directory / "console.log").open("ab") as console:
            self._process = subprocess.Popen(
                [program],
                cwd=self.directory,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            self._wait_until_it_answers(self._process, within)
        except BaseException:
            self.kill()
            raise

    def _wait_until_it_answers(self, process: subprocess.Popen[bytes], within: float) -> None:
        pause, reason = 0.25, ""
        for _ in range(int(within / pause)):
            try:
                AmqpSession(self.url, timeout=within).close()
                return
            except NoRabbitMQ as exc:
                reason = str(exc)
            with contextlib.suppress(subprocess.TimeoutExpired):
                reason = f"exit status {process.wait(pause)}"
                break
        raise NoRabbitMQ(f"a private RabbitMQ did not start: {reason}\n{self.log_tail()}")

    def stop(self, *, within: float = 60) -> None:
        """Stop the node in good order (SIGTERM); one that dawdles is killed."""
        self._end(signal.SIGTERM, within)

    def kill(self) -> None:
        """Kill the node as a crash would (SIGKILL); returns once it is gone."""
        self._end(signal.SIGKILL, within=30)

    def _end(self, number: signal.Signals, within: float) -> None:
        if self._process is None:
            return
        self._process.send_signal(number)
        try:
            self._process.wait(within)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def restart(self, *, kill: bool = False) -> None:
        """Stop (or kill) the node and start it again on the same data and ports."""
        self.kill() if kill else self.stop()
        self.start()

    def freeze(self) -> None:
        """Let the node hang (SIGSTOP): connections stay open and nothing answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen node go on (SIGCONT)."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def ctl(self, *arguments: str) -> str:
        """Run ``rabbitmqctl`` for this node and return what it printed (takes a second or two)."""
        return run_ctl("-n", self.node, *arguments, environment=self._environment)

    def set_memory_alarm(self, on: bool) -> None:
        """Raise or clear the memory alarm: while it is on, publishers are blocked."""
        self.ctl("set_vm_memory_high_watermark", "0.000001" if on else "0.4")

    def log_tail(self, lines: int = 80) -> str:
        """Return the last lines of the console and of the log."""
        files = (self.directory / "console.log", self.directory / "rabbit.log")
        text = "\n".join(f.read_text(errors="replace") for f in files if f.exists())
        return "\n".join(text.splitlines()[-lines:])

    def close(self) -> None:
        """End the node for good and delete its data."""
        atexit.unregister(self.close)
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def run_ctl(*arguments: str, environment: dict[str, str] | None = None) -> str:
    """Run ``rabbitmqctl``; without an environment, for the machine's own node."""
    # The machine's own node wants the wrapper, which knows whose cookie it is.
    program = find_program("rabbitmqctl") if environment else shutil.which("rabbitmqctl")
    if program is None:
        raise NoRabbitMQ("rabbitmqctl is not installed")
    command = [program, "--quiet", *arguments]
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=60, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired as exc:
        raise NoRabbitMQ(f"{' '.join(command)}: no answer in 60 s") from exc
    if done.returncode:
        raise NoRabbitMQ(f"{' '.join(command)}: {done.stdout}{done.stderr}".strip())
    return done.stdout


# Finding one for the run

ADVICE = """\
The tests need a RabbitMQ, and none could be had:
{reasons}
Do one of these, and run them again:
  - start a RabbitMQ on localhost:5672 that lets guest/guest in;
  - set ROGER_TEST_AMQP=amqp://user:password@host:port/vhost to one that runs elsewhere;
  - install rabbitmq-server (3.10 or later): the tests then start a private one by themselves."""


@contextlib.contextmanager
def broker(*, local: str = LOCAL_URL) -> Generator[str]:
    """Hand out the URL of a RabbitMQ: the named one, a private one, or the local one.

    A private one comes before the local one: it is empty, and has as many file handles as this
    process may have. RabbitMQ takes three for each quorum queue, and on a machine's own node,
    which may have 1,024, what other programs left behind can leave too few.

    Raises:
        NoRabbitMQ: None could be had; the message says why and what to do.
    """
    named = os.environ.get("ROGER_TEST_AMQP")
    reasons: list[str] = []
    with contextlib.ExitStack() as stack:
        url = _find_named(named, reasons) if named else _find(local, stack, reasons)
        if url is None:
            raise NoRabbitMQ(ADVICE.format(reasons="\n".join(reasons)))
        yield url


def _find_named(url: str, reasons: list[str]) -> str | None:
    """One that was named and does not answer is a mistake to report, not to work around."""
    return url if _answers(url, "$ROGER_TEST_AMQP", reasons) else None


def _find(local: str, stack: contextlib.ExitStack, reasons: list[str]) -> str | None:
    """Start one, or find one, or install and start one."""
    is_installed = find_program("rabbitmq-server") is not None
    if not is_installed and _answers(local, "localhost:5672", reasons):
        return local
    if url := _start(stack, reasons):
        return url
    return local if is_installed and _answers(local, "localhost:5672", reasons) else None


def _answers(url: str, what: str, reasons: list[str]) -> bool:
    try:
        check(url)
    except NoRabbitMQ as exc:
        reasons.append(f"  - {what}: {exc}")
        return False
    return True


def _start(stack: contextlib.ExitStack, reasons: list[str]) -> str | None:
    try:
        return stack.enter_context(PrivateRabbit()).url
    except NoRabbitMQ as exc:
        reasons.append(f"  - {exc}")
        return None


def server_program() -> str:
    """Return the path of rabbitmq-server, after installing it where that is possible.

    Raises:
        NoRabbitMQ: It is not installed; says why not.
    """
    # Another process of the same run may be in the middle of installing it.
    path = Path(tempfile.gettempdir()) / f"roger-rabbitmq-server-{os.geteuid()}.lock"
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if find_program("rabbitmq-server") is None:
            _install_server()
        program = find_program("rabbitmq-server")
    if program is None:
        raise NoRabbitMQ("rabbitmq-server: not found though it was installed")
    return program


def _install_server() -> None:
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise NoRabbitMQ("rabbitmq-server: not installed; that is done as root on Debian or Ubuntu")
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for arguments in (["update"], ["install", "-y", "--no-install-recommends", "rabbitmq-server"]):
        command = ["apt-get", "-q", "-o", "DPkg::Lock::Timeout=300", *arguments]
        done = subprocess.run(
            command, env=quiet, stdin=subprocess.DEVNULL, capture_output=True,
            text=True, timeout=600, check=False,
        )  # fmt: skip
        if done.returncode:
            end = "\n".join((done.stdout + done.stderr).splitlines()[-10:])
            raise NoRabbitMQ(f"{' '.join(command)}: exit status {done.returncode}\n{end}")


QUEUES = ("default", "other", "mail", "images", "a", "b", "q", "kept")
"""What tests call the queues of a partition; others go when the run ends."""


def delete_partition(url: str, name: str) -> None:
    """Delete the usual queues of a partition; those that are not there do no harm.

    Args:
        url: The broker.
        name: Prefix and partition.
    """
    with AmqpSession(url) as session:
        for queue in QUEUES:
            for kind in ("", ".redelivered", ".buried"):
                session.delete_queue(f"{name}-{queue}{kind}")
        for kind in ("coordinator", "waiting", "state"):
            session.delete_queue(f"{name}-.{kind}")


def sweep(url: str, prefix: str, queues: set[str], exchanges: set[str]) -> None:
    """Delete the named queues and exchanges, and all others of this prefix that can be listed."""
    parts = urlsplit(url)
    names = {"queues": set(queues), "exchanges": set(exchanges)}
    if parts.hostname in {"localhost", "127.0.0.1", "::1"}:
        vhost = unquote(parts.path[1:]) or "/"
        for kind, found in names.items():
            with contextlib.suppress(NoRabbitMQ):  # another node, or not ours to ask
                listing = run_ctl(f"list_{kind}", "--vhost", vhost, "--no-table-headers", "name")
                found.update(name for name in listing.splitlines() if name.startswith(prefix))
    with AmqpSession(url) as session:
        for name in names["queues"]:
            session.delete_queue(name)
        for name in names["exchanges"]:
            session.delete_exchange(name)
