"""The reference's published client, unmodified, from PyPI in an environment of its own, against our server."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PATIENCE = 60.0
"""Seconds until a process that does not end is killed."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def _python(environment: Path) -> Path:
    return environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


@pytest.fixture(scope="session")
def reference_python() -> Path:
    """The interpreter of an environment with the reference in it, which is made once for a user and kept."""
    needed = HERE / "requirements.txt"
    mark = hashlib.sha256(needed.read_bytes() + sys.version.encode()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kern_async"
    kept = cache / f"reference-{mark}"
    if not kept.exists():
        cache.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(dir=cache))  # so that what was begun and cut is never taken for whole
        subprocess.run([sys.executable, "-m", "venv", str(new)], check=True)
        install = [_python(new), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        made = subprocess.run([*install, "-r", needed], check=False, capture_output=True, text=True)
        if made.returncode != 0:
            said = f"the reference cannot be installed: {made.stderr.strip()[-500:]}"
            if "CI" in os.environ:
                pytest.fail(said)
            pytest.skip(said)
        with suppress(OSError):  # somebody else was quicker
            new.rename(kept)
    return _python(kept)


@contextmanager
def server(directory: Path) -> Generator[str]:
    """Our server, as a process; gives its address. It must end well when it is told to."""
    with subprocess.Popen(
        [sys.executable, str(HERE / "serve.py"), str(directory)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
            process.send_signal(signal.SIGTERM)
            _, complaints = process.communicate(timeout=PATIENCE)
            assert (process.returncode, complaints) == (0, "")
        finally:
            process.kill()


def test_the_references_client_works_unchanged(reference_python: Path, tmp_path: Path) -> None:
    with server(tmp_path) as url:
        assert url.startswith("http://")
        client = subprocess.run(
            [reference_python, str(HERE / "client.py"), url],
            check=False,
            capture_output=True,
            text=True,
            timeout=PATIENCE * 4,
        )
        assert client.returncode == 0, client.stderr
        results: dict[str, str | None] = json.loads(client.stdout.splitlines()[-1])
    assert len(results) > 20
    wrong = {step: why for step, why in results.items() if why is not None}
    assert not wrong, "\n\n".join(f"{step}: {why}" for step, why in wrong.items())
