"""The databases that every story about stored runs is told of, each closed after its test."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from kern_async.db.database import BaseDb
from kern_async.db.in_memory import InMemoryDb
from kern_async.models.openai import OpenAIChat, OpenAIResponses
from kern_async.testing import ProviderServer

from ..agent.crew import Crew

STORES: dict[str, Callable[[Path], BaseDb]] = {"memory": lambda _: InMemoryDb()}


@pytest.fixture(params=STORES)
def db(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[BaseDb]:
    db = STORES[request.param](tmp_path)
    yield db
    db.close()


@pytest.fixture
def crew(provider: ProviderServer) -> Crew:
    return Crew(provider)


@pytest.fixture(params=[OpenAIResponses, OpenAIChat], ids=["responses", "chat"])
def any_crew(request: pytest.FixtureRequest, provider: ProviderServer) -> Crew:
    """A crew for each of the two protocols."""
    return Crew(provider, request.param)
