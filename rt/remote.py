"""A server's HTTP API as the command line uses it: calls that are sent again, and event streams that are taken up again."""

import random
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlsplit

import httpx2

from rt.codec import DecodeError, TooDeep, from_json_bytes
from rt.errors import RtError

#: How often in a row a cut event stream is taken up again before the command gives up: about half a minute.
_RESUMES = 10
_TRIES = 4
#: Servers say something at least every 20 s; one that is silent for longer is gone.
_SILENCE_S = 60.0
_LETTERS = "/v1/dead-letters"


class Unreachable(RtError):
    """Nobody answers at the server's address."""


class ApiError(RtError):
    """The server refused; the text is its problem document's. `code` is the protocol's error word, "" where it sent none."""

    def __init__(self, message: str, status: int, code: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class Remote:
    """A server's HTTP API, as the commands use it."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url.rstrip("/")
        self.token = token
        self._reached = False
        self._http = httpx2.Client(
            base_url=self.url,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=httpx2.Timeout(10, read=_SILENCE_S),
            # A proxy that the environment names cannot reach this machine's own addresses.
            trust_env=urlsplit(self.url).hostname not in ("localhost", "127.0.0.1", "::1"),
        )

    def __enter__(self) -> "Remote":
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def submit(self, body: dict[str, Any], key: str | None = None) -> Any:
        """What `POST /v1/jobs` answers. Without a key a submission whose answer is lost makes a second job."""
        return self._call("POST", "/v1/jobs", body, {"Idempotency-Key": key} if key else None)

    def job(self, job_id: str) -> Any:
        return self._call("GET", _path(job_id))

    def cancel(self, job_id: str) -> Any:
        return self._call("POST", f"{_path(job_id)}/cancel")

    def jobs(self, **wanted: Any) -> Any:
        """A page of jobs, newest first; what is None is not asked for."""
        return self._call("GET", "/v1/jobs", params={name: value for name, value in wanted.items() if value is not None})

    def letters(self, **wanted: Any) -> Any:
        """A page of dead letters, newest first; what is None is not asked for."""
        return self._call("GET", _LETTERS, params={name: value for name, value in wanted.items() if value is not None})

    def letter(self, job_id: str) -> Any:
        return self._call("GET", _path(job_id, _LETTERS))

    def retry(self, job_id: str) -> Any:
        """The job as which a dead letter is run again: the same one however often it is called."""
        return self._call("POST", f"{_path(job_id, _LETTERS)}/retry")

    def forget(self, job_id: str) -> None:
        """Deletes a dead letter. Where there is none (any more: the answer of a first try may be lost) that is an ApiError with 404."""
        self._call("DELETE", _path(job_id, _LETTERS))

    def _call(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, params: dict[str, Any] | None = None
    ) -> Any:
        """The answer's JSON, or None where it has no content.

        Sent again when the answer is lost: every call is harmless to repeat, a submission by its key.

        Raises Unreachable, or ApiError with the server's own words.
        """
        for tried in range(_TRIES):
            if tried:
                time.sleep(_backoff_s(tried))
            try:
                return self._answer(self._http.request(method, path, json=body, headers=headers, params=params))
            except httpx2.ConnectError as error:
                raise self._unreachable(error) from None
            except httpx2.TransportError as error:
                problem = error
        raise self._unreachable(problem)

    def follow(self, job_id: str) -> Iterator[dict[str, Any]]:
        """A job's events from the first to the last, through cut connections and deploys. Raises Unreachable and ApiError."""
        cursor, failures = "", 0
        while True:
            problem: Exception
            try:
                with self._http.stream("GET", f"{_path(job_id)}/events", headers={"Last-Event-ID": cursor} if cursor else {}) as response:
                    if response.status_code != 200:
                        response.read()
                        self._answer(response)
                    self._reached = True
                    for one in httpx2.EventSource(response):
                        event = from_json_bytes(one.data)
                        yield event
                        if event.get("final"):
                            return
                        cursor, failures = one.id, 0
                problem = Unreachable("the event stream ended before the job did")
            except ApiError as error:
                if error.status not in (429, 502, 503, 504):
                    raise
                problem = error
            except httpx2.TransportError as error:
                if not self._reached:
                    raise self._unreachable(error) from None
                problem = error
            failures += 1
            if failures > _RESUMES:
                raise Unreachable(f"lost {self.url} ({problem}); the job goes on, see it again with: rt job watch {job_id}")
            time.sleep(_backoff_s(failures))

    def _answer(self, response: httpx2.Response) -> Any:
        self._reached = True
        if response.status_code == 204:
            return None
        try:
            body = from_json_bytes(response.content)
        except (DecodeError, TooDeep):
            body = None
        if response.status_code < 300 and body is not None:
            return body
        if not isinstance(body, dict) or "code" not in body:
            raise ApiError(f"{self.url} answered {response.status_code}, and not as an rt server does", response.status_code, "")
        lines = [f"{body['code']}: {body.get('detail') or body.get('title', '')}"]
        for one in body.get("details") or []:
            lines.append(f"  {'.'.join(map(str, one.get('loc', [])))}: {one.get('msg', '')}")
        if body["code"] == "unauthorized" and not self.token:
            lines.append("  no token was sent: give --token, RT_TOKEN or RT_SECRET, or call this where `rt dev` has run")
        raise ApiError("\n".join(lines), response.status_code, str(body["code"]))

    def _unreachable(self, problem: Exception) -> Unreachable:
        return Unreachable(f"no server answers at {self.url} ({problem}); start `rt dev`, or name one with --url or RT_URL")


def _backoff_s(failures: int) -> float:
    # Full jitter: many clients of a server that restarts are not to come back together.
    return random.uniform(0, min(5.0, 0.25 * 2.0**failures))


def _path(job_id: str, of: str = "/v1/jobs") -> str:
    return f"{of}/{quote(job_id, safe='')}"
