"""placeholder"""

from typing import Any


async def call_through(*args: Any, **options: Any) -> Any:
    raise NotImplementedError
