#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks the labels of atomic accesses.

    labels.py SOURCE_ROOT     labels in the rooms' sources against each other and against tests/model
    labels.py --self-test     the check itself, on small sources that it must accept or refuse

A label is a letter and a digit. Where a comment says "X pairs with Y":
- Y (a label) stands at an access: in a comment beside or within two lines of an atomic access, a fence, or a helper
  of rings/spsc.h that contains one; X = Y needs two such places;
- or Y is a function (name followed by parentheses): it is defined in the sources, and X is named in a second place;
- or Y is a description ("the reader's acquire"): another access carries X.
Up to four words may stand before Y ("the guest's C2").
Every label that pairs with something is named in a file of tests/model: in a model, or in the README with the reason
why there is none.
"""
import pathlib
import re
import sys
import tempfile

ROOMS = ("rings", "core", "pmd-gpu", "guest-lib", "local-transport", "xen-transport", "store", "host", "ctl")
LABEL = r"[A-Z][0-9]"
PAIRS = re.compile(rf"(?<!\w)({LABEL}) pairs with (?:[\w']+ ){{0,4}}?({LABEL}\b|\w+\(\))|(?<!\w)({LABEL}) pairs with")
NAMED = re.compile(rf"(?<![\w-])({LABEL})(?![\w-])")
ACCESS = re.compile(
    r"\bvgpu_(load|store|add|exchange|count|fence|slot_store|slot_fetch|cons_|prod_|ring_event_)\w*\s*\("
    r"|\b__atomic_\w+\s*\(")
COMMENT = re.compile(r"/\*(.*?)\*/|//([^\n]*)", re.S)
NEAR_LINES = 2


def comments(text):
    """(first line, last line, text) of each comment; lines count from 0."""
    for m in COMMENT.finditer(text):
        first = text.count("\n", 0, m.start())
        yield first, first + m.group(0).count("\n"), m.group(1) or m.group(2) or ""


def scan(files):
    """files: {name: text}. Returns pairs [(place, X, Y)], at an access {label: places}, named {label: places}."""
    pairs, at_access, named = [], {}, {}
    for name, text in files.items():
        lines = text.split("\n")
        for first, last, body in comments(text):
            flat = re.sub(r"\s*\n\s*\*?\s*", " ", body)
            place = f"{name}:{first + 1}"
            for x, y, alone in PAIRS.findall(flat):
                pairs.append((place, x or alone, y or alone))
            # A comment of many lines is a table or prose, not the label of one access.
            near = last - first <= 3 and any(
                ACCESS.search(re.sub(r"/\*.*", "", line))
                for line in lines[max(0, first - NEAR_LINES):last + NEAR_LINES + 1])
            # The label of an access is what its comment starts with, or pairs from; others are mentions of the partner.
            own = set(re.findall(rf"^\s*({LABEL})(?![\w-])", flat)) | {x or alone for x, _, alone in PAIRS.findall(flat)}
            for label in NAMED.findall(flat):
                named.setdefault(label, set()).add(place)
            if near:
                for label in own:
                    at_access.setdefault(label, set()).add(place)
    return pairs, at_access, named


def check(files, model_text):
    """Returns the faults as lines of text."""
    pairs, at_access, named = scan(files)
    sources = "\n".join(files.values())
    faults = []
    for place, x, y in pairs:
        if y.endswith("()"):
            if not re.search(rf"^[^\n;]*\b{re.escape(y[:-2])}\([^;]*?\)\s*\{{", sources, re.M):
                faults.append(f"{place}: {x} pairs with {y}, which is not defined in the sources")
            if not named[x] - {place}:
                faults.append(f"{place}: {x} pairs with {y}, but {x} is named nowhere else")
        elif not at_access.get(y, set()) - {place}:
            faults.append(f"{place}: {x} pairs with {y}, but no {'other ' if x == y else ''}access carries {y}")
    for label in sorted({x for _, x, _ in pairs} | {y for _, _, y in pairs if re.fullmatch(LABEL, y)}):
        if label not in NAMED.findall(model_text):
            faults.append(f"{label} is not named in tests/model: give it a model, or a line in README.md that says why not")
    if not pairs:
        faults.append("no label found at all: wrong directory?")
    return faults


def self_test():
    good = ("void a(void)\n{\n vgpu_store_release(p, 1); /* S1 pairs with C1 in b(): x */\n}\n"
            "void b(void)\n{\n vgpu_load_acquire(p); /* C1 */\n}\n")
    cases = [
        ("two labelled accesses", good, "S1 C1", 0),
        ("partner's access has no label", good.replace("/* C1 */", ""), "S1 C1", 1),
        ("partner is only named far from any access", good.replace(" /* C1 */", "") + "\n\n\n\n/* C1 */\n", "S1 C1", 1),
        ("label without a model", good, "S1", 1),
        ("a longer word is not the label", good, "S1 C11", 1),
        ("words before the label", good.replace("with C1", "with the guest's C1"), "S1 C1", 0),
        ("words before a label that stands nowhere", good.replace("with C1", "with the guest's C2"), "S1 C1 C2", 1),
        ("a description, and no second access", good.replace("C1 in", "the reader in"), "S1 C1", 1),
        ("a description, and a second access", good.replace("C1 in b()", "the reader").replace("C1", "S1"), "S1", 0),
        ("function partner", "void f(void)\n{\n vgpu_store_release(p, 1); /* J1 pairs with g() */\n}\n"
         "void g(void)\n{\n /* J1 */ x = *p;\n}\n", "J1", 0),
        ("function partner that does not exist", "void f(void)\n{\n vgpu_store_release(p, 1); /* J1 pairs with g() */\n}\n"
         "/* J1 */\n", "J1", 1),
        ("a label paired with itself, both ends", good.replace("S1", "B1").replace("C1", "B1"), "B1", 0),
        ("a label paired with itself, one end", good.replace("S1", "B1").replace("with C1", "with B1")
         .replace("/* C1 */", ""), "B1", 1),
        ("nothing", "int x;\n", "", 1),
    ]
    bad = []
    for what, source, model, want in cases:
        with tempfile.TemporaryDirectory() as root:
            (pathlib.Path(root) / "rings").mkdir()
            (pathlib.Path(root) / "tests/model").mkdir(parents=True)
            (pathlib.Path(root) / "rings/x.c").write_text(source)
            (pathlib.Path(root) / "tests/model/README.md").write_text(model)
            faults = check(*load(pathlib.Path(root)))
        if len(faults) != want:
            bad.append(f"{what}: {len(faults)} faults, expected {want}: {faults}")
    print("\n".join(bad + [f"{len(cases) - len(bad)} passed, {len(bad)} failed"]))
    return 1 if bad else 0


def load(root):
    files = {}
    for room in ROOMS:
        for path in sorted(p for p in (root / room).rglob("*") if p.suffix in (".c", ".h", ".cu")):
            files[str(path.relative_to(root))] = path.read_text()
    models = sorted(p for p in (root / "tests/model").iterdir() if p.suffix in (".pml", ".md"))
    return files, "\n".join(p.read_text() for p in models)


def main():
    if sys.argv[1:] == ["--self-test"]:
        return self_test()
    if len(sys.argv) != 2:
        print(__doc__)
        return 2
    faults = check(*load(pathlib.Path(sys.argv[1])))
    print("\n".join(faults) if faults else "every label has its partner and its model")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
