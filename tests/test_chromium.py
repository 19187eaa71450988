"""The page that browser tests are given: it works, and it tells what went wrong."""

import chromium
import pytest


def test_chromium_is_looked_for_where_it_is_named_else_on_the_path(tmp_path, monkeypatch):
    program = tmp_path / "chromium-browser"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CHROMIUM", raising=False)
    assert chromium.find_chromium() == str(program)
    monkeypatch.setenv("CHROMIUM", str(tmp_path / "nowhere"))
    assert chromium.find_chromium() is None


@pytest.mark.browser
def test_a_page_lists_its_errors_and_what_it_asks_for_elsewhere(page, tmp_path):
    path = tmp_path / "page.html"
    path.write_text("<h1>Clips</h1><script>console.error('no such clip'); null.rows</script>")
    page.page.goto(path.as_uri())
    assert page.page.locator("h1").inner_text() == "Clips"
    assert page.errors[0] == "no such clip"
    assert any("null" in error for error in page.errors)
    assert page.outside == []
    path.write_text("<img src='http://elsewhere.example/picture.png'>")
    page.page.goto(path.as_uri())
    assert page.outside == ["http://elsewhere.example/picture.png"]
