"""The table of models, as text that people can read, and how it becomes rows.

A ``?`` behind a value: believed, not verified; alone: unknown. A ``-``: there is none (no ladder, no limit of the
context, no prompt, no pooling that anybody outside could see). ``32..1024`` is a range of lengths instead of a ladder.
The columns:

- ``unit``: full embeddings have length 1; ``short``: those that the interface shortened have.
- ``norm``: a layer norm over the full embedding comes before a cut.
- ``prompts``: a key of :data:`PROMPTS`.

Sources, other names and traps stand in ``about_*.py``, under the same names; tests hold them to the table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast

from .about import About
from .row import Claim, ModelRow, Status

__all__ = ["PROMPTS", "TABLE", "rows"]

TABLE = """
name                            dim  status   ladder                         context pooling   unit short norm prompts
[]
LAM                             384? native?  64,128,256,384?                ?       ?         ?    -     ?    ?
wordllama                       256  native   64,128,256                     -       mean      no   -     no   -

[nomic-ai]
nomic-embed-text-v1.5           768  native   64,128,256,512,768             8192    mean      no?  -     yes  search
nomic-embed-text-v2-moe         768  native   256,768?                       512     mean      yes  -     no?  search
modernbert-embed-base           768  native   256,768                        8192    mean      ?    -     no   search
CodeRankEmbed                   768  unknown  -                              8192    cls       ?    -     no   code

[mixedbread-ai]
mxbai-embed-large-v1            1024 native   512,1024                       512     cls       no?  -     no   sentence
mxbai-embed-xsmall-v1           384  native   ?                              4096    mean      no?  -     no   -?
mxbai-embed-2d-large-v1         1024 native   ?                              512     cls       no?  -     no   sentence

[Qwen]
Qwen3-Embedding-0.6B            1024 native   32..1024                       32768   lasttoken yes? -     no   qwen3
Qwen3-Embedding-4B              2560 native   32..2560?                      32768   lasttoken yes? -     no   qwen3?
Qwen3-Embedding-8B              4096 native   32..4096?                      32768   lasttoken yes? -     no   qwen3?

[jinaai]
jina-embeddings-v3              1024 native   32,64,128,256,512,768,1024     8192    mean?     yes  -     no   jina-v3
jina-embeddings-v4              2048 native   128,256,512,1024,2048          32768   mean      yes? -     no   jina-v4
jina-code-embeddings-1.5b       1536 native   128,256,512,1024,1536          32768   lasttoken ?    -     no   jina-c
jina-code-embeddings-0.5b       896  native   64,128,256,512,896             32768   lasttoken ?    -     no   jina-c?

[google]
embeddinggemma-300m             768  native   128,256,512,768                2048    mean      yes? -     no   gemma

[Snowflake]
snowflake-arctic-embed-m-v1.5   768  native   256,768                        512     cls       yes? -     no   sentence
snowflake-arctic-embed-l-v2.0   1024 native   256,1024                       8192    cls?      yes? -     no   query
snowflake-arctic-embed-m-v2.0   768  native   256,768?                       8192    cls?      yes? -     no   query?
snowflake-arctic-embed-s        384  none     -                              512     cls       yes  -     no   sentence
snowflake-arctic-embed-l        1024 none     -                              512     cls       yes  -     no   sentence

[sentence-transformers]
static-retrieval-mrl-en-v1      1024 native   32,64,128,256,512,1024         -       mean      no   -     no   -
static-similarity-mrl-multilingual-v1 1024 native 32,64,128,256,512,1024     -       mean      no   -     no   -
all-MiniLM-L6-v2                384  none     -                              256     mean      yes  -     no   -
all-mpnet-base-v2               768  none     -                              384     mean      yes? -     no   -
multi-qa-mpnet-base-dot-v1      768  none     -                              512     cls       no   -     no   -

[dleemiller]
word-llama-l2-supercat          1024 native   64,128,256,512,1024            -       mean      no   -     no   -
wordllama-l3-supercat           1024 native   64,128,256,512,1024            -       mean      no   -     no   -

[minishlab]
potion-base-8M                  256  none     -                              -       mean      yes? -     no   -
potion-retrieval-32M            512? unknown  -                              -       mean      yes? -     no   -

[Alibaba-NLP]
gte-multilingual-base           768  native   128..768                       8192    cls       yes? -     no   -
gte-modernbert-base             768  none?    -                              8192    cls?      ?    -     no   -
gte-Qwen2-1.5B-instruct         1536 unknown  -                              32000   lasttoken ?    -     no   web?

[thenlper]
gte-large                       1024 none     -                              512     mean?     yes? -     no   -
gte-base                        768  none     -                              512     mean?     yes? -     no   -
gte-small                       384  none     -                              512     mean?     yes? -     no   -

[BAAI]
bge-m3                          1024 unknown  -                              8192    cls?      yes? -     no   -?
bge-large-en-v1.5               1024 none     -                              512     cls       yes? -     no   sentence?
bge-base-en-v1.5                768  none     -                              512     cls       yes? -     no   sentence?
bge-small-en-v1.5               384  none     -                              512     cls       yes? -     no   sentence?

[intfloat]
e5-mistral-7b-instruct          4096 unknown  -                              4096    lasttoken ?    -     no   web?
multilingual-e5-large-instruct  1024 unknown  -                              512     mean      yes? -     no   web?
e5-large-v2                     1024 none     -                              512     mean?     yes? -     no   e5
e5-base-v2                      768  none     -                              512     mean      yes? -     no   e5
e5-small-v2                     384  none     -                              512     mean?     yes? -     no   e5
multilingual-e5-large           1024 none     -                              512     mean      yes? -     no   e5
multilingual-e5-base            768  none     -                              512     mean?     yes? -     no   e5
multilingual-e5-small           384  none     -                              512     mean?     yes? -     no   e5

[]
text-embedding-3-small          1536 api      512,1536?                      8192    -         yes  yes   no?  -
text-embedding-3-large          3072 api      256,1024,3072                  8192    -         yes  yes   no?  -
text-embedding-ada-002          1536 none     -                              8192    -         yes  -     no?  -
embed-v4.0                      1536 api      256,512,1024,1536              128000  -         ?    ?     no?  cohere
embed-english-v3.0              1024 none     -                              512     -         ?    -     no?  cohere
embed-multilingual-v3.0         1024 none     -                              512     -         ?    -     no?  cohere
embed-english-light-v3.0        384  none     -                              512     -         ?    -     no?  cohere
embed-multilingual-light-v3.0   384  none     -                              512     -         ?    -     no?  cohere
gemini-embedding-001            3072 api      128,256,512,768,1536,2048,3072 2048    -         yes  no    no?  gemini
text-embedding-005              768  api?     ?                              2048    -         yes  ?     no?  gemini
voyage-3.5                      2048 api      256,512,1024,2048              32000   -         yes  yes?  no?  voyage
voyage-3.5-lite                 2048 api      256,512,1024,2048              32000   -         yes  yes?  no?  voyage
voyage-3-large                  2048 api      256,512,1024,2048              32000   -         yes  yes?  no?  voyage
voyage-code-3                   2048 api      256,512,1024,2048              32000   -         yes  yes?  no?  voyage?
mistral-embed                   1024 none     -                              8192?   -         yes  -     no?  -
codestral-embed                 3072 api      1..3072?                       8192    -         ?    ?     no?  -
amazon.titan-embed-text-v2:0    1024 api      256,512,1024                   8192    -         yes  yes   no?  -
"""

_WEB = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"

PROMPTS = {  # name: prompts in front of a query and of a document, then the interface's arguments for both
    "-": ("", "", "", ""),
    "search": ("search_query: ", "search_document: ", "", ""),
    "code": ("Represent this query for searching relevant code: ", "", "", ""),
    "sentence": ("Represent this sentence for searching relevant passages: ", "", "", ""),
    "qwen3": (_WEB, "", "", ""),  # no space at its end: so the model's own configuration has it
    "web": (_WEB + " ", "", "", ""),
    "jina-v3": (
        "Represent the query for retrieving evidence documents: ",
        "Represent the document for retrieval: ",
        "task=retrieval.query",
        "task=retrieval.passage",
    ),
    "jina-v4": ("Query: ", "Passage: ", "task=retrieval", "task=retrieval"),
    "jina-c": (
        "Find the most relevant code snippet given the following query:\n",
        "Candidate code snippet:\n",
        "",
        "",
    ),
    "gemma": ("task: search result | query: ", "title: none | text: ", "", ""),
    "query": ("query: ", "", "", ""),
    "e5": ("query: ", "passage: ", "", ""),
    "cohere": ("", "", "input_type=search_query", "input_type=search_document"),
    "gemini": ("", "", "task_type=RETRIEVAL_QUERY", "task_type=RETRIEVAL_DOCUMENT"),
    "voyage": ("", "", "input_type=query", "input_type=document"),
}


def rows(about: Mapping[str, About]) -> Iterator[ModelRow]:
    """The table's rows, in its order.

    Raises:
        KeyError: a model of the table is not in ``about``.
    """
    organisation = ""
    for line in TABLE.strip().splitlines()[1:]:
        if line.startswith("["):
            organisation = line.strip("[]") and f"{line.strip('[]')}/"
        elif line:
            name = organisation + line.split()[0]
            yield _row(name, line.split()[1:], about[name])


def _row(name: str, cells: list[str], about: About) -> ModelRow:
    columns = ("dim", "status", "ladder", "context", "pooling", "unit_length", "shortened_unit_length")
    named = dict(zip((*columns, "layer_norm_first", "prompts"), cells, strict=True))
    doubted = tuple(field for field, cell in named.items() if cell.endswith("?"))
    value = {field: cell.rstrip("?") for field, cell in named.items()}
    ladder = value["ladder"].strip("-")
    low, dots, high = ladder.partition("..")
    query, document, query_task, document_task = PROMPTS[value["prompts"] or "-"]
    return ModelRow(
        name=name,
        dim=int(value["dim"]),
        status=cast(Status, value["status"]),
        aliases=about.aliases,
        ladder=() if dots or not ladder else tuple(int(step) for step in ladder.split(",")),
        any_dim=(int(low), int(high)) if dots else None,
        context=int(value["context"]) if value["context"].strip("-") else None,
        pooling=value["pooling"].strip("-") or None,
        unit_length=_flag(value["unit_length"]),
        shortened_unit_length=_flag(value["shortened_unit_length"]),
        layer_norm_first=_flag(value["layer_norm_first"]) or False,
        query_prompt=query,
        document_prompt=document,
        query_task=query_task,
        document_task=document_task,
        notes=about.notes,
        claims=about.claims + ((Claim(doubted, "", "unverified"),) if doubted else ()),
    )


def _flag(cell: str) -> bool | None:
    return {"yes": True, "no": False}.get(cell)
