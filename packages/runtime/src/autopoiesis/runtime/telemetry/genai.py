"""Attribute and metric names of OpenTelemetry's semantic conventions for generative AI, as used here.

Source: https://opentelemetry.io/docs/specs/semconv/gen-ai/
"""

OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
REQUEST_MODEL = "gen_ai.request.model"
RESPONSE_MODEL = "gen_ai.response.model"
REQUEST_MAX_TOKENS = "gen_ai.request.max_tokens"
RESPONSE_ID = "gen_ai.response.id"
FINISH_REASONS = "gen_ai.response.finish_reasons"
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
CACHED_TOKENS = "gen_ai.usage.cache_read.input_tokens"

CHAT = "chat"
TEXT_COMPLETION = "text_completion"

FIRST_TOKEN_EVENT = "gen_ai.first_token"  # noqa: S105 - a name; not in the conventions, which have no event for it

SERVER_TIME_TO_FIRST_TOKEN = "gen_ai.server.time_to_first_token"  # noqa: S105
SERVER_TIME_PER_OUTPUT_TOKEN = "gen_ai.server.time_per_output_token"  # noqa: S105
SERVER_REQUEST_DURATION = "gen_ai.server.request.duration"
"""Histograms, in seconds."""
