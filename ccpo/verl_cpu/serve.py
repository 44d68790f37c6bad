"""An OpenAI-compatible server for a machine without a GPU: a Hugging Face model behind /v1/models and /v1/chat/completions.

    CCPO_SERVE_KEY=secret python -m ccpo.verl_cpu.serve MODEL --port 8000

A request that brings a seed gets the same text whatever else is asked at the same time (generation.py). One answer a request, text
alone; a request for anything else is refused (400), never answered as if it had asked for less.
"""

from __future__ import annotations

import argparse
import os
import secrets
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import torch
import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from .decoding import Decoding, eos_token_ids
from .generation import BatchGenerator, SamplingParams, build_model

KEY = "CCPO_SERVE_KEY"
"""Environment variable with the bearer key that every request must have; without it none is asked for."""
NEUTRAL = {  # fields that change nothing with these values, and that this server cannot honour with others
    "n": (1, None),
    "stream": (False, None),
    "logprobs": (False, None),
    "top_logprobs": (0, None),
    "presence_penalty": (0, None),
    "frequency_penalty": (0, None),
    "repetition_penalty": (1, None),
    "logit_bias": ({}, None),
    "tools": ([], None),
    "tool_choice": ("none", None),
    "response_format": ({"type": "text"}, None),
    "user": None,  # whatever it says
}


class Refused(Exception):
    """A request that is not answered; ``status`` and ``code`` as OpenAI's."""

    def __init__(self, text: str, status: int = 400, code: str | None = None) -> None:
        super().__init__(text)
        self.status, self.code = status, code


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")
    type: Literal["text"]
    text: str


class Message(BaseModel):
    model_config = ConfigDict(extra="forbid")
    role: Literal["system", "user", "assistant"]
    content: str | list[Part]

    @property
    def plain(self) -> dict[str, str]:
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": self.role, "content": text}


class Chat(BaseModel):
    """The fields that are honoured. ``include_stop_str_in_output``: as vLLM's; OpenAI's answers end before it."""

    model_config = ConfigDict(extra="allow")
    model: str
    messages: list[Message] = Field(min_length=1)
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    include_stop_str_in_output: bool = False
    chat_template_kwargs: dict[str, Any] | None = None


class Served:
    """A model, its tokenizer and the requests on their way."""

    def __init__(self, model: str, name: str, max_model_len: int | None, seed: int) -> None:
        weights = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64)
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        if self.tokenizer.chat_template is None:
            raise ValueError(f"{model} has no chat template: it cannot be asked in messages; choose a chat model")
        try:
            ends = GenerationConfig.from_pretrained(model)
        except OSError:  # it has none
            ends = None
        positions = getattr(weights.config, "max_position_embeddings", None) or max_model_len
        if positions is None:
            raise ValueError(f"{model} does not say how long its context is: set --max-model-len")
        self.name, self.max_model_len = name, min(max_model_len or positions, positions)
        generator = BatchGenerator(
            build_model(weights.config), eos_token_ids(self.tokenizer, ends), self.tokenizer, seed=seed
        )
        generator.load_weights(weights.state_dict())
        self._decoding = Decoding(generator)

    async def answer(self, chat: Chat) -> dict[str, Any]:
        """OpenAI's chat completion. Raises Refused."""
        _check(chat, self.name)
        prompt = self._prompt(chat)
        room = self.max_model_len - len(prompt)
        longest = chat.max_completion_tokens if chat.max_completion_tokens is not None else chat.max_tokens
        if room < (longest or 1):
            raise Refused(
                f"the model's context is {self.max_model_len} tokens: the messages have {len(prompt)} and {longest or 1} more are asked for",
                code="context_length_exceeded",
            )
        stop = [chat.stop] if isinstance(chat.stop, str) else chat.stop or []
        if "" in stop:
            raise Refused("stop has an empty text, which stands in every answer")
        try:
            params = SamplingParams(
                max_tokens=room if longest is None else longest,
                temperature=1.0 if chat.temperature is None else chat.temperature,
                top_p=1.0 if chat.top_p is None else chat.top_p,
                top_k=-1 if chat.top_k is None else chat.top_k,
                stop=tuple(stop),
                seed=chat.seed,
            )
        except ValueError as error:
            raise Refused(str(error)) from None
        request = await self._decoding.run(prompt, params)
        text = self.tokenizer.decode(request.token_ids, skip_special_tokens=True)
        if found := [at for word in stop if (at := text.find(word)) >= 0]:
            text = text if chat.include_stop_str_in_output else text[: min(found)]
        return {
            "id": f"chatcmpl-{uuid4().hex}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": self.name,
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text},
                    "logprobs": None,
                    "finish_reason": request.finish_reason,
                }
            ],
            "usage": {
                "prompt_tokens": len(prompt),
                "completion_tokens": len(request.token_ids),
                "total_tokens": len(prompt) + len(request.token_ids),
            },
        }

    def _prompt(self, chat: Chat) -> list[int]:
        """Token ids of the messages. Raises Refused: no second try would do better."""
        try:
            prompt = self.tokenizer.apply_chat_template(
                [message.plain for message in chat.messages],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                **(chat.chat_template_kwargs or {}),
            )["input_ids"]
        except Exception as error:  # the model's own program says so, as some do of a system message
            raise Refused(
                f"the chat template does not take these messages, or chat_template_kwargs ({error})"
            ) from None
        if not prompt:
            raise Refused("the chat template makes an empty prompt of these messages")
        return prompt


def _check(chat: Chat, name: str) -> None:
    """Raise Refused for what this server cannot do, instead of answering something else."""
    if chat.model != name:
        raise Refused(f"there is no model {chat.model!r} here: this server has {name}", 404, "model_not_found")
    for field, value in (chat.model_extra or {}).items():
        if field not in NEUTRAL:
            known = ", ".join(sorted(Chat.model_fields))
            raise Refused(f"{field} is not supported by this server: leave it out; it knows {known}")
        if NEUTRAL[field] is not None and value not in NEUTRAL[field]:
            raise Refused(f"{field}={value!r} is not supported by this server: leave it at {NEUTRAL[field][0]!r}")


def app_of(served: Served, key: str | None) -> FastAPI:
    """The routes. ``key``: what every request must bring as its bearer; None: nothing."""
    app = FastAPI(openapi_url=None)

    def problem(text: str, status: int, code: str | None) -> JSONResponse:
        kind = "authentication_error" if status == 401 else "invalid_request_error"
        return JSONResponse({"error": {"message": text, "type": kind, "param": None, "code": code}}, status)

    @app.middleware("http")
    async def guard(request: Request, call_next):
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if key is not None and not secrets.compare_digest(given.encode(), key.encode()):
            return problem("the request has no key, or a wrong one", 401, "invalid_api_key")
        return await call_next(request)

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused):
        return problem(str(error), error.status, error.code)

    @app.exception_handler(RequestValidationError)
    async def malformed(_: Request, error: RequestValidationError):
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or "the body"
        return problem(f"{where}: {first['msg']}", 400, None)

    @app.get("/v1/models")
    async def models():
        card = {"id": served.name, "object": "model", "owned_by": "ccpo", "max_model_len": served.max_model_len}
        return {"object": "list", "data": [card]}

    @app.post("/v1/chat/completions")
    async def chat(body: Chat):
        return await served.answer(body)

    return app


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m ccpo.verl_cpu.serve", description=__doc__.split("\n")[0])
    parser.add_argument("model", help="a Hugging Face folder or id")
    parser.add_argument("--host", default="127.0.0.1", help="default: this machine alone")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--served-model-name", help="default: MODEL")
    parser.add_argument("--max-model-len", type=int, help="prompt and answer, in tokens; default: what the model has")
    parser.add_argument("--seed", type=int, default=0, help="of requests that bring none")
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", "1")))
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    key = os.environ.pop(KEY, None)
    try:
        if Path(given.model).is_absolute() and not Path(given.model).is_dir():
            raise ValueError(f"there is no folder {given.model}")
        served = Served(given.model, given.served_model_name or given.model, given.max_model_len, given.seed)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    uvicorn.run(
        app_of(served, key),
        host=given.host,
        port=given.port,
        log_level="warning",
        access_log=False,  # prompts are nobody's business, nor is who asks
        timeout_graceful_shutdown=1,
    )


if __name__ == "__main__":
    main()
