"""What a person sees in MLflow's UI after a run and a sweep, in Chromium.

MLP_JAX_SCREENSHOTS=1 in the environment writes the README's pictures.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

FIGURES = Path(__file__).parents[2] / "experiments/figures"
CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
ASSISTANT_SEEN = "localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')"
PATIENCE = 30_000  # ms

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]


def train(folder, *arguments):
    """The links that the command printed, by their names."""
    command = [sys.executable, "-m", "mlp_jax.train", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return dict(re.findall(r"^(page|best first) +(http\S+)$", done.stdout, re.MULTILINE))


@pytest.fixture(scope="module")
def links(tmp_path_factory, empty_database, find_port):
    """Of a run and of a sweep of 200, in a UI that runs for this module."""
    folder, port = tmp_path_factory.mktemp("runs"), find_port()
    shutil.copy(empty_database, folder)
    run = train(folder, "+exp=xor")
    sweep = train(folder, "-m", "+exp=xor", "seed=range(50)", "optimizer.learning_rate=0.1,0.3,1,3")
    command = [sys.executable, "-m", "mlp_jax.ui", "--port", str(port)]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        shown = [server.stdout.readline().strip() for _ in range(3)]
        here = {"run": run["page"], "sweep": sweep["page"], "best first": sweep["best first"]}
        here = {name: link.replace(":5000/", f":{port}/") for name, link in here.items()}
        assert shown[2] == here["sweep"]  # where the UI opens
        yield here
        server.send_signal(signal.SIGINT)
        assert "Stopped." in server.stdout.read()


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def page(browser):
    """A fresh tab of a new user, who has closed the assistant."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    context.set_default_timeout(PATIENCE)
    context.add_init_script(ASSISTANT_SEEN)
    yield context.new_page()
    context.close()


def photograph(page, name, height=900):
    if os.environ.get("MLP_JAX_SCREENSHOTS"):
        shown = {"x": 0, "y": 0, "width": 1440, "height": height}
        page.screenshot(path=FIGURES / f"{name}.png", clip=shown)


def tab(link, name):
    """Another tab of a run's page."""
    path, _, query = link.partition("?")
    return f"{path}/{name}?{query}"


def charts(page, section):
    """All text of the page of charts, once some of a section have drawn a line of points."""
    heading = page.get_by_text(section, exact=True).first
    heading.scroll_into_view_if_needed()
    page.wait_for_function(
        "[...document.querySelectorAll('.js-line')].some(line => /L/.test(line.getAttribute('d')))"
    )
    return page.inner_text("body")


def assert_image(page, link, file):
    page.goto(tab(link, f"artifacts/{file}"))
    page.wait_for_function("[...document.images].some(i => i.naturalWidth >= 700)")


def test_the_page_of_a_run(page, links):
    page.goto(links["run"])
    page.wait_for_selector("li:has-text('network: 2-8-1')")  # the note, rendered
    assert "seed 0, η=1 gradient_descent, 2-8-1 sigmoid" in page.inner_text("h2, h1")
    note = page.locator("table:has(td:text-is('train'))").first.inner_text()
    assert "accuracy" in note and "0.008" in note  # it begins with the result
    photograph(page, "ui_run", height=510)  # without the directory in the tags
    page.goto(tab(links["run"], "model-metrics"))
    shown = charts(page, "train")
    assert "train/accuracy" in shown
    sections = re.findall(r"^([A-Za-z ]+)\s*\(\d+\)$", shown, re.MULTILINE)
    assert [name.strip() for name in sections] == ["train", "Model metrics"]  # curves come first
    assert_image(page, links["run"], "loss_curves.png")


def test_the_page_of_a_sweep(page, links):
    page.goto(links["sweep"])
    page.wait_for_selector("text=200 runs, 200 FINISHED")
    assert page.locator("table tr a:has-text('gradient_descent')").count() == 10  # the note's
    page.goto(tab(links["sweep"], "model-metrics"))
    shown = charts(page, "train/accuracy")
    photograph(page, "ui_sweep")
    assert "train/loss" in shown
    for name in ("best", "mean", "median", "p10", "p90", "worst"):
        assert name in shown
    assert_image(page, links["sweep"], "sweep.png")


def test_the_runs_of_a_sweep_best_first(page, links):
    page.goto(links["best first"])
    page.wait_for_selector("[role=gridcell]:has-text('seed ')")

    def column(name):
        page.wait_for_selector(f'[role=gridcell][col-id="{name}"]')
        cells = page.locator(f'[role=gridcell][col-id="{name}"]').all()
        rows = {int(cell.locator("xpath=..").get_attribute("row-index")): cell for cell in cells}
        return [rows[index].inner_text().strip() for index in sorted(rows)]

    losses = [float(text) for text in column("metrics.`train/log_loss`")]
    assert len(losses) >= 10 and losses == sorted(losses)
    rates, seeds = column("params.`optimizer.learning_rate`"), column("params.`seed`")
    assert rates[:10] == ["3.0"] * 10
    names = column("attributes.`Run Name`")
    assert len(set(names)) == len(losses)
    for name, rate, seed in zip(names, rates, seeds, strict=True):
        assert f"seed {seed}, η={float(rate):g} " in name
    photograph(page, "ui_best_first")


def test_the_best_runs_compared(page, links):
    page.goto(links["sweep"])
    with page.expect_popup() as opened:
        page.click("a:has-text('the 20 best compared')")
    page = opened.value
    page.wait_for_selector("text=Comparing 20 Runs from 1 Experiment")
    page.wait_for_selector(".parcoords .axis-title")
    axes = page.locator(".parcoords .axis-title").all_text_contents()
    assert axes[-1] == "train/log_loss"
    assert page.locator("text=data.name").count() > 0
    page.locator("text=Show diff only").first.click()
    page.wait_for_selector("text=data.name", state="detached")
    photograph(page, "ui_compare")
    assert page.locator("text=seed").count() > 0
