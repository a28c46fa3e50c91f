"""Rows and filters that the suite asks every backend about."""

from __future__ import annotations

from typing import Any

FILTER_ROWS: list[dict[str, Any]] = [
    {},
    {"lang": "en", "year": 1999, "price": 9.5, "tags": ["a", "b"], "ok": True},
    {"lang": "de", "year": 2004, "price": 10, "tags": ["b"], "ok": False},
    {"lang": "en", "year": 2020, "price": 0.0, "tags": [], "ok": True},
    {"lang": "fr", "year": 2020, "price": -3.25, "tags": ["c", "a", "d"], "ok": False},
    {"lang": "", "year": 0, "price": 1e300, "tags": ["ä", "b c"]},
    {"lang": None, "year": None, "tags": None, "ok": None},
    {"author": {"name": "Ada", "born": 1815, "links": {"site": "x"}}, "lang": "en"},
    {"author": {"name": "Grace", "born": 1906}, "lang": "en", "year": 2004},
    {"author": {"name": None}, "year": 2021},
    {"author": {}, "date": "2024-02-29"},
    {"date": "2023-12-31T23:59:59", "lang": "EN"},
    {"date": "", "lang": "Straße"},
    {"flag": 1, "mixed": [1, "1", True, None, 1.5]},
    {"flag": True, "mixed": [True]},
    {"flag": 1.0, "mixed": [1.0]},
    {"flag": "1", "mixed": ["1"]},
    {"flag": 0, "mixed": [[1], {"a": 1}]},
    {"flag": False, "mixed": [0]},
    {"note": "a 100% sure _thing_ 'quoted' \"twice\" \\ back", "x y": 1},
    {"note": "İstanbul ÇOK güzel", "x y": 2},
    {"note": "new\nline\ttab", "ключ": "значение"},
    {"big": 2**53 + 1, "small": -(2**63)},
    {"big": 2**53, "small": 5e-324},
    {"a.b": 1, "a": {"b": 2}},
    {"deep": {"er": {"est": [1, {"k": "v"}]}}},
    {"list": [1, 2], "dict": {"k": [1]}},
    {"list": [2, 1], "dict": {"k": [1.0]}},
    {"list": [1, 2.0], "dict": {}},
    {"lang": "en", "year": 2020, "tags": ["a"], "ok": True, "price": 10.0},
]
"""Metadata of the rows that filters are tried on."""

FILTERS: list[dict[str, Any]] = [
    # one operator each
    {"lang": "en"},
    {"lang": {"$eq": ""}},
    {"lang": None},
    {"year": 2020},
    {"price": 10},
    {"ok": True},
    {"flag": 1},
    {"flag": True},
    {"flag": 0},
    {"flag": False},
    {"flag": "1"},
    {"tags": {"$eq": []}},
    {"list": [1, 2]},
    {"dict": {"$eq": {"k": [1]}}},
    {"dict": {"$eq": {}}},
    {"lang": {"$ne": "en"}},
    {"lang": {"$ne": None}},
    {"nowhere": {"$ne": 1}},
    {"year": {"$gt": 2004}},
    {"year": {"$gte": 2004}},
    {"year": {"$lt": 2004}},
    {"year": {"$lte": 2004.0}},
    {"price": {"$gt": -3.25}},
    {"price": {"$lt": 1e300}},
    {"big": {"$gt": 2**53}},
    {"big": 2**53},
    {"small": {"$lt": 0}},
    {"date": {"$gte": "2023-12-31"}},
    {"date": {"$lt": "2024"}},
    {"lang": {"$in": ["de", "fr"]}},
    {"lang": {"$in": ["de", None]}},
    {"flag": {"$in": [1, "1"]}},
    {"year": {"$in": []}},
    {"lang": {"$nin": ["en", "de"]}},
    {"lang": {"$nin": []}},
    {"year": {"$exists": True}},
    {"year": {"$exists": False}},
    {"author.links.site": {"$exists": True}},
    {"tags": {"$contains": "a"}},
    {"tags": {"$contains": "b c"}},
    {"mixed": {"$contains": 1}},
    {"mixed": {"$contains": True}},
    {"mixed": {"$contains": "1"}},
    {"mixed": {"$contains": None}},
    {"mixed": {"$contains": {"a": 1}}},
    {"lang": {"$contains": "en"}},
    {"tags": {"$any": ["d", "ä"]}},
    {"tags": {"$any": []}},
    {"mixed": {"$any": [0, 1.5]}},
    {"tags": {"$all": ["a", "b"]}},
    {"tags": {"$all": []}},
    {"tags": {"$all": ["a"]}},
    {"note": {"$text": "100% sure _"}},
    {"note": {"$text": "'quoted'"}},
    {"note": {"$text": "\\"}},
    {"note": {"$text": ""}},
    {"note": {"$text": "çok"}},
    {"note": {"$itext": "çok"}},
    {"lang": {"$itext": "STRASSE"}},
    {"lang": {"$itext": "En"}},
    {"tags": {"$is_empty": True}},
    {"tags": {"$is_empty": False}},
    {"lang": {"$is_empty": True}},
    {"author": {"$is_empty": True}},
    # paths
    {"author.name": "Ada"},
    {"author.name": {"$is_empty": True}},
    {"author.born": {"$lt": 1900}},
    {"author": {"$exists": True}},
    {"author.name": {"$ne": "Ada"}},
    {"a.b": 2},
    {"a.b": 1},
    {"x y": {"$gte": 2}},
    {"ключ": "значение"},
    {"deep.er.est": {"$contains": {"k": "v"}}},
    {"deep.er.est": {"$contains": 1}},
    # several on one field, several fields
    {"year": {"$gte": 2004, "$lt": 2021}},
    {"lang": "en", "ok": True},
    {"lang": {"$ne": "de"}, "year": {"$gt": 1999}, "tags": {"$contains": "a"}},
    # nested
    {"$and": [{"lang": "en"}, {"year": {"$gt": 2000}}]},
    {"$or": [{"lang": "de"}, {"year": 1999}, {"author.name": "Grace"}]},
    {"$not": {"lang": "en"}},
    {"$not": {"year": {"$gt": 2004}}},
    {"year": {"$not": {"$gte": 2004, "$lt": 2021}}},
    {"$not": {"$or": [{"lang": "en"}, {"flag": {"$exists": True}}]}},
    {"$or": [{"$and": [{"lang": "en"}, {"$not": {"ok": True}}]}, {"tags": {"$all": ["c", "d"]}}]},
    {
        "$and": [
            {"$or": [{"year": {"$exists": False}}, {"year": {"$lt": 2000}}]},
            {"$not": {"lang": {"$exists": False}}},
        ]
    },
    {"$not": {"$not": {"$not": {"tags": {"$is_empty": True}}}}},
    {"$or": [{"note": {"$text": "quoted"}}, {"lang": "fr"}]},
    {"$and": [{"note": {"$itext": "NEW"}}, {"ключ": {"$exists": True}}]},
]
"""Every operator alone and nested, with operands that a careless translation confuses."""

NUMBER_ROWS: list[float] = [
    0, -0.0, 4, 4.0, -4, 5, -5, 4.5, -4.5, 0.5, -0.5, 5e-324, 0.1 + 0.2, 0.3, 1e300, -1e300, 2**53 - 1, 2.0**53, 2**53 + 1,
    2**53 + 2, -(2**53) - 1, 2**60 + 1, 2.0**60, 2**63 - 1, -(2**63), 9.3e18,
]  # fmt: skip
"""Numbers of both types, close to one another and beyond what a double can count."""

NUMBERS_ASKED: list[float] = [
    0, 4, 4.5, -4.5, 4.0, -4.0, 0.25, -0.25, 0.3, 5e-324, 2**52 + 0.5, 2**53, 2**53 + 1, 2.0**53, -(2**53) - 1, 2**60,
    2.0**60, 2**63 - 1, -(2**63), 1e300,
]  # fmt: skip
"""Operands of ``$eq $gt $gte $lt $lte`` for :data:`NUMBER_ROWS`."""

ORDER_ACROSS_TYPES: list[dict[str, Any]] = [
    {"year": {"$gt": "2000"}},
    {"lang": {"$lt": 5}},
    {"tags": {"$gte": "a"}},
    {"flag": {"$lte": 1}},
    {"author": {"$gt": 1}},
    {"$or": [{"lang": "en"}, {"date": {"$gt": 2020}}]},
    {"$not": {"ok": {"$lt": 1}}},
]
"""Filters that compare the order of values of different types in :data:`FILTER_ROWS`."""

ODD_METADATA: list[dict[str, Any]] = [
    {},
    {"": "empty key", " ": "blank key"},
    {"id": "mine", "document": "mine", "metadata": {"x": 1}, "vector": [1, 2], "_id": 1, "page_content": "p"},
    {"unicode": "日本語 🎉 \u202e rtl", "nul": "a\x00b", "ключ": "é", "combining": "e\u0301"},
    {"int": 1, "float": 1.0, "neg": -0.0, "tiny": 5e-324, "huge": 1.7976931348623157e308, "big": 2**63 - 1},
    {"true": True, "false": False, "none": None, "list": [], "dict": {}, "nested": [[], [{}], [None, [1, 1.0, True]]]},
    {
        "a.b": 1,
        "a": {"b": {"c": "d"}},
        "$dollar": "$eq",
        "x[0]": 1,
        'quo"te': "'",
        "back\\slash": "\\",
        "#": 1,
        "a:b": 2,
    },
    {"deep": {"er": {"and": {"deeper": {"still": [{"x": [1, {"y": None}]}]}}}}},
    {"long": "x" * 5000},
]
"""Metadata that must come back exactly as it was given."""

ODD_IDS: list[str] = [
    "1", "a b", "日本語", "🎉", "x" * 300, "../../etc/passwd", "'; DROP TABLE rows; --", "%_\\", "a\nb", "NULL", "0x1", "Ä",
    "a\u0308", "{}", "a:b#1", "00000000-0000-0000-0000-000000000001",
]  # fmt: skip
"""Ids that must come back exactly as they were given."""
