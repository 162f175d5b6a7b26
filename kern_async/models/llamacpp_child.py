"""The process that serves a GGUF model with llama.cpp; run as a script by `llamacpp_server`.

A process of its own, because in-process the only way to stop llama.cpp is deleting the server object, which can
hang for ever holding the interpreter's lock.

It reads its settings from stdin as one line of JSON, writes the address that it listens on to stdout, and ends as
soon as stdin does: when it is told to stop, and when its parent dies in whatever way.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import Any


def main() -> None:
    """Serve on a loopback port of the system's choice until stdin ends."""
    settings: dict[str, Any] = json.loads(sys.stdin.buffer.readline())
    announce = os.dup(1)
    os.dup2(2, 1)  # what the native code may print is no address

    xllamacpp: Any = importlib.import_module("xllamacpp")  # a native module without types
    params = xllamacpp.CommonParams()
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [settings["api_key"]]  # other users of the machine reach loopback too
    params.cors_origins = ""  # and so do web pages, through a browser
    params.ui = False
    params.endpoint_slots = True
    params.verbosity = 1
    params.model.path = settings["model_path"]
    params.model_alias = {settings["alias"]}
    params.n_parallel = settings["n_parallel"]
    params.n_ctx = settings["n_parallel"] * settings["n_ctx"]
    params.cache_ram_mib = 0
    params.cpuparams.n_threads = settings["n_threads"]
    params.cpuparams_batch.n_threads = settings["n_threads"]
    server = xllamacpp.Server(params)

    os.write(announce, f"{server.listening_address}\n".encode())
    os.close(announce)
    os.read(0, 1)
    os._exit(0)  # not a return: deleting the server can hang


if __name__ == "__main__":
    main()
