"""In which order tests run. Import it as `helpers_order`."""

from collections import Counter

import pytest


def put_slow_files_first(items: list[pytest.Item]) -> None:
    """Sort tests by how many slow ones their file has; a file's own tests keep their order."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])
