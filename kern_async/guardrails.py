"""Guardrails: hooks that check what a run was asked, or what it answers."""

from __future__ import annotations

from typing import Any, Self

from .exceptions import ConfigurationError


class BaseGuardrail:
    """Subclass it, write `check` or `async_check`, and give an instance in `pre_hooks` or `post_hooks`.

    Among `pre_hooks` it is shown the `RunInput`, among `post_hooks` the output as it would be. It refuses with
    `InputCheckError` or `OutputCheckError`; whatever it raises ends the run with status ERROR. `async_check` is
    used where it is written, and a cancel interrupts it; `check` is called in a thread, which a cancel does not
    wait for.

    Raises:
        ConfigurationError: the subclass has neither.
    """

    def __new__(cls, *_arguments: Any, **_keywords: Any) -> Self:
        if cls.check is BaseGuardrail.check and cls.async_check is BaseGuardrail.async_check:
            raise ConfigurationError(
                f"{cls.__name__} is no guardrail yet: write its check or its async_check"
            )
        return super().__new__(cls)

    def check(self, run_input: Any) -> object:
        """Raise if the input, or the output, will not do; what it returns does not matter."""
        raise NotImplementedError(f"{type(self).__name__} checks in async_check only")

    async def async_check(self, run_input: Any) -> object:
        """The same on the event loop."""
        return self.check(run_input)

    @property
    def checks_async(self) -> bool:
        """Whether `async_check` is written, and so is what a run calls."""
        return type(self).async_check is not BaseGuardrail.async_check
