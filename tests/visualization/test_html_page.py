"""The page: nothing in it runs or loads but its own script; and what a browser makes of it."""

import base64
import html
import io
import json
import re

import numpy as np
import pytest
from browser import Browser
from PIL import Image

from vrd_d2.scene_graph import SceneGraph
from vrd_d2.visualization.canvas import entity_colour
from vrd_d2.visualization.html_page import GraphPage, graph_page, in_frame

PHOTO = np.full((300, 400, 3), 90, np.uint8)
EVIL = '</script><img src=x onerror="window.hacked=1"> <!-- & \' \u2028'


def rider(**changes) -> SceneGraph:
    """A man, a horse, a hat and a tree without relation."""
    content = {
        "boxes": np.array(
            [[40.0, 60, 150, 280], [200, 80, 380, 290], [60, 50, 110, 90], [5, 5, 35, 45]]
        ),
        "labels": ["man", "horse", "hat", "tree"],
        "relations": [(0, 1, "riding"), (0, 2, "wearing"), (1, 0, "under")],
        "scores": [0.5, 0.25, 0.125],
        "entity_scores": [0.9, 0.8, 0.7, 0.6],
    }
    return SceneGraph(**{**content, **changes})


def data_of(page: str) -> list[dict]:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    return json.loads(text)["images"]


def test_the_page_holds_image_and_graph():
    page = graph_page([GraphPage(rider().view(), PHOTO, "a.jpg", ["the first of 3 images"])])
    (content,) = data_of(page)
    assert content["facts"] == "400 × 300 pixels · 4 objects · the first of 3 images"
    assert [entity["name"] for entity in content["entities"]] == ["man", "horse", "hat", "tree"]
    assert [r["predicate"] for r in content["relations"]] == ["riding", "wearing", "under"]
    # 900 / 400 = 2.25 units a pixel
    assert content["overlay"]["boxes"][0] == [90, 135, 247.5, 495]
    assert sorted(content["overlay"]["chips"]) == ["0", "1", "2", "3"]
    assert sorted(content["graph"]["chips"]) == ["0", "1", "2"]
    head, _, encoded = content["image"].partition(",")
    assert head == "data:image/jpeg;base64"
    embedded = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))))
    assert embedded.shape == PHOTO.shape and np.abs(embedded.astype(int) - 90).max() < 4


def test_heat_maps_are_layers_with_transparency():
    heat = np.zeros((3, 4))
    heat[1, 2] = 1
    (content,) = data_of(
        graph_page([GraphPage(rider().view(), PHOTO, "a.jpg", heat_maps={1: heat})])
    )
    assert ["heat" in relation for relation in content["relations"]] == [False, True, False]
    head, _, encoded = content["relations"][1]["heat"].partition(",")
    assert head == "data:image/png;base64"
    layer = np.asarray(Image.open(io.BytesIO(base64.b64decode(encoded))).convert("RGBA"))
    assert layer.shape == (3, 4, 4)
    # Nothing where there is no heat; red, and still transparent, where it is greatest.
    assert layer[..., 3].astype(bool).tolist() == (heat > 0).tolist()
    red, green, blue, opacity = layer[1, 2].tolist()
    assert red > 100 > max(green, blue) and 100 < opacity < 200


def test_nothing_is_loaded_from_anywhere():
    page = graph_page([GraphPage(rider().view(), PHOTO, "a.jpg")])
    addresses = set(re.findall(r"(?:https?:)?//[\w.-]+[^\s\"'`]*", page.split('id="data"')[0]))
    addresses |= set(re.findall(r"https?://[^\s\"']+", page))
    assert addresses <= {"http://www.w3.org/2000/svg"}  # the name of a namespace
    assert not re.findall(r"(?:src|href)\s*=\s*[\"']", page)
    assert "default-src 'none'" in page


def test_strings_are_escaped():
    graph = rider(labels=[EVIL, "horse", "hat", "tree"], relations=[(0, 1, EVIL)], scores=[1.0])
    page = graph_page([GraphPage(graph.view(), PHOTO, EVIL, [EVIL])])
    assert page.count("</script>") == 2 and "<img" not in page and "<!--" not in page
    assert f"<title>{html.escape(EVIL)}</title>" in page
    (image,) = data_of(page)
    assert image["title"] == EVIL and image["relations"][0]["predicate"] == EVIL
    # What looks like a placeholder of the template is not filled in.
    assert (
        data_of(graph_page([GraphPage(rider().view(), PHOTO, "{{DATA}}")]))[0]["title"]
        == "{{DATA}}"
    )


@pytest.mark.parametrize(
    "shape, graph",
    [
        ((300, 400), rider(relations=[], scores=[])),
        ((300, 400), SceneGraph(np.zeros((0, 4)), [], [], [], [], (400, 300))),
        ((1, 1), rider(scores=None, entity_scores=None)),
        ((4000, 30), rider(scores=[None, float("nan"), 1.0])),
        ((30, 4000), rider(relations=[(0, 0, "on"), (0, 1, "on"), (0, 1, "near", "missed")])),
    ],
)
def test_every_graph_makes_a_page(shape, graph):
    (image,) = data_of(graph_page([GraphPage(graph.view(), np.zeros((*shape, 3), np.uint8), "x")]))
    assert len(image["entities"]) == len(graph.labels)
    assert len(image["relations"]) == len(graph.relations)
    assert (image["graph"] is None) == (not graph.labels)


def test_the_frame_holds_the_page_and_runs_nothing_outside():
    page = in_frame('<p title="a">it\'s</p>')
    assert 'srcdoc="&lt;p title=&quot;a&quot;&gt;it&#x27;s&lt;/p&gt;"' in page
    assert 'sandbox="allow-scripts"' in page


def test_a_graph_makes_its_own_page_and_shows_in_notebooks(tmp_path):
    file = tmp_path / "a <b>.png"
    Image.fromarray(PHOTO).save(file)
    graph = rider(file_name=str(file))
    assert graph.to_html() == graph_page([GraphPage(graph.view(), PHOTO, "a <b>.png")])
    own = rider().to_html(PHOTO, title="street")
    assert "<title>street</title>" in own and len(data_of(own)[0]["relations"]) == 3
    assert graph._repr_html_() == in_frame(graph.to_html())
    # Without its image a notebook falls back to the text.
    assert rider()._repr_html_() is None
    file.unlink()
    assert graph._repr_html_() is None
    with pytest.raises(ValueError, match="image"):
        rider().to_html()


def test_a_page_needs_an_image():
    with pytest.raises(ValueError, match="image"):
        graph_page([])


@pytest.fixture
def show(browser, tmp_path):
    def open_page(*pages: GraphPage) -> Browser:
        file = tmp_path / "images of mine #1.html"
        file.write_text(graph_page(pages), encoding="utf-8")
        browser.open(file)
        browser.point(None)
        browser.messages()
        return browser

    return open_page


def lit(browser: Browser, where: str) -> list[str]:
    """Texts of what is lit up; of a box, the words when it is pointed at."""
    found = browser.run(
        """return [...document.querySelectorAll(arguments[0] + ' .lit:not(.off)')]
           .filter((e) => getComputedStyle(e).display !== 'none')
           .map((e) => (e.querySelector('text') || e).textContent)""",
        where,
    )
    return sorted(text for text in found if text)


def rows(browser: Browser) -> list[str]:
    return browser.run("""return [...document.querySelectorAll('.row:not(.off)')]
           .map((row) => [...row.children].map((cell) => cell.textContent).join(' '))""")


def test_browser_shows_the_graph_and_no_error(show):
    browser = show(GraphPage(rider().view(), PHOTO, "a.jpg"))
    assert rows(browser) == [
        "man riding horse 0.50",
        "man wearing hat 0.25",
        "horse under man 0.13",
    ]
    loaded = "return document.querySelector('#image image').getBoundingClientRect().width > 300"
    assert browser.run(loaded)
    # The box is where it belongs: the man reaches from 40 to 150 of 400 pixels.
    assert browser.run("""const width = (e) => e.getBoundingClientRect().width;
           const whole = width(document.querySelector('image'));
           return [...document.querySelectorAll('.box')]
             .some((e) => Math.abs(width(e) / whole - 110 / 400) < 0.01)""")
    assert browser.messages() == []
    assert browser.run("return document.getElementById('picker').className") == "off"
    assert browser.run("return document.querySelectorAll('.mapped').length") == 0
    # Names on the image, in the graph and in the list, to be seen in their colours.
    seen = browser.screenshot("page")
    for entity in range(3):
        assert (seen == entity_colour(entity)).all(-1).sum() > 1000


def test_pointing_at_a_relation_shows_its_heat_map(show):
    browser = show(
        GraphPage(rider().view(), PHOTO, "a.jpg", heat_maps={0: np.eye(3), 1: np.ones((2, 2))}),
        GraphPage(rider().view(), PHOTO, "b.jpg"),
    )
    state = """const layer = document.querySelector('.heat'), area = (e) => {
                 const r = e.getBoundingClientRect(); return [r.x, r.y, r.width, r.height]; };
               if (getComputedStyle(layer).display === 'none') return null;
               const whole = area(document.querySelector('image'));
               return [layer.getAttribute('href'), area(layer).every((v, i) => v === whole[i])]"""
    heat = [
        r.get("heat")
        for r in data_of(browser.run("return document.body.outerHTML"))[0]["relations"]
    ]
    assert browser.run(state) is None
    assert browser.run("return document.querySelectorAll('.mapped').length") == 2
    seen = []
    for number in (1, 2, 3):
        browser.point(browser.find(f"li:nth-child({number}) .row"))
        seen.append(browser.run(state))
    assert seen == [[heat[0], True], [heat[1], True], None]
    browser.click(browser.find("li:nth-child(1) .row"))
    browser.point(None)
    assert browser.run(state) == [heat[0], True]  # as long as it is pinned
    browser.click(browser.find("#heat"))
    assert browser.run(state) is None
    browser.click(browser.find("#next"))
    hidden = "return getComputedStyle(document.getElementById('heat-choice')).display === 'none'"
    assert browser.run(hidden) and browser.messages() == []


def test_pointing_lights_up_image_graph_and_list(show):
    browser = show(GraphPage(rider().view(), PHOTO, "a.jpg"))
    browser.point(browser.find(".row"))
    assert lit(browser, "#list") and "riding" in lit(browser, "#list")[0]
    assert lit(browser, "#graph") == ["horse", "man", "riding"]
    assert [t for t in lit(browser, "#image") if "(" not in t] == ["horse", "man", "riding"]
    browser.point(None)
    assert lit(browser, "body") == []
    node = browser.run("""return [...document.querySelectorAll('#graph .name')]
           .find((e) => e.querySelector('text').textContent === 'hat')""")
    browser.point(node)
    assert lit(browser, "#graph") == ["hat", "man", "wearing"]
    assert len(lit(browser, "#list")) == 1


def test_keyboard_alone(show):
    browser = show(GraphPage(rider().view(), PHOTO, "a.jpg"))
    browser.run("document.querySelector('.row').focus()")
    assert lit(browser, "#graph") == ["horse", "man", "riding"]
    browser.press("Down")
    assert lit(browser, "#graph") == ["hat", "man", "wearing"]
    browser.press("Enter")
    browser.run("document.activeElement.blur()")
    assert lit(browser, "#graph") == ["hat", "man", "wearing"]  # pinned
    assert browser.run("return document.querySelectorAll('.row[aria-pressed=true]').length") == 1
    browser.press("Escape")
    assert lit(browser, "body") == []
    browser.run("document.querySelector('#graph .entity').focus()")
    browser.press("Enter")
    browser.run("document.activeElement.blur()")
    assert "man" in lit(browser, "#graph")
    # Everything that can be clicked can be reached by Tab, and has a name that is read out.
    assert browser.run("""return [...document.querySelectorAll('#graph .entity')]
           .every((e) => e.tabIndex === 0 && /relations?$/.test(e.getAttribute('aria-label')))""")


def test_sliders_and_search_choose_what_is_shown(show):
    browser = show(GraphPage(rider().view(), PHOTO, "a.jpg"))
    change = """const field = document.getElementById(arguments[0]);
                if (field.type === 'checkbox') field.checked = arguments[1];
                else field.value = arguments[1];
                field.dispatchEvent(new Event('input'))"""
    visible = """return [...document.querySelectorAll(arguments[0] + ' .name:not(.off) text')]
                 .map((e) => e.textContent).sort()"""
    assert browser.run(visible, "#image") == ["hat", "horse", "man"]
    browser.run(change, "top", 1)
    assert rows(browser) == ["man riding horse 0.50"]
    assert browser.run("return document.getElementById('count').textContent") == "1 of 3 relations"
    assert browser.run(visible, "#graph") == browser.run(visible, "#image") == ["horse", "man"]
    browser.run(change, "top", 3)
    browser.run(change, "score", 400)  # of 1000, of the greatest score 0.5
    assert len(rows(browser)) == 2
    browser.run(change, "score", 0)
    browser.run(change, "find", "WEAR")
    assert rows(browser) == ["man wearing hat 0.25"]
    browser.run(change, "find", "")
    browser.run(change, "all", True)
    assert browser.run(visible, "#image") == ["hat", "horse", "man", "tree"]


def test_picker_changes_the_image(show):
    other = rider(labels=["cat", "mat", "rat", "bat"], relations=[(0, 1, "on")], scores=[1.0])
    browser = show(
        GraphPage(rider().view(), PHOTO, "a.jpg"), GraphPage(other.view(), PHOTO, "b.jpg")
    )
    assert browser.run("return document.title") == "a.jpg"
    browser.click(browser.find("#next"))
    assert browser.run("return document.title") == "b.jpg" and rows(browser) == ["cat on mat 1.0"]
    browser.run("""const picker = document.getElementById('images'); picker.value = 0;
           picker.dispatchEvent(new Event('change'))""")
    assert len(rows(browser)) == 3


def test_browser_runs_nothing_of_the_strings(show):
    graph = rider(labels=[EVIL, "horse", "hat", "tree"], relations=[(0, 1, EVIL)], scores=[1.0])
    browser = show(GraphPage(graph.view(), PHOTO, EVIL, [EVIL]))
    assert browser.run("return window.hacked === undefined && document.images.length === 0")
    assert len(rows(browser)) == 1 and browser.messages() == []


def test_browser_shows_an_image_without_objects(show):
    empty = SceneGraph(np.zeros((0, 4)), [], [], [], [], (400, 300))
    browser = show(
        GraphPage(empty.view(), PHOTO, "a.jpg"), GraphPage(rider().view(), PHOTO, "b.jpg")
    )
    assert browser.run("return document.getElementById('count').textContent") == "0 relations"
    browser.click(browser.find("#next"))
    assert len(rows(browser)) == 3 and browser.messages() == []
