"""Sortable tables: whole without scripts, right values behind the text, working in a browser with no network."""

import re
from pathlib import Path

import pandas as pd
import pytest

from tslab.plot import sortable_table
from tslab_book.prose import readable

MADE_UP = pd.DataFrame(
    {"name": ["b <i>", "a", "c"], "value": [2.0, 10.0, float("nan")], "kind": ["odd", "even", "odd"]}
)


def markup(**options):
    options = {"caption": "Made-up values", "formats": {"value": "{:.1f}"}, "filters": ["kind"]} | options
    return sortable_table(MADE_UP, **options)._repr_html_()


def test_the_table_is_whole_without_scripts_and_escapes_text():
    html = markup(labels={"value": "Value"})
    assert "<caption>Made-up values</caption>" in html
    assert html.count('<th scope="row"') == 3 and html.count('<th scope="col"') == 3
    assert "b &lt;i&gt;" in html and "<i>" not in html
    assert '<td class="number" data-value="10.0">10.0</td>' in html
    assert '<td class="number" data-value="">–</td>' in html  # missing
    assert '<th scope="col" class="number">Value</th>' in html


def test_nothing_is_loaded_and_equal_tables_give_equal_markup():
    html = markup()
    assert not re.search(r"https?://|src=|@import|url\(", html)
    assert html == markup()
    assert html != markup(caption="Other values")


def test_an_unknown_column_is_named():
    with pytest.raises(ValueError, match="no column 'size' in the table; it has name, value, kind"):
        sortable_table(MADE_UP, caption="x", filters=["size"])


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        (MADE_UP["value"], {}, "DataFrame, got Series"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), {}, "'a' is twice there"),
        (MADE_UP, {"caption": ""}, "caption is empty"),
        (
            MADE_UP,
            {"formats": {"name": "{:.1f}"}},
            r"format '{:.1f}' does not fit the values of column 'name'",
        ),
        (MADE_UP, {"formats": {"name": "{value}"}}, "does not fit"),
    ],
)
def test_what_is_no_table_is_named(table, options, message):
    with pytest.raises(ValueError, match=message):
        sortable_table(table, **({"caption": "x"} | options))


def test_tables_without_rows_and_cells_of_every_kind_are_shown():
    assert "<tbody>" in sortable_table(MADE_UP[:0], caption="Nobody")._repr_html_()
    kinds = pd.DataFrame({"cell": [[1, 2], None, pd.NA, pd.NaT, float("inf"), {"a": 1}, True]})
    assert sortable_table(kinds, caption="Kinds")._repr_html_().count("–") == 3
    whole = pd.DataFrame({"n": pd.array([1, None], dtype="Int64")})
    assert 'data-value="1.0"' in sortable_table(whole, caption="Whole")._repr_html_()


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (0.25, 2, "0.25"),
        (3.46e-5, 2, "3.5\u00a0×\u00a010⁻⁵"),
        (-2e-15, 1, "-2\u00a0×\u00a010⁻¹⁵"),
        (1e12, 1, "1\u00a0×\u00a010¹²"),
        (0, 1, "0"),
    ],
)
def test_small_and_large_numbers_are_powers_of_ten(value, digits, text):
    assert readable(value, digits) == text


@pytest.mark.parametrize(("form", "text"), [("{:.2f}", "0.00"), ("{:+.2f}", "+0.00")])
def test_a_number_rounded_to_zero_has_no_minus(form, text):
    table = pd.DataFrame({"name": ["-0"], "value": [-0.001]})
    html = sortable_table(table, caption="Made up", formats={"value": form})._repr_html_()
    assert f'data-value="-0.001">{text}<' in html and '<th scope="row">-0<' in html


def test_plain_text_for_terminals():
    assert "10.0" in repr(sortable_table(MADE_UP, caption="Made-up values", formats={"value": "{:.1f}"}))


@pytest.fixture(scope="module")
def page():
    chromium = Path("/usr/bin/chromium")
    if not chromium.exists():
        pytest.skip("needs Chromium: install the chromium package")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(chromium), args=["--no-sandbox"])
        context = browser.new_context(viewport={"width": 390, "height": 700}, offline=True)
        page = context.new_page()
        page.problems = []
        page.on("pageerror", lambda error: page.problems.append(str(error)))
        yield page
        assert page.problems == []
        browser.close()


def first_column(page):
    return page.eval_on_selector_all("tbody tr:not([hidden]) th", "cells => cells.map(c => c.textContent)")


@pytest.mark.browser
def test_sorting_is_by_value_with_missing_values_last(page):
    page.set_content(markup())
    page.get_by_role("button", name="value").click()
    assert first_column(page) == ["b <i>", "a", "c"]
    assert page.locator("thead th").nth(1).get_attribute("aria-sort") == "ascending"
    page.get_by_role("button", name="value").click()
    assert first_column(page) == ["a", "b <i>", "c"]
    page.get_by_role("button", name="name").click()
    assert first_column(page) == ["a", "b <i>", "c"]


@pytest.mark.browser
def test_filtering_and_searching(page):
    page.set_content(markup())
    assert page.locator("output").text_content() == "3 of 3 rows"
    page.get_by_label("kind", exact=True).select_option("odd")
    assert first_column(page) == ["b <i>", "c"]
    page.get_by_label("Search").fill("2.0")
    assert first_column(page) == ["b <i>"]
    assert page.locator("output").text_content() == "1 of 3 rows"


@pytest.mark.browser
def test_the_page_does_not_scroll_sideways_on_a_phone(page):
    wide = MADE_UP.assign(**{f"column {number}": 123456.0 for number in range(12)})
    page.set_content(sortable_table(wide, caption="Made-up values")._repr_html_())
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
