"""What the browser says of a page that has every fault that it looks for, and of one that has none."""

import pytest

from .browser import find_faults

HEAD = '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>A page</title>'
HEAD += '<meta name="viewport" content="width=device-width, initial-scale=1">'
SOUND = f"""{HEAD}</head><body><h1>A page</h1><p>Some <a href="#here">text</a>.</p>
<table><tr><th>name</th><td style="background: #def">1</td></tr></table>
<img alt="a dot" src="data:image/gif;base64,R0lGODlhAQABAIAAAAUEBAAAACwAAAAAAQABAAACAkQBADs=">
<details open><summary>more</summary><p>text</p></details></body></html>"""


@pytest.fixture
def faults(browser, tmp_path):
    def find(old="", new=""):
        assert old in SOUND
        (tmp_path / "page.html").write_text(SOUND.replace(old, new))
        return find_faults(browser, tmp_path / "page.html")

    return find


def test_a_sound_page_has_no_faults(faults):
    assert faults() == set()


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("<p>", '<p style="color: #777; background: #fdfdfd">', "desk: contrast 4.40: Some"),
        ("<p>", '<p style="color: rgb(0 0 0 / 40%)">', "desk: contrast 2.85: Some"),
        ("<p>", '<p style="width: 600px">', "phone: 608 pixels wide"),
        ("<p>", '<p style="width: 1000px">', "paper: 1008 pixels wide"),
        (
            "</head>",
            "<style>@media (prefers-color-scheme: dark) { p { color: #eee }}</style></head>",
            "dark: contrast",
        ),
        ("<a ", '<a style="text-decoration: none" ', "desk: a link by colour alone: text"),
        (">1<", "><", "desk: a cell speaks by colour alone"),
        (">1<", "><div style='width: 3em; overflow-wrap: anywhere'>unweighted</div><", "desk: broken: unweighted"),
        ('alt="a dot"', "", "desk: an image has no alt text"),
        ("base64,R0", "base64,AA", "desk: does not decode: a dot"),
        ("data:image/gif", "https://example.org/", "desk: network: https://example.org/"),
        ("<details open>", "<details>", "paper: hidden details"),
        ("</body>", "<script>console.log('so')</script></body>", "desk: console: [{'type': 'string', 'value': 'so'}]"),
        ("</body>", "<script>throw 'so'</script></body>", "desk: console: Uncaught"),
    ],
)
def test_every_fault_is_seen(old, new, fault, faults):
    assert any(found.startswith(fault) for found in faults(old, new)), faults(old, new)
