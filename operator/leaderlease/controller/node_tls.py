"""The operator's certificate towards the nodes: renewed files are used for new connections, without a restart."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from leaderlease.node.rotation import Rotation
from leaderlease.wire import tls

if TYPE_CHECKING:
    import ssl


class NodeTls:
    """What all connections to nodes share.

    Args:
        cert: PEM; None shows no certificate, and then nothing is looked at again.
        key: PEM; given exactly when ``cert`` is.
        ca: PEM; verifies the nodes.

    Attributes:
        rotation: Looks at the files; None without a certificate.

    Raises:
        ConfigError: The files cannot be used.
    """

    def __init__(self, cert: Path | None, key: Path | None, ca: Path) -> None:
        self.context: ssl.SSLContext = tls.client_context(cert, key, ca)
        self.rotation: Rotation | None = None
        if cert is not None and key is not None:
            self.rotation = Rotation((cert, key, ca), (self.context,))

    async def run(self) -> None:
        """Look until cancelled."""
        if self.rotation is not None:
            await self.rotation.run()
        await asyncio.Event().wait()
