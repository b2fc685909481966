"""Fetching: retries, a polite pace, and a cache whose files are checked.

Each answer is kept under the SHA-256 of its address, with its own SHA-256 beside it. A cached file that does
not have its checksum any more is fetched again.
"""

import hashlib
import json
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from generative.ingest.download import DownloadError
from generative.ingest.store import write_whole

_TRY_AGAIN = (429, 500, 502, 503, 504)


class Fetcher:
    """Fetches addresses, one after the other.

    Parameters
    ----------
    cache
        Folder of answers; made when it is first needed.
    interval
        Seconds between two requests to the same host, at least.
    retries
        Further tries after a failure that may pass: no connection, time out, truncated, too many requests,
        trouble of the server.
    wait
        Seconds before the first of them; doubled each time. A ``Retry-After`` of the server counts more.
    timeout
        Seconds to wait for an answer to begin or to go on.
    session
        `requests.Session`; a new one by default.
    sleep, clock
        Of `time`; others in tests.

    Raises
    ------
    ValueError
        If a number is negative.
    """

    def __init__(
        self,
        cache: Path,
        *,
        interval: float = 1.0,
        retries: int = 4,
        wait: float = 2.0,
        timeout: float = 60.0,
        session: Any = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if min(interval, retries, wait) < 0 or not timeout > 0:
            raise ValueError(
                "`interval`, `retries` and `wait` must not be negative and `timeout` must be positive, got "
                f"{interval}, "
                f"{retries}, {wait} and {timeout}."
            )
        self.cache = cache
        self._interval, self._retries, self._wait, self._timeout = interval, retries, wait, timeout
        self._session, self._sleep, self._clock = session, sleep, clock
        self._last: dict[str, float] = {}
        self.n_request = 0
        """Requests sent so far."""

    def __call__(self, address: str, parameters: Mapping[str, Any] | None = None) -> bytes:
        """Answer to an address, from the cache where it is there.

        Raises
        ------
        DownloadError
            If it cannot be had; the message has the address and the last failure.
        """
        full = f"{address}?{urlencode(parameters)}" if parameters else address
        path = self.cache / hashlib.sha256(full.encode()).hexdigest()
        known = _cached(path)
        if known is not None:
            return known
        content = self._fetched(full)
        note = {"address": full, "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        write_whole(path, content)
        write_whole(path.with_suffix(".json"), json.dumps(note).encode())
        return content

    def forget(self, address: str, parameters: Mapping[str, Any] | None = None) -> None:
        """Take an answer that turned out to be useless out of the cache."""
        full = f"{address}?{urlencode(parameters)}" if parameters else address
        path = self.cache / hashlib.sha256(full.encode()).hexdigest()
        path.unlink(missing_ok=True)
        path.with_suffix(".json").unlink(missing_ok=True)

    def _fetched(self, address: str) -> bytes:
        import requests

        if self._session is None:
            self._session = requests.Session()
            self._session.headers["User-Agent"] = "galaxy-hbm (image downloads)"
        reason = ""
        for attempt in range(self._retries + 1):
            pause = 0.0 if attempt == 0 else self._wait * 2 ** (attempt - 1)
            self._keep_pace(urlsplit(address).netloc, pause)
            self.n_request += 1
            try:
                answer = self._session.get(address, timeout=self._timeout)
                content: bytes = answer.content
            except (
                requests.ConnectionError,
                requests.Timeout,
                requests.exceptions.ChunkedEncodingError,
            ) as error:
                reason = f"{type(error).__name__}: {error}"
                continue
            except requests.RequestException as error:
                raise DownloadError(f"{address} cannot be had: {type(error).__name__}: {error}") from error
            if answer.status_code in _TRY_AGAIN:
                reason = f"status {answer.status_code}"
                self._sleep(_told_to_wait(answer.headers))
                continue
            if answer.status_code != 200:
                text = content[:200].decode(errors="replace").strip()
                raise DownloadError(f"{address} answers with status {answer.status_code}: {text}")
            told = answer.headers.get("Content-Length", "")
            if told.isdigit() and not answer.headers.get("Content-Encoding") and int(told) != len(content):
                reason = f"truncated, {len(content)} of {told} bytes"
                continue
            return content
        raise DownloadError(
            f"{address} cannot be had in {self._retries + 1} tries; the last failure: {reason}."
        )

    def _keep_pace(self, host: str, pause: float) -> None:
        now = self._clock()
        wait = max(pause, self._last.get(host, -1e30) + self._interval - now)
        if wait > 0:
            self._sleep(wait)
        self._last[host] = self._clock()


def _told_to_wait(headers: Mapping[str, str]) -> float:
    """Seconds that a server asks for, at most two minutes."""
    text = headers.get("Retry-After", "0")
    return min(float(text), 120.0) if text.isdigit() else 0.0


def _cached(path: Path) -> bytes | None:
    """Content of the cache if it has its checksum."""
    note = path.with_suffix(".json")
    if not path.is_file() or not note.is_file():
        return None
    content = path.read_bytes()
    try:
        told = json.loads(note.read_text())["sha256"]
    except (ValueError, KeyError):
        told = ""
    if hashlib.sha256(content).hexdigest() == told:
        return content
    warnings.warn(f"{path} does not have its checksum any more: it is fetched again.", stacklevel=3)
    return None
