"""Which words of a prompt a tokenizer has never seen, or cuts off."""

import re

from transformers import PreTrainedTokenizerBase


def unknown_words(text: str, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the words that were in no caption that a tokenizer was made from.

    Priors trained here keep the words of their captions (`training.prior.models.make_tokenizer`).
    Nothing is unknown to others, such as CLIP's.
    """
    known = tokenizer.init_kwargs.get("caption_words")
    words = dict.fromkeys(re.findall(r"[^\W\d_]+", text.lower()))
    return [word for word in words if known is not None and word not in known]


def ignored_words(text: str, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Return the words at the end of a text, of which a tokenizer cuts off at least a part."""
    words = text.split()
    starts = (" ".join(words[:count]) for count in range(1, len(words) + 1))
    # Not verbose: the tokenizer would warn of an error that cutting prevents.
    lengths = [len(tokenizer(start, verbose=False).input_ids) for start in starts]
    return words[sum(length <= tokenizer.model_max_length for length in lengths) :]
