"""An environment for each peer, made once from PyPI and kept in the user's cache."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

PEERS: dict[str, tuple[str, ...]] = {
    "agno": ("agno==3.1.10", "openai"),
    "openai_agents": ("openai-agents",),
    "pydantic_ai": ("pydantic-ai-slim[openai]",),
    "langgraph": ("langgraph", "langchain", "langchain-openai"),
}
"""What each is installed from; the names are those of the files beside this one."""


def peers() -> dict[str, Path]:
    """The Python of each peer."""
    return {name: python_with(name, *requirements) for name, requirements in PEERS.items()}


def versions() -> dict[str, str]:
    """What is installed of each peer, by its distribution's name."""
    found: dict[str, str] = {}
    for name, python in peers().items():
        distribution = re.split(r"[\[=]", PEERS[name][0])[0]
        ask = f"from importlib.metadata import version; print(version({distribution!r}))"
        done = subprocess.run([python, "-c", ask], stdout=subprocess.PIPE, text=True, check=True)
        found[distribution] = done.stdout.strip()
    return found


def python_with(name: str, *requirements: str) -> Path:
    """The Python of an environment that has these, and nothing else; a name is only for who looks into the cache."""
    mark = hashlib.sha256(" ".join((*requirements, sys.version)).encode()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kern_async"
    kept = cache / f"benchmark-{name}-{mark}"
    if not kept.exists():
        print(f"installing {name} ...", file=sys.stderr)
        cache.mkdir(parents=True, exist_ok=True)
        # Half of one must not be taken for a whole: it gets its name at the end. Only its Python is used, which may be
        # moved, none of the programs beside it.
        new = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=cache))
        subprocess.run([sys.executable, "-m", "venv", str(new)], check=True)
        subprocess.run([new / "bin/python", "-m", "pip", "install", "--quiet", *requirements], check=True)
        new.rename(kept)
    return kept / "bin/python"
