"""What the table rests on: models that are a table of token embeddings, without a transformer."""

from __future__ import annotations

from .about import About, said, told

__all__ = ["ABOUT"]

_HF = "https://huggingface.co"
_STATIC = f"{_HF}/blog/static-embeddings"
_LLAMA = "https://github.com/dleemiller/WordLlama"
_POTION = "https://github.com/MinishLab/model2vec"
_POTION_CODE = f"{_POTION}/blob/main/model2vec/model.py"
_POTION_32M = f"{_HF}/minishlab/potion-base-32M/blob/2d31858d534a8ae1c8a7558603091bb22ce6d273/config.json"
_BLOG = (said("dim status ladder context pooling unit_length prompts", _STATIC),)
_CUTS_AT_512 = "The package's encode() cuts texts at 512 tokens unless told otherwise."

ABOUT = {
    "wordllama": About(
        claims=(
            said("dim status pooling context prompts", _LLAMA),
            said("ladder", f"{_LLAMA}/blob/main/src/wordllama/config/train/l2_supercat.toml"),
            said("context unit_length", f"{_LLAMA}/blob/main/wordllama/inference.py"),
        ),
        aliases=("wordllama/l2_supercat", "WL256"),
        notes=(
            "The first 256 dims of word-llama-l2-supercat, which are those inside the package. This library's encoder "
            "scales them to length 1.",
            "Made from Llama 2's token embeddings; whether Meta's licence binds them too is not said.",
        ),
    ),
    "sentence-transformers/static-retrieval-mrl-en-v1": About(claims=_BLOG),
    "sentence-transformers/static-similarity-mrl-multilingual-v1": About(
        claims=_BLOG, notes=("Made for similarity, not for retrieval.",)
    ),
    "dleemiller/word-llama-l2-supercat": About(
        claims=(
            said("dim status pooling prompts", _LLAMA),
            said("ladder", f"{_LLAMA}/blob/main/src/wordllama/config/train/l2_supercat.toml"),
            said("context unit_length", f"{_LLAMA}/blob/main/wordllama/inference.py"),
        ),
        aliases=("l2_supercat",),
        notes=("The package holds its first 256 dims (see wordllama) and downloads longer ones.",),
    ),
    "dleemiller/wordllama-l3-supercat": About(
        claims=(
            said("dim status pooling prompts", _LLAMA),
            said("ladder", f"{_LLAMA}/blob/main/src/wordllama/config/train/l3_supercat.toml"),
            said("context unit_length", f"{_LLAMA}/blob/main/wordllama/inference.py"),
        ),
        aliases=("l3_supercat",),
        notes=("Made from Llama 3's token embeddings; the licence of the weights is not said.",),
    ),
    "minishlab/potion-base-8M": About(
        claims=(
            said("dim status", "https://minishlab.github.io/tokenlearn_blogpost"),
            said("context pooling prompts", _POTION_CODE),
            told("unit_length", _POTION_32M),
        ),
        notes=(
            "Not Matryoshka-trained, but its dims come out of a PCA, so that the first say most: weaker than training. "
            "Measure before cutting; models of this family are reported to lose much.",
            _CUTS_AT_512,
        ),
    ),
    "minishlab/potion-retrieval-32M": About(
        claims=(
            said("status", _POTION),
            told("dim unit_length", _POTION_32M),
            said("context pooling prompts", _POTION_CODE),
        ),
        notes=(
            "Its base has dims out of a PCA; whether the order survived its finetuning, and whether that was "
            "Matryoshka training, is not known.",
            _CUTS_AT_512,
        ),
    ),
}
