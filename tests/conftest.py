"""Makes the helper modules that lie here importable from every folder of tests, and marks what starts processes of its own as slow."""

import os

# Before torch is imported: two workers with two threads each, on two cores and tensors this small, take twice the time.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

# Fixtures that start `luss` in processes of its own.
_SLOW_FIXTURES = {"luss", "finished"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Who edits between two runs of `pytest -m "not slow"` waits a minute, not six."""
    for item in items:
        if _SLOW_FIXTURES.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)
