"""Turns: who is next, how much of the room each may take, and what a cancellation leaves behind."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from darkroom.serving.turns import Member, Turns


class Loop:
    """A request that takes one turn after the other and notes each; a turn lasts until `Table.end_one`."""

    def __init__(self, table: Table, name: str, client: str, *, steps: int, room: float, work: float) -> None:
        self.member = Member(client=client)
        self.name = name
        self.task = asyncio.ensure_future(self._run(table, steps, room, work))

    async def _run(self, table: Table, steps: int, room: float, work: float) -> None:
        for _ in range(steps):
            async with table.turns.turn(self.member, room=room, work=work):
                end = asyncio.get_running_loop().create_future()
                table.order.append(self.name)
                table.running.append(end)
                await end
        table.turns.leave(self.member)


class Table:
    """Loops around one `Turns`. What began first ends first, as in a queue of Triton's."""

    def __init__(self) -> None:
        self.turns = Turns()
        self.order: list[str] = []
        self.running: list[asyncio.Future[None]] = []

    def loop(self, name: str, client: str = "a", *, steps: int = 1000, room: float = 0.5, work: float = 1) -> Loop:
        return Loop(self, name, client, steps=steps, room=room, work=work)

    async def settle(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    async def end_one(self) -> None:
        await self.settle()
        self.running.pop(0).set_result(None)
        await self.settle()

    async def ends(self, count: int) -> str:
        """The names of those whose turns came while `count` turns ended."""
        await self.settle()
        before = len(self.order)
        for _ in range(count):
            await self.end_one()
        return "".join(self.order[before:])


def play(scenario: Callable[[Table], Awaitable[None]]) -> None:
    async def whole() -> None:
        await scenario(Table())
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    asyncio.run(asyncio.wait_for(whole(), 60))


def test_turns_of_the_requests_of_one_client() -> None:
    async def scenario(table: Table) -> None:
        for name in "xyz":
            table.loop(name)
        assert await table.ends(9) == "zxyzxyzxy"

    play(scenario)


def test_turns_a_newcomer_comes_next_and_a_small_request_passes_a_large_one() -> None:
    async def scenario(table: Table) -> None:
        table.loop("L", room=1)
        assert await table.ends(100) == "L" * 100
        small = table.loop("s", steps=1, room=0.6)
        assert await table.ends(2) == "sL"
        assert small.task.done()
        assert await table.ends(3) == "LLL"

    play(scenario)


def test_turns_one_client_with_many_requests_gets_no_more_than_one_with_few() -> None:
    async def scenario(table: Table) -> None:
        for _ in range(40):
            table.loop("g", "greedy")
        await table.ends(100)
        table.loop("n", "new", steps=10)
        assert await table.ends(18) == "ng" * 9

    play(scenario)


def test_turns_without_a_name_every_request_is_a_client() -> None:
    async def scenario(table: Table) -> None:
        table.loop("x", "")
        table.loop("y", "")
        table.loop("z", "z")
        assert sorted(await table.ends(9)) == sorted("xyz" * 3)

    play(scenario)


def test_turns_are_counted_by_work() -> None:
    async def scenario(table: Table) -> None:
        table.loop("L", "large", room=1, work=3)
        for _ in range(2):  # one that has just ended is not in the queue yet when the next one begins
            table.loop("s", "small", room=1, work=1)
        turns = await table.ends(40)
        assert abs(turns.count("s") - 3 * turns.count("L")) <= 4

    play(scenario)


def test_turns_give_no_credit_for_idle_time() -> None:
    async def scenario(table: Table) -> None:
        idle, busy = Member(client="idle"), table.loop("b", "busy", room=1)
        async with table.turns.turn(idle, room=0.1, work=1):
            pass
        await table.ends(50)
        for _ in range(5):
            table.loop("i", "idle", room=1)
        assert (await table.ends(6)).count("b") == 3
        assert not busy.task.done()

    play(scenario)


def test_turns_room_is_shared_out_among_clients() -> None:
    async def scenario(table: Table) -> None:
        for _ in range(8):
            table.loop("g", "greedy", room=1 / 8)
        await table.settle()
        assert len(table.running) == 8
        new = table.loop("n", "new", room=1 / 8, steps=3)
        await table.end_one()
        assert table.order[8:] == ["n"]
        for _ in range(7):
            await table.end_one()
        assert len(table.running) == 5, "four of the greedy one, which is half of the room, and one of the new one"
        while not new.task.done():
            await table.end_one()
        assert len(table.running) == 8

    play(scenario)


def test_turns_what_needs_more_than_there_is_runs_alone_and_is_not_overtaken_for_ever() -> None:
    async def scenario(table: Table) -> None:
        for _ in range(4):
            table.loop("s", "small", room=0.25)
        await table.settle()
        table.loop("X", "huge", room=5, steps=1)
        assert await table.ends(4) == "X"
        assert len(table.running) == 1
        assert await table.ends(1) == "ssss"

    play(scenario)


def test_turns_a_cancelled_one_leaves_the_queue_at_once() -> None:
    async def scenario(table: Table) -> None:
        table.loop("x", room=1)
        await table.settle()
        waiting = [table.loop(name, room=1) for name in "yz"]
        await table.settle()
        waiting[0].task.cancel()
        assert await table.ends(2) == "zx"

    play(scenario)


def test_turns_a_cancellation_together_with_the_turn_gives_it_back() -> None:
    async def scenario(table: Table) -> None:
        table.loop("x", room=1, steps=1)
        await table.settle()
        second, third = table.loop("y", room=1), table.loop("z", room=1)
        await table.settle()
        table.running.pop(0).set_result(None)
        await asyncio.sleep(0)  # the turn of y has come, and y does not know yet
        second.task.cancel()
        await table.settle()
        assert table.order == ["x", "z"]
        assert second.task.cancelled()
        assert not third.task.done()

    play(scenario)


def test_turns_are_left_to_the_others() -> None:
    async def scenario(table: Table) -> None:
        one, other = Member(client="a"), Member(client="b")
        async with table.turns.turn(one, room=0.5, work=1), table.turns.turn(other, room=0.5, work=1):
            third = asyncio.ensure_future(table.turns.turn(one, room=0.25, work=1).__aenter__())
            await table.settle()
            assert not third.done(), "a has its half already"
        table.turns.leave(other)
        await table.settle()
        assert third.done()

    play(scenario)
