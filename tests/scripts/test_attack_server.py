"""The attack on the server finds what it looks for: an answer that does not come, a 5xx that is not meant."""

import asyncio

import pytest
from helpers.scripts_under_test import script


@pytest.fixture(scope="module")
def attack():
    return script("attack_server")


@pytest.mark.parametrize(
    ("sent", "lost", "faults", "statuses"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", 0, 0, {"200": 1}),
        (b"HTTP/1.1 503 Busy\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n", 0, 0, {"503": 1}),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", 0, 1, {"503": 1}),
        (b"HTTP/1.1 500 Bug\r\nContent-Length: 0\r\n\r\n", 0, 1, {"500": 1}),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{}", 1, 1, {}),
        (b"", 1, 1, {}),
    ],
)
def test_every_answer_is_counted(attack, sent, lost, faults, statuses):
    async def run():
        async def answer(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(sent)
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        counts = attack.Counts()
        await attack.ask(server.sockets[0].getsockname()[1], attack.request(b"body"), counts)
        server.close()
        return counts

    counts = asyncio.run(run())
    assert (counts.lost, len(counts.faults), dict(counts.statuses)) == (lost, faults, statuses)


def test_a_refused_connection_is_not_a_lost_request(attack):
    counts = attack.Counts()
    assert asyncio.run(attack.ask(1, attack.request(b"body"), counts)) is None
    assert (counts.lost, counts.refused_connections) == (0, 1)
