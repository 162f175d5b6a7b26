"""Images and files that a message carries to the model."""

from __future__ import annotations

import base64
import mimetypes
from pathlib import Path
from typing import Any, Self

from pydantic import ConfigDict, field_validator, model_validator

from .data import Data

_COMMON = str.maketrans("-_", "+/")


class _Media(Data):
    """One of `url`, `filepath` or `content` (bytes; base64 in JSON) says where the data is."""

    model_config = ConfigDict(ser_json_bytes="base64")

    url: str | None = None
    filepath: Path | None = None
    content: bytes | None = None
    mime_type: str | None = None

    @field_validator("content", mode="before")
    @classmethod
    def _from_base64(cls, content: Any) -> Any:
        if not isinstance(content, str):
            return content
        # JSON of ours has the alphabet for URLs, other people's the common one.
        return base64.b64decode(content.translate(_COMMON), validate=True)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if sum(source is not None for source in (self.url, self.filepath, self.content)) != 1:
            raise ValueError(f"{type(self).__name__} takes exactly one of url, filepath and content")
        return self

    def data_url(self, fallback_type: str) -> str:
        """The media as a URL: the given one, else a `data:` URL with the bytes in it.

        Reads `filepath` from disk, in the calling thread.
        """
        if self.url is not None:
            return self.url
        if self.filepath is not None:
            data = self.filepath.read_bytes()
            guessed = mimetypes.guess_type(self.filepath.name)[0]
        else:
            data, guessed = self.content or b"", None
        kind = self.mime_type or guessed or fallback_type
        return f"data:{kind};base64,{base64.b64encode(data).decode()}"


class Image(_Media):
    """An image for the model. `detail` is the provider's: low, high or auto."""

    detail: str | None = None


class File(_Media):
    """A file, usually a PDF, for the model."""

    filename: str | None = None
