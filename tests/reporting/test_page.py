# SPDX-FileCopyrightText: 2026 The hf_cbft authors
# SPDX-License-Identifier: Apache-2.0
"""The report page as text: what stands on it, what it lets in, and what it refuses."""

import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import datasets
import numpy as np
import pytest
from helpers.report_pages import CLASSES, HOSTILE, hostile_result, make_result, make_rows, seen
from PIL import Image

import hf_cbft
from hf_cbft.analysis.mechanisms import mechanisms
from hf_cbft.reporting.page import check_report_file, page, verdict
from hf_cbft.reporting.page_chart import looks, loss_bands, panel
from hf_cbft.reporting.page_examples import KINDS, changing, examples, in_turn, picture
from hf_cbft.reporting.plotting import SET_STYLES


class Reader(HTMLParser):
    """Elements, attributes and text of a page, as a browser would read them."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.texts, self.scripts, self.rows = [], [], [], [], []
        self._inside, self._in_cell = "", False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *attribute) for attribute in attrs]
        self._inside = tag
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._in_cell = True

    def handle_endtag(self, tag):
        self._inside = ""
        if tag in ("td", "th"):
            self._in_cell = False

    def handle_data(self, data):
        if self._inside in ("script", "style"):
            self.scripts.append(data)
            return
        self.texts.append(data)
        if self._in_cell:
            self.rows[-1][-1] += data

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    def table_rows(self):
        return [[" ".join(cell.split()) for cell in row] for row in self.rows]


@pytest.fixture(scope="module")
def result():
    return make_result()


@pytest.fixture(scope="module")
def full(result):
    """The page with everything that it can hold."""
    return page(result, make_rows(result, "image"), mechanisms(result), "hf-cbft evaluate A B")


def test_numbers_on_the_page_are_those_of_the_result(result, full):
    # A page that rounds or mixes up sets is worse than none.
    data, rows = result.to_dict(), Reader(full).table_rows()
    for name, barrier in data["barriers"].items():
        losses, accuracy = data["losses"][name], data["metrics"][name]["accuracy"]
        ends = [f"{values[end]:.3f}" for values in (losses, accuracy) for end in (0, -1)]
        bounds = f"{barrier['low']:.3f} to {barrier['high']:.3f}"
        (found,) = [row for row in rows if row[0] == name and row[-1] == "60"]
        assert found[1].split()[-1] == {True: "yes", False: "no", None: "undecided"}[barrier["connected"]]
        assert found[2:-1] == [f"{barrier['height']:.3f}", bounds, f"{barrier['alpha']:.2f}", *ends]
    for values in (data["losses"], {name: by["accuracy"] for name, by in data["metrics"].items()}):
        for index, alpha in enumerate(data["alphas"]):
            assert [f"{alpha:.4g}", *(f"{by[index]:.3f}" for by in values.values())] in rows


def test_the_chart_has_every_value_and_its_band(result, full):
    chart = json.loads(re.search(r'id="chart">(.*?)</script>', full, re.S)[1])
    loss = {one["name"]: one for one in chart["panels"][0]["sets"]}
    assert {name: one["values"] for name, one in loss.items()} == result.to_dict()["losses"]
    for name, barrier in result.barriers.items():
        low, high = loss_bands(result, name)
        assert (loss[name]["low"], loss[name]["high"]) == (low, high)
        # The verdict comes from this band: its highest bounds over the chord are the barrier's.
        means = result.losses[name]
        chord = (means[0] + (means[-1] - means[0]) * result.alphas)[1:-1]
        for side, bound in ((low, barrier.low), (high, barrier.high)):
            assert (np.array(side[1:-1]) - chord).max() == pytest.approx(bound)


@pytest.mark.parametrize("baseline", ["mean", "max"])
def test_a_band_stands_on_the_baseline_that_was_measured(baseline):
    result = make_result(("cue",), 5, 30, baseline=baseline)
    ends = result.losses["cue"][[0, -1]]
    level = {"mean": ends.mean(), "max": ends.max()}[baseline]
    assert np.nanmax(np.array(loss_bands(result, "cue")[1][1:-1]) - level) == pytest.approx(
        result.barriers["cue"].high
    )


def test_the_policy_allows_this_style_and_script_and_nothing_else(full):
    # A hash that does not match would leave the page bare; a host in it would let the page call home.
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', full)[1].replace("&#39;", "'")
    texts = {kind: re.search(rf"<{kind}>(.*?)</{kind}>", full, re.S)[1] for kind in ("style", "script")}
    hashes = {kind: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for kind, text in texts.items()}
    assert policy.split("; ") == [
        "default-src 'none'",
        f"style-src 'sha256-{hashes['style']}'",
        f"script-src 'sha256-{hashes['script']}'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    assert full.index("Content-Security-Policy") < full.index("<style>")


def test_the_page_refers_to_nothing_outside_itself(full):
    assert len(full.encode()) < 1_000_000
    reader = Reader(full)
    targets = [value for _, name, value in reader.attributes if name in ("src", "href", "data", "action", "srcset")]
    assert targets
    assert all(target.startswith(("data:", "#")) for target in targets)
    assert not re.search(r"https?://|@import|url\(", full)
    # The policy forbids these, so they would be dead.
    assert not [name for _, name, _ in reader.attributes if name == "style" or name.startswith("on")]


def test_hostile_words_stay_words():
    # One unescaped label is a script in a colleague's browser.
    result, rows = hostile_result()
    text = page(result, rows, mechanisms(result), "rm -rf '<script>alert(9)</script>'")
    calm_result = make_result(groups=["land"])
    reader, calm = Reader(text), Reader(page(calm_result, make_rows(calm_result), mechanisms(calm_result), "x"))
    assert set(reader.tags) <= set(calm.tags)
    assert reader.tags.count("script") == 2
    assert reader.tags.count("h1") == 1
    assert {name for _, name, _ in reader.attributes} <= {name for _, name, _ in calm.attributes}
    for words in HOSTILE:
        # A long text is cut on the page.
        assert reader.text.count(seen(words)[:400]) > 5, words
    assert "49" not in [cell for row in reader.table_rows() for cell in row]
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00\x1b]", text)
    chart = json.loads(re.search(r'id="chart">(.*?)</script>', text, re.S)[1])
    assert [seen(one["name"]) for one in chart["panels"][0]["sets"]] == list(map(seen, HOSTILE))


def test_a_path_of_half_a_character_can_be_written(tmp_path):
    # os.fsdecode gives such names, and UTF-8 has no bytes for them.
    make_result(("cue",), 3, 10, start="a\udce9b").report(tmp_path / "page.html", command="a\udce9b")
    assert "a\ufffdb" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_what_is_missing_leaves_no_empty_section():
    text = page(make_result(("data",), 3, 10, predicts=False, metrics=False))
    reader = Reader(text)
    assert reader.tags.count("figure") == 1
    for absent in ("What each end relies on", "Examples that change", "Each group", "None to show"):
        assert absent not in reader.text
    assert "None" not in reader.text.replace("None to show", "")
    assert "ConnectivityEvaluator" in reader.text


def test_sets_without_anything_to_show_are_said_to_have_none():
    result = make_result(("data",), 3, 10)
    rows = {"data": datasets.Dataset.from_dict({"input_ids": [[1]] * 10, "labels": result.references["data"]})}
    assert "None to show: the sets have no image" in Reader(page(result, rows)).text


def test_groups_have_a_table_of_their_own():
    result = make_result(("cue",), 3, 30, groups=["land", "water"])
    rows = Reader(page(result)).table_rows()
    for group, barrier in result.group_barriers["cue"].items():
        (found,) = [row for row in rows if row[:2] == ["cue", group]]
        assert (found[3], found[-1]) == (f"{barrier.height:.3f}", "15")


def test_a_metric_that_is_undefined_somewhere_leaves_a_hole():
    result = make_result(("cue",), 5, 20)
    result.metrics["cue"]["accuracy"][1:3] = np.nan
    text = page(result)
    assert Reader(text).text.count("undefined") >= 2
    assert "NaN" not in text
    assert "nan" not in re.sub("<s(cript|tyle).*?</s(cript|tyle)>", "", text, flags=re.S)
    drawn = panel("F1", "", [0, 0.5, 0.75, 1], {"cue": [0.5, None, 0.5, 0.5]})["sets"][0]["line"]
    assert drawn.count("M") == 2
    assert drawn.count("L") == 1


def test_a_band_without_a_bound_is_not_drawn():
    assert loss_bands(make_result(("cue",), 3, 1), "cue") == ([None] * 3, [None] * 3)
    assert page(make_result(("cue",), 3, 1)).count('class="band"') == 0


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([True, True], "Connected on every set."),
        ([True], "Connected on a."),
        ([False, True, None], "Not connected on a; undecided on c; connected on b."),
        ([False] * 3 + [True], "Not connected on a, b and c; connected on d."),
        ([True] + [None] * 8, "Undecided on b, c, d, e, f, g and 2 more; connected on a."),
    ],
)
def test_the_verdict_is_one_sentence(answers, expected):
    assert verdict({chr(97 + i): {"connected": answer} for i, answer in enumerate(answers)}) == expected


def test_the_verdict_names_the_mechanisms_and_the_conjecture(result):
    report = mechanisms(result)
    assert report.explanation in Reader(page(result, mechanisms=report)).text
    for similar, word in ((True, "are similar."), (False, "are dissimilar."), (None, "are undecided.")):
        assert verdict(result.to_dict()["barriers"], replace(report, similar=similar)).endswith(f"mechanisms {word}")
    assert "is a conjecture of the paper" in Reader(page(result)).text


def test_examples_are_rows_that_change_and_each_kind_takes_its_turn(result):
    found = {one["name"]: one for one in examples(result, make_rows(result))}
    assert list(found) == list(result.losses)
    assert sum(len(one["examples"]) for one in found.values()) == 24
    for name, one in found.items():
        predictions, labels = result.predictions[name], result.references[name]
        changed = {row for row in range(60) if len(set(predictions[:, row])) > 1}
        rows = [row["row"] for row in one["examples"]]
        assert set(rows) <= changed
        assert len(set(rows)) == len(rows) == 6
        assert one["changing"] == len(changed) == sum(one["kinds"].values())
        kinds = [(labels[row] == predictions[0, row], labels[row] == predictions[-1, row]) for row in rows[:4]]
        there = [kind for kind, of_kind in changing(predictions, labels).items() if len(of_kind)]
        assert kinds[: len(there)] == there
        for row, shown in zip(rows, one["examples"], strict=True):
            classes = [run["name"] for run in shown["runs"] for _ in range(run["points"])]
            assert classes == [CLASSES[index] for index in predictions[:, row]]
            assert shown["label"] == CLASSES[labels[row]]
    alone = examples(result, {"cue": make_rows(result)["cue"]})
    assert len(alone[0]["examples"]) == 12


def test_turns_end_where_the_rows_do():
    assert in_turn([[], [7], [1, 2, 3]], 12) == [7, 1, 2, 3]
    assert in_turn([[], []], 12) == []
    assert set(KINDS) == {(a, b) for a in (True, False) for b in (True, False)}


def test_rows_that_were_not_measured_are_refused(result):
    rows = make_rows(result)
    with pytest.raises(ValueError, match="no set 'test': it has no_cue, cue"):
        page(result, {"test": rows["cue"]})
    with pytest.raises(ValueError, match="'cue' has 59 rows and 60 were measured"):
        page(result, {"cue": rows["cue"].select(range(59))})
    with pytest.raises(ValueError, match="labels of the data set 'cue' are not those that were measured"):
        page(result, {"cue": rows["cue"].select(range(59, -1, -1))})


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F"])
def test_a_picture_of_any_mode_becomes_a_small_one(mode):
    image = Image.new(mode, (400, 100)) if mode != "F" else Image.fromarray(np.eye(400, dtype=np.float32) - 5.0)
    image.info["comment"] = b"secret place"
    shown = picture(image)
    data = base64.b64decode(shown["uri"].split(",")[1])
    assert max(Image.open(BytesIO(data)).size) == 112
    assert b"secret" not in data
    assert len(data) < 8_000


def test_long_and_noisy_rows_keep_the_page_small(result):
    # What is shown is bounded in number and in size, whatever the data hold.
    rng = np.random.default_rng(0)
    noisy = Image.fromarray(rng.integers(0, 256, (900, 900, 3), dtype=np.uint8))
    labels = result.references["cue"]
    images = [{"image": noisy, "label": int(label)} for label in labels]
    assert len(page(result, dict.fromkeys(result.losses, images)).encode()) < 1_000_000
    assert len(page(result, make_rows(result, texts=["word " * 50_000])).encode()) < 1_000_000


def test_every_colour_stands_out_from_both_backgrounds():
    # WCAG 1.4.11: a line needs 3 to 1. What axe cannot see in an SVG is computed here.
    style = (Path(hf_cbft.__file__).parent / "reporting" / "templates" / "report.css").read_text()
    for block in re.findall(r":root \{(.*?)\}", style, re.S):
        colours = dict(re.findall(r"--([\w-]+): (#\w{6})", block))
        for index in range(7):
            assert contrast(colours[f"look-{index}"], colours["card"]) >= 3.0, (index, colours["card"])
        for text in ("ink", "quiet", "accent", "yes", "no", "open"):
            assert min(contrast(colours[text], colours[back]) for back in ("card", "page")) >= 4.5
    light = dict(re.findall(r"--([\w-]+): (#\w{6})", style[: style.index("@media")]))
    # The four usual sets look as in the pictures, darkened where white asks for it.
    assert [light["look-0"], light["look-1"]] == [SET_STYLES[n]["color"].lower() for n in ("no_cue", "cue")]


def contrast(one, other):
    def luminance(colour):
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return np.dot(linear, (0.2126, 0.7152, 0.0722))

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_sets_of_any_name_have_looks_of_their_own():
    assert looks(["cue", "other", "no_cue", "more"]) == {"no_cue": 0, "cue": 1, "other": 2, "more": 3}
    assert len(set(looks([str(index) for index in range(7)]).values())) == 7
    assert set(looks([str(index) for index in range(20)]).values()) == set(range(7))


@pytest.mark.parametrize(
    "values", [[0.0, 0.0, 0.0], [1e-9, 3e-9, 2e-9], [-2.0, 5.0, 1e6], [0.5, 0.9, 1.0], [-3.0] * 3]
)
def test_axes_hold_their_values(values):
    drawn = panel("Loss", "nats", [0, 0.5, 1], {"cue": values})
    frame = drawn["frame"]
    assert all(frame["top"] - 0.01 <= y <= frame["bottom"] + 0.01 for y in drawn["sets"][0]["y"])
    labels = [tick["label"] for tick in drawn["y_ticks"]]
    assert 2 <= len(labels) <= 8
    assert len(set(labels)) == len(labels)


def test_the_code_on_the_page_measures_the_same_way():
    # The snippet is the reproduction for whoever measured from Python.
    result = make_result(("cue",), 5, 20, tolerance=0.25, seed=7, dtype="bfloat16", calibration_rows=12)
    text = Reader(page(result)).text
    assert "evaluator = ConnectivityEvaluator( 'models/pretrained', 'models/fine-tuned', batch_size=32," in text
    for part in ("tolerance=0.25", "seed=7", "dtype='bfloat16'", "num_points=5", "calibration_dataset="):
        assert part in text
    code = re.search(r"<code>(from hf_cbft.*?)</code>", page(result), re.S)[1].replace("&#39;", "'")
    compile(code, "page", "exec")


def test_the_file_is_checked_before_anything_is_measured(tmp_path):
    with pytest.raises(IsADirectoryError, match=r"is a folder: name a file in it, such as .*report\.html"):
        check_report_file(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"would lie in .*missing, which is no folder: make it first"):
        check_report_file(tmp_path / "missing" / "page.html")
    with pytest.raises(ValueError, match=r"page\.pdf is an HTML page: give its name the ending \.html"):
        check_report_file(tmp_path / "page.pdf")
    check_report_file(tmp_path / "new" / "page.html", new_folder=tmp_path / "new")


def test_a_page_that_fails_leaves_the_earlier_one(tmp_path, result):
    file = tmp_path / "page.html"
    file.write_text("earlier")
    with pytest.raises(ValueError, match="were measured"):
        result.report(file, {"cue": make_rows(result)["cue"].select(range(3))})
    assert file.read_text() == "earlier"
    assert [one.name for one in tmp_path.iterdir()] == ["page.html"]
    result.report(file)
    assert file.read_text().startswith("<!doctype html>")
