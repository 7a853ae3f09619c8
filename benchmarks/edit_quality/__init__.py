"""Every way of editing that is worth comparing, on the same clips, in one run: `python -m benchmarks.edit_quality --help`.

cases, task            which clips, and what all methods share of one
methods, ideas, rivals what a method is; locks of another kind; other people's ways
contenders             the rows of the test table
candidates             what was tried on the validation clips
measures, runs, cost   one edit in numbers; all runs; seconds and memory
recordings, signals    unlocked runs under many samplings; every form of the risk on them
statistics, figures    intervals and fronts; plots and contact sheets
report, signal_report, evidence    tables, and the document
"""
