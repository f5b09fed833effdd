"""/v1/embeddings: a text as one vector, from the vectors after the model's last norm.

A language model is not trained for this: such vectors tell roughly what a text is about. They are
the mean over the tokens or the last token's (`ServeConfig.pooling`), scaled to length 1.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from functools import partial

import torch
from starlette.requests import Request
from starlette.responses import Response
from torch import Tensor

from langwright.generate import evaluating
from langwright.serve.errors import ApiError
from langwright.serve.generation import Generation
from langwright.serve.limits import check_count, read_body
from langwright.serve.openai_types import EmbeddingsBody
from langwright.serve.prompts import Prompt, as_prompts, encode_prompts
from langwright.serve.replies import Embedding, EmbeddingsReply, EmbeddingUsage
from langwright.serve.server import Server
from langwright.serve.stream import unless_left


async def embeddings(request: Request) -> Response:
    """Answer a request."""
    server: Server = request.app.state.server
    body = await read_body(request, EmbeddingsBody, server.config)
    server.check_model(body.model)
    inputs = as_prompts(body.input, "input")
    check_count(inputs, server.config.max_prompts, "input")
    width = server.lm.config.width
    if body.dimensions is not None and body.dimensions != width:
        raise ApiError(400, f"dimensions: this model's vectors have {width}", param="dimensions")
    generation = Generation(server, "embeddings", request.state.key)
    vectors = await unless_left(request, _vectors(server, inputs, generation))
    as_text = body.encoding_format == "base64"
    data = [
        Embedding(
            object="embedding",
            index=index,
            embedding=_base64(vector) if as_text else vector.tolist(),
        )
        for index, vector in enumerate(vectors)
    ]
    read = generation.usage().prompt_tokens
    reply = EmbeddingsReply(
        object="list",
        data=data,
        model=server.config.name,
        usage=EmbeddingUsage(prompt_tokens=read, total_tokens=read),
    )
    return Response(reply.json_bytes(), media_type="application/json")


async def _vectors(
    server: Server, inputs: Sequence[Prompt], generation: Generation
) -> list[Tensor]:
    """One (D,) fp32 for each input."""
    ids: list[list[int]] = []

    def prepare() -> list[tuple[list[int], None]]:
        ids.extend(encode_prompts(server, inputs, "input"))
        for one in ids:
            if not one:
                raise ApiError(400, "input: an empty text has no vector", param="input")
            if len(one) > server.context:
                raise ApiError(
                    400,
                    f"input: {len(one)} tokens; the model's context is {server.context}",
                    param="input",
                    code="context_length_exceeded",
                )
        return [(one, None) for one in ids]

    await generation.start(len(inputs), prepare)
    with generation.closing():
        return [await generation.read(partial(embed, server, one)) for one in ids]


def embed(server: Server, ids: Sequence[int]) -> Tensor:
    """The vector (D,) of one text, fp32, of length 1; on the CPU."""
    model = server.engine.model
    with evaluating(model):
        tokens = torch.tensor([list(ids)], device=model.device)  # (1, T)
        vectors = model.hidden(tokens)[0].float()  # (T, D)
    pooled = vectors[-1] if server.config.pooling == "last" else vectors.mean(0)
    return (pooled / pooled.norm().clamp_min(1e-12)).cpu()


def _base64(vector: Tensor) -> str:
    return base64.b64encode(vector.numpy().astype("<f4").tobytes()).decode()
