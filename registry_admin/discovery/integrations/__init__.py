"""Ready-made parts for other clients, each in a module that imports its library: httpx, aiohttp, gRPC, databases."""
