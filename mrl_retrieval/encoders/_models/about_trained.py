"""What the table rests on: open models with a transformer whose prefixes were trained, or may have been."""

from __future__ import annotations

from .about import About, copied, said, told
from .row import Claim

__all__ = ["ABOUT"]

_HF = "https://huggingface.co"
_NOMIC = "https://github.com/nomic-ai/contrastors/blob/main/src/contrastors/configs/train"
_MTEB = "https://github.com/embeddings-benchmark/mteb/blob/main/mteb/models/model_implementations"
_QWEN = "https://github.com/QwenLM/Qwen3-Embedding"
_KERAS = "https://github.com/keras-team/keras-hub/pull/2455.diff"
_NORMALISED_BY_HAND = "Its card normalises by hand; scale to length 1 after a cut in any case."
_NON_COMMERCIAL = "Its licence, cc-by-nc-4.0, forbids commercial use."
_QWEN_NOTES = (
    "The task sentence of the query prompt is meant to be replaced by one's own, in English. There is no space after "
    "'Query:'; one example of the card has it, its configuration has not.",
    "Pads on the left; a text must end in <|endoftext|>.",
)


def _qwen(*claims: Claim) -> tuple[Claim, ...]:
    return (copied("dim status context prompts pooling", _QWEN), *claims)


ABOUT = {
    "LAM": About(
        claims=(),
        aliases=("mrl_retrieval/lam",),
        notes=("This project's own; nothing is published yet, so every value is what it is built to have.",),
    ),
    "nomic-ai/nomic-embed-text-v1.5": About(
        claims=(
            said("status ladder pooling prompts", f"{_NOMIC}/contrastive_matryoshka.yaml"),
            said("dim context", f"{_HF}/nomic-ai/nomic-embed-text-v1.5"),
            said("ladder", "https://home.nomic.ai/blog/posts/nomic-embed-matryoshka"),
            said("prompts layer_norm_first", f"{_HF}/nomic-ai/nomic-embed-text-v1.5/discussions/35"),
            said(
                "layer_norm_first",
                f"{_HF}/nomic-ai/nomic-embed-text-v1.5/commit/c8823c76d1d6a2e5773fe1c59c7d3bb74a4ba35d",
            ),
            told("prompts layer_norm_first context", f"{_MTEB}/nomic_models.py"),
        ),
        aliases=("nomic-embed-text", "nomic-embed-text:v1.5", "nomic-ai/nomic-embed-text-v1.5-Q"),
        notes=(
            "Its blog allows any length from 64 to 768; it was trained at the steps of the ladder.",
            "Its configuration is believed to name no prompts: sentence-transformers then adds none by itself.",
            "Beyond 2,048 tokens plain transformers needs rotary_scaling_factor.",
            "Ollama cuts without the layer norm.",
        ),
    ),
    "nomic-ai/nomic-embed-text-v2-moe": About(
        claims=(
            copied("dim status context", f"{_HF}/nomic-ai/nomic-embed-text-v2-moe"),
            said(
                "prompts",
                f"{_HF}/nomic-ai/nomic-embed-text-v2-moe/blob/11920f9629c6db4e60eac546b0b6e1743613aeac/"
                "config_sentence_transformers.json",
            ),
            said("unit_length", f"{_HF}/nomic-ai/nomic-embed-text-v2-moe/blob/main/modules.json"),
            said("pooling", f"{_NOMIC}/contrastive_finetune_moe.yaml"),
        ),
        aliases=("nomic-embed-v2",),
        notes=(
            "Its card names 256 and 768; the published training configuration has no Matryoshka dims at all.",
            "The document prompt is named 'passage' in its configuration.",
        ),
    ),
    "nomic-ai/modernbert-embed-base": About(
        claims=(
            said("status ladder pooling prompts", f"{_NOMIC}/contrastive_finetune_modernnomic.yaml"),
            said("dim status prompts", f"{_HF}/nomic-ai/modernbert-embed-base"),
            told("context", f"{_MTEB}/nomic_models.py"),
        ),
        aliases=("modernbert-embed",),
        notes=(_NORMALISED_BY_HAND,),
    ),
    "nomic-ai/CodeRankEmbed": About(
        claims=(
            said("status context prompts", f"{_HF}/nomic-ai/CodeRankEmbed/blob/main/README.md"),
            said(
                "dim pooling",
                f"{_HF}/cornstack/CodeRankEmbed/blob/f0eba1313cf1dd54f828db3db355c19b450281b1/1_Pooling/config.json",
            ),
        ),
        aliases=("cornstack/CodeRankEmbed",),
        notes=("Its card describes plain InfoNCE training and no Matryoshka; the paper was not read.",),
    ),
    "mixedbread-ai/mxbai-embed-large-v1": About(
        claims=(
            said(
                "status ladder prompts",
                f"{_HF}/mixedbread-ai/mxbai-embed-large-v1/commit/187332cf224543faf3df502fa3c0ec40b4e34964",
            ),
            said("status", "https://www.mixedbread.ai/blog/binary-mrl"),
            said("dim context", "https://mixedbread.ai/docs/embeddings/mxbai-embed-large-v1"),
            said("pooling", "https://github.com/SeanLee97/AnglE"),
        ),
        aliases=("mxbai-embed-large",),
        notes=(
            "The vendor's text names 512 only. Others give 64, 128, 256, 512, 1024 "
            "(https://alexgarcia.xyz/sqlite-vec/guides/matryoshka.html) or 768 as well: measure before cutting there.",
        ),
    ),
    "mixedbread-ai/mxbai-embed-xsmall-v1": About(
        claims=(
            said("status", "https://mixedbread.ai/blog/mxbai-embed-xsmall-v1"),
            said("dim context", "https://www.mixedbread.com/docs/models/embedding/mxbai-embed-xsmall-v1"),
            said(
                "context pooling",
                f"{_HF}/mixedbread-ai/mxbai-embed-xsmall-v1/blob/b5459e1831f7e7a25c93e5f795a7ebca7e269aab/angle_config.json",
            ),
        ),
        aliases=("mxbai-embed-mini-v1",),
        notes=("Trained on nested sizes, of which no list was found.",),
    ),
    "mixedbread-ai/mxbai-embed-2d-large-v1": About(
        claims=(
            said("status pooling", f"{_HF}/mixedbread-ai/mxbai-embed-2d-large-v1"),
            said("dim context prompts", "https://mixedbread.ai/docs/embeddings/mxbai-embed-2d-large-v1"),
        ),
        notes=(
            "Its layers can be cut as well: 20 to 24 of 24.",
            "The vendor speaks of sizes down to a sixteenth (64), without a list.",
        ),
    ),
    "Qwen/Qwen3-Embedding-0.6B": About(
        claims=_qwen(
            copied("ladder", f"{_HF}/Qwen/Qwen3-Embedding-0.6B"),
            told("prompts", f"{_HF}/Qwen/Qwen3-Embedding-0.6B/raw/main/config_sentence_transformers.json"),
        ),
        aliases=("qwen3-embedding:0.6b", "Qwen/Qwen3-Embedding-0.6B-Q"),
        notes=_QWEN_NOTES,
    ),
    "Qwen/Qwen3-Embedding-4B": About(
        claims=_qwen(told("ladder", _KERAS)),
        aliases=("qwen3-embedding:4b",),
        notes=_QWEN_NOTES,
    ),
    "Qwen/Qwen3-Embedding-8B": About(
        claims=_qwen(told("ladder", _KERAS)),
        aliases=("qwen3-embedding:8b", "qwen3-embedding"),
        notes=(*_QWEN_NOTES, "That Ollama's qwen3-embedding without a tag is this size is believed, not verified."),
    ),
    "jinaai/jina-embeddings-v3": About(
        claims=(
            said("dim status ladder context", f"{_HF}/jinaai/jina-embeddings-v3"),
            said("ladder context", "https://jina.ai/models/jina-embeddings-v3/"),
            said(
                "prompts",
                f"{_HF}/jinaai/jina-embeddings-v3/blob/baba4278755a8034e3b065d1908315ed157f3190/"
                "config_sentence_transformers.json",
            ),
            said("unit_length", f"{_HF}/jinaai/jina-embeddings-v3/blob/refs%2Fpr%2F42/modules.json"),
        ),
        notes=(
            "The task chooses an adapter; the model's own encode(task=…) and the hosted interface are believed to add "
            "the prompts themselves: never add them twice.",
            "Before commit 30996fe its truncate_dim gave embeddings that were not of length 1.",
            "The hosted interface has a parameter 'normalized' whose default is not known: send it.",
            _NON_COMMERCIAL,
        ),
    ),
    "jinaai/jina-embeddings-v4": About(
        claims=(
            said("dim status ladder context", f"{_HF}/jinaai/jina-embeddings-v4/commit/e3e8a244"),
            said(
                "pooling",
                f"{_HF}/jinaai/jina-embeddings-v4/blame/refs%2Fpr%2F45/configuration_jina_embeddings_v4.py",
            ),
            copied("prompts", f"{_HF}/jinaai/jina-embeddings-v4/blob/main/modeling_jina_embeddings_v4.py"),
        ),
        notes=(
            "The hosted interface takes task=retrieval.query and task=retrieval.passage instead of the prompts.",
            "A second head makes 128 dims for each token; this row is about the single vector.",
            "Its licence, the Qwen Research License, forbids commercial use.",
        ),
    ),
    "jinaai/jina-code-embeddings-1.5b": About(
        claims=(
            copied("dim status ladder context prompts pooling", f"{_HF}/jinaai/jina-code-embeddings-1.5b"),
            said("ladder context", "https://jina.ai/models/jina-code-embeddings-1.5b/"),
        ),
        notes=(
            "These prompts are for finding code by a question (nl2code); its card has others for other tasks.",
            "Pads on the left. Its card's own example cuts texts at 8,192 tokens.",
            _NON_COMMERCIAL,
        ),
    ),
    "jinaai/jina-code-embeddings-0.5b": About(
        claims=(
            said("dim status ladder context", "https://jina.ai/en-US/models/jina-code-embeddings-0.5b/"),
            said("pooling", "https://jina.ai/news/jina-code-embeddings-sota-code-retrieval-at-0-5b-and-1-5b/"),
        ),
        notes=("The prompts are taken over from jina-code-embeddings-1.5b.", _NON_COMMERCIAL),
    ),
    "google/embeddinggemma-300m": About(
        claims=(
            said("dim status ladder context prompts pooling", f"{_HF}/blog/embeddinggemma"),
            told("context", f"{_MTEB}/google_embeddinggemma.py"),
        ),
        aliases=("embeddinggemma", "embeddinggemma:300m"),
        notes=(
            "Where a document has a title, it stands in the prompt in place of 'none'. For code: "
            "'task: code retrieval | query: '.",
            "float16 is believed to overflow in it: use bfloat16 or float32.",
        ),
    ),
    "Snowflake/snowflake-arctic-embed-m-v1.5": About(
        claims=(
            copied("dim status ladder", f"{_HF}/Snowflake/snowflake-arctic-embed-m-v1.5"),
            said("prompts pooling context", "https://github.com/Snowflake-Labs/arctic-embed"),
            told("prompts context", f"{_MTEB}/arctic_models.py"),
        ),
        aliases=("arctic-embed-m-v1.5",),
    ),
    "Snowflake/snowflake-arctic-embed-l-v2.0": About(
        claims=(
            copied("status context", f"{_HF}/Snowflake/snowflake-arctic-embed-l-v2.0"),
            told("ladder", "https://www.sciencestack.ai/paper/2412.04506"),
            told(
                "prompts", f"{_HF}/Snowflake/snowflake-arctic-embed-l-v2.0/blob/main/config_sentence_transformers.json"
            ),
            told("dim context", f"{_HF}/omarabb315/makeML-snowflake/blob/main/config.json"),
        ),
        aliases=("snowflake-arctic-embed2", "snowflake-arctic-embed2:568m"),
    ),
    "Snowflake/snowflake-arctic-embed-m-v2.0": About(
        claims=(
            said("status", "https://arxiv.org/abs/2412.04506"),
            told("dim context", f"{_MTEB}/arctic_models.py"),
        ),
        notes=("Its own card was not seen: prompt and pooling are taken over from snowflake-arctic-embed-l-v2.0.",),
    ),
}
