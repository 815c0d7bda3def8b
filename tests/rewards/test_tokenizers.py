"""Ids of prompts: lengths, padding, errors, and identity with open_clip and transformers."""

import importlib.util
import json
import pathlib

import numpy as np
import preference_case as case
import pytest

from mfm_jax.rewards import prompts, tokenizers

if importlib.util.find_spec("tokenizers") is None:
  pytest.skip("needs the library `tokenizers`, the extra `rewards`", allow_module_level=True)

HARD = (
  "it's  A  dog, and CAT's 123.5 photographs!",
  "caf\u00e9 na\u00efve \u65e5\u672c \U0001f600",
  "",
  "word " * 100,
  "don't we'll I'm <>?/ un-believable\nnew\tline",
)


@pytest.fixture(scope="module")
def imagenet(mfm_data_dir):
  names = prompts.read_class_names(mfm_data_dir / "imagenet-classes" / "imagenet_class_index.json")
  return [*prompts.class_prompts(names), *HARD]


def open_clip_vocabulary():
  library = pytest.importorskip("open_clip", reason="needs open_clip, which ships CLIP's vocabulary")
  return pathlib.Path(library.__file__).parent / "bpe_simple_vocab_16e6.txt.gz"


def test_clip_is_open_clip(imagenet):
  vocabulary = open_clip_vocabulary()
  import open_clip

  texts = [*imagenet, "black &amp; white"]
  ids, _ = tokenizers.clip_tokenizer(vocabulary)(texts)
  np.testing.assert_array_equal(ids, open_clip.tokenize(texts).numpy())


def test_clip_is_transformers(imagenet, tmp_path):
  """From vocab.json with merges.txt, and from the tokenizer.json that transformers writes."""
  transformers = pytest.importorskip("transformers", reason="needs transformers")
  path = case.write_vocabulary_of_transformers(tmp_path, open_clip_vocabulary())
  theirs = transformers.CLIPTokenizerFast(str(path), str(tmp_path / "merges.txt"))
  expected = theirs(imagenet, padding="max_length", truncation=True, max_length=77, return_tensors="np")
  (tmp_path / "saved").mkdir()
  theirs.save_pretrained(tmp_path / "saved")
  for source in (path, tmp_path / "saved" / "tokenizer.json"):
    ids, mask = tokenizers.clip_tokenizer(source, style="transformers")(imagenet)
    np.testing.assert_array_equal(ids, expected["input_ids"])
    np.testing.assert_array_equal(mask, expected["attention_mask"])


def test_bert_is_transformers(imagenet, tmp_path):
  transformers = pytest.importorskip("transformers", reason="needs transformers")
  path = case.write_bert_vocabulary(tmp_path)
  theirs = transformers.BertTokenizer(str(path))
  theirs.add_special_tokens({"bos_token": "[DEC]"})
  theirs.add_special_tokens({"additional_special_tokens": ["[ENC]"]})
  expected = theirs(imagenet, padding="max_length", truncation=True, max_length=35, return_tensors="np")
  ids, mask = tokenizers.bert_tokenizer(path)(imagenet)
  np.testing.assert_array_equal(ids, expected["input_ids"])
  np.testing.assert_array_equal(mask, expected["attention_mask"])


def test_start_end_and_padding_of_clip(tmp_path):
  path = case.write_clip_vocabulary(tmp_path)
  ids, mask = tokenizers.clip_tokenizer(tmp_path, context=6)(["the dog", "", "the dog of the thing"])
  start, end = 512 + 7, 512 + 8
  assert ids[0, 0] == start
  assert ids[1].tolist() == [start, end, 0, 0, 0, 0]
  assert ids[2, -1] == end
  np.testing.assert_array_equal(mask.sum(1), [4, 2, 6])
  padded, _ = tokenizers.clip_tokenizer(path, context=6, style="transformers")([""])
  assert padded[0].tolist() == [start] + 5 * [end]


@pytest.mark.parametrize(
  ("call", "message"),
  [
    (
      lambda p: tokenizers.clip_tokenizer(p / "no"),
      "a file, or a folder with tokenizer.json",
    ),
    (lambda p: tokenizers.bert_tokenizer(p), "a folder with vocab.txt; got"),
    (lambda p: tokenizers.clip_tokenizer(p / "bad.json"), "bad.json must be a tokenizer of CLIP; got"),
    (lambda p: tokenizers.clip_tokenizer(p / "vocab.json"), "vocab.json must be a tokenizer of CLIP; got"),
    (
      lambda p: tokenizers.clip_tokenizer(p / "pairs" / "vocab.json"),
      r"merges.txt must hold two tokens a line; got 'a b c'",
    ),
    (lambda p: tokenizers.bert_tokenizer(p / "bad.txt"), r"bad.txt must hold the token \[CLS\]; got none"),
    (lambda p: tokenizers.bert_tokenizer(p / "bad.txt", length=1), "length must be at least 2; got 1"),
    (lambda p: tokenizers.clip_tokenizer(p, context=1), "context must be at least 2; got 1"),
    (
      lambda p: tokenizers.clip_tokenizer(p, style="t5"),
      "style must be one of open_clip, transformers",
    ),
  ],
)
def test_bad_tokenizers(tmp_path, call, message):
  (tmp_path / "bad.json").write_text(json.dumps({}))
  (tmp_path / "bad.txt").write_text("a\nb\n[UNK]\n")
  (tmp_path / "vocab.json").write_text("{}")  # without its merges.txt
  (tmp_path / "pairs").mkdir()
  (tmp_path / "pairs" / "vocab.json").write_text("{}")
  (tmp_path / "pairs" / "merges.txt").write_text("#version: 0.2\na b\na b c\n")
  with pytest.raises(ValueError, match=message):
    call(tmp_path)
