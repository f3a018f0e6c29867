"""The files of the connection to the nodes: read again when they change, so that no pod must start anew for them.

Rule 1: connections that exist are not touched; a renewed authority is trusted in addition to the one before.
Rule 2: files that cannot be used leave the old ones in use; it is said once for each state of the files.
"""

import asyncio
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Final

from leaderlease.errors import ConfigError
from leaderlease.wire import tls

if TYPE_CHECKING:
    import ssl

PERIOD_S: Final = 5.0
"""How often the files are looked at; a kubelet takes longer to bring them."""

log = logging.getLogger(__name__)


class Authority:
    """What nodes are verified with, and perhaps a certificate to show.

    Args:
        files: Paths of certificate, key and authority; the first two may be None.

    Raises:
        ConfigError: The files cannot be used.
    """

    def __init__(self, files: tuple[str | None, str | None, str]) -> None:
        cert, key, ca = files
        self._cert = Path(cert) if cert else None
        self._key = Path(key) if key else None
        self._ca = Path(ca)
        self._seen = tls.stamp((self._cert, self._key, self._ca))
        self.context: ssl.SSLContext = tls.client_context(self._cert, self._key, self._ca)

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(PERIOD_S)
            self.look()

    def look(self) -> bool:
        """Look once; return whether renewed files are in use now."""
        stamp = tls.stamp((self._cert, self._key, self._ca))
        if stamp == self._seen:
            return False
        self._seen = stamp
        try:
            if self._cert is not None and self._key is not None:
                tls.reload(self.context, self._cert, self._key, self._ca)
            else:
                tls.trust(self.context, self._ca)
        except ConfigError as error:
            log.error("renewed certificates cannot be used, the old ones stay: %s", error)
            return False
        log.info("renewed certificates are in use for new connections")
        return True
