"""What to do where TLS fails because one side does not trust the other."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Final

# X509_V_ERR_… of OpenSSL, which Python gives as `SSLCertVerificationError.verify_code`.
_OURS: Final[Mapping[int, str]] = {
    9: "check the clocks, or have the broker show a certificate that is valid now",
    10: "renew the broker's certificate, or check the clock here",
    18: "set cafile to that certificate, or to its authority's",
    19: "set cafile to the authority's certificate",
    20: "set cafile to the authority's certificate",
    21: "set cafile to the authority's certificate",
    62: "connect to a name that is in the certificate, or set server_hostname to one",
    64: "connect to an address that is in the certificate, or set server_hostname to a name in it",
}
_OPTIONS: Final = "broker.ssl_options: "
_THEIRS: Final = "set certfile (and keyfile) to a certificate that the broker trusts"
_ALERTS: Final = ("ALERT", "HANDSHAKE_FAILURE")


def advice(error: BaseException) -> str:
    """Say what to do about an error of TLS; '': nothing is known to help."""
    if isinstance(error, ssl.SSLCertVerificationError):
        text = _OURS.get(error.verify_code, "")
        return f"{_OPTIONS}{text}" if text else ""
    reason = error.reason if isinstance(error, ssl.SSLError) else None
    if reason and any(each in reason for each in _ALERTS) and "VERSION" not in reason:
        return f"{_OPTIONS}{_THEIRS}"
    return ""
