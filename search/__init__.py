"""Differentiable architecture search under a latency budget. `search.api.search` is the Python entry point."""
