"""Every way of editing that is worth comparing, on the same clips, in one run. See `python -m benchmarks.edit_quality --help`."""
