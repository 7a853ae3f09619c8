"""Measurements that are too slow for the tests. Each says its command in its first line and writes what it found into docs/."""
