"""Renewed certificates: files are looked at from time to time, and used for every connection from then on.

Rule 1: connections that exist are not touched, so nobody loses a lease by a rotation.
Rule 2: files that do not fit together leave the old ones in use; it is said once for each state of the files.
"""

import asyncio
import logging
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from leaderlease.errors import ConfigError
from leaderlease.node import certificates
from leaderlease.wire import tls

PERIOD_S: Final = 5.0
"""How often the files are looked at; a kubelet takes longer to bring them."""

logger = logging.getLogger("leaderlease.tls")


class Rotation:
    """Watches the three files of a node.

    Args:
        files: Certificate, key and authority.
        contexts: All that were made of them.

    Attributes:
        reloads: How often renewed files were taken.
        is_refused: The files as they are now cannot be used; older ones are.
        ends_s: When the certificates in use end, in Unix seconds, by kind.
    """

    def __init__(self, files: tuple[Path, Path, Path], contexts: Sequence[ssl.SSLContext]) -> None:
        self._files = files
        self._contexts = tuple(contexts)
        self._seen = tls.stamp(self._files)
        self.reloads = 0
        self.is_refused = False
        self.ends_s = certificates.ends_s(files[0], files[2])

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            await asyncio.sleep(PERIOD_S)
            self.look()

    def look(self) -> bool:
        """Look once; return whether renewed files are in use now (rule 2)."""
        stamp = tls.stamp(self._files)
        if stamp == self._seen:
            return False
        self._seen = stamp
        try:
            for context in self._contexts:
                tls.reload(context, *self._files)
        except ConfigError as error:
            logger.error("renewed certificates cannot be used, the old ones stay: %s", error)
            self.is_refused = True
            return False
        self.reloads += 1
        self.is_refused = False
        self.ends_s = certificates.ends_s(self._files[0], self._files[2])
        logger.info("renewed certificates are in use for new connections")
        return True
