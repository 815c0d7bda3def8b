"""Tokenizers of CLIP (byte-level BPE) and BERT (WordPiece): prompts -> ids, by the library `tokenizers`."""

import gzip
import html
import json
import pathlib
import zlib
from collections.abc import Callable, Sequence

import numpy as np

from mfm_jax import checks

Tokenize = Callable[[Sequence[str]], tuple[np.ndarray, np.ndarray]]  # -> ids, mask, both (n, length) int32
CLIP_FILES = ("tokenizer.json", "vocab.json", "bpe_simple_vocab_16e6.txt.gz")
CLIP_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
CLIP_MERGES = 49152 - 256 - 2  # lines of the published list that are in the vocabulary
STYLES = ("open_clip", "transformers")


def clip_tokenizer(path: str | pathlib.Path, *, context: int = 77, style: str = "open_clip") -> Tokenize:
  """CLIP's: start, the lower-cased text, end; cut to `context` ids of which the last is the end, and padded.

  Of open_clip's cleaning that of HTML's entities is done; its repair of wrongly decoded text and of curly
  quotes (ftfy) is left out: prompts are to be sound Unicode.

  Args:
    path: tokenizer.json; vocab.json with merges.txt beside it; open_clip's bpe_simple_vocab_16e6.txt.gz; or
      a folder that holds one of these.
    context: ids of a text, at least 2.
    style: "open_clip", HTML's entities are read and the padding is 0; "transformers", the padding is the end.

  Raises:
    ValueError: no such file, one that is no tokenizer of CLIP; the library `tokenizers` not installed.
  """
  checks.at_least("context", context, 2)
  checks.one_of("style", style, STYLES)
  path = find(path, CLIP_FILES)
  name, library = path.name, _library()
  try:
    if name.endswith(".gz"):
      model = _bpe(library, *_open_clip_vocabulary(path))
    elif name == "vocab.json":
      model = _bpe(library, *_merges_beside(path))
    else:
      model = library.Tokenizer.from_file(str(path))
  except Exception as error:  # the library raises what is no more than an Exception
    raise ValueError(f"{path} must be a tokenizer of CLIP; got {error}") from error
  model.no_padding()
  model.no_truncation()
  start, end = _specials(model, path, ("<|startoftext|>", "<|endoftext|>"))
  if style == "transformers":
    return _tokenize(model, start, end, context, end)
  tokenize = _tokenize(model, start, end, context, 0)
  return lambda texts: tokenize([html.unescape(html.unescape(text)) for text in texts])


def bert_tokenizer(path: str | pathlib.Path, *, length: int = 35) -> Tokenize:
  """BERT's, uncased: [CLS], the text, [SEP]; cut to `length` ids, the last of which is [SEP], or padded.

  Args:
    path: vocab.txt, a token a line; or a folder that holds it.
    length: ids of a text, at least 2; ImageReward's is 35.

  Raises:
    ValueError: no such file, one without BERT's special tokens; the library `tokenizers` not installed.
  """
  checks.at_least("length", length, 2)
  path = find(path, ("vocab.txt",))
  library = _library()
  tokens = path.read_text(encoding="utf-8").splitlines()
  vocabulary = {token: i for i, token in enumerate(tokens)}
  model = library.Tokenizer(library.models.WordPiece(vocabulary, unk_token="[UNK]"))
  model.normalizer = library.normalizers.BertNormalizer(lowercase=True)
  model.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
  start, end, pad, _ = _specials(model, path, ("[CLS]", "[SEP]", "[PAD]", "[UNK]"))
  return _tokenize(model, start, end, length, pad)


def stand_in(*, length: int, vocabulary: int) -> Tokenize:
  """Hashes of words between the last two ids of a vocabulary: for rehearsals of networks that learnt nothing.

  Raises:
    ValueError: length < 2, vocabulary < 3.
  """
  checks.at_least("length", length, 2)
  checks.at_least("vocabulary", vocabulary, 3)

  def tokenize(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    ids, mask = (np.zeros((len(texts), length), np.int32) for _ in range(2))
    for i, text in enumerate(texts):
      words = [zlib.crc32(word.encode()) % (vocabulary - 2) for word in text.split()]
      row = [vocabulary - 2, *words[: length - 2], vocabulary - 1]
      ids[i, : len(row)], mask[i, : len(row)] = row, 1
    return ids, mask

  return tokenize


def find(path: str | pathlib.Path, names: Sequence[str]) -> pathlib.Path:
  """The file `path`, or the first of `names` in the folder `path`.

  Raises:
    ValueError: neither is there.
  """
  path = pathlib.Path(path)
  if path.is_file():
    return path
  for name in names:
    if (path / name).is_file():
      return path / name
  raise ValueError(f"a tokenizer must be a file, or a folder with {' or '.join(names)}; got {path}")


def _tokenize(model, start: int, end: int, length: int, pad: int) -> Tokenize:
  def tokenize(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    ids = np.full((len(texts), length), pad, np.int32)
    mask = np.zeros((len(texts), length), np.int32)
    for i, found in enumerate(model.encode_batch(list(texts), add_special_tokens=False)):
      row = [start, *found.ids[: length - 2], end]
      ids[i, : len(row)], mask[i, : len(row)] = row, 1
    return ids, mask

  return tokenize


def _specials(model, path: pathlib.Path, tokens: Sequence[str]) -> list[int]:
  ids = [model.token_to_id(token) for token in tokens]
  for token, i in zip(tokens, ids, strict=True):
    if i is None:
      raise ValueError(f"{path} must hold the token {token}; got none")
  return ids


def _bpe(library, vocabulary: dict[str, int], merges: list[tuple[str, str]]):
  model = library.Tokenizer(
    library.models.BPE(
      vocab=vocabulary,
      merges=merges,
      continuing_subword_prefix="",
      end_of_word_suffix="</w>",
      unk_token="<|endoftext|>",
    )
  )
  normalizers, split = library.normalizers, library.pre_tokenizers
  model.normalizer = normalizers.Sequence(
    [normalizers.NFC(), normalizers.Replace(library.Regex(r"\s+"), " "), normalizers.Lowercase()]
  )
  model.pre_tokenizer = split.Sequence(
    [
      split.Split(library.Regex(CLIP_WORDS), behavior="removed", invert=True),
      split.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
  )
  return model


def _open_clip_vocabulary(path: pathlib.Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
  """The bytes, the bytes at the end of a word, what each merge gives, start and end, in this order."""
  with gzip.open(path, "rt", encoding="utf-8") as file:
    lines = file.read().split("\n")[1 : 1 + CLIP_MERGES]
  merges = _pairs(path, lines)
  printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
  rest = 256 - len(printable)
  letters = [*map(chr, printable), *(chr(256 + i) for i in range(rest))]
  tokens = [*letters, *(letter + "</w>" for letter in letters), *map("".join, merges)]
  tokens += ["<|startoftext|>", "<|endoftext|>"]
  return {token: i for i, token in enumerate(tokens)}, merges


def _merges_beside(path: pathlib.Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
  beside = path.parent / "merges.txt"
  lines = beside.read_text(encoding="utf-8").split("\n")
  merges = _pairs(beside, [line for line in lines if not line.startswith("#version")])
  return json.loads(path.read_text(encoding="utf-8")), merges


def _pairs(path: pathlib.Path, lines: Sequence[str]) -> list[tuple[str, str]]:
  """The two tokens of each merge."""
  merges = []
  for line in filter(None, lines):
    left, *right = line.split(" ")
    if len(right) != 1:
      raise ValueError(f"{path} must hold two tokens a line; got {line!r}")
    merges.append((left, right[0]))
  return merges


def _library():
  try:
    import tokenizers
  except ImportError as error:
    raise ValueError(
      "tokenizers must be installed for rewards with prompts: pip install 'mfm_jax[rewards]'"
    ) from error
  return tokenizers
