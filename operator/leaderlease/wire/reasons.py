"""Why a connection could not be made, or ended: a few words for people, in place of errno numbers and library names."""

from typing import Final

CLOSED: Final = "the other side closed the connection"


def reason_of(error: BaseException) -> str:
    """Return what went wrong, without the address, which the caller knows."""
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, ConnectionResetError):
        return CLOSED
    if type(error).__name__ == "gaierror":
        return "unknown host"
    if isinstance(error, TimeoutError) and not error.errno:
        return "no answer in time"
    # ``ssl`` is not imported for this: a client without TLS does not pay for it.
    untrusted = getattr(error, "verify_message", "")
    if untrusted:
        return f"TLS: its certificate is not trusted ({untrusted})"
    library_reason = getattr(error, "reason", None)
    if library_reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST"):
        return "TLS: it speaks none"
    if isinstance(library_reason, str):
        return f"TLS: {library_reason.replace('_', ' ').lower()}"
    return (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
