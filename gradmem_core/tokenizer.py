"""Text to token ids and back; text outside the vocabulary is refused."""

import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import cast

from tokenizers import Encoding, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as FastTokenizer
from tokenizers.decoders import DecodeStream
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from gradmem_core.errors import CheckpointError, UnknownCharactersError
from gradmem_core.model_files import read_json

FILE = "tokenizer.json"
CONFIG = "tokenizer_config.json"
CHAT_TEMPLATE = "chat_template.jinja"
CONFIG_FIELDS = {
    *("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"),
    *("additional_special_tokens", "extra_special_tokens", "chat_template", "model_max_length"),
}
"Fields of `tokenizer_config.json` that are read: names of tokens, and what concerns no token."

PAD = "<pad>"
UNKNOWN = "<unk>"
QUERY = "{query}"
"Placeholder of the query in a template."
QUERY_MARK = "\x05"
"ASCII's enquiry: starts the query for a key."
ABSENT = "\x15"
"ASCII's negative acknowledge: the answer for a key that is not in memory."
OUTSIDE = "outside this checkpoint's vocabulary"
SURROGATE = re.compile("[\ud800-\udfff]")
"Half of a UTF-16 pair: a Python string may have one, UTF-8 and the tokenizers cannot."


class Tokenizer:
    """A Hugging Face fast tokenizer that refuses unknown characters.

    Args:
        fast: The tokenizer. If it has an unknown token, texts that need it are refused.
    """

    def __init__(self, fast: PreTrainedTokenizerFast) -> None:
        self._fast = fast
        self._backend: FastTokenizer = fast.backend_tokenizer
        self._backend.encode_special_tokens = True  # "<pad>" in a text is five characters
        # From the model itself: tokenizer_config.json is not part of the fingerprint.
        self._unknown = self._backend.token_to_id(
            getattr(self._backend.model, "unk_token", "") or ""
        )
        self._longest = max(len(token) for token in fast.get_vocab())
        self._specials = re.compile(f"({'|'.join(map(re.escape, fast.all_special_tokens))})")

    @classmethod
    def from_characters(cls, characters: str) -> "Tokenizer":
        """Build a tokenizer of single characters, with ids in order after padding and unknown."""
        vocabulary = {token: i for i, token in enumerate([PAD, UNKNOWN, *characters])}
        fast = FastTokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
        fast.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        fast.decoder = decoders.Fuse()
        return cls(_wrap(fast))

    @classmethod
    def from_words(cls, words: Sequence[str]) -> "Tokenizer":
        """Build a tokenizer of lower-case words and punctuation, with ids as `from_characters`."""
        vocabulary = {token: i for i, token in enumerate([PAD, UNKNOWN, *words])}
        fast = FastTokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
        fast.normalizer = normalizers.Lowercase()
        fast.pre_tokenizer = pre_tokenizers.Whitespace()
        return cls(_wrap(fast))

    @classmethod
    def from_folder(cls, folder: Path) -> "Tokenizer":
        """Load the tokenizer of a folder: `tokenizer.json`, which no other file may change.

        Raises:
            CheckpointError: The files are missing or damaged, or `tokenizer_config.json` adds
                tokens or names code.
        """
        fields, config = (read_json(folder / name) for name in (FILE, CONFIG))
        if config.get("auto_map") is not None:
            raise CheckpointError(f"{CONFIG} of {folder} names code; GradMem runs none")
        names = {name: value for name, value in config.items() if name in CONFIG_FIELDS}
        try:
            fast = FastTokenizer.from_str(json.dumps(fields))
            stored = fast.to_str()
            wrapped = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
                tokenizer_object=fast, **names
            )
            if (folder / CHAT_TEMPLATE).exists():
                wrapped.chat_template = (folder / CHAT_TEMPLATE).read_text()
            loaded = cls(wrapped)
        except Exception as error:  # tokenizers raises bare Exception for a damaged file
            raise CheckpointError(f"the tokenizer in {folder} cannot be loaded: {error}") from error
        if loaded._backend.to_str() != stored:
            raise CheckpointError(
                f"{CONFIG} of {folder} changes the tokenizer: all its tokens must be in {FILE}"
            )
        return loaded

    @classmethod
    def from_gguf(cls, file: Path) -> "Tokenizer":
        """Load the tokenizer of a GGUF file.

        Raises:
            CheckpointError: The file is missing or damaged, or its tokenizer is of an unknown kind.
        """
        try:
            fast = AutoTokenizer.from_pretrained(
                file.parent, gguf_file=file.name, local_files_only=True, trust_remote_code=False
            )
        except Exception as error:  # transformers and gguf have no base class for their errors
            raise CheckpointError(f"the tokenizer of {file} cannot be loaded: {error}") from error
        return cls(cast("PreTrainedTokenizerFast", fast))

    def save(self, folder: Path) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`."""
        self._fast.save_pretrained(folder)

    def __len__(self) -> int:
        return len(self._fast)

    @property
    def pad_id(self) -> int:
        """Id that pads the right of a batch."""
        pad = self._fast.pad_token_id
        return 0 if pad is None else int(pad)

    def count_fewest_tokens(self, text: str) -> int:
        """Return a lower bound of the tokens of a text, without the cost of encoding it."""
        return -(-len(text) // self._longest)

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a text.

        Raises:
            UnknownCharactersError: The text holds characters outside the vocabulary; the error
                names the first ones and their positions.
        """
        check_surrogates(text)
        encoding = self._backend.encode(text, add_special_tokens=False)
        self._check_known(text, encoding)
        return list(encoding.ids)

    def find_token_ends(self, text: str) -> list[int]:
        """Return the end of each token of a text: the offset after its last character.

        A character of several tokens is counted once for each of them. Other threads run meanwhile.

        Raises:
            UnknownCharactersError: The text has characters outside the vocabulary.
        """
        check_surrogates(text)
        # Unlike `encode`, a batch releases the interpreter's lock.
        [encoding] = self._backend.encode_batch([text], add_special_tokens=False)
        self._check_known(text, encoding)
        return [end for _, end in encoding.offsets]

    def _check_known(self, text: str, encoding: Encoding) -> None:
        if self._unknown is not None and self._unknown in encoding.ids:
            spans = zip(encoding.ids, encoding.offsets, strict=True)
            positions = [start for id_, (start, _) in spans if id_ == self._unknown]
            raise UnknownCharactersError.at_positions(text, positions, OUTSIDE)

    def encode_query(self, query: str, template: str) -> list[int]:
        """Return the token ids of a query in a template.

        Args:
            query: Any text; names of special tokens in it are plain characters.
            template: Text with the placeholder QUERY; names of special tokens in it are special.

        Raises:
            UnknownCharactersError: The query has characters outside the vocabulary.
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
        """Chat template of a question as a query template; None if the tokenizer has none."""
        if self._fast.chat_template is None:
            return None
        turn = [{"role": "user", "content": QUERY}]
        text = self._fast.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        return str(text)

    def find_last_token(self, text: str) -> str:
        """Return the last token of a text, as the vocabulary spells it."""
        return str(self._fast.convert_ids_to_tokens(self.encode(text)[-1]))

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, without special tokens."""
        return str(self._backend.decode(list(ids), skip_special_tokens=True))

    def stream(self) -> "TextStream":
        """Start a text to which tokens are added one by one."""
        return TextStream(self._backend)

    def decode_each(self, ids: Iterable[int]) -> list[str]:
        """Return the text that each token adds, see `TextStream`."""
        stream = self.stream()
        return [stream.add(token) for token in ids]

    def require_ids(self, tokens: Iterable[str]) -> list[int]:
        """Look up the ids of single tokens.

        Raises:
            CheckpointError: A token is not in the vocabulary.
        """
        vocabulary = self._fast.get_vocab()
        missing = [token for token in tokens if token not in vocabulary]
        if missing:
            raise CheckpointError(f"the tokenizer has no token {missing[0]!r}")
        return [vocabulary[token] for token in tokens]


class TextStream:
    """A text that grows by tokens.

    Args:
        backend: The tokenizer.
    """

    def __init__(self, backend: FastTokenizer) -> None:
        self._backend = backend
        self._stream = DecodeStream(skip_special_tokens=True)

    def add(self, token: int) -> str:
        """Return the text that a token adds: of a character of several tokens, the last has all."""
        return self._stream.step(self._backend, token) or ""


def check_surrogates(text: str) -> None:
    """Refuse halves of UTF-16 pairs.

    Raises:
        UnknownCharactersError: The text has such halves; the error names the first positions.
    """
    if halves := [match.start() for match in SURROGATE.finditer(text)]:
        raise UnknownCharactersError.at_positions(text, halves, OUTSIDE)


def _wrap(fast: FastTokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=fast, pad_token=PAD, unk_token=UNKNOWN
    )
