"""How nbval compares the notebooks: into a scratch results folder, and without what differs from machine to machine."""

import os
import shutil
import tempfile

NOT_COMPARED = ("stderr", "text/html", "application/javascript", "image/gif")  # text/plain beside them is


def pytest_configure(config):
    config.workbook_results = tempfile.mkdtemp(prefix="workbook-")
    os.environ["WORKBOOK_RESULTS"] = config.workbook_results


def pytest_unconfigure(config):
    shutil.rmtree(config.workbook_results, ignore_errors=True)


def pytest_collectstart(collector):
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += NOT_COMPARED
