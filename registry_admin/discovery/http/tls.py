"""TLS contexts for instances that speak HTTPS, and the failures that no other instance would mend."""

from __future__ import annotations

import functools
import ssl

from requests.utils import DEFAULT_CA_BUNDLE_PATH

_CERTIFICATE_ALERTS = (  # sent by a server that wants another certificate of the client, or one at all
    "ALERT_BAD_CERTIFICATE",
    "ALERT_CERTIFICATE_EXPIRED",
    "ALERT_CERTIFICATE_REQUIRED",
    "ALERT_CERTIFICATE_REVOKED",
    "ALERT_CERTIFICATE_UNKNOWN",
    "ALERT_UNKNOWN_CA",
    "ALERT_UNSUPPORTED_CERTIFICATE",
)


@functools.lru_cache(maxsize=32)
def tls_context(verify: bool | str) -> ssl.SSLContext:  # noqa: FBT001
    """Returns the context for this `verify` of a client: a CA file, True for the CAs of `requests`, or False."""
    context = ssl.create_default_context(cafile=verify if isinstance(verify, str) else DEFAULT_CA_BUNDLE_PATH)
    context.set_alpn_protocols(["http/1.1"])
    if verify is False:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def is_truncation(error: ssl.SSLError) -> bool:
    """Returns whether the connection ended without TLS's own end, which is the only one that nobody else can send."""
    return isinstance(error, ssl.SSLEOFError) or error.reason == "UNEXPECTED_EOF_WHILE_READING"


def is_certificate_refusal(error: BaseException) -> bool:
    """Returns whether the server has refused the client's certificate; with TLS 1.3 the first read tells."""
    if not isinstance(error, ssl.SSLError) or isinstance(error, ssl.SSLCertVerificationError):
        return False
    return (error.reason or "").endswith(_CERTIFICATE_ALERTS)
