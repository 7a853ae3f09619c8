"""Says loudly when the tests that need ComfyUI, a browser or Node did not run, also where -q or -qq hide why."""

LOUD_TESTS = ("test_host.py", "test_web_modules.py", "test_browser.py")


def pytest_terminal_summary(terminalreporter):
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = {report.longrepr[2] for report in skipped if any(name in report.nodeid for name in LOUD_TESTS)}
    for reason in sorted(reasons):
        terminalreporter.write_line(reason.removeprefix("Skipped: "), yellow=True, bold=True)
