from __future__ import annotations

import dataclasses
import hmac
import logging
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from kern_async import Agent
from kern_async.exceptions import ConfigurationError
from kern_async.os import AgentOS
from kern_async.os.browser import LocalNames
from kern_async.os.caller import Caller
from kern_async.os.guard import install
from kern_async.os.security import Security, SecurityOptions, check_bind
from kern_async.testing.scripted import ScriptedModel

from .conftest import Serve
from .guarding import KEY, bearer, captured_logs, client_of, raw_call, small_app

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)

GUARDED = Security(os_security_key=KEY)
REQUIRED, INVALID = "Authorization header required", "Invalid authentication token"


@pytest.mark.parametrize(
    ("headers", "detail"),
    [
        ([], REQUIRED),
        ([(b"authorization", b"")], REQUIRED),
        ([(b"authorization", b"Bearer")], REQUIRED),
        ([(b"authorization", b"Bearer ")], REQUIRED),
        ([(b"authorization", b"Basic " + KEY.encode())], REQUIRED),
        ([(b"authorization", KEY.encode())], REQUIRED),
        ([(b"x-authorization", b"Bearer " + KEY.encode())], REQUIRED),
        ([(b"authorization", b"Bearer wrong")], INVALID),
        ([(b"authorization", b"Bearer " + KEY[:-1].encode())], INVALID),
        ([(b"authorization", b"Bearer " + KEY.encode() + b"x")], INVALID),
        ([(b"authorization", b"Bearer " + KEY.upper().encode())], INVALID),
        ([(b"authorization", "Bearer schlüssel".encode())], INVALID),
        ([(b"authorization", b"Bearer " + KEY.encode())] * 2, INVALID),
        ([(b"authorization", b"Bearer wrong"), (b"authorization", b"Bearer " + KEY.encode())], INVALID),
    ],
)
async def test_without_the_key_nothing_is_answered(headers: list[tuple[bytes, bytes]], detail: str) -> None:
    status, answered, body = await raw_call(small_app(GUARDED), headers=headers)
    assert (status, body) == (401, b'{"detail":"%s"}' % detail.encode())
    assert answered["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer  "])
async def test_the_key_may_everything(scheme: str) -> None:
    async with client_of(small_app(GUARDED)) as client:
        answer = await client.get("/whoami", headers={"Authorization": f"{scheme} {KEY}"})
    assert answer.json() == {"user_id": None, "scopes": None, "isolated": False}


async def test_keys_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[object, object]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((one, other))
        return False

    monkeypatch.setattr(hmac, "compare_digest", compare)
    async with client_of(small_app(GUARDED)) as client:
        answer = await client.get("/whoami", headers=bearer(KEY))
    assert answer.status_code == 401
    assert compared == [(KEY.encode(), KEY.encode())]


MOUNTS = ["", "/api", "/a/b"]


def mounted(app: ASGIApp, where: str) -> ASGIApp:
    if not where:
        return app
    host = FastAPI()
    host.mount(where, app)
    return host


@pytest.mark.parametrize("where", MOUNTS)
@pytest.mark.parametrize("path", ["/health", "/info", "/", "/console"])
async def test_public_routes_need_no_key(where: str, path: str) -> None:
    async with client_of(mounted(small_app(GUARDED), where)) as client:
        answer = await client.get(where + path)
    assert answer.status_code == (
        404 if path in ("/", "/console") else 200
    )  # the small one has no such route


@pytest.mark.parametrize("where", MOUNTS)
@pytest.mark.parametrize(
    "path",
    [
        "/whoami",
        "/docs",
        "/redoc",
        "/openapi.json",
        "/docs/oauth2-redirect",
        "/console/runs",
        "/health/",
        "/health/x",
        "//health",
        "/HEALTH",
        "/info/../whoami",
        "/health;/whoami",
        "/health%2F",
        "/no-such-route",
    ],
)
async def test_everything_else_needs_the_key(where: str, path: str) -> None:
    status, _, _ = await raw_call(mounted(small_app(GUARDED), where), path=where + path)
    assert status == 401


async def test_a_public_route_of_a_guarded_server_knows_nobody() -> None:
    async with client_of(small_app(GUARDED)) as client:
        for headers in ({}, bearer(KEY)):
            answer = await client.get("/health", headers=headers)
            assert answer.json() == {"user_id": None, "scopes": [], "isolated": True}


async def test_a_websocket_needs_the_key_too() -> None:
    assert (await raw_call(small_app(GUARDED), kind="websocket", path="/health"))[0] == 1008


async def test_the_key_of_the_environment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not Security().guarded
    monkeypatch.setenv("OS_SECURITY_KEY", "")
    assert not Security().guarded
    monkeypatch.setenv("OS_SECURITY_KEY", "from-the-environment")
    assert Security().os_security_key == "from-the-environment"
    assert Security(os_security_key=KEY).os_security_key == KEY


@pytest.mark.parametrize("key", ["", " ", "two words", "schlüssel", "line\n"])
async def test_a_key_that_cannot_be_sent_is_refused_without_saying_it(key: str) -> None:
    with pytest.raises(ConfigurationError, match="os_security_key") as caught:
        Security(os_security_key=key)
    assert len(key) < 4 or key not in str(caught.value)


async def test_no_secret_gets_into_logs_reprs_or_errors(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with captured_logs() as records:
        app = small_app(Security(os_security_key=KEY, rate_limit="3/day"))
        bodies: list[str] = []
        async with client_of(app) as client:
            for token in (KEY, "sentinel-wrong", "sentinel.wrong.token", "sentinel-wrong", KEY):
                answer = await client.post("/teams/red/runs", headers=bearer(token), data={"x": "y"})
                bodies.append(f"{answer.status_code} {answer.headers} {answer.text}")
    assert [body[:3] for body in bodies] == ["422", "401", "401", "429", "429"]
    shown = [caplog.text, repr(records), *bodies, repr(GUARDED), str(GUARDED), repr(app.user_middleware)]
    assert "auth.refused" in caplog.text + repr(records)
    for text in shown:
        assert "sentinel" not in text


async def test_nobody_writes_lines_into_a_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with captured_logs() as records:
        await raw_call(small_app(GUARDED), path="/x%0aauth.refused%20path=/y")
    assert "%0Aauth.refused" in caplog.text + repr(records)
    assert "\nauth.refused" not in caplog.text
    assert all("\n" not in str(value) for record in records for value in record.values())


PREFLIGHT = {
    "Origin": "https://app.example.com",
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization",
}


async def test_a_page_of_an_allowed_origin_may_ask_before_and_read_refusals() -> None:
    app = small_app(Security(os_security_key=KEY, cors_allowed_origins=["https://app.example.com"]))
    async with client_of(app) as client:
        preflight = await client.options("/teams/red/runs", headers=PREFLIGHT)
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == "https://app.example.com"
        assert preflight.headers["access-control-allow-headers"] == "authorization"
        assert "access-control-allow-credentials" not in preflight.headers
        refused = await client.get("/whoami", headers={"Origin": "https://app.example.com"})
        assert refused.status_code == 401
        assert refused.headers["access-control-allow-origin"] == "https://app.example.com"
        other = await client.options("/whoami", headers=PREFLIGHT | {"Origin": "https://evil.example"})
        assert other.status_code == 400
        assert "access-control-allow-origin" not in other.headers


async def test_cors_is_off_by_default() -> None:
    async with client_of(small_app(GUARDED)) as client:
        preflight = await client.options("/teams/red/runs", headers=PREFLIGHT)
        answer = await client.get("/whoami", headers={**bearer(KEY), "Origin": "https://app.example.com"})
    assert preflight.status_code == 401
    assert answer.status_code == 200
    assert not [name for name in (*preflight.headers, *answer.headers) if name.startswith("access-control")]


@pytest.mark.parametrize(
    "origins", [["https://x.example/"], ["x.example"], ["https://x.example/path"], [""], "https://x.example"]
)
async def test_what_is_no_origin_is_refused(origins: list[str]) -> None:
    with pytest.raises(ConfigurationError, match="cors_allowed_origins"):
        Security(cors_allowed_origins=origins)


async def test_any_origin_without_a_key_must_be_meant() -> None:
    with pytest.raises(ConfigurationError, match="every page"):
        Security(cors_allowed_origins=["*"])
    Security(cors_allowed_origins=["*"], os_security_key=KEY)
    Security(cors_allowed_origins=["*"], allow_unauthenticated=True)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "http://localhost:7777"}, 200),
        ({"Origin": "http://localhost:7777", "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Origin": "https://behind.proxy", "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Origin": "https://app.example.com", "Sec-Fetch-Site": "cross-site"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://localhost:3000", "Sec-Fetch-Site": "same-site"}, 403),
        ({"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
    ],
)
async def test_without_a_key_no_page_of_another_site_starts_runs(
    headers: dict[str, str], status: int
) -> None:
    app = small_app(Security(cors_allowed_origins=["https://app.example.com"]))
    async with client_of(app) as client:
        answer = await client.post("/teams/red/runs", data={"message": "go"}, headers=headers)
        assert answer.status_code == status
        assert status == 200 or "cors_allowed_origins" in answer.json()["detail"]
        assert (await client.get("/whoami", headers=headers)).status_code == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LocalHost:7777", 200),
        ("app.localhost:7777", 200),
        ("127.0.0.1:7777", 200),
        ("127.9.9.9", 200),
        ("[::1]:7777", 200),
        ("[::1]", 200),
        ("evil.example:7777", 403),
        ("localhost.evil.example", 403),
        ("evillocalhost", 403),
        ("127.0.0.1.nip.io", 403),
        ("0.0.0.0:7777", 403),
        ("", 403),
    ],
)
async def test_a_local_server_without_a_key_answers_browsers_under_local_names(
    host: str, status: int
) -> None:
    app = LocalNames(small_app(Security()))
    headers = [(b"host", host.encode())]
    assert (await raw_call(app, headers=[*headers, (b"accept-language", b"en")]))[0] == status
    assert (await raw_call(app, headers=headers))[0] == 200, "what is no browser goes where it wants to go"


async def test_serving_other_machines_takes_a_key_or_a_word() -> None:
    for host in ("localhost", "127.0.0.1", "::1", "LOCALHOST"):
        check_bind(host, Security())
    for host in ("0.0.0.0", "::", "", "192.168.1.5", "example.com"):
        with pytest.raises(ConfigurationError, match="OS_SECURITY_KEY"):
            check_bind(host, Security())
        check_bind(host, GUARDED)
        check_bind(host, Security(allow_unauthenticated=True))


def an_os(**settings: Any) -> AgentOS:
    return AgentOS(agents=[Agent(name="Writer", model=ScriptedModel("writer", []))], **settings)


async def test_an_agent_os_without_a_key_serves_nobody_else() -> None:
    with pytest.raises(ConfigurationError, match="OS_SECURITY_KEY"):
        an_os().serve(host="0.0.0.0", port=0)


async def test_a_server_without_a_key_keeps_its_names_and_its_limits(serve: Serve) -> None:
    client = serve(an_os(max_header_bytes=4_000))
    assert client.get("/agents").status_code == 200
    assert client.get("/agents", headers={"Host": "localhost:7777"}).status_code == 200
    for path in ("/agents", "/health"):
        refused = client.get(path, headers={"Host": "evil.example", "Accept-Language": "en"})
        assert refused.status_code == 403
        assert "evil.example" in refused.json()["detail"]
    evil = {"Origin": "http://evil.example"}
    assert client.post("/agents/writer/runs", data={"message": "go"}, headers=evil).status_code == 403
    assert client.get("/agents", headers={"X-Long": "y" * 4_000}).status_code in (400, 431)
    for open_to_all in (serve(an_os(os_security_key=KEY)), serve(an_os(allow_unauthenticated=True))):
        answer = open_to_all.get("/agents", headers={"Host": "example.com", **bearer(KEY)})
        assert answer.status_code == 200


def _logs_in(app: ASGIApp, caller: Caller) -> ASGIApp:
    async def logged_in(scope: Scope, receive: Receive, send: Send) -> None:
        scope.setdefault("state", {})["caller"] = caller
        await app(scope, receive, send)

    return logged_in


async def test_an_application_round_it_may_say_who_calls_where_no_key_is_asked_for() -> None:
    ann = Caller("ann", frozenset({"teams:run"}), isolated=True)
    async with client_of(_logs_in(small_app(Security()), ann)) as client:
        assert (await client.get("/whoami")).json()["user_id"] == "ann"
    async with client_of(_logs_in(small_app(GUARDED), ann)) as client:
        assert (await client.get("/whoami")).status_code == 401
        assert (await client.get("/whoami", headers=bearer(KEY))).json()["user_id"] is None
        assert (await client.get("/health")).json()["user_id"] is None


async def test_the_openapi_document_says_where_a_key_is_asked_for() -> None:
    async with client_of(small_app(GUARDED)) as client:
        document = (await client.get("/openapi.json", headers=bearer(KEY))).json()
    assert document["components"]["securitySchemes"] == {"bearer": {"type": "http", "scheme": "bearer"}}
    assert document["security"] == [{"bearer": []}]
    assert document["paths"]["/health"]["get"]["security"] == []
    assert "security" not in document["paths"]["/whoami"]["get"]
    async with client_of(small_app(Security())) as client:
        assert "security" not in (await client.get("/openapi.json")).json()


async def test_a_page_tells_the_browser_what_it_may() -> None:
    app = FastAPI()

    @app.get("/console", response_class=HTMLResponse)
    async def console() -> HTMLResponse:
        return HTMLResponse("<p>", headers={"Content-Security-Policy": "default-src 'none'"})

    install(app, Security())
    async with client_of(app) as client:
        page, docs, data = [await client.get(path) for path in ("/console", "/docs", "/openapi.json")]
    assert page.headers["content-security-policy"] == "default-src 'none'"  # its own stays
    assert "frame-ancestors 'none'" in docs.headers["content-security-policy"]
    assert docs.headers["x-frame-options"] == "DENY"
    assert docs.headers["referrer-policy"] == "no-referrer"
    assert "x-frame-options" not in data.headers
    assert data.headers["x-content-type-options"] == "nosniff"


async def test_an_agent_os_takes_every_setting_of_its_security() -> None:
    fields = {each.name for each in dataclasses.fields(Security) if each.init}
    assert SecurityOptions.__annotations__.keys() == fields
    assert an_os(rate_limit="5/day", os_security_key=KEY).security == Security(
        rate_limit="5/day", os_security_key=KEY
    )
    with pytest.raises(TypeError, match="max_bodies"):
        an_os(max_bodies=1)


@pytest.mark.parametrize(
    "settings",
    [
        {"user_isolation": True},
        {"user_isolation": True, "os_security_key": KEY},
        {"max_body_bytes": 0},
        {"max_body_bytes": "16"},
        {"max_header_bytes": -1},
        {"max_form_parts": True},
        {"max_concurrent_runs": 0},
        {"rate_limit": "60"},
        {"rate_limit": "0/minute"},
        {"rate_limit": "60/fortnight"},
    ],
)
async def test_settings_that_cannot_work_are_refused_by_name(settings: dict[str, object]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(settings))):
        Security(**settings)  # pyright: ignore[reportArgumentType]
