from __future__ import annotations

import contextlib
import gc
import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kern_async.testing import (
    Call,
    Cut,
    End,
    Forever,
    Gate,
    Hang,
    Malformed,
    Pause,
    ProviderServer,
    Reasoning,
    Refusal,
    Request,
    Stall,
    Start,
    Status,
    Text,
    ToolCall,
    Usage,
)

PROMPT = 2.0
"""Seconds that a loaded machine may need for what takes a millisecond."""


@contextmanager
def connection(provider: ProviderServer) -> Generator[http.client.HTTPConnection]:
    client = http.client.HTTPConnection("127.0.0.1", urlsplit(provider.base_url).port, timeout=10)
    try:
        yield client
    finally:
        client.close()


def post(
    client: http.client.HTTPConnection,
    text: str = "hi",
    *,
    stream: bool = True,
    path: str = "responses",
    **more: Any,
) -> http.client.HTTPResponse:
    said: Any = {"messages": [{"role": "user", "content": text}]} if "chat" in path else {"input": text}
    body = json.dumps({"model": "m", "stream": stream, **said, **more})
    client.request("POST", f"/v1/{path}", body, {"content-type": "application/json"})
    return client.getresponse()


def text_of(response: http.client.HTTPResponse) -> str:
    lines = response.read().decode().splitlines()
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    return "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")


def ask(provider: ProviderServer, text: str = "hi") -> str:
    with connection(provider) as client:
        return text_of(post(client, text))


def raw(provider: ProviderServer, text: str = "hi", *, stream: bool = True) -> socket.socket:
    """A connection on which a request was sent."""
    body = json.dumps({"model": "m", "stream": stream, "input": text}).encode()
    peer = socket.create_connection(("127.0.0.1", urlsplit(provider.base_url).port or 0), timeout=10)
    peer.sendall(b"POST /v1/responses HTTP/1.1\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
    return peer


def read_until(peer: socket.socket, mark: bytes) -> bytes:
    data = b""
    while mark not in data:
        piece = peer.recv(65_536)
        assert piece, data
        data += piece
    return data


def test_replies_are_given_in_order_and_then_the_default(provider: ProviderServer) -> None:
    provider.reply(Text("one two"))
    provider.reply([Text("three "), Text(["fo", "ur"])])
    provider.default = Text("default")
    assert [ask(provider) for _ in range(4)] == ["one two", "three four", "default", "default"]


def test_there_is_something_to_say_without_any_reply(provider: ProviderServer) -> None:
    assert ask(provider) == "Hello from the test provider."


def test_the_first_reply_that_matches_is_taken(provider: ProviderServer) -> None:
    provider.reply(Text("for the editor"), when=lambda request: "editor" in request.text, times=None)
    provider.reply(Text("twice"), times=2)
    answers = [ask(provider, text) for text in ("a", "the editor", "b", "an editor", "c")]
    assert answers == ["twice", "for the editor", "twice", "for the editor", "Hello from the test provider."]


def test_a_reply_may_be_a_function_of_the_request(provider: ProviderServer) -> None:
    provider.default = lambda request: Text(request.last_text.upper())
    assert ask(provider, "so be it") == "SO BE IT"


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        ([Forever(), Text("x")], ValueError),
        ([Text("x"), Status(500)], ValueError),
        ([Text("x"), End(), End()], ValueError),
        (["x"], TypeError),
        (7, TypeError),
    ],
)
def test_an_impossible_reply_is_refused_at_once(provider: ProviderServer, reply: Any, error: type) -> None:
    with pytest.raises(error):
        provider.reply(reply)
    with pytest.raises(error):
        provider.default = reply


@given(st.text())
def test_the_deltas_of_a_text_are_the_text(text: str) -> None:
    for step in (Text(text), Reasoning(text), Refusal(text), ToolCall("f", text)):
        assert "".join(step.deltas) == text


def test_a_failing_function_is_told_to_the_client_and_to_the_test() -> None:
    def fail(request: Request) -> Any:
        pytest.fail(f"unexpected: {request.text}")

    with (
        pytest.RaisesGroup(pytest.RaisesExc(pytest.fail.Exception, match="unexpected: hi")),
        ProviderServer() as provider,
    ):
        provider.reply(fail)
        with connection(provider) as client:
            response = post(client)
            assert response.status == 400
            assert "unexpected: hi" in response.read().decode()


@pytest.mark.parametrize("where", ["when", "call"])
def test_a_failure_in_the_middle_ends_the_answer(where: str) -> None:
    provider = ProviderServer()
    provider.start()
    if where == "when":
        provider.reply(Text("x"), when=lambda request: request.body["missing"])
    else:
        provider.reply([Text("one"), Call(lambda request: request.body["missing"])])
    with connection(provider) as client:
        if where == "when":
            assert post(client).status == 400
        else:
            with pytest.raises(http.client.IncompleteRead):
                post(client).read()
    provider.close()
    assert [type(error) for error in provider.errors] == [KeyError]
    assert provider.requests[0].outcome == "error"


def test_a_request_is_recorded(provider: ProviderServer) -> None:
    before = time.perf_counter()
    tool = {"type": "function", "name": "add", "parameters": {"type": "object"}}
    with connection(provider) as client:
        post(client, "hi there", instructions="Be kind", tools=[tool]).read()
        after = time.perf_counter()
        post(client, "hello", path="chat/completions", tools=[{"type": "function", "function": tool}]).read()
    request, chat = provider.requests
    assert request.path == "/v1/responses"
    assert request.headers["content-type"] == "application/json"
    assert (request.model, request.stream, request.chat) == ("m", True, False)
    assert request.text == "Be kind\nhi there"
    assert request.instructions == "Be kind"
    assert request.input == [{"role": "user", "content": "hi there"}]
    assert request.tool_names == chat.tool_names == ["add"]
    assert request.streamed == ["Hello ", "from ", "the ", "test ", "provider."]
    assert request.first_byte_at is not None
    assert request.finished_at is not None
    assert before < request.received_at <= request.first_byte_at <= request.finished_at < after
    assert request.outcome == "completed"
    assert (chat.chat, chat.last_text, chat.text) == (True, "hello", "hello")


def test_all_text_of_a_conversation_is_found(provider: ProviderServer) -> None:
    items = [
        {"role": "developer", "content": "rules"},
        {"role": "user", "content": [{"type": "input_text", "text": "question"}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "result"},
    ]
    with connection(provider) as client:
        post(client, input=items).read()
    request = provider.requests[0]
    assert request.text == "rules\nquestion\nresult"
    assert request.instructions == "rules"
    assert request.last_text == "result"


def test_a_hang_sends_nothing_and_sees_the_client_leave(provider: ProviderServer) -> None:
    provider.reply(Hang())
    with raw(provider):
        request = provider.wait_for_request()
        assert (provider.open_requests, provider.open_connections) == (1, 1)
        assert request.outcome is None
        left = time.perf_counter()
    assert request.disconnected.wait(10)
    assert request.first_byte_at is None
    assert request.finished_at is None
    assert request.disconnected_at is not None
    assert left < request.disconnected_at < left + PROMPT
    assert request.outcome == "disconnected"
    provider.wait_until(lambda: provider.open_connections == 0)
    assert provider.open_requests == 0


@pytest.mark.parametrize("how", ["close", "half-close", "reset"])
@pytest.mark.parametrize(
    "reply",
    [
        Forever(),
        Forever(interval=0),
        Stall(),
        Stall(keepalive=0.001),
        [Text("a"), Hang()],
        [Start(), Pause(60)],
    ],
)
def test_a_client_that_leaves_in_any_way_is_seen(provider: ProviderServer, reply: Any, how: str) -> None:
    provider.reply(reply)
    with raw(provider) as peer:
        read_until(peer, b"response.in_progress")
        match how:
            case "half-close":
                peer.shutdown(socket.SHUT_WR)
                assert provider.requests[0].disconnected.wait(10)
            case "reset":
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            case _:
                pass
    assert provider.requests[0].disconnected.wait(10)
    assert provider.requests[0].outcome == "disconnected"


def test_a_client_that_leaves_while_the_answer_is_prepared_is_seen(provider: ProviderServer) -> None:
    provider.reply([Text("x"), Pause(60)])
    with raw(provider, stream=False):
        request = provider.wait_for_request()
    assert request.disconnected.wait(10)


def test_forever_goes_on_until_the_client_leaves(provider: ProviderServer) -> None:
    provider.reply(Forever("tick ", interval=0.001))
    with raw(provider) as peer:
        request = provider.wait_for_request()
        provider.wait_until(lambda: len(request.streamed) >= 50)
        assert read_until(peer, b"tick ")
    assert request.disconnected.wait(10)
    assert set(request.streamed) == {"tick "}


def test_a_slow_reader_holds_the_stream(provider: ProviderServer) -> None:
    provider.reply(Forever("x" * 10_000, interval=0))
    with raw(provider) as peer:
        request = provider.wait_for_request()

        def is_held() -> bool:
            sent = len(request.streamed)
            time.sleep(0.05)
            return 0 < sent == len(request.streamed)

        provider.wait_until(is_held)
        held = len(request.streamed)
        while len(request.streamed) == held:
            assert peer.recv(1_000_000)
    assert request.disconnected.wait(10)


def test_a_stall_keeps_the_connection_alive_with_comments(provider: ProviderServer) -> None:
    provider.reply(Stall(keepalive=0.001))
    with raw(provider) as peer:
        data = read_until(peer, b": keep-alive\n\n")
    assert data.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"response.in_progress" in data
    assert b"output" not in data.partition(b"response.in_progress")[2].partition(b"\n\n")[2]


def test_a_stall_without_streaming_sends_headers_only(provider: ProviderServer) -> None:
    provider.reply(Stall())
    with raw(provider, stream=False) as peer:
        data = read_until(peer, b"\r\n\r\n")
    assert b"application/json" in data
    assert data.endswith(b"\r\n\r\n")


def test_a_gate_holds_the_answer_until_it_is_opened(provider: ProviderServer) -> None:
    gate = Gate()
    provider.reply([Text("one "), gate, Text("two")])
    with raw(provider) as peer:
        assert b"two" not in read_until(peer, b'"one "')
        assert provider.requests[0].streamed == ["one "]
        gate.open()
        assert b"one two" in read_until(peer, b"response.completed")


def test_a_call_is_made_at_its_place(provider: ProviderServer) -> None:
    seen: list[tuple[list[str], bool]] = []
    provider.reply(
        [
            Call(lambda request: seen.append((list(request.streamed), request.first_byte_at is None))),
            Text("one two"),
            Call(lambda request: seen.append((list(request.streamed), request.first_byte_at is None))),
        ]
    )
    assert ask(provider) == "one two"
    assert seen == [([], True), (["one ", "two"], False)]


def test_pauses_and_intervals_take_their_time(provider: ProviderServer) -> None:
    provider.reply([Pause(0.05), Text("a b c", interval=0.05)])
    ask(provider)
    request = provider.requests[0]
    assert request.first_byte_at is not None
    assert request.finished_at is not None
    assert request.first_byte_at - request.received_at >= 0.049
    assert request.finished_at - request.first_byte_at >= 0.098


def test_a_burst_is_one_write(provider: ProviderServer) -> None:
    provider.reply(Text(["x"] * 100, burst=True))
    provider.reply(Text(["x"] * 100))
    chunks: list[int] = []
    for _ in range(2):
        with raw(provider) as peer:
            data = read_until(peer, b"\r\n0\r\n\r\n")
            assert data.count(b"event: response.output_text.delta") == 100
            chunks.append(data.count(b"\n\n\r\n"))
    assert chunks == [2, 101]


def test_a_cut_before_the_first_byte_sends_nothing(provider: ProviderServer) -> None:
    provider.reply(Cut())
    with raw(provider) as peer:
        assert peer.recv(1) == b""
    assert provider.requests[0].outcome == "error"
    assert provider.requests[0].first_byte_at is None


@pytest.mark.parametrize("reset", [False, True])
def test_a_cut_closes_or_resets(provider: ProviderServer, reset: bool) -> None:
    gate = Gate()
    provider.reply([Text("one"), gate, Cut(reset=reset)])
    with raw(provider) as peer:
        read_until(peer, b'"delta":"one"')
        gate.open()
        if reset:
            with pytest.raises(ConnectionResetError):
                peer.recv(1)
        else:
            assert peer.recv(1) == b""


def test_without_streaming_a_malformed_answer_is_the_body(provider: ProviderServer) -> None:
    provider.reply([Text("x"), Malformed("<html>")])
    with connection(provider) as client:
        assert post(client, stream=False).read() == b"<html>"


def test_usage_can_be_stated(provider: ProviderServer) -> None:
    provider.reply([Usage(input=10, output=5, reasoning=3, cached=4), Text("x")])
    with connection(provider) as client:
        usage = json.loads(post(client, stream=False).read())["usage"]
    assert usage["total_tokens"] == 15
    assert usage["input_tokens_details"]["cached_tokens"] == 4
    assert usage["output_tokens_details"]["reasoning_tokens"] == 3


def test_a_connection_serves_one_request_after_another(provider: ProviderServer) -> None:
    with connection(provider) as client:
        for stream in (True, False, True):
            assert b"Hello" in post(client, stream=stream).read()
            assert provider.open_connections == 1
        client.request("GET", "/v1/models", headers={"connection": "close"})
        assert client.getresponse().read()
        provider.wait_until(lambda: provider.open_connections == 0)


def test_requests_may_come_in_pieces_and_close_together(provider: ProviderServer) -> None:
    body = b'{"model": "m", "input": "hi"}'
    request = b"POST /v1/responses?x=1 HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    with socket.create_connection(("127.0.0.1", urlsplit(provider.base_url).port or 0), timeout=10) as peer:
        for byte in request:
            peer.sendall(bytes([byte]))
        read_until(peer, b'"total_tokens":6')
        peer.sendall(request * 2)
        data = b""
        while data.count(b'"total_tokens":6') < 2:
            data += read_until(peer, b"}")
    assert len(provider.requests) == 3


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GARBAGE\r\n\r\n", b"400"),
        (b"GET / HTTP/1.0\r\n\r\n", b"505"),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", b"411"),
        (b"GET /" + b"x" * 100_000, b"431"),
        (b"POST /v1/responses HTTP/1.1\r\nContent-Length: 1\r\n\r\n{", b"400"),
        (b"POST /v1/responses HTTP/1.1\r\nContent-Length: 2\r\n\r\n[]", b"400"),
    ],
)
def test_what_is_no_request_is_refused(provider: ProviderServer, request_bytes: bytes, status: bytes) -> None:
    with socket.create_connection(("127.0.0.1", urlsplit(provider.base_url).port or 0), timeout=10) as peer:
        peer.sendall(request_bytes)
        assert read_until(peer, b"\r\n").split()[1] == status
    assert provider.requests == []


def test_waiting_in_vain_says_what_did_come(provider: ProviderServer) -> None:
    ask(provider)
    with pytest.raises(TimeoutError, match=r"request 2 .* 0\.01 s; .*/v1/responses completed"):
        provider.wait_for_request(2, timeout=0.01)
    with pytest.raises(TimeoutError):
        provider.wait_until(lambda: False, timeout=0.01)


async def test_a_task_can_wait_too(provider: ProviderServer) -> None:
    provider.reply(Hang())
    with raw(provider):
        request = await provider.await_for_request()
        assert request.outcome is None
        with anyio.move_on_after(0.01) as scope:
            await provider.await_until(lambda: False)
        assert scope.cancelled_caught
    await provider.await_until(request.disconnected.is_set)
    with pytest.raises(TimeoutError, match="request 2"):
        await provider.await_for_request(2, timeout=0.01)


def test_many_streams_at_once_are_served_and_their_ends_seen(provider: ProviderServer) -> None:
    provider.default = [Text("go "), Stall()]
    peers = [raw(provider) for _ in range(200)]
    for peer in peers:
        read_until(peer, b'"go "')
    assert (provider.open_requests, provider.open_connections) == (200, 200)
    left = time.perf_counter()
    for peer in peers:
        peer.close()
    provider.wait_until(lambda: provider.open_requests == 0)
    stamps = [request.disconnected_at for request in provider.requests]
    assert all(stamp is not None and left < stamp < left + PROMPT for stamp in stamps)


def test_reset_makes_it_as_new(provider: ProviderServer) -> None:
    provider.default = Hang()
    provider.reply(Text("x"), when=lambda request: False)
    with raw(provider) as peer:
        request = provider.wait_for_request()
        provider.reset()
        assert peer.recv(1) == b""
    assert request.outcome == "error"
    assert not request.disconnected.is_set()
    assert (provider.requests, provider.open_connections) == ([], 0)
    assert ask(provider) == "Hello from the test provider."


def test_close_ends_what_is_open_and_start_listens_again() -> None:
    provider = ProviderServer()
    provider.start()
    provider.default = Hang()
    url = provider.base_url
    peers = [raw(provider) for _ in range(3)]
    provider.wait_for_request(3)
    provider.close()
    provider.close()
    for peer in peers:
        assert peer.recv(1) == b""
        peer.close()
    assert [request.outcome for request in provider.requests] == ["error"] * 3
    with pytest.raises(ConnectionRefusedError):
        raw(provider)
    provider.default = Text("again")
    with provider:
        provider.start()
        assert provider.base_url == url
        assert ask(provider) == "again"


def test_close_ends_connections_that_are_just_coming_in() -> None:
    for _ in range(60):
        with ProviderServer() as server, contextlib.ExitStack() as clients:
            port = urlsplit(server.base_url).port
            for _ in range(5):
                clients.enter_context(socket.create_connection(("127.0.0.1", port or 0)))
            server.close()
    gc.collect()  # complains of what was left open


def test_the_servers_own_thread_cannot_end_it(provider: ProviderServer) -> None:
    raised: list[str] = []

    def end(request: Request) -> None:
        for method in (provider.close, provider.reset):
            with pytest.raises(RuntimeError, match="cannot wait for itself"):
                method()
            raised.append(threading.current_thread().name)

    provider.reply([Call(end), Text("x")])
    assert ask(provider) == "x"
    assert raised == ["kern-test-provider"] * 2


def test_a_port_that_is_taken_is_an_error(provider: ProviderServer) -> None:
    with pytest.raises(OSError, match="in use"):
        ProviderServer(port=urlsplit(provider.base_url).port or 0).start()


@pytest.mark.parametrize(
    ("options", "answer"),
    [
        (["--text", "one two ", "--repeat", "2", "--burst"], b"one two one two "),
        (["--forever", "tick ", "--interval", "0.001"], b"tick "),
    ],
)
def test_it_runs_in_a_process_of_its_own(options: list[str], answer: bytes) -> None:
    command = [sys.executable, "-W", "error", "-m", "kern_async.testing.provider", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        url = urlsplit(process.stdout.readline().decode().strip())
        assert url.path == "/v1"
        body = json.dumps({"model": "m", "stream": True, "input": "hi"}).encode()
        with socket.create_connection(("127.0.0.1", url.port or 0), timeout=10) as peer:
            peer.sendall(b"POST /v1/responses HTTP/1.1\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))
            read_until(peer, answer)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        assert process.stderr.read() == b""


def test_importing_it_imports_no_sdk_and_no_test_runner() -> None:
    program = (
        "import sys, kern_async.testing as t; [getattr(t, name) for name in t.__all__]; "
        "print(sorted({'openai', 'pytest', 'httpx2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
