"""The pages in a browser: nothing is logged, nothing sticks out of the window, small and wide."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from synthetic_run import TARGETS, write_run

from prompttransfer.report import write_comparison, write_report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WIDTHS = (390, 1440)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")

# The pages run no scripts of their own. A window of Chromium cannot be as narrow as a phone, a frame can.
_MEASURE = """<!doctype html><body><script>
const pages = %s, widths = %s;
let open = pages.length * widths.length;
for (const page of pages) for (const width of widths) {
  const frame = document.createElement("iframe");
  frame.width = width; frame.height = 800; frame.src = page;
  frame.onload = () => {
    const inside = frame.contentDocument, root = inside.documentElement;
    const scale = svg => svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
    const scales = [...inside.querySelectorAll("svg.panel")].map(scale);
    const range = `${Math.min(...scales).toFixed(3)} ${Math.max(...scales).toFixed(3)}`;
    const cut = [...inside.querySelectorAll("svg.panel text")].filter(text => {
      const own = text.getBoundingClientRect(), room = text.closest("svg").getBoundingClientRect();
      return own.left < room.left - 1 || own.right > room.right + 1;
    }).length;
    const beyond = root.scrollWidth - root.clientWidth;
    document.body.append(`[${page} ${width}: ${beyond} ${range} ${cut} ${root.scrollHeight}]`);
    if (--open === 0) document.body.append("[all]");
  };
  document.body.append(frame);
}
</script></body>"""


def test_pages_fit_phone_and_wide_windows_and_log_nothing(tmp_path: Path) -> None:
    many = [
        "a_name_that_is_far_longer_than_a_phone_is_wide_without_a_blank",
        *(f"target-{place}" for place in range(25)),
    ]
    write_report(write_run(tmp_path / "small", sources=("gamma", "MMMM")))
    write_report(
        write_run(tmp_path / "many", (1, 2), targets=many, methods=("PT", "ATTEMPT", "DTVG", "BMTPT"), updates=50)
    )
    write_comparison([tmp_path / "small", write_run(tmp_path / "other", plus=2.0)], tmp_path / "both.html")
    pages = ["small/report.html", "many/report.html", "both.html"]
    frames = tmp_path / "frames.html"
    frames.write_text(_MEASURE % (pages, list(WIDTHS)), encoding="utf-8")
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--allow-file-access-from-files",
        "--enable-logging=stderr",
    ]
    options += [f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=20000", "--dump-dom"]
    ran = subprocess.run([CHROMIUM, *options, frames.as_uri()], capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in ran.stderr, ran.stderr
    assert "[all]" in ran.stdout
    measured = re.findall(r"\[(\S+) (\d+): (\d+) ([\d.]+) ([\d.]+) (\d+) (\d+)\]", ran.stdout)
    assert {(page, int(width)) for page, width, *_ in measured} == {(page, width) for page in pages for width in WIDTHS}
    for page, width, beyond, least, most, cut, height in measured:
        assert int(beyond) == 0, f"{page} is {beyond} pixels wider than a window of {width}"
        assert int(cut) == 0, f"{page} at {width}: {cut} words stick out of their pictures"
        # Words in pictures are 11 units high: below 0.7 they cannot be read, far above 1 they are larger than the text.
        assert float(least) >= 0.7 and float(most) <= 1.35, f"{page} at {width}: scales {least} to {most}"
        assert int(height) > 800


def test_a_screenshot_has_the_size_of_the_window(tmp_path: Path) -> None:
    page = write_report(write_run(tmp_path / "run", targets=TARGETS))
    picture = tmp_path / "page.png"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1440,900"]
    options += [f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={picture}", page.as_uri()]
    subprocess.run([CHROMIUM, *options], capture_output=True, timeout=120, check=True)
    content = picture.read_bytes()
    # PNG: width and height come after the name of the first chunk.
    assert tuple(int.from_bytes(content[at : at + 4], "big") for at in (16, 20)) == (1440, 900)
    assert len(content) > 20_000
