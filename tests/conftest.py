"""Says loudly when the ComfyUI tests did not run, also where -q or -qq hide why a test was skipped."""

HOST_TESTS = "test_host.py"


def pytest_terminal_summary(terminalreporter):
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = {report.longrepr[2] for report in skipped if HOST_TESTS in report.nodeid}
    for reason in sorted(reasons):
        terminalreporter.write_line(reason.removeprefix("Skipped: "), yellow=True, bold=True)
