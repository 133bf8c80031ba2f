"""The promise of the scripts, searched for counter-examples.

The real Lua, called through the functions that call it, by clients, workers and a janitor that take turns in every
order, lose answers, repeat themselves and die between two calls; Redis loses what it may lose. After each step all
that stands in Redis is held against a reference model (`jobs_model`) and against the promise itself. Time is Redis's
own: a lease lapses, a delay ends, a deadline passes by rewriting its score.
"""

import asyncio
import contextlib
import copy
import json
import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar
from unittest.mock import patch

import pytest
from arq.connections import ArqRedis
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule, run_state_machine_as_test

from rt import events, keys
from rt.app import App
from rt.cursor import START, Cursor, parse_cursor
from rt.errors import Refused, TakenOver, Unavailable
from rt.jobs.context import JobContext
from rt.jobs.janitor import SWEEP, Janitor
from rt.jobs.job import Cancelled, Completed, Failed, HandedBack, Lost, Outcome, Retrying
from rt.jobs.leases import Lease, Leases
from rt.jobs.outlet import Outlet
from rt.jobs.pace import Pace
from rt.jobs.payload import decode_job
from rt.jobs.queue import JobQueue, NewJob
from rt.jobs.runner import Claim, Run
from rt.keys import parse_stream
from rt.settings import load_settings
from rt.streams.commands import Commands
from rt.streams.log import Authorship, Batch, Page, StreamLog
from rt.streams.replay import Head, place
from rt.streams.sessions import Cursors, Entry, open_session, restore_session
from tests.contracts.hands import Hands
from tests.contracts.jobs_model import ENDED, Job, Line, Place
from tests.contracts.weather import RedisMachine

#: Accidents that end much of what an example has built up.
SELDOM = st.sampled_from([False, False, False, True])
T = TypeVar("T")
PICK = st.integers(0, 11)
TENANTS = ("-", "acme")
HOUR_S = 3600.0
LEASE_S = 3600.0
OWNER = "ann"
MOST_JOBS = 3

app = App()


@app.job(max_attempts=1)
async def once(job: JobContext) -> None: ...


@app.job(max_attempts=2)
async def twice(job: JobContext) -> None: ...


@app.job(max_attempts=2)
async def plain(job: JobContext) -> None: ...


class Held:
    """A claimed attempt in the hands of a worker, which may have lost it long ago."""

    def __init__(self, job: Job, claim: Claim) -> None:
        self.job, self.claim, self.fence = job, claim, claim.fence
        self.adopted = bool(claim.job)
        self.sent: list[tuple[Batch, list[Line]]] = []
        #: The newest batch that was answered.
        self.answered = 0
        self.outcome: tuple[Outcome, str, str] | None = None


class Jobs(RedisMachine):
    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.settings = load_settings(REDIS_URL=url, lease_s=LEASE_S, job_timeout_s=2 * HOUR_S, queue_limit=2)
        self.queue_name = self.settings.queue
        self.streams = StreamLog(self.store, self.settings)
        self.queue = JobQueue(self.store, self.streams, self.settings)
        self.janitor = Janitor(self.store, self.streams, self.queue, self.settings)
        self.arq = ArqRedis(self.store.pool)
        self.worker = self.do(self._worker())
        self.jobs: dict[str, Job] = {}
        #: Idempotency: record → (hash, job, whether its answer is "duplicate").
        self.records: dict[str, tuple[str, str, bool]] = {}
        self.generations: dict[str, int] = {}
        self.saved: Any = None
        self.held: list[Held] = []
        #: Redis was away: lapsed leases are left to their holders.
        self.spared = False
        self.numbers = 0
        #: What every cursor that was ever to be had stands for.
        self.truth: dict[str, dict[Cursor, bytes]] = defaultdict(dict)
        self.expiries: dict[str, int] = {}
        self.sessions = {tenant: self.do(open_session(self.store, self.settings, tenant, OWNER, None)) for tenant in TENANTS}
        self.generations = {tenant: session.generation for tenant, session in self.sessions.items()}
        # The library's own connection notes the server's incarnation when it is made.
        self.do(self.arq.ping())
        self.incarnate()

    async def _worker(self) -> Hands:
        return Hands(app, self.settings, self.store)

    def number(self) -> str:
        self.numbers += 1
        return f"{self.numbers:03d}"

    # looking

    def places(self) -> dict[str, Place]:
        """Where every job is. First a delay of moments (an abort's 100 ms) ends, so that none ends by itself in between, and
        what is due is due in the order of the ids: the same on every machine."""
        queue, now = self.queue_name, self.now_ms()
        self.calls(("SET", keys.PULSE, now), ("SET", keys.GRACE, 1) if self.spared else ("DEL", keys.GRACE))
        for id, score in self.scores(queue).items():
            if 2 < score < now + 5000:
                self.call("ZADD", queue, 2, id)
        ids = list(self.jobs)
        scores, leases, aborts = self.scores(queue), self.scores(keys.leases(queue)), self.scores("arq:abort")
        deadlines = self.scores(keys.deadlines(queue))
        locks, payloads, lates = [
            self.calls(*((command, *rest(self.jobs[id])) for id in ids))
            for command, rest in (
                ("EXISTS", lambda job: (f"arq:in-progress:{job.id}",)),
                ("EXISTS", lambda job: (f"arq:job:{job.id}",)),
                ("HGET", lambda job: (self.meta(job), "deadline")),
            )
        ]
        out = {}
        for id, lock, payload, late in zip(ids, locks, payloads, lates, strict=True):
            far = float("inf")
            out[id] = Place(
                queued=id in scores,
                due=scores.get(id, far) <= now,
                put_first=scores.get(id) == 1,
                leased=id in leases,
                lapsed=leases.get(id, far) <= now and not self.spared,
                locked=bool(lock),
                aborted=id in aborts,
                payload=bool(payload),
                late=late is not None and float(late) <= now,
                deadline=deadlines.get(f"{self.jobs[id].tenant} {id}", far) <= now,
            )
        return out

    def scores(self, key: str) -> dict[str, float]:
        found = self.call("ZRANGE", key, 0, -1, "WITHSCORES")
        return {found[i].decode(): float(found[i + 1]) for i in range(0, len(found), 2)}

    def now_ms(self) -> int:
        seconds, micros = self.call("TIME")
        return int(seconds) * 1000 + int(micros) // 1000

    def meta(self, job: Job) -> str:
        return keys.meta(job.tenant, keys.job_stream(job.id))

    def log(self, job: Job) -> str:
        return keys.log(job.tenant, keys.job_stream(job.id))

    def pick(self, n: int) -> Job:
        return list(self.jobs.values())[n % len(self.jobs)]

    @property
    def room(self) -> bool:
        """Few jobs at a time, so that much happens to each."""
        return sum(not job.ended for job in self.jobs.values()) < MOST_JOBS and len(self.jobs) < 2 * MOST_JOBS

    def status_now(self, job: Job) -> str:
        return (self.call("HGET", self.meta(job), "status") or b"").decode()

    @initialize(tenant=st.sampled_from(TENANTS), claims=st.booleans(), adopts=st.booleans())
    def one_of_each(self, tenant: str, claims: bool, adopts: bool) -> None:
        """Most stories begin with two jobs that run."""
        self.accept("twice", tenant, "k1", "", "b1", False, False, False)
        self.enqueue(False)
        if claims:
            self.claim(2, False)
            if adopts:
                self.adopt(0, False)

    # clients

    @precondition(lambda self: self.room)
    @rule(
        kind=st.sampled_from(["once", "twice"]),
        tenant=st.sampled_from(["-", "-", "acme"]),
        key=st.sampled_from(["", "k1", "k2"]),
        command=st.sampled_from(["", "c1", "c2"]),
        body=st.sampled_from(["b1", "b1", "b2"]),
        stale=SELDOM,
        put_off=SELDOM,
        lost=st.booleans(),
    )
    def accept(self, kind: str, tenant: str, key: str, command: str, body: str, stale: bool, put_off: bool, lost: bool) -> None:
        session = self.sessions[tenant]
        by = Authorship(session.id, self.generations[tenant] - stale) if command else Authorship()
        records = [keys.command(tenant, session.id, command)] if command else []
        records += [keys.idempotency(tenant, OWNER, key)] if key else []
        reports = ((keys.session_stream(session.id),) if command else ()) + ("room:r",)
        new = NewJob(app.jobs[kind], {}, tenant, OWNER, reports, command, by, HOUR_S if put_off else 0.0)
        job = Job(f"{self.number()}ours", tenant, kind, True, app.jobs[kind].max_attempts, reports, "queued", adopted=True)
        job.add([Line("queued", 0, "")])
        known = next((self.records[one] for one in records if one in self.records), None)
        waiting = len(self.scores(self.queue_name)) - len(self.scores(keys.leases(self.queue_name)))
        expected: Any
        if stale and command:
            expected = "taken"
        elif known:
            hash, id, duplicate = known
            expected = (id, duplicate)
            if hash != body:
                expected = "conflict"
            else:
                first = next(one for one in records if one in self.records)
                expected = (id, duplicate if ":idem:c:" in first else True)
                for one in records:
                    self.records.setdefault(one, (hash, *expected))
        elif waiting >= self.settings.queue_limit:
            expected = "queue_full"
        else:
            expected = (job.id, False)
            self.jobs[job.id] = job
            self.records |= dict.fromkeys(records, (body, job.id, False))
        lost = lost and bool(records)  # without a record nobody asks twice
        for again in range(2 if lost else 1):
            self.lossy(lost and not again)
            try:
                accepted = self.do(self.queue.accept(new, hash=body, records=records, job_id=job.id))
            except Unavailable:
                continue
            except Refused as error:
                got: Any = word_of(error)
            else:
                got = accepted.job_id, accepted.duplicate
            if lost and not command and expected == (job.id, False):
                expected = (job.id, True)  # the key's own answer to somebody who asks again
                self.records |= dict.fromkeys(records, (body, job.id, False))
            assert got == expected

    @rule(tenant=st.sampled_from(TENANTS))
    def take_over(self, tenant: str) -> None:
        session = self.do(open_session(self.store, self.settings, tenant, OWNER, self.sessions[tenant].id))
        assert session.resumed
        assert session.generation > self.generations[tenant]
        self.generations[tenant] = session.generation

    @precondition(lambda self: self.jobs)
    @rule(n=PICK, by=st.sampled_from(["ann", "bob"]), other=SELDOM, lost=st.booleans())
    def cancel(self, n: int, by: str, other: bool, lost: bool) -> None:
        job = self.pick(n)
        tenant = job.tenant if not other else TENANTS[job.tenant == "-"]
        for again in range(2 if lost else 1):
            expected = job.in_cancel(tenant, by, self.places()[job.id])
            self.lossy(lost and not again)
            try:
                got: Any = self.do(self.queue.cancel(tenant, job.id, by))
            except Unavailable:
                continue
            except Refused as error:
                got = error.code
            assert got == expected

    @precondition(lambda self: self.jobs)
    @rule(n=PICK)
    def get(self, n: int) -> None:
        job = self.pick(n)
        record = self.do(self.queue.get(job.tenant, job.id))
        at = self.places()[job.id]
        if job.unknown:
            if job.ours or not (at.payload and at.queued):
                assert record is None
                return
            expected = ("queued", 0, "plain")
        else:
            expected = (job.status, job.attempt, job.name if job.adopted else "")
        assert record is not None
        assert (record.status, record.attempt, record.job) == expected

    # plain arq clients

    @precondition(lambda self: self.room)
    @rule(put_off=SELDOM)
    def enqueue(self, put_off: bool) -> None:
        job = Job(f"{self.number()}plain", "-", "plain", False, None)
        assert self.do(self.arq.enqueue_job("plain", _job_id=job.id, _defer_by=HOUR_S if put_off else None))
        self.jobs[job.id] = job

    @precondition(lambda self: any(not job.ours and job.ended for job in self.jobs.values()))
    @rule(n=PICK, forgotten=st.booleans(), claims=st.booleans())
    def enqueue_again(self, n: int, forgotten: bool, claims: bool) -> None:
        """The id of a job that has ended: refused by arq until it has forgotten the result."""
        job = pick_of(n, [job for job in self.jobs.values() if not job.ours and job.ended])
        if forgotten:
            self.call("DEL", f"arq:result:{job.id}")
        # What was said about the old job is no abort of the new one.
        self.call("ZREM", "arq:abort", job.id)
        job.again = self.do(self.arq.enqueue_job("plain", _job_id=job.id)) is not None
        assert job.again or not forgotten
        self.begins_anew(job)
        if claims:
            self.claim(3, False)
            self.everybody_appends()

    @precondition(lambda self: self.jobs)
    @rule(n=PICK, steps=st.sampled_from([(1,), (2,), (1, 2)]))
    def abort(self, n: int, steps: tuple[int, ...]) -> None:
        """`Job.abort()`, whose two commands others may come between. Of a job that waits for later it makes it due first."""
        job = self.pick(n)
        if job.ended:
            return
        if 1 in steps and self.scores(self.queue_name).get(job.id, 0) > self.now_ms():
            self.call("ZADD", self.queue_name, 1, job.id)
        if 2 in steps:
            self.call("ZADD", "arq:abort", self.now_ms(), job.id)

    # workers

    @precondition(lambda self: self.jobs)
    @rule(want=st.integers(1, 3), lost=SELDOM)
    def claim(self, want: int, lost: bool) -> None:
        number = self.worker._claim_number
        if int(self.call("GET", keys.claimer(self.worker._claimer)) or 0) == number:
            self.claim_again(want, lost, f"{self.worker._claimer}.{number}")
            return
        fates = {id: job.in_claim(at) for (id, job), at in zip(self.jobs.items(), self.places().values(), strict=True)}
        self.lossy(lost)
        try:
            claims = self.do(self.worker.claim(want))
        except Unavailable:
            claims = None
        # What was claimed is read from Redis where the answer was lost: nobody has it, until it is asked again or its lease lapses.
        claimed = {}
        for id, fate in fates.items():
            job = self.jobs[id]
            if fate.does == "claim":
                fence = (self.call("HGET", self.meta(job), "fence") or b"").decode()
                if fence and fence != job.fence:
                    claimed[id] = fence
        assert len(claimed) <= want
        if claims is not None:
            assert {one.id: one.fence for one in claims} == claimed
        for id, fate in fates.items():
            job = self.jobs[id]
            match fate.does:
                case "claim" if id in claimed:
                    attempt, _, token = claimed[id].partition(":")
                    job.claimed(token)
                    assert int(attempt) == job.attempt
                case "end" if self.status_now(job) in ENDED and self.call("ZSCORE", self.queue_name, id) is None:
                    job.end(fate.status, fate.mark)
                case "claim" | "end":
                    # Left for the next claim, which happens only when all slots are full.
                    assert len(claimed) == want
        for one in claims or ():
            assert one.tenant == self.jobs[one.id].tenant
            self.held.append(Held(self.jobs[one.id], one))

    def claim_again(self, want: int, lost: bool, token: str) -> None:
        """The answer to this very claim was lost: it is told what it claimed and nobody has claimed since, and claims nothing more."""
        places = self.places()
        mine = {
            id: job.fence for id, job in self.jobs.items() if job.fence.endswith(f":{token}") and places[id].leased and places[id].payload
        }
        self.lossy(lost)
        try:
            claims = self.do(self.worker.claim(want))
        except Unavailable:
            return
        assert {one.id: one.fence for one in claims} == mine
        self.held += [Held(self.jobs[one.id], one) for one in claims]
        after = self.places()
        assert all(after[id].locked and not after[id].lapsed for id in mine)

    def pick_held(self, n: int) -> Held:
        return self.held[-1 - n % len(self.held)]

    @precondition(lambda self: any(not one.adopted for one in self.held))
    @rule(n=PICK, lost=st.booleans())
    def adopt(self, n: int, lost: bool) -> None:
        held = [one for one in self.held if not one.adopted]
        if held:
            self.take_up(pick_of(n, held), lost)

    def take_up(self, one: Held, lost: bool) -> None:
        self.lossy(lost)
        self.do(self.worker.runner._adopt(one.claim, decode_job(one.claim.payload), app.jobs[one.job.name]))
        one.adopted = True
        if one.job.fence == one.fence and not one.job.adopted:
            one.job.add([Line("queued", 0, "")])
            one.job.adopted, one.job.max = True, app.jobs[one.job.name].max_attempts

    @precondition(lambda self: any(one.adopted for one in self.unsettled(newest=True)))
    @rule(picks=st.lists(PICK, min_size=1, max_size=2), count=st.integers(0, 3), checkpoint=st.booleans(), lost=st.booleans())
    def append(self, picks: list[int], count: int, checkpoint: bool, lost: bool) -> None:
        """A worker's call: batches of one or several attempts."""
        running = [one for one in self.unsettled(newest=True) if one.adopted]
        self.write({id(one): one for one in (pick_of(n, running) for n in picks)}, count, checkpoint, lost)

    @precondition(lambda self: self.held)
    @rule()
    def everybody_appends(self) -> None:
        """All that were ever claimed, in one call."""
        self.write({id(one): one for one in self.held}, 1, False, False)

    def write(self, held: dict[int, Held], count: int, checkpoint: bool, lost: bool) -> None:
        chosen = {key: one for key, one in held.items() if one.adopted}
        batches: list[tuple[Held, Batch, list[Line]]] = []
        for one in chosen.values():
            marks = [self.number() for _ in range(count)]
            batch = Batch(
                one.job.tenant,
                one.claim.stream,
                one.fence,
                (one.sent[-1][0].number if one.sent else 0) + 1,
                [self.delta(one, mark) for mark in marks],
                json.dumps(self.number()).encode() if checkpoint or not count else b"",
            )
            lines = [Line("delta", one.claim.attempt, mark) for mark in marks]
            one.sent.append((batch, lines))
            batches.append((one, batch, lines))
        self.send(batches, lost)

    @precondition(lambda self: any(one.sent for one in self.held))
    @rule(n=PICK)
    def append_again(self, n: int) -> None:
        """An answer was lost, and much has happened until the batch is sent again."""
        one = pick_of(n, [one for one in self.held if one.sent])
        self.send([(one, *one.sent[-1])], False)

    def delta(self, one: Held, mark: str) -> bytes:
        return events.encode("job.delta", one.claim.stream, {"text": mark}, 0, attempt=one.claim.attempt)

    def send(self, batches: list[tuple[Held, Batch, list[Line]]], lost: bool) -> None:
        if not batches:
            return
        for again in range(2 if lost else 1):
            expected = [one.job.append(batch.fence, batch.number, lines, batch.checkpoint.decode()) for one, batch, lines in batches]
            self.lossy(lost and not again)
            try:
                answers = self.do(self.streams.append([batch for _, batch, _ in batches]))
            except Unavailable:
                continue
            said = [(f"cancelled by {one.by}" if one.verdict == "cancelled" else one.verdict, one.first, one.last) for one in answers]
            assert said == expected
            for (one, batch, _), answer in zip(batches, answers, strict=True):
                one.answered = max(one.answered, batch.number) if answer.verdict == "ok" else one.answered

    def unsettled(self, *, newest: bool) -> list[Held]:
        """Attempts that have not ended by themselves: those that are their job's newest, or those that are not."""
        return [one for one in self.held if one.outcome is None and (one.fence == one.job.fence) == newest]

    @precondition(lambda self: self.unsettled(newest=True))
    @rule(n=PICK, last_words=st.booleans(), lost=st.booleans(), failed=SELDOM)
    def finish(self, n: int, last_words: bool, lost: bool, failed: bool) -> None:
        self.settle(pick_of(n, self.unsettled(newest=True)), "failed" if failed else "completed", last_words, lost)

    @precondition(lambda self: self.unsettled(newest=True))
    @rule(n=PICK, last_words=st.booleans(), lost=st.booleans(), later=st.booleans())
    def retry(self, n: int, last_words: bool, lost: bool, later: bool) -> None:
        self.settle(pick_of(n, self.unsettled(newest=True)), "retrying later" if later else "retrying", last_words, lost)

    @precondition(lambda self: self.unsettled(newest=True))
    @rule(n=PICK, last_words=st.booleans(), lost=st.booleans())
    def hand_back(self, n: int, last_words: bool, lost: bool) -> None:
        self.settle(pick_of(n, self.unsettled(newest=True)), "handed_back", last_words, lost)

    @precondition(lambda self: any(one.job.cancel for one in self.unsettled(newest=True)))
    @rule(n=PICK, lost=st.booleans())
    def heed_the_cancel(self, n: int, lost: bool) -> None:
        self.settle(pick_of(n, [one for one in self.unsettled(newest=True) if one.job.cancel]), "cancelled", False, lost)

    @precondition(lambda self: self.unsettled(newest=False))
    @rule(n=PICK, kind=st.sampled_from(["completed", "failed", "retrying", "handed_back"]))
    def finish_too_late(self, n: int, kind: str) -> None:
        self.settle(pick_of(n, self.unsettled(newest=False)), kind, True, False)

    def settle(self, one: Held, kind: str, last_words: bool, lost: bool) -> None:
        outcome = self.outcome(one, kind)
        if outcome is not None:
            one.outcome = (outcome, kind.partition(" ")[0], self.number() if last_words and one.adopted else "")
            self.write_outcome(one, lost)

    @precondition(lambda self: any(one.outcome for one in self.held))
    @rule(n=PICK)
    def settle_again(self, n: int) -> None:
        """An answer was lost, and much has happened until the outcome is written again."""
        self.write_outcome(pick_of(n, [one for one in self.held if one.outcome]), False)

    def outcome(self, one: Held, kind: str) -> Outcome | None:
        error = {"code": f"e{one.fence}", "message": "", "temporary": False}
        match kind:
            case "completed":
                return Completed(f"r{one.fence}") if one.adopted else None
            case "failed":
                return Failed(error) if one.adopted else None
            case "retrying" | "retrying later":
                # As the runner decides: a try must be left.
                left = one.claim.tries < app.jobs[one.job.name].max_attempts
                return Retrying(error, HOUR_S if kind != "retrying" else 0.0) if one.adopted and left else None
            case "cancelled":
                return Cancelled(one.job.cancel)
            case _:
                return HandedBack()

    def write_outcome(self, one: Held, lost: bool) -> None:
        assert one.outcome is not None
        outcome, kind, last_word = one.outcome
        mark = {"completed": f"r{one.fence}", "cancelled": getattr(outcome, "by", "")}.get(kind, f"e{one.fence}")
        lines = [Line("delta", one.claim.attempt, last_word)] if last_word else []
        expected = one.job.settle(one.fence, kind, lines, mark, one.answered)
        self.lossy(lost)
        stands = self.do(self._settle(one.claim, outcome, last_word, one.answered))
        names: dict[type, str] = {
            Completed: "completed",
            Failed: "failed",
            Retrying: "retrying",
            HandedBack: "handed_back",
            Cancelled: "cancelled",
            Lost: "lost",
        }
        assert names[type(stands)] == expected

    async def _settle(self, claim: Claim, outcome: Outcome, last_word: str, answered: int) -> Outcome:
        outlet = Outlet(claim.tenant, claim.stream, claim.fence, claim.attempt, self.worker.writer, Pace(), lambda _: None)
        outlet.answered = answered
        if last_word:
            outlet.add_text(last_word)
        writing = asyncio.create_task(self.worker.ends.run())
        try:
            return await self.worker.runner._settle(Run(claim), outlet, decode_job(claim.payload), outcome)
        finally:
            writing.cancel()

    @precondition(lambda self: self.held)
    @rule(picks=st.lists(PICK, min_size=1, max_size=3), lost=SELDOM)
    def renew(self, picks: list[int], lost: bool) -> None:
        chosen = {one.claim.id: one for one in map(self.pick_held, picks)}
        places = self.places()
        verdicts: dict[str, str] = {}
        leases = Leases(
            self.store,
            self.queue_name,
            lease_s=LEASE_S,
            stall_limit_s=HOUR_S,
            on_verdict=lambda lease, verdict: verdicts.update({lease.id: verdict}),
        )
        for one in chosen.values():
            leases.hold(Lease(one.claim.id, one.claim.tenant, one.fence))
        expected = {id: one.job.in_renewal(one.fence, places[id]) for id, one in chosen.items()}
        self.lossy(lost)
        try:
            self.do(leases.ask())
        except Unavailable:
            return
        assert {id: verdicts.get(id, "ok") for id in chosen} == expected
        leased = self.scores(keys.leases(self.queue_name))
        assert all(id in leased for id, verdict in expected.items() if verdict != "lost")

    # the janitor

    @precondition(lambda self: self.jobs)
    @rule(whole=SELDOM, lost=SELDOM)
    def sweep(self, whole: bool, lost: bool) -> None:
        fates = {id: job.in_sweep(at) for (id, job), at in zip(self.jobs.items(), self.places().values(), strict=True)}
        for again in range(2 if lost else 1):
            self.lossy(lost and not again)
            try:
                if whole and not lost:
                    self.do(self.janitor.round())
                else:
                    self.do(self.store.run(SWEEP, [self.queue_name], [100, *self.queue.ends()]))
            except Unavailable:
                continue
        for id, fate in fates.items():
            if fate.does == "end":
                self.jobs[id].end(fate.status, fate.mark)

    # time

    @precondition(lambda self: any(job.fence for job in self.jobs.values()))
    @rule(n=PICK, what=st.sampled_from(["both", "both", "both", "lease", "lock"]))
    def lapse(self, n: int, what: str) -> None:
        """The worker has not renewed. The lease and arq's lock end in the same millisecond, or one of them a moment earlier."""
        self.job_lapses(pick_of(n, [job for job in self.jobs.values() if job.fence]), what)

    def job_lapses(self, job: Job, what: str) -> None:
        leased = job.id in self.scores(keys.leases(self.queue_name))
        if what != "lease":
            self.call("DEL", f"arq:in-progress:{job.id}")
        if what != "lock":
            self.call("ZADD", keys.leases(self.queue_name), "XX", 1, job.id)
            if not leased and job.fence:  # it was looked at too early: then the queue says when the next look is due
                self.call("ZADD", self.queue_name, "XX", 2, job.id)

    @rule(n=PICK)
    def redis_was_away(self, n: int) -> None:
        self.spared = not self.spared and n % 4 == 0

    @precondition(lambda self: any(not job.fence and not job.ended for job in self.jobs.values()))
    @rule()
    def delays_end(self) -> None:
        for job in self.jobs.values():
            if not job.fence and not job.ended:
                self.call("ZADD", self.queue_name, "XX", 2, job.id)

    @precondition(lambda self: any(not job.unknown and not job.ended for job in self.jobs.values()))
    @rule(n=PICK, seldom=SELDOM)
    def deadline_passes(self, n: int, seldom: bool) -> None:
        job = pick_of(n, [job for job in self.jobs.values() if not job.unknown and not job.ended])
        if seldom:
            self.call("ZADD", keys.deadlines(self.queue_name), "XX", 1, f"{job.tenant} {job.id}")
            self.call("HSET", self.meta(job), "deadline", 1)

    @precondition(lambda self: any(job.fence for job in self.jobs.values()))
    @rule(n=PICK, meta_too=SELDOM, then=st.sampled_from(["appends", "completed", "retrying", "handed_back"]))
    def another_worker_starts(self, n: int, meta_too: bool, then: str) -> None:
        """The story that matters most, told often: a worker is lost, another one starts the next attempt (or, where the meta
        is lost as well, once more the first), and then the lost one comes back."""
        job = pick_of(n, [job for job in self.jobs.values() if job.fence])
        self.job_lapses(job, "both")
        self.spared = False
        if meta_too:
            self.lose_meta(job)
        self.worker._claimer, self.worker._claim_number = self.number(), 1
        self.claim(3, False)
        self.lost_ones_come_back(then)

    def lost_ones_come_back(self, then: str) -> None:
        if then == "appends":
            self.everybody_appends()
        else:
            for one in self.unsettled(newest=False):
                self.settle(one, then, False, False)

    # what Redis may lose

    @precondition(lambda self: self.jobs)
    @rule(n=PICK, what=st.sampled_from(["log", "payload", "meta"]))
    def lose(self, n: int, what: str) -> None:
        job = self.pick(n)
        self.begins_anew(job)
        if what == "log":
            self.call("DEL", self.log(job))
            job.gone = len(job.lines)
        elif what == "payload" and not job.again:
            self.call("DEL", f"arq:job:{job.id}")
        elif what == "meta" and job.status and not job.ended and not job.again:
            self.lose_meta(job)

    def lose_meta(self, job: Job) -> None:
        self.begins_anew(job)
        self.call("DEL", self.meta(job))
        job.forget()
        job.damaged, job.reports = True, ()  # who was to be told is lost as well

    def begins_anew(self, job: Job) -> None:
        for name in (self.log(job), self.meta(job)):
            self.expiries.pop(name, None)

    @rule()
    def restart(self) -> None:
        self.incarnate()

    @precondition(lambda self: self.saved is None)
    @rule()
    def copy_to_replica(self) -> None:
        self.save()
        self.saved = copy.deepcopy((self.jobs, self.records, self.generations))

    @precondition(lambda self: self.saved is not None)
    @rule(seldom=SELDOM)
    def fail_over_to_replica(self, seldom: bool) -> None:
        if not seldom:
            return
        self.fail_over()
        self.jobs, self.records, generations = self.saved
        self.saved = None
        for job in self.jobs.values():
            job.damaged = True
        self.held = [one for one in self.held if one.claim.id in self.jobs]
        for one in self.held:
            one.job = self.jobs[one.claim.id]
        self.generations = generations
        self.expiries.clear()

    # what must hold

    @invariant()
    def everything_is_as_promised(self) -> None:
        jobs = list(self.jobs.values())
        pages = self.do(self._pages(jobs))
        metas = self.calls(*(("HMGET", self.meta(job), *META_FIELDS) for job in jobs)) if jobs else []
        for job, (head, raw), meta in zip(jobs, pages, metas, strict=True):
            self.stream_is_as_promised(job, head, raw)
            self.record_is_as_promised(job, meta)
        self.queue_is_as_promised(jobs)
        self.announced_once(jobs)
        self.expiry_only_grows(jobs)

    async def _pages(self, jobs: list[Job]) -> list[Page]:
        return await asyncio.gather(
            *(self.streams.read(job.tenant, keys.job_stream(job.id), 0, count=1000, max_bytes=1 << 20) for job in jobs)
        )

    def stream_is_as_promised(self, job: Job, head: Head, raw: list[bytes]) -> None:
        said = [json.loads(one) for one in raw]
        seqs = [one["seq"] for one in said]
        assert seqs == list(range(job.gone + 1, len(job.lines) + 1))
        assert [line_of(one) for one in said] == job.lines[job.gone :]
        if head.epoch:
            assert (head.top, head.first, head.kept) == (len(job.lines), job.gone + 1, 1)
        # One terminal event, and nothing after it; once a newer attempt has spoken, no older one does.
        ends = [line.type in ENDED for line in job.lines]
        assert sum(ends) <= 1
        assert not any(ends[:-1])
        attempts = [line.attempt for line in job.lines if line.attempt]
        assert attempts == sorted(attempts)
        assert (bool(job.lines) and ends[-1]) == (job.status in ENDED)
        if attempts and job.lines[0].type not in ENDED and not job.damaged:
            assert job.lines[0].type == "queued"
        # No cursor that anybody may hold leads to another event than the one it was given with.
        truth = self.truth[f"{job.tenant} {job.id}"]
        for event, seq in zip(raw, seqs, strict=True):
            assert truth.setdefault(Cursor(head.epoch, seq), event) == event
        now = dict(zip(seqs, raw, strict=True))
        for cursor, event in truth.items():
            found = place(cursor, head)
            if found.gap is None:
                assert found.seq == cursor.seq
                assert now.get(cursor.seq, event) == event
            elif found.gap.first is not None:
                assert (found.gap.first, found.gap.last) == (cursor.seq + 1, head.first - 1)
                assert not any(found.gap.first <= seq <= (found.gap.last or 0) for seq in seqs)

    def record_is_as_promised(self, job: Job, meta: list[bytes | None]) -> None:
        status, attempt, tries, fence, cancel, checkpoint, checkpoint_seq = (one.decode() if one is not None else "" for one in meta)
        assert status == job.status
        if not status:
            return
        assert (int(attempt or 0), int(tries or 0), fence, cancel) == (job.attempt, job.tries, job.fence, job.cancel)
        assert ((checkpoint, int(checkpoint_seq)) if checkpoint else None) == job.checkpoint
        # How often a plain client's job may run is known once a worker has read its payload.
        assert 0 <= job.tries <= (job.max if job.ours and not job.damaged else job.attempt)

    def queue_is_as_promised(self, jobs: list[Job]) -> None:
        """A job waits, or is leased, or has ended and left nothing but its result."""
        if not jobs:
            return
        queue, leases = self.scores(self.queue_name), self.scores(keys.leases(self.queue_name))
        deadlines, now = self.scores(keys.deadlines(self.queue_name)), self.now_ms()
        left = self.calls(*(("EXISTS", f"arq:job:{job.id}", f"arq:retry:{job.id}", f"arq:in-progress:{job.id}") for job in jobs))
        locks = self.calls(*(("GET", f"arq:in-progress:{job.id}") for job in jobs))
        for job, some, lock in zip(jobs, left, locks, strict=True):
            member = f"{job.tenant} {job.id}"
            if job.ended:
                assert some == 0
                assert job.id not in queue
                assert job.id not in leases
                assert not any(one.endswith(f" {job.id}") for one in deadlines)
                continue
            assert job.id in queue
            soon = queue[job.id] <= now + max(LEASE_S, HOUR_S) * 1000
            if job.fence:
                # Somebody looks at it once its worker is gone.
                assert job.id in leases or soon
                assert lock is None or lock.decode() == job.fence
            elif job.status and not job.again:
                assert job.id not in leases
                assert lock is None
                assert soon
            if job.status and not job.again and not job.damaged:
                assert member in deadlines
        assert set(queue) <= set(self.jobs)
        assert set(leases) <= set(queue)

    def announced_once(self, jobs: list[Job]) -> None:
        where = [(tenant, stream) for tenant in TENANTS for stream in (keys.session_stream(self.sessions[tenant].id), "room:r")]
        found = self.calls(*(("XRANGE", keys.log(tenant, stream), "-", "+") for tenant, stream in where))
        told = {one: [json.loads(fields[1])["data"]["job_id"] for _, fields in log] for one, log in zip(where, found, strict=True)}
        for job in jobs:
            for stream in job.reports:
                assert told[job.tenant, stream].count(job.id) == 1

    def expiry_only_grows(self, jobs: list[Job]) -> None:
        names = [name for job in jobs if not job.unknown for name in (self.log(job), self.meta(job))]
        if not names:
            return
        for name, at in zip(names, self.calls(*(("PEXPIRETIME", name) for name in names)), strict=True):
            if at == -2:  # lost
                continue
            assert at > 0, f"{name} never expires"
            assert at >= self.expiries.get(name, 1) - 1000, name
            self.expiries[name] = at

    def teardown(self) -> None:
        try:
            if sys.exception() is None:
                self.everything_ends()
        finally:
            super().teardown()

    def everything_ends(self) -> None:
        """However it went: what was accepted ends, once its time has come and one more worker lives."""
        if self.jobs:
            self.spared = False
            for _ in range(6):
                for job in self.jobs.values():
                    if not job.ended:
                        self.job_lapses(job, "both")
                self.delays_end()
                self.claim(3, False)
                for one in [one for one in self.held if one.fence == one.job.fence]:
                    if not one.adopted:
                        self.take_up(one, False)
                    one.outcome = (Completed(f"r{one.fence}"), "completed", "")
                    self.write_outcome(one, False)
                self.sweep(True, False)
                self.everything_is_as_promised()
        for job in self.jobs.values():
            assert job.ended, f"{job.id} never ends"


META_FIELDS = ("status", "attempt", "tries", "fence", "cancel", "checkpoint", "checkpoint_seq")


def line_of(event: dict[str, Any]) -> Line:
    data, type = event["data"], event["type"].removeprefix("job.")
    match type:
        case "delta":
            mark = data["text"]
        case "completed":
            mark = data["result"]
        case "cancelled":
            mark = data["by"]
        case "failed" | "retrying":
            mark = data["error"]["code"]
        case _:
            mark = ""
    return Line(type, event.get("attempt", 0), mark)


def word_of(error: Refused) -> str:
    return "taken" if isinstance(error, TakenOver) else error.code


def pick_of(n: int, some: list[T]) -> T:
    return some[n % len(some)]


@dataclass
class Log:
    """A stream as the scripts must keep it: `said` holds the mark of every event since it began, `first` what can still be read."""

    name: str
    life: int = 0
    said: list[str] = field(default_factory=list)
    #: When each was written, by Redis's clock, in ms.
    times: list[int] = field(default_factory=list)
    first: int = 1
    kept: int = 1
    #: How far each epoch of this life reaches; the newest one to the top.
    epochs: dict[str, int] = field(default_factory=dict)
    incarnation: int = 0

    @property
    def top(self) -> int:
        return len(self.said)


@dataclass
class Reader:
    """Somebody who holds a cursor, and remembers what stood up to it when it was read."""

    log: str
    cursor: Cursor = START
    life: int = 0
    has: list[str] = field(default_factory=list)


@dataclass
class Command:
    """A command's record: `held` by a process that died, or done with its answer; `runs` is how often its effect took place."""

    hash: str
    held: bool
    answer: int
    runs: int = 0
    deaths: int = 0


class Streams(RedisMachine):
    """Streams, the cursors into them, the session that stores those, and its commands."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.settings = load_settings(REDIS_URL=url, room_length=3)
        self.streams = StreamLog(self.store, self.settings)
        self.logs = {name: Log(name) for name in ("room:a", "room:b")}
        self.readers = [Reader(name) for name in self.logs for _ in range(2)]
        self.records: dict[str, tuple[str, str, int]] = {}
        self.commands: dict[str, Command] = {}
        self.marks = 0
        #: Before the newest event was written, by Redis's clock.
        self.ago = 0
        self.lives = 0
        self.session = self.do(open_session(self.store, self.settings, "-", OWNER, None)).id
        #: Generations of all connections of the session that live, oldest first; what Redis holds of it, and the furthest of all.
        self.living: list[int] = [1]
        self.stored: dict[str, str] | None = {}
        self.generation = self.living[-1] = self.stored_generation()
        self.furthest = "0"
        self.saved: Any = None

    def stored_generation(self) -> int:
        return int(self.call("HGET", keys.cursors("-", self.session), "generation") or 0)

    def mark(self) -> int:
        self.marks += 1
        return self.marks

    def opens(self, log: Log, epoch: str) -> None:
        """What stream_open did, when the stream's epoch is then `epoch`."""
        if not log.epochs:
            self.lives += 1
            log.life, log.said, log.times, log.first, log.kept = self.lives, [], [], 1, 1
            log.epochs, log.incarnation = {epoch: 0}, self.words
            return
        moved = log.incarnation != self.words
        assert (epoch not in log.epochs) == moved
        assert moved or epoch == list(log.epochs)[-1]
        if moved:
            log.epochs |= {epoch: log.top}
            log.incarnation = self.words

    def adds(self, log: Log, epoch: str, mark: str) -> None:
        self.opens(log, epoch)
        log.said.append(mark)
        ((_, fields),) = self.call("XREVRANGE", keys.log("-", log.name), "+", "-", "COUNT", 1)
        log.times.append(int(fields[3]))
        assert self.ago < log.times[-1] <= self.do(self.store.now_ms())
        log.epochs[epoch] = log.top
        if log.top - log.first + 1 > self.settings.room_length:  # whole nodes at the front go
            ((id, _),) = self.call("XRANGE", keys.log("-", log.name), "-", "+", "COUNT", 1)
            first = int(id.partition(b"-")[0])
            assert log.first <= first <= log.top - self.settings.room_length + 1
            log.first = log.kept = first

    # publishing

    @rule(
        name=st.sampled_from(["room:a", "room:a", "room:b"]),
        records=st.sampled_from([(), (), ("k1",), ("k2",), ("k1", "k2")]),
        hash=st.sampled_from(["h1", "h1", "h2"]),
        by=st.sampled_from(["", "newest", "older"]),
        lost=st.booleans(),
    )
    def publish(self, name: str, records: tuple[str, ...], hash: str, by: str, lost: bool) -> None:
        mark, log = self.mark(), self.logs[name]
        event = events.encode("message", name, {"text": str(mark)}, 0)
        self.ago = self.do(self.store.now_ms())
        while self.do(self.store.now_ms()) == self.ago:  # no two events are of one millisecond
            pass
        who = Authorship()
        if by and self.living:
            who = Authorship(self.session, self.living[-1 if by == "newest" else 0])
        lost = lost and bool(records)
        for again in range(2 if lost else 1):
            known = next((self.records[one] for one in records if one in self.records), None)
            self.lossy(lost and not again)
            try:
                got: Any = self.do(self.streams.publish("-", parse_stream(name), event, hash=hash, records=records, by=who))
            except Unavailable:
                got = None
            except Refused as error:
                got = word_of(error)
            if who.session and (self.stored is None or who.generation != self.generation):
                expected: Any = "taken"
            elif known is not None and known[0] != hash:
                expected = "conflict"
            elif known is not None:
                expected = (*known[1:], True)
                for one in records:
                    self.records.setdefault(one, known)
            else:
                epoch = self.call("HGET", keys.meta("-", name), "epoch").decode()
                self.adds(log, epoch, str(mark))
                expected = (epoch, log.top, False)
                self.records |= dict.fromkeys(records, (hash, epoch, log.top))
            assert got is None or got == expected

    @rule(name=st.sampled_from(["room:a", "room:b"]))
    def publish_enough_to_trim(self, name: str) -> None:
        for _ in range(4):
            self.publish(name, (), "", "", False)

    @rule(names=st.lists(st.sampled_from(["room:a", "room:b"]), min_size=1, max_size=2, unique=True))
    def open(self, names: list[str]) -> None:
        for name, head in self.do(self.streams.open("-", names)).items():
            self.opens(self.logs[name], head.epoch)

    @rule(name=st.sampled_from(["room:a", "room:b"]), keep=st.integers(0, 4), look_at=st.integers(1, 3))
    def trim(self, name: str, keep: int, look_at: int) -> None:
        """By age, whatever the events' own times say."""
        log = self.logs[name]
        readable = log.times[log.first - 1 :]
        young = readable[-keep] if 0 < keep <= len(readable) else self.do(self.store.now_ms()) + 1
        old = sum(one < young for one in readable[:look_at])
        assert self.do(self.streams.trim("-", name, young, look_at=look_at)) == old
        if old:
            log.first += old
            if log.epochs:
                log.kept = log.first

    # reading

    @rule(n=PICK, count=st.sampled_from([1, 2, 100]))
    def read(self, n: int, count: int) -> None:
        """As a connection resumes: the cursor is placed, a gap is said, and pages follow."""
        reader = self.readers[n % len(self.readers)]
        log = self.logs[reader.log]
        head = self.do(self.streams.heads("-", [reader.log]))[reader.log]
        found = place(reader.cursor, head)
        same = reader.life == log.life and log.said[: len(reader.has)] == reader.has
        if reader.cursor.epoch and (found.gap is None or found.gap.first is not None):
            assert same, "a cursor leads into another history"
            assert found.moved == (reader.cursor.epoch != head.epoch)
        if found.gap is None:
            assert found.seq == reader.cursor.seq
        elif found.gap.first is not None:
            assert (found.gap.first, found.gap.last) == (reader.cursor.seq + 1, head.first - 1)
        else:
            newest = dict(list(log.epochs.items())[-9:])
            assert reader.cursor.seq > newest.get(reader.cursor.epoch, -1), "nothing was lost"
        seq = found.seq
        for raw in self.do(self.streams.read("-", reader.log, seq, count=count)).events:
            seq += 1
            event = json.loads(raw)
            assert (event["seq"], event["data"]["text"]) == (seq, log.said[seq - 1])
        assert count < 100 or seq == (log.top if log.epochs else 0)
        reader.cursor, reader.life, reader.has = Cursor(head.epoch, seq) if head.epoch else START, log.life, log.said[:seq]

    # the session

    @rule(new=SELDOM)
    def connect(self, new: bool) -> None:
        opened = self.do(open_session(self.store, self.settings, "-", OWNER, None if new else self.session))
        assert opened.resumed == (self.stored is not None and not new)
        if not opened.resumed:
            assert str(opened.cursors["user:ann"].cursor) == str(parse_cursor(self.furthest))
            self.session, self.stored, self.living = opened.id, {}, []
        else:
            assert opened.generation > max(self.living, default=0), "an older connection could not be told from this one"
            assert {name: str(known.cursor) for name, known in opened.cursors.items() if name.startswith("room:")} == self.stored
        self.generation = opened.generation
        self.living.append(opened.generation)

    @precondition(lambda self: self.living)
    @rule(n=PICK, name=st.sampled_from(["room:a", "room:b"]), seq=st.integers(0, 9), epoch=st.sampled_from(["e", "f"]), lost=SELDOM)
    def acknowledge(self, n: int, name: str, seq: int, epoch: str, lost: bool) -> None:
        """By any connection that thinks it lives; a refused one asks whether Redis has only lost the session."""
        generation = self.living[-1 - n % len(self.living)]
        cursor, furthest = f"c{self.mark()}:{seq}", f"{epoch}:{seq}"
        taken: list[bool] = []
        entry = Entry("-", OWNER, self.session, generation, lambda: taken.append(True))
        accepted = self.stored is not None and generation == self.generation
        if accepted:
            assert self.stored is not None
            self.stored[name] = cursor
            known, _, known_seq = self.furthest.partition(":")
            if known != epoch or seq > int(known_seq):
                self.furthest = furthest
        self.do(self._put(entry, {f"c:{name}": cursor}, furthest, lost))
        assert bool(taken) == (not accepted)
        if not accepted:
            back = self.stored is None or self.generation <= generation
            assert self.do(restore_session(self.store, self.settings, entry, {f"c:{name}": cursor})) == back
            if back:
                self.stored, self.generation = {name: cursor}, generation
            else:
                self.living.remove(generation)

    async def _put(self, entry: Entry, fields: dict[str, str], furthest: str, lost: bool) -> None:
        cursors = Cursors(self.store, self.settings)
        cursors.add(entry)
        entry.furthest = furthest
        self.lossy(lost)
        try:
            with contextlib.suppress(TakenOver):  # the entry hears of it as well
                await cursors.put(entry, fields)
        except Unavailable:
            await cursors.flush()

    # commands

    @rule(
        id=st.sampled_from(["c1", "c2"]), hash=st.sampled_from(["h1", "h1", "h2"]), after=st.sampled_from([None, None, 0, 1]), older=SELDOM
    )
    def command(self, id: str, hash: str, after: int | None, older: bool) -> None:
        """A command whose handler runs; its process may die before it, or between its effect and its answer."""
        known = self.commands.get(id)
        if not self.living or (known and known.held and known.hash == hash):
            return  # whoever asks waits until the hold of the dead one has lapsed
        by = Authorship(self.session, self.living[0] if older else self.living[-1])
        runs: list[int] = []

        async def effect() -> int:
            runs.append(self.mark())
            return runs[0]

        record = keys.command("-", "s", id)
        try:
            got: Any = self.cut(Commands(self.store).once("-", record, hash, effect, by=by), after)
        except Refused as error:
            got = word_of(error)
        if after == 0:
            assert not runs
        elif self.stored is None or by.generation != self.generation:
            assert got == "taken"
        elif known is None:
            assert len(runs) == 1
            self.commands[id] = Command(hash, after == 1, runs[0])
            assert got == (None if after == 1 else runs[0])
        else:
            assert not runs
            assert got == (known.answer if known.hash == hash else "conflict")

    @precondition(lambda self: any(one.held for one in self.commands.values()))
    @rule()
    def holds_lapse(self) -> None:
        for id, one in list(self.commands.items()):
            if one.held:
                assert self.call("PTTL", keys.command("-", "s", id)) > 0
                self.call("DEL", keys.command("-", "s", id))
                del self.commands[id]

    # what Redis may lose

    @rule(name=st.sampled_from(["room:a", "room:b"]), what=st.sampled_from(["log", "meta", "both"]))
    def lose(self, name: str, what: str) -> None:
        log = self.logs[name]
        if what != "meta":
            self.call("DEL", keys.log("-", name))
            log.first = log.top + 1
        if what != "log":
            self.call("DEL", keys.meta("-", name))
            log.epochs = {}

    @precondition(lambda self: self.stored is not None)
    @rule(seldom=SELDOM)
    def lose_the_session(self, seldom: bool) -> None:
        if seldom:
            self.call("DEL", keys.cursors("-", self.session))
            self.stored = None

    @rule()
    def restart(self) -> None:
        self.incarnate()

    @precondition(lambda self: self.saved is None)
    @rule()
    def copy_to_replica(self) -> None:
        self.save()
        kept = (self.logs, self.records, self.commands, self.session, self.stored, self.generation, self.furthest)
        self.saved = copy.deepcopy(kept)

    @precondition(lambda self: self.saved is not None)
    @rule()
    def fail_over_to_replica(self) -> None:
        self.fail_over()
        session = self.session
        self.logs, self.records, self.commands, self.session, self.stored, self.generation, self.furthest = self.saved
        self.saved = None
        if session != self.session:  # the connections of the session that is lost are another story
            self.living = []

    # what must hold

    @invariant()
    def logs_are_as_promised(self) -> None:
        for log in self.logs.values():
            head, raw = self.do(self.streams.read("-", log.name, 0, count=1000))
            if not log.epochs:
                assert (head.epoch, raw) == ("", [])
                continue
            assert head.epoch == list(log.epochs)[-1]
            assert (head.top, head.first, head.kept) == (log.top, log.first, log.kept)
            found = [json.loads(one) for one in raw]
            assert [one["seq"] for one in found] == list(range(log.first, log.top + 1))
            assert [one["data"]["text"] for one in found] == log.said[log.first - 1 :]
            past = {one.epoch: one.seq for one in head.past}
            assert past == dict(list(log.epochs.items())[:-1][-8:])
            assert self.call("PTTL", keys.meta("-", log.name)) >= self.call("PTTL", keys.log("-", log.name)) - 1000
            assert not raw or self.call("PTTL", keys.log("-", log.name)) > 0

    @invariant()
    def the_session_is_as_promised(self) -> None:
        found = self.call("HGETALL", keys.cursors("-", self.session))
        fields = {found[i].decode(): found[i + 1].decode() for i in range(0, len(found), 2)}
        assert bool(fields) == (self.stored is not None)
        if self.stored is not None:
            assert int(fields["generation"]) == self.generation
            assert {name[2:]: value for name, value in fields.items() if name.startswith("c:room:")} == self.stored
        assert (self.call("GET", keys.furthest("-", OWNER)) or b"0").decode() == self.furthest


#: A longer search takes as long as it takes.
pytestmark = [pytest.mark.timeout(0)] if "EXAMPLES" in os.environ else []


@pytest.fixture(autouse=True)
def _at_once() -> Iterator[None]:
    """Whoever insists on an answer asks again at once."""
    with patch("rt.redis._AGAIN_S", (0.0, 0.0)):
        yield


def examples(redis_kind: str, number: int) -> hypothesis_settings:
    # fakeredis takes several times as long, and differs in nothing that these search for.
    return hypothesis_settings(
        max_examples=int(os.environ.get("EXAMPLES", number if redis_kind == "real" else number // 4)),
        stateful_step_count=40,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


def test_jobs_keep_the_promise(redis_url: str, redis_kind: str) -> None:
    run_state_machine_as_test(partial(Jobs, redis_url), settings=examples(redis_kind, 20))


def test_streams_sessions_and_commands_keep_the_promise(redis_url: str, redis_kind: str) -> None:
    run_state_machine_as_test(partial(Streams, redis_url), settings=examples(redis_kind, 30))
