"""How a server is guarded: the settings, checked once."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Literal, TypedDict

from kern_async.exceptions import ConfigurationError

from .jwt import JWTConfig, Verifier
from .limits import RateLimit


class SecurityOptions(TypedDict, total=False):
    """The keywords of `Security`."""

    os_security_key: str | None
    authorization: bool
    authorization_config: JWTConfig | None
    user_isolation: bool
    cors_allowed_origins: Sequence[str]
    max_body_bytes: int
    max_header_bytes: int
    max_form_parts: int
    max_concurrent_runs: int | None
    rate_limit: str | None
    allow_unauthenticated: bool


@dataclass(frozen=True, kw_only=True)
class Security:
    """Who may call a server, and how much.

    Args:
        os_security_key: a key that allows everything, sent as `Authorization: Bearer <key>`; without it
            `OS_SECURITY_KEY` of the environment.
        authorization: JSON Web Tokens are believed as `authorization_config` says.
        authorization_config: whose tokens, see `JWTConfig`.
        user_isolation: users see and touch only their own runs and sessions; needs `authorization`.
        cors_allowed_origins: the sites whose pages may call, such as `https://app.example.com`.
        max_body_bytes: of one request, its files included.
        max_header_bytes: of a request's address and headers together.
        max_form_parts: fields, and files, of one form.
        max_concurrent_runs: live runs of this process; None for any number.
        rate_limit: requests of one user, or of one address where users are not known, such as `60/minute`.
        allow_unauthenticated: without a key, and without tokens, serve other machines too.

    Raises:
        ConfigurationError: a setting cannot work, or would guard less than it says.
    """

    os_security_key: str | None = field(default=None, repr=False)
    authorization: bool = False
    authorization_config: JWTConfig | None = None
    user_isolation: bool = False
    cors_allowed_origins: Sequence[str] = ()
    max_body_bytes: int = 16 * 1024 * 1024
    max_header_bytes: int = 16 * 1024
    max_form_parts: int = 256
    max_concurrent_runs: int | None = 1_000
    rate_limit: str | None = None
    allow_unauthenticated: bool = False
    verifier: Verifier | None = field(init=False, default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.os_security_key is None:
            object.__setattr__(self, "os_security_key", os.environ.get("OS_SECURITY_KEY") or None)
        self._check_key()
        if self.authorization:
            config = self.authorization_config or JWTConfig()
            object.__setattr__(self, "verifier", Verifier(config, isolated=self.user_isolation))
        elif self.authorization_config is not None:
            raise ConfigurationError(
                "authorization_config= says whose tokens are believed, and authorization=True "
                "that they are asked for: give both, or neither"
            )
        elif self.user_isolation:
            raise ConfigurationError(
                "user_isolation=True needs tokens that prove who calls: authorization=True and "
                "authorization_config=JWTConfig(...); a name that a caller gives itself proves nothing"
            )
        self._check_origins()
        self._check_numbers()

    @property
    def guarded(self) -> bool:
        """Whether a caller must show a key or a token."""
        return self.os_security_key is not None or self.verifier is not None

    @property
    def mode(self) -> Literal["none", "security_key", "jwt"]:
        """What a caller must show; with tokens a key may be as good."""
        return "jwt" if self.verifier is not None else "security_key" if self.guarded else "none"

    @property
    def isolated(self) -> bool:
        """Whether users see and touch only what is theirs."""
        return self.verifier is not None and self.verifier.isolated

    @property
    def form_limits(self) -> dict[str, int]:
        """For `Request.form` and `FastAPI(form_limits=...)`: how many parts; their size is the body's."""
        return {
            "max_fields": self.max_form_parts,
            "max_files": self.max_form_parts,
            "max_part_size": self.max_body_bytes,
        }

    def _check_key(self) -> None:
        key = self.os_security_key
        if key is not None and not re.fullmatch(r"[!-~]+", key):
            raise ConfigurationError(
                "os_security_key (or OS_SECURITY_KEY) cannot be sent in a header: it needs one or more characters of "
                "ASCII without spaces; `python -c 'import secrets; print(secrets.token_urlsafe())'` makes a good one"
            )

    def _check_origins(self) -> None:
        if isinstance(self.cors_allowed_origins, str):
            raise ConfigurationError("cors_allowed_origins is a list: ['https://app.example.com']")
        for origin in self.cors_allowed_origins:
            if origin != "*" and not re.fullmatch(r"[a-z][a-z0-9+.-]*://[^/?#\s]+", origin):
                raise ConfigurationError(
                    f"cors_allowed_origins has {origin!r}; an origin is a scheme, a host and at most a port, "
                    "such as 'https://app.example.com'"
                )
        if "*" in self.cors_allowed_origins and not self.guarded and not self.allow_unauthenticated:
            raise ConfigurationError(
                "cors_allowed_origins=['*'] without a key lets every page that you open read and do everything here: "
                "set os_security_key (or OS_SECURITY_KEY), name the origins, or say allow_unauthenticated=True"
            )

    def _check_numbers(self) -> None:
        for name in ("max_body_bytes", "max_header_bytes", "max_form_parts", "max_concurrent_runs"):
            value = getattr(self, name)
            if value is None and name == "max_concurrent_runs":
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigurationError(f"{name} is {value!r}; it is a whole number of 1 or more")
        if self.rate_limit is not None:
            RateLimit(self.rate_limit)


def check_bind(host: str, security: Security) -> None:
    """See that only this machine can reach a server that asks for no key.

    Raises:
        ConfigurationError: others could.
    """
    if not (security.guarded or security.allow_unauthenticated or is_local(host)):
        raise ConfigurationError(
            f"host is {host!r}, where other machines can reach the server, and it asks for no key: set OS_SECURITY_KEY "
            "(or AgentOS(os_security_key=...)), bind to localhost, or say allow_unauthenticated=True if whoever can "
            "reach it may run and read everything"
        )


def is_local(host: str) -> bool:
    """Whether it is a name or an address of this machine that only this machine can reach."""
    name = host.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
