"""How fast roger_trio is, beside plain aiormq on asyncio: ``python -m benchmarks``."""
