import base64
import contextlib
import importlib.util
import io
import json
import pathlib
import time

import numpy as np
import PIL.Image
import pytest

from pasta_gym.candidates.llm_cache import CachedChat
from pasta_gym.candidates.llm_chat import ChatModelError, ChatReply, ChatRequest, Message, Sampling
from pasta_gym.candidates.llm_openai import OpenAIChat, OpenAIConfig, RateLimiter, retry_after_seconds
from pasta_gym.full import ChatConfig, full_world_preset
from pasta_gym.full.world import load_chat

openai = pytest.importorskip("openai")
_spec = importlib.util.spec_from_file_location("server", pathlib.Path(__file__).with_name("server.py"))
server = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(server)
answer, completion, serving, stream = server.answer, server.completion, server.serving, server.stream

OK = answer(completion("* Light\n- a fox"))
REPLY = ChatReply("* Light\n- a fox")


def ask(url, n=1, *, waits=None, **options):
    waits = [] if waits is None else waits
    options = {"timeout": 5.0, "n_retries": 2} | options
    chat = OpenAIChat("tiny", base_url=url, api_key="secret", config=OpenAIConfig(**options), sleep=waits.append)
    requests = [ChatRequest((Message("user", (f"number {i}",)),), seed=(i + 1) << 32) for i in range(n)]
    with contextlib.closing(chat):
        return chat.complete(requests, Sampling(top_p=0.8, temperature=0.7, max_new_tokens=50))


def test_a_request_holds_what_was_asked():
    picture = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    messages = (
        Message("user", ("see", picture, "now")),
        Message("assistant", ("- a",)),
        Message("user", ("more",)),
    )
    with serving(OK) as (record, url):
        config = OpenAIConfig(extra_body={"top_k": 7}, length_field="max_completion_tokens")
        chat = OpenAIChat("tiny", base_url=url, api_key="secret", config=config)
        with contextlib.closing(chat):
            assert chat.complete([ChatRequest(messages, 5 << 32)], Sampling(max_new_tokens=50)) == [REPLY]
    ((path, headers, body),) = record.requests
    assert path == "/v1/chat/completions"
    assert {k.lower(): v for k, v in headers.items()}["authorization"] == "Bearer secret"
    told = {k: v for k, v in body.items() if k != "messages"}
    assert told == {"model": "tiny", "top_p": 0.8, "temperature": 1.0, "max_completion_tokens": 50, "stream": False,
                    "seed": 5, "top_k": 7}  # fmt: skip
    first, second, third = body["messages"]
    assert [part["type"] for part in first["content"]] == ["text", "image_url", "text"]
    png = base64.b64decode(first["content"][1]["image_url"]["url"].removeprefix("data:image/png;base64,"))
    np.testing.assert_array_equal(np.asarray(PIL.Image.open(io.BytesIO(png))), picture)
    assert (second, third) == ({"role": "assistant", "content": "- a"}, {"role": "user", "content": "more"})
    assert "secret" not in str(chat.identity)
    assert chat.identity["server"] == f"{url}/"


def test_what_a_model_refuses_can_be_left_out():
    for sampling, told in (
        (Sampling(top_p=None), {"temperature": 1.0}),
        (Sampling(temperature=None), {"top_p": 0.8}),
        (Sampling(top_p=None, temperature=None), {}),
    ):
        with serving(OK) as (record, url), contextlib.closing(OpenAIChat("tiny", base_url=url)) as chat:
            assert chat.complete([ChatRequest((Message("user", ("a",)),), 1)], sampling) == [REPLY]
        ((_, _, body),) = record.requests
        assert {name: value for name, value in body.items() if name in {"top_p", "temperature"}} == told


@pytest.mark.parametrize(
    "trouble",
    [
        answer({"error": {"message": "busy"}}, 429),
        answer({"error": {"message": "oops"}}, 500),
        answer(b"<html>bad gateway</html>", 502),
        answer(b'{"choices": [{"mess'),
        answer({"choices": []}),
        answer(b"[]"),
        answer(b'{"choices"', headers={"Content-Length": "100"}),
        answer(completion("late"), delay=1.0),
        answer(completion("drop by drop"), drip=0.1),
        answer(b'{"err', 500, {"Content-Length": "100"}),
        answer(b"oops", 500, {"Content-Encoding": "gzip"}),
        answer(b"zz\r\n", 503, {"Transfer-Encoding": "chunked"}),
        answer(b" " * 60, 500, drip=0.1),
        answer(b"  ", 500, drip=1.5),
        answer(b"", head_drip=0.1),
    ],
    ids=[
        *("429", "500", "502", "broken JSON", "no choice", "a list", "cut body", "silence", "slow body"),
        *("cut 500", "500 in bad gzip", "503 in bad chunks", "slow 500", "silent 500", "slow head"),
    ],
)
def test_what_may_pass_is_tried_again(trouble):
    waits = []
    with serving(trouble, OK) as (record, url):
        begin = time.monotonic()
        assert ask(url, waits=waits, timeout=0.4) == [REPLY]
        assert time.monotonic() - begin < 2.5  # the timeout once, and a busy machine
    assert len(record.requests) == 2
    assert len(waits) == 1
    assert 0.5 <= waits[0] <= 1


def test_waits_double_and_keep_their_jitter():
    waits, again = [], []
    with serving(answer({}, 503)) as (record, url):
        (reply,) = ask(url, waits=waits, n_retries=4, max_wait=3.0)
        ask(url, waits=again, n_retries=4, max_wait=3.0)
    assert reply.text == ""
    assert "503" in reply.error
    assert "5 attempts" in reply.error
    assert len(record.requests) == 10
    assert waits == again
    for wait, longest in zip(waits, (1, 2, 3, 3), strict=True):
        assert longest / 2 <= wait <= longest


def test_retry_after_counts_up_to_the_longest_wait():
    for told, least, most in (("7", 7, 7.7), ("900", 60, 60)):
        waits = []
        with serving(answer({}, 429, {"Retry-After": told}), OK) as (_, url):
            assert ask(url, waits=waits) == [REPLY]
        assert least <= waits[0] <= most
    assert retry_after_seconds({"retry-after": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0.0
    assert retry_after_seconds({"retry-after": "soon"}) is None
    assert retry_after_seconds({"retry-after": "nan"}) is None
    assert retry_after_seconds({}) is None


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refusal_of_one_request_is_its_own(status):
    def filtered(body):
        is_refused = body["messages"][0]["content"] == "number 1"
        return answer({"error": {"message": "filtered"}}, status) if is_refused else OK

    with serving(filtered) as (record, url):
        replies = ask(url, 3)
    assert [reply.text for reply in replies] == [REPLY.text, "", REPLY.text]
    assert f"answered {status}" in replies[1].error
    assert "filtered" in replies[1].error
    assert [reply.is_refused for reply in replies] == [False, True, False]
    assert len(record.requests) == 3  # the same request would be refused again


def test_replies_that_came_before_a_refusal_of_everything_are_kept(tmp_path):
    def locked_out(body):
        is_refused = body["messages"][0]["content"] == "number 2"
        return answer({"error": {"message": "quota"}}, 401) if is_refused else OK

    requests = [ChatRequest((Message("user", (f"number {i}",)),), seed=i << 32) for i in range(4)]
    with serving(locked_out) as (record, url):
        inner = OpenAIChat("tiny", base_url=url, api_key="secret", config=OpenAIConfig(concurrency=1))
        chat = CachedChat(inner, tmp_path)
        with contextlib.closing(inner):
            with pytest.raises(ChatModelError, match="401") as caught:
                chat.complete(requests, Sampling())
            assert caught.value.replies[:3] == (REPLY, REPLY, None)
            n_asked = len(record.requests)
            assert chat.complete(requests[:2], Sampling()) == [REPLY, REPLY]
            assert len(record.requests) == n_asked


@pytest.mark.parametrize("status", [401, 403, 404])
def test_what_will_not_pass_is_raised_at_once(status):
    with serving(answer({"error": {"message": "no such thing"}}, status)) as (record, url):
        with pytest.raises(ChatModelError, match=rf"answered {status}.*check the model 'tiny'"):
            ask(url)
        assert len(record.requests) == 1


def test_a_server_that_is_not_there_is_raised_after_the_retries():
    with serving(OK) as (_, url):
        pass
    waits = []
    with pytest.raises(ChatModelError, match=r"no connection to .* \(3 attempts\); is the server running\?"):
        ask(url, waits=waits)
    assert len(waits) == 2


def test_a_request_that_a_server_hangs_up_on_fails_alone():
    hangs_up = answer(b"", None)

    def one_of_them(body):
        return hangs_up if body["messages"][0]["content"] == "number 1" else OK

    with serving(one_of_them) as (record, url):
        replies = ask(url, 4, n_retries=1)
    assert [reply.text for reply in replies] == [REPLY.text, "", REPLY.text, REPLY.text]
    assert replies[1].error.startswith("the connection broke off")
    assert replies[1].error.endswith("(2 attempts)")
    assert len(record.requests) == 5
    with serving(hangs_up) as (_, url):
        assert [reply.text for reply in ask(url, 2)] == ["", ""]  # a server is there


def test_a_server_that_goes_away_in_the_middle_fails_the_rest_of_its_batch_and_ends_the_next():
    def last_words(_):
        record.stop_listening()
        return answer(completion("* Light\n- a fox"), headers={"Connection": "close"})

    with serving(last_words) as (record, url):
        first, second = ask(url, 2, n_retries=1, concurrency=1)
        assert first == REPLY
        assert second.error.startswith(f"no connection to {url}")
        with pytest.raises(ChatModelError, match="is the server running"):
            ask(url, 2, n_retries=1)


def test_streams_are_put_together_and_broken_ones_asked_again():
    whole = answer(stream("* Light\n", "- a fox"), headers={"Content-Type": "text/event-stream"})
    for broken in (
        answer(stream("* Li", finish=None)),
        answer(b"data: {nonsense\n\n"),
        answer(stream("x" * 40), drip=0.05),
    ):
        with serving(broken, whole) as (record, url):
            assert ask(url, stream=True, timeout=0.4) == [REPLY]
        assert [body["stream"] for _, _, body in record.requests] == [True, True]
    with serving(answer(stream("- a", finish="length"))) as (_, url):
        assert ask(url, stream=True) == [ChatReply("- a", is_truncated=True)]


def test_a_stream_is_taken_apart_at_newlines_alone():
    text = "- a fox\u2028in fog\u0085- a\x0bhare\x1c"
    whole = stream(text).decode().replace(json.dumps(text), json.dumps(text, ensure_ascii=False))
    assert "\u2028" in whole
    assert "\u0085" in whole
    for ending in ("\n", "\r\n"):
        with serving(answer(whole.replace("\n", ending).encode())) as (record, url):
            assert ask(url, stream=True) == [ChatReply(text)]
        assert len(record.requests) == 1


def test_odd_contents():
    for content, text in ((None, ""), ([{"type": "text", "text": "- a"}, {"type": "image"}], "- a"), ("", "")):
        with serving(answer(completion(content, "length"))) as (_, url):
            assert ask(url) == [ChatReply(text, is_truncated=True)]


def test_several_requests_go_at_once_and_come_back_in_order():
    script = [answer(completion("same"), delay=0.1)]
    with serving(*script) as (record, url):
        assert [r.text for r in ask(url, 6, concurrency=3)] == ["same"] * 6
    assert 2 <= record.most_at_once <= 3
    assert sorted(body["seed"] for _, _, body in record.requests) == [1, 2, 3, 4, 5, 6]
    with serving(OK) as (_, url):
        assert ask(url, 0) == []


def test_the_rate_limit_spaces_calls():
    now, waits = [100.0], []

    def sleep(seconds):
        waits.append(seconds)
        now[0] += seconds

    limiter = RateLimiter(30, clock=lambda: now[0], sleep=sleep)
    limiter.wait()
    limiter.wait()
    now[0] += 5
    limiter.wait()
    limiter.wait()
    assert waits == [2.0, 2.0]
    with serving(OK) as (_, url):
        waits.clear()
        ask(url, 3, waits=waits, requests_per_minute=60, concurrency=1)
    assert len(waits) == 2
    assert 0 < waits[0] <= 1 < waits[1] <= 2


@pytest.mark.parametrize("options", [{"concurrency": 0}, {"timeout": 0}, {"n_retries": -1}, {"requests_per_minute": 0}])
def test_bad_numbers(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} must be"):
        OpenAIConfig(**options)


def test_a_missing_key_says_what_to_do(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    for base_url in (None, "https://api.openai.com/v1", "https://eu.api.OpenAI.com/v1"):
        with pytest.raises(ValueError, match="OPENAI_API_KEY"):
            OpenAIChat("tiny", base_url=base_url)


@pytest.mark.parametrize(
    ("environment", "given", "sent"),
    [({}, None, ["none", "none"]), ({"OPENAI_API_KEY": "of the shell"}, None, ["none", "of the shell"]),
     ({"OPENAI_API_KEY": "of the shell"}, "given", ["given", "given"]),
     ({"OPENAI_API_KEY": ""}, None, ["none", "none"])],
)  # fmt: skip
def test_the_shells_key_goes_to_the_shells_server_and_no_other(monkeypatch, environment, given, sent):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with serving(OK) as (record, url):
        for by_shell in (False, True):
            if by_shell:
                monkeypatch.setenv("OPENAI_BASE_URL", url)
            chat = OpenAIChat("tiny", base_url=None if by_shell else url, api_key=given)
            with contextlib.closing(chat):
                assert chat.complete([ChatRequest((Message("user", ("a",)),), 1)], Sampling()) == [REPLY]
    keys = [{k.lower(): v for k, v in headers.items()}["authorization"] for _, headers, _ in record.requests]
    assert keys == [f"Bearer {key}" for key in sent]


@pytest.mark.parametrize(
    ("base_url", "of_the_shell", "key"),
    [
        ("https://api.openai.com/v1", None, "secret"),
        ("https://eu.api.openai.com/v1", "http://localhost:8000/v1", "secret"),
        ("http://localhost:8000/v1", "http://localhost:8000/v1/", "secret"),
        ("http://localhost:8001/v1", "http://localhost:8000/v1", "none"),
        ("http://localhost:8000/other", "http://localhost:8000/v1", "none"),
        ("https://openai.com.example.org/v1", None, "none"),
        ("https://notopenai.com/v1", None, "none"),
        (None, None, "secret"),
    ],
)
def test_who_is_sent_the_shells_key(monkeypatch, base_url, of_the_shell, key):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    if of_the_shell is not None:
        monkeypatch.setenv("OPENAI_BASE_URL", of_the_shell)
    with contextlib.closing(OpenAIChat("tiny", base_url=base_url)) as chat:
        assert chat._client.api_key == key


def test_a_worlds_server_has_a_key_of_its_own(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "of another server")
    monkeypatch.delenv("OWN_KEY", raising=False)
    with serving(OK) as (record, url):
        chat_config = ChatConfig("openai", model="tiny", base_url=url, api_key_env="OWN_KEY")
        world = full_world_preset("sdxl", chat=chat_config, reply_cache="")
        with pytest.raises(ValueError, match=r"names the variable OWN_KEY, which is empty or not set; export"):
            load_chat(world)
        monkeypatch.setenv("OWN_KEY", "own")
        with contextlib.closing(load_chat(world)) as chat:
            assert chat.complete([ChatRequest((Message("user", ("a",)),), 1)], Sampling()) == [REPLY]
    assert {k.lower(): v for k, v in record.requests[0][1].items()}["authorization"] == "Bearer own"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base_url": "http://me:hidden@localhost:8000/v1"}, r"no user name.* server localhost.*OPENAI_API_KEY"),
        ({"base_url": "https://hidden@localhost/v1"}, r"no user name.* server localhost.*OPENAI_API_KEY"),
        ({"base_url": "https://localhost/v1?key=hidden"}, r"no user name, password, query .*api_key_env"),
        ({"base_url": "https://localhost/v1#hidden"}, r"no user name, password, query or fragment"),
        ({"base_url": "me:hidden@localhost:8000/v1"}, r"an address such as .* got 'localhost:8000/v1'"),
        ({"base_url": "localhost:8000/v1?key=hidden"}, r"an address such as .* got 'localhost:8000/v1'"),
        ({"base_url": ""}, r"an address such as"),
        ({"api_key_env": "sk-hidden"}, r"api_key_env must be the name of an environment variable.* not the key"),
    ],
)
def test_no_secret_is_written_to_a_configuration(changes, message):
    with pytest.raises(ValueError, match=message) as caught:
        ChatConfig("openai", model="tiny", **changes)
    assert "hidden" not in str(caught.value)


def test_an_unreachable_server_is_named_without_its_password(monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://me:hidden@127.0.0.1:9/v1")
    with (
        contextlib.closing(OpenAIChat("tiny", config=OpenAIConfig(n_retries=0))) as chat,
        pytest.raises(ChatModelError, match=r"no connection to http://127\.0\.0\.1:9/v1") as caught,
    ):
        chat.complete([ChatRequest((Message("user", ("a",)),), 1)], Sampling())
    assert "hidden" not in str(caught.value)


def test_the_pages_local_server_is_asked_as_it_is_configured(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with serving(OK) as (_, url):
        world = full_world_preset("sdxl", chat=ChatConfig("openai", model="tiny", base_url=url), reply_cache="")
        chat = load_chat(world)
        with contextlib.closing(chat):
            assert chat.complete([ChatRequest((Message("user", ("a",)),), 1)], Sampling()) == [REPLY]
