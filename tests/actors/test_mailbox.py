"""The mailbox: one reader, many writers, bounded."""

import asyncio

import pytest

from rt.actors.mailbox import RESERVED, Mailbox, MailboxClosed, MailboxFull


async def turns(count: int = 5) -> None:
    """Lets every task that can run do so."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_messages_come_out_in_the_order_in_which_they_went_in() -> None:
    box: Mailbox[int] = Mailbox(4)
    for one in range(4):
        box.put_nowait(one)
    assert [await box.get() for _ in range(4)] == [0, 1, 2, 3]


async def test_a_full_mailbox_refuses_those_who_do_not_wait() -> None:
    box: Mailbox[int] = Mailbox(1)
    box.put_nowait(1)
    with pytest.raises(MailboxFull):
        box.put_nowait(2)
    assert box.depth == 1
    assert await box.get() == 1


async def test_the_reserved_place_takes_one_message_more_and_no_second_one() -> None:
    box: Mailbox[int] = Mailbox(1)
    box.put_nowait(1)
    for one in range(RESERVED):
        box.put_nowait(one, reserved=True)
    with pytest.raises(MailboxFull):
        box.put_nowait(9, reserved=True)


async def test_a_writer_waits_for_room_and_writers_go_in_turn() -> None:
    box: Mailbox[str] = Mailbox(1)
    await box.put("first")
    writers = [asyncio.create_task(box.put(name)) for name in ("second", "third")]
    await turns()
    assert not any(one.done() for one in writers)
    assert [await box.get() for _ in range(3)] == ["first", "second", "third"]
    await asyncio.gather(*writers)


async def test_a_reserved_message_beyond_the_capacity_does_not_let_a_writer_in_early() -> None:
    box: Mailbox[str] = Mailbox(1)
    box.put_nowait("first")
    box.put_nowait("nudge", reserved=True)
    writer = asyncio.create_task(box.put("second"))
    await turns()
    assert await box.get() == "first"
    await turns()
    assert not writer.done()
    assert await box.get() == "nudge"
    await writer


async def test_room_that_a_cancelled_writer_was_offered_goes_to_the_next_one() -> None:
    box: Mailbox[str] = Mailbox(1)
    await box.put("first")
    leaving, staying = asyncio.create_task(box.put("leaving")), asyncio.create_task(box.put("staying"))
    await turns()
    assert await box.get() == "first"  # offers the place to `leaving`, which is cancelled before it can take it
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    await asyncio.wait_for(staying, 5)
    assert await box.get() == "staying"
    assert box.depth == 0


async def test_a_cancelled_reader_loses_nothing() -> None:
    box: Mailbox[int] = Mailbox(1)
    reader = asyncio.create_task(box.get())
    await turns()
    box.put_nowait(1)
    reader.cancel()
    await asyncio.gather(reader, return_exceptions=True)
    assert await asyncio.wait_for(box.get(), 5) == 1


async def test_after_close_what_is_left_still_comes() -> None:
    box: Mailbox[int] = Mailbox(2)
    box.put_nowait(1)
    box.close()
    assert await box.get() == 1
    with pytest.raises(MailboxClosed):
        await box.get()
    with pytest.raises(MailboxClosed):
        box.put_nowait(2)
    with pytest.raises(MailboxClosed):
        await box.put(2)


async def test_close_wakes_a_reader_and_every_writer() -> None:
    empty: Mailbox[int] = Mailbox(1)
    reader = asyncio.create_task(empty.get())
    full: Mailbox[int] = Mailbox(1)
    full.put_nowait(1)
    writers = [asyncio.create_task(full.put(one)) for one in (2, 3)]
    await turns()
    empty.close()
    full.close()
    for task in (reader, *writers):
        with pytest.raises(MailboxClosed):
            await asyncio.wait_for(task, 5)
