"""Without the packages of an extra, a database says which line installs them."""

from __future__ import annotations

import subprocess
import sys

import pytest

HIDING = """
import sys
from importlib.abc import MetaPathFinder

class Hide(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in sys.argv[1].split(","):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hide())
from kern_async.exceptions import ConfigurationError
"""

SQLITE = "from kern_async.db.sqlite import SqliteDb; SqliteDb('/tmp/none/kern.db')"
POSTGRES = "from kern_async.db.postgres import PostgresDb; PostgresDb('postgresql://h/db')"


def output_of(code: str, hidden: str) -> str:
    program = f"{HIDING}\ntry:\n    {code}\nexcept ConfigurationError as error:\n    print(error)\n"
    command = [sys.executable, "-W", "error", "-c", program, hidden]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


@pytest.mark.parametrize(
    ("code", "hidden", "said"),
    [
        (SQLITE, "sqlalchemy", 'needs sqlalchemy, which is not installed: pip install "kern-async[sql]"'),
        (POSTGRES, "psycopg", 'needs psycopg, which is not installed: pip install "kern-async[postgres]"'),
        (POSTGRES, "sqlalchemy,psycopg", "PostgresDb needs sqlalchemy and psycopg"),
    ],
)
def test_a_missing_package_is_named_with_the_line_that_installs_it(code: str, hidden: str, said: str) -> None:
    assert said in output_of(code, hidden)


@pytest.mark.parametrize("code", [SQLITE, POSTGRES])
def test_a_database_needs_only_its_own_packages(code: str) -> None:
    assert not output_of(code, "psycopg_pool,asyncpg,aiosqlite" + (",psycopg" if code is SQLITE else ""))


def test_naming_a_database_imports_nothing_large() -> None:
    code = "import kern_async.db.sqlite, kern_async.db.postgres, kern_async.db.in_memory"
    assert not output_of(code + "\n    if 'sqlalchemy' in sys.modules: print('imported')", "")
