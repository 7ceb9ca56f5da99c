"""Text to token ids and back, refusing what the vocabulary does not cover."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import cast

from tokenizers import Encoding, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as FastTokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from gradmem_core.errors import CheckpointError, UnknownCharactersError

PAD = "<pad>"
UNKNOWN = "<unk>"
QUERY = "{query}"
"Where a query stands in a template."
QUERY_MARK = "\x05"
"ASCII's enquiry: begins a query."
ABSENT = "\x15"
"ASCII's negative acknowledge: the answer about a key that is not in memory."
OUTSIDE = "outside this checkpoint's vocabulary"
SURROGATE = re.compile("[\ud800-\udfff]")
"Half of a UTF-16 pair: Python strings may hold one, UTF-8 and the tokenizers cannot."


class Tokenizer:
    """A Hugging Face fast tokenizer that never lets an unknown symbol pass.

    Args:
        fast: The tokenizer. Where it has an unknown token, texts that need it are refused.
    """

    def __init__(self, fast: PreTrainedTokenizerFast) -> None:
        self._fast = fast
        self._backend: FastTokenizer = fast.backend_tokenizer
        self._backend.encode_special_tokens = True  # "<pad>" in a text is five characters
        # Of the model itself: tokenizer_config.json is not part of the fingerprint.
        self._unknown = self._backend.token_to_id(
            getattr(self._backend.model, "unk_token", "") or ""
        )
        self._longest = max(len(token) for token in fast.get_vocab())
        self._specials = re.compile(f"({'|'.join(map(re.escape, fast.all_special_tokens))})")

    @classmethod
    def from_characters(cls, characters: str) -> "Tokenizer":
        """A tokenizer of single characters, whose ids follow padding and unknown in order."""
        vocabulary = {token: i for i, token in enumerate([PAD, UNKNOWN, *characters])}
        fast = FastTokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
        fast.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        fast.decoder = decoders.Fuse()
        return cls(_wrapped(fast))

    @classmethod
    def from_words(cls, words: Sequence[str]) -> "Tokenizer":
        """A tokenizer of lower-case words and punctuation, after padding and unknown in order."""
        vocabulary = {token: i for i, token in enumerate([PAD, UNKNOWN, *words])}
        fast = FastTokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
        fast.normalizer = normalizers.Lowercase()
        fast.pre_tokenizer = pre_tokenizers.Whitespace()
        return cls(_wrapped(fast))

    @classmethod
    def from_folder(cls, folder: Path) -> "Tokenizer":
        """Load the ordinary tokenizer files.

        Raises:
            CheckpointError: The files are missing or damaged.
        """
        for name in ("tokenizer.json", "tokenizer_config.json"):
            if not (folder / name).is_file():
                raise CheckpointError(f"the checkpoint {folder} has no {name}")
        try:
            return cls(PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True))
        except Exception as error:  # tokenizers raises bare Exception for a damaged file
            raise CheckpointError(f"the tokenizer in {folder} cannot be loaded: {error}") from error

    @classmethod
    def from_gguf(cls, file: Path) -> "Tokenizer":
        """Load the tokenizer of a GGUF file.

        Raises:
            CheckpointError: The file is missing, damaged, or its tokenizer is of an unknown kind.
        """
        try:
            fast = AutoTokenizer.from_pretrained(
                file.parent, gguf_file=file.name, local_files_only=True
            )
        except Exception as error:  # transformers and gguf have no base class for their errors
            raise CheckpointError(f"{file} has no tokenizer that can be read: {error}") from error
        return cls(cast("PreTrainedTokenizerFast", fast))

    def save(self, folder: Path) -> None:
        """Write the ordinary tokenizer files."""
        self._fast.save_pretrained(folder)

    def __len__(self) -> int:
        return len(self._fast)

    @property
    def pad_id(self) -> int:
        """The id that fills the right of a batch."""
        pad = self._fast.pad_token_id
        return 0 if pad is None else int(pad)

    def count_fewest_tokens(self, text: str) -> int:
        """The fewest tokens that the text can have, without the cost of finding them."""
        return -(-len(text) // self._longest)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text.

        Raises:
            UnknownCharactersError: The text holds characters outside the vocabulary; the error
                names the first ones and their positions.
        """
        check_surrogates(text)
        encoding = self._backend.encode(text, add_special_tokens=False)
        self._check_known(text, encoding)
        return list(encoding.ids)

    def find_token_ends(self, text: str) -> list[int]:
        """Where each token of a text ends: the offset after its last character.

        A character of several tokens is counted once for each of them. Other threads run meanwhile.

        Raises:
            UnknownCharactersError: The text holds characters outside the vocabulary.
        """
        check_surrogates(text)
        # Unlike `encode`, a batch lets go of the interpreter's lock.
        [encoding] = self._backend.encode_batch([text], add_special_tokens=False)
        self._check_known(text, encoding)
        return [end for _, end in encoding.offsets]

    def _check_known(self, text: str, encoding: Encoding) -> None:
        if self._unknown is not None and self._unknown in encoding.ids:
            spans = zip(encoding.ids, encoding.offsets, strict=True)
            places = [start for id_, (start, _) in spans if id_ == self._unknown]
            raise UnknownCharactersError.at_places(text, places, OUTSIDE)

    def encode_query(self, query: str, template: str) -> list[int]:
        """Token ids of a query in a template.

        Args:
            query: Any text; special tokens in it are only characters.
            template: What stands around QUERY; special tokens in it are special.

        Raises:
            UnknownCharactersError: The query holds characters outside the vocabulary.
        """
        ids: list[int] = []
        for part in self._specials.split(template):
            if self._specials.fullmatch(part):
                ids += self.require_ids([part])
            else:
                ids += self.encode(part.replace(QUERY, query))
        return ids

    @property
    def chat_template(self) -> str | None:
        """The tokenizer's own template of a question in a conversation, where it has one."""
        if self._fast.chat_template is None:
            return None
        turn = [{"role": "user", "content": QUERY}]
        text = self._fast.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        return str(text)

    def find_last_token(self, text: str) -> str:
        """The last token of a text, as the vocabulary spells it."""
        return str(self._fast.convert_ids_to_tokens(self.encode(text)[-1]))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids."""
        return str(self._backend.decode(list(ids), skip_special_tokens=True))

    def require_ids(self, tokens: Iterable[str]) -> list[int]:
        """The ids of single tokens.

        Raises:
            CheckpointError: One of them is not in the vocabulary.
        """
        vocabulary = self._fast.get_vocab()
        missing = [token for token in tokens if token not in vocabulary]
        if missing:
            raise CheckpointError(f"the tokenizer has no token {missing[0]!r}")
        return [vocabulary[token] for token in tokens]


def check_surrogates(text: str) -> None:
    """Refuse halves of UTF-16 pairs.

    Raises:
        UnknownCharactersError: There are some; the error names where the first ones stand.
    """
    if halves := [match.start() for match in SURROGATE.finditer(text)]:
        raise UnknownCharactersError.at_places(text, halves, OUTSIDE)


def _wrapped(fast: FastTokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=fast, pad_token=PAD, unk_token=UNKNOWN
    )
