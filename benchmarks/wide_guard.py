"""The small guard inside a model of real size: it answers the same, and every answer costs what an 8B model's costs.

The small guard's numbers lie in a corner of each matrix. What is left is filled with random numbers, which a GPU takes
as long for as for trained ones, and which never reach the corner: rows that write to the corner read only the corner.
Attention and normalization are made to divide by the same numbers. No token beyond the small vocabulary is ever likely,
nor looked at by those of the guard, so that such tokens make prompts longer and change nothing, see ``unheard.py``.
``python benchmarks/wide_guard.py FOLDER``
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from unheard import TOKENS, lengthen_policy

from confscore.demo import GUARD_FOLDER

INDEX = "model.safetensors.index.json"
"""Written last: a folder that has it is whole."""
COPIES = 2
"""Of the residual stream: with two, the norm in 8B differs from the small one's by a power of two, unrounded."""
BESIDE = 1e-3
"""The stream beside the corner, relative to the embeddings: too small to change the norm, scaled up behind it."""
FAINT = 1e-8
"""What layers add beside the corner."""
NEVER = 1e4
"""How far below zero the logits of other tokens are pushed, times a number of about one."""
AWAY = 1e4
"""Attention looks away from them with the square of this, times the square of such a number."""
SAME, OTHER = -1, -2
"""Places of the stream that are the same for every token, and zero but for tokens beyond the small vocabulary."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a Llama; the defaults are those of 8B."""

    hidden_size: int = 4096
    intermediate_size: int = 14336
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int = 8
    head_dim: int = 128
    vocab_size: int = 128256

    @property
    def parameters(self) -> int:
        """Return how many numbers the model has, those of its two vocabularies included."""
        attention = 2 * (self.num_attention_heads + self.num_key_value_heads) * self.head_dim * self.hidden_size
        layer = attention + 3 * self.hidden_size * self.intermediate_size + 2 * self.hidden_size
        return self.num_hidden_layers * layer + 2 * self.vocab_size * self.hidden_size + self.hidden_size

    @property
    def multiplied(self) -> int:
        """Return how many of them a token is multiplied with: vocabularies are looked up, or only where one is said."""
        return self.parameters - 2 * self.vocab_size * self.hidden_size


ON_CPUS = Shape(272, 256, 4, 4, 4, 64, 1507 + TOKENS)
"""Layers three times the small guard's, for what tokens beyond the small vocabulary are good for."""


class WideGuard:
    """Makes the weights of one shape, a layer at a time."""

    def __init__(self, shape: Shape, device: str, dtype: torch.dtype = torch.bfloat16) -> None:
        self.shape = shape
        self.device = device
        self.dtype = dtype
        self.config = json.loads((GUARD_FOLDER / "config.json").read_text())
        small = load_file(GUARD_FOLDER / "model.safetensors")
        self.small = {name: each.to(device, dtype) for name, each in small.items()}
        torch.manual_seed(0)
        width, head, wide = self.config["hidden_size"], self.config["head_dim"], shape.head_dim
        self.copies = [slice(copy * width, (copy + 1) * width) for copy in range(COPIES)]
        if wide <= head or shape.vocab_size < len(self.small["model.embed_tokens.weight"]) + TOKENS:
            raise ValueError(f"{shape} has no room beside the small guard")
        self.corner = COPIES * width
        # Rotary pairs (i, i + d/2) turn by theta^(-2i/d): a head 4 times as wide has the same angles at every 4th i.
        pairs = torch.arange(head // 2, device=device) * (wide // head)
        self.lanes = torch.cat([pairs, pairs + wide // 2])
        # The last pair hardly turns over a prompt's length, and is none of the small head's.
        self.looking = [wide // 2 - 1, wide - 1]
        self.grouped = shape.num_attention_heads // shape.num_key_value_heads
        self.norm_scale = math.sqrt(self.corner / shape.hidden_size)
        self.louder = math.sqrt(wide / head)

    def random(self, rows: int, columns: int, scale: float) -> torch.Tensor:
        """Return a matrix of random numbers."""
        return torch.randn(rows, columns, device=self.device, dtype=self.dtype) * scale

    def norm(self, name: str | None) -> torch.Tensor:
        """Return a norm's weights; without a name, those of a layer that the small guard has not."""
        weights = torch.full((self.shape.hidden_size,), 1 / BESIDE, device=self.device) * self.norm_scale
        weights[: self.corner] = 1.0
        if name is not None:
            for copy in self.copies:
                weights[copy] = self.small[name].float() * self.norm_scale
        return weights.to(self.dtype)

    def reader(self, rows: int, name: str, places: torch.Tensor | None, scale: float = 1.0) -> torch.Tensor:
        """Return a matrix that reads the stream: at ``places`` as the small one does, and from its first copy only."""
        matrix = self.random(rows, self.shape.hidden_size, 0.02)
        if places is not None:
            matrix[places] = 0.0
            matrix[places, : self.config["hidden_size"]] = self.small[name] * scale
        return matrix

    def writer(self, columns: int, name: str, places: torch.Tensor | None) -> torch.Tensor:
        """Return a matrix that adds to the stream: to the corner only from ``places``."""
        matrix = self.random(self.shape.hidden_size, columns, FAINT)
        matrix[: self.corner] = 0.0
        matrix[[SAME, OTHER]] = 0.0
        if places is not None:
            for copy in self.copies:
                matrix[copy.start : copy.stop, places] = self.small[name]
        return matrix

    def heads(self, each: int) -> torch.Tensor:
        """Return where the small heads' numbers lie, if every ``each``-th wide head is one of them."""
        starts = torch.arange(self.config["num_attention_heads"], device=self.device) * each * self.shape.head_dim
        return (starts[:, None] + self.lanes).flatten()

    def layer(self, number: int) -> dict[str, torch.Tensor]:
        """Return the weights of one layer; those beyond the small guard's leave the corner as it is."""
        shape, name = self.shape, f"model.layers.{number}"
        known = number < self.config["num_hidden_layers"]
        asking, asked = self.heads(self.grouped), self.heads(1)
        units = torch.arange(self.config["intermediate_size"], device=self.device) if known else None
        wide, few = shape.num_attention_heads * shape.head_dim, shape.num_key_value_heads * shape.head_dim
        at = f"{name}.self_attn"
        query = self.reader(wide, f"{at}.q_proj.weight", asking if known else None, self.louder)
        key = self.reader(few, f"{at}.k_proj.weight", asked if known else None)
        if known:  # the lanes between those of a small head: what the keys have there counts nothing, but for one pair
            between = torch.ones(shape.head_dim, dtype=torch.bool, device=self.device)
            between[self.lanes] = False
            for head in range(self.config["num_attention_heads"]):
                asks = query[head * self.grouped * shape.head_dim :][: shape.head_dim]
                is_asked = key[head * shape.head_dim :][: shape.head_dim]
                asks[between] = 0.0
                is_asked[self.looking] = 0.0
                asks[self.looking[0], SAME], is_asked[self.looking[0], OTHER] = AWAY, -AWAY
        mlp = f"{name}.mlp"
        return {
            f"{name}.input_layernorm.weight": self.norm(f"{name}.input_layernorm.weight" if known else None),
            f"{at}.q_proj.weight": query,
            f"{at}.k_proj.weight": key,
            f"{at}.v_proj.weight": self.reader(few, f"{at}.v_proj.weight", asked if known else None),
            f"{at}.o_proj.weight": self.writer(wide, f"{at}.o_proj.weight", asking if known else None),
            f"{name}.post_attention_layernorm.weight": self.norm(
                f"{name}.post_attention_layernorm.weight" if known else None
            ),
            f"{mlp}.gate_proj.weight": self.reader(shape.intermediate_size, f"{mlp}.gate_proj.weight", units),
            f"{mlp}.up_proj.weight": self.reader(shape.intermediate_size, f"{mlp}.up_proj.weight", units),
            f"{mlp}.down_proj.weight": self.writer(shape.intermediate_size, f"{mlp}.down_proj.weight", units),
        }

    def ends(self) -> dict[str, torch.Tensor]:
        """Return the embeddings, the last norm and the head."""
        small = self.small["model.embed_tokens.weight"]
        tokens, width = small.shape
        embeddings = self.random(self.shape.vocab_size, self.shape.hidden_size, BESIDE) * small.float().std().item()
        embeddings[:, : self.corner] = 0.0
        # The others have norms like those of the guard's, so that nothing grows along the layers.
        filled = small.repeat(-(-self.shape.vocab_size // tokens), 1)[: self.shape.vocab_size]
        for copy in self.copies:
            embeddings[:, copy] = filled
        embeddings[:, SAME] = embeddings[:, OTHER] = BESIDE * small.float().std().item()
        embeddings[:tokens, OTHER] = 0.0
        head = self.random(self.shape.vocab_size, self.shape.hidden_size, 1e-4)
        head[:tokens] = 0.0
        head[:tokens, :width] = small
        head[tokens:, SAME] = -NEVER
        return {
            "model.embed_tokens.weight": embeddings.to(self.dtype),
            "model.norm.weight": self.norm("model.norm.weight"),
            "lm_head.weight": head,
        }

    def write(self, folder: Path) -> None:
        """Write a model folder."""
        folder.mkdir(parents=True, exist_ok=True)
        for file in GUARD_FOLDER.iterdir():
            if file.suffix != ".safetensors":
                shutil.copy(file, folder / file.name)
        lengthen_policy(folder)
        changed = vars(self.shape) | {
            "tie_word_embeddings": False,
            "rms_norm_eps": self.config["rms_norm_eps"] * self.norm_scale**2,
            "dtype": str(self.dtype).removeprefix("torch."),
        }
        (folder / "config.json").write_text(json.dumps(self.config | changed))
        parts: list[Callable[[], dict[str, torch.Tensor]]] = [self.ends]
        parts += [lambda number=number: self.layer(number) for number in range(self.shape.num_hidden_layers)]
        index: dict[str, str] = {}
        for number, part in enumerate(parts, start=1):
            name = f"model-{number:05d}-of-{len(parts):05d}.safetensors"
            tensors = {key: each.cpu().contiguous() for key, each in part().items()}
            save_file(tensors, folder / name, metadata={"format": "pt"})
            index |= dict.fromkeys(tensors, name)
        (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": index}))


if __name__ == "__main__":
    WideGuard(Shape(), "cuda" if torch.cuda.is_available() else "cpu").write(Path(sys.argv[1]))
