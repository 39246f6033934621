import base64
import dataclasses
import re
from html.parser import HTMLParser
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from rectiflow.quickstart.findings import Learning
from rectiflow.quickstart.report import report_html, score
from tests.quickstart import made_up


class Page(HTMLParser):
    """What a browser would see: table rows, pictures with their text, tags that stay open."""

    VOID = frozenset({"meta", "img", "br", "path", "use", "link"})

    def __init__(self, text):
        super().__init__()
        self.rows, self.images, self.open, self.text = [], [], [], ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        if tag == "img":
            self.images.append(dict(attrs))
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self.rows[-1].append("")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_data(self, data):
        self.text += data
        if self.open and self.open[-1] in {"td", "th"}:
            self.rows[-1][-1] += data

    def row(self, name):
        (found,) = [row for row in self.rows if row and row[0] == name]
        return found[1:]


@pytest.fixture(scope="module")
def findings():
    return made_up.findings()


@pytest.fixture(scope="module")
def html(findings):
    return report_html(findings)


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def decoded(image):
    kind, _, data = image["src"].partition(",")
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(BytesIO(base64.b64decode(data))))


def test_every_picture_stands_in_the_report_once_and_unchanged(page, findings):
    expected = [
        *findings.fresh.pictures,
        *findings.reference.pictures,
        *(picture for moment in findings.learning.pictures for picture in moment),
        *findings.fresh.scored,
        *findings.reference.scored,
    ]
    shown_bytes = sorted(decoded(image).tobytes() for image in page.images)
    assert shown_bytes == sorted(picture.tobytes() for picture in expected)


def test_every_picture_says_whose_and_of_what_it_is(page, findings):
    texts = {decoded(image).tobytes(): image["alt"] for image in page.images}
    for model in (findings.fresh, findings.reference):
        for prompt, picture in zip(findings.prompts, model.pictures, strict=True):
            assert texts[picture.tobytes()] == f"{prompt}: {model.name}"
        for row, picture in zip(model.rows, model.scored, strict=True):
            text = texts[picture.tobytes()]
            assert text.startswith(f"{row['prompt']}: {model.name}, ")
            assert ("✓ right" in text) == row["correct"]
    for step, moment in zip(findings.learning.steps, findings.learning.pictures, strict=True):
        for prompt, picture in zip(findings.learning.prompts, moment, strict=True):
            assert texts[picture.tobytes()] == f"{prompt}: after {step} steps"


def test_prompts_reasons_and_commands_are_text_and_never_markup(html, page):
    assert "<b>&" not in html
    assert "<star>" not in html
    assert "<fast>" not in html
    for text in ('the word "A<b>&"', "extra <star>: 1", "a <fast> one", 'sample "a & b"'):
        assert text in page.text
    assert "Trained & done." in page.text


def test_the_numbers_of_the_table_are_those_of_the_scores(page):
    assert page.row("single object") == ["0.31", "0.26", "0.71", "0.66"]
    assert page.row("two objects") == ["0.32", "0.27", "0.72", "0.67"]
    assert page.row("words") == ["0.33", "0.28", "0.73", "0.68"]
    assert page.row("overall, without words") == ["0.42", "0.43", "0.82", "0.83"]
    assert page.row("control: true pictures") == ["0.99", "0.99", "0.99", "0.99"]
    assert page.row("control: pictures judged by other prompts") == ["0.03"] * 4
    assert "0.37 and 0.47" in page.text  # the interval


def test_bars_are_as_long_as_their_scores(html):
    parts = [float(part) for part in re.findall(r"--part:([0-9.]+)", html)]
    assert parts[:8] == pytest.approx([0.31, 0.71, 0.32, 0.72, 0.33, 0.73, 0.42, 0.82])


def test_settings_machine_and_times_are_listed(page, html):
    assert page.row("training") == ["5 min 00 s"]
    assert page.row("total") == ["5 min 09 s"]
    assert page.row("processor") == ["a <fast> one"]
    assert "12,000" in page.text
    assert re.search(r'class="changed">12,000<', html)
    assert re.search(r'class="">true<', html)


def test_the_page_needs_nothing_but_itself(html):
    assert "<script" not in html
    for target in re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)""", html):
        assert target.startswith(("data:image/png;base64,", "#")), target
    assert not re.search(r"url\((?!#)", html)
    assert "@import" not in html


def test_every_element_is_closed(page):
    assert page.open == []


def test_prompts_that_training_never_showed_are_marked(html):
    assert html.count('class="mark"') == 1


def test_a_run_without_pictures_or_curves_still_gets_a_report():
    nothing = Learning(prompts=(), steps=(), pictures=())
    page = Page(report_html(made_up.findings(learning=nothing, metrics=[])))
    assert "No pictures were drawn during training" in page.text


def test_a_missing_score_is_a_dash(findings):
    summary = {**findings.fresh.summary, "overall": None, "overall_interval": None}
    fresh = dataclasses.replace(findings.fresh, summary=summary)
    page = Page(report_html(dataclasses.replace(findings, fresh=fresh)))
    assert page.row("overall, without words")[0] == "-"


def test_a_score_has_two_digits():
    assert score(0.456) == "0.46"
