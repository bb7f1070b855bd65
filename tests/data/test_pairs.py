"""Pairs of texts: what is read from each kind of file, and how documents are split."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from onejump.base.errors import CorpusError
from onejump.base.fetch import fetch_files_from_wheel
from onejump.data.pair_files import PairedDocument, read_dataset_pairs, read_pairs
from onejump.data.pairs import split_pairs

CATALOGUE = """
msgid ""
msgstr ""
"Content-Type: text/plain; charset=UTF-8\\n"
"Plural-Forms: nplurals=2; plural=n != 1;\\n"
"PO-Revision-Date: YEAR-MO-DA HO:MI +ZONE\\n"

#: app/views.py:12 app/forms.py:3
msgid "Save the page"
msgstr "Die Seite speichern"

#: app/views.py:40
msgid "%d file"
msgid_plural "%d files"
msgstr[0] "%d Datei"
msgstr[1] "%d Dateien"

#, fuzzy
msgid "Guessed"
msgstr "Geraten"

msgid "Not yet translated"
msgstr ""

msgid "No place"
msgstr "Kein Ort"
"""
MEMORY = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE tmx SYSTEM "tmx14.dtd">
<tmx version="1.4"><header srclang="en"/><body>
<tu><tuv xml:lang="EN-gb">
<seg>Two <bpt i="1">&lt;b&gt;</bpt>green<ept i="1">&lt;/b&gt;</ept> stones</seg></tuv>
<tuv xml:lang="de"><seg>Zwei gr&#xFC;ne Steine</seg></tuv></tu>
<tu><tuv xml:lang="en"><seg>Only English</seg></tuv><tuv xml:lang="fr"><seg>Pas d'allemand</seg></tuv></tu>
</body></tmx>"""


def test_messages_of_a_catalogue_belong_to_their_source_file(tmp_path: Path) -> None:
    (tmp_path / "de.po").write_text(CATALOGUE, encoding="utf-8")
    assert list(read_pairs(tmp_path, "msgid", "msgstr")) == [
        PairedDocument(
            "de.po#app/views.py", [("Save the page", "Die Seite speichern"), ("%d file", "%d Datei")]
        ),
        PairedDocument("de.po", [("No place", "Kein Ort")]),
    ]
    (turned, _) = read_pairs(tmp_path, "msgstr", "msgid")
    assert turned.pairs[0] == ("Die Seite speichern", "Save the page")
    with pytest.raises(CorpusError, match=r"'text' and 'de' given .* a .po file has msgid and msgstr"):
        list(read_pairs(tmp_path, "text", "de"))


def test_units_of_a_translation_memory_are_read_by_language(tmp_path: Path) -> None:
    (tmp_path / "m.tmx").write_text(MEMORY, encoding="utf-8")
    expected = [PairedDocument("m.tmx#0", [("Two green stones", "Zwei grüne Steine")])]
    assert list(read_pairs(tmp_path / "m.tmx", "en", "de")) == expected


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (MEMORY.replace('"tmx14.dtd"', '"x" [<!ENTITY a "aaaa">]'), "declares the XML entity 'a'"),
        (
            MEMORY.replace('"tmx14.dtd"', '"x" [<!ENTITY b SYSTEM "/a/file">]'),
            "declares the XML entity 'b'",
        ),
        (MEMORY.replace("</body>", ""), "no XML at line 8"),
    ],
)
def test_a_translation_memory_with_entities_or_damage_is_refused(
    tmp_path: Path, content: str, said: str
) -> None:
    (tmp_path / "m.tmx").write_text(content, encoding="utf-8")
    with pytest.raises(CorpusError, match=said):
        list(read_pairs(tmp_path / "m.tmx", "en", "de"))


RECORDS = [
    {"translation": {"en": "one", "de": "eins"}, "en": "a", "de": "b", "x.y": "z"},
    {"translation": {"en": ["two", "three"], "de": ["zwei", "drei"]}, "en": "c", "de": "d", "x.y": "z"},
]


def test_records_are_documents_with_nested_keys_and_lists(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, RECORDS)), encoding="utf-8")
    (tmp_path / "b.json").write_text(json.dumps({"first": RECORDS[0]}), encoding="utf-8")
    pd.DataFrame({"translation": [RECORDS[0]["translation"]], "en": ["a"]}).to_parquet(tmp_path / "c.parquet")
    (tmp_path / "d.txt").write_text("no pairs", encoding="utf-8")
    assert list(read_pairs(tmp_path, "translation.en", "translation.de")) == [
        PairedDocument("a.jsonl#1", [("one", "eins")]),
        PairedDocument("a.jsonl#2", [("two", "zwei"), ("three", "drei")]),
        PairedDocument("b.json#first", [("one", "eins")]),
        PairedDocument("c.parquet#0", [("one", "eins")]),
    ]
    assert [document.pairs for document in read_pairs(tmp_path / "a.jsonl", "en", "x.y")] == [
        [("a", "z")],
        [("c", "z")],
    ]


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"en": "one"}, "m.jsonl#1: no 'de'; there is: en"),
        ({"en": "one", "de": 1}, "'en' and 'de' hold str and int, two strings or"),
        ({"en": ["one"], "de": ["eins", "zwei"]}, "hold 1 and 2 texts, two strings or"),
        ("one", "m.jsonl#1: no 'en'; there is: no object"),
    ],
)
def test_a_record_without_a_pair_is_refused(tmp_path: Path, record: object, said: str) -> None:
    (tmp_path / "m.jsonl").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(CorpusError, match=said):
        list(read_pairs(tmp_path / "m.jsonl", "en", "de"))


def test_a_dataset_has_a_pair_in_each_row(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list([{"translation": {"en": "one", "de": "eins"}}]).save_to_disk(tmp_path / "d")
    read = read_dataset_pairs(str(tmp_path / "d"), None, "train", "translation.en", "translation.de")
    assert list(read) == [PairedDocument("train#0", [("one", "eins")])]
    with pytest.raises(CorpusError, match="no column 'fr'; there is: translation"):
        list(read_dataset_pairs(str(tmp_path / "d"), None, "train", "fr", "translation.de"))


def some_documents(count: int) -> list[PairedDocument]:
    return [
        PairedDocument(f"d{number}", [(f"source {number} {i}", f"target {number} {i}") for i in range(4)])
        for number in range(count)
    ]


def test_pairs_stay_together_and_documents_are_split() -> None:
    table = split_pairs(some_documents(60), training=90, validation=30, min_characters=1)
    assert table["split"].value_counts().to_dict() == {"training": 90, "validation": 30}
    assert (table["sentence"].str.replace("source", "target") == table["target"]).all()
    of_splits = table.groupby("split")["document"].agg(set)
    assert not of_splits["training"] & of_splits["validation"]
    assert table["sentence"].is_unique


def test_a_source_is_drawn_once_and_the_order_of_documents_does_not_matter() -> None:
    documents = some_documents(60)
    documents[1] = PairedDocument("d1", [("source 0 0", "another target"), ("too\x00bad", "damaged")])
    tables = [
        split_pairs(given, training=60, validation=20, min_characters=1, seed=3)
        for given in (documents, documents[::-1])
    ]
    pd.testing.assert_frame_equal(*tables)
    assert tables[0]["sentence"].is_unique
    assert not tables[0]["target"].eq("damaged").any()
    with pytest.raises(CorpusError, match=r"too few pairs: .* of the 999 pairs asked for training"):
        split_pairs(documents, training=999, validation=20, min_characters=1)


def test_short_and_long_texts_leave_out_their_pair() -> None:
    document = PairedDocument("d", [("a long source", "t"), ("a long source 2", "a target"), ("s", "target")])
    with pytest.raises(CorpusError, match=r"1 of the 5 pairs|0 of the 5 pairs"):
        split_pairs([document], training=5, validation=5, min_characters=2)


def test_several_files_of_a_wheel_are_fetched_by_a_pattern(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import zipfile

    from onejump.base import fetch

    names = ["p/a/locale/de/x.po", "p/locale/de/y.po", "p/a/locale/fr/x.po", "q/locale/de/x.po"]
    with zipfile.ZipFile(tmp_path / "p.whl", "w") as archive:
        for name in names:
            archive.writestr(name, name)
    monkeypatch.setattr(fetch, "_download", lambda requirement, folder: tmp_path / "p.whl")
    fetch_files_from_wheel("p==1", "p/**/locale/de/*.po", tmp_path / "out")
    found = sorted(file for file in (tmp_path / "out").rglob("*") if file.is_file())
    assert [file.relative_to(tmp_path / "out").as_posix() for file in found] == names[:2]
    assert [file.read_text(encoding="utf-8") for file in found] == names[:2]
    with pytest.raises(Exception, match=r"no file z/\*.po in p.whl"):
        fetch_files_from_wheel("p==1", "z/*.po", tmp_path / "other")
    with pytest.raises(Exception, match=r"has the SHA-256 [0-9a-f]{64}, expected was 00"):
        fetch_files_from_wheel("p==1", "p/**/*.po", tmp_path / "other", sha256="00")
    assert not (tmp_path / "other").exists()
