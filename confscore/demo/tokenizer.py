"""The small guard's tokenizer: byte-level BPE with control tokens and a chat template in the form of Llama Guard 3."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from confscore.guards import Guard

CONTROLS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|eot_id|>",
    "<|pad|>",
)

# Words with their space, single digits (so S1 and S10 share their tokens), signs, and line breaks in one piece.
_WORDS = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s*[\r\n]+|\s+(?!\S)|\s+"

_TEMPLATE = """\
{%- set judged = 'User' if messages|length % 2 == 1 else 'Agent' -%}
<|begin_of_text|><|start_header_id|>user<|end_header_id|>

Is the last '{{ judged }}' message 'safe' or 'unsafe' by these rules? Name the rules it breaks.

POLICY

{% for message in messages -%}
{{ 'User' if loop.index0 % 2 == 0 else 'Agent' }}: {{ message['content'] | trim }}

{% endfor -%}
END

Judge the last {{ judged }} message.\
<|eot_id|><|start_header_id|>assistant<|end_header_id|>"""


def chat_template(guard: Guard) -> str:
    """Return the Jinja chat template: policy, conversation, instructions, and the assistant's header.

    The model itself writes the blank line after the header, as Llama Guard 3 does.
    """
    policy = "\n".join(f"{category.code} {category.name}" for category in guard.categories)
    return _TEMPLATE.replace("POLICY", policy)


def train_tokenizer(texts: Iterable[str], guard: Guard, size: int, folder: Path) -> PreTrainedTokenizerFast:
    """Train a tokenizer on texts and save it.

    Parameters
    ----------
    texts : iterable of str
        What it will have to read.
    guard : Guard
        Its categories stand in the chat template.
    size : int
        Tokens of the vocabulary, control tokens not counted.
    folder : Path
        Gets ``tokenizer.json``, ``tokenizer_config.json`` and ``chat_template.jinja``.

    Returns
    -------
    PreTrainedTokenizerFast
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    template = chat_template(guard)
    # The template and the answers are in every prompt, so their words shall be single tokens.
    roles = [template.replace("{{ judged }}", role) for role in ("User", "Agent")]
    answers = ["\n\nsafe", "\n\nunsafe\nS1,S10"]
    tokenizer.train_from_iterator([*texts, *[*roles, *answers] * 500], trainer)
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in CONTROLS])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|begin_of_text|>",
        eos_token="<|eot_id|>",
        pad_token="<|pad|>",
        chat_template=template,
        clean_up_tokenization_spaces=False,
        model_max_length=2048,
    )
    fast.save_pretrained(folder)
    # The class has one name in transformers 4 and another in 5; this one is known to both.
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    settings.pop("backend", None)
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return fast
