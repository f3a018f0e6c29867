"""The client: a pure session core, its asyncio adapter, and the SDK on top, async and blocking."""
