"""A text classifier by spaCy with thinc's Adam and with pyoptk's: ``python textcat.py``, as JSON.

Texts are paragraphs of the docstrings of packages that are installed with spaCy, classes the
packages; every fifth text is for the test. Both optimizers start from the same weights and see the
same batches, and take turns; thinc steps on one thread, so pyoptk does, too.
"""

import importlib
import inspect
import json
import pkgutil
import random
import sys
import time
import warnings

import spacy
import thinc
from spacy.training import Example
from spacy.util import fix_random_seed, minibatch

import pyoptk

PACKAGES = ("numpy", "spacy", "pip", "")  # the last is the standard library
EACH, EPOCHS, BATCH, ROUNDS = 600, 3, 64, 3
MODELS = {
    "words": {"@architectures": "spacy.TextCatBOW.v3", "exclusive_classes": True, "ngram_size": 1,
              "no_output_layer": False, "length": 262144},
    "words and layers": None,  # spaCy's default: the words and a convolution over their vectors
}  # fmt: skip
OPTIMIZERS = ("Adam.v1", "pyoptk.Adam.v1")


def modules(package):
    if not package:
        yield from sorted(sys.stdlib_module_names - {"antigravity", "this"})
        return
    found = importlib.import_module(package)
    yield from (m.name for m in pkgutil.walk_packages(found.__path__, f"{package}.",
                                                      onerror=lambda name: None))  # fmt: skip


def paragraphs(package):
    """The paragraphs of its docstrings that are 60 to 400 characters of prose, each once."""
    seen = {}
    for name in modules(package):
        if "test" in name or "__main__" in name or name.startswith("_"):
            continue
        try:
            module = importlib.import_module(name)
        except (Exception, SystemExit) as error:  # noqa: BLE001
            print(f"{name} is left out: {error!r}", file=sys.stderr)  # of another system, a script
            continue
        things = [module, *vars(module).values()]
        things += [m for t in things if inspect.isclass(t) for m in vars(t).values()]
        for thing in things:
            owner = getattr(thing, "__module__", None) or name
            if owner.partition(".")[0] == name.partition(".")[0]:
                text = inspect.getdoc(thing) if isinstance(thing.__doc__, str) else ""
                for part in (text or "").split("\n\n"):
                    words = " ".join(part.split())
                    if 60 <= len(words) <= 400 and ">>>" not in words and "---" not in words:
                        seen[words] = None
    found = sorted(seen)
    random.Random(0).shuffle(found)
    return found[:EACH]


def train(texts, tests, model, optimizer):
    """Seconds of the processor in training, and the share of the tests that are right."""
    fix_random_seed(0)
    nlp = spacy.blank("en")
    cat = nlp.add_pipe("textcat", config={"model": model} if model else {})
    for _, label in texts:
        cat.add_label(label)

    def examples(pairs):
        return [
            Example.from_dict(nlp.make_doc(text), {"cats": {k: k == label for k in cat.labels}})
            for text, label in pairs
        ]

    given, asked = examples(texts), examples(tests)
    nlp.initialize(lambda: given[:100])
    step = spacy.registry.resolve({"step": {"@optimizers": optimizer, "learn_rate": 0.001}})["step"]
    order = random.Random(0)
    begin = time.process_time()
    for _ in range(EPOCHS):
        order.shuffle(given)
        for batch in minibatch(given, BATCH):
            nlp.update(batch, sgd=step)
    seconds = time.process_time() - begin
    with nlp.use_params(step.averages):
        docs = nlp.pipe([example.reference.text for example in asked])
        right = sum(
            example.reference.cats[max(doc.cats, key=doc.cats.get)]
            for doc, example in zip(docs, asked, strict=True)
        )
    return seconds, right / len(asked)


def main():
    warnings.simplefilter("ignore")
    pyoptk.set_num_threads(1)
    pairs = [(text, name or "Python") for name in PACKAGES for text in paragraphs(name)]
    random.Random(0).shuffle(pairs)
    tests, texts = pairs[::5], [pair for i, pair in enumerate(pairs) if i % 5]
    found = {}
    for name, model in MODELS.items():
        for _ in range(ROUNDS):
            for optimizer in OPTIMIZERS:
                got = train(texts, tests, model, optimizer)
                found.setdefault(name, {}).setdefault(optimizer, []).append(got)
    counts = {label: sum(k == label for _, k in texts) for label in sorted({k for _, k in pairs})}
    versions = {
        "spacy": spacy.__version__,
        "thinc": thinc.__version__,
        "pyoptk": pyoptk.__version__,
    }
    print(json.dumps({"models": found, "counts": counts, "tests": len(tests), "epochs": EPOCHS,
                      "batch": BATCH, "versions": versions}))  # fmt: skip


if __name__ == "__main__":
    main()
