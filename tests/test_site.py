"""The docs build as a site, strictly: every page has its place, every link and heading that is pointed at exists."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.browser import Browser

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    out = tmp_path_factory.mktemp("site")
    line = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    made = subprocess.run(line, cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr[-3000:]
    assert "pages exist in the docs directory" not in made.stderr, "a page is not in the nav of mkdocs.yml"
    return out


def test_every_page_is_there_and_asks_no_other_server(site):
    pages = {p.relative_to(ROOT / "docs").with_suffix("") for p in (ROOT / "docs").rglob("*.md")}
    assert {p.parent.relative_to(site) for p in site.rglob("index.html")} >= pages - {Path("index")}
    for page in site.rglob("*.html"):
        loaded = re.findall(
            r'<(?:script|img|iframe)[^>]* src="(https?:[^"]+)"|<link rel="stylesheet" href="(https?:[^"]+)"', page.read_text()
        )
        assert loaded == [], f"{page}: {loaded}"


@pytest.mark.parametrize(("dark", "scheme"), [(False, "default"), (True, "slate")])
def test_it_reads_in_light_and_dark_and_on_a_narrow_screen(site, dark, scheme):
    with Browser() as browser:  # one for each: the theme remembers a reader's choice
        page = browser.page(site / "verdict" / "index.html", size=(400, 800), dark=dark)
        assert page.evaluate("document.querySelector('h1').textContent").startswith("The verdict")
        assert page.evaluate("document.documentElement.scrollWidth") == 400
        own, deadline = "document.body.getAttribute('data-md-color-scheme')", time.monotonic() + 30
        while page.evaluate(own) != scheme and time.monotonic() < deadline:
            time.sleep(0.2)  # the theme's script chooses it after the page has loaded
        assert page.evaluate(own) == scheme and page.errors() == []
