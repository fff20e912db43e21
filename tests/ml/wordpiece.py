# SPDX-License-Identifier: Apache-2.0
"""BERT's uncased tokens: clean, lower, strip accents, split at white space and punctuation, then the longest pieces of a
vocabulary. Enough for the tests' sentences; minilm_test.py compares it with the package `tokenizers`."""
import unicodedata


def _punctuation(c):
    code = ord(c)
    return (33 <= code <= 47 or 58 <= code <= 64 or 91 <= code <= 96 or 123 <= code <= 126
            or unicodedata.category(c).startswith('P'))


def _ideograph(c):
    return any(low <= ord(c) <= high for low, high in (
        (0x4e00, 0x9fff), (0x3400, 0x4dbf), (0x20000, 0x2ebef), (0xf900, 0xfaff), (0x2f800, 0x2fa1f)))


def words(text):
    out = []
    for c in unicodedata.normalize('NFD', text.lower()):
        category = unicodedata.category(c)
        if category == 'Mn' or (category.startswith('C') and c not in '\t\n\r') or c == '\ufffd':
            continue
        if c.isspace():
            out.append(' ')
        elif _punctuation(c) or _ideograph(c):
            out.append(f' {c} ')
        else:
            out.append(c)
    return ''.join(out).split()


def pieces(word, vocabulary):
    out, start = [], 0
    while start < len(word):
        for end in range(len(word), start, -1):
            piece = ('##' if start else '') + word[start:end]
            if piece in vocabulary:
                break
        else:
            return ['[UNK]']
        out.append(piece)
        start = end
    return out


def encode(text, vocabulary, limit):
    """Ids with [CLS] and [SEP], at most `limit` of them."""
    tokens = [p for w in words(text) for p in (pieces(w, vocabulary) if len(w) <= 100 else ['[UNK]'])]
    return [vocabulary[t] for t in ['[CLS]', *tokens[:limit - 2], '[SEP]']]
