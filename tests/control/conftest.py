from __future__ import annotations

import pytest

from kern_async.models.openai import OpenAIChat, OpenAIResponses
from kern_async.testing import ProviderServer

from ..agent.crew import Crew
from .stage import Stage


@pytest.fixture
def crew(provider: ProviderServer) -> Crew:
    return Crew(provider)


@pytest.fixture(params=[OpenAIResponses, OpenAIChat], ids=["responses", "chat"])
def any_crew(request: pytest.FixtureRequest, provider: ProviderServer) -> Crew:
    """A crew for each of the two protocols."""
    return Crew(provider, request.param)


@pytest.fixture(params=[True, False], ids=["streamed", "awaited"])
def stage(request: pytest.FixtureRequest, crew: Crew) -> Stage:
    """A stage whose run is read, and one whose run is awaited."""
    return Stage(crew, streamed=request.param)


@pytest.fixture
def read_stage(crew: Crew) -> Stage:
    """A stage whose run is read."""
    return Stage(crew)
