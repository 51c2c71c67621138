"""A question to many model servers at once: answers by target, errors in their place, an end at once on Ctrl-C."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator

import pytest

from fakes import AsyncFakeClient, FakeModelServer
from serving.grpc_front import serve
from tfs_deploy.errors import DeadlineExceeded, InvalidInput, TFSDeployError, Unreachable
from tfs_deploy.serving.base_client import AsyncServingClient
from tfs_deploy.serving.client import connect_aio
from tfs_deploy.serving.sweep import ask_each

TARGETS = [f"replica-{number}:8500" for number in range(1, 41)]


class OpenClients:
    """Makes a client of a server in memory for any target, and knows which are open."""

    def __init__(self, *, unreachable: str = "") -> None:
        self.unreachable = unreachable
        self.open: set[str] = set()
        self.most = 0

    def connect(self, target: str) -> AsyncServingClient:
        owner = self

        class Client(AsyncFakeClient):
            async def close(self) -> None:
                owner.open.discard(target)
                await super().close()

        server = FakeModelServer(target)
        server.unreachable = target == self.unreachable
        self.open.add(target)
        self.most = max(self.most, len(self.open))
        return Client(server)


async def count_versions(client: AsyncServingClient) -> tuple[str, int]:
    await asyncio.sleep(0)
    return client.target, len(await client.status("m", timeout=5.0))


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Let SIGINT raise KeyboardInterrupt: a test process may ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_answers_are_in_the_order_of_the_targets_and_all_clients_are_closed() -> None:
    clients = OpenClients()

    answers = ask_each(clients.connect, TARGETS, count_versions, max_connections=8)

    assert list(answers.items()) == [(target, (target, 0)) for target in TARGETS]
    assert clients.most == 8
    assert not clients.open
    assert ask_each(clients.connect, [], count_versions) == {}


def test_an_error_is_the_answer_of_its_target() -> None:
    answers = ask_each(OpenClients(unreachable=TARGETS[3]).connect, TARGETS, count_versions)

    assert isinstance(answers.pop(TARGETS[3]), Unreachable)
    assert answers == {target: (target, 0) for target in TARGETS if target != TARGETS[3]}

    def refuse(target: str) -> AsyncServingClient:
        raise InvalidInput(f"The target {target!r} is not an address.", "Correct it.")

    assert all(isinstance(answer, InvalidInput) for answer in ask_each(refuse, TARGETS, count_versions).values())


def test_a_fault_of_the_question_ends_all_of_them() -> None:
    clients = OpenClients()

    async def fail(client: AsyncServingClient) -> None:
        if client.target != TARGETS[5]:
            await asyncio.Event().wait()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        ask_each(clients.connect, TARGETS, fail)
    assert not clients.open


def test_it_may_be_called_from_threads_and_where_an_event_loop_runs() -> None:
    answers: list[dict[str, tuple[str, int] | TFSDeployError]] = []

    def ask() -> None:
        answers.append(ask_each(OpenClients().connect, TARGETS, count_versions))

    async def ask_in_a_loop() -> None:
        ask()

    asyncio.run(ask_in_a_loop())
    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [set(answer) for answer in answers] == [set(TARGETS)] * 5


def test_ctrl_c_ends_questions_that_no_server_answers(ctrl_c: None) -> None:
    clients = OpenClients()
    main_thread = threading.main_thread().ident or 0

    async def wait(client: AsyncServingClient) -> None:
        if client.target == TARGETS[-1]:
            signal.pthread_kill(main_thread, signal.SIGINT)
        await asyncio.Event().wait()

    with pytest.raises(KeyboardInterrupt):
        ask_each(clients.connect, TARGETS, wait)
    assert not clients.open


def test_real_servers_are_asked_over_grpc() -> None:
    with serve(FakeModelServer("a")) as first, serve(FakeModelServer("b")) as second:
        with serve(FakeModelServer("c")) as gone:
            pass
        answers = ask_each(connect_aio, [first, second, gone], count_versions)

    assert (answers[first], answers[second]) == ((first, 0), (second, 0))
    assert isinstance(answers[gone], (Unreachable, DeadlineExceeded))
