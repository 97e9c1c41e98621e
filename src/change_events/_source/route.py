"""The way to the source: the user's pool, or our own connections, perhaps through a proxy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from change_events._source.certificates import Certificates
from change_events._source.connections import KeepAliveTransport
from change_events._source.http import PoolTransport
from change_events._source.proxy import HTTPProxy
from change_events.exceptions import ConfigurationError

if TYPE_CHECKING:
    import urllib3
    from urllib3.util import Url

    from change_events._source.certificates import ClientCert, File
    from change_events._source.http import Transport


class Route:
    """Makes transports. Args and errors are those of `HTTPFetcher`."""

    def __init__(
        self,
        pool: urllib3.PoolManager | None = None,
        *,
        ca_file: File | None = None,
        client_cert: ClientCert | None = None,
        proxy: str | None = None,
    ) -> None:
        self._pool = pool
        self._certificates = Certificates(ca_file, client_cert)
        self._proxy = None if proxy is None else HTTPProxy.of(proxy)
        if pool is not None and not (self._certificates.are_default and proxy is None):
            raise ConfigurationError(
                "pool= has certificates and a proxy of its own: configure them there, or leave it "
                "out and give ca_file=, client_cert= and proxy="
            )

    def transport(self, origin: Url) -> Transport:
        """
        Return what sends GETs to an origin.

        Raises:
            ConfigurationError: Certificates are given, and the origin's scheme is `http`.
        """
        if self._pool is not None:
            return PoolTransport(self._pool, f"{origin.scheme}://{origin.netloc}")
        return self.connections(origin)

    def connections(self, origin: Url) -> KeepAliveTransport:
        """Return our own connections to an origin. Errors are those of `transport`."""
        if origin.scheme != "https" and not self._certificates.are_default:
            raise ConfigurationError(
                f"ca_file= and client_cert= are for https, and {origin.scheme}://{origin.netloc} "
                "is not"
            )
        return KeepAliveTransport(origin, self._certificates, self._proxy)
