"""What runs beside the work: the exec wrapper, and the agent of a pod. Knows neither click nor aiohttp."""
