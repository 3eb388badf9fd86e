"""Reader of the vocabulary in a folder of a protein T5 model.

The vocabulary is read from ``tokenizer.json``, ``spiece.model`` or both, as data: neither the SentencePiece library nor
a tokenizer class of transformers is used, because they trust their input, and because they merge unknown residues.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prott5nv.checkpoint.safetensors_folder import read_json
from prott5nv.checkpoint.sentencepiece_file import MAX_SIZE, read_tokens
from prott5nv.errors import ProtT5nvError
from prott5nv.model.t5_tokenizer import AMINO_ACIDS, ANY_RESIDUE, INPUTS, T5Vocabulary

TOKENIZER = "tokenizer.json"
SENTENCEPIECE = "spiece.model"
#: Files of a folder that its vocabulary can come from.
FILES = (TOKENIZER, SENTENCEPIECE, "added_tokens.json", "tokenizer_config.json")

_END = "</s>"
_UNKNOWN = "<unk>"
_WORD_START = "\u2581"  # SentencePiece's mark of a space
_TO_FOLD, _TO_AMINO_ACIDS = "<AA2fold>", "<fold2AA>"  # ProstT5's tokens before amino acids and before 3Di states
_UNDERSTANDING = "[NLU]"  # Ankh3's token before a protein whose embedding is computed


def read_vocabulary(folder: Path, input: str, end: int) -> T5Vocabulary:
    """Read the vocabulary of a folder.

    Parameters
    ----------
    folder : Path
        Folder of the model.
    input : str
        A key of :data:`prott5nv.model.t5_tokenizer.INPUTS`.
    end : int
        Id of the token behind each protein, by ``config.json``.

    Returns
    -------
    T5Vocabulary

    Raises
    ------
    ProtT5nvError
        If the files are missing or damaged, contradict each other, or do not have one token for each amino acid, or if
        the model has no tokens for the kind of input.
    """
    found = {}
    if (folder / TOKENIZER).is_file():
        found[TOKENIZER] = _read_tokenizer(folder / TOKENIZER)
    if (folder / SENTENCEPIECE).is_file():
        found[SENTENCEPIECE] = _read_sentencepiece(folder)
    if not found:
        raise ProtT5nvError(
            f"{folder}: has neither {TOKENIZER} nor {SENTENCEPIECE}, which hold the vocabulary; copy one of them from "
            "where the model comes from"
        )
    vocabularies = {name: _choose(tokens, input, end, f"{folder / name}") for name, tokens in found.items()}
    vocabulary, *others = vocabularies.values()
    if others and others[0] != vocabulary:
        raise ProtT5nvError(f"{folder}: {TOKENIZER} and {SENTENCEPIECE} have different token ids for amino acids")
    return vocabulary


def _read_tokenizer(path: Path) -> dict[str, int]:
    """Return the ids of the tokens in ``tokenizer.json``."""
    values = read_json(path)
    model = values.get("model")
    entries = model.get("vocab") if isinstance(model, dict) else None
    added = values.get("added_tokens") or []
    try:
        if isinstance(entries, dict):
            tokens = _collect(entries.items(), path)
        else:  # a Unigram model has a list of tokens with scores
            tokens = _collect(((entry[0], index) for index, entry in enumerate(entries or [])), path)
        return _collect(((entry["content"], entry["id"]) for entry in added), path, tokens)
    except (TypeError, KeyError, IndexError):
        raise ProtT5nvError(f"{path}: not a file of the tokenizers library; expected a list of tokens") from None


def _read_sentencepiece(folder: Path) -> dict[str, int]:
    """Return the ids of the tokens in ``spiece.model``, and of those that other files add."""
    path = folder / SENTENCEPIECE
    if path.stat().st_size > MAX_SIZE:
        raise ProtT5nvError(f"{path}: larger than {MAX_SIZE:,} bytes, which no such file needs")
    tokens = _collect(((token, index) for index, token in enumerate(read_tokens(path.read_bytes(), str(path)))), path)
    added = folder / "added_tokens.json"
    if added.is_file():
        tokens = _collect(read_json(added).items(), added, tokens)
    config = folder / "tokenizer_config.json"
    decoder = read_json(config).get("added_tokens_decoder") if config.is_file() else None
    if isinstance(decoder, dict):
        try:
            tokens = _collect(((entry["content"], int(index)) for index, entry in decoder.items()), config, tokens)
        except (TypeError, KeyError, ValueError):
            raise ProtT5nvError(f"{config}: 'added_tokens_decoder' does not list tokens by id") from None
    return tokens


def _collect(entries: Iterable[tuple[Any, Any]], path: Path, known: dict[str, int] | None = None) -> dict[str, int]:
    """Return the ids of tokens; raise an error if a token has two ids."""
    tokens = dict(known or {})
    for token, index in entries:
        if not isinstance(token, str) or type(index) is not int or index < 0:
            raise ProtT5nvError(f"{path}: {str(token)[:40]!r} has the id {str(index)[:40]!r}; expected tokens with ids")
        if tokens.setdefault(token, index) != index:
            raise ProtT5nvError(f"{path}: {token[:40]!r} has two ids, {tokens[token]} and {index}")
    return tokens


def _choose(tokens: dict[str, int], input: str, end: int, where: str) -> T5Vocabulary:
    """Select the tokens of amino acids or of structural states, and those before and behind a protein."""

    def index(token: str) -> int:
        if token not in tokens:
            raise ProtT5nvError(f"{where}: has no token {token!r}; expected the vocabulary of a protein T5 model")
        return tokens[token]

    if index(_END) != end:
        raise ProtT5nvError(f"{where}: {_END!r} has the id {tokens[_END]}, and config.json has eos_token_id={end}")
    is_prost = _TO_FOLD in tokens
    if input == "3di":
        if not is_prost:
            raise ProtT5nvError(f"{where}: has no token {_TO_AMINO_ACIDS!r}; only ProstT5 takes 3Di states")
        ids = tuple(index(letter.lower()) for letter in INPUTS[input])
        return T5Vocabulary(input, ids, index(_UNKNOWN), _UNKNOWN, (index(_TO_AMINO_ACIDS),), (end,))
    starts = [start for start in (_WORD_START, "") if all(start + letter in tokens for letter in AMINO_ACIDS)]
    if len(starts) != 1:
        reason = "no token for some" if not starts else "two tokens for each"
        raise ProtT5nvError(f"{where}: has {reason} of the 20 amino acids; expected the vocabulary of a protein model")
    ids = tuple(index(starts[0] + letter) for letter in INPUTS[input])
    prefix = tuple(tokens[token] for token in (_TO_FOLD, _UNDERSTANDING) if token in tokens)
    return T5Vocabulary(input, ids, ids[-1], ANY_RESIDUE, prefix, (end,))
