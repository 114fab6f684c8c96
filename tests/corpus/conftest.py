"""A real tokenizer for chats, with the templates that tests need: each has one trait."""

from collections.abc import Callable
from typing import Any

import pytest

HEAD = "<|im_start|>{{ m.role }}\n"
PROMPT = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
LAST_THOUGHT = "{{ m.content if loop.last else m.content.split('</think>')[-1] }}<|im_end|>"

# transformers drops a line break right after a block, as many templates expect; there it is written as {{ '\n' }}.
TEMPLATES = {
    "chatml": f"{{% for m in messages %}}{HEAD}{{{{ m.content }}}}<|im_end|>\n{{% endfor %}}{PROMPT}",
    "marked": (
        f"{{% for m in messages %}}{HEAD}{{% if m.role == 'assistant' %}}"
        "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}{{ '\\n' }}"
        f"{{% endfor %}}{PROMPT}"
    ),
    # An earlier turn loses its thought, so what was written up to it changes when the next turn comes.
    "forgetful": f"{{% for m in messages %}}{HEAD}{LAST_THOUGHT}\n{{% endfor %}}{PROMPT}",
    "forgetful-marked": (
        f"{{% for m in messages %}}{HEAD}{{% if m.role == 'assistant' %}}"
        f"{{%- generation -%}}{LAST_THOUGHT}{{%- endgeneration -%}}{{% else %}}{LAST_THOUGHT}{{% endif %}}{{{{ '\\n' }}}}"
        f"{{% endfor %}}{PROMPT}"
    ),
    "no-system": (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        f"{HEAD}{{{{ m.content }}}}<|im_end|>\n{{% endfor %}}{PROMPT}"
    ),
    # No header of the assistant and no generation prompt; what ends a turn is the last thing that is written.
    "inst": (
        "<s>{% for m in messages %}{% if m.role == 'assistant' %} {{ m.content }}</s>"
        "{% else %}[INST] {{ m.content }} [/INST]{% endif %}{% endfor %}"
    ),
    # The prompt ends in a space, which a tokenizer joins with the word that follows.
    "joining": "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}",
    "mute": "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}",
    "crashing": "{% for m in messages %}{{ m.content + 1 }}{% endfor %}",
}


@pytest.fixture(scope="session")
def speaker() -> Callable[[str | None], Any]:
    """speaker(name): a byte-level BPE tokenizer with the chat template of that name, or without one."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]

    def make(name: str | None) -> Any:
        bpe = Tokenizer(models.BPE())
        bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        bpe.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=331,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        bpe.train_from_iterator(
            ["system", "user", "assistant", "what is the sum of two and two", "four it is"] * 5,
            trainer,
        )
        made = PreTrainedTokenizerFast(
            tokenizer_object=bpe,
            bos_token="<s>",
            eos_token="<|im_end|>",
            pad_token="<pad>",
            extra_special_tokens=["</s>", "<|im_start|>"],
        )
        made.chat_template = TEMPLATES.get(name)
        return made

    return make
