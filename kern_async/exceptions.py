"""Everything that kern_async raises on purpose.

```
KernError
├── ConfigurationError (ValueError)   an agent, team, tool or call that cannot work as written
│   ├── RunIdInUse                    a second live run under one run id
│   └── RunNotContinuable             a run that has completed or is live, or is not this agent's
├── RunEnded
│   ├── RunFailed                     raise_for_status() of a run that ended ERROR
│   └── RunCancelled                  raise_for_status() or raise_if_cancelled() of a cancelled run
├── ModelError                        the provider did not give an answer
│   ├── ModelKeyMissing               no API key
│   ├── ModelConnectionError          no connection, or one that was cut
│   ├── ModelStatusError              an HTTP status of 400 or more
│   ├── ModelResponseError            an answer that reports its own failure
│   ├── ModelProtocolError            an answer that is not what the protocol says
│   └── ModelTimeout                  no first token, or no further one, in time
├── StoreError                        the database did not do what it was asked
│   ├── DatabaseUnusable (ValueError) it never will: no database, a newer schema, a wrong path or URL
│   └── WriteRejected                 it refuses one write
│       ├── Fenced                    somebody else has gone on with the run
│       ├── RunExists                 a run of that id is stored
│       ├── SessionExists             a session of that id is stored
│       ├── SessionBusy               the session has live runs
│       └── NotTheirs                 the session is another user's
├── OutputSchemaError                 the final text does not fit `output_schema`
├── ToolError                         a tool call that failed; the model is told why
├── InputCheckError                   a hook refused the input
└── OutputCheckError                  a hook refused the output
```

Failures inside a run are data (status ERROR, `error_type` is the class name here): only wrong arguments
raise at the call, and `output.raise_for_status()` raises for who wants an exception.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any


class KernError(Exception):
    """Base class of every error that kern_async raises on purpose."""


class ConfigurationError(KernError, ValueError):
    """An agent, team, tool or call that cannot work as it is written."""


class RunIdInUse(ConfigurationError):
    """A live run already has this run id, or, with a `db`, a stored one.

    Without a `db`, run ids are free again when the run that holds one has ended. A created stream holds its id until
    it is dropped.
    """

    def __init__(self, run_id: str, *, stored: bool = False) -> None:
        super().__init__(
            f"run id {run_id!r} belongs to a run that is stored; continue that run with continue_run(run_id=...), "
            "or leave run_id out to get a new one"
            if stored
            else f"run id {run_id!r} belongs to a run that has not ended; "
            "cancel that run, wait for its end, or leave run_id out to get a new one"
        )
        self.run_id = run_id


class RunNotContinuable(ConfigurationError):
    """The run cannot be continued: it has completed or is live, somebody else continues it, or it is not this agent's."""


class RunEnded(KernError):
    """A run did not end COMPLETED; `output` is what it left."""

    def __init__(self, message: str, output: Any = None) -> None:
        super().__init__(message)
        self.output = output


class RunFailed(RunEnded):
    """The run ended with status ERROR."""


class RunCancelled(RunEnded):
    """The run was cancelled."""


class ModelError(KernError):
    """The provider gave no usable answer.

    `retryable` says whether the same request may succeed when it is sent again; `retry_after` is the
    provider's own wish in seconds, when it stated one.
    """

    retryable: bool = False

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ModelKeyMissing(ModelError):
    """No API key was given and none is in the environment."""


class ModelConnectionError(ModelError):
    """The provider could not be reached, or the connection was cut."""

    retryable = True


class ModelStatusError(ModelError):
    """The provider answered with an HTTP status of 400 or more."""

    def __init__(
        self, message: str, *, status_code: int, code: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message, retry_after=retry_after)
        self.status_code = status_code
        self.code = code
        self.retryable = status_code in (408, 409, 429) or status_code >= 500


class ModelResponseError(ModelError):
    """The provider's answer says itself that it failed (`response.failed`, an `error` event)."""

    def __init__(self, message: str, *, code: str | None = None, retryable: bool = True) -> None:
        super().__init__(message)
        self.code = code
        self.retryable = retryable


class ModelProtocolError(ModelError):
    """The provider's answer is not what its protocol says: not JSON, malformed, or without an end."""

    retryable = True


class ModelTimeout(ModelError):
    """No first content within `first_token_timeout`, or none for `idle_timeout`."""

    retryable = True


class StoreError(KernError):
    """The database did not do what it was asked; the message names it and says why."""


class DatabaseUnusable(StoreError, ValueError):
    """The database cannot be used as it is: no database, a newer schema, a missing directory, a wrong URL."""


class WriteRejected(StoreError):
    """The database is well and refuses this write."""


class Fenced(WriteRejected):
    """The run is somebody else's: another process has continued or cancelled it."""


class RunExists(WriteRejected):
    """A run of this id is stored already."""


class SessionExists(WriteRejected):
    """A session of this id is stored already."""


class SessionBusy(WriteRejected):
    """The session has runs that have not ended."""


class NotTheirs(WriteRejected, ConfigurationError):
    """The session belongs to another user."""


class OutputSchemaError(KernError):
    """The model's final text does not fit the run's `output_schema`."""


class ToolError(KernError):
    """A tool call that failed. The model sees the message and the run goes on."""


class CheckTrigger(StrEnum):
    """Why a hook refused an input or an output."""

    OFF_TOPIC = "off_topic"
    INPUT_NOT_ALLOWED = "input_not_allowed"
    OUTPUT_NOT_ALLOWED = "output_not_allowed"
    VALIDATION_FAILED = "validation_failed"
    PROMPT_INJECTION = "prompt_injection"
    PII_DETECTED = "pii_detected"


class CheckError(KernError):
    """A hook refused what it was shown."""

    def __init__(
        self,
        message: str,
        check_trigger: CheckTrigger | str = CheckTrigger.VALIDATION_FAILED,
        additional_data: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.check_trigger = check_trigger
        self.additional_data = additional_data or {}


class InputCheckError(CheckError):
    """A pre-hook refused the run's input: the run ends ERROR before any model call."""

    def __init__(
        self,
        message: str,
        check_trigger: CheckTrigger | str = CheckTrigger.INPUT_NOT_ALLOWED,
        additional_data: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message, check_trigger, additional_data)


class OutputCheckError(CheckError):
    """A post-hook refused the run's output: the run ends ERROR, with its text kept."""

    def __init__(
        self,
        message: str,
        check_trigger: CheckTrigger | str = CheckTrigger.OUTPUT_NOT_ALLOWED,
        additional_data: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message, check_trigger, additional_data)
