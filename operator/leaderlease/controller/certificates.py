"""The webhook's certificate: made by the chart or cert-manager, used here, and read again when its files change.

Rule 1: files that do not fit together leave the old ones in use; it is said once for each state of the files.
Rule 2: a certificate that ran out, or soon will, is told: the API server would only say that the webhook failed.
"""

import asyncio
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from leaderlease.errors import ConfigError
from leaderlease.wire import tls

if TYPE_CHECKING:
    import ssl

PERIOD_S: Final = 5.0
"""How often the files are looked at; a kubelet takes longer to bring them."""
SOON_S: Final = 7 * 86_400
"""A certificate that lasts shorter than this is warned about."""
WARN_EVERY_S: Final = 3_600.0
CERT_FLAG: Final = "--webhook-cert"
KEY_FLAG: Final = "--webhook-key"

logger = logging.getLogger("leaderlease.operator.webhook")


class Certificate:
    """A certificate and its key, on disk and in use.

    Args:
        cert: PEM file; the certificate, then its intermediates.
        key: PEM file, without a password.

    Raises:
        ConfigError: The files cannot be used.
    """

    def __init__(self, cert: Path, key: Path) -> None:
        self._cert, self._key = cert, key
        self._seen = tls.stamp((cert, key))
        self.reloads = 0
        self.is_refused = False
        """The files as they are now cannot be used; older ones are."""
        self.ends_at_s = 0.0
        """Wall clock at which the certificate in use runs out."""
        self._warned_at_s = 0.0
        try:
            self.context: ssl.SSLContext = tls.server_context(cert, key, None, require_client=False)
        except ConfigError as error:
            raise _named(error) from error
        self.ends_at_s = _end_of(cert)

    async def run(self) -> None:
        """Look at the files until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(PERIOD_S)

    def look(self) -> bool:
        """Look once; return whether renewed files are in use now (rule 1)."""
        stamp = tls.stamp((self._cert, self._key))
        is_new = stamp != self._seen
        self._seen = stamp
        if is_new:
            try:
                tls.reload(self.context, self._cert, self._key)
                self.ends_at_s = _end_of(self._cert)
            except ConfigError as error:
                logger.error("the renewed certificate cannot be used, the old one stays: %s", _named(error))
                is_new, self.is_refused = False, True
            else:
                self.reloads += 1
                self.is_refused = False
                self._warned_at_s = 0.0
                logger.info("the renewed certificate is in use")
        self._warn()
        return is_new

    def check(self, now_s: float | None = None) -> str:
        """Return ``ok``, or a sentence that says since when the certificate is of no use (rule 2)."""
        left_s = self.ends_at_s - (time.time() if now_s is None else now_s)
        if left_s > 0:
            return "ok"
        when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(self.ends_at_s))
        return f"the certificate {self._cert} ran out at {when}, so no pod is injected: renew its Secret"

    def _warn(self) -> None:
        now_s = time.time()
        if self.ends_at_s - now_s > SOON_S or now_s - self._warned_at_s < WARN_EVERY_S:
            return
        self._warned_at_s = now_s
        if (text := self.check(now_s)) != "ok":
            logger.error("%s", text)
        else:
            logger.warning("the certificate %s runs out in %.1f days", self._cert, (self.ends_at_s - now_s) / 86_400)


def _end_of(cert: Path) -> float:
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificate(cert.read_bytes()).not_valid_after_utc.timestamp()
    except (OSError, ValueError) as error:
        raise ConfigError(f"{CERT_FLAG} {cert} holds a damaged certificate: {error}") from error


def _named(error: ConfigError) -> ConfigError:
    """Name our flags, and not those of the connection to the nodes."""
    return ConfigError(str(error).replace(tls.CERT_FLAG, CERT_FLAG).replace(tls.KEY_FLAG, KEY_FLAG))
