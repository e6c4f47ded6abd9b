"""What the tests of reports share: runs as they lie on the disk, and what a page consists of."""

import json
import os
import time
from html.parser import HTMLParser
from pathlib import Path

from mnemonics_jax.reports.finished_runs import find_finished_runs

EVIL = "<script>alert(1)<"
NAMES = ("<script>alert(1)</script>", "a$b^{", '"><img src=x onerror=alert(1)>', "dög")


def only(folder):
    return find_finished_runs([folder])[0]


def write_run(folder, *, events=(), settings=None, **summary):
    folder.mkdir(parents=True)
    plain = {
        **{"dataset": "digits", "method": "icarl", "exemplars": "mnemonics", "seed": 0, "average_accuracy": 50.0},
        **{"accuracy": [60.0, 40.0], "accuracy_matrix": [[60.0, None], [30.0, 50.0]], "seen_classes": [5, 10]},
        **{"average_accuracy_exemplar_model": None, "last_accuracy": 40.0, "forgetting": 30.0},
        **{"accuracy_exemplar_model": None, "memory_bytes": 3200, "memory_dtype": "uint8", "backend": "cpu"},
        **{"seconds": 10.0, "compilations": 9},
    }
    (folder / "summary.json").write_text(json.dumps({**plain, **summary}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    if settings is not None:
        (folder / "config.json").write_text(json.dumps({"seed": summary.get("seed", 0), **settings}))


def double(number):
    """A task that lies here because the processes of a report can import this module, but not one of tests."""
    if number == 2:
        raise ValueError("two is not liked")
    return 2 * number, os.environ.get("OMP_NUM_THREADS"), os.getpid()


def tell_and_wait(folder, number):
    """A task that leaves the id of its process in a folder, and does not end before the test does."""
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(300)


class Page(HTMLParser):
    """What a page consists of."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.text, self.open = [], [], []
        self.drawn = []
        """Tags inside of figures."""
        self.source = path.read_text()
        self.feed(self.source)

    def handle_starttag(self, tag, attrs):
        (self.drawn if "svg" in self.open else self.tags).append((tag, dict(attrs)))
        if tag not in ("meta", "link", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]
