"""Who calls, by a JSON Web Token (RFC 7519) that somebody else signed."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from kern_async.db.extras import check_installed
from kern_async.exceptions import ConfigurationError

from .caller import ADMIN, Caller

ALGORITHMS = frozenset(
    f"{family}{bits}" for family in ("HS", "RS", "PS", "ES") for bits in ("256", "384", "512")
) | {"ES256K", "EdDSA"}


@dataclass(frozen=True, kw_only=True)
class JWTConfig:
    """Whose tokens are believed, and which claims say who calls and what they may do.

    A token must be signed by one of the keys with exactly this algorithm, and have an `exp` that has not passed.

    Args:
        verification_keys: public keys (PEM), or for HS* the shared secrets, of 32 bytes or more.
        jwks_file: path of a JSON Web Key Set with public keys; a token's `kid` chooses among them. Without
            either, `JWT_VERIFICATION_KEY` and `JWT_JWKS_FILE` of the environment count. Keys are read once.
        audience: who the token must be for, one or several. Without it a token that is for somebody is refused,
            unless `verify_audience=False`.
        issuer: who must have issued it.
        user_id_claim: whose value is the user.
        scopes_claim: whose value is the scopes, a list or a text with spaces. Without it a token allows nothing.
        admin_scope: the scope that allows everything, and lifts user isolation.
        user_isolation: users see and touch only their own runs and sessions.
        leeway: seconds by which clocks may differ.
    """

    verification_keys: Sequence[str] | str = field(default=(), repr=False)
    jwks_file: str | os.PathLike[str] | None = None
    algorithm: str = "RS256"
    audience: str | Sequence[str] | None = None
    verify_audience: bool = True
    issuer: str | None = None
    user_id_claim: str = "sub"
    scopes_claim: str = "scopes"
    admin_scope: str = ADMIN
    user_isolation: bool = False
    leeway: float = 10


class Rejected(Exception):
    """A token that proves nothing: `reason` is for the log, and says nothing of the token."""

    def __init__(self, reason: str, *, expired: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.expired = expired


class Verifier:
    """Tells who calls by their token.

    Raises:
        ConfigurationError: there is no key, one is none for the algorithm, or the extra `jwt` is not installed.
    """

    def __init__(self, config: JWTConfig, *, isolated: bool = False) -> None:
        check_installed("authorization=True", "jwt", "jwt", "cryptography")
        if config.algorithm not in ALGORITHMS:
            raise ConfigurationError(
                f"algorithm is {config.algorithm!r}; tokens are signed with one of {', '.join(sorted(ALGORITHMS))}"
            )
        self._config = config
        self.isolated = isolated or config.user_isolation
        """Whether users see and touch only what is theirs."""
        self._keys, self._by_id = _keys_of(config)

    def caller(self, token: str) -> Caller:
        """Who the token says it is.

        Raises:
            Rejected: it is not valid, or names no user although users are kept apart.
        """
        config, claims = self._config, self._claims(token)
        scopes = _scopes(claims.get(config.scopes_claim))
        user = claims.get(config.user_id_claim)
        user_id = (
            str(user) if isinstance(user, str | int) and not isinstance(user, bool) and user != "" else None
        )
        if config.admin_scope in scopes:
            return Caller(user_id)
        if self.isolated and user_id is None:
            raise Rejected(f"no user in the claim {config.user_id_claim!r}")
        return Caller(user_id, scopes, self.isolated)

    def _claims(self, token: str) -> dict[str, Any]:
        import jwt

        config = self._config
        try:
            kid = jwt.get_unverified_header(token).get("kid")
            for key in self._by_id.get(kid, self._keys):
                try:
                    return jwt.decode(
                        token,
                        key,
                        # The token's own `alg` chooses nothing: it must be this one.
                        algorithms=[config.algorithm],
                        audience=config.audience if config.verify_audience else None,
                        issuer=config.issuer,
                        leeway=config.leeway,
                        options={"require": ["exp"], "verify_aud": config.verify_audience},
                    )
                except jwt.InvalidSignatureError:
                    continue
        except jwt.PyJWTError as error:
            raise Rejected(
                type(error).__name__, expired=isinstance(error, jwt.ExpiredSignatureError)
            ) from None
        raise Rejected("signed by none of the keys")


def _scopes(claim: object) -> frozenset[str]:
    if isinstance(claim, str):
        return frozenset(claim.split())
    if isinstance(claim, list):
        return frozenset(scope for scope in cast("list[object]", claim) if isinstance(scope, str))
    return frozenset()


# What the library says of a key that it cannot read may quote the key: its messages and tracebacks go nowhere.


def _keys_of(config: JWTConfig) -> tuple[list[Any], dict[Any, list[Any]]]:
    """The keys for tokens that name none, and those that tokens name."""
    given, file = config.verification_keys, config.jwks_file
    texts = [given] if isinstance(given, str) else list(given)
    if not texts and file is None:
        texts = [key] if (key := os.environ.get("JWT_VERIFICATION_KEY")) else []
        file = os.environ.get("JWT_JWKS_FILE") or None
    keys = [_key(text, config.algorithm, f"verification_keys[{n}]") for n, text in enumerate(texts)]
    by_id: dict[Any, list[Any]] = {}
    if file is not None:
        for kid, key in _read_jwks(Path(file), config.algorithm):
            (keys if kid is None else by_id.setdefault(kid, [])).append(key)
    if not keys and not by_id:
        raise ConfigurationError(
            "authorization=True needs a key to verify tokens with: JWTConfig(verification_keys=[...]) or "
            "JWTConfig(jwks_file=...), or JWT_VERIFICATION_KEY or JWT_JWKS_FILE in the environment"
        )
    return keys, by_id


def _key(text: str, algorithm: str, name: str) -> object:
    import jwt

    try:
        key = jwt.get_algorithm_by_name(algorithm).prepare_key(text)
    except (jwt.PyJWTError, ValueError, TypeError):
        wanted = "a shared secret" if algorithm.startswith("HS") else "a public key in PEM form"
        raise ConfigurationError(f"{name} is no key for {algorithm}: it is {wanted}") from None
    return _long_enough(key, algorithm, name)


def _long_enough(key: object, algorithm: str, name: str) -> object:
    import jwt

    if jwt.get_algorithm_by_name(algorithm).check_key_length(key) is not None:
        raise ConfigurationError(f"{name} is too short for {algorithm}: others could find it out")
    return key


def _read_jwks(path: Path, algorithm: str) -> list[tuple[str | None, object]]:
    """The keys of the set that verify this algorithm, with their ids."""
    import jwt

    name = f"jwks_file {str(path)!r}"
    try:
        entries = json.loads(path.read_bytes())["keys"]
    except OSError as error:
        raise ConfigurationError(f"{name} cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, LookupError):
        raise ConfigurationError(f'{name} is no JSON Web Key Set: {{"keys": [...]}}') from None
    found: list[tuple[str | None, object]] = []
    for entry in cast("list[object]", entries) if isinstance(entries, list) else ():
        if not isinstance(entry, dict) or not _is_for(cast("dict[str, Any]", entry), algorithm):
            continue
        try:
            jwk = jwt.PyJWK(cast("dict[str, Any]", entry), algorithm)
        except (jwt.PyJWTError, ValueError, TypeError):
            continue  # a set may have keys of kinds that are not for us
        found.append((jwk.key_id, _long_enough(jwk.key, algorithm, name)))
    if not found:
        raise ConfigurationError(f"{name} has no key that verifies {algorithm}")
    return found


def _is_for(entry: dict[str, Any], algorithm: str) -> bool:
    return entry.get("alg", algorithm) == algorithm and entry.get("use", "sig") == "sig"
