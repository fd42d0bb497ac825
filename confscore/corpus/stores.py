"""Object stores: which filesystem an address means, how patient it is, and what its errors are in words.

Credentials come from the environment and are looked for again in every process; no address carries any.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar
from urllib.parse import parse_qsl, quote

from pyarrow import fs

from confscore.errors import InputError, StoreError

Answer = TypeVar("Answer")

ATTEMPTS = 8
"""How often a request is sent before a store counts as down. The pauses between them grow from half a second to about
fifteen, together three quarters of a minute; pyarrow's three attempts are over after one or two seconds."""
CONNECT_S = 5.0
SILENCE_S = 30.0
"""An answer that sends nothing for so long counts as lost. With the SDK's 3 s, copies of large objects never end."""
PAUSES_S = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Before a read is tried again whose refusal pyarrow could not take in, see :func:`is_unread`."""
_UNREAD = "Failed to flush response stream"
_KNOCKS = 3
_OPTIONS: dict[str, tuple[str, ...]] = {
    "s3": ("region", "endpoint_override", "scheme", "tls_ca_file_path"),
    "gs": ("endpoint_override", "scheme", "project_id", "retry_limit_seconds"),
    "abfs": ("blob_storage_authority", "dfs_storage_authority", "enable_tls", "credential_kind", "client_id"),
}
_SAME = {"gcs": "gs", "abfss": "abfs"}
_PLACES = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or the machine's role",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, or the machine's service account",
    "abfs": "AZURE_CLIENT_ID, AZURE_TENANT_ID and AZURE_CLIENT_SECRET, or the machine's identity",
}
_OF_STORES = re.compile(r"AWS Error |google::cloud::Status\(|Azure Error: ")
_AWS = re.compile(r"AWS Error (\w+(?: \(HTTP status \d+\))?) during \w+ operation: (.*)")
_UNPARSED = re.compile(r"Unable to parse ExceptionName: (\w+) Message: (.*)")
_KEY = re.compile(r"key '(.*)' in bucket '(.*?)': ")
_WORDS = {
    "the store refuses the credentials in the environment": (
        "INVALID_ACCESS_KEY_ID",
        "SIGNATURE_DOES_NOT_MATCH",
        "INVALID_SIGNATURE",
        "InvalidToken",
    ),
    "the credentials in the environment have expired": ("ExpiredToken", "TokenRefreshRequired"),
    "the credentials in the environment do not allow it": ("ACCESS_DENIED", "AllAccessDisabled"),
    "there is no such bucket": ("NO_SUCH_BUCKET",),
    "the bucket is in another region, which ?region=… at the end of the address names": (
        "PermanentRedirect",
        "AuthorizationHeaderMalformed",
    ),
    "the store does not answer": (
        "NETWORK_CONNECTION",
        "SERVICE_UNAVAILABLE",
        "SLOW_DOWN",
        "INTERNAL_FAILURE",
        "UNKNOWN (HTTP status 500)",
        "UNKNOWN (HTTP status 503)",
    ),
}
_WORDS_OF = {code: words for words, codes in _WORDS.items() for code in codes}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where an S3 API is.

    Attributes
    ----------
    region : str or None
        ``None`` leaves it to the environment.
    address : str or None
        Of a server that is not Amazon's, with or without ``http://``.
    scheme : str or None
        ``http`` or ``https``, for an address without one.
    ca_file : str or None
        PEM file of certificates to trust.
    """

    region: str | None
    address: str | None
    scheme: str | None
    ca_file: str | None


class S3(fs.S3FileSystem):  # type: ignore[misc]
    """An S3 filesystem that is as patient in every process it is sent to.

    pyarrow's own forgets its retries on the way. Small objects are written by one request, so that a lost answer is
    no error: writing them again changes nothing.

    Parameters
    ----------
    endpoint : Endpoint
        Where the API is.
    attempts : int
        How often a request is sent.
    """

    def __init__(self, endpoint: Endpoint, attempts: int) -> None:
        super().__init__(
            region=endpoint.region,
            endpoint_override=endpoint.address,
            scheme=endpoint.scheme,
            tls_ca_file_path=endpoint.ca_file,
            connect_timeout=CONNECT_S,
            request_timeout=SILENCE_S,
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=attempts),
            allow_delayed_open=True,
        )
        self._made_of = (endpoint, attempts)

    def __reduce__(self) -> tuple[Callable[[Endpoint, int], S3], tuple[Endpoint, int]]:
        """Send where it is, and no credentials."""
        return _s3, self._made_of


@lru_cache(maxsize=64)
def _s3(endpoint: Endpoint, attempts: int) -> S3:
    """Return one filesystem a process, which keeps its connections."""
    return S3(endpoint, attempts)


def open_address(address: str, attempts: int = ATTEMPTS) -> tuple[fs.FileSystem, str]:
    """Return the filesystem of a URI, and the path on it.

    Paths are taken as they are, spaces and percent signs included, as other tools for stores do.

    Raises
    ------
    InputError
        The address is malformed, of an unknown kind, or carries credentials.
    StoreError
        The region of a bucket cannot be found out.
    """
    scheme, _, rest = address.partition("://")
    scheme = _SAME.get(scheme, scheme)
    location, _, query = rest.partition("?")
    options = _options(scheme, location, query)
    if scheme != "s3":
        return _open_other(address, location, query)
    bucket, _, key = location.partition("/")
    if not bucket:
        raise InputError(f"{address}: names no bucket")
    server = options.get("endpoint_override")
    server = server or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = options.get("region")
    if region is None and server is None:
        region = _region(address, bucket)
    endpoint = Endpoint(region, server, options.get("scheme"), options.get("tls_ca_file_path"))
    return _s3(endpoint, attempts), f"{bucket}/{key}".rstrip("/")


def _options(scheme: str, location: str, query: str) -> dict[str, str]:
    """Return the options in an address, and refuse credentials, without repeating them."""
    user, at, host = location.partition("/")[0].rpartition("@")
    _, colon, port = host.partition(":")
    cut = colon != "" and not port.isdecimal()  # not a port: a key with a slash in it, so that its @ comes later
    shown = f"{scheme}://{'' if cut else host}/…"
    options = dict(parse_qsl(query, keep_blank_values=True))
    known = _OPTIONS.get(scheme, tuple(options))
    unknown = [name for name in options if name not in known] or [""] * bool(query and not options)
    secret = any("secret" in name or "sig" in name for name in unknown) or "@" in options.get("endpoint_override", "")
    name_is_secret = scheme == "s3" or (scheme == "gs" and user != "anonymous")  # in abfs it is the container
    if secret or cut or ":" in user or (at and name_is_secret):
        where = _PLACES.get(scheme, "see its manual")
        raise InputError(
            f"{shown}: an address carries no credentials, because it is kept in manifests and logs; take them out of "
            f"it and leave them to the environment ({where})"
        )
    if unknown:
        raise InputError(f"{shown}: ?{unknown[0]}… is no option of such an address; the options are {', '.join(known)}")
    return options


def _open_other(address: str, location: str, query: str) -> tuple[fs.FileSystem, str]:
    authority, slash, path = location.partition("/")
    scheme = address.partition("://")[0]
    encoded = f"{scheme}://{authority}{slash}{quote(path)}" + (f"?{query}" if query else "")
    try:
        filesystem, inner = fs.FileSystem.from_uri(encoded)
    except (ValueError, OSError) as error:
        raise InputError(f"{address}: no filesystem for this address: {' '.join(str(error).split())}") from None
    return filesystem, inner


def _region(address: str, bucket: str) -> str:
    try:
        found: str = fs.resolve_s3_region(bucket)
    except (ValueError, OSError) as error:
        raise StoreError(f"{address}: the region of its bucket cannot be found out: {in_words(error)}") from None
    return found


def knock(key: str, address: str) -> None:
    """Refuse a store that cannot be used, in seconds: later requests have more patience.

    Parameters
    ----------
    key : str
        The configuration key that has the address.
    address : str
        A local path is let through.

    Raises
    ------
    InputError
        There is no such bucket, the store does not answer, or it refuses the credentials.
    """
    if "://" not in address:
        return
    try:
        filesystem, inner = open_address(address, _KNOCKS)
        if filesystem.get_file_info(inner).type == fs.FileType.NotFound:
            bucket = inner.partition("/")[0]
            if isinstance(filesystem, S3) and filesystem.get_file_info(bucket).type == fs.FileType.NotFound:
                raise InputError(f"{key} {address}: there is no bucket {bucket}")
    except StoreError as error:
        raise InputError(f"{key} {error}") from None
    except OSError as error:
        raise InputError(f"{key} {address}: {in_words(_with_reason(filesystem, inner, error))}") from None


def _with_reason(filesystem: fs.FileSystem, inner: str, error: OSError) -> OSError:
    """Return the answer to a list where that says more: the one to a HEAD has no room for reasons."""
    if "No response body" in str(error):
        try:
            filesystem.get_file_info(fs.FileSelector(inner, allow_not_found=True))
        except OSError as reason:
            return reason
    return error


def is_of_store(error: BaseException) -> bool:
    """Say whether a store, and not the content of a file, is the reason of an error."""
    return isinstance(error, OSError) and _OF_STORES.search(str(error)) is not None


def is_unread(error: BaseException) -> bool:
    """Say whether a store refused a read in more bytes than were asked for.

    pyarrow has no room for such an answer, which for small objects is any, and does not look what it says: it may be a
    fault that passes, and is not tried again, or that the object is gone.
    """
    return _UNREAD in str(error)


def patiently(read: Callable[[], Answer]) -> Answer:
    """Read something small; again where :func:`is_unread` says so."""
    for pause in PAUSES_S:
        try:
            return read()
        except (OSError, StoreError) as error:
            if not is_unread(error):
                raise
        time.sleep(pause)
    return read()


def is_gone(error: OSError) -> bool:
    """Say whether something is not there, or no longer: a store may lose it between two requests of one read."""
    return isinstance(error, FileNotFoundError) or "AWS Error NO_SUCH_KEY" in str(error)


def in_words(error: BaseException) -> str:
    """Return why a request failed, in words where that is known, with what the store said."""
    found = _AWS.search(str(error))
    if found is None:
        return " ".join(str(error).split())
    code, said = found.groups()
    unparsed = _UNPARSED.search(said)
    if unparsed is not None:
        code, said = unparsed.groups()
    return f"{_WORDS_OF.get(code, 'the store refuses')} ({code}: {said.strip()})"


def failed_store(error: BaseException) -> StoreError | None:
    """Return the error of a job whose store has failed; ``None`` for an error of another kind.

    ``error`` may be one of Ray's, which has the text of the store's in it.
    """
    if _OF_STORES.search(str(error)) is None:
        return None
    key = _KEY.search(str(error))
    where = f"s3://{key[2]}/{key[1]}: " if key is not None else ""
    return StoreError(f"{where}{in_words(error)}; what was done before is kept, run the same command again")
