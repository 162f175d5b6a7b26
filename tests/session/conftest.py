from __future__ import annotations

import pytest

from kern_async.models.openai import OpenAIChat, OpenAIResponses
from kern_async.testing import ProviderServer

from ..agent.crew import Crew


@pytest.fixture(params=[OpenAIResponses, OpenAIChat], ids=["responses", "chat"])
def any_crew(request: pytest.FixtureRequest, provider: ProviderServer) -> Crew:
    """A crew for each of the two protocols."""
    return Crew(provider, request.param)
