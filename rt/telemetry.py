"""Logs and counters. No payload, token, prompt or exception text is ever given to either."""

import logging
import re
import sys
import traceback
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from rt.settings import Settings

REGISTRY = CollectorRegistry()

_LATENCY = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Metrics:
    """Every metric, in one place. Labels are few and bounded: never a tenant, a connection or a job's id."""

    connections = Gauge("rt_connections", "Open WebSockets.", registry=REGISTRY)
    connections_total = Counter("rt_connections_opened_total", "WebSockets that asked for an upgrade.", ["result"], registry=REGISTRY)
    disconnects = Counter("rt_disconnects_total", "WebSockets that ended.", ["code"], registry=REGISTRY)
    connection_seconds = Histogram(
        "rt_connection_seconds", "How long WebSockets were open.", registry=REGISTRY, buckets=(1, 10, 60, 300, 1800, 3600, 14400, 86400)
    )
    resumes = Counter("rt_resumes_total", "Sessions that came back.", ["result"], registry=REGISTRY)
    frames_received = Counter("rt_frames_received_total", "Frames from clients.", ["type"], registry=REGISTRY)
    frame_errors = Counter("rt_frame_errors_total", "Frames answered with an error.", ["code"], registry=REGISTRY)
    events_sent = Counter("rt_events_sent_total", "Stream events sent to sockets.", registry=REGISTRY)
    events_replayed = Counter("rt_events_replayed_total", "Of those, events read from the log.", registry=REGISTRY)
    gaps = Counter("rt_gaps_total", "Losses that were announced.", ["reason"], registry=REGISTRY)
    slow_consumers = Counter(
        "rt_slow_consumers_total", "Connections that fell back to the log, or were closed.", ["what"], registry=REGISTRY
    )
    repairs = Counter("rt_live_repairs_total", "Lost announcements found by a check of the tops.", registry=REGISTRY)
    command_seconds = Histogram("rt_command_seconds", "Command received to answer queued.", ["type"], registry=REGISTRY, buckets=_LATENCY)
    http_requests = Counter("rt_http_requests_total", "HTTP answers.", ["route", "status"], registry=REGISTRY)
    http_seconds = Histogram("rt_http_seconds", "HTTP request to answer's start.", ["route"], registry=REGISTRY, buckets=_LATENCY)
    jobs_accepted = Counter("rt_jobs_accepted_total", "Jobs accepted.", ["job"], registry=REGISTRY)
    jobs_finished = Counter("rt_jobs_finished_total", "Runs that ended.", ["job", "outcome"], registry=REGISTRY)
    job_seconds = Histogram(
        "rt_job_seconds", "A run's length.", ["job"], registry=REGISTRY, buckets=(0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 1800)
    )
    queue_wait_seconds = Histogram(
        "rt_queue_wait_seconds", "Accepted to started.", ["job"], registry=REGISTRY, buckets=(*_LATENCY, 60, 600)
    )
    jobs_running = Gauge("rt_jobs_running", "Jobs that run in this process.", registry=REGISTRY)
    queue_depth = Gauge("rt_queue_depth", "Jobs that wait, as last seen.", registry=REGISTRY)
    leases_lost = Counter("rt_leases_lost_total", "Runs that another attempt took over.", registry=REGISTRY)
    dead_letters = Counter("rt_dead_letters_total", "Jobs that failed and were kept as dead letters.", registry=REGISTRY)
    dead_letters_dropped = Counter(
        "rt_dead_letters_dropped_total", "Dead letters dropped for newer ones, because a tenant had too many.", registry=REGISTRY
    )
    append_seconds = Histogram("rt_append_seconds", "One append call of a worker.", registry=REGISTRY, buckets=_LATENCY)
    append_events = Histogram("rt_append_events", "Events per append call.", registry=REGISTRY, buckets=(1, 2, 5, 10, 50, 100, 500))
    redis_errors = Counter("rt_redis_errors_total", "Calls that Redis did not answer.", ["where"], registry=REGISTRY)
    loop_lag = Gauge("rt_loop_lag_seconds", "How late the event loop last woke.", registry=REGISTRY)
    draining = Gauge("rt_draining", "1 after SIGTERM.", registry=REGISTRY)


metrics = Metrics()

#: Counters that are told apart by a label as well: which one matters.
_APART = {"rt_jobs_finished": "outcome"}


def numbers() -> dict[str, Any]:
    """All metrics, small enough to be sent about each second.

    `{"counts": {name: value}, "times": {name: {"le": [upper bounds], "counts": [cumulative, the last one is all], "sum": …}}}`:
    counters and gauges are summed over their labels, histograms as well. `name:value` is a counter's part with one value of a label.
    """
    counts: dict[str, float] = {}
    times: dict[str, dict[str, Any]] = {}
    for family in REGISTRY.collect():
        if family.type == "histogram":
            bounds: dict[float, float] = {}
            total = 0.0
            for sample in family.samples:
                if sample.name.endswith("_bucket"):
                    le = float(sample.labels["le"])
                    bounds[le] = bounds.get(le, 0) + sample.value
                elif sample.name.endswith("_sum"):
                    total += sample.value
            les = sorted(bounds)
            times[family.name] = {"le": les[:-1], "counts": [bounds[le] for le in les], "sum": total}
            continue
        counts[family.name] = 0.0
        for sample in family.samples:
            if not sample.name.endswith("_created"):
                counts[family.name] += sample.value
                if family.name in _APART:
                    part = f"{family.name}:{sample.labels[_APART[family.name]]}"
                    counts[part] = counts.get(part, 0.0) + sample.value
    return {"counts": counts, "times": times}


def configure_logging(settings: Settings) -> None:
    """One chain for our logs and those of uvicorn, arq and redis: JSON lines, or a console on a terminal."""
    console = settings.log == "console" or (settings.log == "auto" and sys.stderr.isatty())
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _exception_without_text,
        _one_line,
    ]
    renderer: Any = structlog.dev.ConsoleRenderer() if console else structlog.processors.JSONRenderer()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "arq", "arq.worker"):
        one = logging.getLogger(name)
        one.handlers, one.propagate = [], True
    # uvicorn's INFO line of an accepted WebSocket holds the query, arq's hold arguments: their warnings are enough.
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "arq", "arq.worker", "httpx", "httpx2", "asyncio"):
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    structlog.configure(
        # First of all: a line below the level costs nothing more than the question.
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def get_logger(name: str) -> Any:
    return structlog.stdlib.get_logger(name)


def _exception_without_text(_: Any, __: str, event: dict[str, Any]) -> dict[str, Any]:
    """The exception's type and where it was raised. Its text is left out: it may quote a prompt or a token."""
    info = event.pop("exc_info", None)
    if info:
        error = info if isinstance(info, BaseException) else info[1] if isinstance(info, tuple) else sys.exc_info()[1]
        if error is not None:
            frames = traceback.extract_tb(error.__traceback__)[-6:]
            event["error"] = type(error).__name__
            event["at"] = [f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in frames]
    return event


_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def _one_line(_: Any, __: str, event: dict[str, Any]) -> dict[str, Any]:
    """No control character of a client's reaches a terminal or forges a line; no value is longer than 500 characters."""
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = _CONTROL.sub("�", value)[:500]
    return event
