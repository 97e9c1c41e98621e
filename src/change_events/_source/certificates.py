"""The certificates of a connection over TLS: those to trust, and our own."""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import TypeAlias

from change_events.exceptions import ConfigurationError

File: TypeAlias = "str | os.PathLike[str]"

ClientCert: TypeAlias = "File | tuple[File, File]"
"""A file with a certificate and its key, or a file for each."""


class Certificates:
    """
    Makes TLS contexts that verify the other end. Args and errors are those of `HTTPFetcher`.

    The files are read again when they have changed, because the certificates of many platforms
    last for hours.
    """

    def __init__(self, ca_file: File | None = None, client_cert: ClientCert | None = None) -> None:
        self._ca_file = None if ca_file is None else _path(ca_file, "ca_file")
        pair = client_cert if isinstance(client_cert, tuple) else (client_cert,)
        if len(pair) not in {1, 2}:
            raise ConfigurationError(
                f"client_cert= must be one file or a pair of files, not {client_cert!r:.200}"
            )
        given = () if client_cert is None else pair
        self._client = [_path(each, "client_cert") for each in given]
        self._read: tuple[list[tuple[int, int, int]], ssl.SSLContext] | None = None
        if not self.are_default:
            try:
                self.context()
            except OSError as error:
                raise ConfigurationError(str(error)) from error

    @property
    def are_default(self) -> bool:
        """True if no file was given."""
        return self._ca_file is None and not self._client

    def context(self) -> ssl.SSLContext:
        """
        Return the context for a new connection.

        Raises:
            OSError: A file can't be used.
        """
        state = self._state_of_files()
        read = self._read
        if read is not None and read[0] == state:
            return read[1]
        try:
            context = ssl.create_default_context(cafile=self._ca_file)
            if self._client:
                cert, key = self._client[0], self._client[-1]
                context.load_cert_chain(cert, key, _refuse_encrypted_key)
        except OSError as error:  # an ssl.SSLError is one
            raise OSError(f"{self._settings()} can't be used: {error}") from error
        self._read = state, context
        return context

    def _state_of_files(self) -> list[tuple[int, int, int]]:
        files = self._client if self._ca_file is None else [self._ca_file, *self._client]
        try:
            states = [Path(file).stat() for file in files]
            return [(state.st_ino, state.st_size, state.st_mtime_ns) for state in states]
        except OSError:
            return []  # to read them says what is wrong

    def _settings(self) -> str:
        files = [f"ca_file={self._ca_file!r}"] if self._ca_file else []
        files += [f"client_cert={', '.join(self._client)!r}"] if self._client else []
        return " or ".join(files)


def _path(value: object, setting: str) -> str:
    if not isinstance(value, (str, os.PathLike)) or not os.fspath(value):
        raise ConfigurationError(f"{setting}= must be a file's path, not {value!r:.200}")
    return os.fspath(value)


def _refuse_encrypted_key() -> str:
    # Without this, OpenSSL would ask for the password on the terminal, and wait.
    raise OSError("its key is encrypted, and there is nobody to ask for a password")
