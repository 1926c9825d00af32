# /// bento
# egress = ["*:443"]
# ///
"""Who vouches for a site, seen from where the box is: compare it with what you see from where you are."""

import socket
import ssl


def certificate(host):
    """`ssl` trusts the box's authorities; a certificate of another name, or of nobody they know, is no certificate."""
    try:
        with (
            socket.create_connection((host, 443), timeout=30) as plain,
            ssl.create_default_context().wrap_socket(plain, server_hostname=host) as secure,
        ):
            found = secure.getpeercert()
    except ssl.SSLCertVerificationError as error:
        return {"host": host, "valid": False, "reason": error.verify_message}
    issuer = {key: value for ((key, value),) in found["issuer"]}
    return {"host": host, "valid": True, "issuer": issuer, "until": found["notAfter"]}
