from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncGenerator
from typing import Any

import anyio
import httpx2
import pytest
import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import StreamingResponse
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message, Receive, Scope, Send

from kern_async import Agent, Team
from kern_async.db.in_memory import InMemoryDb
from kern_async.os import AgentOS
from kern_async.os.guard import install
from kern_async.os.limits import RateLimit, RequestLimits, check_room_for_a_run
from kern_async.os.security import Security
from kern_async.testing.scripted import ScriptedModel, call

from .guarding import KEY, bearer, client_of, raw_call, small_app

pytestmark = pytest.mark.parametrize("anyio_backend", ["asyncio"], indirect=True)

FORM = (b"content-type", b"application/x-www-form-urlencoded")
MULTIPART = (b"content-type", b"multipart/form-data; boundary=B")
JSON = (b"content-type", b"application/json")
RUNS = "/teams/red/runs"


def part(value: bytes, *, filename: bytes | None = None, name: bytes = b"message") -> bytes:
    named = b'; filename="%s"' % filename if filename is not None else b""
    return b'--B\r\nContent-Disposition: form-data; name="%s"%s\r\n\r\n%s\r\n' % (name, named, value)


END = b"--B--\r\n"
FILE = part(b"\xff\0\xfe", filename=b"x", name=b"files")


async def post(
    pieces: list[bytes], *headers: tuple[bytes, bytes], path: str = RUNS, **settings: Any
) -> tuple[int, str]:
    status, _, body = await raw_call(
        small_app(Security(**settings)), "POST", path, headers=list(headers), body=pieces
    )
    return status, body.decode()


async def test_a_body_that_says_it_is_too_large_is_not_read() -> None:
    async def never() -> Message:
        raise AssertionError("the body was read")

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": RUNS, "headers": [FORM, (b"content-length", b"101")]}
    await small_app(Security(max_body_bytes=100))(scope, never, send)
    assert sent[0]["status"] == 413
    assert sent[1]["body"] == b'{"detail":"the request\'s body is larger than 100 bytes"}'
    scope["headers"] = [FORM, (b"content-length", b"9" * 5000)]
    sent.clear()
    await small_app(Security(max_body_bytes=100))(scope, never, send)
    assert sent[0]["status"] == 413


@pytest.mark.parametrize(
    ("path", "kind", "begins"),
    [
        (RUNS, FORM, b"message="),
        ("/raw", FORM, b"message="),
        (RUNS, MULTIPART, part(b"")[:-2]),
        ("/json", JSON, b'"'),
    ],
)
@pytest.mark.parametrize("said", [[], [(b"content-length", b"10")]])
async def test_a_body_is_read_no_further_than_the_limit(
    path: str, kind: tuple[bytes, bytes], begins: bytes, said: list[tuple[bytes, bytes]]
) -> None:
    pieces = [begins, *[b"x" * 60] * 50]
    received = 0

    async def receive() -> Message:
        nonlocal received
        received += 1
        return {"type": "http.request", "body": pieces[received - 1], "more_body": True}

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": path, "headers": [kind, *said], "query_string": b""}
    with anyio.fail_after(5):
        await small_app(Security(max_body_bytes=100))(scope, receive, send)
    assert [message.get("status") for message in sent] == [413, None]
    assert len(b"".join(pieces[: received - 1])) <= 100 < len(b"".join(pieces[:received]))


async def test_a_body_of_exactly_the_limit_is_taken() -> None:
    body = b"message=" + b"x" * 92
    assert (await post([body[:50], body[50:]], FORM, max_body_bytes=100))[0] == 200
    assert (await post([body[:50], body[50:] + b"x"], FORM, max_body_bytes=100))[0] == 413
    async with client_of(small_app(Security())) as client:
        text = "x" * 2_000_000  # one field may be as large as the body may be
        answer = await client.post(RUNS, data={"message": text})
        assert answer.json()["message"] == text
        answer = await client.post(RUNS, data={"message": "x" * (16 * 1024 * 1024)})
        assert answer.status_code == 413


async def test_a_body_that_grows_too_large_under_an_answer_is_a_client_that_has_gone() -> None:
    app = FastAPI()
    gone: list[Message] = []

    @app.post("/stream")
    async def stream(request: Request) -> StreamingResponse:
        async def words() -> AsyncGenerator[bytes]:
            yield b"one "
            gone.append(await request.receive())
            yield b"two"

        return StreamingResponse(words())

    install(app, Security(max_body_bytes=10))
    # Starlette itself listens for a disconnect below ASGI 2.4.
    status, _, body = await raw_call(
        app, "POST", "/stream", body=[b"x" * 11, b""], asgi={"version": "3.0", "spec_version": "2.4"}
    )
    assert (status, body) == (200, b"one two")
    assert gone == [{"type": "http.disconnect"}]


async def test_headers_and_address_have_a_limit_together() -> None:
    app = small_app(Security(max_header_bytes=200))
    assert (await raw_call(app, headers=[(b"x", b"y" * 150)]))[0] == 200
    assert (await raw_call(app, headers=[(b"x", b"y" * 200)]))[0] == 431
    assert (await raw_call(app, headers=[(b"x", b"")] * 50))[0] == 431
    assert (await raw_call(app, query=b"x=" + b"y" * 200))[0] == 431
    assert (await raw_call(app, path="/" + "y" * 200))[0] == 431


@pytest.mark.parametrize("files", [False, True])
async def test_a_form_has_so_many_parts(files: bool) -> None:
    async with client_of(small_app(Security(max_form_parts=3))) as client:

        async def send(extra: int) -> tuple[int, str]:
            if files:
                answer = await client.post(
                    RUNS, data={"message": "go"}, files=[("files", b"x") for _ in range(extra)]
                )
            else:
                answer = await client.post(
                    RUNS, data={"message": "go", **{f"x{n}": "y" for n in range(extra)}}
                )
            return answer.status_code, answer.text

        assert (await send(3 if files else 2))[0] == 200
        status, text = await send(4 if files else 3)
        assert status == 400
        assert "Maximum number" in text


async def test_the_forms_of_an_agent_os_have_these_limits() -> None:
    agent = Agent(name="Writer", model=ScriptedModel("writer", ["Hello."], repeat=True))
    agent_os = AgentOS(agents=[agent], max_form_parts=3, max_body_bytes=3_000_000)
    async with client_of(agent_os.get_app()) as client:

        async def send(**form: str) -> int:
            answer = await client.post("/agents/writer/runs", data={"stream": "false", **form})
            return answer.status_code

        assert await send(message="x" * 2_000_000) == 200
        assert await send(message="x" * 3_000_000) == 413
        assert await send(message="go", a="1") == 200
        assert await send(message="go", a="1", b="2") == 400
        files = [("files", ("a.txt", b"x", "text/plain"))] * 4
        answer = await client.post("/agents/writer/runs", data={"message": "go"}, files=files)
        assert answer.status_code == 400
    await agent_os.shutdown(0)


async def test_an_agent_os_runs_so_many_at_once() -> None:
    async def wait(_request: object) -> None:
        await anyio.sleep_forever()

    agent = Agent(name="Writer", model=ScriptedModel("writer", [wait], repeat=True))
    agent_os = AgentOS(agents=[agent], max_concurrent_runs=2, db=InMemoryDb())
    answers: list[httpx2.Response] = []
    async with client_of(agent_os.get_app()) as client, anyio.create_task_group() as tasks:

        async def start() -> None:
            form = {"message": "go", "stream": "false", "background": "true"}
            answers.append(await client.post("/agents/writer/runs", data=form))

        for _ in range(20):
            tasks.start_soon(start)
    assert sorted(answer.status_code for answer in answers) == [202] * 2 + [429] * 18
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert "2 runs are live" in refused.json()["detail"]
    assert refused.headers["retry-after"] == "1"
    await agent_os.shutdown(0)
    assert agent_os.db is not None
    await agent_os.db.aclose()


async def test_an_agent_os_goes_on_with_so_many_at_once() -> None:
    async def wait(_request: object) -> None:
        await anyio.sleep_forever()

    db = InMemoryDb()
    broken = Agent(name="Writer", model=ScriptedModel("writer", [ValueError("broken")], repeat=True), db=db)
    for number in range(10):
        await broken.arun("go", run_id=f"r{number}", session_id=f"s{number}")
    agent = Agent(name="Writer", model=ScriptedModel("writer", [wait], repeat=True))
    agent_os = AgentOS(agents=[agent], max_concurrent_runs=2, db=db)
    statuses: list[int] = []
    async with client_of(agent_os.get_app()) as client, anyio.create_task_group() as tasks:

        async def go_on(number: int) -> None:
            form = {"stream": "false", "background": "true"}
            answer = await client.post(f"/agents/writer/runs/r{number}/continue", data=form)
            statuses.append(answer.status_code)

        for number in range(10):
            tasks.start_soon(go_on, number)
    assert sorted(statuses) == [202] * 2 + [429] * 8
    await agent_os.shutdown(0)
    await db.aclose()


@pytest.mark.parametrize(
    ("pieces", "kind", "status"),
    [
        ([b"message=caf%C3%A9+au+lait"], FORM, 200),
        (["message=café".encode()], FORM, 200),
        ([b"message=caf%C3", b"%A9"], FORM, 200),
        ([b"message=caf%C", b"3%A9"], FORM, 200),
        ([b"message=caf%", b"C3%A9"], FORM, 200),
        ([b"message=100%"], FORM, 200),
        ([b"message=100%", b""], FORM, 200),
        ([b"message=100%2"], FORM, 200),
        ([b"message=caf%E9"], FORM, 400),
        ([b"message=caf%E9", b"%A9"], FORM, 400),
        ([b"message=caf\xe9"], FORM, 400),
        ([b"message=caf%C3"], FORM, 400),
        ([b"message=caf%", b"E9"], FORM, 400),
        ([b"message=x%00y"], FORM, 400),
        ([b"message=x\0y"], FORM, 400),
        ([b"message=go&%FF=1"], FORM, 400),
        ([part("café".encode()), END], MULTIPART, 200),
        ([part("café".encode())[:-3], b"\xa9\r\n", END], MULTIPART, 200),
        ([part(b"go"), part(b"\xff\0\xfe", filename=b"x", name=b"files"), END], MULTIPART, 200),
        ([part(b"\xff\0\xfe", filename=b"x", name=b"files"), part(b"go"), END], MULTIPART, 200),
        ([FILE[:58], FILE[58:], part(b"go"), END], MULTIPART, 200),
        ([part(b"caf\xe9"), END], MULTIPART, 400),
        ([part(b"caf\xe9") + END], MULTIPART, 400),
        ([part(b"x\0y"), END], MULTIPART, 400),
        ([part(b"go", name=b"mess\xe9ge"), END], MULTIPART, 400),
    ],
)
async def test_a_form_is_text(pieces: list[bytes], kind: tuple[bytes, bytes], status: int) -> None:
    got, text = await post(pieces, kind)
    assert got == status, text
    if status == 400:
        assert text == '{"detail":"the form is not UTF-8 text without NUL"}'


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), st.data())
async def test_a_text_arrives_however_it_is_cut(
    anyio_backend: object, text: str, data: st.DataObject
) -> None:
    from urllib.parse import urlencode

    body = urlencode({"message": "x" + text}).encode()
    at = data.draw(st.integers(0, len(body)))
    status, answer = await post([body[:at], body[at:]], FORM)
    assert status == 200, answer


async def test_json_that_is_no_text_is_refused() -> None:
    for body in (b'{"a": "\xff"}', b"\xff", b"{", b""):
        status, _ = await post([body], JSON, path="/json")
        assert status in (400, 422)


@pytest.mark.parametrize(
    "request_",
    [
        {"query": b"session_id=%FF"},
        {"query": b"session_id=\xff"},
        {"query": b"session_id=a%00b"},
        {"path": "/teams/%FF"},
        {"path": "/teams/a%00b"},
        {"headers": [(b"x-name", b"caf\xe9")]},
        {"headers": [(b"last-event-id", b"\xff")]},
    ],
)
async def test_what_is_no_text_in_the_head_is_refused(request_: dict[str, Any]) -> None:
    status, _, body = await raw_call(small_app(Security()), **request_)
    assert status == 400
    assert b"is not UTF-8 text" in body


async def test_text_in_the_head_and_the_cookies_of_others_are_taken() -> None:
    app = small_app(Security())
    assert (await raw_call(app, query=b"session_id=caf%C3%A9"))[0] == 200
    assert (await raw_call(app, headers=[(b"x-name", "café".encode()), (b"cookie", b"caf\xe9")]))[0] == 200


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def admits(rate: RateLimit, caller: str = "ann") -> float:
    """0 when it admits a request, else in how many seconds it would."""
    try:
        rate.spend(caller)
    except HTTPException as error:
        return float((error.headers or {})["Retry-After"]) if error.status_code == 429 else -1
    return 0


async def test_a_caller_has_so_many_requests_in_a_period() -> None:
    clock = Clock()
    rate = RateLimit("60/minute", clock)
    assert [admits(rate) for _ in range(61)] == [0] * 60 + [1]
    assert admits(rate, "bob") == 0
    clock.now += 0.9
    assert admits(rate) == 1
    clock.now += 0.1
    assert [admits(rate), admits(rate)] == [0, 1]
    clock.now += 3600
    assert [admits(rate) for _ in range(61)] == [0] * 60 + [1]


async def test_who_waits_as_long_as_told_is_admitted() -> None:
    for text in ("1/second", "7/minute", "1000/hour", "3/day"):
        clock = Clock()
        rate = RateLimit(text, clock)
        while not (wait := admits(rate)):
            pass
        for _ in range(20):
            clock.now += wait
            assert admits(rate) == 0
            wait = admits(rate) or 1


async def test_a_rate_limit_forgets_who_was_not_heard_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kern_async.os.limits.MOST_CALLERS", 3)
    rate = RateLimit("1/day", Clock())
    for caller in ("a", "b", "c"):
        assert admits(rate, caller) == 0
    assert admits(rate, "a") > 0  # heard of again
    assert admits(rate, "d") == 0  # b is forgotten
    assert admits(rate, "a") > 0
    assert admits(rate, "c") > 0
    assert admits(rate, "b") == 0


async def test_too_many_requests_of_one_address_are_429_and_public_routes_are_not_counted() -> None:
    app = small_app(Security(rate_limit="2/day"))
    async with client_of(app) as client, client_of(app, client=("10.0.0.9", 1)) as other:
        for _ in range(5):
            assert (await client.get("/health")).status_code == 200
        assert [(await client.get("/whoami")).status_code for _ in range(3)] == [200, 200, 429]
        answer = await client.get("/whoami")
        assert re.fullmatch(r"more than 2 requests a day; try again in \d+ s", answer.json()["detail"])
        assert 0 < int(answer.headers["retry-after"]) <= 43200
        assert (await other.get("/whoami")).status_code == 200


async def test_guessing_keys_is_counted() -> None:
    async with client_of(small_app(Security(os_security_key=KEY, rate_limit="2/day"))) as client:
        guesses = [(await client.get("/whoami", headers=bearer(f"guess{n}"))).status_code for n in range(4)]
    assert guesses == [401, 401, 429, 429]


async def test_a_process_has_so_many_runs_at_once() -> None:
    go = anyio.Event()

    async def wait(_request: object) -> None:
        await go.wait()

    def told() -> int:
        try:
            check_room_for_a_run(2)
        except HTTPException as error:
            return error.status_code if "2 runs are live" in error.detail and error.headers else -1
        return 200

    member = Agent(name="Member", model=ScriptedModel("member", [wait]))
    leader = ScriptedModel("leader", [call("delegate_task_to_member", member_id="member", task="go"), "done"])
    team = Team(name="Team", members=[member], model=leader)
    check_room_for_a_run(None)
    async with team.arun("go", stream=True) as first:
        async for event in first:
            if event.event == "RunStarted":  # the member is live too, and does not count
                break
        assert told() == 200
        second = Agent(name="b", model=ScriptedModel("b", ["done"])).arun("go", stream=True)
        assert told() == 429  # a created one counts: nobody can slip in between
        second.cancel()
        assert told() == 200
        check_room_for_a_run(None)
        go.set()
        async for _ in first:
            pass
    assert told() == 200


async def exchange(port: int, *pieces: bytes) -> bytes:
    """What a server answers to these bytes; each piece is sent apart, and no more when it has closed."""
    async with await anyio.connect_tcp("127.0.0.1", port) as stream:
        with contextlib.suppress(anyio.BrokenResourceError):
            for piece in pieces:
                await stream.send(piece)
        answer = b""
        with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            while not answer.endswith(b"}"):
                answer += await stream.receive()
        return answer


class Server(uvicorn.Server):
    """A server that says when it has begun."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.began = anyio.Event()

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.began.set()


async def test_a_real_server_keeps_to_the_limits() -> None:
    security = Security(os_security_key=KEY, max_body_bytes=100_000, max_header_bytes=8_000)
    config = uvicorn.Config(
        small_app(security),
        port=0,
        http="h11",
        log_level="critical",
        h11_max_incomplete_event_size=security.max_header_bytes,
        timeout_keep_alive=1,
    )
    server = Server(config)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(server.serve)
        await server.began.wait()
        with anyio.fail_after(20):
            port = server.servers[0].sockets[0].getsockname()[1]
            head = (
                b"POST /teams/red/runs HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Type: application/x-www-form-urlencoded\r\n"
            )
            key = b"Authorization: Bearer %s\r\n" % KEY.encode()
            chunked = b"Transfer-Encoding: chunked\r\n\r\n"
            chunks = [b"8\r\nmessage=\r\n", *[b"4e20\r\n" + b"x" * 20_000 + b"\r\n"] * 20, b"0\r\n\r\n"]
            assert b" 413 " in await exchange(port, head + key + chunked, *chunks)
            assert b" 200 " in await exchange(port, head + key + chunked, *chunks[:4], chunks[-1])
            assert b" 413 " in await exchange(port, head + key + b"Content-Length: 100001\r\n\r\n")
            assert b" 401 " in await exchange(port, head + chunked, *chunks)
            assert b" 431 " in await exchange(port, head + b"X-Long: " + b"y" * 8_000 + b"\r\n\r\n")
            assert b" 400 " in await exchange(port, head, *[b"X-Long: " + b"y" * 1_000 + b"\r\n"] * 8)
            assert b" 400 " in await exchange(port, head + b"Authorization: Bearer \xff\xfe\r\n\r\n")
        server.should_exit = True


async def test_a_lifespan_passes() -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    async def nothing(*_: Any) -> Any:
        raise AssertionError

    await RequestLimits(app, max_body_bytes=1, max_header_bytes=1)({"type": "lifespan"}, nothing, nothing)
    assert seen == ["lifespan"]
