from __future__ import annotations

import base64
import json
import logging
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from jwt.algorithms import RSAAlgorithm

from kern_async.exceptions import ConfigurationError
from kern_async.os.caller import Caller
from kern_async.os.jwt import JWTConfig, Rejected, Verifier
from kern_async.os.security import Security

from .guarding import KEY, bearer, captured_logs, client_of, small_app

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)

SECRET = "sentinel-secret-" * 4
Private = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


@dataclass(frozen=True)
class Pair:
    private: Private

    @property
    def public_pem(self) -> str:
        return (
            self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        )

    @property
    def private_pem(self) -> str:
        return self.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()

    def jwk(self, **more: str) -> dict[str, Any]:
        assert isinstance(self.private, rsa.RSAPrivateKey)
        return dict(RSAAlgorithm.to_jwk(self.private.public_key(), as_dict=True)) | more


def rsa_pair(bits: int = 2048) -> Pair:
    return Pair(rsa.generate_private_key(65537, bits))


OURS, OTHERS = rsa_pair(), rsa_pair()
CONFIG = JWTConfig(verification_keys=[OURS.public_pem], audience="os-1", issuer="https://id.example")


DAY = 86_400


def claims(**more: Any) -> dict[str, Any]:
    given = {
        "sub": "ann",
        "exp": int(time.time()) + DAY,  # some are made when tests are collected, long before they run
        "aud": "os-1",
        "iss": "https://id.example",
        "scopes": ["teams:run"],
    }
    return {name: value for name, value in (given | more).items() if value is not None}


def signed(
    pair: Pair = OURS, algorithm: str = "RS256", headers: dict[str, Any] | None = None, **more: Any
) -> str:
    return jwt.encode(claims(**more), pair.private, algorithm=algorithm, headers=headers)


def unsigned(header: dict[str, Any], payload: dict[str, Any], signature: bytes = b"") -> str:
    parts = [json.dumps(header).encode(), json.dumps(payload).encode(), signature]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


def signed_by_our_public_key() -> str:
    """HS256 with the public key as its secret: what a server takes for RS256 if the token may say how it is signed."""
    import hashlib
    import hmac

    token = unsigned({"alg": "HS256", "typ": "JWT"}, claims())
    body = token.rpartition(".")[0]
    mac = hmac.new(OURS.public_pem.encode(), body.encode(), hashlib.sha256).digest()
    return f"{body}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


def tampered() -> str:
    head, _, signature = signed().split(".")
    payload = base64.urlsafe_b64encode(json.dumps(claims(sub="bob")).encode()).rstrip(b"=").decode()
    return f"{head}.{payload}.{signature}"


async def test_a_signed_token_says_who_calls_and_what_they_may() -> None:
    async with client_of(small_app(Security(authorization=True, authorization_config=CONFIG))) as client:
        answer = await client.get("/whoami", headers=bearer(signed()))
        assert answer.json() == {"user_id": "ann", "scopes": ["teams:run"], "isolated": False}
        assert (await client.get("/whoami")).json() == {"detail": "Authorization header required"}


HOUR = 3600


@pytest.mark.parametrize(
    "token",
    {
        "signed by another": signed(OTHERS),
        "changed": tampered(),
        "signed by nobody": unsigned({"alg": "none"}, claims()),
        "none, with another case": unsigned({"alg": "None"}, claims()),
        "signature cut off": signed().rpartition(".")[0] + ".",
        "signed by our public key": signed_by_our_public_key(),
        "another algorithm, our key": signed(algorithm="RS512"),
        "its own key": signed(OTHERS, headers={"jwk": OTHERS.jwk()}),
        "never ends": signed(exp=None),
        "not yet": signed(nbf=time.time() + HOUR),
        "from the future": signed(iat=time.time() + HOUR),
        "for another": signed(aud="os-2"),
        "for nobody": signed(aud=None),
        "from another": signed(iss="https://evil.example"),
        "from nobody": signed(iss=None),
        "ends at no time": signed(exp="soon"),
        "no object": jwt.api_jws.encode(b"[1]", OURS.private, algorithm="RS256"),
        "critical": signed(headers={"crit": ["x"], "x": 1}),
        "kid is no text": unsigned({"alg": "RS256", "kid": ["a"]}, claims()),
        "not a token": "abc",
        "dots": "...",
        "empty parts": "..",
        "no base64": "é.é.é".encode().decode("latin-1"),
        "deep": unsigned({"alg": "RS256"}, {}) + "[" * 5000,
    }.items(),
    ids=lambda item: item[0],
)
async def test_what_proves_nothing_is_refused(token: tuple[str, str]) -> None:
    async with client_of(small_app(Security(authorization=True, authorization_config=CONFIG))) as client:
        answer = await client.get("/whoami", headers=[(b"Authorization", b"Bearer " + token[1].encode())])
    assert (answer.status_code, answer.json()) == (401, {"detail": "Invalid authentication token"})
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_a_token_that_has_expired_is_told_so() -> None:
    security = Security(authorization=True, authorization_config=CONFIG)
    async with client_of(small_app(security)) as client:
        answer = await client.get("/whoami", headers=bearer(signed(exp=int(time.time()) - 11)))
        assert (answer.status_code, answer.json()["detail"]) == (401, "Token has expired")
        answer = await client.get("/whoami", headers=bearer(signed(exp=int(time.time()) - 5)))
        assert answer.status_code == 200  # within the leeway


async def test_a_token_of_somebody_else_is_not_told_that_it_has_expired() -> None:
    with pytest.raises(Rejected) as caught:
        Verifier(CONFIG).caller(signed(OTHERS, exp=1))
    assert not caught.value.expired


@given(st.text(alphabet="abcAZ09-_.=", max_size=80) | st.text(max_size=40))
@settings(max_examples=200)
def test_no_text_is_worse_than_refused(anyio_backend: object, text: str) -> None:
    with pytest.raises(Rejected):
        Verifier(CONFIG).caller(text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
HEAD = st.dictionaries(st.sampled_from(["alg", "typ", "kid", "crit", "b64", "jwk"]), JSON | st.just("RS256"))


@given(HEAD, st.dictionaries(st.sampled_from(["exp", "nbf", "iat", "aud", "iss", "sub", "jti"]), JSON))
@settings(max_examples=200)
def test_no_header_and_no_claims_are_worse_than_refused(
    anyio_backend: object, header: dict[str, Any], payload: dict[str, Any]
) -> None:
    verifier = Verifier(CONFIG)
    with pytest.raises(Rejected):
        verifier.caller(unsigned(header, payload))
    try:
        token = jwt.api_jws.encode(json.dumps(payload).encode(), OURS.private, algorithm="RS256")
        verifier.caller(token)
    except Rejected:
        pass


async def test_without_an_audience_of_ours_a_token_for_somebody_is_refused() -> None:
    config = JWTConfig(verification_keys=[OURS.public_pem])
    assert Verifier(config).caller(signed(aud=None)).user_id == "ann"
    with pytest.raises(Rejected):
        Verifier(config).caller(signed())
    config = JWTConfig(verification_keys=[OURS.public_pem], verify_audience=False)
    assert Verifier(config).caller(signed()).user_id == "ann"
    config = JWTConfig(verification_keys=[OURS.public_pem], audience=["os-0", "os-1"])
    assert Verifier(config).caller(signed()).user_id == "ann"


@pytest.mark.parametrize(
    ("algorithm", "pair"),
    [
        ("RS512", OURS),
        ("PS256", OURS),
        ("ES256", Pair(ec.generate_private_key(ec.SECP256R1()))),
        ("EdDSA", Pair(ed25519.Ed25519PrivateKey.generate())),
    ],
)
async def test_other_algorithms_work_when_they_are_the_one(algorithm: str, pair: Pair) -> None:
    verifier = Verifier(JWTConfig(verification_keys=pair.public_pem, algorithm=algorithm, audience="os-1"))
    assert verifier.caller(signed(pair, algorithm)).user_id == "ann"


async def test_a_shared_secret_works() -> None:
    verifier = Verifier(JWTConfig(verification_keys=[SECRET], algorithm="HS256", audience="os-1"))
    assert verifier.caller(jwt.encode(claims(), SECRET, algorithm="HS256")).user_id == "ann"
    with pytest.raises(Rejected):
        verifier.caller(jwt.encode(claims(), SECRET, algorithm="HS512"))


async def test_any_of_several_keys_will_do() -> None:
    verifier = Verifier(JWTConfig(verification_keys=[OTHERS.public_pem, OURS.public_pem], audience="os-1"))
    assert verifier.caller(signed(OURS)) == verifier.caller(signed(OTHERS))
    with pytest.raises(Rejected, match="none of the keys"):
        verifier.caller(signed(rsa_pair()))


def write_jwks(path: Path, *keys: object) -> Path:
    path.write_text(json.dumps({"keys": keys}))
    return path


async def test_a_key_set_is_chosen_from_by_the_tokens_key_id(tmp_path: Path) -> None:
    third, not_for_us = rsa_pair(), rsa_pair()
    file = write_jwks(
        tmp_path / "jwks.json",
        OURS.jwk(kid="one"),
        OTHERS.jwk(kid="two", alg="RS256", use="sig"),
        third.jwk(),
        not_for_us.jwk(kid="three", use="enc"),
        not_for_us.jwk(kid="four", alg="RS512"),
        {"kty": "unheard-of", "kid": "five"},
        "no object",
    )
    verifier = Verifier(JWTConfig(jwks_file=file, audience="os-1"))
    assert verifier.caller(signed(OURS, headers={"kid": "one"})).user_id == "ann"
    assert verifier.caller(signed(OTHERS, headers={"kid": "two"})).user_id == "ann"
    assert verifier.caller(signed(third)).user_id == "ann"
    refused = [(OURS, "two"), (OURS, None), (OTHERS, "one"), (third, "one")]
    refused += [(not_for_us, "three"), (not_for_us, "four")]
    for pair, kid in refused:
        with pytest.raises(Rejected):
            verifier.caller(signed(pair, headers={"kid": kid} if kid else None))


async def test_keys_come_from_the_environment_when_none_are_given(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("JWT_VERIFICATION_KEY", OURS.public_pem)
    assert Verifier(JWTConfig(audience="os-1")).caller(signed()).user_id == "ann"
    with pytest.raises(Rejected):
        Verifier(JWTConfig(verification_keys=[OTHERS.public_pem], audience="os-1")).caller(signed())
    monkeypatch.delenv("JWT_VERIFICATION_KEY")
    monkeypatch.setenv("JWT_JWKS_FILE", str(write_jwks(tmp_path / "keys", OURS.jwk())))
    assert Verifier(JWTConfig(audience="os-1")).caller(signed()).user_id == "ann"


@pytest.mark.filterwarnings("ignore::jwt.InsecureKeyLengthWarning")
async def test_keys_that_cannot_work_are_refused_at_once_and_not_shown(tmp_path: Path) -> None:
    secret = {"kty": "oct", "k": "sentinel", "kid": "a"}
    empty, text = tmp_path / "empty.json", tmp_path / "text.json"
    empty.write_text("[]")
    text.write_text("sentinel no JSON")
    for config, says in [
        (JWTConfig(), "JWT_VERIFICATION_KEY"),
        (JWTConfig(verification_keys=["sentinel-no-pem"]), "no key for RS256"),
        (JWTConfig(verification_keys=[OURS.public_pem, "sentinel"]), r"verification_keys\[1\]"),
        (JWTConfig(verification_keys=[OURS.public_pem], algorithm="HS256"), "no key for HS256"),
        (JWTConfig(verification_keys=["sentinel-short"], algorithm="HS256"), "too short"),
        (JWTConfig(verification_keys=[""], algorithm="HS256"), "no key for HS256"),
        (JWTConfig(verification_keys=[rsa_pair(1024).public_pem]), "too short"),
        (JWTConfig(verification_keys=[OURS.public_pem], algorithm="none"), "algorithm is 'none'"),
        (JWTConfig(verification_keys=[OURS.public_pem], algorithm="ES256"), "no key for ES256"),
        (JWTConfig(jwks_file=tmp_path / "nowhere.json"), "cannot be read"),
        (JWTConfig(jwks_file=text), "no JSON Web Key Set"),
        (JWTConfig(jwks_file=empty), "no JSON Web Key Set"),
        (JWTConfig(jwks_file=write_jwks(tmp_path / "none.json")), "no key that verifies"),
        (JWTConfig(jwks_file=write_jwks(tmp_path / "oct.json", secret)), "no key that verifies RS256"),
        (JWTConfig(jwks_file=write_jwks(tmp_path / "small.json", rsa_pair(1024).jwk())), "too short"),
    ]:
        with pytest.raises(ConfigurationError, match=says) as caught:
            Security(authorization=True, authorization_config=config)
        assert "sentinel" not in str(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__ or caught.value.__context__ is None


async def test_half_a_configuration_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="authorization=True"):
        Security(authorization_config=CONFIG)
    with pytest.raises(ConfigurationError, match="user_isolation"):
        Security(user_isolation=True)


@pytest.mark.parametrize("missing", ["jwt", "cryptography"])
async def test_a_missing_extra_is_said_at_once(monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ConfigurationError, match=r'pip install "kern-async\[jwt\]"'):
        Security(authorization=True, authorization_config=CONFIG)


@pytest.mark.parametrize(
    ("claim", "scopes"),
    [
        (["teams:run", "agents:read"], {"teams:run", "agents:read"}),
        ("teams:run agents:read", {"teams:run", "agents:read"}),
        (["teams:run", 5, None], {"teams:run"}),
        ([], set()),
        (None, set()),
        ({"teams:run": True}, set()),
        (True, set()),
    ],
)
async def test_scopes_are_a_list_or_a_text(claim: object, scopes: set[str]) -> None:
    assert Verifier(CONFIG).caller(signed(scopes=claim)).scopes == scopes


async def test_the_claims_have_other_names_when_told() -> None:
    config = JWTConfig(
        verification_keys=[OURS.public_pem],
        audience="os-1",
        user_id_claim="uid",
        scopes_claim="scope",
        admin_scope="root",
    )
    verifier = Verifier(config)
    assert verifier.caller(signed(uid=42, scope="teams:read")) == Caller("42", frozenset({"teams:read"}))
    assert verifier.caller(signed(uid="ann", scope="root")) == Caller("ann")
    assert not verifier.caller(signed(scope="agent_os:admin")).may("teams:run")


async def test_users_are_kept_apart_but_for_admins() -> None:
    for security in (
        Security(authorization=True, authorization_config=CONFIG, user_isolation=True),
        Security(
            authorization=True,
            authorization_config=JWTConfig(
                verification_keys=[OURS.public_pem], audience="os-1", user_isolation=True
            ),
        ),
    ):
        assert security.verifier is not None
        ann = security.verifier.caller(signed())
        assert ann.isolated
        assert ann.owns("ann")
        assert not ann.owns("bob")
        assert not ann.owns(None)
        admin = security.verifier.caller(signed(scopes="agent_os:admin"))
        assert admin.owns("bob")
        assert admin.owns(None)
        for nobody in (None, ""):
            with pytest.raises(Rejected):
                security.verifier.caller(signed(sub=nobody))
    assert Verifier(CONFIG).caller(signed(sub=None)).user_id is None


MAY = [
    ({"teams:run"}, "teams:run", None, True),
    ({"teams:run"}, "teams:run", "red", True),
    ({"teams:*:run"}, "teams:run", None, True),
    ({"teams:*:run"}, "teams:run", "red", True),
    ({"teams:red:run"}, "teams:run", "red", True),
    ({"teams:red:run"}, "teams:run", "blue", False),
    ({"teams:red:run"}, "teams:run", None, False),
    ({"teams:red:run"}, "agents:run", "red", False),
    ({"teams:red:read"}, "teams:run", "red", False),
    ({"teams:read"}, "teams:run", "red", False),
    ({"teams"}, "teams:run", "red", False),
    ({"*"}, "teams:run", "red", False),
    ({"teams:run:red"}, "teams:run", "red", False),
    ({"xteams:run"}, "teams:run", None, False),
    (set[str](), "teams:run", None, False),
    (None, "teams:run", "red", True),
]


@pytest.mark.parametrize(("scopes", "scope", "resource", "may"), MAY)
async def test_a_scope_is_for_all_or_for_one(
    scopes: set[str] | None, scope: str, resource: str | None, may: bool
) -> None:
    caller = Caller(scopes=frozenset(scopes) if scopes is not None else None)
    assert caller.may(scope, resource) is may
    some = {"teams:run", "teams:*:run", "teams:red:run"}
    assert caller.may_some("teams:run") is (scopes is None or bool(scopes & some))


async def test_a_route_answers_403_to_who_may_not() -> None:
    async with client_of(small_app(Security(authorization=True, authorization_config=CONFIG))) as client:

        async def post(team: str, scopes: object) -> tuple[int, Any]:
            answer = await client.post(
                f"/teams/{team}/runs", data={"message": "go"}, headers=bearer(signed(scopes=scopes))
            )
            return answer.status_code, answer.json().get("detail")

        assert await post("red", ["teams:run"]) == (200, None)
        assert await post("red", ["teams:red:run"]) == (200, None)
        assert await post("red", ["agent_os:admin"]) == (200, None)
        refusal = "your token does not have the scope teams:run or teams:blue:run"
        assert await post("blue", ["teams:red:run"]) == (403, refusal)
        assert await post("blue", None) == (403, refusal)

        async def get(path: str, *scopes: str) -> tuple[int, Any]:
            answer = await client.get(path, headers=bearer(signed(scopes=scopes)))
            return answer.status_code, answer.json()

        assert await get("/teams", "teams:read") == (200, ["red", "blue"])
        assert await get("/teams", "teams:blue:read") == (200, ["blue"])
        assert (await get("/teams", "teams:blue:run"))[0] == 403
        assert await get("/sessions", "sessions:read") == (200, "sessions")
        assert (await get("/sessions", "teams:read"))[0] == 403
        assert (await get("/health"))[0] == 200


async def test_a_key_and_tokens_may_both_be_asked_for() -> None:
    security = Security(
        os_security_key=KEY, authorization=True, authorization_config=CONFIG, user_isolation=True
    )
    async with client_of(small_app(security)) as client:
        service = await client.get("/whoami", headers=bearer(KEY))
        assert service.json() == {"user_id": None, "scopes": None, "isolated": False}
        user = await client.get("/whoami", headers=bearer(signed()))
        assert user.json() == {"user_id": "ann", "scopes": ["teams:run"], "isolated": True}
        assert (await client.get("/whoami", headers=bearer("neither"))).status_code == 401


async def test_no_token_and_no_secret_gets_into_logs_reprs_or_errors(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    config = JWTConfig(verification_keys=[SECRET], algorithm="HS256")
    security = Security(authorization=True, authorization_config=config)
    wrong = jwt.encode({"sub": "ann"}, "another-secret-of-thirty-two-bytes-or-more", algorithm="HS256")
    old = jwt.encode({"sub": "ann", "exp": 1}, SECRET, algorithm="HS256")
    shown = [repr(config), repr(security), repr(security.verifier)]
    with captured_logs() as records:
        app = small_app(security)
        async with client_of(app) as client:
            for token in (wrong, old, "a.b.c"):
                answer = await client.get("/whoami", headers=bearer(token))
                assert answer.status_code == 401
                shown.append(f"{answer.headers} {answer.text}")
    shown += [caplog.text, repr(records), repr(app.user_middleware)]
    assert "ExpiredSignatureError" in caplog.text + repr(records)  # the reason is for the log
    for text in shown:
        for secret in ("sentinel", wrong, old, wrong.split(".")[2], old.split(".")[1]):
            assert secret not in text
