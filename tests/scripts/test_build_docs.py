"""The checks of the built site find what they are for."""

from helpers.scripts_under_test import script

build_docs = script("build_docs")


def write(folder, **pages):
    for name, body in pages.items():
        (folder / f"{name}.html").write_text(f"<html><body>{body}</body></html>", encoding="utf-8")


def test_what_is_loaded_from_another_host_is_counted(tmp_path):
    write(
        tmp_path,
        good='<a href="https://arxiv.org/abs/2309.11523">paper</a><img src="a.png"><script src="b.js"></script>',
        bad='<img src="https://host/a.png"><script src="//host/b.js"></script><p style="background: url(http://host/c)">',
    )
    (tmp_path / "site.css").write_text('@import "https://host/d.css"; a { background: url("e.png") }', encoding="utf-8")
    assert build_docs.external_assets(tmp_path) == [
        "bad.html: https://host/a.png",
        "bad.html: //host/b.js",
        "bad.html: http://host/c",
        "site.css: https://host/d.css",
    ]


def test_links_that_lead_nowhere_are_found(tmp_path):
    write(
        tmp_path,
        one='<h1 id="top">1</h1><a href="two.html#there">2</a><a href="#top">1</a><a href="mailto:a@b">m</a>',
        two='<a id="there" href="one.html#gone">1</a><a href="three.html">3</a><a href="/one.html">root</a>',
    )
    assert build_docs.broken_links(tmp_path) == [
        "two.html: one.html#gone",
        "two.html: three.html",
        "two.html: /one.html",
    ]


def test_public_names_without_a_description_are_counted(tmp_path):
    (tmp_path / "reference").mkdir()
    write(tmp_path / "reference", python='<dt id="rmt.load">load</dt><dt id="rmt.not_public">x</dt>')
    names, missing = build_docs.documented(tmp_path)
    assert names - missing == {"rmt.load"} and len(names) > 80 and "rmt.inference.detect.Detections" in missing
