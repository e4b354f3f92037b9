"""Bodies of requests: what is read of them, and what is refused by name."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from dflash_sim.profiles.ways_in import UnreadableError, parse_json
from dflash_sim.serve.backend import Ask, RefusedError
from dflash_sim.serve.tokens import Tokens

DEFAULT_TOKENS = 16  # of /v1/completions, as OpenAI has it
NATIVE_TOKENS = 128  # of /generate, as SGLang has it
MOST = 2**31
LONGEST_NAME = 500  # letters of a model's, which every piece of a stream repeats


def _or(default: Any) -> BeforeValidator:
    """Null is as if not given."""
    return BeforeValidator(lambda value: default if value is None else value)


Count = Annotated[int, Field(ge=0, le=MOST), _or(0)]
Flag = Annotated[bool, _or(False)]
Many = Annotated[int, Field(ge=1, le=MOST)] | None
Stop = str | list[str] | None
Ids = Annotated[list[Annotated[int, Field(ge=0, le=MOST)]], Field(min_length=1)]


class StreamOptions(BaseModel):
    """What a stream says beside its text."""

    include_usage: Flag = False
    continuous_usage_stats: Flag = False


class Common(BaseModel):
    """What completions and chats have in common."""

    model_config = ConfigDict(extra="allow", hide_input_in_errors=True)

    model: Annotated[str, Field(max_length=LONGEST_NAME)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=MOST)] | None = None
    min_tokens: Count = 0
    ignore_eos: Flag = False
    stream: Flag = False
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(None, ge=0, le=100)
    stop: Stop = None
    n: Many = 1
    best_of: Many = 1


class Completion(Common):
    """``/v1/completions``."""

    prompt: str | Ids | list[str] | list[Ids]


class Message(BaseModel):
    """A message of a chat; parts that are no text are refused."""

    model_config = ConfigDict(extra="allow", hide_input_in_errors=True)

    role: str
    content: str | list[dict[str, Any]] | None = None


class Chat(Common):
    """``/v1/chat/completions``."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1, le=MOST)] | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class Sampling(BaseModel):
    """``sampling_params`` of ``/generate``."""

    model_config = ConfigDict(extra="allow", hide_input_in_errors=True)

    max_new_tokens: Annotated[int, Field(ge=1, le=MOST)] | None = NATIVE_TOKENS
    min_new_tokens: Count = 0
    ignore_eos: Flag = False
    temperature: float | None = Field(None, ge=0, le=100)
    stop: Stop = None
    n: Many = 1


class Generate(BaseModel):
    """SGLang's own ``/generate``."""

    model_config = ConfigDict(extra="allow", hide_input_in_errors=True)

    text: str | None = None
    input_ids: Ids | None = None
    sampling_params: Annotated[Sampling, _or({})] = Sampling.model_validate({})
    stream: Flag = False


_PROBABILITIES = "log probabilities are not computed"
_FREE = "answers are not constrained"
_TEMPLATE = "a prompt is what the model's own chat template makes of all messages"
_ADAPTERS = "adapters are not run"
# What would change the speed of an answer, or its form; null, false and empty are as if not given.
_UNSERVED: Mapping[str, str] = {
    **dict.fromkeys(("logprobs", "top_logprobs", "return_logprob"), _PROBABILITIES),
    "prompt_logprobs": _PROBABILITIES,
    "return_hidden_states": "hidden states are not given",
    "echo": "the prompt is not repeated",
    **dict.fromkeys(("tools", "functions"), "tools are not called"),
    **dict.fromkeys(("regex", "json_schema", "ebnf", "structural_tag", "stop_regex"), _FREE),
    **dict.fromkeys(("guided_json", "guided_regex", "guided_choice", "guided_grammar"), _FREE),
    **dict.fromkeys(("structured_outputs", "custom_logit_processor"), _FREE),
    **dict.fromkeys(("lora_path", "lora_name"), _ADAPTERS),
    **dict.fromkeys(("chat_template", "documents", "continue_final_message"), _TEMPLATE),
    "use_beam_search": "answers are not searched",
    "prediction": "answers that are foretold are not used",
    "priority": "requests are taken in their order",
    "truncate_prompt_tokens": "prompts are not cut",
    "suffix": "answers continue their prompt",
    "image_data": "images are not read",
    "audio_data": "sound is not read",
    "video_data": "videos are not read",
    "audio": "sound is not made",
    "input_embeds": "prompts are text or ids",
    "bootstrap_host": "prefill is not done elsewhere",
}
_ASKED_BY_ZERO = ("logprobs", "prompt_logprobs", "guided_json")  # by an empty schema as well
# Fields that say one thing, and that alone is done; null is as if not given.
_ALONE: Mapping[str, tuple[Any, ...]] = {
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "add_generation_prompt": (True,),
}
# Counts as they are called at other addresses; clients may send them beside those of this one.
_OPENAI = {
    "max_completion_tokens": "max_tokens",
    "max_new_tokens": "max_tokens",
    "min_new_tokens": "min_tokens",
}
_NATIVE = {
    "max_completion_tokens": "max_new_tokens",
    "max_tokens": "max_new_tokens",
    "min_tokens": "min_new_tokens",
}


def read_body(kind: type[BaseModel], data: object) -> Any:
    """Return a body that is checked.

    Raises
    ------
    RefusedError
        A field has no meaning, or asks for what is not served.
    """
    if not isinstance(data, dict):
        msg = "the body is no JSON object."
        raise RefusedError(msg)
    try:
        body = kind.model_validate(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:120]
        msg = f"{where}: {first['msg'][0].lower()}{first['msg'][1:]}."
        raise RefusedError(msg) from None
    given = fields_of(body, data)
    for name, why in _UNSERVED.items():
        value = given.get(name)
        asked = name in _ASKED_BY_ZERO and not (value is None or value is False or value == "")
        if value or asked:
            msg = f"{name}: {why} here; leave it out."
            raise RefusedError(msg)
    for name, taken in _ALONE.items():
        if given.get(name) is not None and given[name] not in taken:
            msg = f"{name}: {json.dumps(taken[0])} is all that is done here; leave it out."
            raise RefusedError(msg)
    _check_counts(body, data, given)
    return body


def _check_counts(body: BaseModel, data: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Refuse counts that would be overlooked, and more answers than one."""
    native = isinstance(body, Generate)
    for name in Sampling.model_fields.keys() & data.keys() if native else ():
        msg = f"{name}: it belongs into sampling_params."
        raise RefusedError(msg)
    for name, right in (_NATIVE if native else _OPENAI).items():
        known = name in type(body).model_fields
        if not known and given.get(name) not in (None, given.get(right)):
            msg = f"{name}: it is called {right} at this address."
            raise RefusedError(msg)
    both = getattr(body, "max_tokens", None), getattr(body, "max_completion_tokens", None)
    if None not in both and both[0] != both[1]:
        msg = "max_tokens: max_completion_tokens is another number; give one of the two."
        raise RefusedError(msg)
    asked = body.sampling_params if isinstance(body, Generate) else body
    for name in ("n", "best_of"):
        many = getattr(asked, name, 1)
        if many not in (1, None):
            msg = f"{name}: one answer a request is served, not {many}."
            raise RefusedError(msg)


def fields_of(body: BaseModel, data: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a body, those of its ``sampling_params`` among them."""
    own = data.get("sampling_params") if isinstance(body, Generate) else None
    return {**data, **(own or {})}


def prompts_of(body: Completion, tokens: Tokens) -> list[Sequence[int]]:
    """Token ids of each prompt of a completion."""
    prompt = body.prompt
    if isinstance(prompt, str):
        return [tokens.ids(prompt)]
    if not prompt:
        msg = "prompt: it is empty."
        raise RefusedError(msg)
    if single := [p for p in prompt if isinstance(p, int)]:
        return [single]
    several = [p for p in prompt if not isinstance(p, int)]
    return [tokens.ids(p) if isinstance(p, str) else p for p in several]


def turns_of(body: Chat) -> list[dict[str, Any]]:
    """The conversation, message by message; parts of a text are joined."""
    return [_turn(message) for message in body.messages]


def _turn(message: Message) -> dict[str, Any]:
    """A message as templates take it: without content it is empty, and calls have objects."""
    turn = message.model_dump() | {"content": _said(message) or ""}
    calls = turn.get("tool_calls")
    for call in calls if isinstance(calls, list) else ():
        made = call.get("function") if isinstance(call, dict) else None
        if isinstance(made, dict) and isinstance(made.get("arguments"), str):
            with suppress(UnreadableError):
                made["arguments"] = parse_json(made["arguments"])
    return turn


def _said(message: Message) -> str | None:
    if isinstance(message.content, str) or message.content is None:
        return message.content
    for part in message.content:
        if part.get("type") != "text" or not isinstance(part.get("text"), str):
            msg = f"messages: a part of type {str(part.get('type'))[:40]!r} is not read; text is."
            raise RefusedError(msg)
    return "".join(part["text"] for part in message.content)


def ask(
    prompt: Sequence[int],
    *,
    max_tokens: int | None,
    min_tokens: int,
    ignore_eos: bool,
    context_length: int,
    default: int | None,
    kind: Literal["max_tokens", "max_new_tokens"] = "max_tokens",
) -> Ask:
    """A request that fits the context.

    Raises
    ------
    RefusedError
        It is empty, or does not fit, in the words of SGLang.
    """
    if not prompt:
        name = "prompt" if kind == "max_tokens" else "text"
        msg = f"{name}: it is empty, and an answer continues one token at least."
        raise RefusedError(msg)
    room = context_length - len(prompt)
    if room < 1:
        msg = (
            f"The input ({len(prompt)} tokens) is longer than the model's context length "
            f"({context_length} tokens)."
        )
        raise RefusedError(msg)
    if max_tokens is None:
        max_tokens = room if default is None else min(default, room)
    if max_tokens > room:
        msg = (
            f"Requested token count exceeds the model's maximum context length of {context_length} "
            f"tokens. You requested a total of {len(prompt) + max_tokens} tokens: {len(prompt)} "
            f"tokens from the input messages and {max_tokens} tokens for the completion."
        )
        raise RefusedError(msg)
    if min_tokens > max_tokens:
        name = kind.replace("max", "min")
        msg = f"{name}: {min_tokens} is above {kind} {max_tokens}."
        raise RefusedError(msg)
    return Ask(prompt, max_tokens, ignore_eos, min_tokens)
