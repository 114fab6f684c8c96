"""The tab Data: bad input is told, each question is asked of the demo, and its answer is read."""

import json
import shutil

import pytest

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def pool(demo):
    """A small pool and targets in the demo's folder: 12 and 3 examples of two datasets."""
    home = demo / "little"
    for name in ("cot", "sni"):
        (home / name).mkdir(parents=True)
        for split, count in (("train", 12), ("validation", 3)):
            rows = (demo / "data" / name / f"{split}.jsonl").read_text("utf-8").splitlines(True)
            (home / name / f"{split}.jsonl").write_text("".join(rows[:count]), "utf-8")
    yield home
    shutil.rmtree(home)


def open_tab(page, steps, question):
    """Show a question, and wait for its command."""
    steps.tab(page, "Data")
    page.locator("#data-questions button[role=tab]", has_text=question).click()
    page.locator(".data-line code").first.wait_for(state="attached")


def write(page, field, text):
    """Write into a field, and leave it."""
    box = page.locator(f"#data-{field} :is(input, textarea)")
    box.fill(text)
    box.press("Tab")


def choose(page, field, name):
    page.locator(f"#data-{field} input").click()
    page.get_by_role("option", name=name).click()


def problem(page, question, words):
    page.locator(f"#data-{question}-line .message.problem", has_text=words).wait_for()


def finished(page, question, timeout=240_000):
    job = page.locator(f"#data-{question}-job .job:is(.done, .failed)")
    job.wait_for(timeout=timeout)
    assert "done" in job.get_attribute("class"), job.inner_text()
    page.locator(f"#data-{question}-answer").wait_for()


@pytest.mark.slow
def test_bad_input_of_each_form_is_told_beside_it(trainer, open_page, steps):
    page = open_page(at=trainer)
    open_tab(page, steps, "Which examples should I")
    write(page, "select-share", "2")
    problem(page, "select", "Share of the pool: '2' was given. Give a share above 0 and up to 1")
    write(page, "select-share", "0.1")
    write(page, "select-pool", "/etc")
    problem(page, "select", "/etc is outside the folders this server may read")
    choose(page, "select-method", "BM25")
    write(page, "select-pool", str(trainer.demo / "data"))
    choose(page, "select-policy", "max")
    problem(page, "select", "Choose turns")
    page.locator("#data-select-start").click()
    page.locator(".toast-body", has_text="Choose turns").wait_for()

    open_tab(page, steps, "How much of each domain")
    write(page, "balance-m", "")
    problem(page, "balance", "Largest change, share: the field is empty")
    open_tab(page, steps, "in the wrong place")
    write(page, "misfiled-split", "../train")
    problem(page, "misfiled", "Give the name of a split")
    write(page, "misfiled-name", "../x")
    write(page, "misfiled-split", "train")
    problem(page, "misfiled", "the name of the run is '../x'")

    # What was typed stays when the page goes to another tab and back.
    steps.tab(page, "Compose")
    steps.tab(page, "Data")
    page.wait_for_timeout(1500)
    assert page.locator("#data-misfiled-name :is(input, textarea)").input_value() == "../x"
    assert page.locator("#data-select-share :is(input, textarea)").input_value() == "0.1"


@pytest.mark.slow
def test_a_selection_by_chance_is_estimated_started_and_found_again(trainer, open_page, steps):
    page = open_page(at=trainer)
    open_tab(page, steps, "Which examples should I")
    choose(page, "select-method", "random")
    write(page, "select-count", "45")
    write(page, "select-name", "chance")
    page.locator("#data-select-estimate").click()
    page.locator("#data-select-cost .estimate-total").wait_for(timeout=120_000)
    assert "in all. Times are estimates" in page.locator("#data-select-cost").inner_text()
    page.locator("#data-select-start").dblclick()
    finished(page, "select")
    rows = page.locator("#data-select-rows li .own")
    assert rows.count() == 20
    assert page.locator("#data-select-where").inner_text() == "1–20 of 45"
    page.locator("#data-select-after").click()
    page.locator("#data-select-where", has_text="21–40 of 45").wait_for()
    choose(page, "select-source", "cot")
    page.wait_for_function(
        "!document.querySelector('#data-select-where').textContent.includes('of 45')"
    )
    chosen = json.loads((trainer.workdir / "data/select/chance/chance.selection.json").read_text())[
        "chosen"
    ]
    own = len([each for each in chosen if each[0] == "cot"])
    assert page.locator("#data-select-where").inner_text().endswith(f"of {own}")
    link = page.locator("#data-select-files a", has_text="chance.csv")
    with page.expect_download() as download:
        link.click()
    assert len(download.value.path().read_text("utf-8").splitlines()) >= 46

    page.reload()
    steps.exact(page)
    open_tab(page, steps, "Which examples should I")
    choose(page, "select-runs", "chance")
    page.locator("#data-select-rows li").first.wait_for()
    page.wait_for_function(
        "document.querySelector('#data-select-count input, #data-select-count textarea').value === '45'"
    )
    page.locator("#data-select-start").click()
    page.get_by_text("chance is finished already").first.wait_for()


@pytest.mark.slow
def test_less_is_stopped_and_goes_on_over_a_reload(trainer, open_page, steps, pool):
    page = open_page(at=trainer)
    open_tab(page, steps, "Which examples should I")
    page.locator("#data-select-advanced button").first.click()
    for field, text in (
        ("pool", str(pool)), ("targets", str(pool)), ("count", "5"), ("name", "less"),
        ("epochs", "1"), ("size", "64"), ("warm-share", "0.5"), ("batch", "4"),
    ):  # fmt: skip
        write(page, f"select-{field}", text)
    page.locator("#data-select-line code", has_text="--epochs 1").first.wait_for()
    assert page.locator("#data-select-line code").count() == 3
    page.locator("#data-select-start").click()
    page.locator("#data-select-job .job.running").wait_for()
    page.locator("#data-select-stop").click()
    page.locator("#data-select-job .job.cancelled").wait_for(timeout=60_000)
    page.locator("#data-select-job .message", has_text="Press Resume to go on").wait_for()
    page.reload()
    steps.exact(page)
    open_tab(page, steps, "Which examples should I")
    choose(page, "select-runs", "less")
    page.locator("#data-select-job .message", has_text="Press Resume to go on").wait_for()
    page.locator("#data-select-resume").click()
    finished(page, "select")
    assert page.locator("#data-select-rows .near li").count() == 15
    assert "LESS (sgd)" in page.locator("#data-select-summary").inner_text()
    page.get_by_label("validation examples").check()
    page.locator("#data-select-rows", has_text="best helpers").wait_for()
    assert page.locator("#data-select-rows li .own").count() == 6


@pytest.mark.slow
def test_domains_are_balanced_and_misfiled_examples_found_side_by_side(
    trainer, open_page, steps, pool
):
    page = open_page(at=trainer)
    open_tab(page, steps, "How much of each domain")
    plan = (
        f"base: {trainer.demo}/base\nsources: {{cot: {pool}/cot, sni: {pool}/sni}}\n"
        f"validation: {{sni: {pool}/sni}}\nsettings: {{steps: 2, batch: 4, device: cpu}}\n"
        "schedule: {kind: mixing}\n"
    )
    page.locator("#data-balance-plan .cm-content").click()
    page.keyboard.press("Control+a")
    page.keyboard.insert_text(plan)
    write(page, "balance-rounds", "1")
    write(page, "balance-sample", "4")
    choose(page, "balance-method", "stratified")
    page.locator("#data-balance-line code", has_text="--method stratified --workdir").wait_for()
    page.locator("#data-balance-rounds").wait_for(state="hidden")
    choose(page, "balance-method", "IDEAL")
    page.locator("#data-balance-rounds").wait_for()
    page.locator("#data-balance-advanced button").first.click()
    choose(page, "balance-estimator", "identity")
    line = "--rounds 1 --estimator identity --sample 4"
    page.locator("#data-balance-line code", has_text=line).wait_for()
    page.locator("#data-balance-start").click()
    page.locator("#data-balance-job .job").wait_for()

    open_tab(page, steps, "in the wrong place")
    write(page, "misfiled-limit", "5")
    page.locator("#data-misfiled-line code", has_text="--limit 5").wait_for()
    page.locator("#data-misfiled-start").click()
    finished(page, "misfiled")
    assert page.locator("#data-misfiled-where").inner_text() == "1–20 of 25"
    choose(page, "misfiled-dataset", "sni")
    page.locator("#data-misfiled-where", has_text="1–5 of 5").wait_for()
    assert page.locator("#data-misfiled-rows tbody tr").count() == 5
    assert "rank" in page.locator("#data-misfiled-rows").inner_text()

    open_tab(page, steps, "How much of each domain")
    finished(page, "balance")
    table = page.locator("#data-balance-rounds-table").inner_text()
    assert "examples of cot" in table and "predicted" in table and "dem train" in table


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.slow
def test_the_tab_is_narrow_and_accessible(trainer, open_page, steps, theme):
    from axe_playwright_python.sync_playwright import Axe

    page = open_page(390, 800, theme, at=trainer)
    for question in ("Which examples should I", "How much of each domain", "in the wrong place"):
        open_tab(page, steps, question)
        page.wait_for_timeout(1000)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, question
        found = {
            one["id"]: [node["html"][:160] for node in one["nodes"][:4]]
            for one in Axe().run(page).response["violations"]
        }
        assert not found, json.dumps(found, indent=1)
