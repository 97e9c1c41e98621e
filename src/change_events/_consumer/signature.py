"""
Verify SNS's signature on an envelope (Amazon SNS Developer Guide, "Verifying the signatures of
Amazon SNS messages"). Only a worker that verifies imports this module: it needs `cryptography`.
"""

from __future__ import annotations

import base64
import re
import time
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import urllib3
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.hashes import SHA1, SHA256
from cryptography.x509 import load_pem_x509_certificate
from urllib3.exceptions import HTTPError

from change_events._codec import parsed_arn
from change_events._source.http import read_body
from change_events._text import printable
from change_events.exceptions import ConfigurationError, DecodeError, FetchError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

TIMEOUT = 3.0
"""The most seconds for fetching a certificate. Meanwhile the thread that needs it can't receive."""

PAUSE = 10.0
"""Seconds from a failed fetch to the next. No outage and no forger must stop the polling."""

MAX_BYTES = 64 * 1024
"""The longest certificate to accept. SNS's have about 2 KB."""

MAX_CERTIFICATES = 16
"""The most certificates to keep. SNS uses one at a time, and a new one every year or so."""

GRACE = 60 * 86_400.0
"""
Seconds after its end for which a certificate counts for what was signed before. SNS tries to
deliver to a queue for 23 days (Amazon SNS Developer Guide, "Message delivery retries"). The queue
can keep the message for 14 days, and again for 14 days if it comes back from a dead-letter queue.
"""

_DOMAINS = {"aws": "amazonaws.com", "aws-us-gov": "amazonaws.com", "aws-cn": "amazonaws.com.cn"}

_HASHES = {"1": SHA1(), "2": SHA256()}  # noqa: S303  # version 1 is SNS's default for a topic

_SIGNED = ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type")
"""The signed fields, in this order. Message attributes are not signed."""


class SignatureVerifier:
    """
    Verifies that SNS signed an envelope. Threads can share one verifier.

    SNS signs for every topic of every account. So a signature proves something only together with
    the topic's ARN, which is among the signed fields. A certificate counts if it comes, over TLS,
    from the SNS endpoint of the topic's Region, and from the path where SNS keeps its certificates.
    (At other paths, anybody can make the endpoint answer something.) It is fetched once and kept.

    The certificate must have been valid at the envelope's `Timestamp`, which SNS signs: an envelope
    can lie in a queue for longer than its certificate is valid. Somebody with the key of an expired
    certificate can date an envelope back. So a certificate counts for `GRACE` after its end only.

    Args:
        topic_arn: The topic's ARN.
        clock: Returns the time in seconds since the epoch, for the end of `GRACE`.

    Raises:
        ConfigurationError: `topic_arn` is not a topic's ARN, or its partition's SNS endpoints are
            not known here.
    """

    def __init__(self, topic_arn: str, *, clock: Callable[[], float] = time.time) -> None:
        topic = parsed_arn(topic_arn)
        if topic["partition"] not in _DOMAINS:
            raise ConfigurationError(
                f"verify_signatures=True works in {', '.join(_DOMAINS)}, "
                f"and not in {topic['partition']}"
            )
        self._host = f"sns.{topic['region']}.{_DOMAINS[topic['partition']]}"
        self._url = re.compile(
            rf"https://{re.escape(self._host)}/SimpleNotificationService-[0-9a-f]{{8,64}}\.pem"
        )
        self._clock = clock
        self._pool = urllib3.PoolManager()
        self._certificate = lru_cache(MAX_CERTIFICATES)(self._fetch)  # errors are not kept
        self._next_fetch = 0.0

    def verify(self, envelope: Mapping[str, object]) -> None:
        """
        Return if SNS signed the envelope.

        Raises:
            DecodeError: SNS did not sign the envelope, or signed another content.
            FetchError: The certificate could not be fetched, so the signature is unverified.
        """
        names = [name for name in _SIGNED if name != "Subject" or envelope.get(name) is not None]
        signed = "".join(f"{name}\n{_text(envelope, name)}\n" for name in names)
        version, url = _text(envelope, "SignatureVersion"), _text(envelope, "SigningCertURL")
        if version not in _HASHES:
            raise DecodeError(
                f"its signature has the version {version!r:.40}; known are {' and '.join(_HASHES)}"
            )
        if not self._url.fullmatch(url):
            raise DecodeError(
                f"its SigningCertURL is not a certificate of {self._host}: {url!r:.300}"
            )
        certificate = self._certificate(url)
        try:
            signature = base64.b64decode(_text(envelope, "Signature"), validate=True)
            certificate.key.verify(signature, signed.encode(), PKCS1v15(), _HASHES[version])
        except (InvalidSignature, ValueError):
            raise DecodeError("its signature is wrong") from None
        except UnsupportedAlgorithm as error:  # some systems configure OpenSSL to refuse SHA-1
            raise DecodeError(
                f"signatures of version {version} can't be checked on this system: {error}"
            ) from None
        if not certificate.begins <= _timestamp(envelope) <= certificate.ends:
            raise DecodeError(f"the certificate {url} was not valid when the envelope was signed")
        if self._clock() > certificate.ends + GRACE:
            raise DecodeError(f"the certificate {url} expired more than 60 days ago")

    def _fetch(self, url: str) -> _Certificate:
        if time.monotonic() < self._next_fetch:
            raise FetchError(
                f"the certificate {url} is not fetched yet: a fetch has just failed",
                retry_after=PAUSE,
            )
        try:
            return _parsed(self._get(url))
        except FetchError as error:
            self._next_fetch = time.monotonic() + PAUSE
            raise FetchError(
                f"the certificate {url}: {printable(error)}", status=error.status, retry_after=PAUSE
            ) from error

    def _get(self, url: str) -> bytes:
        deadline = time.monotonic() + TIMEOUT
        try:
            response = self._pool.request(
                "GET", url, timeout=TIMEOUT, retries=False, redirect=False, preload_content=False
            )
        except HTTPError as error:
            raise FetchError(printable(error)) from error
        with response:
            if response.status != 200:
                raise FetchError(f"GET answered {response.status}", status=response.status)
            return read_body(response, MAX_BYTES, deadline)


class _Certificate(NamedTuple):
    """A public key, and when it begins and ends to be valid, in seconds since the epoch."""

    key: RSAPublicKey
    begins: float
    ends: float


def _parsed(pem: bytes) -> _Certificate:
    try:
        certificate = load_pem_x509_certificate(pem)
        key = certificate.public_key()
    except (UnsupportedAlgorithm, ValueError) as error:
        raise FetchError(f"the answer is not a certificate: {printable(error)}") from error
    if not isinstance(key, RSAPublicKey):
        raise FetchError("its key is not an RSA key")
    return _Certificate(
        key,
        certificate.not_valid_before_utc.timestamp(),
        certificate.not_valid_after_utc.timestamp(),
    )


def _timestamp(envelope: Mapping[str, object]) -> float:
    """Return when SNS signed the envelope (`2012-05-02T00:54:06.655Z`), in epoch seconds."""
    text = _text(envelope, "Timestamp")
    try:
        return datetime.fromisoformat(text.removesuffix("Z") + "+00:00").timestamp()
    except ValueError:
        raise DecodeError(f"its Timestamp is not a time: {text!r:.40}") from None


def _text(envelope: Mapping[str, object], name: str) -> str:
    text = envelope.get(name)
    if not isinstance(text, str):
        raise DecodeError(f"its envelope has no {name}")
    return text
