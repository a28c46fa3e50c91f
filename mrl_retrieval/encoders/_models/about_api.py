"""What the table rests on: hosted models, whose weights nobody outside has seen."""

from __future__ import annotations

from .about import About, copied, said, told

__all__ = ["ABOUT"]

_OPENAI = "https://platform.openai.com/docs"
_COHERE = "https://docs.cohere.com"
_GOOGLE = "https://ai.google.dev/gemini-api/docs/embeddings"
_VERTEX = "https://cloud.google.com/vertex-ai/generative-ai/docs/embeddings/get-text-embeddings"
_VOYAGE = "https://docs.voyageai.com"
_AWS = "https://docs.aws.amazon.com/bedrock/latest/userguide"

_openai = (
    copied("context prompts", f"{_OPENAI}/api-reference/embeddings/create"),
    told("unit_length", "https://thenile.dev/docs/ai-embeddings/embedding_models/open_ai"),
)
_openai_3 = (
    *_openai,
    copied("dim status", f"{_OPENAI}/guides/embeddings"),
    told("shortened_unit_length", "https://github.com/michaelfeil/infinity/issues/538"),
)
_OPENAI_LIMITS = "At most 2,048 texts and 300,000 tokens a request; an empty text is refused."
_OPENAI_ANY = "The parameter dimensions takes any length from 1 up; which ones were trained is not published."

_cohere_3 = About(
    claims=(
        said("prompts", f"{_COHERE}/docs/embeddings"),
        copied("status", f"{_COHERE}/reference/embed"),
        copied("dim context", f"{_COHERE}/docs/cohere-embed"),
    ),
    notes=("At most 96 texts a request; input_type is required.",),
)

_voyage = (
    said("prompts", f"{_VOYAGE}/reference/embeddings-api"),
    said("unit_length", f"{_VOYAGE}/docs/faq"),
    said("dim status ladder", f"{_VOYAGE}/docs/flexible-dimensions-and-quantization"),
    said("dim context", "https://docs.anthropic.com/en/docs/build-with-claude/embeddings"),
)
_VOYAGE_NOTES = (
    "Gives 1,024 dims unless output_dimension=2048 is sent.",
    "The server puts 'Represent the query for retrieving supporting documents: ' or 'Represent the document for "
    "retrieval: ' in front of a text by its input_type: never add them yourself.",
)

ABOUT = {
    "text-embedding-3-small": About(
        claims=_openai_3, aliases=("openai/text-embedding-3-small",), notes=(_OPENAI_ANY, _OPENAI_LIMITS)
    ),
    "text-embedding-3-large": About(
        claims=(*_openai_3, copied("ladder", f"{_OPENAI}/guides/embeddings")),
        aliases=("openai/text-embedding-3-large",),
        notes=(_OPENAI_ANY, _OPENAI_LIMITS),
    ),
    "text-embedding-ada-002": About(
        claims=(*_openai, copied("dim status", f"{_OPENAI}/guides/embeddings")),
        aliases=("openai/text-embedding-ada-002",),
        notes=("The parameter dimensions is for later models only.", _OPENAI_LIMITS),
    ),
    "embed-v4.0": About(
        claims=(
            copied("dim status ladder", f"{_COHERE}/reference/embed"),
            said("prompts", f"{_COHERE}/docs/embeddings"),
            said("dim status ladder context", f"{_AWS}/model-parameters-embed-v4.html"),
        ),
        aliases=(
            "cohere/embed-v4.0",
            "embed-v4",
            "cohere.embed-v4",
            "cohere.embed-v4:0",
            "cohere.embed-v4.0",
        ),
        notes=("At most 96 texts a request; input_type is required.", "The lengths go into output_dimension."),
    ),
    "embed-english-v3.0": _cohere_3._replace(aliases=("cohere/embed-english-v3.0", "cohere.embed-english-v3")),
    "embed-multilingual-v3.0": _cohere_3,
    "embed-english-light-v3.0": _cohere_3,
    "embed-multilingual-light-v3.0": _cohere_3,
    "gemini-embedding-001": About(
        claims=(copied("dim status ladder context unit_length shortened_unit_length prompts", _GOOGLE),),
        aliases=("models/gemini-embedding-001", "google/gemini-embedding-001"),
        notes=(
            "Google recommends 768, 1536 and 3072, publishes scores for the others, and takes any length from 128.",
            "At most 100 texts a request; on Vertex AI one.",
            "Vertex AI's page promises length 1 without the exception for shortened ones: scale always.",
            "gemini-embedding-2 is another model with other rules.",
        ),
    ),
    "text-embedding-005": About(
        claims=(said("dim status context unit_length prompts", _VERTEX),),
        notes=(
            "Vertex AI only. It takes output_dimensionality up to 768, but its page does not say that it was trained "
            "for that.",
            "At most 250 texts and 20,000 tokens a request; texts are cut silently unless autoTruncate=false.",
        ),
    ),
    "voyage-3.5": About(_voyage, ("voyage/voyage-3.5", "voyageai/voyage-3.5"), _VOYAGE_NOTES),
    "voyage-3.5-lite": About(_voyage, ("voyage/voyage-3.5-lite",), _VOYAGE_NOTES),
    "voyage-3-large": About(_voyage, ("voyage/voyage-3-large",), _VOYAGE_NOTES),
    "voyage-code-3": About(_voyage, ("voyage/voyage-code-3",), _VOYAGE_NOTES),
    "mistral-embed": About(
        claims=(
            told(
                "dim status unit_length",
                "https://theneuralbase.com/mistral-api/learn/intermediate/embedding-dimensions-1024/",
            ),
            told("prompts", "https://docs.rs/crate/mistral-openapi-client/latest/source/docs/EmbeddingRequest.md"),
        ),
        aliases=("mistral/mistral-embed", "mistral-embed-2312"),
    ),
    "codestral-embed": About(
        claims=(
            said("dim status ladder prompts", "https://docs.mistral.ai/capabilities/embeddings/code_embeddings"),
            told(
                "context",
                "https://www.emsi.me/emsi/article/mistral-ai-releases-codestral-embed-a-specialized-code-embedding-model/"
                "2025-05-28/143a41",
            ),
        ),
        aliases=("mistral/codestral-embed", "codestral-embed-2505"),
        notes=("Gives 1,536 dims unless output_dimension=3072 is sent.",),
    ),
    "amazon.titan-embed-text-v2:0": About(
        claims=(
            said(
                "status ladder unit_length shortened_unit_length prompts",
                f"{_AWS}/model-parameters-titan-embed-text.html",
            ),
            said("dim context", f"{_AWS}/titan-embedding-models.html"),
        ),
        aliases=("amazon.titan-embed-text-v2", "amazon/titan-embed-text-v2"),
        notes=(
            "One text a request.",
            "Whether a shorter answer is the beginning of a longer one is not said: ask for the length that is stored.",
            "The length is 1 unless normalize=false is sent.",
        ),
    ),
}
